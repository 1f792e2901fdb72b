//! What the scheduler reports about sequences; the worker thread hands each event to its request.

use super::ids::SequenceId;

/// Something that happened to one sequence.
///
/// A sequence's events come in this order: one `Started`, any number of `Text`, one `Finished`.
/// A sequence that is cancelled or fails gets no further event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// The first rows of the sequence have run; not repeated after a preemption.
    Started {
        /// Whose event it is.
        sequence: SequenceId,
    },
    /// More of the answer: whole characters, never empty.
    Text {
        /// Whose event it is.
        sequence: SequenceId,
        /// The text that follows what earlier events carried.
        text: String,
    },
    /// The answer is complete and the scheduler has forgotten the sequence.
    Finished {
        /// Whose event it is.
        sequence: SequenceId,
        /// Why it ended.
        reason: FinishReason,
        /// What it cost.
        usage: Usage,
    },
}

/// Why a sequence ended, in OpenAI's words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FinishReason {
    /// An end-of-generation token or a stop string.
    Stop,
    /// `max_tokens` or the context length.
    Length,
}

impl FinishReason {
    /// The word that clients see.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// Tokens of one sequence, counted as OpenAI and vLLM do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens sampled, with the one that ended the generation.
    pub completion_tokens: u32,
    /// Tokens of the prompt that were not computed for it: their keys and values were in the cache
    /// when its first rows ran.
    pub cached_tokens: u32,
}
