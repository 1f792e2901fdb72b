//! The penalties of vLLM: repetition over prompt and answer, frequency and presence over the answer.
//!
//! llama.cpp's own sampler looks every entry of the vocabulary up in a hash table, once per token; the
//! tokens that occurred are far fewer.

use std::collections::HashMap;

use super::Rule;
use crate::engine::Token;
use crate::llama::sampler::logits::Logits;
use crate::protocol::SamplingParams;

/// All three for one sequence.
pub(in crate::llama::sampler) struct Penalties {
    repetition: f32,
    frequency: f32,
    presence: f32,
    /// The prompt's tokens, each once, in order; kept only where repetition is penalised.
    prompt: Vec<Token>,
    /// How often each token was chosen.
    counts: HashMap<Token, u32>,
}

impl Penalties {
    /// `None` where all are off.
    pub(in crate::llama::sampler) fn new(
        params: &SamplingParams,
        prompt: &[Token],
    ) -> Option<Self> {
        let is_on = params.repetition_penalty != 1.0
            || params.presence_penalty != 0.0
            || params.frequency_penalty != 0.0;
        if !is_on {
            return None;
        }
        let mut prompt = match params.repetition_penalty {
            1.0 => Vec::new(),
            _ => prompt.to_vec(),
        };
        prompt.sort_unstable();
        prompt.dedup();
        Some(Self {
            repetition: params.repetition_penalty,
            frequency: params.frequency_penalty,
            presence: params.presence_penalty,
            prompt,
            counts: HashMap::new(),
        })
    }
}

impl Rule for Penalties {
    fn adjust(&mut self, logits: &mut Logits) {
        if self.repetition != 1.0 {
            let fresh = self
                .counts
                .keys()
                .filter(|token| self.prompt.binary_search(token).is_err());
            for token in self.prompt.iter().chain(fresh) {
                if let Some(logit) = logits.get_mut(*token) {
                    *logit = if *logit <= 0.0 {
                        *logit * self.repetition
                    } else {
                        *logit / self.repetition
                    };
                }
            }
        }
        for (token, &count) in &self.counts {
            if let Some(logit) = logits.get_mut(*token) {
                *logit -= count as f32 * self.frequency;
                *logit -= self.presence;
            }
        }
    }

    fn accept(&mut self, token: Token) {
        *self.counts.entry(token).or_default() += 1;
    }
}
