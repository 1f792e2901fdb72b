//! Random sequences of operations, on caches so small that preemption is the rule.
//!
//! Whatever happens, each sequence must give what it gives alone, and no cell or slot may be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::fake::{FakeRunner, generate_alone, sample_by_history};
use crate::operations::{Op, Prompt, limits, op};
use triton_llm::engine::{
    Draft, Event, Limits, NewSequence, Plan, Sampled, Scheduler, Scope, SequenceId, Sharing,
    SubmitError, Token, Usage,
};

/// What the test knows of a sequence that has been submitted and has not ended.
struct Live {
    new: NewSequence,
    /// What was chosen so far, and its text.
    chosen: Vec<Token>,
    text: String,
    is_started: bool,
    /// Tokens known, and how many were known when it last got a slot.
    n_tokens: usize,
    n_reserved: usize,
    /// Where its first row was, the first time.
    n_cached: Option<u32>,
}

struct World {
    limits: Limits,
    scheduler: Scheduler,
    runner: FakeRunner,
    now: Instant,
    /// Whoever has rows in the last plan, in its order.
    planned: Vec<SequenceId>,
    live: BTreeMap<SequenceId, Live>,
    /// All tokens of sequences that have finished.
    finished: Vec<Vec<Token>>,
    n_submitted: u64,
    n_preempted: usize,
    n_shared: usize,
    n_guessed: usize,
    n_finished: usize,
}

impl World {
    fn new(limits: Limits) -> Self {
        Self {
            limits,
            scheduler: Scheduler::new(limits),
            runner: FakeRunner::new(&limits, sample_by_history),
            now: Instant::now(),
            planned: Vec::new(),
            live: BTreeMap::new(),
            finished: Vec::new(),
            n_submitted: 0,
            n_preempted: 0,
            n_shared: 0,
            n_guessed: 0,
            n_finished: 0,
        }
    }

    fn perform(&mut self, op: Op) {
        match op {
            Op::Submit {
                scope,
                prompt,
                max_tokens,
                stop,
            } => {
                let prompt = self.prompt(&prompt);
                self.submit(NewSequence {
                    scope,
                    max_tokens,
                    stop,
                    ..self.next(prompt)
                });
            }
            Op::Steps(n_steps) => (0..n_steps).for_each(|_| self.step()),
            Op::Cancel(which) => self.cancel(which),
            Op::CancelInFlight(which) => {
                let plan = self.schedule();
                let out = self.runner.run(&plan);
                self.cancel(which);
                self.apply(&out);
            }
            Op::Fail { n_rows, cancel } => self.fail(n_rows, cancel),
            Op::Lose(which) => {
                let plan = self.schedule();
                let mut out = self.runner.run(&plan);
                if !out.is_empty() {
                    let index = which.index(out.len());
                    let lost = out[index].sequence;
                    let tail = out.split_off(index);
                    // With those that come after it in its draft.
                    out.extend(tail.into_iter().filter(|sampled| sampled.sequence != lost));
                }
                self.apply(&out);
            }
        }
        self.check_counts();
    }

    fn prompt(&self, prompt: &Prompt) -> Vec<Token> {
        let own = |n_own: usize| {
            let first = self.n_submitted as i32 * 1000;
            (0..n_own as i32).map(move |idx| Token(-1 - first - idx))
        };
        match prompt {
            Prompt::Goes { on_from, n_own } if !self.finished.is_empty() => {
                let before = &self.finished[on_from.index(self.finished.len())];
                before.iter().copied().chain(own(*n_own)).collect()
            }
            Prompt::Goes { n_own, .. } => own(1 + n_own).collect(),
            Prompt::Fresh { n_common, n_own } => {
                let common = (0..*n_common as i32).map(Token);
                common.chain(own(*n_own)).collect()
            }
        }
    }

    /// The next sequence to submit.
    fn next(&self, prompt: Vec<Token>) -> NewSequence {
        NewSequence::new(SequenceId(self.n_submitted), prompt)
    }

    fn submit(&mut self, new: NewSequence) {
        let (id, n_prompt, n_ctx) = (new.id, new.prompt.len(), self.limits.n_ctx);
        let expected = if n_prompt >= n_ctx {
            let n_tokens = n_prompt;
            Err(SubmitError::PromptTooLong { n_tokens, n_ctx })
        } else {
            Ok(())
        };
        assert_eq!(self.scheduler.submit(new.clone()), expected);
        if expected.is_ok() {
            self.n_submitted += 1;
            self.runner.open(id, new.scope);
            let live = Live {
                new,
                chosen: Vec::new(),
                text: String::new(),
                is_started: false,
                n_tokens: n_prompt,
                n_reserved: 0,
                n_cached: None,
            };
            self.live.insert(id, live);
        }
    }

    fn step(&mut self) {
        let plan = self.schedule();
        let out = self.runner.run(&plan);
        self.apply(&out);
        self.check_counts();
    }

    fn schedule(&mut self) -> Plan {
        self.now += Duration::from_millis(7);
        self.draft();
        let was_idle = self.scheduler.is_idle();
        let plan = self.scheduler.schedule(self.now);
        assert_eq!(plan.is_empty(), was_idle);
        assert_eq!(
            plan.rows.is_empty(),
            self.live.is_empty(),
            "a step without progress"
        );
        self.planned.clear();
        for run in plan.rows.chunk_by(|a, b| a.sequence == b.sequence) {
            self.planned.push(run[0].sequence);
            let live = self.live.get_mut(&run[0].sequence);
            let live = live.expect("rows of a sequence that ended");
            if live.n_cached.is_none() {
                live.n_cached = Some(run[0].pos);
                self.n_shared += run[0].pos as usize;
            }
            let slot = &self.runner.slots[usize::from(run[0].slot.0)];
            if slot.owner != Some(run[0].sequence) || (slot.tokens.len() as u32) < run[0].pos {
                self.n_preempted += usize::from(live.n_reserved > 0);
                live.n_reserved = live.n_tokens;
            }
        }
        plan
    }

    /// Drafts of which every other one errs somewhere; some too long, one for nobody.
    fn draft(&mut self) {
        let mut drafts = vec![Draft {
            sequence: SequenceId(u64::MAX),
            tokens: vec![Token(1)],
        }];
        for drafting in self.scheduler.drafting() {
            let mut history = drafting.tokens.to_vec();
            for _ in 0..drafting.max_tokens + self.n_guessed % 2 {
                let sampled = sample_by_history(drafting.sequence, &history);
                history.push(sampled.token);
            }
            let mut tokens = history.split_off(drafting.tokens.len());
            let wrong = self.n_guessed % (2 * tokens.len());
            if let Some(token) = tokens.get_mut(wrong) {
                token.0 ^= 1;
            }
            self.n_guessed += 1;
            drafts.push(Draft {
                sequence: drafting.sequence,
                tokens,
            });
        }
        self.scheduler.draft(drafts);
    }

    fn cancel(&mut self, which: Index) {
        // One past the last: a sequence that does not exist, yet.
        let id = SequenceId(which.index(self.n_submitted as usize + 1) as u64);
        let gone = self.live.remove(&id);
        assert_eq!(self.scheduler.cancel(id), gone.is_some());
        if let Some(live) = gone {
            self.check_beginning(&live);
        }
    }

    fn fail(&mut self, n_rows: Index, cancel: Option<Index>) {
        let plan = self.schedule();
        self.runner
            .run_part(&plan, n_rows.index(plan.rows.len() + 1));
        if let Some(which) = cancel {
            self.cancel(which);
        }
        let planned = plan.rows.iter().map(|row| row.sequence);
        let planned: BTreeSet<_> = planned.filter(|id| self.live.contains_key(id)).collect();
        let failed = self.scheduler.fail_running();
        assert_eq!(failed.len(), planned.len());
        assert_eq!(failed.into_iter().collect::<BTreeSet<_>>(), planned);
        for id in planned {
            let live = self
                .live
                .remove(&id)
                .expect("only live sequences are planned");
            self.check_beginning(&live);
        }
        assert!(self.scheduler.fail_running().is_empty());
    }

    fn apply(&mut self, out: &[Sampled]) {
        for sampled in out {
            if let Some(live) = self.live.get_mut(&sampled.sequence) {
                live.n_tokens += 1;
            }
        }
        let events = self.scheduler.apply(out, self.now);
        // One of each sequence at most, in the plan's order.
        let mut planned = self.planned.iter();
        for event in &events {
            assert!(planned.any(|id| *id == event.sequence), "{events:?}");
        }
        events.into_iter().for_each(|event| self.take(event));
    }

    fn take(&mut self, event: Event) {
        assert!(event.started || !event.chosen.is_empty(), "{event:?}");
        let live = self.live.get_mut(&event.sequence);
        let live = live.expect("an event after the end");
        assert_ne!(event.started, live.is_started, "{event:?}");
        live.is_started = true;
        for chosen in event.chosen {
            live.chosen.push(chosen.token);
            live.text.push_str(&chosen.text);
        }
        let Some(ended) = event.end else { return };
        let live = self.live.remove(&event.sequence).expect("as above");
        let (alone, tokens) = generate_alone(&live.new, self.limits.n_ctx, sample_by_history);
        assert_eq!(live.text, alone.text);
        assert_eq!(live.chosen, tokens[live.new.prompt.len()..]);
        let cached_tokens = live.n_cached.expect("it has run");
        let expected = Usage {
            cached_tokens,
            ..alone.usage
        };
        assert_eq!((ended.reason, ended.usage), (alone.reason, expected));
        self.finished.push(tokens);
        self.n_finished += 1;
    }

    /// What an unfinished sequence has shown must be the beginning of what it gives alone.
    fn check_beginning(&self, live: &Live) {
        let (alone, _) = generate_alone(&live.new, self.limits.n_ctx, sample_by_history);
        assert!(
            alone.text.starts_with(&live.text),
            "{:?} in {alone:?}",
            live.text
        );
    }

    fn check_counts(&self) {
        let stats = self.scheduler.stats();
        let n_cells = stats.n_free_cells + stats.n_used_cells + stats.n_cached_cells;
        assert_eq!(n_cells, self.limits.n_cells);
        assert!(stats.n_running <= self.limits.n_slots);
        assert_eq!(stats.n_running + stats.n_waiting, self.live.len());
    }

    /// Steps until nothing is left, within a bound: each token of each sequence, twice, takes at
    /// most the steps in which all slots have their turn.
    fn drain(&mut self) {
        let Limits { n_slots, n_ctx, .. } = self.limits;
        let n_steps_max = 1 + (1 + self.live.len()) * 2 * n_ctx * (n_slots + 1);
        for _ in 0..n_steps_max {
            if self.scheduler.is_idle() {
                break;
            }
            self.step();
        }
        assert!(self.live.is_empty(), "{} sequences starve", self.live.len());
        assert!(self.scheduler.is_idle());
        let stats = self.scheduler.stats();
        assert_eq!(stats.n_used_cells, 0);
        assert_eq!(stats.n_cached_cells, self.runner.n_held_cells());
        assert_eq!(stats.n_host_tokens, self.runner.n_host_tokens());
        if self.limits.sharing == Sharing::None {
            assert_eq!(self.runner.n_held_cells(), 0, "KV left when idle");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn any_operations_leave_each_sequence_its_own_text(
        limits in limits(),
        ops in vec(op(), 1..60),
    ) {
        let mut world = World::new(limits);
        for op in ops {
            world.perform(op);
        }
        world.drain();
    }
}

/// The random tests are worth something only if they preempt: this load must, and all must finish.
#[test]
fn a_crowded_cache_preempts_and_finishes_all() {
    let mut world = World::new(Limits {
        n_slots: 6,
        n_kept: 6,
        n_cells: 40,
        sharing: Sharing::Prefix,
        n_ctx: 40,
        n_batch: 8,
        max_draft: 4,
        n_draft_rows: 8,
        target_itl: Duration::from_millis(20),
        ..Limits::default()
    });
    for idx in 0..100 {
        let prompt = Prompt::Fresh {
            n_common: 0,
            n_own: 1 + idx % 9,
        };
        world.submit(world.next(world.prompt(&prompt)));
    }
    world.drain();
    assert_eq!(world.n_finished, 100);
    assert!(world.n_preempted >= 50, "{} preempted", world.n_preempted);
}

/// Nor without parking: of 6 chats in turns on 3 slots, all of each turn but its last token comes back.
#[test]
fn chats_come_back_from_host_memory() {
    let mut world = World::new(Limits {
        n_slots: 3,
        n_kept: 12,
        n_cells: 150,
        sharing: Sharing::Prefix,
        n_host: 600,
        n_rows_to_park: 4,
        n_ctx: 100,
        n_batch: 32,
        target_itl: Duration::from_millis(20),
        ..Limits::default()
    });
    let mut chats: Vec<Vec<Token>> = (0..6).map(|id| vec![Token(100 + id); 20]).collect();
    for _ in 0..5 {
        for chat in &mut chats {
            chat.extend([Token(7); 10]);
            world.submit(NewSequence {
                max_tokens: Some(1),
                ..world.next(chat.clone())
            });
        }
        world.drain();
    }
    assert_eq!(world.n_finished, 30);
    assert_eq!(world.n_shared, 6 * (30 + 40 + 50 + 60));
    assert!(world.runner.n_loaded > 500, "{}", world.runner.n_loaded);
}

/// Nor without sharing: of 30 prompts with 32 tokens in common, all share them but the first of each scope.
#[test]
fn a_common_beginning_is_computed_once_in_each_scope() {
    for n_scopes in [1, 3] {
        let mut world = World::new(Limits {
            n_slots: 6,
            n_kept: 6,
            n_cells: 400,
            sharing: Sharing::Prefix,
            n_ctx: 100,
            n_batch: 32,
            max_draft: 4,
            n_draft_rows: 8,
            target_itl: Duration::from_millis(20),
            ..Limits::default()
        });
        for n_own in 1..31 {
            let prompt = Prompt::Fresh {
                n_common: 32,
                n_own,
            };
            world.submit(NewSequence {
                scope: Scope(n_own as u64 % n_scopes),
                max_tokens: Some(4),
                ..world.next(world.prompt(&prompt))
            });
        }
        world.drain();
        let n_sharing = 30 - n_scopes as usize;
        assert_eq!((world.n_finished, world.n_shared), (30, n_sharing * 32));
    }
}
