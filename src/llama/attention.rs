//! Attention on CPUs, in place of llama.cpp's own.
//!
//! llama.cpp calls [`replace`] for each node of a graph that it is about to compute, on the worker
//! thread, and [`compute`] on all threads that compute it. Its own kernel looks at every cell of the
//! cache for each row and head, also at those of other sequences, one number at a time; this one finds
//! once a step which cells a row looks at, and computes for all heads that share keys, and for all rows
//! that look at the same cells, together. What comes of a row is the same to the bit, whoever is computed
//! beside it and wherever its cells are. A node that it does not know stays as it is.

mod cells;
mod instructions;
mod kernel;
#[cfg(target_arch = "aarch64")]
mod neon;
mod operands;
mod positions;
mod products;
mod read;
mod scalar;
mod softmax;
mod strip;
mod visible;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::ffi::{c_int, c_void};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use llama_cpp_sys_2 as sys;

use instructions::Instructions;
use kernel::Buffers;
use operands::Operands;
use positions::Positions;
pub(super) use positions::Print;
use strip::STRIP;
use visible::Visible;

/// Whether fused attention with heads of this many numbers is computed here, on contexts that ask for it.
///
/// A model with ALiBi keeps llama.cpp's all the same.
pub fn computes_heads(key_length: u32, value_length: u32) -> bool {
    let is_whole = |length: u32| (length as usize).is_multiple_of(STRIP);
    is_whole(key_length) && is_whole(value_length)
}

/// What the attention of one context needs from step to step.
///
/// llama.cpp has its address: it must stay where it is, and outlive the context.
pub(super) struct Attention {
    instructions: Instructions,
    /// Counts the nodes seen: what was found out of a mask holds until the next one is.
    generation: AtomicU64,
    has_failed: AtomicBool,
    /// `None` where each sequence has cells of its own, which it fills in order.
    positions: Option<RwLock<Positions>>,
    threads: Vec<Mutex<Scratch>>,
}

/// What one thread keeps.
#[derive(Default)]
struct Scratch {
    generation: u64,
    visible: Vec<Visible>,
    buffers: Buffers,
}

impl Attention {
    /// For graphs computed by at most `n_threads` threads, on cells that all sequences share or not.
    pub(super) fn new(n_threads: u32, is_shared: bool) -> Box<Self> {
        Self::with(Instructions::best(), n_threads, is_shared)
    }

    fn with(instructions: Instructions, n_threads: u32, is_shared: bool) -> Box<Self> {
        Box::new(Self {
            instructions,
            generation: AtomicU64::new(0),
            has_failed: AtomicBool::new(false),
            positions: is_shared.then(RwLock::default),
            threads: (0..n_threads).map(|_| Mutex::default()).collect(),
        })
    }

    /// Has the context that is made with these parameters compute its attention here.
    pub(super) fn attach(&self, params: &mut sys::llama_context_params) {
        params.cb_eval = Some(replace);
        params.cb_eval_user_data = (&raw const *self).cast_mut().cast();
    }

    /// Whether something went wrong since the last call: what was computed is of no use then.
    pub(super) fn take_failure(&self) -> bool {
        self.has_failed.swap(false, Ordering::Relaxed)
    }

    /// What the cells of the rows computed since the last call are known by when they come back, row by
    /// row; between steps.
    pub(super) fn take_prints(&self) -> Vec<Print> {
        let positions = self.positions.as_ref().map(writing);
        positions.map_or_else(Vec::new, |mut positions| positions.take_new())
    }

    /// Looks for cells of positions from `start` on, which came back to the cache; between steps.
    pub(super) fn recognize(&self, start: u32, prints: &[Print]) {
        if let Some(positions) = &self.positions {
            writing(positions).recognize(start, prints);
        }
    }

    fn compute(&self, operands: &Operands, thread_idx: usize, n_threads: usize) {
        let generation = self.generation.load(Ordering::Relaxed);
        let scratch = &self.threads[thread_idx];
        let mut scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
        let Scratch {
            generation: last,
            visible,
            buffers,
        } = &mut *scratch;
        if *last != generation {
            *last = generation;
            visible.clear();
        }
        if !visible.iter().any(|visible| visible.is_for(operands)) {
            let positions = self.positions.as_ref().map(reading);
            let positions = positions.as_ref().map(|all| all.of(operands.cache));
            let found = Visible::find(
                operands,
                positions.unwrap_or_default(),
                thread_idx,
                n_threads,
            );
            visible.push(found);
        }
        let visible = visible.iter().find(|visible| visible.is_for(operands));
        let visible = visible.expect("it was found if it was not known");
        kernel::run(self.instructions, operands, visible, buffers);
    }
}

/// llama.cpp's question whether somebody wants to see a node: never, but some are given another way to
/// be computed, for which their parameters make room.
///
/// # Safety
/// `node` is a node of a graph that llama.cpp has allocated in the memory of this process and is about to
/// compute, and nobody else looks at it. It asks for the nodes of a graph in the order of their computation.
/// `attention` is an [`Attention`], that of the node's context.
unsafe extern "C" fn replace(
    node: *mut sys::ggml_tensor,
    _is_question: bool,
    attention: *mut c_void,
) -> bool {
    // SAFETY: both are what they are said to be, and nobody else looks at the node.
    let (node, this) = unsafe { (&mut *node, &*attention.cast::<Attention>()) };
    let seen = panic::catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: it is a node of such a graph, and nothing of what is found is kept.
        let is_known = || unsafe { Operands::of_flash(node) }.is_some();
        if node.op == sys::GGML_OP_FLASH_ATTN_EXT && is_known() {
            Operands::write_params(node, compute, attention);
            node.op = sys::GGML_OP_CUSTOM;
        }
        if node.op == sys::GGML_OP_CUSTOM {
            this.generation.fetch_add(1, Ordering::Relaxed);
        }
        let Some(positions) = &this.positions else {
            return;
        };
        let mut positions = writing(positions);
        match node.op {
            // SAFETY: it is a node of such a graph, asked for in its order.
            sys::GGML_OP_CUSTOM => Operands::write_cache(node, unsafe { positions.cache_of(node) }),
            // SAFETY: as above.
            _ => unsafe { positions.note(node) },
        }
    }));
    if seen.is_err() {
        this.has_failed.store(true, Ordering::Relaxed);
    }
    false
}

fn reading(positions: &RwLock<Positions>) -> RwLockReadGuard<'_, Positions> {
    positions.read().unwrap_or_else(PoisonError::into_inner)
}

fn writing(positions: &RwLock<Positions>) -> RwLockWriteGuard<'_, Positions> {
    positions.write().unwrap_or_else(PoisonError::into_inner)
}

/// One thread's part of a node.
///
/// # Safety
/// `node` was changed by [`replace`], and its sources are computed. Nobody writes to it, to them or to its
/// sources' numbers before all threads are done, which call this once for each number below `n_threads`. Nobody
/// else reads or writes its result meanwhile. `attention` is the [`Attention`] that `replace` was given.
unsafe extern "C" fn compute(
    node: *mut sys::ggml_tensor,
    thread_idx: c_int,
    n_threads: c_int,
    attention: *mut c_void,
) {
    // SAFETY: both are what they are said to be, and nobody writes to either but through its locks.
    let (node, this) = unsafe { (&*node, &*attention.cast::<Attention>()) };
    let computed = panic::catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: `replace` was given a node of such a graph, and what is found is dropped as this ends.
        let operands = unsafe { Operands::of_replaced(node) };
        let operands = operands.expect("it was known when it was replaced");
        this.compute(&operands, thread_idx as usize, n_threads as usize);
    }));
    if computed.is_err() {
        this.has_failed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
