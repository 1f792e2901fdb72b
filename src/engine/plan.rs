//! What the scheduler hands to the runner for one step, and what the runner hands back.
//!
//! Plain values on the worker thread: no behaviour beyond being looked at.

use std::ops::Range;

use super::ids::{BlockId, SequenceId, SlotId, Token};

/// The work of one step.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// What happens to the cache before the rows run, in this order and whether or not they then do.
    pub cache: Vec<CacheOp>,
    /// At most `n_batch` rows; those of one sequence are adjacent and ascend in `pos`.
    pub rows: Vec<Row>,
}

impl Plan {
    /// Whether there is nothing to do, neither in the cache nor a row to run.
    pub fn is_empty(&self) -> bool {
        self.cache.is_empty() && self.rows.is_empty()
    }
}

/// A change to what slots hold; it costs time in proportion to the cells of the cache. Only `Save` and
/// `Load` copy keys and values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheOp {
    /// `slot` keeps its first `n_tokens` tokens, of which it has at least that many.
    Keep {
        /// Which slot.
        slot: SlotId,
        /// 0 empties it.
        n_tokens: u32,
    },
    /// `to`, which is empty, holds the first `n_tokens` tokens of `from` as well.
    Share {
        /// Who computed them or shares them already.
        from: SlotId,
        /// Who shares them from now on.
        to: SlotId,
        /// At least 1.
        n_tokens: u32,
    },
    /// `block`, in host memory, has the tokens of `slot` from `start` to `end`; the slot keeps them.
    Save {
        /// Who holds them.
        slot: SlotId,
        /// The first of them, counted from 0.
        start: u32,
        /// After the last one.
        end: u32,
        /// Where they go; a new one.
        block: BlockId,
    },
    /// `slot`, which holds the tokens that came before those of `block`, holds these as well.
    Load {
        /// Who holds them from now on.
        slot: SlotId,
        /// Where they come from; it is gone then.
        block: BlockId,
    },
    /// `block` is gone.
    Drop {
        /// Which block.
        block: BlockId,
    },
}

impl CacheOp {
    pub(super) fn keep(slot: SlotId, n_tokens: usize) -> Self {
        let n_tokens = count(n_tokens);
        Self::Keep { slot, n_tokens }
    }

    pub(super) fn share(from: SlotId, to: SlotId, n_tokens: usize) -> Self {
        let n_tokens = count(n_tokens);
        Self::Share { from, to, n_tokens }
    }

    pub(super) fn save(slot: SlotId, block: &Block) -> Self {
        Self::Save {
            slot,
            start: count(block.tokens.start),
            end: count(block.tokens.end),
            block: block.id,
        }
    }
}

/// Tokens of one sequence that lie in host memory together, and which of its tokens they are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Block {
    pub(super) id: BlockId,
    pub(super) tokens: Range<usize>,
}

/// A number of tokens of one sequence.
pub(super) fn count(n: usize) -> u32 {
    u32::try_from(n).expect("the scheduler keeps n_ctx within u32")
}

/// One token to run at one position of one slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Row {
    /// Whose token it is; the runner needs it to find the sampler.
    pub sequence: SequenceId,
    /// Where the token's keys and values go.
    pub slot: SlotId,
    /// The token that runs.
    pub token: Token,
    /// Its position in the sequence, from 0 and without holes.
    pub pos: u32,
    /// Whether a token is sampled after this row; true for a sequence's last known token and for those
    /// drafted to follow it, which come right after it.
    pub output: bool,
}

/// The token that the runner sampled after an output row.
///
/// After the row of a drafted token only where that token is the one sampled before: what follows a
/// wrong guess is of no use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sampled {
    /// The sequence of the output row.
    pub sequence: SequenceId,
    /// The token sampled.
    pub token: Token,
    /// The bytes of the token's text; empty for special tokens, and not always whole characters.
    pub piece: Vec<u8>,
    /// Whether this token ends the generation; its piece is then no part of the text.
    pub end: bool,
}
