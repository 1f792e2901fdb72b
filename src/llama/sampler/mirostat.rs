//! Mirostat's first version, which keeps the surprise of tokens near a target.
//!
//! Called by the sampler, on any thread. Comes to llama.cpp's tokens, but for the number of tokens to choose
//! from: where the estimate is beyond an integer, as it is for flat rows and high targets, llama.cpp's becomes
//! the smallest one there is and so always the likeliest token; here all tokens stay.

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::data::LlamaTokenData;

use super::candidates::apply_llama;
use super::chance::Random;
use super::logits::Scanned;
use crate::engine::Token;
use crate::protocol::SamplingParams;

/// Of how many tokens it is estimated how steep the row is.
const N_ESTIMATED: usize = 100;

pub(super) struct MirostatV1 {
    random: Random,
    /// Applies the temperature and sorts.
    sort: LlamaSampler,
    n_vocab: f32,
    tau: f32,
    eta: f32,
    /// The surprise allowed at the next token, in bits.
    mu: f32,
}

impl MirostatV1 {
    pub(super) fn new(params: &SamplingParams, n_vocab: usize, seed: u32) -> Self {
        let temperature = LlamaSampler::temp(params.temperature);
        let all = LlamaSampler::top_k(i32::try_from(n_vocab).unwrap_or(i32::MAX));
        Self {
            random: Random::new(seed),
            sort: LlamaSampler::chain([temperature, all], true),
            n_vocab: n_vocab as f32,
            tau: params.mirostat_tau,
            eta: params.mirostat_eta,
            mu: 2.0 * params.mirostat_tau,
        }
    }

    /// Draws a token; `data` is memory.
    pub(super) fn token(
        &mut self,
        logits: &Scanned,
        data: &mut Vec<LlamaTokenData>,
    ) -> Option<Token> {
        let array = apply_llama(&mut self.sort, logits.at_least(f32::MIN), data);
        let sorted: Vec<f32> = array.data.iter().map(LlamaTokenData::logit).collect();
        // The cast saturates; what is no number becomes 0.
        let n_kept = self.wanted(&softmax(&sorted)) as usize;
        let n_kept = n_kept.clamp(1, sorted.len().max(1)).min(sorted.len());
        let kept = softmax(&sorted[..n_kept]);
        let chosen = (n_kept > 0).then(|| self.draw(&kept));
        let token = chosen.map(|index| {
            let surprise = -kept[index].log2();
            self.mu -= self.eta * (surprise - self.tau);
            Token(array.data[index].id().0)
        });
        *data = array.data;
        token
    }

    /// How many of the tokens to draw from, by their probabilities in falling order; any number, or none.
    pub(super) fn wanted(&self, probabilities: &[f32]) -> f32 {
        let (mut products, mut squares) = (0.0_f32, 0.0_f32);
        let pairs = probabilities.windows(2).take(N_ESTIMATED - 1);
        for (pair, rank) in pairs.zip(1_u16..) {
            let rank = f32::from(rank);
            let t = ((rank + 1.0) / rank).ln();
            let b = (pair[0] / pair[1]).ln();
            products += t * b;
            squares += t * t;
        }
        let steepness = products / squares;
        let epsilon = steepness - 1.0;
        let allowed = 2.0_f32.powf(self.mu);
        let base = match epsilon {
            // What the other comes near to.
            0.0 => allowed / self.n_vocab.ln(),
            _ => (epsilon * allowed) / (1.0 - self.n_vocab.powf(-epsilon)),
        };
        base.powf(1.0 / steepness)
    }

    /// The index that chance falls on, as libstdc++'s `discrete_distribution` takes it.
    fn draw(&mut self, probabilities: &[f32]) -> usize {
        if probabilities.len() < 2 {
            return 0;
        }
        let sum: f64 = probabilities.iter().map(|&p| f64::from(p)).sum();
        let chance = self.random.uniform();
        let mut reached = 0.0;
        let found = probabilities.iter().position(|&p| {
            reached += f64::from(p) / sum;
            reached >= chance
        });
        found.unwrap_or(probabilities.len() - 1)
    }
}

/// Probabilities of logits in falling order, summed as llama.cpp does.
pub(super) fn softmax(sorted: &[f32]) -> Vec<f32> {
    let max = sorted.first().copied().unwrap_or(0.0);
    let mut weights: Vec<f32> = sorted.iter().map(|logit| (logit - max).exp()).collect();
    let mut sum = 0.0_f32;
    for weight in &weights {
        sum += weight;
    }
    for weight in &mut weights {
        *weight /= sum;
    }
    weights
}
