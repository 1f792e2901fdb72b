//! Softmax, computed as it goes: for each query the highest score so far, and the sum of what the
//! exponentials of scores are beside it.
//!
//! Called by the kernel, tile by tile, on llama.cpp's threads.

use std::array;

use super::strip::{STRIP, Strip};
use super::visible::TILE;
use crate::llama::exp::{Lanes, exp};

/// Strips of a tile of cells.
const STRIPS: usize = TILE / STRIP;

/// How far the softmax of one query has come.
#[derive(Clone, Copy)]
pub(super) struct Softmax {
    max: f32,
    sum: f32,
    /// What the sums are to be multiplied with before something is added to them.
    pub(super) keep: f32,
    /// Of each cell of a tile the score, then its weight.
    pub(super) weights: [f32; TILE],
}

impl Softmax {
    pub(super) const NONE: Self = Self {
        max: f32::NEG_INFINITY,
        sum: 0.0,
        keep: 1.0,
        weights: [0.0; TILE],
    };

    /// Makes the scores of a tile weights.
    #[inline(always)]
    pub(super) fn weigh<S: Strip>(&mut self, here: S::Here, seen: u64, softcap: f32) {
        if softcap != 0.0 {
            for score in &mut self.weights {
                *score = softcap * (*score / softcap).tanh();
            }
        }
        let bits = |at: usize| (seen >> (at * STRIP)) as u16;
        let scores = self.weights.as_chunks::<STRIP>().0;
        let scores: [S; STRIPS] = array::from_fn(|at| S::of(here, &scores[at]));
        let scores: [S; STRIPS] =
            array::from_fn(|at| scores[at].where_bits(bits(at), f32::NEG_INFINITY));
        let highest = scores
            .into_iter()
            .reduce(S::max)
            .map_or(self.max, S::highest);
        let max = Lanes::max(highest, self.max);
        self.keep = exp(self.max - max);
        self.max = max;
        let mut total = S::splat(here, 0.0);
        let weights = self.weights.as_chunks_mut::<STRIP>().0;
        for (at, (score, weights)) in scores.into_iter().zip(weights).enumerate() {
            let weight = exp(score.add(score.all(-max))).where_bits(bits(at), 0.0);
            weight.put(weights);
            total = total.add(weight);
        }
        self.sum = self.sum * self.keep + total.total();
    }

    /// What the sums are to be multiplied with in the end.
    pub(super) fn end(&self, sink: Option<f32>) -> f32 {
        let (sum, scale) = match sink {
            Some(sink) if sink > self.max => {
                let scale = (self.max - sink).exp();
                (self.sum * scale + 1.0, scale)
            }
            Some(sink) => (self.sum + (sink - self.max).exp(), 1.0),
            None => (self.sum, 1.0),
        };
        if sum == 0.0 { 0.0 } else { scale / sum }
    }
}
