//! Tokens that may not come: what ends an answer that may not end yet, and what a model must never say.

use std::sync::Arc;

use super::Rule;
use crate::engine::Token;
use crate::llama::sampler::logits::Logits;

/// Some tokens that may not come, for a while or at all.
pub(in crate::llama::sampler) struct Ban {
    tokens: Arc<[Token]>,
    /// Tokens of the answer until these may come; `None` is all of it.
    n_left: Option<u32>,
}

impl Ban {
    /// For all of the answer; `None` where there are no such tokens.
    pub(in crate::llama::sampler) fn always(tokens: &Arc<[Token]>) -> Option<Self> {
        Self::new(tokens, None)
    }

    /// For the first `n_tokens` of the answer; `None` where nothing is banned.
    pub(in crate::llama::sampler) fn first(tokens: &Arc<[Token]>, n_tokens: u32) -> Option<Self> {
        Self::new(tokens, Some(n_tokens))
    }

    fn new(tokens: &Arc<[Token]>, n_left: Option<u32>) -> Option<Self> {
        let bans = !tokens.is_empty() && n_left != Some(0);
        bans.then(|| Self {
            tokens: Arc::clone(tokens),
            n_left,
        })
    }
}

impl Rule for Ban {
    fn adjust(&mut self, logits: &mut Logits) {
        if self.n_left == Some(0) {
            return;
        }
        for &token in &*self.tokens {
            if let Some(logit) = logits.get_mut(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }

    fn accept(&mut self, _: Token) {
        self.n_left = self.n_left.map(|n_left| n_left.saturating_sub(1));
    }
}
