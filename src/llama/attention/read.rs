//! How the numbers of a tile's cells are read from the cache, whatever their type.

use std::array;

use llama_cpp_sys_2 as sys;

use super::operands::Tensor;
use super::strip::{Numbers, Strip};
use super::visible::TILE;

/// Bytes that come together.
const CACHE_LINE: usize = 64;

/// What is done with the numbers of a tile's cells.
pub(super) trait Take {
    /// # Safety
    /// Each cell has as many numbers as are taken.
    unsafe fn take<C: Numbers, S: Strip, const N: usize, const M: usize, const F: usize>(
        self,
        cells: &[C; TILE],
    );
}

/// Has what a group has in each of some cells come nearer.
#[inline(always)]
pub(super) fn prefetch(tensor: &Tensor, [group, stream]: [usize; 2], cells: &[u32]) {
    let n_bytes = tensor.row_bytes();
    for &cell in cells {
        let bytes = tensor.at([cell as usize, group, stream]);
        for at in (0..n_bytes).step_by(CACHE_LINE) {
            have_come(bytes.wrapping_add(at));
        }
    }
}

/// Has what is at an address come nearer, where there is an instruction for it.
#[inline(always)]
fn have_come(address: *const u8) {
    #[cfg(target_arch = "aarch64")]
    super::neon::prefetch(address);
    #[cfg(target_arch = "x86_64")]
    super::x86::prefetch(address);
    let _ = address;
}

/// Reads what a group has in each of some cells.
#[inline(always)]
pub(super) fn read<S: Strip, const N: usize, const M: usize, const F: usize>(
    tensor: &Tensor,
    [group, stream]: [usize; 2],
    cells: &[u32],
    floats: &mut Vec<f32>,
    take: impl Take,
) {
    let n_numbers = tensor.ne[0];
    // What is missing of a tile is the last cell again; nobody looks at it.
    let cells: [u32; TILE] = array::from_fn(|at| cells[at.min(cells.len() - 1)]);
    let at = |cell: u32| tensor.at([cell as usize, group, stream]);
    // SAFETY: there are so many numbers of this type.
    unsafe {
        match tensor.kind {
            sys::GGML_TYPE_F16 => {
                take.take::<_, S, N, M, F>(&cells.map(|cell| at(cell).cast::<u16>()));
            }
            sys::GGML_TYPE_F32 => {
                take.take::<_, S, N, M, F>(&cells.map(|cell| at(cell).cast::<f32>()));
            }
            kind => {
                let to_float = (*sys::ggml_get_type_traits(kind)).to_float;
                let to_float = to_float.expect("only such types are computed here");
                floats.resize(TILE * n_numbers, 0.0);
                for (cell, floats) in cells.iter().zip(floats.chunks_exact_mut(n_numbers)) {
                    to_float(at(*cell).cast(), floats.as_mut_ptr(), n_numbers as i64);
                }
                let floats = floats.as_ptr();
                let cells: [*const f32; TILE] = array::from_fn(|at| floats.add(at * n_numbers));
                take.take::<_, S, N, M, F>(&cells);
            }
        }
    }
}
