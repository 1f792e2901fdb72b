//! A strip in the words of the language, for every processor.
//!
//! The compiler makes of it what vector instructions the library is built for. No unsafe instruction
//! and nothing of one architecture belongs here.

use std::array;

use super::strip::{Eight, Load, STRIP, Strip, in_order};
use crate::llama::exp::Lanes;

/// A number in half precision.
#[inline(always)]
fn widened(half: u16) -> f32 {
    /// What is between the smallest exponents of both.
    const EXPONENTS: f32 = (1_u128 << 112) as f32;
    let bits = u32::from(half);
    let (sign, size) = (bits >> 15 << 31, bits & 0x7FFF);
    let number = (f32::from_bits(size << 13) * EXPONENTS).to_bits();
    // From there on it is none, or infinite.
    let number = if size >= 0x7C00 {
        size << 13 | 0x7F80_0000
    } else {
        number
    };
    f32::from_bits(number | sign)
}

impl<const NUMBERS: usize> Load for [f32; NUMBERS] {
    type Here = ();
    const N: usize = NUMBERS;

    #[inline(always)]
    unsafe fn load((): (), numbers: *const f32) -> Self {
        // SAFETY: `N` numbers can be read, says the caller, which are one array; any bits are numbers.
        unsafe { numbers.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn load_half((): (), numbers: *const u16) -> Self {
        // SAFETY: as above, of two bytes each.
        unsafe { numbers.cast::<[u16; NUMBERS]>().read_unaligned() }.map(widened)
    }

    #[inline(always)]
    unsafe fn store(self, numbers: *mut f32) {
        // SAFETY: `N` numbers can be written, says the caller, which are one array.
        unsafe { numbers.cast::<Self>().write_unaligned(self) };
    }
}

impl Lanes for [f32; STRIP] {
    #[inline(always)]
    fn all(self, number: f32) -> Self {
        [number; STRIP]
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        array::from_fn(|at| self[at] + other[at])
    }

    #[inline(always)]
    fn multiply(self, other: Self) -> Self {
        array::from_fn(|at| self[at] * other[at])
    }

    #[inline(always)]
    fn multiply_add(self, factor: Self, summand: Self) -> Self {
        array::from_fn(|at| self[at].multiply_add(factor[at], summand[at]))
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        array::from_fn(|at| Lanes::max(self[at], other[at]))
    }

    #[inline(always)]
    fn power_of_lowest_bits(self) -> Self {
        self.map(Lanes::power_of_lowest_bits)
    }
}

impl Strip for [f32; STRIP] {
    type Eight = [f32; 8];

    #[inline(always)]
    fn eight((): ()) {}

    #[inline(always)]
    fn splat((): (), number: f32) -> Self {
        [number; STRIP]
    }

    #[inline(always)]
    fn where_bits(self, bits: u16, other: f32) -> Self {
        array::from_fn(|at| if bits >> at & 1 == 1 { self[at] } else { other })
    }

    #[inline(always)]
    fn highest(self) -> f32 {
        fold(self, Lanes::max)
    }

    #[inline(always)]
    fn total(self) -> f32 {
        fold(self, Lanes::add)
    }

    #[inline(always)]
    fn totals(strips: [Self; 4]) -> [f32; 4] {
        strips.map(|strip| in_order(|at| strip[at], Lanes::add))
    }

    #[inline(always)]
    fn call<T>((): (), closure: impl FnOnce() -> T) -> T {
        closure()
    }
}

impl Eight for [f32; 8] {
    #[inline(always)]
    fn turn(rows: [Self; 8]) -> [Self; 8] {
        array::from_fn(|column| array::from_fn(|row| rows[row][column]))
    }
}

/// All as one, half of them joined to the other half, and so on.
#[inline(always)]
fn fold(mut numbers: [f32; STRIP], join: impl Fn(f32, f32) -> f32) -> f32 {
    let mut n_numbers = STRIP;
    while n_numbers > 1 {
        n_numbers /= 2;
        for at in 0..n_numbers {
            numbers[at] = join(numbers[at], numbers[at + n_numbers]);
        }
    }
    numbers[0]
}
