//! From a row of logits to a token: filters, temperature, chance; or mirostat in their place.
//!
//! Called by the sampler, on any thread. The common filters are computed here, straight from the row; the rest
//! are llama.cpp's, over an array of candidates. Either way comes to the same token.

use std::hash::{BuildHasher, RandomState};

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::data::LlamaTokenData;

use super::candidates::{Candidate, apply_llama};
use super::chance::{self, Random};
use super::filters;
use super::logits::Scanned;
use super::mirostat::MirostatV1;
use crate::engine::Token;
use crate::protocol::{Mirostat, SamplingParams};

/// llama.cpp reads this seed as "draw one yourself".
const LLAMA_RANDOM_SEED: u32 = u32::MAX;

/// How far below the best a logit may lie for typical_p to look at it; `exp` of more is 0, whose
/// logarithm llama.cpp would take.
pub(super) const TYPICAL_DEPTH: f32 = 80.0;

/// Memory to draw in; it grows to one vocabulary at most and stays.
#[derive(Default)]
pub(super) struct Scratch {
    sums: Vec<f64>,
    candidates: Vec<Candidate>,
    pub(super) llama: Vec<LlamaTokenData>,
}

/// Filters and draws for one sequence.
pub(super) struct Draw {
    random: Random,
    pub(super) temperature: f32,
    filters: Filters,
    /// All filters that the parameters turn on, as llama.cpp has them.
    llama: LlamaSampler,
    /// Draws instead of all of the above.
    pub(super) mirostat: Option<MirostatDraw>,
}

pub(super) enum MirostatDraw {
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
    pub(super) fn new(params: &SamplingParams, n_vocab: usize) -> Self {
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

    /// A token of those that the filters leave; `None` where they leave none.
    pub(super) fn token(&mut self, logits: &Scanned, scratch: &mut Scratch) -> Option<Token> {
        let Scratch {
            sums,
            candidates: kept,
            llama: data,
        } = scratch;
        if let Some(mirostat) = &mut self.mirostat {
            return mirostat.token(logits, data);
        }
        let chance = self.random.uniform();
        if self.filters.are_off() {
            return chance::from_all(logits, self.temperature, chance, sums, kept);
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
        chance::from_candidates(kept, self.temperature, chance)
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
pub(super) fn seed32(seed: Option<u64>) -> u32 {
    // The standard library's hash keys come from the operating system.
    let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
    let folded = (seed >> 32) as u32 ^ seed as u32;
    if folded == LLAMA_RANDOM_SEED {
        LLAMA_RANDOM_SEED / 2
    } else {
        folded
    }
}
