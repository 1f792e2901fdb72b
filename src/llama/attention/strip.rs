//! What attention is written in: a strip of numbers that are computed with at once.
//!
//! Each kind of processor has its own: `x86.rs`, `neon.rs`, and `scalar.rs` for all others. The
//! kernel calls it, on llama.cpp's threads. They agree to the bit wherever a product and a sum are
//! rounded once, so nothing here may add in an order of its own.

use super::STRIP;
use crate::llama::exp::Lanes;

/// Numbers that lie beside each other.
pub(super) trait Load: Copy {
    /// # Safety
    /// There are so many numbers.
    unsafe fn load(numbers: *const f32) -> Self;
    /// From half precision.
    ///
    /// # Safety
    /// There are so many numbers.
    unsafe fn load_half(numbers: *const u16) -> Self;
    /// # Safety
    /// There is room for so many numbers.
    unsafe fn store(self, numbers: *mut f32);
}

/// [`STRIP`] numbers.
pub(super) trait Strip: Lanes + Load {
    type Eight: Eight;
    /// These numbers where there is a bit, and `other` elsewhere.
    fn where_bits(self, bits: u16, other: f32) -> Self;
    /// The largest one.
    fn highest(self) -> f32;
    /// All together: half of them added to the other half, and so on.
    fn total(self) -> f32;
    /// The [`in_order`] of the numbers of each.
    fn totals(strips: [Self; 4]) -> [f32; 4];
    /// Calls a closure so that it has the instructions, also where it is not inlined: by itself it would be
    /// compiled without.
    ///
    /// # Safety
    /// The processor has them.
    unsafe fn call<T>(closure: impl FnOnce() -> T) -> T;
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

/// What numbers can be read from.
pub(super) trait Numbers: Copy {
    /// # Safety
    /// There are so many numbers from this one on.
    unsafe fn load<L: Load>(self, at: usize) -> L;
}

impl Numbers for *const f32 {
    #[inline(always)]
    unsafe fn load<L: Load>(self, at: usize) -> L {
        // SAFETY: the caller has made sure of it.
        unsafe { L::load(self.add(at)) }
    }
}

/// Numbers in half precision.
impl Numbers for *const u16 {
    #[inline(always)]
    unsafe fn load<L: Load>(self, at: usize) -> L {
        // SAFETY: the caller has made sure of it.
        unsafe { L::load_half(self.add(at)) }
    }
}

/// Puts eight of the numbers of each of eight cells into strips, the same number of all cells beside
/// each other.
///
/// # Safety
/// There are eight numbers from `at` on of each, and room for them in `strips`, of which there are eight.
#[inline(always)]
pub(super) unsafe fn turn<E: Eight, C: Numbers>(cells: [C; 8], at: usize, strips: *mut f32) {
    // SAFETY: the caller has made sure of it.
    unsafe {
        let turned = E::turn(cells.map(|cell| cell.load(at)));
        for (row, eight) in turned.into_iter().enumerate() {
            eight.store(strips.add(row * STRIP));
        }
    }
}
