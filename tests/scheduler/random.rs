//! Random sequences of operations, on caches so small that preemption is the rule.
//!
//! Whatever happens, each sequence must give what it gives alone, and no cell or slot may be lost.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use crate::fake::{FakeRunner, generate_alone, sample_by_history};
use triton_llm::engine::{
    Event, Limits, NewSequence, Plan, Sampled, Scheduler, SequenceId, SubmitError, Token,
};

#[derive(Clone, Debug)]
enum Op {
    Submit {
        n_prompt: usize,
        max_tokens: Option<u32>,
        stop: Vec<String>,
    },
    Steps(usize),
    Cancel(Index),
    /// A cancellation after the plan and before its samples.
    CancelInFlight(Index),
    /// A step that fails, before the evictions or after some of its rows; a sequence may have been
    /// cancelled meanwhile.
    Fail {
        n_rows: Option<Index>,
        cancel: Option<Index>,
    },
    /// A step that loses one of its samples.
    Lose(Index),
}

fn op() -> impl Strategy<Value = Op> {
    let max_tokens = prop_oneof![Just(None), (1..20_u32).prop_map(Some)];
    let stop = prop_oneof!["stop", "ab?a", "\u{20AC}", "c s", "b\u{FFFD}"];
    let submit = (1..24_usize, max_tokens, vec(stop, 0..3));
    prop_oneof![
        8 => submit.prop_map(|(n_prompt, max_tokens, stop)| Op::Submit { n_prompt, max_tokens, stop }),
        8 => (1..12_usize).prop_map(Op::Steps),
        2 => any::<Index>().prop_map(Op::Cancel),
        2 => any::<Index>().prop_map(Op::CancelInFlight),
        1 => any::<(Option<Index>, Option<Index>)>()
            .prop_map(|(n_rows, cancel)| Op::Fail { n_rows, cancel }),
        1 => any::<Index>().prop_map(Op::Lose),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    let n_cells = 2..64_usize;
    (1..7_usize, n_cells, any::<Index>(), 1..12_usize, 0..9_usize).prop_map(
        |(n_slots, n_cells, n_ctx, n_batch, max_queue)| Limits {
            n_slots,
            n_cells,
            n_ctx: 2 + n_ctx.index(n_cells - 1),
            n_batch,
            max_queue,
        },
    )
}

/// What the test knows of a sequence that has been submitted and has not ended.
struct Live {
    new: NewSequence,
    text: String,
    is_started: bool,
    /// Tokens known, and how many were known when it last began to run from position 0.
    n_tokens: usize,
    n_reserved: usize,
}

struct World {
    limits: Limits,
    scheduler: Scheduler,
    runner: FakeRunner,
    now: Instant,
    live: BTreeMap<SequenceId, Live>,
    n_submitted: u64,
    last_started: Option<SequenceId>,
    n_preempted: usize,
    n_finished: usize,
    /// Once a sample was lost, a sequence may hold cells without a row in the cache.
    is_lossy: bool,
}

impl World {
    fn new(limits: Limits) -> Self {
        let (n_slots, n_cells) = (limits.n_slots, limits.n_cells);
        Self {
            limits,
            scheduler: Scheduler::new(limits),
            runner: FakeRunner::new(n_slots, n_cells, limits.n_batch, sample_by_history),
            now: Instant::now(),
            live: BTreeMap::new(),
            n_submitted: 0,
            last_started: None,
            n_preempted: 0,
            n_finished: 0,
            is_lossy: false,
        }
    }

    fn perform(&mut self, op: Op) {
        match op {
            Op::Submit {
                n_prompt,
                max_tokens,
                stop,
            } => self.submit(n_prompt, max_tokens, stop),
            Op::Steps(n_steps) => (0..n_steps).for_each(|_| self.step()),
            Op::Cancel(which) => self.cancel(which),
            Op::CancelInFlight(which) => {
                let plan = self.schedule();
                let out = self.runner.run(&plan);
                self.check_cache();
                self.cancel(which);
                self.apply(&out);
            }
            Op::Fail { n_rows, cancel } => self.fail(n_rows, cancel),
            Op::Lose(which) => {
                let plan = self.schedule();
                let mut out = self.runner.run(&plan);
                if !out.is_empty() {
                    out.remove(which.index(out.len()));
                    self.is_lossy = true;
                }
                self.apply(&out);
            }
        }
        self.check_counts();
    }

    fn submit(&mut self, n_prompt: usize, max_tokens: Option<u32>, stop: Vec<String>) {
        let id = SequenceId(self.n_submitted);
        let prompt = (0..n_prompt).map(|idx| Token(id.0 as i32 * 1000 + idx as i32));
        let new = NewSequence {
            id,
            prompt: prompt.collect(),
            max_tokens,
            stop,
        };
        let Limits {
            n_slots,
            n_ctx,
            max_queue,
            ..
        } = self.limits;
        let expected = if n_prompt >= n_ctx {
            let n_tokens = n_prompt;
            Err(SubmitError::PromptTooLong { n_tokens, n_ctx })
        } else if self.live.len() >= n_slots + max_queue {
            Err(SubmitError::QueueFull { max_queue })
        } else {
            Ok(())
        };
        assert_eq!(self.scheduler.submit(new.clone()), expected);
        if expected.is_ok() {
            self.n_submitted += 1;
            let live = Live {
                new,
                text: String::new(),
                is_started: false,
                n_tokens: n_prompt,
                n_reserved: 0,
            };
            self.live.insert(id, live);
        }
    }

    fn step(&mut self) {
        let plan = self.schedule();
        let out = self.runner.run(&plan);
        self.check_cache();
        self.apply(&out);
        self.check_counts();
    }

    fn schedule(&mut self) -> Plan {
        self.now += Duration::from_millis(7);
        let was_idle = self.scheduler.is_idle();
        let plan = self.scheduler.schedule(self.now);
        assert_eq!(plan.is_empty(), was_idle);
        assert_eq!(
            plan.rows.is_empty(),
            self.live.is_empty(),
            "a step without progress"
        );
        for row in &plan.rows {
            let live = self
                .live
                .get_mut(&row.sequence)
                .expect("rows of a sequence that ended");
            if row.pos == 0 {
                self.n_preempted += usize::from(live.n_reserved > 0);
                live.n_reserved = live.n_tokens;
            }
        }
        plan
    }

    /// After a run: nobody's KV is left who has no slot, and everyone holds exactly what they need.
    fn check_cache(&self) {
        let mut n_used = 0;
        let mut n_owners = 0;
        for slot in &self.runner.slots {
            let Some(owner) = slot.owner else { continue };
            let live = &self.live[&owner];
            n_used += slot.tokens.len().max(live.n_reserved);
            n_owners += 1;
        }
        assert!(n_used <= self.scheduler.n_used_cells());
        if !self.is_lossy {
            assert_eq!(n_used, self.scheduler.n_used_cells());
            assert_eq!(n_owners, self.scheduler.n_running());
        }
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

    fn fail(&mut self, n_rows: Option<Index>, cancel: Option<Index>) {
        let plan = self.schedule();
        if let Some(n_rows) = n_rows {
            self.runner
                .run_part(&plan, n_rows.index(plan.rows.len() + 1));
        }
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
        for event in self.scheduler.apply(out, self.now) {
            match event {
                Event::Started { sequence } => {
                    let live = self.live.get_mut(&sequence).expect("started after its end");
                    assert!(
                        !std::mem::replace(&mut live.is_started, true),
                        "started twice"
                    );
                    assert!(self.last_started < Some(sequence), "started out of order");
                    self.last_started = Some(sequence);
                }
                Event::Text { sequence, text } => {
                    let live = self.live.get_mut(&sequence).expect("text after its end");
                    assert!(live.is_started && !text.is_empty());
                    live.text.push_str(&text);
                }
                Event::Finished {
                    sequence,
                    reason,
                    usage,
                } => {
                    let live = self.live.remove(&sequence).expect("finished after its end");
                    let alone = generate_alone(&live.new, self.limits.n_ctx, sample_by_history);
                    assert_eq!(live.text, alone.text);
                    assert_eq!((reason, usage), (alone.reason, alone.usage));
                    self.n_finished += 1;
                }
            }
        }
    }

    /// What an unfinished sequence has shown must be the beginning of what it gives alone.
    fn check_beginning(&self, live: &Live) {
        let alone = generate_alone(&live.new, self.limits.n_ctx, sample_by_history);
        assert!(
            alone.text.starts_with(&live.text),
            "{:?} in {alone:?}",
            live.text
        );
    }

    fn check_counts(&self) {
        let s = &self.scheduler;
        assert_eq!(s.n_free_cells() + s.n_used_cells(), self.limits.n_cells);
        assert_eq!(s.n_running() + s.n_free_slots(), self.limits.n_slots);
        assert_eq!(s.n_running() + s.n_waiting(), self.live.len());
        assert!(
            s.ids().eq(self.live.keys().copied()),
            "not in order of arrival"
        );
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
        assert_eq!(self.scheduler.n_used_cells(), 0);
        assert_eq!(self.scheduler.n_free_slots(), self.limits.n_slots);
        let slots = &self.runner.slots;
        assert!(
            slots.iter().all(|slot| slot.tokens.is_empty()),
            "KV left when idle"
        );
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
        n_cells: 40,
        n_ctx: 40,
        n_batch: 8,
        max_queue: 100,
    });
    for idx in 0..100 {
        world.submit(1 + idx % 9, None, Vec::new());
    }
    world.drain();
    assert_eq!(world.n_finished, 100);
    assert!(world.n_preempted >= 50, "{} preempted", world.n_preempted);
}
