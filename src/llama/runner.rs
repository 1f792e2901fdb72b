//! Runs plans: the only holder of a llama.cpp context.
//!
//! Owned by a worker thread. A plan's rows are checked against what the context holds before they
//! run, because llama.cpp answers a wrong row with an assertion or by corrupting another sequence's
//! cache. Decides nothing: which tokens run where is the scheduler's.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use super::sampler::{SampleError, Sampler, SamplingThreads};
use super::{CacheType, Model, backend, threads};
use crate::engine::{CacheOp, Plan, Row, Sampled, SequenceId, Sharing, SlotId, Token};
use crate::protocol::SamplingParams;

/// llama.cpp's limit on sequences of one context.
pub const MAX_SLOTS: usize = 256;

/// Its compressed cache, when unified, throws a C++ exception at a second sequence.
const SINGLE_SEQUENCE: &str = "deepseek4";

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

const NO_SUCH_SLOT: &str = "there is no such slot";
const TOO_FEW_TOKENS: &str = "the slot holds fewer tokens";

/// Why a plan did not run; what its rows' slots hold is lost, and they must be emptied.
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
    #[error("{op:?} cannot be done: {problem}")]
    Cache { op: CacheOp, problem: &'static str },
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
    #[error("slot {slot} was lost in a failed step and has not been emptied")]
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

/// One sequence's part in sampling a step: its output rows, and what came of each.
struct SamplingJob<'a> {
    sequence: SequenceId,
    sampler: &'a mut Sampler,
    rows: Vec<(usize, &'a [f32])>,
    chosen: Vec<(usize, SequenceId, Result<Token, SampleError>)>,
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
    sampling: SamplingThreads,
    failures: Vec<(SequenceId, SampleError)>,
    sharing: Sharing,
    n_slots: usize,
    n_batch: usize,
    n_cells: usize,
    n_threads: u32,
}

impl Runner {
    /// Makes the context, with everything it will ever allocate, and runs one step on it.
    pub fn new(model: Arc<Model>, params: &ContextParams) -> Result<Self, ContextError> {
        let is_single = model.file().architecture == SINGLE_SEQUENCE;
        let max_slots = if is_single { 1 } else { MAX_SLOTS };
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
        let sharing = match is_single || !params.kv_unified {
            true => Sharing::None,
            false => model.sharing(),
        };
        // A recurrent state is memory of its own, made for each sequence that may run.
        let n_kept = match sharing == Sharing::None || model.has_states() {
            true => 0,
            false => MAX_SLOTS - params.n_slots,
        };
        let mut runner = Self {
            context,
            batch: LlamaBatch::new(n_batch, 1),
            samplers: HashMap::new(),
            held: vec![Held::Tokens(0); params.n_slots + n_kept],
            sampling: SamplingThreads::new(params.n_slots.min(n_threads as usize)),
            failures: Vec::new(),
            sharing,
            n_slots: params.n_slots,
            n_batch,
            n_cells,
            n_threads,
            model,
        };
        runner.warm_up().map_err(ContextError::WarmUp)?;
        Ok(runner)
    }

    /// Cells that the KV cache really has: at least what was asked for.
    pub fn n_cells(&self) -> usize {
        self.n_cells
    }

    /// What the sequences of this context may share.
    pub fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// Slots beyond those that may have rows: they can only share what others have computed.
    pub fn n_kept(&self) -> usize {
        self.held.len() - self.n_slots
    }

    /// Rows that a plan may have: at most what was asked for.
    pub fn n_batch(&self) -> usize {
        self.n_batch
    }

    /// Threads that steps of single tokens are computed with.
    pub fn n_threads(&self) -> u32 {
        self.n_threads
    }

    /// Makes a sampler for a sequence; its output rows need one.
    pub fn open(&mut self, id: SequenceId, params: &SamplingParams, prompt: &[Token]) {
        let sampler = Sampler::new(params, prompt, self.model.n_vocab());
        self.samplers.insert(id, sampler);
    }

    /// Forgets a sequence's sampler. What its slot holds goes with a [`CacheOp`].
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
    /// After an error no slot of the plan's rows may be used until a plan has emptied it; what the plan
    /// does to the cache is done all the same.
    pub fn run(&mut self, plan: &Plan) -> Result<Vec<Sampled>, RunError> {
        self.failures.clear();
        let ran = self
            .change_cache(plan)
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

    fn change_cache(&mut self, plan: &Plan) -> Result<(), RunError> {
        for &op in &plan.cache {
            let done = match op {
                CacheOp::Keep { slot, n_tokens } => self.keep(slot, n_tokens),
                CacheOp::Share { from, to, n_tokens } => self.share(from, to, n_tokens),
            };
            done.map_err(|problem| RunError::Cache { op, problem })?;
        }
        Ok(())
    }

    fn keep(&mut self, slot: SlotId, n_tokens: u32) -> Result<(), &'static str> {
        let held = self.held.get_mut(usize::from(slot.0));
        let held = held.ok_or(NO_SUCH_SLOT)?;
        let kept = Held::Tokens(n_tokens);
        match *held {
            Held::Tokens(n_held) if n_held < n_tokens => return Err(TOO_FEW_TOKENS),
            Held::Lost if n_tokens > 0 => return Err(TOO_FEW_TOKENS),
            held if held == kept => return Ok(()),
            _ => *held = kept,
        }
        let start = (n_tokens > 0).then_some(n_tokens);
        match self
            .context
            .clear_kv_cache_seq(Some(u32::from(slot.0)), start, None)
        {
            Ok(true) => Ok(()),
            _ => {
                self.held[usize::from(slot.0)] = Held::Lost;
                Err("the memory of this model cannot be cut there")
            }
        }
    }

    fn share(&mut self, from: SlotId, to: SlotId, n_tokens: u32) -> Result<(), &'static str> {
        let held = |slot: SlotId| self.held.get(usize::from(slot.0)).copied();
        match (held(from), held(to)) {
            (Some(Held::Tokens(n_held)), Some(Held::Tokens(0))) if n_held >= n_tokens => {
                self.held[usize::from(to.0)] = Held::Tokens(n_tokens);
            }
            (None, _) | (_, None) => return Err(NO_SUCH_SLOT),
            (_, Some(Held::Tokens(0))) => return Err(TOO_FEW_TOKENS),
            _ => return Err("the slot is not empty"),
        }
        let (from, to) = (i32::from(from.0), i32::from(to.0));
        let shared = self
            .context
            .copy_kv_cache_seq(from, to, None, Some(n_tokens));
        shared.map_err(|_| "there is no such position")
    }

    /// Checks all that llama.cpp takes for granted, and fills the batch.
    fn check(&mut self, plan: &Plan) -> Result<(), RunError> {
        let n_outputs = plan.rows.iter().filter(|row| row.output).count();
        for (what, found, limit) in [
            ("rows", plan.rows.len(), self.n_batch),
            ("output rows", n_outputs, self.n_slots),
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
        match self.held[..self.n_slots].get(usize::from(slot)) {
            None => {
                return Err(RowProblem::Slot {
                    slot,
                    max: self.n_slots - 1,
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
        let decoded = self.context.decode(&mut self.batch);
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

    /// Samples all output rows, several sequences at a time where there are many.
    fn sample(&mut self, plan: &Plan) -> Vec<Sampled> {
        let mut samplers: HashMap<_, _> = self.samplers.iter_mut().collect();
        let mut jobs: Vec<SamplingJob> = Vec::new();
        let outputs = plan.rows.iter().enumerate().filter(|(_, row)| row.output);
        for (index, row) in outputs {
            // Here, not in the job: at the first call llama.cpp may still put the rows in order.
            let logits = (index, self.context.get_logits_ith(index as i32));
            if let Some(sampler) = samplers.remove(&row.sequence) {
                jobs.push(SamplingJob {
                    sequence: row.sequence,
                    sampler,
                    rows: vec![logits],
                    chosen: Vec::new(),
                });
            } else if let Some(job) = jobs.iter_mut().find(|job| job.sequence == row.sequence) {
                job.rows.push(logits);
            }
        }
        let n_rows: usize = jobs.iter().map(|job| job.rows.len()).sum();
        let n_logits = n_rows * self.model.n_vocab();
        let (ends, suppressed) = (self.model.ends(), self.model.suppressed());
        self.sampling.for_each(&mut jobs, n_logits, |job, buffers| {
            for &(index, logits) in &job.rows {
                let token = job.sampler.sample(logits, ends, suppressed, buffers);
                job.chosen.push((index, job.sequence, token));
            }
        });
        let mut chosen: Vec<_> = jobs.into_iter().flat_map(|job| job.chosen).collect();
        chosen.sort_unstable_by_key(|(index, ..)| *index);
        let mut samples = Vec::with_capacity(chosen.len());
        for (_, sequence, token) in chosen {
            match token {
                Ok(token) => samples.push(Sampled {
                    sequence,
                    token,
                    piece: self.model.piece(token),
                    end: self.model.is_end(token),
                }),
                Err(error) => self.failures.push((sequence, error)),
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
        self.run(&Plan {
            cache: Vec::new(),
            rows: vec![row],
        })?;
        self.run(&Plan {
            cache: vec![CacheOp::Keep { slot, n_tokens: 0 }],
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
