//! A template that is written anew: the text so far, and what it calls.
//!
//! Filled by `rewrite` and `expressions`, once at load.

use std::collections::{BTreeSet, HashMap};

/// Bytes that the text may grow to.
const MAX_BYTES: usize = 8 << 20;

/// What is written, and why it cannot be.
pub(super) struct Rewriter {
    pub(super) out: String,
    pub(super) line: usize,
    pub(super) problem: Option<String>,
    /// The template as it was.
    pub(super) source: String,
    pub(super) macros: HashMap<String, Lenient>,
    pub(super) names: Names,
}

/// What a template calls by name, in whatever branch.
#[derive(Default)]
pub(super) struct Names {
    pub(super) filters: BTreeSet<String>,
    pub(super) tests: BTreeSet<String>,
}

/// A macro that looks at arguments which are none of its parameters.
#[derive(Clone, Default)]
pub(super) struct Lenient {
    pub(super) parameters: Vec<String>,
    pub(super) is_lenient: bool,
}

impl Rewriter {
    pub(super) fn put(&mut self, text: &str) {
        if self.out.len() + text.len() > MAX_BYTES {
            self.refuse(format!(
                "it is too large, more than {MAX_BYTES} bytes written out"
            ));
        } else {
            self.out.push_str(text);
        }
    }

    pub(super) fn refuse(&mut self, problem: String) {
        self.problem.get_or_insert(problem);
    }
}
