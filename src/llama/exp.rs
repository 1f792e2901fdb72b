//! The exponential of numbers up to 0, in a form that the compiler turns into vector code.

/// The most by which [`exp`] differs from the C library's `expf`, relative to it.
pub(super) const MAX_ERROR: f64 = 1.0 / (1 << 22) as f64;

/// e^-87 is the last power of e with a power of two of its own.
const LOWEST: f32 = -87.0;

/// Adding this rounds a number below 2^22 to a whole one, and leaves that in the lowest bits.
pub(super) const ROUND: f32 = 12_582_912.0;

/// The logarithm of 2 in two parts; the first has so few bits that a multiple of it is exact.
const LN_2_HIGH: f32 = 355.0 / 512.0;
const LN_2_LOW: f32 = (std::f64::consts::LN_2 - LN_2_HIGH as f64) as f32;

/// Whether the product and sum of single numbers is one instruction, rounded once.
pub(super) const IS_FUSED: bool = cfg!(any(target_feature = "fma", target_arch = "aarch64"));

/// Numbers that are computed with at once.
pub(super) trait Lanes: Copy {
    /// The same number in each lane, as many as these are.
    fn all(self, number: f32) -> Self;
    fn add(self, other: Self) -> Self;
    fn multiply(self, other: Self) -> Self;
    /// `self * factor + summand`, rounded once or twice.
    fn multiply_add(self, factor: Self, summand: Self) -> Self;
    /// The larger one, `other` where one of them is no number.
    fn max(self, other: Self) -> Self;
    /// Two to the power of what the lowest bits of each number say as an integer.
    fn power_of_lowest_bits(self) -> Self;
}

impl Lanes for f32 {
    #[inline(always)]
    fn all(self, number: f32) -> Self {
        number
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        self + other
    }

    #[inline(always)]
    fn multiply(self, other: Self) -> Self {
        self * other
    }

    /// One instruction where the processor has it; elsewhere the exact form would be a call.
    #[inline(always)]
    fn multiply_add(self, factor: Self, summand: Self) -> Self {
        if IS_FUSED {
            self.mul_add(factor, summand)
        } else {
            self * factor + summand
        }
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        if self > other { self } else { other }
    }

    #[inline(always)]
    fn power_of_lowest_bits(self) -> Self {
        f32::from_bits((self.to_bits() << 23).wrapping_add(1.0_f32.to_bits()))
    }
}

/// e^x for x up to 0; below -87 something below 10^-37.
#[inline(always)]
pub(super) fn exp<L: Lanes>(x: L) -> L {
    let x = x.max(x.all(LOWEST));
    let rounded = x.multiply_add(x.all(std::f32::consts::LOG2_E), x.all(ROUND));
    let n = rounded.add(x.all(-ROUND));
    let r = n.multiply_add(x.all(-LN_2_HIGH), x);
    let r = n.multiply_add(x.all(-LN_2_LOW), r);
    // The exponential's series: what follows is below 2^-27 for r up to ln(2) / 2.
    let mut series = x.all(1.0 / 5040.0);
    for coefficient in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        series = series.multiply_add(r, x.all(coefficient));
    }
    series.multiply(rounded.power_of_lowest_bits())
}

#[cfg(test)]
mod tests {
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
        assert_eq!(exp(0.0_f32), 1.0);
    }
}
