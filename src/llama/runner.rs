//! Runs plans: the only holder of a llama.cpp context.
//!
//! Owned by a worker thread. A plan's rows are checked against what the context holds before they
//! run, because llama.cpp answers a wrong row with an assertion or by corrupting another sequence's
//! cache. Decides nothing: which tokens run where is the scheduler's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::FlashAttention;
use super::at_once::AtOnce;
use super::attention::Attention;
use super::context::{Batch, Context, ContextParams, Making};
use super::error::{ContextError, RowProblem, RunError, SampleError};
use super::model::Model;
use super::pool::ComputeThreads;
use super::sampler::{Sampler, SamplingThreads};
use super::slots::{Memory, SlotState, Slots};
use super::threads;
use crate::engine::{CacheOp, MAX_SLOTS, Plan, Row, Sampled, SequenceId, Sharing, SlotId, Token};

/// Its compressed cache, when unified, throws a C++ exception at a second sequence.
const SINGLE_SEQUENCE: &str = "deepseek4";

/// A row's place among those decoded at once, its logits, and the token guessed to come after it.
type Output<'a> = (usize, &'a [f32], Option<Token>);

/// One sequence's part in sampling a step: its output rows, and what came of each.
struct SamplingJob<'a> {
    sequence: SequenceId,
    sampler: Sampler,
    rows: Vec<Output<'a>>,
    chosen: Vec<(usize, SequenceId, Result<Token, SampleError>)>,
}

/// A context with its model, and the samplers of the open sequences.
///
/// # Invariants
/// `context` has the address of what `attention` holds, which is not dropped before it.
pub struct Runner {
    // Dropped first: fields drop in the order of their declaration.
    context: Context,
    attention: Option<Box<Attention>>,
    model: Arc<Model>,
    batch: Batch,
    threads: ComputeThreads,
    samplers: HashMap<SequenceId, Sampler>,
    slots: Slots,
    sampling: SamplingThreads,
    failures: Vec<(SequenceId, SampleError)>,
    at_once: AtOnce,
    is_split: bool,
    n_slots: usize,
    n_draft_rows: usize,
    n_batch: usize,
    n_cells: usize,
    n_threads: u32,
    decode_time: Duration,
}

impl Runner {
    /// Makes the context, with everything it will ever allocate, and runs a first step on it.
    pub fn new(model: Arc<Model>, params: &ContextParams) -> Result<Self, ContextError> {
        Self::with_threads_of(None, model, params)
    }

    /// One that computes with the threads of another, on whose thread it must stay.
    pub(super) fn beside(
        other: &Self,
        model: Arc<Model>,
        params: &ContextParams,
    ) -> Result<Self, ContextError> {
        Self::with_threads_of(Some(other), model, params)
    }

    fn with_threads_of(
        other: Option<&Self>,
        model: Arc<Model>,
        params: &ContextParams,
    ) -> Result<Self, ContextError> {
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
        let n_model_bytes = model.file().n_bytes;
        let n_threads = threads::for_model("n_threads", params.n_threads, n_model_bytes);
        let n_threads_batch = match params.n_threads_batch {
            0 => n_threads,
            wish => threads::for_model("n_threads_batch", wish, n_model_bytes),
        };
        let n_most = n_threads.max(n_threads_batch);
        let memory = Memory {
            sharing: match is_single || !params.kv_unified {
                true => Sharing::None,
                false => model.sharing(),
            },
            can_be_cut: model.can_be_cut(),
            has_states: model.has_states(),
        };
        let is_fused = params.flash_attention != FlashAttention::Off;
        let attention =
            (params.own_attention && is_fused).then(|| Attention::new(n_most, params.kv_unified));
        let threads = match other {
            Some(other) => other.threads.clone().at_least(n_most),
            None => ComputeThreads::new(n_most),
        }?;
        let making = Making {
            n_sequences: memory.n_sequences(params.n_slots),
            n_threads,
            n_threads_batch,
            attention: attention.as_deref(),
            threads: threads.clone(),
        };
        let context = Context::new(Arc::clone(&model), params, making)?;
        // llama.cpp may round: what counts is what it made.
        let n_batch = params.n_batch.min(context.n_batch());
        let n_cells = context.n_ctx();
        let mut runner = Self {
            context,
            attention,
            batch: Batch::new(n_batch),
            threads,
            samplers: HashMap::new(),
            slots: Slots::new(memory, params.n_slots),
            sampling: SamplingThreads::new(params.n_slots.min(n_threads as usize)),
            failures: Vec::new(),
            at_once: AtOnce::new(&model, params),
            is_split: !params.kv_unified,
            n_slots: params.n_slots,
            n_draft_rows: params.n_draft_rows,
            n_batch,
            n_cells,
            n_threads,
            decode_time: Duration::ZERO,
            model,
        };
        runner.warm_up(params).map_err(ContextError::WarmUp)?;
        Ok(runner)
    }

    /// The model that it computes with.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Cells that the KV cache really has: at least what was asked for.
    pub fn n_cells(&self) -> usize {
        self.n_cells
    }

    /// What the sequences of this context may share.
    pub fn sharing(&self) -> Sharing {
        self.slots.sharing()
    }

    /// Slots beyond those that may have rows: they can only share what others have computed.
    pub fn n_kept(&self) -> usize {
        self.slots.n_kept()
    }

    /// Rows that a plan may have: at most what was asked for.
    pub fn n_batch(&self) -> usize {
        self.n_batch
    }

    /// Whether a row costs the more, the more cells of others there are.
    pub fn looks_at_all_cells(&self) -> bool {
        self.attention.is_none()
    }

    /// Threads that steps of single tokens are computed with where there are cores for them.
    pub fn n_threads(&self) -> u32 {
        self.n_threads
    }

    /// Those that they are computed with at present, which are fewer while others want the cores too.
    pub fn n_threads_now(&self) -> u32 {
        self.context.n_threads()
    }

    /// What llama.cpp has spent on steps so far; the rest of [`Runner::run`] is sampling and checks.
    pub fn decode_time(&self) -> Duration {
        self.decode_time
    }

    /// Steps so far whose graph was that of the step before, as their rows, outputs and cells in use,
    /// rounded up to 256, were as many: nothing is built for them, and on a GPU they are launched as one.
    pub fn n_reused_graphs(&mut self) -> usize {
        self.context.n_reused_graphs()
    }

    /// Takes a sequence's sampler, which its output rows need.
    pub fn open(&mut self, id: SequenceId, sampler: Sampler) {
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

    /// Runs a plan and returns a sample for each output row, those of one sequence in their order.
    ///
    /// After an error no slot of the plan's rows may be used until a plan has emptied it; what the plan
    /// does to the cache is done all the same.
    pub fn run(&mut self, plan: &Plan) -> Result<Vec<Sampled>, RunError> {
        self.failures.clear();
        let ran = self
            .change_cache(plan)
            .and_then(|()| self.check(plan))
            .and_then(|()| match self.is_split {
                false => self.run_rows(&plan.rows),
                true => self.run_rows(&by_slot(&plan.rows)),
            });
        if ran.is_err() {
            for row in &plan.rows {
                self.slots.lose(row.slot);
            }
        }
        ran
    }

    /// Makes all changes that can be made, and returns the first error.
    fn change_cache(&mut self, plan: &Plan) -> Result<(), RunError> {
        let mut changed = Ok(());
        for &op in &plan.cache {
            let attention = self.attention.as_deref();
            let done = self.slots.change(&mut self.context, attention, op);
            changed = changed.and(done.map_err(|problem| RunError::Cache { op, problem }));
        }
        changed
    }

    /// Checks all that llama.cpp takes for granted, and notes what the slots will hold.
    fn check(&mut self, plan: &Plan) -> Result<(), RunError> {
        let n_outputs = plan.rows.iter().filter(|row| row.output).count();
        for (what, found, limit) in [
            ("rows", plan.rows.len(), self.n_batch),
            ("output rows", n_outputs, self.n_slots + self.n_draft_rows),
        ] {
            if found > limit {
                return Err(RunError::TooMany { what, found, limit });
            }
        }
        for (index, row) in plan.rows.iter().enumerate() {
            self.check_row(row).map_err(|problem| RunError::Row {
                row: index,
                problem,
            })?;
            self.slots.hold(row.slot, row.pos + 1);
        }
        Ok(())
    }

    fn check_row(&self, row: &Row) -> Result<(), RowProblem> {
        let n_vocab = self.model.n_vocab();
        let (token, slot) = (row.token.0, row.slot.0);
        if !usize::try_from(token).is_ok_and(|id| id < n_vocab) {
            return Err(RowProblem::Token { token, n_vocab });
        }
        match self.slots.running(row.slot) {
            None => {
                return Err(RowProblem::Slot {
                    slot,
                    max: self.n_slots - 1,
                });
            }
            Some(SlotState::Lost) => return Err(RowProblem::Lost { slot }),
            Some(SlotState::Tokens(expected)) if row.pos != expected => {
                return Err(RowProblem::Position {
                    slot,
                    found: row.pos,
                    expected,
                });
            }
            Some(SlotState::Tokens(_)) => {}
        }
        if row.output && !self.samplers.contains_key(&row.sequence) {
            return Err(RowProblem::NotOpen {
                sequence: row.sequence,
            });
        }
        Ok(())
    }

    fn run_rows(&mut self, mut rows: &[Row]) -> Result<Vec<Sampled>, RunError> {
        let mut samples = Vec::new();
        while !rows.is_empty() {
            let first = self.at_once.first(rows);
            self.decode(first)?;
            self.sample(first, &mut samples);
            rows = &rows[first.len()..];
        }
        Ok(samples)
    }

    fn decode(&mut self, rows: &[Row]) -> Result<(), RunError> {
        self.batch.clear();
        for row in rows {
            let slot = i32::from(row.slot.0);
            self.batch.add(row.token.0, row.pos, slot, row.output);
        }
        let begin = Instant::now();
        let mut decoded = self.context.decode(&self.batch);
        self.decode_time += begin.elapsed();
        if self.model.is_lost() {
            return Err(RunError::Lost);
        }
        if self
            .attention
            .as_ref()
            .is_some_and(|attention| attention.take_failure())
        {
            decoded = decoded.and(Err(-3));
        }
        if let Some(attention) = &self.attention {
            for (row, print) in rows.iter().zip(attention.take_prints()) {
                self.slots.know(row.slot, row.pos, print);
            }
        }
        decoded.map_err(|code| RunError::Decode {
            code,
            n_rows: rows.len(),
            meaning: match code {
                1 => "no room in the KV cache",
                2 => "aborted",
                -1 => "a bad batch",
                -2 => "out of memory",
                -3 => "the computation failed",
                _ => "unknown",
            },
        })
    }

    /// Samples after the output rows of those decoded last, several sequences at a time where there are
    /// many.
    fn sample(&mut self, rows: &[Row], samples: &mut Vec<Sampled>) {
        let mut jobs: Vec<SamplingJob> = Vec::new();
        let outputs = rows.iter().enumerate().filter(|(_, row)| row.output);
        for (index, row) in outputs {
            // Here, not in the job, as `logits` says.
            let logits = self.context.logits(index);
            let logits = logits.expect("the row was marked as one with an output");
            let next = rows.get(index + 1).filter(|next| next.slot == row.slot);
            let output = (index, logits, next.map(|next| next.token));
            if let Some(sampler) = self.samplers.remove(&row.sequence) {
                jobs.push(SamplingJob {
                    sequence: row.sequence,
                    sampler,
                    rows: vec![output],
                    chosen: Vec::new(),
                });
            } else if let Some(job) = jobs.iter_mut().find(|job| job.sequence == row.sequence) {
                job.rows.push(output);
            }
        }
        let n_rows: usize = jobs.iter().map(|job| job.rows.len()).sum();
        let n_logits = n_rows * self.model.n_vocab();
        self.sampling.for_each(&mut jobs, n_logits, |job, buffers| {
            for &(index, logits, guess) in &job.rows {
                let token = job.sampler.sample(logits, buffers);
                let is_right = guess.map(Ok).as_ref() == Some(&token);
                job.chosen.push((index, job.sequence, token));
                if !is_right {
                    break;
                }
            }
        });
        let mut chosen = Vec::with_capacity(n_rows);
        for job in jobs {
            chosen.extend(job.chosen);
            self.samplers.insert(job.sequence, job.sampler);
        }
        chosen.sort_unstable_by_key(|(index, ..)| *index);
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
    }

    /// Touches the memory and starts the threads, so that the first request does not wait for it.
    fn warm_up(&mut self, params: &ContextParams) -> Result<(), RunError> {
        let slot = SlotId(0);
        // llama.cpp keeps what this many outputs need.
        let (n_alone, n_together, n_outputs) = match params.full_warm_up {
            true => (1, params.n_ubatch, self.n_slots + self.n_draft_rows),
            false if self.n_draft_rows > 0 => (0, 1 + self.n_draft_rows, 1 + self.n_draft_rows),
            false => (0, 1, 0),
        };
        let n_parts = if self.is_split { self.n_slots } else { 1 };
        let max_positions = self.model.file().max_positions;
        let n_rows = (n_alone + n_together.max(n_outputs).min(self.n_batch))
            .min(self.n_cells / n_parts)
            .min(max_positions.map_or(usize::MAX, |n| n as usize));
        let rows: Vec<Row> = (0..n_rows as u32)
            .map(|pos| Row {
                sequence: SequenceId(0),
                slot,
                token: Token(0),
                pos,
                output: (pos as usize) < n_alone + n_outputs,
            })
            .collect();
        self.slots.hold(slot, n_rows as u32);
        let (alone, together) = rows.split_at(n_alone);
        if !alone.is_empty() {
            self.decode(alone)?;
        }
        self.decode(together)?;
        self.run(&Plan {
            cache: vec![CacheOp::Keep { slot, n_tokens: 0 }],
            ..Plan::default()
        })?;
        Ok(())
    }
}

/// Of split caches llama.cpp computes together those whose numbers follow one another in the batch.
fn by_slot(rows: &[Row]) -> Vec<Row> {
    let mut rows = rows.to_vec();
    rows.sort_by_key(|row| row.slot);
    rows
}
