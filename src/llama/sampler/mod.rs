//! From logits to a token: one [`Sampler`] for each sequence, in vLLM's terms.
//!
//! The intake thread makes a sampler for each sequence; the runner calls it once for each of its output
//! rows, on the worker thread or on one of the sampling threads. All comes in the order of llama.cpp's own
//! programs: penalties, DRY, top_k, typical_p, top_p, min_p, XTC, temperature, draw. Mirostat stands in
//! place of the filters and the draw. The common ones are computed here, straight from the row; the rest
//! are llama.cpp's, over an array of candidates. Either way comes to the same token. Nothing
//! here reads a context, the clock or another sequence, so a seed gives the same tokens alone and in any
//! batch, as far as the logits are the same.
//!
//! | file | holds |
//! |---|---|
//! | `logits` | the row, and what is at its top |
//! | `dry` | the penalty for repetitions |
//! | `filters` | top_k, top_p, min_p |
//! | `exp` | exponentials of many logits at a time |
//! | `draw` | chance |
//! | `mirostat` | mirostat's first version |
//! | `threads` | the sampling threads |

mod draw;
mod dry;
mod exp;
mod filters;
mod logits;
mod mirostat;
mod threads;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use self::draw::Random;
pub(super) use self::dry::Breakers;
use self::dry::Dry;
use self::logits::{Blocks, Logits, Scanned};
use self::mirostat::MirostatV1;
pub use self::threads::SamplingThreads;
use crate::engine::Token;
use crate::protocol::{Mirostat, SamplingParams};

/// llama.cpp reads this seed as "draw one yourself".
const LLAMA_RANDOM_SEED: u32 = u32::MAX;

/// How far below the best a logit may lie for typical_p to look at it; `exp` of more is 0, whose
/// logarithm llama.cpp would take.
const TYPICAL_DEPTH: f32 = 80.0;

/// Why no token could be chosen.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SampleError {
    #[error("the model computed a value that is not a number; its file may be damaged")]
    NotANumber,
    #[error("no token is left to choose from: every token is banned or ruled out by the model")]
    NoCandidates,
}

/// Memory that all samplers of a thread share; it grows to one vocabulary at most and stays.
#[derive(Default)]
pub struct Buffers {
    blocks: Blocks,
    sums: Vec<f64>,
    candidates: Vec<Candidate>,
    llama: Vec<LlamaTokenData>,
}

/// A token that may be chosen, and its logit.
#[derive(Clone, Copy)]
struct Candidate {
    token: Token,
    logit: f32,
}

/// Chooses the tokens of one sequence.
pub struct Sampler {
    params: SamplingParams,
    /// `None` is greedy.
    draw: Option<Box<Draw>>,
    dry: Option<Dry>,
    /// The prompt's tokens, each once, in order; kept only where a penalty needs them.
    prompt: Vec<Token>,
    /// How often each token was sampled, kept only where a penalty needs it.
    counts: HashMap<Token, u32>,
    n_sampled: u32,
}

impl Sampler {
    /// A sampler for a sequence that starts with `prompt`.
    pub fn new(params: &SamplingParams, prompt: &[Token], n_vocab: usize) -> Self {
        let mut prompt = match params.repetition_penalty {
            1.0 => Vec::new(),
            _ => prompt.to_vec(),
        };
        prompt.sort_unstable();
        prompt.dedup();
        Self {
            draw: (params.temperature > 0.0).then(|| Box::new(Draw::new(params, n_vocab))),
            dry: None,
            params: params.clone(),
            prompt,
            counts: HashMap::new(),
            n_sampled: 0,
        }
    }

    /// Adds DRY, which needs more of the model than the number of its tokens.
    pub(super) fn with_dry(self, breakers: Arc<Breakers>, prompt: &[Token]) -> Self {
        Self {
            dry: Some(Dry::new(&self.params.dry, breakers, prompt)),
            ..self
        }
    }

    /// Chooses the next token and remembers it.
    ///
    /// `ends` are the tokens that end a generation, banned while the sequence may not end;
    /// `suppressed` are always banned. Tokens outside `logits` are ignored.
    pub fn sample(
        &mut self,
        logits: &[f32],
        ends: &[Token],
        suppressed: &[Token],
        buffers: &mut Buffers,
    ) -> Result<Token, SampleError> {
        let may_end = !self.params.ignore_eos && self.n_sampled >= self.params.min_tokens;
        let ends = if may_end { &[] } else { ends };
        let mut logits = Logits::new(logits, &mut buffers.blocks);
        self.penalise(&mut logits);
        if let Some(dry) = &mut self.dry {
            dry.penalise(&mut logits);
        }
        for token in ends.iter().chain(suppressed) {
            if let Some(logit) = logits.get_mut(*token) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let logits = logits.scan()?;
        let token = match &mut self.draw {
            None => logits.best(),
            Some(draw) => draw
                .token(
                    &logits,
                    &mut buffers.sums,
                    &mut buffers.candidates,
                    &mut buffers.llama,
                )
                .ok_or(SampleError::NoCandidates)?,
        };
        self.n_sampled = self.n_sampled.saturating_add(1);
        if self.penalises() {
            *self.counts.entry(token).or_default() += 1;
        }
        if let Some(dry) = &mut self.dry {
            dry.accept(token);
        }
        Ok(token)
    }

    fn penalises(&self) -> bool {
        let params = &self.params;
        params.repetition_penalty != 1.0
            || params.presence_penalty != 0.0
            || params.frequency_penalty != 0.0
    }

    /// As vLLM: repetition over prompt and output, then frequency and presence over the output.
    ///
    /// llama.cpp's own sampler looks every entry of the vocabulary up in a hash table, once per
    /// token; the tokens that occurred are far fewer.
    fn penalise(&self, logits: &mut Logits) {
        let factor = self.params.repetition_penalty;
        if factor != 1.0 {
            let fresh = self
                .counts
                .keys()
                .filter(|token| self.prompt.binary_search(token).is_err());
            for token in self.prompt.iter().chain(fresh) {
                if let Some(logit) = logits.get_mut(*token) {
                    *logit = if *logit <= 0.0 {
                        *logit * factor
                    } else {
                        *logit / factor
                    };
                }
            }
        }
        for (token, &count) in &self.counts {
            if let Some(logit) = logits.get_mut(*token) {
                *logit -= count as f32 * self.params.frequency_penalty;
                *logit -= self.params.presence_penalty;
            }
        }
    }
}

/// Filters and draws.
struct Draw {
    random: Random,
    temperature: f32,
    filters: Filters,
    /// All filters that the parameters turn on, as llama.cpp has them.
    llama: LlamaSampler,
    /// Draws instead of all of the above.
    mirostat: Option<MirostatDraw>,
}

enum MirostatDraw {
    V1(Box<MirostatV1>),
    /// llama.cpp's, with the temperature.
    V2(LlamaSampler),
}

/// Which filters stand between the row and the draw; each field is off at its neutral value.
#[derive(Clone, Copy)]
struct Filters {
    /// At least the vocabulary is off.
    top_k: usize,
    typical_p: f32,
    top_p: f32,
    min_p: f32,
    xtc_probability: f32,
    xtc_threshold: f32,
}

impl Draw {
    fn new(params: &SamplingParams, n_vocab: usize) -> Self {
        let seed = seed32(params.seed);
        let filters = Filters {
            top_k: match params.top_k as usize {
                k if k > 0 && k < n_vocab => k,
                _ => usize::MAX,
            },
            typical_p: params.typical_p,
            top_p: params.top_p,
            min_p: params.min_p,
            xtc_probability: params.xtc_probability,
            xtc_threshold: params.xtc_threshold,
        };
        Self {
            random: Random::new(seed),
            temperature: params.temperature,
            filters,
            llama: filters.of_llama(seed),
            mirostat: MirostatDraw::new(params, n_vocab, seed),
        }
    }

    fn token(
        &mut self,
        logits: &Scanned,
        sums: &mut Vec<f64>,
        kept: &mut Vec<Candidate>,
        data: &mut Vec<LlamaTokenData>,
    ) -> Option<Token> {
        if let Some(mirostat) = &mut self.mirostat {
            return mirostat.token(logits, data);
        }
        let chance = self.random.uniform();
        if self.filters.are_off() {
            return draw::from_all(logits, self.temperature, chance, sums, kept);
        }
        if !self.filters.apply(logits, kept) {
            let floor = if self.filters.typical_p < 1.0 {
                logits.max() - TYPICAL_DEPTH
            } else {
                f32::MIN
            };
            let array = apply_llama(&mut self.llama, logits.at_least(floor), data);
            kept.clear();
            kept.extend(array.data.iter().map(|data| Candidate {
                token: Token(data.id().0),
                logit: data.logit(),
            }));
            *data = array.data;
        }
        draw::from_candidates(kept, self.temperature, chance)
    }
}

impl Filters {
    fn are_off(&self) -> bool {
        self.top_k == usize::MAX
            && self.typical_p >= 1.0
            && self.top_p >= 1.0
            && self.min_p <= 0.0
            && !self.has_xtc()
    }

    fn has_xtc(&self) -> bool {
        self.xtc_probability > 0.0 && self.xtc_threshold <= 0.5
    }

    /// Leaves in `kept` what llama.cpp's filters would; false if only they can tell.
    fn apply(&self, logits: &Scanned, kept: &mut Vec<Candidate>) -> bool {
        if self.typical_p < 1.0 || self.has_xtc() {
            return false;
        }
        match self.top_k {
            usize::MAX if self.top_p < 1.0 => {
                if !filters::nucleus(logits, self.top_p, kept) {
                    return false;
                }
            }
            usize::MAX => {
                filters::min_p_of_all(logits, self.min_p, kept);
                return true;
            }
            k if k <= filters::MAX_TOP_K => {
                filters::top_k(logits, k, kept);
                if self.top_p < 1.0 {
                    filters::top_p(kept, self.top_p);
                }
            }
            _ => return false,
        }
        if self.min_p > 0.0 {
            filters::min_p(kept, self.min_p);
        }
        true
    }

    fn of_llama(&self, seed: u32) -> LlamaSampler {
        const MIN_KEEP: usize = 1;
        let mut samplers = Vec::with_capacity(5);
        if self.top_k != usize::MAX {
            samplers.push(LlamaSampler::top_k(self.top_k.min(i32::MAX as usize) as i32));
        }
        if self.typical_p < 1.0 {
            samplers.push(LlamaSampler::typical(self.typical_p, MIN_KEEP));
        }
        if self.top_p < 1.0 {
            samplers.push(LlamaSampler::top_p(self.top_p, MIN_KEEP));
        }
        if self.min_p > 0.0 {
            samplers.push(LlamaSampler::min_p(self.min_p, MIN_KEEP));
        }
        if self.has_xtc() {
            let (probability, threshold) = (self.xtc_probability, self.xtc_threshold);
            samplers.push(LlamaSampler::xtc(probability, threshold, MIN_KEEP, seed));
        }
        LlamaSampler::chain(samplers, true)
    }
}

impl MirostatDraw {
    fn new(params: &SamplingParams, n_vocab: usize, seed: u32) -> Option<Self> {
        match params.mirostat {
            Mirostat::Off => None,
            Mirostat::V1 => {
                let own = MirostatV1::new(params, n_vocab, seed);
                Some(Self::V1(Box::new(own)))
            }
            Mirostat::V2 => {
                let temperature = LlamaSampler::temp(params.temperature);
                let (tau, eta) = (params.mirostat_tau, params.mirostat_eta);
                let draw = LlamaSampler::mirostat_v2(seed, tau, eta);
                Some(Self::V2(LlamaSampler::chain([temperature, draw], true)))
            }
        }
    }

    fn token(&mut self, logits: &Scanned, data: &mut Vec<LlamaTokenData>) -> Option<Token> {
        let llama = match self {
            Self::V1(own) => return own.token(logits, data),
            Self::V2(llama) => llama,
        };
        let array = apply_llama(llama, logits.at_least(f32::MIN), data);
        let token = array.selected_token().map(|token| Token(token.0));
        *data = array.data;
        token
    }
}

/// llama.cpp's seeds have 32 bits; the common small ones stay what they are.
fn seed32(seed: Option<u64>) -> u32 {
    // The standard library's hash keys come from the operating system.
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    let folded = (seed >> 32) as u32 ^ seed as u32;
    if folded == LLAMA_RANDOM_SEED {
        LLAMA_RANDOM_SEED / 2
    } else {
        folded
    }
}

/// What llama.cpp's sampler leaves of the candidates, in memory that is taken from `data`.
fn apply_llama(
    sampler: &mut LlamaSampler,
    candidates: impl Iterator<Item = Candidate>,
    data: &mut Vec<LlamaTokenData>,
) -> LlamaTokenDataArray {
    let mut array = LlamaTokenDataArray::new(std::mem::take(data), false);
    array.data.clear();
    array
        .data
        .extend(candidates.map(|c| LlamaTokenData::new(LlamaToken(c.token.0), c.logit, 0.0)));
    if !array.data.is_empty() {
        array.apply_sampler(sampler);
    }
    array
}
