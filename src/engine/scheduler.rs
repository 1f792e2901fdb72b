//! The scheduler: decides which tokens run in a step, and turns sampled tokens into events.
//!
//! The worker thread owns it and is its only caller. It must not block, look at a clock or touch
//! the model: it sees tokens and times and hands out plain values. A step costs time in proportion
//! to its rows and the running sequences; one in which sequences end, and each cancellation, also to
//! the waiting ones; an admission to its tokens and the slots.
//!
//! # Policy
//! Sequences have an order, [`Rank`].
//!
//! 1. Every decoding sequence gets one row, the first in rank first.
//! 2. Waiting sequences are admitted in order of rank while slots and cells are left. What the
//!    cache has of a sequence's tokens is shared; for the others cells are reserved.
//! 3. A sequence whose beginning one before it in rank is still computing waits until it can be
//!    shared, and may be overtaken meanwhile.
//! 4. Drafts get cells that are free then, in order of rank: nobody loses a cell, or waits for one, for
//!    a guess. Half of the rows stay for prompts, and a step with many rows anyway takes no drafts.
//! 5. What is left of `n_batch` goes to prompts, as far as the step then keeps to its time: half of it
//!    to the first in rank, so that it comes to its end, the rest to those with the least to do, so that
//!    short prompts do not wait for long ones.
//! 6. What ended sequences hold leaves the cache, for host memory, once it has been in the way of others
//!    for long or where cells are short, and comes back for whoever shares it. Where decoding finds none
//!    left to leave, the last in rank of those that run is preempted: it waits, at its place in the
//!    order, to go on with what will have been kept of its tokens.
//!
//! # None waits for ever
//! Of those that run, the first in rank is never preempted for want of cells: it is the last only where
//! it is alone, and then has all of them. Each step has a row of it, so it comes to its end.
//!
//! Now take the first in rank of all. While it waits, it waits for no beginning, as only one before it
//! could be computing that, and nobody is admitted past it: those that run end one after the other, or
//! are preempted to places behind it, until there is room. Once it runs, it ends. Then the same holds for
//! the next in rank, and as only a finite number ever comes before a sequence, for each of them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::cache::{Cache, MIN_SHARED_TOKENS};
use super::chunk::{Chunk, Room, share_out};
use super::draft::{Draft, Drafting};
use super::event::Event;
use super::ids::{SequenceId, Token};
use super::limits::{Limits, MAX_SLOTS, NewSequence, Sharing, SubmitError};
use super::plan::{Plan, Sampled};
use super::plan_builder::PlanBuilder;
use super::rank::Rank;
use super::sequence::{Leader, Sequence};
use super::stats::Stats;
use super::step_time::{StepSize, StepTime};

/// How long a step that only reads prompts may take: a new request or a cancellation waits so long.
const MAX_STEP: Duration = Duration::from_secs(1);

/// Runs many sequences through one KV cache, step by step.
///
/// # Invariants
/// - `running` and `waiting` together hold exactly the keys of `sequences`, each once, and each in
///   order of rank.
/// - A sequence has a slot, running in `cache`, if and only if it is in `running`.
#[derive(Debug)]
pub struct Scheduler {
    limits: Limits,
    cache: Cache,
    sequences: HashMap<SequenceId, Sequence>,
    running: Vec<SequenceId>,
    waiting: Vec<SequenceId>,
    n_arrived: u64,
    drafts: HashMap<SequenceId, Vec<Token>>,
    in_flight: InFlight,
    step_time: StepTime,
}

/// The plan handed out last, until `apply` or `fail_running` closes the step.
#[derive(Debug, Default)]
struct InFlight {
    sequences: Vec<SequenceId>,
    size: StepSize,
    /// When it was handed out, if it reads prompts.
    reads_since: Option<Instant>,
}

impl Scheduler {
    /// A scheduler without sequences.
    pub fn new(limits: Limits) -> Self {
        let n_cells = limits.n_cells.max(1);
        let n_batch = limits.n_batch.max(1);
        let n_slots = limits.n_slots.clamp(1, MAX_SLOTS.min(n_batch));
        let limits = Limits {
            n_slots,
            n_kept: limits.n_kept.min(MAX_SLOTS - n_slots),
            n_cells,
            n_ctx: limits.n_ctx.clamp(1, n_cells.min(u32::MAX as usize)),
            n_batch,
            ..limits
        };
        Self {
            cache: Cache::new(&limits),
            limits,
            sequences: HashMap::new(),
            running: Vec::new(),
            waiting: Vec::new(),
            n_arrived: 0,
            drafts: HashMap::new(),
            in_flight: InFlight::default(),
            step_time: StepTime::new(),
        }
    }

    /// Has a sequence wait for a slot, at its place in the order.
    ///
    /// How many may wait is for the caller to bound.
    pub fn submit(&mut self, new: NewSequence) -> Result<(), SubmitError> {
        let Limits {
            n_ctx, max_draft, ..
        } = self.limits;
        let (id, n_tokens) = (new.id, new.prompt.len());
        if n_tokens == 0 {
            return Err(SubmitError::EmptyPrompt);
        }
        if n_tokens >= n_ctx {
            return Err(SubmitError::PromptTooLong { n_tokens, n_ctx });
        }
        if self.sequences.contains_key(&id) {
            return Err(SubmitError::DuplicateId { id });
        }
        let rank = Rank::of(self.n_arrived);
        self.n_arrived += 1;
        let sequence = Sequence::new(new, rank, max_draft);
        self.sequences.insert(id, sequence);
        insert_by_rank(&mut self.waiting, &self.sequences, id);
        Ok(())
    }

    /// Forgets a sequence, whatever its state; no event follows.
    ///
    /// False if there is no such sequence: it has finished, failed, or was cancelled before.
    pub fn cancel(&mut self, id: SequenceId) -> bool {
        let is_known = self.forget(id);
        self.drop_forgotten();
        is_known
    }

    /// The sequences for which a draft would be of use in the next step, in order of rank: none where
    /// the step has too many rows for drafts.
    pub fn drafting(&self) -> impl Iterator<Item = Drafting<'_>> {
        let running = self.running.iter().map(|id| &self.sequences[id]);
        let decoding = running.filter(|sequence| sequence.is_ready_to_decode());
        let n_rows_left = self.n_draft_rows(decoding.clone().count());
        let drafting = decoding.map(move |sequence| Drafting {
            sequence: sequence.id,
            tokens: sequence.tokens(),
            max_tokens: sequence.max_draft(self.limits.n_ctx).min(n_rows_left),
        });
        drafting.filter(|drafting| drafting.max_tokens > 0)
    }

    /// Takes guesses for the next step, in answer to [`Scheduler::drafting`].
    pub fn draft(&mut self, drafts: Vec<Draft>) {
        let drafts = drafts.into_iter();
        self.drafts = drafts.map(|draft| (draft.sequence, draft.tokens)).collect();
    }

    /// Decides the next step.
    ///
    /// The plan must run before the next call here, and be closed with [`Scheduler::apply`] or, if it
    /// fails, with [`Scheduler::fail_running`].
    pub fn schedule(&mut self, now: Instant) -> Plan {
        let mut plan = PlanBuilder::new(self.limits.n_batch);
        let decoding = self.reserve_to_decode();
        if decoding.len() < self.limits.n_batch {
            self.admit_waiting();
        }
        if !self.running.is_empty() {
            let running = self.running.iter().map(|id| &self.sequences[id]);
            let n_coming = running.map(Sequence::n_prefill_left).sum();
            self.cache.park_idle(n_coming);
        }
        self.plan_decode(&decoding, &mut plan);
        let n_decode_rows = plan.rows.len();
        self.plan_prompts(&mut plan);
        self.in_flight = InFlight {
            sequences: plan.sequences,
            size: plan.size,
            reads_since: (plan.rows.len() > n_decode_rows).then_some(now),
        };
        Plan {
            cache: self.cache.take_ops(),
            rows: plan.rows,
        }
    }

    /// Takes what the plan's output rows sampled, and tells what came of it: at most one event for each
    /// sequence, in the plan's order.
    ///
    /// Samples that nobody waits for are ignored: of sequences cancelled since, or second ones. A
    /// sequence whose sample is missing waits to compute its last token again.
    pub fn apply(&mut self, out: &[Sampled], now: Instant) -> Vec<Event> {
        let planned = std::mem::take(&mut self.in_flight);
        if let Some(since) = planned.reads_since {
            self.step_time
                .record(planned.size, now.saturating_duration_since(since));
        }
        for id in &planned.sequences {
            if let Some(sequence) = self.sequences.get_mut(id)
                && let Some(slot) = sequence.slot()
            {
                self.cache.commit(slot, sequence.commit());
            }
        }
        for sampled in out {
            self.accept(sampled);
        }
        let mut events = Vec::with_capacity(planned.sequences.len());
        for id in planned.sequences {
            events.extend(self.end_step(id));
        }
        self.drop_forgotten();
        events
    }

    /// Forgets every sequence of the plan handed out last, whose run failed, and names them.
    ///
    /// Sequences without a row in that plan go on.
    pub fn fail_running(&mut self) -> Vec<SequenceId> {
        let planned = std::mem::take(&mut self.in_flight).sequences;
        let failed = planned.into_iter().filter(|&id| self.forget(id));
        let failed = failed.collect();
        self.drop_forgotten();
        failed
    }

    /// Whether the next plan would be empty: no sequence runs or waits, and the cache stays as it is.
    pub fn is_idle(&self) -> bool {
        self.sequences.is_empty() && !self.cache.has_ops()
    }

    /// What there is to run and how full the cache is.
    pub fn stats(&self) -> Stats {
        Stats {
            n_running: self.running.len(),
            n_waiting: self.waiting.len(),
            n_free_cells: self.cache.n_free(),
            n_used_cells: self.cache.n_used(),
            n_cached_cells: self.cache.n_cached(),
            n_host_tokens: self.cache.n_parked(),
        }
    }

    /// A cell for every decoding sequence, at the price of the last in rank where cells are short.
    fn reserve_to_decode(&mut self) -> Vec<SequenceId> {
        let mut decoding = Vec::new();
        let mut running_idx = 0;
        while let Some(&id) = self.running.get(running_idx) {
            let sequence = known(&mut self.sequences, id);
            if !sequence.is_ready_to_decode() {
                running_idx += 1;
            } else if sequence
                .slot()
                .is_some_and(|slot| self.cache.reserve(slot, 1))
            {
                decoding.push(id);
                running_idx += 1;
            } else if let Some(&last) = self.running.last() {
                // This sequence or one that has no cell yet.
                self.preempt(last);
            }
        }
        decoding
    }

    /// The rows of the sequences that have a cell for it, and those of their drafts in what is left: half
    /// of the other rows at most, the other half stays for prompts.
    ///
    /// There are rows enough, as no more than `n_batch` sequences run.
    fn plan_decode(&mut self, decoding: &[SequenceId], plan: &mut PlanBuilder) {
        let mut drafts = std::mem::take(&mut self.drafts);
        let n_rows_left = plan.n_rows_left() - decoding.len();
        let mut n_draft_rows = self.n_draft_rows(decoding.len()).min(n_rows_left / 2);
        for id in decoding {
            let sequence = known(&mut self.sequences, *id);
            plan.add(sequence, 1);
            let mut draft = drafts.remove(id).unwrap_or_default();
            draft.truncate(sequence.max_draft(self.limits.n_ctx));
            draft.truncate(n_draft_rows.min(self.cache.n_free()));
            if let Some(slot) = sequence.slot() {
                self.cache.reserve(slot, draft.len());
            }
            n_draft_rows -= draft.len();
            plan.add_draft(sequence, draft);
        }
    }

    /// Rows that drafts may have in a step with this many decoding sequences.
    fn n_draft_rows(&self, n_decoding: usize) -> usize {
        self.limits.n_draft_rows.saturating_sub(n_decoding)
    }

    /// Gives slots to waiting sequences, in order of rank, until something is short.
    fn admit_waiting(&mut self) {
        let mut waiting_idx = 0;
        while self.running.len() < self.limits.n_slots
            && let Some(&id) = self.waiting.get(waiting_idx)
        {
            if self.waits_to_share(id) {
                waiting_idx += 1;
                continue;
            }
            // With a cell kept for the next token of everyone, itself included, the newcomer is not
            // preempted at once. A lone sequence always passes: it has fewer tokens than n_cells.
            let n_spare = 1 + self.running.len();
            let sequence = known(&mut self.sequences, id);
            let Some(admitted) = self.cache.admit(sequence.prefix(), n_spare) else {
                return;
            };
            sequence.enter(admitted);
            self.waiting.remove(waiting_idx);
            insert_by_rank(&mut self.running, &self.sequences, id);
        }
    }

    /// Whether a sequence before this one is computing more of its beginning than the cache has.
    fn waits_to_share(&mut self, id: SequenceId) -> bool {
        let sequence = &self.sequences[&id];
        if self.limits.sharing != Sharing::Prefix {
            return false;
        }
        let is_on_its_way = |leader: Leader| {
            self.sequences.get(&leader.id).is_some_and(|leading| {
                leading.slot().is_some() && leading.n_computed() < leader.n_tokens
            })
        };
        if sequence.leader.is_some_and(is_on_its_way) {
            return true;
        }
        let leader = self.find_leader(sequence);
        known(&mut self.sequences, id).leader = leader;
        leader.is_some()
    }

    fn find_leader(&self, sequence: &Sequence) -> Option<Leader> {
        let beginning = sequence.prefix().shareable()?;
        let running = self.running.iter().map(|id| &self.sequences[id]);
        let before = running.take_while(|running| running.rank < sequence.rank);
        let before = before.filter(|before| before.n_prefill_left() >= MIN_SHARED_TOKENS);
        let leaders = before.map(|before| Leader {
            id: before.id,
            n_tokens: before.prefill().n_common(beginning),
        });
        let leader = leaders.max_by_key(|leader| leader.n_tokens)?;
        let n_shareable = self.cache.n_shareable(sequence.prefix());
        (leader.n_tokens >= n_shareable + MIN_SHARED_TOKENS).then_some(leader)
    }

    /// The next chunks of the prompts that have a slot.
    fn plan_prompts(&mut self, plan: &mut PlanBuilder) {
        let running = self.running.iter().map(|id| &self.sequences[id]);
        let prompts = running.filter(|sequence| sequence.n_prefill_left() > 0);
        let mut chunks: Vec<Chunk> = prompts.map(Chunk::of).collect();
        let room = Room {
            n_rows: plan.n_rows_left(),
            base: plan.size,
            time: match plan.rows.is_empty() {
                true => MAX_STEP,
                false => self.limits.target_itl,
            },
        };
        share_out(&room, &self.step_time, &mut chunks);
        for chunk in chunks {
            let sequence = known(&mut self.sequences, chunk.id);
            plan.add(sequence, chunk.n_rows);
        }
    }

    /// Takes a running sequence's slot and has it wait.
    fn preempt(&mut self, id: SequenceId) {
        self.running.retain(|&running| running != id);
        let sequence = known(&mut self.sequences, id);
        if let Some(slot) = sequence.leave() {
            self.cache.release(slot);
        }
        insert_by_rank(&mut self.waiting, &self.sequences, id);
    }

    /// Takes one token that was sampled, and commits the row that was guessed to come after it.
    fn accept(&mut self, sampled: &Sampled) {
        let Some(sequence) = self.sequences.get_mut(&sampled.sequence) else {
            return;
        };
        if sequence.take_awaited()
            && sequence.accept(sampled, self.limits.n_ctx)
            && sequence.confirm_draft()
            && let Some(slot) = sequence.slot()
        {
            self.cache.commit(slot, sequence.commit());
        }
    }

    /// Closes the step for one of its sequences, and tells what it did; the caller ends with
    /// `drop_forgotten`.
    fn end_step(&mut self, id: SequenceId) -> Option<Event> {
        let sequence = self.sequences.get_mut(&id)?;
        let event = sequence.take_event();
        if event.as_ref().is_some_and(|event| event.end.is_some()) {
            self.forget(id);
            return event;
        }
        let n_refused = sequence.end_draft(self.limits.max_draft);
        if let Some(slot) = sequence.slot() {
            self.cache.refuse(slot, n_refused);
        }
        if sequence.take_awaited() {
            self.preempt(id);
        }
        event
    }

    /// Removes a sequence and frees its slot; the caller ends with `drop_forgotten`.
    fn forget(&mut self, id: SequenceId) -> bool {
        let Some(mut sequence) = self.sequences.remove(&id) else {
            return false;
        };
        let is_in_flight = sequence.is_in_flight();
        let n_refused = sequence.end_draft(0);
        match sequence.leave() {
            Some(slot) if is_in_flight => self.cache.discard(slot),
            Some(slot) => {
                self.cache.refuse(slot, n_refused);
                self.cache.release(slot);
            }
            None => {}
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

fn known(sequences: &mut HashMap<SequenceId, Sequence>, id: SequenceId) -> &mut Sequence {
    let sequence = sequences.get_mut(&id);
    sequence.expect("running and waiting list only sequences of the map")
}

fn insert_by_rank(
    ids: &mut Vec<SequenceId>,
    sequences: &HashMap<SequenceId, Sequence>,
    id: SequenceId,
) {
    let rank = sequences[&id].rank;
    let place = ids.partition_point(|id| sequences[id].rank < rank);
    ids.insert(place, id);
}
