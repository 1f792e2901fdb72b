//! The draw: chance, and the candidate that it falls on.
//!
//! Called by the sampler, on any thread. Takes the same numbers from the same generator as
//! llama.cpp's draw, and so gives its tokens.

use rand_mt::Mt;

use super::candidates::Candidate;
use super::exp;
use super::logits::Scanned;
use crate::engine::Token;

/// C++'s `std::mt19937`, and its uniform numbers between 0 and 1 as libstdc++ makes them of it.
pub(super) struct Random(Mt);

impl Random {
    pub(super) fn new(seed: u32) -> Self {
        Self(Mt::new(seed))
    }

    /// The next number, below 1.
    pub(super) fn uniform(&mut self) -> f64 {
        const TWO_32: f64 = (1_u64 << 32) as f64;
        let low = f64::from(self.0.next_u32());
        let high = f64::from(self.0.next_u32()) * TWO_32;
        let number = (low + high) / (TWO_32 * TWO_32);
        number.min(1.0 - f64::EPSILON / 2.0)
    }
}

/// The candidate that `chance` falls on, each weighed with its probability at a temperature.
pub(super) fn from_candidates(
    candidates: &[Candidate],
    temperature: f32,
    chance: f64,
) -> Option<Token> {
    let scaled = |candidate: &Candidate| candidate.logit / temperature;
    let max = candidates.iter().map(scaled).reduce(f32::max)?;
    let weight = |candidate: &Candidate| f64::from((scaled(candidate) - max).exp());
    let target = candidates.iter().map(weight).sum::<f64>() * chance;
    let mut reached = 0.0;
    let found = candidates.iter().find(|candidate| {
        reached += weight(candidate);
        reached >= target
    });
    found.or(candidates.last()).map(|candidate| candidate.token)
}

/// The same over all tokens of a row; `sums` and `candidates` are memory.
///
/// Sums with exponentials that are a little off, and does all over with exact ones where `chance`
/// falls so near to the border of two tokens that this could matter.
pub(super) fn from_all(
    logits: &Scanned,
    temperature: f32,
    chance: f64,
    sums: &mut Vec<f64>,
    candidates: &mut Vec<Candidate>,
) -> Option<Token> {
    let max = logits.max() / temperature;
    sums.clear();
    let segments = logits.segments();
    sums.extend(segments.map(|segment| exp::weigh(segment, temperature, max)));
    let target = sums.iter().sum::<f64>() * chance;
    // The target's own error, and that of what is summed up to it.
    let margin = target * 2.0 * exp::MAX_ERROR;
    let mut reached = 0.0;
    let segment_idx = sums.iter().position(|sum| {
        let reaches = reached + sum >= target;
        reached += if reaches { 0.0 } else { *sum };
        reaches
    });
    for candidate in segment_idx
        .into_iter()
        .flat_map(|index| logits.candidates(index))
    {
        let before = reached;
        reached += f64::from((candidate.logit / temperature - max).exp());
        if before + margin < target && target + margin < reached {
            return Some(candidate.token);
        }
    }
    candidates.clear();
    candidates.extend(logits.at_least(f32::MIN));
    from_candidates(candidates, temperature, chance)
}
