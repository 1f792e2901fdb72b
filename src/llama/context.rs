//! A context: what it is made with, the making of it, and the calls on it.
//!
//! Made by a runner that begins, on the thread that loads the Triton model; then its worker thread alone
//! calls it. It calls llama.cpp directly: `llama-cpp-2` keeps the pointer that
//! `llama_attach_threadpool` needs to itself. Knows nothing of plans, and checks nothing of what it is
//! given: that is the runner's.

use std::ptr::NonNull;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use llama_cpp_sys_2 as sys;
use serde::{Deserialize, Serialize};

use super::attention::Attention;
use super::error::ContextError;
use super::model::Model;
use super::pool::ComputeThreads;
use super::{CacheType, FlashAttention, lines};

/// Making a context may write to the model, so it is done one at a time.
static NEW_CONTEXT: Mutex<()> = Mutex::new(());

/// llama.cpp makes KV caches, and each part of a split one, of multiples of this many cells.
const CELLS_STEP: u64 = 256;

/// How to make a context.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ContextParams {
    /// Sequences at a time, 1 to [`MAX_SLOTS`](crate::engine::MAX_SLOTS).
    pub n_slots: usize,
    /// Cells of the KV cache; rounded up to a multiple of 256, for each slot where they are split.
    pub n_cells: usize,
    /// Whether all slots share the cells; else each has an equal part.
    pub kv_unified: bool,
    /// Rows with an output that a plan may have on top of one for each slot: those of drafts.
    pub n_draft_rows: usize,
    /// Rows of a plan at most.
    pub n_batch: usize,
    /// Rows that are computed together at most.
    pub n_ubatch: usize,
    /// Threads for steps of single tokens; 0 is automatic.
    pub n_threads: u32,
    /// Threads for prompts; 0 is as many as `n_threads`.
    pub n_threads_batch: u32,
    pub type_k: CacheType,
    pub type_v: CacheType,
    /// Whether attention is computed the fused way; `Auto` leaves it to llama.cpp.
    pub flash_attention: FlashAttention,
    /// Keep the KV cache where the layers are.
    pub offload_kqv: bool,
    /// Compute fused attention here instead of in llama.cpp: for contexts on CPUs alone.
    pub own_attention: bool,
    /// Compute one row, and as many as can be computed together, before the first request: for contexts on
    /// GPUs, whose backend allocates with the first large step and ends the process where it cannot.
    pub full_warm_up: bool,
}

impl Default for ContextParams {
    fn default() -> Self {
        Self {
            n_slots: 16,
            n_cells: 8192,
            kv_unified: true,
            n_draft_rows: 0,
            n_batch: 512,
            n_ubatch: 512,
            n_threads: 0,
            n_threads_batch: 0,
            type_k: CacheType::F16,
            type_v: CacheType::F16,
            flash_attention: FlashAttention::Auto,
            offload_kqv: true,
            own_attention: true,
            full_warm_up: false,
        }
    }
}

/// The cells of a cache that is to have `n_cells` in this many equal parts.
pub fn cells_made(n_cells: u64, n_parts: u64) -> u64 {
    let n_cells = n_cells.next_multiple_of(CELLS_STEP);
    let n_part_cells = n_cells / n_parts.max(1);
    n_part_cells.next_multiple_of(CELLS_STEP) * n_parts.max(1)
}

/// What a context is made with besides its parameters.
pub(super) struct Making<'a> {
    /// Sequences that its batches may name.
    pub(super) n_sequences: usize,
    pub(super) n_threads: u32,
    pub(super) n_threads_batch: u32,
    /// Must outlive the context, and stay where it is.
    pub(super) attention: Option<&'a Attention>,
    /// As many as the larger of both numbers.
    pub(super) threads: ComputeThreads,
}

/// A context of llama.cpp, with the model and the threads that it computes with.
///
/// # Invariants
/// `raw` is a context that llama.cpp made of `model`, owned here. `threads` is attached to it and does
/// not end before it.
pub(super) struct Context {
    raw: NonNull<sys::llama_context>,
    threads: ComputeThreads,
    crowd: Option<Crowd>,
    model: Arc<Model>,
}

/// With how many threads a context computes where fewer change nothing of what comes out.
struct Crowd {
    n_threads: u32,
    n_threads_batch: u32,
    /// How many there were cores for at the last step.
    n_fitting: u32,
}

// SAFETY: llama.cpp's contexts are bound to no thread. All that changes one, or what is read of one,
// needs `&mut`, or is promised to be called by one thread at a time, see `logits`.
unsafe impl Send for Context {}

impl Context {
    pub(super) fn new(
        model: Arc<Model>,
        params: &ContextParams,
        making: Making,
    ) -> Result<Self, ContextError> {
        let raw_params = raw_params(params, &making);
        let _one_at_a_time = NEW_CONTEXT.lock().unwrap_or_else(PoisonError::into_inner);
        lines::take_error();
        // SAFETY: the model is kept for as long as the context; llama.cpp writes to it only here, one at a
        // time. What the parameters point to outlives the context, says the caller.
        let raw = unsafe { sys::llama_init_from_model(model.raw(), raw_params) };
        let Some(raw) = NonNull::new(raw) else {
            let logged = lines::take_error();
            return Err(ContextError::Llama {
                n_cells: params.n_cells,
                reason: match logged.is_empty() {
                    true => "it does not say why".to_owned(),
                    false => logged,
                },
            });
        };
        // Fused attention of llama.cpp's own adds up in an order that depends on their number.
        let is_exact = making.attention.is_some() || params.flash_attention == FlashAttention::Off;
        let crowd = is_exact.then_some(Crowd {
            n_threads: making.n_threads,
            n_threads_batch: making.n_threads_batch,
            n_fitting: u32::MAX,
        });
        let threads = making.threads;
        // SAFETY: both are alive, and the threads are kept until the context has ended.
        unsafe { sys::llama_attach_threadpool(raw.as_ptr(), threads.raw(), threads.raw()) };
        Ok(Self {
            raw,
            threads,
            crowd,
            model,
        })
    }

    /// Rows that may be given at once.
    pub(super) fn n_batch(&self) -> usize {
        // SAFETY: the context is alive, as for all calls below; this one only reads.
        unsafe { sys::llama_n_batch(self.raw.as_ptr()) as usize }
    }

    /// Cells, of all sequences together.
    pub(super) fn n_ctx(&self) -> usize {
        // SAFETY: see `n_batch`.
        unsafe { sys::llama_n_ctx(self.raw.as_ptr()) as usize }
    }

    /// Computes a batch; the error is llama.cpp's code.
    pub(super) fn decode(&mut self, batch: &Batch) -> Result<(), i32> {
        self.fit_threads();
        let begin = Instant::now();
        // SAFETY: the first `n_tokens` entries of the batch are filled in. llama.cpp only reads them.
        let code = unsafe { sys::llama_decode(self.raw.as_ptr(), batch.raw) };
        self.threads.computed(begin.elapsed());
        match code {
            0 => Ok(()),
            code => Err(code),
        }
    }

    /// Threads that a step of single tokens is computed with at present.
    pub(super) fn n_threads(&self) -> u32 {
        // SAFETY: see `n_batch`.
        unsafe { sys::llama_n_threads(self.raw.as_ptr()) as u32 }
    }

    fn fit_threads(&mut self) {
        let n_fitting = self.threads.n_fitting();
        if let Some(crowd) = &mut self.crowd
            && crowd.n_fitting != n_fitting
        {
            crowd.n_fitting = n_fitting;
            let [one, many] =
                [crowd.n_threads, crowd.n_threads_batch].map(|n| n.min(n_fitting) as i32);
            // SAFETY: see `n_batch`; the pool has as many threads, or more.
            unsafe { sys::llama_set_n_threads(self.raw.as_ptr(), one, many) };
        }
    }

    /// The logits after a row of the last batch; `None` if it was not asked for an output.
    ///
    /// At the first call after a batch llama.cpp may still put the rows in order, so all of them are asked
    /// for before any other thread looks at one.
    pub(super) fn logits(&self, row: usize) -> Option<&[f32]> {
        let row = i32::try_from(row).ok()?;
        // SAFETY: the rows that were handed out stay where they are, as their order is made at the first
        // call, and everything that changes them needs `&mut`. The runner calls on one thread.
        let logits = unsafe { sys::llama_get_logits_ith(self.raw.as_ptr(), row) };
        let logits = NonNull::new(logits)?;
        // SAFETY: llama.cpp gives a row of as many numbers as the vocabulary has tokens, valid until the
        // next batch.
        Some(unsafe { slice::from_raw_parts(logits.as_ptr(), self.model.n_vocab()) })
    }

    /// Steps so far whose graph was that of the step before.
    pub(super) fn n_reused_graphs(&self) -> usize {
        // SAFETY: see `n_batch`.
        let numbers = unsafe { sys::llama_perf_context(self.raw.as_ptr()) };
        usize::try_from(numbers.n_reused).unwrap_or(0)
    }

    /// Has a sequence own cells of another too, those of the positions from `start` up to `end`; `None` is
    /// all from the beginning, or up to the end.
    pub(super) fn share(&mut self, from: i32, to: i32, start: Option<u32>, end: Option<u32>) {
        // SAFETY: the sequences are below the numbers that the context was made for, say the slots.
        unsafe {
            sys::llama_memory_seq_cp(self.memory(), from, to, position(start), position(end))
        };
    }

    /// Takes a sequence's cells from a position on, or all; `false` where its memory cannot be cut there.
    #[must_use]
    pub(super) fn clear(&mut self, sequence: i32, start: Option<u32>) -> bool {
        // SAFETY: see `share`.
        unsafe { sys::llama_memory_seq_rm(self.memory(), sequence, position(start), -1) }
    }

    /// Copies all that a sequence holds to host memory.
    pub(super) fn save(&mut self, sequence: i32) -> Option<State> {
        // SAFETY: see `share`.
        let n_bytes = unsafe { sys::llama_state_seq_get_size_ext(self.raw.as_ptr(), sequence, 0) };
        let mut bytes = vec![0; n_bytes];
        // SAFETY: llama.cpp writes no more than it is told that there is room for.
        let n_written = unsafe {
            sys::llama_state_seq_get_data_ext(
                self.raw.as_ptr(),
                bytes.as_mut_ptr(),
                n_bytes,
                sequence,
                0,
            )
        };
        (n_written == n_bytes).then_some(State(bytes))
    }

    /// The way back of [`Context::save`]; `false` where llama.cpp refuses it.
    #[must_use]
    pub(super) fn load(&mut self, state: &State, sequence: i32) -> bool {
        let State(bytes) = state;
        // SAFETY: the bytes are what a context of the same shape has written, as nobody else makes a state.
        let n_read = unsafe {
            sys::llama_state_seq_set_data_ext(
                self.raw.as_ptr(),
                bytes.as_ptr(),
                bytes.len(),
                sequence,
                0,
            )
        };
        n_read == bytes.len()
    }

    fn memory(&self) -> sys::llama_memory_t {
        // SAFETY: see `n_batch`.
        unsafe { sys::llama_get_memory(self.raw.as_ptr()) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: the context is alive, owned here and used no more; its threads and its model end after it.
        unsafe {
            sys::llama_detach_threadpool(self.raw.as_ptr());
            sys::llama_free(self.raw.as_ptr());
        }
    }
}

/// What a sequence held, as llama.cpp writes it.
pub(super) struct State(Vec<u8>);

/// Positions are below 2^31: there are fewer cells.
fn position(position: Option<u32>) -> sys::llama_pos {
    position.map_or(-1, |position| position as sys::llama_pos)
}

fn raw_params(params: &ContextParams, making: &Making) -> sys::llama_context_params {
    // SAFETY: the call only returns a value.
    let mut raw = unsafe { sys::llama_context_default_params() };
    // llama.cpp asserts that a batch has an output for each sequence that it may name. It cuts the batch
    // to the cells asked for, before it rounds them up.
    let n_parts = if params.kv_unified {
        1
    } else {
        making.n_sequences
    };
    let n_cells = cells_made(params.n_cells as u64, n_parts as u64);
    raw.n_ctx = u32::try_from(n_cells).unwrap_or(u32::MAX);
    raw.n_batch = params.n_batch.max(making.n_sequences) as u32;
    raw.n_ubatch = params.n_ubatch.min(params.n_batch) as u32;
    raw.n_seq_max = making.n_sequences as u32;
    raw.kv_unified = params.kv_unified;
    raw.n_threads = making.n_threads as i32;
    raw.n_threads_batch = making.n_threads_batch as i32;
    raw.type_k = params.type_k.raw();
    raw.type_v = params.type_v.raw();
    raw.flash_attn_type = match params.flash_attention {
        FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
        FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    };
    raw.offload_kqv = params.offload_kqv;
    raw.no_perf = true;
    if let Some(attention) = making.attention {
        attention.attach(&mut raw);
    }
    raw
}

/// Rows for a context.
///
/// # Invariants
/// `raw` has room for `n_max` rows of one sequence each, and its first `n_tokens` are filled in.
pub(super) struct Batch {
    raw: sys::llama_batch,
    n_max: usize,
}

// SAFETY: it owns plain memory.
unsafe impl Send for Batch {}

impl Batch {
    /// `n_max` is at most 65,536.
    pub(super) fn new(n_max: usize) -> Self {
        // SAFETY: the call allocates memory for as many rows.
        let raw = unsafe { sys::llama_batch_init(n_max as i32, 0, 1) };
        Self { raw, n_max }
    }

    pub(super) fn clear(&mut self) {
        self.raw.n_tokens = 0;
    }

    /// Adds a row.
    ///
    /// # Panics
    /// Where there is no room left.
    pub(super) fn add(&mut self, token: i32, position: u32, sequence: i32, output: bool) {
        let index = self.raw.n_tokens as usize;
        assert!(index < self.n_max, "the batch has room for n_batch rows");
        // SAFETY: the index is below the number of rows that there is room for.
        unsafe {
            self.raw.token.add(index).write(token);
            self.raw.pos.add(index).write(position as sys::llama_pos);
            self.raw.n_seq_id.add(index).write(1);
            self.raw.seq_id.add(index).read().write(sequence);
            self.raw.logits.add(index).write(i8::from(output));
        }
        self.raw.n_tokens += 1;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: llama.cpp allocated it, and nobody uses it any more.
        unsafe { sys::llama_batch_free(self.raw) };
    }
}
