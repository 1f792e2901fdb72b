//! Makes samplers, and keeps what their rules are compiled from.
//!
//! A model owns it; an intake thread calls it for each sequence. Which rules a request asks for, and in
//! which order they stand, is decided here and nowhere else.

use std::sync::{Arc, Mutex, PoisonError};

use super::Sampler;
use super::rules::{Ban, Breakers, Dry, Penalties, Rule};
use super::vocabulary::Vocabulary;
use crate::engine::Token;
use crate::protocol::{RequestError, SamplingParams};

/// Lists of strings that DRY was asked for and that are remembered.
const N_BREAKERS: usize = 8;

/// Makes the samplers of one model.
#[derive(Debug)]
pub struct SamplerFactory {
    n_vocab: usize,
    ends: Arc<[Token]>,
    suppressed: Arc<[Token]>,
    /// What DRY was asked for lately to take for the end of a sequence, the last at the end.
    breakers: Mutex<Vec<(Vec<String>, Arc<Breakers>)>>,
}

impl SamplerFactory {
    /// For a vocabulary of `n_vocab` tokens, of which `ends` end an answer and `suppressed` never come.
    pub fn new(n_vocab: usize, ends: Vec<Token>, suppressed: Vec<Token>) -> Self {
        Self {
            n_vocab,
            ends: ends.into(),
            suppressed: suppressed.into(),
            breakers: Mutex::default(),
        }
    }

    /// The tokens that end an answer.
    pub fn ends(&self) -> &[Token] {
        &self.ends
    }

    /// A sampler for a sequence that starts with `prompt`, of the model with this vocabulary.
    ///
    /// # Errors
    /// Where a rule that the request asks for cannot be made.
    pub fn sampler(
        &self,
        vocabulary: &impl Vocabulary,
        params: &SamplingParams,
        prompt: &[Token],
    ) -> Result<Sampler, RequestError> {
        let rules = self.rules(vocabulary, params, prompt)?;
        Ok(Sampler::new(params, rules, self.n_vocab))
    }

    /// Those that the parameters turn on, in the order of llama.cpp's own programs.
    fn rules(
        &self,
        vocabulary: &impl Vocabulary,
        params: &SamplingParams,
        prompt: &[Token],
    ) -> Result<Vec<Box<dyn Rule>>, RequestError> {
        let mut rules: Vec<Box<dyn Rule>> = Vec::new();
        if let Some(penalties) = Penalties::new(params, prompt) {
            rules.push(Box::new(penalties));
        }
        if !params.dry.is_off() {
            let breakers = self.breakers(vocabulary, &params.dry.sequence_breakers);
            rules.push(Box::new(Dry::new(&params.dry, breakers, prompt)));
        }
        let ends = match params.ignore_eos {
            true => Ban::always(&self.ends),
            false => Ban::first(&self.ends, params.min_tokens),
        };
        for ban in ends.into_iter().chain(Ban::always(&self.suppressed)) {
            rules.push(Box::new(ban));
        }
        Ok(rules)
    }

    /// Looks through all of the vocabulary, unless a request named the same strings lately.
    fn breakers(&self, vocabulary: &impl Vocabulary, texts: &[String]) -> Arc<Breakers> {
        let lately = || self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |lately: &mut Vec<(Vec<String>, Arc<Breakers>)>| {
            let place = lately.iter().position(|(known, _)| known == texts)?;
            let found = lately.remove(place);
            let breakers = found.1.clone();
            lately.push(found);
            Some(breakers)
        };
        if let Some(breakers) = known(&mut lately()) {
            return breakers;
        }
        // Without the lock: other requests go on meanwhile.
        let all = (0..self.n_vocab as i32).map(Token);
        let pieces = all.map(|token| (token, vocabulary.text(token)));
        let tokenize = |bytes: &[u8]| vocabulary.tokens(bytes);
        let breakers = Arc::new(Breakers::new(texts, pieces, tokenize));
        let mut lately = lately();
        if let Some(breakers) = known(&mut lately) {
            return breakers;
        }
        if lately.len() == N_BREAKERS {
            lately.remove(0);
        }
        lately.push((texts.to_vec(), breakers.clone()));
        breakers
    }
}
