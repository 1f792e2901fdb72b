//! What attention is written in: a strip of numbers that are computed with at once.
//!
//! Each kind of processor has its own: `x86.rs`, `neon.rs`, and `scalar.rs` for all others. The
//! kernel calls it, on llama.cpp's threads. They agree to the bit wherever a product and a sum are
//! rounded once, so nothing here may add in an order of its own.

use crate::llama::exp::Lanes;

/// Numbers that are computed with at once.
pub(super) const STRIP: usize = 16;

/// Numbers that lie beside each other in memory, [`Load::N`] of them.
pub(super) trait Load: Copy {
    /// A word for it that this processor has the instructions: there is no vector without one.
    type Here: Copy;
    const N: usize;

    /// # Safety
    /// From `numbers` on, [`Load::N`] numbers can be read; `numbers` need not be aligned.
    unsafe fn load(here: Self::Here, numbers: *const f32) -> Self;

    /// From half precision.
    ///
    /// # Safety
    /// From `numbers` on, [`Load::N`] numbers of two bytes can be read; `numbers` need not be aligned.
    unsafe fn load_half(here: Self::Here, numbers: *const u16) -> Self;

    /// # Safety
    /// From `numbers` on, [`Load::N`] numbers can be written; `numbers` need not be aligned.
    unsafe fn store(self, numbers: *mut f32);
}

/// [`STRIP`] numbers.
pub(super) trait Strip: Lanes + Load {
    type Eight: Eight;
    /// The word for half a strip.
    fn eight(here: Self::Here) -> <Self::Eight as Load>::Here;
    /// The same number in each lane.
    fn splat(here: Self::Here, number: f32) -> Self;
    /// These numbers where there is a bit, and `other` elsewhere.
    fn where_bits(self, bits: u16, other: f32) -> Self;
    /// The largest one.
    fn highest(self) -> f32;
    /// All together: half of them added to the other half, and so on.
    fn total(self) -> f32;
    /// The [`in_order`] of the numbers of each.
    fn totals(strips: [Self; 4]) -> [f32; 4];

    /// Those of an array.
    #[inline(always)]
    fn of(here: Self::Here, numbers: &[f32; STRIP]) -> Self {
        const { assert!(Self::N == STRIP) };
        // SAFETY: the array has `STRIP` numbers, which are `N`.
        unsafe { Self::load(here, numbers.as_ptr()) }
    }

    /// Puts them into an array.
    #[inline(always)]
    fn put(self, numbers: &mut [f32; STRIP]) {
        const { assert!(Self::N == STRIP) };
        // SAFETY: the array has room for `STRIP` numbers, which are `N`.
        unsafe { self.store(numbers.as_mut_ptr()) };
    }

    /// Calls a closure so that it has the instructions, also where it is not inlined: by itself it would be
    /// compiled without.
    fn call<T>(here: Self::Here, closure: impl FnOnce() -> T) -> T;
}

/// Half a strip.
pub(super) trait Eight: Load {
    /// What were rows are columns.
    fn turn(rows: [Self; 8]) -> [Self; 8];
}

/// The sum over a strip of numbers, added as [`Strip::totals`] does.
#[inline(always)]
pub(super) fn in_order<T>(number: impl Fn(usize) -> T, add: impl Fn(T, T) -> T) -> T {
    let two = |at| add(number(at), number(at + 8));
    let eight = |at| add(add(two(at), two(at + 2)), add(two(at + 1), two(at + 3)));
    add(eight(0), eight(4))
}
