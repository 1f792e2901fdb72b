//! The scheduler: decides which tokens run in a step, and turns sampled tokens into events.
//!
//! The worker thread owns it and is its only caller. It must not block, look at a clock or touch
//! the model: it sees tokens and hands out plain values. A step costs time in proportion to its
//! rows and the running sequences; one in which sequences end, and each cancellation, also to the
//! waiting ones.
//!
//! # Policy
//! 1. Every decoding sequence gets one row, oldest first.
//! 2. What is left of `n_batch` goes to prompts, in order of arrival, in chunks.
//! 3. Waiting sequences are admitted in order of arrival while slots, cells and rows are left.
//!    The cells of all tokens known are reserved at admission; each later token takes one more.
//! 4. Where decoding needs a cell and none is free, the youngest running sequence is preempted: it
//!    loses its slot and waits, first in line, to compute its tokens again.
//!
//! Sequences run and wait in order of arrival, all running ones before all waiting ones, and only
//! the youngest is ever preempted. So the oldest always progresses, and none waits for ever. Where
//! `n_batch` is smaller than `n_slots`, at most `n_batch` sequences decode and the others wait.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::cells::Cells;
use super::event::Event;
use super::ids::{SequenceId, SlotId, Token};
use super::plan::{Plan, Row, Sampled};
use super::sequence::Sequence;

/// More slots than llama.cpp has sequence ids (256); keeps a slot's number within `SlotId`.
const MAX_SLOTS: usize = 1 << 12;

/// What the scheduler may use.
///
/// [`Scheduler::new`] raises zeros to 1 and lowers `n_ctx` to `n_cells`: a longer sequence could
/// never run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sequences that run at the same time.
    pub n_slots: usize,
    /// Cells of the KV cache, over all slots; one cell holds one token.
    pub n_cells: usize,
    /// Tokens that one sequence may have, prompt and completion together.
    pub n_ctx: usize,
    /// Rows of one step.
    pub n_batch: usize,
    /// Sequences that may wait while all slots are taken.
    pub max_queue: usize,
}

/// A sequence to run.
#[derive(Clone, Debug)]
pub struct NewSequence {
    /// Its number; never reused.
    pub id: SequenceId,
    /// The prompt's tokens, at least one and fewer than `n_ctx`.
    pub prompt: Vec<Token>,
    /// Tokens to sample at most; `None`: as many as `n_ctx` has room for.
    pub max_tokens: Option<u32>,
    /// Strings that end the answer; empty ones are ignored.
    pub stop: Vec<String>,
}

/// Why a sequence was refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SubmitError {
    /// There is nothing to run.
    #[error("the prompt has no tokens: at least 1 is needed")]
    EmptyPrompt,
    /// The prompt leaves no room for an answer.
    #[error("the prompt has {n_tokens} tokens: must be fewer than n_ctx = {n_ctx}")]
    PromptTooLong {
        /// The prompt's length.
        n_tokens: usize,
        /// The limit.
        n_ctx: usize,
    },
    /// All slots are spoken for, and as many sequences wait as may.
    #[error("the queue is full: max_queue = {max_queue} sequences wait already")]
    QueueFull {
        /// The limit.
        max_queue: usize,
    },
    /// A sequence of this number is running or waiting.
    #[error("sequence {} exists already: an id must not be reused", id.0)]
    DuplicateId {
        /// The number.
        id: SequenceId,
    },
}

/// Runs many sequences through one KV cache, step by step.
///
/// # Invariants
/// - `running` and `waiting` together hold exactly the keys of `sequences`, each once.
/// - A sequence has a slot, open in `cells`, if and only if it is in `running`.
/// - Every sequence in `running` came before every one in `waiting`; both are in order of arrival.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    cells: Cells,
    sequences: HashMap<SequenceId, Sequence>,
    running: Vec<SequenceId>,
    waiting: VecDeque<SequenceId>,
    in_flight: InFlight,
}

/// What the plan handed out last contains, until `apply` or `fail_running` closes the step.
#[derive(Debug, Default)]
struct InFlight {
    evict: Vec<SlotId>,
    sequences: Vec<SequenceId>,
}

impl Scheduler {
    /// A scheduler without sequences.
    pub fn new(limits: Limits) -> Self {
        let n_cells = limits.n_cells.max(1);
        let limits = Limits {
            n_slots: limits.n_slots.clamp(1, MAX_SLOTS),
            n_cells,
            n_ctx: limits.n_ctx.clamp(1, n_cells.min(u32::MAX as usize)),
            n_batch: limits.n_batch.max(1),
            max_queue: limits.max_queue,
        };
        Self {
            cells: Cells::new(limits.n_slots, limits.n_cells),
            limits,
            sequences: HashMap::new(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            in_flight: InFlight::default(),
        }
    }

    /// Puts a sequence at the end of the queue.
    ///
    /// The queue counts as full when `n_slots + max_queue` sequences run and wait: what comes between
    /// two steps may first wait in numbers that the free slots then take.
    pub fn submit(&mut self, new: NewSequence) -> Result<(), SubmitError> {
        let Limits {
            n_slots,
            n_ctx,
            max_queue,
            ..
        } = self.limits;
        let n_tokens = new.prompt.len();
        if n_tokens == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        if n_tokens >= n_ctx {
            return Err(SubmitError::PromptTooLong { n_tokens, n_ctx });
        }
        if self.sequences.contains_key(&new.id) {
            return Err(SubmitError::DuplicateId { id: new.id });
        }
        if self.sequences.len() >= n_slots.saturating_add(max_queue) {
            return Err(SubmitError::QueueFull { max_queue });
        }
        self.waiting.push_back(new.id);
        self.sequences.insert(new.id, Sequence::new(new));
        Ok(())
    }

    /// Forgets a sequence, whatever its state; no event follows, and its slot is in the next plan's
    /// `evict`.
    ///
    /// False if there is no such sequence: it has finished, failed, or was cancelled before.
    pub fn cancel(&mut self, id: SequenceId) -> bool {
        let is_known = self.forget(id);
        self.drop_forgotten();
        is_known
    }

    /// Decides the next step.
    ///
    /// The plan must run before the next call here, and be closed with [`Scheduler::apply`] or, if it
    /// fails, with [`Scheduler::fail_running`].
    pub fn schedule(&mut self, now: Instant) -> Plan {
        let mut plan = PlanBuilder::new(self.limits.n_batch);
        self.plan_decode(&mut plan);
        plan.n_rows_max = plan.rows.len() + self.prefill_budget(plan.n_rows_left(), now);
        self.plan_prefill(&mut plan);
        self.plan_admitted(&mut plan);
        let evict = self.cells.take_evict();
        self.in_flight = InFlight {
            evict: evict.clone(),
            sequences: plan.sequences,
        };
        let rows = plan.rows;
        Plan { evict, rows }
    }

    /// Takes what the plan's output rows sampled, and tells what came of it.
    ///
    /// Samples that nobody waits for are ignored: of sequences cancelled since, or second ones. A
    /// sequence whose sample is missing loses its KV and computes its tokens again.
    pub fn apply(&mut self, out: &[Sampled], _now: Instant) -> Vec<Event> {
        let planned = std::mem::take(&mut self.in_flight).sequences;
        let mut events = Vec::with_capacity(out.len());
        for &sequence in &planned {
            let known = self.sequences.get_mut(&sequence);
            if known.is_some_and(Sequence::take_start) {
                events.push(Event::Started { sequence });
            }
        }
        for sampled in out {
            self.apply_one(sampled, &mut events);
        }
        for id in planned {
            if let Some(sequence) = self.sequences.get_mut(&id)
                && sequence.take_awaited()
                && let Some(slot) = sequence.slot()
            {
                sequence.restart();
                self.cells.mark_evict(slot);
            }
        }
        self.drop_forgotten();
        events
    }

    /// Forgets every sequence of the plan handed out last, whose run failed, and names them.
    ///
    /// Sequences without a row in that plan go on. What the plan should have evicted is evicted by
    /// the next one, as the failed run may not have come so far.
    pub fn fail_running(&mut self) -> Vec<SequenceId> {
        let InFlight { evict, sequences } = std::mem::take(&mut self.in_flight);
        for slot in evict {
            self.cells.mark_evict(slot);
        }
        let failed = sequences.into_iter().filter(|&id| self.forget(id));
        let failed = failed.collect();
        self.drop_forgotten();
        failed
    }

    /// Whether the next plan would be empty: no sequence runs or waits, and no slot is to be evicted.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty() && !self.cells.has_evict()
    }

    /// Sequences that hold a slot.
    pub fn n_running(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait for a slot, new and preempted ones.
    pub fn n_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Cells of the KV cache that no sequence holds.
    pub fn n_free_cells(&self) -> usize {
        self.cells.n_free()
    }

    /// Cells that running sequences hold or have reserved; with the free ones: `n_cells`.
    pub fn n_used_cells(&self) -> usize {
        self.cells.n_used()
    }

    /// Slots that no sequence holds.
    pub fn n_free_slots(&self) -> usize {
        self.cells.n_free_slots()
    }

    /// Every sequence known, oldest first.
    pub fn ids(&self) -> impl Iterator<Item = SequenceId> + '_ {
        self.running.iter().chain(&self.waiting).copied()
    }

    /// Rows that prompts may take of the `n_rows_left` that decoding leaves.
    ///
    /// All of them: the place for a budget of time, should prompts slow down the running answers.
    fn prefill_budget(&self, n_rows_left: usize, _now: Instant) -> usize {
        n_rows_left
    }

    /// One row for every decoding sequence, at the price of the youngest where cells are short.
    ///
    /// There are rows enough: a sequence begins to decode after a row in a step that had one for
    /// every sequence that decoded already, so that never more than `n_batch` decode.
    fn plan_decode(&mut self, plan: &mut PlanBuilder) {
        let mut running_idx = 0;
        while let Some(&id) = self.running.get(running_idx) {
            let sequence = known(&mut self.sequences, id);
            if !sequence.is_ready_to_decode() {
                running_idx += 1;
            } else if sequence.slot().is_some_and(|slot| self.cells.grow(slot)) {
                plan.add(sequence, 1);
                running_idx += 1;
            } else {
                // The last of `running` goes: this sequence or one without a row in this plan.
                self.preempt_youngest();
            }
        }
    }

    /// The next chunks of the prompts that have a slot already.
    fn plan_prefill(&mut self, plan: &mut PlanBuilder) {
        for &id in &self.running {
            if plan.n_rows_left() == 0 {
                return;
            }
            let sequence = known(&mut self.sequences, id);
            plan.add(sequence, sequence.n_prefill_left());
        }
    }

    /// Admits waiting sequences, each with its first chunk, until something is short.
    fn plan_admitted(&mut self, plan: &mut PlanBuilder) {
        while plan.n_rows_left() > 0
            && let Some(&id) = self.waiting.front()
        {
            let sequence = known(&mut self.sequences, id);
            let n_tokens = sequence.n_tokens();
            // With a cell kept for the next token of everyone, itself included, the newcomer is not
            // preempted at once. A lone sequence always passes: it has fewer tokens than n_cells.
            if self.cells.n_free() < n_tokens + 1 + self.running.len() {
                return;
            }
            let Some(slot) = self.cells.open(n_tokens) else {
                return;
            };
            sequence.enter(slot);
            plan.add(sequence, n_tokens);
            self.waiting.pop_front();
            self.running.push(id);
        }
    }

    fn preempt_youngest(&mut self) {
        let Some(id) = self.running.pop() else { return };
        if let Some(slot) = known(&mut self.sequences, id).leave() {
            self.cells.close(slot);
        }
        self.waiting.push_front(id);
    }

    fn apply_one(&mut self, sampled: &Sampled, events: &mut Vec<Event>) {
        let sequence = sampled.sequence;
        let Some(known) = self.sequences.get_mut(&sequence) else {
            return;
        };
        if !known.take_awaited() {
            return;
        }
        let accepted = known.accept(sampled, self.limits.n_ctx);
        let usage = known.usage();
        if !accepted.text.is_empty() {
            let text = accepted.text;
            events.push(Event::Text { sequence, text });
        }
        if let Some(reason) = accepted.finish {
            self.forget(sequence);
            events.push(Event::Finished {
                sequence,
                reason,
                usage,
            });
        }
    }

    /// Removes a sequence and frees its slot; the caller ends with `drop_forgotten`.
    fn forget(&mut self, id: SequenceId) -> bool {
        let Some(mut sequence) = self.sequences.remove(&id) else {
            return false;
        };
        if let Some(slot) = sequence.leave() {
            self.cells.close(slot);
        }
        true
    }

    /// Takes forgotten sequences out of the lists: once for many, so that it stays cheap.
    fn drop_forgotten(&mut self) {
        if self.running.len() + self.waiting.len() > self.sequences.len() {
            let sequences = &self.sequences;
            self.running.retain(|id| sequences.contains_key(id));
            self.waiting.retain(|id| sequences.contains_key(id));
        }
    }
}

/// The plan of one step while it is made.
struct PlanBuilder {
    n_rows_max: usize,
    rows: Vec<Row>,
    /// Whoever has rows, each once.
    sequences: Vec<SequenceId>,
}

impl PlanBuilder {
    fn new(n_rows_max: usize) -> Self {
        Self {
            n_rows_max,
            rows: Vec::new(),
            sequences: Vec::new(),
        }
    }

    fn n_rows_left(&self) -> usize {
        self.n_rows_max.saturating_sub(self.rows.len())
    }

    /// Adds the sequence's next rows: `n_rows` of them, or as many as there is room for.
    fn add(&mut self, sequence: &mut Sequence, n_rows: usize) {
        let n_rows = n_rows.min(self.n_rows_left());
        if n_rows > 0 {
            sequence.plan_rows(n_rows, &mut self.rows);
            self.sequences.push(sequence.id);
        }
    }
}

fn known(sequences: &mut HashMap<SequenceId, Sequence>, id: SequenceId) -> &mut Sequence {
    let sequence = sequences.get_mut(&id);
    sequence.expect("running and waiting list only sequences of the map")
}
