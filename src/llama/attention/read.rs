//! How the numbers of a tile's cells are read from the cache, whatever their type.

use std::array;

use llama_cpp_sys_2 as sys;

use super::cells::{Cells, Numbers};
use super::operands::Operand;
use super::visible::TILE;

/// Bytes that come together.
const CACHE_LINE: usize = 64;

/// What is done with the numbers of a tile's cells.
pub(super) trait Take {
    fn take<C: Numbers>(self, cells: &Cells<C>);
}

/// Has what a group has in each of some cells come nearer.
#[inline(always)]
pub(super) fn prefetch(operand: &Operand, [group, stream]: [usize; 2], cells: &[u32]) {
    let n_bytes = operand.row_bytes();
    for &cell in cells {
        let bytes = operand.at([cell as usize, group, stream]);
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
pub(super) fn read(
    operand: &Operand,
    [group, stream]: [usize; 2],
    cells: &[u32],
    floats: &mut Vec<f32>,
    take: impl Take,
) {
    let [n_numbers, n_cells, n_groups, n_streams] = operand.ne;
    // What is missing of a tile is the last cell again; nobody looks at it.
    let cells: [u32; TILE] = array::from_fn(|at| cells[at.min(cells.len() - 1)]);
    let are_there = cells.iter().all(|&cell| (cell as usize) < n_cells);
    assert!(are_there && group < n_groups && stream < n_streams);
    let at = |cell: u32| operand.at([cell as usize, group, stream]);
    match operand.kind {
        sys::GGML_TYPE_F16 => {
            let cells = cells.map(|cell| at(cell).cast::<u16>());
            // SAFETY: the cells, the group and the stream are the operand's, so at each lie `n_numbers` numbers
            // of its kind, which are u16 here.
            take.take(&unsafe { Cells::new(cells, n_numbers) });
        }
        sys::GGML_TYPE_F32 => {
            let cells = cells.map(|cell| at(cell).cast::<f32>());
            // SAFETY: as above; they are f32 here.
            take.take(&unsafe { Cells::new(cells, n_numbers) });
        }
        kind => {
            // SAFETY: ggml has a constant table of all kinds, and the operand's is one.
            let to_float = unsafe { (*sys::ggml_get_type_traits(kind)).to_float };
            let to_float = to_float.expect("only such types are computed here");
            floats.resize(TILE * n_numbers, 0.0);
            for (cell, floats) in cells.iter().zip(floats.chunks_exact_mut(n_numbers)) {
                // SAFETY: as above, `n_numbers` numbers of this kind can be read; there is room for as many f32.
                unsafe { to_float(at(*cell).cast(), floats.as_mut_ptr(), n_numbers as i64) };
            }
            // In bounds: there are `TILE` times `n_numbers`.
            let cells = array::from_fn(|at| floats[at * n_numbers..].as_ptr());
            // SAFETY: from each on, `n_numbers` floats can be read, and nobody changes them meanwhile.
            take.take(&unsafe { Cells::new(cells, n_numbers) });
        }
    }
}
