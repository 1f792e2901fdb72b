//! At which position of its text each cell of a cache is, as llama.cpp's graphs tell it.
//!
//! Attention sums over cells in this order. Where in the cache a text lies depends on who else is there;
//! with its own order the sums come out the same to the bit.

use std::collections::HashMap;
use std::slice;

use llama_cpp_sys_2 as sys;

/// The beginning of a cell's keys in the first layer: these depend on its token and position alone.
pub type Print = [u8; 16];

/// What the nodes seen so far say.
#[derive(Default)]
pub(super) struct Positions {
    caches: Vec<Cache>,
    /// Where keys and values were written since the last node of attention.
    written: Vec<Written>,
    /// The positions of the rows that are computed.
    rows: Vec<u32>,
    /// Cells of the first cache that were written since somebody asked, row by row.
    new: Vec<usize>,
}

/// Cells of several layers, with the same tokens in all of them.
struct Cache {
    /// The keys of its first layer.
    keys: Keys,
    /// Where the node that named the cells has these numbers: the other layers have the same.
    cells: *const i64,
    positions: Vec<u32>,
}

/// The keys of one layer, cell by cell.
///
/// # Invariants
/// From `data` on lie `n_cells` times `stride` bytes of the cache of a context, which can be read between steps as
/// long as there is the context: its owner, who alone asks then, ends it last.
#[derive(Clone, Copy)]
struct Keys {
    data: *const u8,
    /// Bytes from a cell to the next.
    stride: usize,
    n_cells: usize,
}

struct Written {
    keys: Keys,
    cells: *const i64,
    n_cells: usize,
}

// SAFETY: nothing is bound to a thread: the pointers are to memory that llama.cpp shares among its threads. What
// reads there asks for `&mut self`.
unsafe impl Send for Positions {}
// SAFETY: `&self` gives positions alone, which are no pointers.
unsafe impl Sync for Positions {}

impl Positions {
    /// Takes what a node says that comes before one of attention.
    ///
    /// # Safety
    /// It is a node of a graph that llama.cpp has allocated in the memory of this process and is about to compute:
    /// its sources are null or such tensors too, and the graph's inputs hold their numbers.
    pub(super) unsafe fn note(&mut self, node: &sys::ggml_tensor) {
        // SAFETY: a source is null or a tensor, says the caller.
        let Some(source) = (unsafe { node.src[1].as_ref() }) else {
            return;
        };
        let n_numbers = source.ne[0] as usize;
        match node.op {
            sys::GGML_OP_SET_ROWS if is_row::<i64>(source, sys::GGML_TYPE_I64) => {
                self.written.push(Written {
                    keys: Keys {
                        data: node.data.cast_const().cast(),
                        stride: node.nb[1],
                        n_cells: node.ne[1] as usize,
                    },
                    cells: source.data.cast_const().cast(),
                    n_cells: n_numbers,
                });
            }
            sys::GGML_OP_ROPE if is_row::<u32>(source, sys::GGML_TYPE_I32) => {
                // SAFETY: positions are an input of the graph: `n_numbers` of them, one after the other, aligned. Any
                // bits are a u32.
                let rows = unsafe { slice::from_raw_parts(source.data.cast::<u32>(), n_numbers) };
                self.rows.clear();
                self.rows.extend(rows);
            }
            _ => {}
        }
    }

    /// The cache that a node of attention looks at, after taking where its rows were written to.
    ///
    /// # Safety
    /// As for [`Positions::note`], which was told all nodes of the graph before this one, and of no other graph
    /// since the last call.
    pub(super) unsafe fn cache_of(&mut self, node: &sys::ggml_tensor) -> Option<usize> {
        let written = std::mem::take(&mut self.written);
        // SAFETY: a source is null or a tensor, says the caller.
        let keys = unsafe { root(node.src[1]) };
        let known = |caches: &[Cache]| caches.iter().position(|cache| cache.keys.data == keys);
        let Some(written) = written.iter().find(|written| written.keys.data == keys) else {
            return known(&self.caches);
        };
        let is_same = |cache: &Cache| cache.cells == written.cells;
        let idx = known(&self.caches).or_else(|| self.caches.iter().position(is_same));
        let idx = idx.unwrap_or_else(|| {
            self.caches.push(Cache {
                keys: written.keys,
                cells: written.cells,
                positions: (0..written.keys.n_cells as u32).collect(),
            });
            self.caches.len() - 1
        });
        let cache = &mut self.caches[idx];
        if cache.keys.data == keys && self.rows.len() >= written.n_cells {
            cache.cells = written.cells;
            // SAFETY: which cells are written is an input of this graph: `note` has seen that there are `n_cells`
            // numbers, one after the other, aligned.
            let cells = unsafe { slice::from_raw_parts(written.cells, written.n_cells) };
            for (&cell, &position) in cells.iter().zip(&self.rows) {
                if let Some(at) = cache.positions.get_mut(cell as usize) {
                    *at = position;
                }
            }
            if idx == 0 {
                self.new.extend(cells.iter().map(|cell| *cell as usize));
            }
        }
        Some(idx)
    }

    /// For each cell of a cache its position; nothing of a cache that is not known.
    pub(super) fn of(&self, cache: Option<usize>) -> &[u32] {
        let cache = cache.and_then(|idx| self.caches.get(idx));
        cache.map_or(&[], |cache| &cache.positions)
    }

    /// What the cells are known by that were written since the last call, row by row.
    pub(super) fn take_new(&mut self) -> Vec<Print> {
        let new = std::mem::take(&mut self.new);
        let keys = self.caches.first().map(|cache| cache.keys);
        let prints = keys
            .into_iter()
            .flat_map(|keys| new.iter().map(move |cell| keys.print(*cell)));
        prints.collect()
    }

    /// Takes the positions, from `start` on, of cells that are back in the cache, wherever they are.
    pub(super) fn recognize(&mut self, start: u32, prints: &[Print]) {
        let known: HashMap<&Print, u32> = prints.iter().zip(start..).collect();
        for Cache {
            keys, positions, ..
        } in &mut self.caches
        {
            for (cell, position) in positions.iter_mut().enumerate() {
                if let Some(known) = known.get(&keys.print(cell)) {
                    *position = *known;
                }
            }
        }
    }
}

impl Keys {
    /// What a cell is known by.
    fn print(self, cell: usize) -> Print {
        let mut print = Print::default();
        if cell < self.n_cells {
            let n_bytes = self.stride.min(print.len());
            // SAFETY: the cell is one of `n_cells`, of which each has `stride` bytes; `n_bytes` are no more. Nobody
            // writes to them between steps.
            let bytes =
                unsafe { slice::from_raw_parts(self.data.add(cell * self.stride), n_bytes) };
            print[..n_bytes].copy_from_slice(bytes);
        }
        print
    }
}

/// Whether the numbers of dimension 0 are of this kind, one after the other, and aligned as `T`.
fn is_row<T>(tensor: &sys::ggml_tensor, kind: sys::ggml_type) -> bool {
    tensor.type_ == kind
        && tensor.nb[0] == size_of::<T>()
        && tensor.data.cast::<T>().is_aligned()
        && !tensor.data.is_null()
}

/// Where the tensor begins that keys are a part of; llama.cpp may have changed their type on the way.
///
/// # Safety
/// It is null or a tensor of a graph: its sources, and what it is a view of, are null or such tensors too.
unsafe fn root(mut keys: *const sys::ggml_tensor) -> *const u8 {
    // SAFETY: it is null or a tensor, says the caller, and so is each that follows from it.
    while let Some(tensor) = unsafe { keys.as_ref() } {
        keys = match tensor {
            tensor if tensor.op == sys::GGML_OP_CPY => tensor.src[0],
            tensor if !tensor.view_src.is_null() => tensor.view_src,
            tensor => return tensor.data.cast_const().cast(),
        };
    }
    std::ptr::null()
}
