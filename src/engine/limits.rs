//! What the scheduler is given: its limits, and sequences to run within them.

use std::time::Duration;

use super::cache::Sharing;
use super::ids::{SequenceId, Token};

/// What the scheduler may use.
///
/// [`Scheduler::new`](super::Scheduler::new) raises zeros to 1, and lowers `n_ctx` to `n_cells` and
/// `n_slots` to `n_batch`: more could never run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sequences that run at the same time.
    pub n_slots: usize,
    /// Slots beyond those, which only keep the tokens of ended sequences.
    pub n_kept: usize,
    /// Cells of the KV cache, over all slots; one cell holds one token.
    pub n_cells: usize,
    /// What sequences may share of the cache.
    pub sharing: Sharing,
    /// Tokens of ended sequences that host memory may hold, beyond the cells; nothing is held there where
    /// the memory of the model cannot be cut.
    pub n_host: usize,
    /// Rows that others run, or are about to, until what an ended sequence held leaves the cache for host
    /// memory. Where each row looks at each cell, that costs as much after so many as there and back.
    pub n_rows_to_park: usize,
    /// Tokens that one sequence may have, prompt and completion together.
    pub n_ctx: usize,
    /// Rows of one step.
    pub n_batch: usize,
    /// Tokens of one draft; 0 drafts nothing.
    pub max_draft: usize,
    /// Rows that drafts fill a step up to, those of all decoding sequences counted.
    pub n_draft_rows: usize,
    /// Sequences that may wait while all slots are taken.
    pub max_queue: usize,
    /// How long a step may take that reads prompts while others decode: the time from one of their
    /// tokens to the next.
    pub target_itl: Duration,
}

/// A sequence to run.
#[derive(Clone, Debug)]
pub struct NewSequence {
    /// Its number; never reused.
    pub id: SequenceId,
    /// The prompt's tokens, at least one and fewer than `n_ctx`.
    pub prompt: Vec<Token>,
    /// Tokens to sample at most; `None`: as many as `n_ctx` has room for.
    pub max_tokens: Option<u32>,
    /// Strings that end the answer; empty ones are ignored.
    pub stop: Vec<String>,
}

/// Why a sequence was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubmitError {
    /// There is nothing to run.
    #[error("the prompt has no tokens: at least 1 is needed")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {n_tokens} tokens: must be fewer than n_ctx = {n_ctx}")]
    PromptTooLong {
        /// The prompt's length.
        n_tokens: usize,
        /// The limit.
        n_ctx: usize,
    },
    /// All slots are spoken for, and as many sequences wait as may.
    #[error("the queue is full: max_queue = {max_queue} sequences wait already")]
    QueueFull {
        /// The limit.
        max_queue: usize,
    },
    /// A sequence of this number is running or waiting.
    #[error("sequence {} exists already: an id must not be reused", id.0)]
    DuplicateId {
        /// The number.
        id: SequenceId,
    },
}
