//! What the scheduler is given: its limits, and sequences to run within them.

use std::time::Duration;

use super::ids::{Scope, SequenceId, Token};

/// Slots of one engine: llama.cpp's limit on sequences in one context.
pub const MAX_SLOTS: usize = 256;

/// What the memory of the model lets sequences share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sharing {
    /// Nothing: each sequence computes all its tokens.
    #[default]
    None,
    /// All the tokens of a slot or none: the memory cannot be cut back to fewer.
    Whole,
    /// Any beginning.
    Prefix,
}

/// What the scheduler may use.
///
/// [`Scheduler::new`](super::Scheduler::new) raises zeros to 1, and lowers `n_ctx` to `n_cells`,
/// `n_slots` to `n_batch`, and all slots together to [`MAX_SLOTS`]: more could never run.
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
    /// memory. Where each row looks at each cell, that costs as much after this many as the way there and back.
    pub n_rows_to_park: usize,
    /// Tokens that one sequence may have, prompt and completion together.
    pub n_ctx: usize,
    /// Rows of one step.
    pub n_batch: usize,
    /// Tokens of one draft; 0 drafts nothing.
    pub max_draft: usize,
    /// Rows that drafts fill a step up to, those of all decoding sequences counted.
    pub n_draft_rows: usize,
    /// How long a step that reads prompts while others decode may take: the time from one of their
    /// tokens to the next.
    pub target_itl: Duration,
}

impl Default for Limits {
    /// One slot with a small cache, and nothing shared, kept, parked or drafted.
    fn default() -> Self {
        Self {
            n_slots: 1,
            n_kept: 0,
            n_cells: 4096,
            sharing: Sharing::None,
            n_host: 0,
            n_rows_to_park: usize::MAX,
            n_ctx: usize::MAX,
            n_batch: 512,
            max_draft: 0,
            n_draft_rows: 0,
            target_itl: Duration::from_secs(1),
        }
    }
}

/// A sequence to run.
#[derive(Clone, Debug)]
pub struct NewSequence {
    /// Its number; never reused.
    pub id: SequenceId,
    /// Whom it may share the cache with.
    pub scope: Scope,
    /// The prompt's tokens, at least one and fewer than `n_ctx`.
    pub prompt: Vec<Token>,
    /// Tokens to sample at most; `None`: as many as `n_ctx` has room for.
    pub max_tokens: Option<u32>,
    /// Strings that end the answer; empty ones are ignored.
    pub stop: Vec<String>,
}

impl NewSequence {
    /// Runs on the model alone, until the model ends it or there is no more room.
    pub fn new(id: SequenceId, prompt: Vec<Token>) -> Self {
        Self {
            id,
            scope: Scope::default(),
            prompt,
            max_tokens: None,
            stop: Vec::new(),
        }
    }
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
    /// A sequence of this number is running or waiting.
    #[error("sequence {} exists already: an id must not be reused", id.0)]
    DuplicateId {
        /// The number.
        id: SequenceId,
    },
}
