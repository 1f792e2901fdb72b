//! What the scheduler hands to the runner for one step, and what the runner hands back.
//!
//! Plain values on the worker thread: no behaviour beyond being looked at.

use super::ids::{SequenceId, SlotId, Token};

/// The work of one step.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Slots whose KV is dropped before the rows run, ascending. A row may use such a slot.
    pub evict: Vec<SlotId>,
    /// At most `n_batch` rows; those of one sequence are adjacent and ascend in `pos`.
    pub rows: Vec<Row>,
}

impl Plan {
    /// Whether there is nothing to do: neither a slot to drop nor a row to run.
    pub fn is_empty(&self) -> bool {
        self.evict.is_empty() && self.rows.is_empty()
    }
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
    /// Whether a token is sampled after this row; true for a sequence's last known token only.
    pub output: bool,
}

/// The token that the runner sampled after an output row.
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
