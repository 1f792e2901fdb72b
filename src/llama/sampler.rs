//! From logits to a token: one [`Sampler`] for each sequence, in vLLM's terms.
//!
//! The runner, on the worker thread, makes a sampler when a sequence opens and calls it once for
//! each of its output rows. Penalties are applied here, to the tokens that occurred only, and the
//! filters and the draw are llama.cpp's, in the order of its own programs: top_k, typical_p, top_p,
//! min_p, temperature, draw. Nothing here reads a context, the clock or another sequence, so a seed
//! gives the same tokens alone and in any batch, as far as the logits are the same.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use crate::engine::Token;
use crate::protocol::SamplingParams;

/// llama.cpp reads this seed as "draw one yourself".
const LLAMA_RANDOM_SEED: u32 = u32::MAX;

/// How far below the best a logit may lie for typical_p to look at it; `exp` of more is 0, whose
/// logarithm llama.cpp would take.
const TYPICAL_DEPTH: f32 = 80.0;

/// Lanes of the search for the highest logit: enough for any vector unit.
const N_LANES: usize = 16;

/// Why no token could be chosen.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SampleError {
    #[error("the model computed a value that is not a number; its file may be damaged")]
    NotANumber,
    #[error("no token is left to choose from: every token is banned or ruled out by the model")]
    NoCandidates,
}

/// Memory that all samplers of a runner share; it grows to one vocabulary and stays.
#[derive(Default)]
pub struct Buffers {
    logits: Vec<f32>,
    candidates: Vec<LlamaTokenData>,
}

/// Chooses the tokens of one sequence.
pub struct Sampler {
    params: SamplingParams,
    /// `None` is greedy.
    chain: Option<LlamaSampler>,
    /// The prompt's tokens, kept only where a penalty needs them.
    prompt: HashSet<Token>,
    /// How often each token was sampled, kept only where a penalty needs it.
    counts: HashMap<Token, u32>,
    n_sampled: u32,
}

impl Sampler {
    /// A sampler for a sequence that starts with `prompt`.
    pub fn new(params: &SamplingParams, prompt: &[Token], n_vocab: usize) -> Self {
        let prompt = if params.repetition_penalty == 1.0 {
            HashSet::new()
        } else {
            prompt.iter().copied().collect()
        };
        Self {
            chain: (params.temperature > 0.0).then(|| chain(params, n_vocab)),
            params: params.clone(),
            prompt,
            counts: HashMap::new(),
            n_sampled: 0,
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
        let logits = if ends.is_empty() && suppressed.is_empty() && !self.penalises() {
            logits
        } else {
            buffers.logits.clear();
            buffers.logits.extend_from_slice(logits);
            self.penalise(&mut buffers.logits);
            for token in ends.iter().chain(suppressed) {
                if let Some(logit) = at(&mut buffers.logits, *token) {
                    *logit = f32::NEG_INFINITY;
                }
            }
            &buffers.logits
        };
        let (best, max) = highest(logits)?;
        let token = match &mut self.chain {
            None => best,
            Some(chain) => {
                let floor = if self.params.typical_p < 1.0 {
                    max - TYPICAL_DEPTH
                } else {
                    f32::MIN
                };
                draw(chain, logits, floor, &mut buffers.candidates)?
            }
        };
        self.n_sampled = self.n_sampled.saturating_add(1);
        if self.penalises() {
            *self.counts.entry(token).or_default() += 1;
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
    fn penalise(&self, logits: &mut [f32]) {
        let factor = self.params.repetition_penalty;
        if factor != 1.0 {
            let fresh = self
                .counts
                .keys()
                .filter(|token| !self.prompt.contains(token));
            for token in self.prompt.iter().chain(fresh) {
                if let Some(logit) = at(logits, *token) {
                    *logit = if *logit <= 0.0 {
                        *logit * factor
                    } else {
                        *logit / factor
                    };
                }
            }
        }
        for (token, &count) in &self.counts {
            if let Some(logit) = at(logits, *token) {
                *logit -= count as f32 * self.params.frequency_penalty;
                *logit -= self.params.presence_penalty;
            }
        }
    }
}

/// llama.cpp's filters that the parameters turn on, and its draw.
fn chain(params: &SamplingParams, n_vocab: usize) -> LlamaSampler {
    const MIN_KEEP: usize = 1;
    let mut samplers = Vec::with_capacity(6);
    if params.top_k > 0 && (params.top_k as usize) < n_vocab {
        samplers.push(LlamaSampler::top_k(params.top_k.min(i32::MAX as u32) as i32));
    }
    if params.typical_p < 1.0 {
        samplers.push(LlamaSampler::typical(params.typical_p, MIN_KEEP));
    }
    if params.top_p < 1.0 {
        samplers.push(LlamaSampler::top_p(params.top_p, MIN_KEEP));
    }
    if params.min_p > 0.0 {
        samplers.push(LlamaSampler::min_p(params.min_p, MIN_KEEP));
    }
    if params.temperature != 1.0 {
        samplers.push(LlamaSampler::temp(params.temperature));
    }
    samplers.push(LlamaSampler::dist(seed32(params.seed)));
    LlamaSampler::chain(samplers, true)
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

/// Runs the chain over every logit above `floor`.
fn draw(
    chain: &mut LlamaSampler,
    logits: &[f32],
    floor: f32,
    candidates: &mut Vec<LlamaTokenData>,
) -> Result<Token, SampleError> {
    let mut data = std::mem::take(candidates);
    data.clear();
    data.extend(
        (0..)
            .zip(logits)
            .filter(|(_, logit)| **logit >= floor)
            .map(|(id, logit)| LlamaTokenData::new(LlamaToken(id), *logit, 0.0)),
    );
    let mut array = LlamaTokenDataArray::new(data, false);
    if !array.data.is_empty() {
        array.apply_sampler(chain);
    }
    let chosen = array.selected_token();
    *candidates = array.data;
    chosen
        .map(|token| Token(token.0))
        .ok_or(SampleError::NoCandidates)
}

fn at(logits: &mut [f32], token: Token) -> Option<&mut f32> {
    logits.get_mut(usize::try_from(token.0).ok()?)
}

/// The token with the highest logit, the lowest of several, and that logit.
fn highest(logits: &[f32]) -> Result<(Token, f32), SampleError> {
    let mut max = [f32::NEG_INFINITY; N_LANES];
    let mut bad = [false; N_LANES];
    let mut chunks = logits.chunks_exact(N_LANES);
    for chunk in &mut chunks {
        for lane in 0..N_LANES {
            let logit = chunk[lane];
            max[lane] = if logit > max[lane] { logit } else { max[lane] };
            bad[lane] |= logit.is_nan();
        }
    }
    let rest = chunks.remainder();
    if bad.contains(&true) || rest.iter().any(|logit| logit.is_nan()) {
        return Err(SampleError::NotANumber);
    }
    let max = max
        .iter()
        .chain(rest)
        .copied()
        .fold(f32::NEG_INFINITY, f32::max);
    if max == f32::INFINITY {
        return Err(SampleError::NotANumber);
    }
    if max == f32::NEG_INFINITY {
        return Err(SampleError::NoCandidates);
    }
    let index = logits.iter().position(|&logit| logit == max);
    let index = index.expect("the maximum is one of the logits");
    Ok((Token(index as i32), max))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [1.0, 3.0, 2.0, -1.0, 3.0, 0.5];

    fn params(change: impl FnOnce(&mut SamplingParams)) -> SamplingParams {
        let mut params = SamplingParams::default();
        change(&mut params);
        params
    }

    fn sampler(params: &SamplingParams, prompt: &[i32]) -> Sampler {
        let prompt: Vec<_> = prompt.iter().copied().map(Token).collect();
        Sampler::new(params, &prompt, LOGITS.len())
    }

    fn tokens(sampler: &mut Sampler, ends: &[Token], n: usize) -> Vec<i32> {
        let mut buffers = Buffers::default();
        let sample = |_| {
            sampler
                .sample(&LOGITS, ends, &[], &mut buffers)
                .map(|token| token.0)
        };
        (0..n)
            .map(sample)
            .collect::<Result<_, _>>()
            .expect("the logits are good")
    }

    #[test]
    fn greedy_takes_the_lowest_of_the_highest_and_obeys_penalties_and_bans() {
        type Change = fn(&mut SamplingParams);
        let cases: [(Change, &[i32], &[i32]); 6] = [
            (|_| {}, &[], &[1, 1, 1, 1]),
            (|p| p.presence_penalty = 0.4, &[], &[1, 4, 1, 1]),
            (|p| p.frequency_penalty = 0.6, &[], &[1, 4, 1, 4]),
            // Only the prompt's tokens are penalised from the start, and only by repetition.
            (|p| p.repetition_penalty = 2.0, &[1, 4], &[2, 1, 1, 1]),
            (|p| p.presence_penalty = 2.0, &[1, 4], &[1, 4, 2, 0]),
            (|p| p.repetition_penalty = 0.5, &[3], &[1, 1, 1, 1]),
        ];
        for (index, (change, prompt, expected)) in cases.into_iter().enumerate() {
            let mut params = params(change);
            params.temperature = 0.0;
            let got = tokens(&mut sampler(&params, prompt), &[], 4);
            assert_eq!(got, expected, "case {index}");
        }
        let ends = [Token(1), Token(4), Token(99)];
        let banned = params(|p| (p.temperature, p.ignore_eos) = (0.0, true));
        assert_eq!(tokens(&mut sampler(&banned, &[]), &ends, 2), [2, 2]);
        let late = params(|p| (p.temperature, p.min_tokens) = (0.0, 2));
        assert_eq!(tokens(&mut sampler(&late, &[]), &ends, 3), [2, 2, 1]);
    }

    #[test]
    fn bad_logits_are_errors() {
        use SampleError::{NoCandidates, NotANumber};
        for temperature in [0.0, 1.0] {
            let params = params(|p| p.temperature = temperature);
            for (logits, expected) in [
                (vec![f32::NAN; 6], NotANumber),
                (vec![1.0, f32::NAN, 2.0], NotANumber),
                (vec![1.0, f32::INFINITY], NotANumber),
                (vec![f32::NEG_INFINITY; 40], NoCandidates),
                (Vec::new(), NoCandidates),
            ] {
                let mut sampler = sampler(&params, &[]);
                let got = sampler.sample(&logits, &[], &[], &mut Buffers::default());
                assert_eq!(got, Err(expected), "{logits:?}");
            }
            let mut sampler = sampler(&params, &[]);
            let all: Vec<_> = (0..6).map(Token).collect();
            let got = sampler.sample(&LOGITS, &[], &all, &mut Buffers::default());
            assert_eq!(got, Err(NoCandidates));
        }
    }

    /// How often each token comes in `n` draws.
    fn frequencies(params: &SamplingParams, n: usize) -> [f32; 6] {
        let mut counts = [0.0; 6];
        let mut sampler = sampler(params, &[]);
        for token in tokens(&mut sampler, &[], n) {
            counts[token as usize] += 1.0 / n as f32;
        }
        counts
    }

    /// The softmax of the logits at a temperature over the tokens that `keep` names.
    fn softmax(temperature: f32, keep: &[usize]) -> [f32; 6] {
        let weight = |i: usize| (LOGITS[i] / temperature).exp();
        let sum: f32 = keep.iter().copied().map(weight).sum();
        std::array::from_fn(|i| {
            if keep.contains(&i) {
                weight(i) / sum
            } else {
                0.0
            }
        })
    }

    #[test]
    fn draws_follow_the_distribution() {
        type Change = fn(&mut SamplingParams);
        let cases: [(Change, f32, &[usize]); 8] = [
            (|_| {}, 1.0, &[0, 1, 2, 3, 4, 5]),
            (|p| p.temperature = 2.0, 2.0, &[0, 1, 2, 3, 4, 5]),
            (|p| p.temperature = 0.3, 0.3, &[0, 1, 2, 3, 4, 5]),
            (|p| p.top_k = 3, 1.0, &[1, 2, 4]),
            (|p| p.top_k = u32::MAX, 1.0, &[0, 1, 2, 3, 4, 5]),
            (|p| p.top_p = 0.7, 1.0, &[1, 4]),
            (|p| p.min_p = 0.3, 1.0, &[1, 2, 4]),
            (|p| p.typical_p = 0.2, 1.0, &[1]),
        ];
        for (index, (change, temperature, keep)) in cases.into_iter().enumerate() {
            let mut params = params(change);
            params.seed = Some(7);
            let got = frequencies(&params, 20_000);
            let mut expected = softmax(temperature, keep);
            if index == 7 {
                // Tokens 1 and 4 are equally typical: either may be the one that is kept.
                assert!(got.contains(&1.0) || got[1] + got[4] > 0.999, "{got:?}");
                expected = got;
            }
            for (got, expected) in got.iter().zip(expected) {
                assert!(
                    (got - expected).abs() < 0.015,
                    "case {index}: {got} is not {expected}"
                );
            }
        }
    }

    #[test]
    fn typical_p_survives_hopeless_tokens() {
        let mut logits = vec![-500.0; 1000];
        (logits[10], logits[20]) = (2.0, 2.0);
        let params = params(|p| (p.typical_p, p.seed) = (0.5, Some(1)));
        let mut sampler = sampler(&params, &[]);
        for _ in 0..100 {
            let token = sampler.sample(&logits, &[], &[], &mut Buffers::default());
            assert!(matches!(token, Ok(Token(10 | 20))), "{token:?}");
        }
    }

    #[test]
    fn seeds_are_folded() {
        for (seed, expected) in [
            (0, 0),
            (42, 42),
            (u64::from(u32::MAX), u32::MAX / 2),
            (1 << 32, 1),
            (u64::MAX, 0),
        ] {
            assert_eq!(seed32(Some(seed)), expected);
        }
        assert_ne!(seed32(None), seed32(None));
    }
}
