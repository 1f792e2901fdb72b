//! Exponentials of whole segments of logits.
//!
//! Called by the filters and the draw, on any thread. Within [`MAX_ERROR`] of what the C library
//! says, not equal to it: whoever needs the very value asks `f32::exp`, as llama.cpp does.

use multiversion::multiversion;

use super::logits::{N_LANES, SEGMENT, fold, higher};
pub(super) use crate::llama::exp::MAX_ERROR;
use crate::llama::exp::{ROUND, exp};

/// What a segment weighs: its [`weights`] together, each within [`MAX_ERROR`].
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
pub(super) fn weigh(segment: &[f32], temperature: f32, max: f32) -> f64 {
    sum(&weights(segment, temperature, max))
}

/// `sum` plus the [`weights`] of a segment one after the other, each addition rounded.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
pub(super) fn add_weights(sum: f32, segment: &[f32], max: f32) -> f32 {
    add_in_order(sum, &weights(segment, 1.0, max))
}

/// e^(logit / temperature - max) for a segment, filled up with zeros.
#[inline(always)]
fn weights(segment: &[f32], temperature: f32, max: f32) -> [f32; SEGMENT] {
    let mut weights = [0.0; SEGMENT];
    for (weight, &logit) in weights.iter_mut().zip(segment) {
        *weight = exp(logit / temperature - max);
    }
    weights
}

/// The sum of a segment's weights, without an error of its own.
#[inline(always)]
fn sum(weights: &[f32; SEGMENT]) -> f64 {
    let mut lanes = [0.0; N_LANES];
    for chunk in weights.as_chunks::<N_LANES>().0 {
        for (lane, &weight) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(weight);
        }
    }
    fold(lanes, |a, b| a + b)
}

/// `sum` plus the weights one after the other, each addition rounded, but not computed so.
///
/// A sum that stays between two powers of two is a multiple of its unit in the last place, and each
/// addition rounds its weight to such a multiple, whatever went before. The multiples can be added
/// in any order. Only a weight halfway between two goes the way that the sum decides.
#[inline(always)]
fn add_in_order(sum: f32, weights: &[f32; SEGMENT]) -> f32 {
    const EXPONENT: u32 = 0xFF << 23;
    const UNIT: f32 = f32::EPSILON;
    let floor = f32::from_bits(sum.to_bits() & EXPONENT);
    let (unit, round) = (floor * UNIT, floor * UNIT * ROUND);
    let mut total = [0.0; N_LANES];
    let mut max = [0.0; N_LANES];
    let mut halves = [0_u32; N_LANES];
    for chunk in weights.as_chunks::<N_LANES>().0 {
        for lane in 0..N_LANES {
            let weight = chunk[lane];
            let multiple = (weight + round) - round;
            total[lane] += multiple;
            max[lane] = higher(max[lane], weight);
            halves[lane] |= u32::from((weight - multiple).abs() == unit * 0.5);
        }
    }
    let next = sum + fold(total, |a, b| a + b);
    let is_small = fold(max, higher) < floor * 0.25;
    let stays = next.to_bits() & EXPONENT == floor.to_bits();
    let no_half = fold(halves, |a, b| a | b) == 0;
    if floor > 1e-30 && is_small && stays && no_half {
        next
    } else {
        weights.iter().fold(sum, |sum, weight| sum + weight)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sums_are_those_of_one_addition_after_the_other(
            seed in any::<u64>(),
            depth in 0.0_f32..60.0,
            few_bits in any::<bool>(),
        ) {
            let mut state = seed | 1;
            let mut sum = 0.0;
            let mut expected = 0.0;
            for _ in 0..200 {
                let weights = std::array::from_fn(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let weight = exp(-depth * (state >> 40) as f32 / (1 << 24) as f32);
                    // With few bits, many weights lie halfway between two multiples.
                    let mask = if few_bits { 0xFFFF_0000 } else { u32::MAX };
                    f32::from_bits(weight.to_bits() & mask)
                });
                sum = add_in_order(sum, &weights);
                expected = weights.iter().fold(expected, |sum, weight| sum + weight);
                prop_assert_eq!(sum, expected);
            }
        }
    }
}
