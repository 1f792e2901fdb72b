//! Runs plans: the only holder of a llama.cpp context.
//!
//! Owned by a worker thread. A plan's rows are checked against what the context holds before they
//! run, because llama.cpp answers a wrong row with an assertion or by corrupting another sequence's
//! cache. Decides nothing: which tokens run where is the scheduler's.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use super::sampler::{Buffers, SampleError, Sampler};
use super::{CacheType, Model, backend, threads};
use crate::engine::{Plan, Row, Sampled, SequenceId, SlotId, Token};
use crate::protocol::SamplingParams;

/// llama.cpp's limit on sequences of one context.
pub const MAX_SLOTS: usize = 256;

/// Making a context may write to the model, so it is done one at a time.
static NEW_CONTEXT: Mutex<()> = Mutex::new(());

/// When to compute attention the fused way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FlashAttention {
    /// Where llama.cpp finds it supported.
    #[default]
    Auto,
    On,
    Off,
}

/// How to make a context.
#[derive(Clone, PartialEq, Debug)]
pub struct ContextParams {
    /// Sequences at a time, 1 to [`MAX_SLOTS`].
    pub n_slots: usize,
    /// Cells of the KV cache; rounded up to a multiple of 256, for each slot where they are split.
    pub n_cells: usize,
    /// Whether all slots share the cells; else each has an equal part.
    pub kv_unified: bool,
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
}

impl Default for ContextParams {
    fn default() -> Self {
        Self {
            n_slots: 16,
            n_cells: 8192,
            kv_unified: true,
            n_batch: 512,
            n_ubatch: 512,
            n_threads: 0,
            n_threads_batch: 0,
            type_k: CacheType::F16,
            type_v: CacheType::F16,
            flash_attention: FlashAttention::Auto,
            offload_kqv: true,
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

/// Why a plan did not run; what its slots hold is lost, and they must be evicted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RunError {
    #[error("row {row} of the plan: {problem}")]
    Row { row: usize, problem: RowProblem },
    #[error("the plan has {found} {what}, the limit is {limit}")]
    TooMany {
        what: &'static str,
        found: usize,
        limit: usize,
    },
    #[error("the plan evicts slot {slot}, the slots are 0 to {max}")]
    Evict { slot: u16, max: usize },
    #[error("llama.cpp failed to decode {n_rows} rows: code {code} ({meaning})")]
    Decode {
        code: i32,
        n_rows: usize,
        meaning: &'static str,
    },
}

/// What is wrong with a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RowProblem {
    #[error("token {token} is not in the vocabulary of {n_vocab}")]
    Token { token: i32, n_vocab: usize },
    #[error("slot {slot} does not exist, the slots are 0 to {max}")]
    Slot { slot: u16, max: usize },
    #[error("position {found} of slot {slot}, which goes on at {expected}")]
    Position {
        slot: u16,
        found: u32,
        expected: u32,
    },
    #[error("slot {slot} was lost in a failed step and has not been evicted")]
    Lost { slot: u16 },
    #[error("sequence {} is not open", .sequence.0)]
    NotOpen { sequence: SequenceId },
}

/// What the cache holds of a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Held {
    /// Tokens, at positions from 0.
    Tokens(u32),
    /// Nobody knows, since a step failed.
    Lost,
}

/// A context with its model, and the samplers of the open sequences.
///
/// # Invariants
/// `context` borrows the model within `model`, which is neither moved nor dropped before it.
pub struct Runner {
    // Dropped first: fields drop in the order of their declaration.
    context: LlamaContext<'static>,
    model: Arc<Model>,
    batch: LlamaBatch<'static>,
    samplers: HashMap<SequenceId, Sampler>,
    held: Vec<Held>,
    buffers: Buffers,
    failures: Vec<(SequenceId, SampleError)>,
    n_batch: usize,
    n_cells: usize,
    n_threads: u32,
    decode_time: Duration,
}

impl Runner {
    /// Makes the context, with everything it will ever allocate, and runs one step on it.
    pub fn new(model: Arc<Model>, params: &ContextParams) -> Result<Self, ContextError> {
        // Its compressed cache, when unified, throws a C++ exception at a second sequence.
        let max_slots = match model.file().architecture.as_str() {
            "deepseek4" => 1,
            _ => MAX_SLOTS,
        };
        for (name, value, max) in [
            ("n_parallel", params.n_slots, max_slots),
            ("n_ctx", params.n_cells, i32::MAX as usize / 2),
            ("n_batch", params.n_batch, 65_536),
            ("n_ubatch", params.n_ubatch, 65_536),
        ] {
            if value < 1 || value > max {
                return Err(ContextError::OutOfRange {
                    name,
                    value,
                    min: 1,
                    max,
                });
            }
        }
        let model_ptr: *const LlamaModel = model.llama();
        // SAFETY: the model lies in the allocation of `model`, an `Arc` that the runner keeps, so
        // it stays where it is and lives as long as the runner. Nothing hands the context out, and
        // as a field before `model` it is dropped first. Only `&` is ever made of the model.
        let borrowed: &'static LlamaModel = unsafe { &*model_ptr };
        let n_model_bytes = model.file().n_bytes;
        let n_threads = threads::for_model("n_threads", params.n_threads, n_model_bytes);
        let n_threads_batch = match params.n_threads_batch {
            0 => n_threads,
            wish => threads::for_model("n_threads_batch", wish, n_model_bytes),
        };
        let context = new_context(borrowed, params, n_threads, n_threads_batch)?;
        // llama.cpp may round: what counts is what it made.
        let n_batch = params.n_batch.min(context.n_batch() as usize);
        let n_cells = context.n_ctx() as usize;
        let mut runner = Self {
            context,
            batch: LlamaBatch::new(n_batch, 1),
            samplers: HashMap::new(),
            held: vec![Held::Tokens(0); params.n_slots],
            buffers: Buffers::default(),
            failures: Vec::new(),
            n_batch,
            n_cells,
            n_threads,
            decode_time: Duration::ZERO,
            model,
        };
        runner.warm_up().map_err(ContextError::WarmUp)?;
        Ok(runner)
    }

    /// Cells that the KV cache really has: at least what was asked for.
    pub fn n_cells(&self) -> usize {
        self.n_cells
    }

    /// Rows that a plan may have: at most what was asked for.
    pub fn n_batch(&self) -> usize {
        self.n_batch
    }

    /// Threads that steps of single tokens are computed with.
    pub fn n_threads(&self) -> u32 {
        self.n_threads
    }

    /// What llama.cpp has spent on steps so far; the rest of [`Runner::run`] is sampling and checks.
    pub fn decode_time(&self) -> Duration {
        self.decode_time
    }

    /// Makes a sampler for a sequence; its output rows need one.
    pub fn open(&mut self, id: SequenceId, params: &SamplingParams, prompt: &[Token]) {
        let sampler = Sampler::new(params, prompt, self.model.n_vocab());
        self.samplers.insert(id, sampler);
    }

    /// Forgets a sequence's sampler. What its slot holds goes with a plan's `evict`.
    pub fn close(&mut self, id: SequenceId) {
        self.samplers.remove(&id);
    }

    /// The sequences of the last plan for which no token could be chosen.
    ///
    /// They are not among its samples; their neighbours are.
    pub fn failures(&self) -> &[(SequenceId, SampleError)] {
        &self.failures
    }

    /// Runs a plan and returns a sample for each output row, in the order of the rows.
    ///
    /// After an error no slot of the plan may be used until a plan has evicted it.
    pub fn run(&mut self, plan: &Plan) -> Result<Vec<Sampled>, RunError> {
        self.failures.clear();
        let ran = self
            .evict(plan)
            .and_then(|()| self.check(plan))
            .and_then(|()| self.decode(plan));
        if let Err(error) = ran {
            for row in &plan.rows {
                if let Some(held) = self.held.get_mut(usize::from(row.slot.0)) {
                    *held = Held::Lost;
                }
            }
            return Err(error);
        }
        Ok(self.sample(plan))
    }

    fn evict(&mut self, plan: &Plan) -> Result<(), RunError> {
        for &SlotId(slot) in &plan.evict {
            let max = self.held.len() - 1;
            let held = self.held.get_mut(usize::from(slot));
            let held = held.ok_or(RunError::Evict { slot, max })?;
            if *held != Held::Tokens(0) {
                // Removing a whole sequence succeeds for every kind of memory.
                let removed = self
                    .context
                    .clear_kv_cache_seq(Some(u32::from(slot)), None, None);
                debug_assert_eq!(removed, Ok(true));
                *held = Held::Tokens(0);
            }
        }
        Ok(())
    }

    /// Checks all that llama.cpp takes for granted, and fills the batch.
    fn check(&mut self, plan: &Plan) -> Result<(), RunError> {
        let n_outputs = plan.rows.iter().filter(|row| row.output).count();
        for (what, found, limit) in [
            ("rows", plan.rows.len(), self.n_batch),
            ("output rows", n_outputs, self.held.len()),
        ] {
            if found > limit {
                return Err(RunError::TooMany { what, found, limit });
            }
        }
        self.batch.clear();
        for (index, row) in plan.rows.iter().enumerate() {
            self.check_row(row).map_err(|problem| RunError::Row {
                row: index,
                problem,
            })?;
            self.held[usize::from(row.slot.0)] = Held::Tokens(row.pos + 1);
            let (token, pos, slot) = (
                LlamaToken(row.token.0),
                row.pos as i32,
                i32::from(row.slot.0),
            );
            let added = self.batch.add(token, pos, &[slot], row.output);
            added.expect("the batch has room for n_batch rows");
        }
        Ok(())
    }

    fn check_row(&self, row: &Row) -> Result<(), RowProblem> {
        let n_vocab = self.model.n_vocab();
        let (token, slot) = (row.token.0, row.slot.0);
        if !usize::try_from(token).is_ok_and(|id| id < n_vocab) {
            return Err(RowProblem::Token { token, n_vocab });
        }
        match self.held.get(usize::from(slot)) {
            None => {
                return Err(RowProblem::Slot {
                    slot,
                    max: self.held.len() - 1,
                });
            }
            Some(Held::Lost) => return Err(RowProblem::Lost { slot }),
            Some(&Held::Tokens(expected)) if row.pos != expected => {
                return Err(RowProblem::Position {
                    slot,
                    found: row.pos,
                    expected,
                });
            }
            Some(Held::Tokens(_)) => {}
        }
        if row.output && !self.samplers.contains_key(&row.sequence) {
            return Err(RowProblem::NotOpen {
                sequence: row.sequence,
            });
        }
        Ok(())
    }

    fn decode(&mut self, plan: &Plan) -> Result<(), RunError> {
        if plan.rows.is_empty() {
            return Ok(());
        }
        let begin = Instant::now();
        let decoded = self.context.decode(&mut self.batch);
        self.decode_time += begin.elapsed();
        decoded.map_err(|error| {
            let (code, meaning) = match error {
                DecodeError::NoKvCacheSlot => (1, "no room in the KV cache"),
                DecodeError::NTokensZero => (-1, "a bad batch"),
                DecodeError::Unknown(2) => (2, "aborted"),
                DecodeError::Unknown(-2) => (-2, "out of memory"),
                DecodeError::Unknown(-3) => (-3, "the computation failed"),
                DecodeError::Unknown(code) => (code, "unknown"),
            };
            RunError::Decode {
                code,
                n_rows: plan.rows.len(),
                meaning,
            }
        })
    }

    fn sample(&mut self, plan: &Plan) -> Vec<Sampled> {
        let mut samples = Vec::new();
        for (index, row) in plan.rows.iter().enumerate().filter(|(_, row)| row.output) {
            let Some(sampler) = self.samplers.get_mut(&row.sequence) else {
                continue;
            };
            let logits = self.context.get_logits_ith(index as i32);
            let (ends, suppressed) = (self.model.ends(), self.model.suppressed());
            match sampler.sample(logits, ends, suppressed, &mut self.buffers) {
                Ok(token) => samples.push(Sampled {
                    sequence: row.sequence,
                    token,
                    piece: self.model.piece(token),
                    end: self.model.is_end(token),
                }),
                Err(error) => self.failures.push((row.sequence, error)),
            }
        }
        samples
    }

    /// Touches the memory and starts the threads, so that the first request does not wait for it.
    fn warm_up(&mut self) -> Result<(), RunError> {
        let slot = SlotId(0);
        let row = Row {
            sequence: SequenceId(0),
            slot,
            token: Token(0),
            pos: 0,
            output: false,
        };
        let row = Plan {
            evict: Vec::new(),
            rows: vec![row],
        };
        self.run(&row)?;
        self.run(&Plan {
            evict: vec![slot],
            rows: Vec::new(),
        })?;
        Ok(())
    }
}

fn new_context(
    model: &'static LlamaModel,
    params: &ContextParams,
    n_threads: u32,
    n_threads_batch: u32,
) -> Result<LlamaContext<'static>, ContextError> {
    let flash_attention = match params.flash_attention {
        FlashAttention::Auto => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_AUTO,
        FlashAttention::On => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_ENABLED,
        FlashAttention::Off => llama_cpp_sys_2::LLAMA_FLASH_ATTN_TYPE_DISABLED,
    };
    let llama_params = LlamaContextParams::default()
        .with_n_ctx(NonZeroU32::new(params.n_cells as u32))
        .with_n_batch(params.n_batch as u32)
        .with_n_ubatch(params.n_ubatch.min(params.n_batch) as u32)
        .with_n_seq_max(params.n_slots as u32)
        .with_kv_unified(params.kv_unified)
        .with_n_threads(n_threads as i32)
        .with_n_threads_batch(n_threads_batch as i32)
        .with_type_k(params.type_k.into())
        .with_type_v(params.type_v.into())
        .with_flash_attention_policy(flash_attention)
        .with_offload_kqv(params.offload_kqv)
        .with_no_perf(true);
    let _one_at_a_time = NEW_CONTEXT.lock().unwrap_or_else(PoisonError::into_inner);
    backend::take_error();
    model
        .new_context(backend::backend(), llama_params)
        .map_err(|error| {
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
