//! What a node of attention is computed from: where it lies, in which shape and type.
//!
//! Knows llama.cpp's tensors, and nothing of how attention is computed.

use std::ffi::{c_int, c_void};
use std::slice;

use llama_cpp_sys_2 as sys;

use super::strip::STRIP;

/// Where, among a node's parameters, those are kept that a custom node has no place for.
const SCALE: usize = 8;
const SOFTCAP: usize = 9;
const CACHE: usize = 10;

/// llama.cpp's number of tasks that stands for as many as there are threads.
const ALL_THREADS: c_int = -1;

type Function = unsafe extern "C" fn(*mut sys::ggml_tensor, c_int, c_int, *mut c_void);

/// The parameters of a custom node, as llama.cpp lays them out.
#[repr(C)]
struct CustomParams {
    function: Function,
    n_tasks: c_int,
    user_data: *mut c_void,
}

/// One source of a node: its numbers, of `kind`, those of dimension 0 one after the other.
///
/// # Invariants
/// At each index below `ne` in dimensions 1 to 3 lie `ne[0]` numbers, in one allocation: as long as the node is
/// computed, they can be read. `data` and `nb` are multiples of a number's alignment.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub(super) data: *const u8,
    pub(super) kind: sys::ggml_type,
    pub(super) ne: [usize; 4],
    pub(super) nb: [usize; 4],
}

/// The sources and the result of one node.
///
/// # Invariants
/// As long as the node is computed, `out` has room for the result, one row behind the other, and `sinks` a
/// number for each head; both are aligned.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// Numbers, rows, heads, streams; f32.
    pub(super) q: Operand,
    /// Numbers, cells, groups of heads, streams; of any type that can be made f32.
    pub(super) k: Operand,
    /// As `k`, with as many numbers as the result has.
    pub(super) v: Operand,
    /// Cells, rows, 1, streams; f16, 0 where a row looks at a cell and negative infinity elsewhere.
    pub(super) mask: Operand,
    /// For each head a score that takes part with no value.
    sinks: Option<*const f32>,
    out: *mut f32,
    pub(super) scale: f32,
    /// Scores are bent so that they stay below this; 0 leaves them.
    pub(super) softcap: f32,
    /// Which cache `k` and `v` are of, if that is known.
    pub(super) cache: Option<usize>,
}

impl Operands {
    /// Those of llama.cpp's own node; `None` where it is of a kind that is not computed here.
    ///
    /// # Safety
    /// It is a node of a graph that llama.cpp has allocated in the memory of this process: its sources are null
    /// or such tensors too. What is returned is used no longer than the node may be computed.
    pub(super) unsafe fn of_flash(node: &sys::ggml_tensor) -> Option<Self> {
        let [scale, max_bias, softcap] = [0, 1, 2].map(|at| param(node, at));
        // SAFETY: as the caller says.
        let operands = unsafe { Self::new(node, scale, softcap, None) }?;
        (max_bias == 0.0).then_some(operands)
    }

    /// Those of a node with parameters of [`Operands::write_params`].
    ///
    /// # Safety
    /// As for [`Operands::of_flash`].
    pub(super) unsafe fn of_replaced(node: &sys::ggml_tensor) -> Option<Self> {
        let cache = usize::try_from(node.op_params[CACHE]).ok();
        // SAFETY: as the caller says.
        unsafe { Self::new(node, param(node, SCALE), param(node, SOFTCAP), cache) }
    }

    /// Makes llama.cpp's own parameters those of a custom node that all threads compute.
    pub(super) fn write_params(
        node: &mut sys::ggml_tensor,
        function: Function,
        user_data: *mut c_void,
    ) {
        let [scale, softcap] = [node.op_params[0], node.op_params[2]];
        let params = CustomParams {
            function,
            n_tasks: ALL_THREADS,
            user_data,
        };
        const { assert!(size_of::<CustomParams>() <= SCALE * size_of::<i32>()) };
        let place = (&raw mut node.op_params).cast::<CustomParams>();
        // SAFETY: `op_params` are numbers, any of which may be written, and have room for `CustomParams` before
        // `SCALE`, as asserted; they need not be aligned for it.
        unsafe { place.write_unaligned(params) };
        node.op_params[SCALE] = scale;
        node.op_params[SOFTCAP] = softcap;
        Self::write_cache(node, None);
    }

    /// Notes, in a node with parameters of [`Operands::write_params`], which cache it looks at.
    pub(super) fn write_cache(node: &mut sys::ggml_tensor, cache: Option<usize>) {
        node.op_params[CACHE] = cache.map_or(-1, |cache| cache as i32);
    }

    /// # Safety
    /// As for [`Operands::of_flash`].
    unsafe fn new(
        node: &sys::ggml_tensor,
        scale: f32,
        softcap: f32,
        cache: Option<usize>,
    ) -> Option<Self> {
        // SAFETY: the sources are null or tensors in the memory of this process, says the caller.
        let source = |at: usize| unsafe { operand(node.src[at]) };
        let (q, k, v, mask) = (source(0)?, source(1)?, source(2)?, source(3)?);
        let sinks = source(4);
        let [n_values, n_heads, n_rows, n_streams] = node.ne.map(|n| n as usize);
        let [n_numbers, n_cells, n_groups, _] = k.ne;
        let is_known = q.kind == sys::GGML_TYPE_F32
            && mask.kind == sys::GGML_TYPE_F16
            && q.ne == [n_numbers, n_rows, n_heads, n_streams]
            && k.ne == [n_numbers, n_cells, n_groups, n_streams]
            && v.ne == [n_values, n_cells, n_groups, n_streams]
            && mask.ne[0] == n_cells
            && mask.ne[1] >= n_rows
            && mask.ne[2..] == [1, n_streams]
            && n_heads % n_groups.max(1) == 0
            && n_groups > 0
            && n_numbers % STRIP == 0
            && n_values % STRIP == 0
            && sinks.is_none_or(|sinks| sinks.kind == sys::GGML_TYPE_F32 && sinks.ne[0] == n_heads)
            && sinks.is_none() == node.src[4].is_null()
            && node.data.cast::<f32>().is_aligned()
            && node.nb[1] == n_values * size_of::<f32>()
            && node.nb[2] == n_heads * node.nb[1]
            && node.nb[3] == n_rows * node.nb[2];
        is_known.then_some(Self {
            q,
            k,
            v,
            mask,
            sinks: sinks.map(|sinks| sinks.data.cast()),
            out: node.data.cast(),
            scale,
            softcap,
            cache,
        })
    }

    pub(super) fn n_rows(&self) -> usize {
        self.q.ne[1]
    }

    pub(super) fn n_heads(&self) -> usize {
        self.q.ne[2]
    }

    /// Heads that share keys and values.
    pub(super) fn n_heads_per_group(&self) -> usize {
        self.q.ne[2] / self.k.ne[2]
    }

    pub(super) fn n_streams(&self) -> usize {
        self.q.ne[3]
    }

    pub(super) fn query(&self, row: usize, head: usize, stream: usize) -> &[f32] {
        assert!(self.q.has([row, head, stream]));
        let numbers = self.q.at([row, head, stream]).cast();
        // SAFETY: the index is in the operand, so `ne[0]` numbers lie there, of its kind, which is f32.
        unsafe { slice::from_raw_parts(numbers, self.q.ne[0]) }
    }

    /// What a row says of the cells.
    pub(super) fn mask(&self, row: usize, stream: usize) -> &[u16] {
        assert!(self.mask.has([row, 0, stream]));
        let cells = self.mask.at([row, 0, stream]).cast();
        // SAFETY: as above; the mask is of f16, each of which has the bits of a u16.
        unsafe { slice::from_raw_parts(cells, self.mask.ne[0]) }
    }

    pub(super) fn sink(&self, head: usize) -> Option<f32> {
        assert!(head < self.n_heads());
        // SAFETY: there is one for each head.
        self.sinks.map(|sinks| unsafe { *sinks.add(head) })
    }

    /// Writes the result of a row and head, all its numbers.
    ///
    /// # Safety
    /// Nobody else reads or writes the result of this row and head meanwhile.
    pub(super) unsafe fn write(
        &self,
        [row, head, stream]: [usize; 3],
        numbers: impl Iterator<Item = f32>,
    ) {
        assert!(self.q.has([row, head, stream]));
        let n_values = self.v.ne[0];
        let idx = (stream * self.n_rows() + row) * self.n_heads() + head;
        for (at, number) in numbers.take(n_values).enumerate() {
            // SAFETY: the result has `n_values` numbers for each of the `idx` rows and heads before this one, as
            // it is contiguous, and for this one, of which `at` is one.
            unsafe { self.out.add(idx * n_values + at).write(number) };
        }
    }
}

impl Operand {
    /// The bytes of dimension 0.
    pub(super) fn row_bytes(&self) -> usize {
        // SAFETY: the call looks a kind up in ggml's constant table, and this one was read from a tensor.
        unsafe { sys::ggml_row_size(self.kind, self.ne[0] as i64) }
    }

    /// Whether there is such an index in dimensions 1 to 3.
    fn has(&self, [i1, i2, i3]: [usize; 3]) -> bool {
        i1 < self.ne[1] && i2 < self.ne[2] && i3 < self.ne[3]
    }

    /// Where the first number at an index in dimensions 1 to 3 is, if there is such an index.
    pub(super) fn at(&self, [i1, i2, i3]: [usize; 3]) -> *const u8 {
        self.data
            .wrapping_add(i1 * self.nb[1] + i2 * self.nb[2] + i3 * self.nb[3])
    }
}

/// A tensor whose numbers can be read; `None` where there is none.
///
/// # Safety
/// It is null or a tensor that llama.cpp has allocated in the memory of this process.
unsafe fn operand(tensor: *const sys::ggml_tensor) -> Option<Operand> {
    // SAFETY: it is null or a tensor, says the caller.
    let tensor = unsafe { tensor.as_ref()? };
    // SAFETY: both only look a tensor's kind up in ggml's constant table.
    let (n_bytes, to_float) = unsafe {
        let traits = &*sys::ggml_get_type_traits(tensor.type_);
        (sys::ggml_type_size(tensor.type_), traits.to_float)
    };
    let alignment = match tensor.type_ {
        sys::GGML_TYPE_F32 => align_of::<f32>(),
        sys::GGML_TYPE_F16 => align_of::<u16>(),
        // Read byte by byte.
        _ => 1,
    };
    let is_aligned = tensor.data.addr().is_multiple_of(alignment)
        && tensor.nb.iter().all(|n| n.is_multiple_of(alignment));
    let can_be_read = tensor.type_ == sys::GGML_TYPE_F32 || to_float.is_some();
    (can_be_read && is_aligned && tensor.nb[0] == n_bytes).then(|| Operand {
        data: tensor.data.cast_const().cast(),
        kind: tensor.type_,
        ne: tensor.ne.map(|n| n as usize),
        nb: tensor.nb,
    })
}

fn param(node: &sys::ggml_tensor, at: usize) -> f32 {
    f32::from_bits(node.op_params[at].cast_unsigned())
}
