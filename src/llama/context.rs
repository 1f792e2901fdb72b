//! What a context is made with, and the making of it.
//!
//! Called by a runner that begins, on the thread that loads the Triton model. Knows nothing of plans.

use std::mem;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;
use serde::{Deserialize, Serialize};

use super::attention::Attention;
use super::runner::RunError;
use super::{CacheType, backend};

/// Making a context may write to the model, so it is done one at a time.
static NEW_CONTEXT: Mutex<()> = Mutex::new(());

/// llama.cpp makes KV caches, and each part of a split one, of multiples of this many cells.
const CELLS_STEP: u64 = 256;

/// When to compute attention the fused way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum FlashAttention {
    /// Where llama.cpp finds it supported.
    #[default]
    Auto,
    On,
    Off,
}

/// How to make a context.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ContextParams {
    /// Sequences at a time, 1 to [`MAX_SLOTS`].
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

/// Why a context cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ContextError {
    #[error("{name} = {value}: must be between {min} and {max}")]
    OutOfRange {
        name: &'static str,
        value: usize,
        min: usize,
        max: usize,
    },
    #[error("llama.cpp cannot make a context of {n_cells} cells: {reason}")]
    Llama { n_cells: usize, reason: String },
    #[error("the first step failed: {0}")]
    WarmUp(RunError),
}

/// The cells that a cache has which is to have `n_cells` in so many equal parts.
pub fn cells_made(n_cells: u64, n_parts: u64) -> u64 {
    let n_cells = n_cells.next_multiple_of(CELLS_STEP);
    let n_part_cells = n_cells / n_parts.max(1);
    n_part_cells.next_multiple_of(CELLS_STEP) * n_parts.max(1)
}

/// Makes a context whose batches may name `n_sequences` sequences.
pub(super) fn new_context(
    model: &'static LlamaModel,
    params: &ContextParams,
    n_sequences: usize,
    n_threads: u32,
    n_threads_batch: u32,
    attention: Option<&Attention>,
) -> Result<LlamaContext<'static>, ContextError> {
    let flash_attention = match params.flash_attention {
        FlashAttention::Auto => sys::LLAMA_FLASH_ATTN_TYPE_AUTO,
        FlashAttention::On => sys::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        FlashAttention::Off => sys::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    };
    // llama.cpp asserts that a batch has an output for each sequence that it may name. It cuts the batch
    // to the cells asked for, before it rounds them up.
    let n_batch = params.n_batch.max(n_sequences);
    let n_parts = if params.kv_unified { 1 } else { n_sequences };
    let n_cells = cells_made(params.n_cells as u64, n_parts as u64);
    let llama_params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(u32::try_from(n_cells).unwrap_or(u32::MAX)))
        .with_n_batch(n_batch as u32)
        .with_n_ubatch(params.n_ubatch.min(params.n_batch) as u32)
        .with_n_seq_max(n_sequences as u32)
        .with_kv_unified(params.kv_unified)
        .with_n_threads(n_threads as i32)
        .with_n_threads_batch(n_threads_batch as i32)
        .with_type_k(params.type_k.into())
        .with_type_v(params.type_v.into())
        .with_flash_attention_policy(flash_attention)
        .with_offload_kqv(params.offload_kqv)
        .with_no_perf(true);
    // SAFETY: in the version pinned, `LlamaContextParams` holds llama.cpp's parameters and nothing else.
    let mut raw: sys::llama_context_params = unsafe { mem::transmute(llama_params) };
    if let Some(attention) = attention {
        attention.attach(&mut raw);
    }
    // SAFETY: as above.
    let llama_params: LlamaContextParams = unsafe { mem::transmute(raw) };
    let _one_at_a_time = NEW_CONTEXT.lock().unwrap_or_else(PoisonError::into_inner);
    let backend = backend::backend().expect("a model was loaded with it");
    backend::take_error();
    model.new_context(backend, llama_params).map_err(|error| {
        let logged = backend::take_error();
        let reason = if logged.is_empty() {
            error.to_string()
        } else {
            logged
        };
        ContextError::Llama {
            n_cells: params.n_cells,
            reason,
        }
    })
}
