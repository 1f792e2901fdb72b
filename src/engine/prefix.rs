//! What sequences share: the beginnings of their tokens, each within its scope.
//!
//! Plain values on the worker thread, between scheduler, cache and prefix tree.

use super::ids::{Scope, Token};

/// Tokens of a sequence from its first on, and the scope that they were, or will be, computed in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Prefix<'a> {
    pub(super) scope: Scope,
    pub(super) tokens: &'a [Token],
}

impl Prefix<'_> {
    /// All but the last token, which is computed whatever others have; `None` where there is none.
    pub(super) fn shareable(self) -> Option<Self> {
        let (_, tokens) = self.tokens.split_last()?;
        Some(Self { tokens, ..self })
    }

    /// What is left without the first `n_tokens` tokens.
    pub(super) fn after(self, n_tokens: usize) -> Self {
        let tokens = &self.tokens[n_tokens..];
        Self { tokens, ..self }
    }

    /// How many tokens two have in common, from the first: none where their scopes differ.
    pub(super) fn n_common(self, other: Prefix) -> usize {
        match self.scope == other.scope {
            true => n_common(self.tokens, other.tokens),
            false => 0,
        }
    }
}

/// How many tokens two lists of one scope have in common, from the first.
pub(super) fn n_common(a: &[Token], b: &[Token]) -> usize {
    let same = a.iter().zip(b).take_while(|(a, b)| a == b);
    same.count()
}
