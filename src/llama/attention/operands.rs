//! What a node of attention is computed from: where it lies, in which shape and type.
//!
//! Knows llama.cpp's tensors, and nothing of how attention is computed.

use std::ffi::{c_int, c_void};
use std::slice;

use llama_cpp_sys_2 as sys;

use super::STRIP;

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

/// One tensor: its numbers, of `kind`, those of dimension 0 one after the other.
#[derive(Clone, Copy)]
pub(super) struct Tensor {
    pub(super) data: *const u8,
    pub(super) kind: sys::ggml_type,
    pub(super) ne: [usize; 4],
    pub(super) nb: [usize; 4],
}

/// The sources and the result of one node.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    /// Numbers, rows, heads, streams; f32.
    pub(super) q: Tensor,
    /// Numbers, cells, groups of heads, streams; of any type that can be made f32.
    pub(super) k: Tensor,
    /// As `k`, with as many numbers as the result has.
    pub(super) v: Tensor,
    /// Cells, rows, 1, streams; f16, 0 where a row looks at a cell and negative infinity elsewhere.
    pub(super) mask: Tensor,
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
    pub(super) fn of_flash(node: &sys::ggml_tensor) -> Option<Self> {
        let [scale, max_bias, softcap] = [0, 1, 2].map(|at| param(node, at));
        let operands = Self::new(node, scale, softcap, None)?;
        (max_bias == 0.0).then_some(operands)
    }

    /// Those of a node with parameters of [`Operands::write_params`].
    pub(super) fn of_replaced(node: &sys::ggml_tensor) -> Option<Self> {
        let cache = usize::try_from(node.op_params[CACHE]).ok();
        Self::new(node, param(node, SCALE), param(node, SOFTCAP), cache)
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
        // SAFETY: the parameters have room for it, as asserted.
        unsafe { place.write_unaligned(params) };
        node.op_params[SCALE] = scale;
        node.op_params[SOFTCAP] = softcap;
        Self::write_cache(node, None);
    }

    /// Notes, in a node with parameters of [`Operands::write_params`], which cache it looks at.
    pub(super) fn write_cache(node: &mut sys::ggml_tensor, cache: Option<usize>) {
        node.op_params[CACHE] = cache.map_or(-1, |cache| cache as i32);
    }

    fn new(
        node: &sys::ggml_tensor,
        scale: f32,
        softcap: f32,
        cache: Option<usize>,
    ) -> Option<Self> {
        let [q, k, v, mask] = [0, 1, 2, 3].map(|at| tensor(node.src[at]));
        let (q, k, v, mask) = (q?, k?, v?, mask?);
        let sinks = node.src[4];
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
            && node.nb[1] == n_values * size_of::<f32>()
            && node.nb[2] == n_heads * node.nb[1]
            && node.nb[3] == n_rows * node.nb[2];
        is_known.then_some(Self {
            q,
            k,
            v,
            mask,
            // SAFETY: where there are sinks, llama.cpp has checked that they are f32, one for each head.
            sinks: (!sinks.is_null()).then(|| unsafe { (*sinks).data }.cast::<f32>().cast_const()),
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
        let n_numbers = self.q.ne[0];
        // SAFETY: llama.cpp has the tensor in memory in this shape, computed and aligned.
        unsafe { slice::from_raw_parts(self.q.at([row, head, stream]).cast(), n_numbers) }
    }

    /// What a row says of the cells.
    pub(super) fn mask(&self, row: usize, stream: usize) -> &[u16] {
        let n_cells = self.mask.ne[0];
        // SAFETY: as above.
        unsafe { slice::from_raw_parts(self.mask.at([row, 0, stream]).cast(), n_cells) }
    }

    pub(super) fn sink(&self, head: usize) -> Option<f32> {
        // SAFETY: there is one for each head.
        self.sinks.map(|sinks| unsafe { *sinks.add(head) })
    }

    /// Writes the result of a row and head, all its numbers.
    ///
    /// # Safety
    /// Nobody else writes it.
    pub(super) unsafe fn write(
        &self,
        [row, head, stream]: [usize; 3],
        numbers: impl Iterator<Item = f32>,
    ) {
        let n_values = self.v.ne[0];
        let idx = (stream * self.n_rows() + row) * self.n_heads() + head;
        for (at, number) in numbers.take(n_values).enumerate() {
            // SAFETY: the result is contiguous and has so many numbers.
            unsafe { self.out.add(idx * n_values + at).write(number) };
        }
    }
}

impl Tensor {
    /// The bytes of dimension 0.
    pub(super) fn row_bytes(&self) -> usize {
        // SAFETY: it looks a valid type up in a constant table.
        unsafe { sys::ggml_row_size(self.kind, self.ne[0] as i64) }
    }

    /// The first number at an index in dimensions 1 to 3.
    pub(super) fn at(&self, [i1, i2, i3]: [usize; 3]) -> *const u8 {
        debug_assert!(i1 < self.ne[1] && i2 < self.ne[2] && i3 < self.ne[3]);
        // SAFETY: llama.cpp has the tensor in memory in this shape.
        unsafe {
            self.data
                .add(i1 * self.nb[1] + i2 * self.nb[2] + i3 * self.nb[3])
        }
    }
}

/// A tensor whose numbers can be read; `None` where there is none.
fn tensor(tensor: *const sys::ggml_tensor) -> Option<Tensor> {
    // SAFETY: a source is null or a tensor of the graph.
    let tensor = unsafe { tensor.as_ref()? };
    // SAFETY: both only look a valid type up in a constant table.
    let (n_bytes, to_float) = unsafe {
        let traits = &*sys::ggml_get_type_traits(tensor.type_);
        (sys::ggml_type_size(tensor.type_), traits.to_float)
    };
    let can_be_read = tensor.type_ == sys::GGML_TYPE_F32 || to_float.is_some();
    (can_be_read && tensor.nb[0] == n_bytes).then(|| Tensor {
        data: tensor.data.cast_const().cast(),
        kind: tensor.type_,
        ne: tensor.ne.map(|n| n as usize),
        nb: tensor.nb,
    })
}

fn param(node: &sys::ggml_tensor, at: usize) -> f32 {
    f32::from_bits(node.op_params[at].cast_unsigned())
}
