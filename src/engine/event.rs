//! What the scheduler reports about sequences; the worker thread hands each event to its request.

use super::ids::{SequenceId, Token};

/// What one step did to one sequence.
///
/// A step that only reads more of a prompt has no event but the sequence's first. A sequence that is
/// cancelled or fails gets no further event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Whose event it is.
    pub sequence: SequenceId,
    /// Whether its first rows ran in this step; true once, not repeated after a preemption.
    pub started: bool,
    /// The tokens chosen, in their order: several where a draft was right, none while its prompt is
    /// read.
    pub chosen: Vec<Chosen>,
    /// Set where the answer is complete; the scheduler has forgotten the sequence then.
    pub end: Option<Ended>,
}

/// A token that was chosen, and the text that became complete with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chosen {
    /// The token; the one that ends the generation, too.
    pub token: Token,
    /// What follows the text of the tokens before it: whole characters, often none. A character that
    /// is cut short or what may become a stop string comes with a later token.
    pub text: String,
}

/// The end of a sequence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// Why it ended.
    pub reason: FinishReason,
    /// What it cost.
    pub usage: Usage,
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
