//! What can be wrong with a model file, in words for whoever put it there.
//!
//! Plain values, made by the other files of this module.

use std::io;
use std::path::PathBuf;

use super::vocabulary::VocabularyProblem;

/// What is wrong with a model file.
#[derive(Debug, thiserror::Error)]
#[error("model file '{}': {problem}", file.display())]
pub struct GgufError {
    pub file: PathBuf,
    pub problem: Problem,
}

/// One fault of a model file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("cannot be read: {0}")]
    Io(io::Error),
    #[error("is not a regular file")]
    NotAFile,
    #[error("is empty")]
    Empty,
    #[error("starts with {found:?}, not with \"GGUF\"")]
    Magic { found: String },
    #[error("is of GGUF version {found}, versions 2 and 3 can be read")]
    Version { found: u32 },
    #[error("ends too early: {what} at byte {offset} needs {n_bytes} bytes, {n_left} are left")]
    Truncated {
        what: String,
        offset: u64,
        n_bytes: u64,
        n_left: u64,
    },
    #[error("{what} = {found}, the limit is {limit}")]
    TooMany {
        what: String,
        found: u64,
        limit: u64,
    },
    #[error("{what} = {found}: must be {expected}")]
    Value {
        what: String,
        found: String,
        expected: String,
    },
    #[error("key '{key}' occurs twice")]
    DuplicateKey { key: String },
    #[error("has no key '{key}'")]
    MissingKey { key: String },
    #[error("is shard {found} of a split model: give the first one, '{first}'")]
    NotFirstShard { found: u64, first: String },
    #[error("is one of {n_shards} shards, so its name must end in '{suffix}'")]
    ShardName { n_shards: u64, suffix: String },
    #[error("shard {number} of {n_shards} is missing: '{}'", path.display())]
    MissingShard {
        number: u64,
        n_shards: u64,
        path: PathBuf,
    },
    #[error("architecture '{0}' does not generate text")]
    NotGenerative(String),
    #[error(transparent)]
    Vocabulary(VocabularyProblem),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// A value that is not what it must be.
pub(super) fn value(what: &str, found: impl ToString, expected: impl Into<String>) -> Problem {
    Problem::Value {
        what: what.to_owned(),
        found: found.to_string(),
        expected: expected.into(),
    }
}
