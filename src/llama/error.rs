//! Why llama.cpp cannot do what it is asked, in words for whoever asked.
//!
//! Plain values, made by the other files of this module on any thread. What is wrong with a model file or a
//! template is said in their own rooms.

use std::path::PathBuf;

use super::gguf::GgufError;
use crate::engine::{CacheOp, SequenceId};

/// Why llama.cpp cannot be used: it is built in modules, and none of them is for this CPU.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no module for this machine's CPU in {}", .0.display())]
pub struct NoModule(pub PathBuf);

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error(transparent)]
    NoModule(#[from] NoModule),
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("model file '{}': the path must be UTF-8 without NUL characters", .0.display())]
    Path(PathBuf),
    #[error("model file '{}': holds a vocabulary but no weights", .0.display())]
    NoWeights(PathBuf),
    #[error("model file '{}': llama.cpp cannot load it: {reason}", file.display())]
    Llama { file: PathBuf, reason: String },
    #[error(
        "model file '{}': reading it, as 'use_mmap' is false, needs {needed} bytes: {available} bytes of \
         memory are available",
        file.display()
    )]
    Memory {
        file: PathBuf,
        needed: u64,
        available: u64,
    },
    #[error("model file '{}': what is mapped of it cannot be found out: {source}", file.display())]
    Maps {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("llama.cpp has no device '{0}'")]
    Device(String),
    #[error("llama.cpp has no buffer type '{0}'")]
    Buffer(String),
    #[error("a pattern of tensor names holds a NUL character")]
    Pattern,
    #[error("model file '{}': {what} cannot be used for generating text", file.display())]
    Unusable { file: PathBuf, what: &'static str },
}

/// Why a text cannot be turned into tokens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenizeError {
    #[error("the prompt has {n_bytes} bytes, the limit is {limit}")]
    TooLong { n_bytes: usize, limit: usize },
    #[error(
        "the prompt has more than {limit} characters without white space between them \
         (at byte {offset}), which this model's tokenizer cannot split"
    )]
    LongRun { offset: usize, limit: usize },
    #[error(
        "the prompt holds text that this model's vocabulary has no token for: \
         token {index} of it would be {id}, must be between 0 and {max_id}"
    )]
    NoToken {
        index: usize,
        id: i32,
        max_id: usize,
    },
}

/// Why there are no threads to compute with.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoThreads {
    #[error("no thread can be started to make {n_threads} threads for computing: {reason}")]
    Start { n_threads: u32, reason: String },
    #[error("llama.cpp's module for this CPU makes no threads")]
    Module,
}

/// Why a context cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ContextError {
    #[error("{name} = {value}: must be between {min} and {max}")]
    OutOfRange {
        name: &'static str,
        value: usize,
        min: usize,
        max: usize,
    },
    #[error("llama.cpp cannot make a context of {n_cells} cells: {reason}")]
    Llama { n_cells: usize, reason: String },
    #[error(transparent)]
    Threads(#[from] NoThreads),
    #[error("the first step failed: {0}")]
    WarmUp(RunError),
}

/// Why a plan did not run; what its rows' slots hold is lost, and they must be emptied.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RunError {
    #[error("row {row} of the plan: {problem}")]
    Row { row: usize, problem: RowProblem },
    #[error("the plan has {found} {what}, the limit is {limit}")]
    TooMany {
        what: &'static str,
        found: usize,
        limit: usize,
    },
    #[error("{op:?} cannot be done: {problem}")]
    Cache { op: CacheOp, problem: &'static str },
    #[error("the model file was overwritten, and its weights are lost: load the model again")]
    Lost,
    #[error("llama.cpp failed to decode {n_rows} rows: code {code} ({meaning})")]
    Decode {
        code: i32,
        n_rows: usize,
        meaning: &'static str,
    },
}

/// What is wrong with a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RowProblem {
    #[error("token {token} is not in the vocabulary of {n_vocab}")]
    Token { token: i32, n_vocab: usize },
    #[error("slot {slot} does not exist, the slots are 0 to {max}")]
    Slot { slot: u16, max: usize },
    #[error("position {found} of slot {slot}, which goes on at {expected}")]
    Position {
        slot: u16,
        found: u32,
        expected: u32,
    },
    #[error("slot {slot} was lost in a failed step and has not been emptied")]
    Lost { slot: u16 },
    #[error("sequence {} is not open", .sequence.0)]
    NotOpen { sequence: SequenceId },
}

/// Why no token could be chosen.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SampleError {
    #[error("the model computed a value that is not a number; its file may be damaged")]
    NotANumber,
    #[error("no token is left to choose from: every token is banned or ruled out by the model")]
    NoCandidates,
}

/// Why a model cannot draft for another.
#[derive(Debug, thiserror::Error)]
pub enum DraftModelError {
    #[error(transparent)]
    Context(#[from] ContextError),
    #[error("it has {found} tokens, the model that it is to draft for {expected}")]
    VocabularySize { found: usize, expected: usize },
    #[error(
        "its token {token} is {found:?}, that of the model that it is to draft for {expected:?}"
    )]
    Vocabulary {
        token: usize,
        found: String,
        expected: String,
    },
    #[error("the memory of this architecture cannot be cut, as drafts need")]
    Uncut,
}
