//! The cells of a tile, where they lie, with numbers of either precision.
//!
//! Read by the kernel and the products, on llama.cpp's threads.

use super::strip::{Eight, Load, STRIP};
use super::visible::TILE;

/// Where numbers lie beside each other that can be read as f32.
pub(super) trait Numbers: Copy {
    /// Those from the one `at` this place on.
    ///
    /// # Safety
    /// From this place on, `at` and [`Load::N`] numbers more can be read, all in one allocation.
    unsafe fn load<L: Load>(self, here: L::Here, at: usize) -> L;
}

impl Numbers for *const f32 {
    #[inline(always)]
    unsafe fn load<L: Load>(self, here: L::Here, at: usize) -> L {
        // SAFETY: `at` numbers on is within the allocation, and `N` can be read there, says the caller.
        unsafe { L::load(here, self.add(at)) }
    }
}

/// Numbers in half precision.
impl Numbers for *const u16 {
    #[inline(always)]
    unsafe fn load<L: Load>(self, here: L::Here, at: usize) -> L {
        // SAFETY: as above, with numbers of two bytes.
        unsafe { L::load_half(here, self.add(at)) }
    }
}

/// The cells of a tile.
///
/// # Invariants
/// From each of them on, `n_numbers` numbers can be read, in one allocation.
pub(super) struct Cells<C> {
    all: [C; TILE],
    n_numbers: usize,
}

impl<C: Numbers> Cells<C> {
    /// # Safety
    /// From each of the cells on, `n_numbers` numbers can be read, in one allocation, as long as this lives.
    #[inline(always)]
    pub(super) unsafe fn new(all: [C; TILE], n_numbers: usize) -> Self {
        Self { all, n_numbers }
    }

    #[inline(always)]
    pub(super) fn all(&self) -> &[C; TILE] {
        &self.all
    }

    /// Numbers of each.
    #[inline(always)]
    pub(super) fn n_numbers(&self) -> usize {
        self.n_numbers
    }
}

/// Puts eight of the numbers of each of eight cells into strips, the same number of all cells beside
/// each other.
///
/// # Safety
/// From each of `cells` on, `at + 8` numbers can be read, in one allocation. From `strips` on, `7 * STRIP + 8`
/// numbers can be written.
#[inline(always)]
pub(super) unsafe fn turn<E: Eight, C: Numbers>(
    here: E::Here,
    cells: [C; 8],
    at: usize,
    strips: *mut f32,
) {
    const { assert!(E::N == 8) };
    // SAFETY: the caller's word for each cell is what `load` asks for, as `N` is 8.
    let turned = E::turn(cells.map(|cell| unsafe { cell.load(here, at) }));
    for (row, eight) in turned.into_iter().enumerate() {
        // SAFETY: `row` is 7 at most, so these 8 numbers end with the last that can be written.
        unsafe { eight.store(strips.add(row * STRIP)) };
    }
}
