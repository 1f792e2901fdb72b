//! Exponentials of whole blocks of logits, in a form that the compiler turns into vector code.
//!
//! Called by the filters and the draw, on any thread. Within [`MAX_ERROR`] of what the C library
//! says, not equal to it: whoever needs the very value asks `f32::exp`, as llama.cpp does.

use super::logits::{BLOCK, N_LANES, fold, higher};

/// The most by which [`exp`] differs from the C library's `expf`, relative to it.
pub(super) const MAX_ERROR: f64 = 1.0 / (1 << 22) as f64;

/// e^-87 is the last power of e with a power of two of its own.
const LOWEST: f32 = -87.0;

/// Adding this rounds a number below 2^22 to a whole one, and leaves that in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// The logarithm of 2 in two parts; the first has so few bits that a multiple of it is exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = (std::f64::consts::LN_2 - LN_2_HIGH as f64) as f32;

/// e^x for x up to 0; below -87 something below 10^-37.
#[inline(always)]
fn exp(x: f32) -> f32 {
    let x = if x > LOWEST { x } else { LOWEST };
    let rounded = multiply_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = rounded - ROUND;
    let r = multiply_add(n, -LN_2_LOW, multiply_add(n, -LN_2_HIGH, x));
    // The exponential's series: what follows is below 2^-27 for r up to ln(2) / 2.
    let mut series = 1.0 / 5040.0;
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        series = multiply_add(series, r, coefficient);
    }
    let power = (rounded.to_bits() << 23).wrapping_add(1.0_f32.to_bits());
    series * f32::from_bits(power)
}

/// One instruction where the processor has it; elsewhere the exact form would be a call.
#[inline(always)]
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(target_feature = "fma") {
        a.mul_add(b, c)
    } else {
        a * b + c
    }
}

/// e^(logit / temperature - max) for a block, filled up with zeros.
#[inline(always)]
pub(super) fn weights(block: &[f32], temperature: f32, max: f32) -> [f32; BLOCK] {
    let mut weights = [0.0; BLOCK];
    for (weight, &logit) in weights.iter_mut().zip(block) {
        *weight = exp(logit / temperature - max);
    }
    weights
}

/// The sum of a block's weights, each within [`MAX_ERROR`], without an error of its own.
#[inline]
pub(super) fn sum(weights: &[f32; BLOCK]) -> f64 {
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
#[inline]
pub(super) fn add_in_order(sum: f32, weights: &[f32; BLOCK]) -> f32 {
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

    #[test]
    fn exponentials_are_within_their_error() {
        let mut worst = 0.0_f64;
        for i in 0..4_000_000 {
            let x = -87.0 * i as f32 / 4_000_000.0;
            let expected = f64::from(x.exp());
            worst = worst.max(((f64::from(exp(x)) - expected) / expected).abs());
        }
        assert!(worst < MAX_ERROR, "{worst}");
        for x in [-87.5, -1e4, f32::MIN, f32::NEG_INFINITY] {
            assert!((0.0..1e-37).contains(&exp(x)), "{x}");
        }
        assert_eq!(exp(0.0), 1.0);
    }

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
