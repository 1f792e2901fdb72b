//! What passes between a trial's parent and its child: the trial, as an argument, and lines of output.
//!
//! Plain values; both sides are the same library.

use std::collections::BTreeSet;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::llama::context::ContextParams;

/// The argument that a trial follows.
pub(super) const ARGUMENT: &str = "--trial";
/// What the child says: at the beginning of each stage, and at the end.
pub(super) const STAGE: &str = "stage ";
pub(super) const PASSED: &str = "passed";
pub(super) const REFUSED: &str = "refused";

/// What a trial runs, as the child is told it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Trial {
    pub(super) subject: Subject,
    /// Copy weights into a form that is multiplied faster, where llama.cpp has one.
    pub(super) repack: bool,
    pub(super) context: ContextParams,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Subject {
    /// The code that this processor is given.
    Code {
        /// ggml's numbers of the kinds of weights.
        kinds: BTreeSet<u32>,
        has_experts: bool,
    },
    /// A model's own file.
    File {
        path: PathBuf,
        /// Load the vocabulary only: the weights fill more than half of the memory that is free.
        vocab_only: bool,
    },
}
