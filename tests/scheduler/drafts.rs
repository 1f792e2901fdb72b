//! Speculative decoding: what becomes of drafts, right and wrong.

use std::time::Instant;

use crate::fake::{FakeRunner, sample_x};
use crate::show::{show_events, show_plan};
use triton_llm::engine::{Draft, Limits, NewSequence, Scheduler, SequenceId, Token};

/// `sample_x` gives the tokens 3, 4, 5 and so on after a prompt of three.
struct Play {
    scheduler: Scheduler,
    runner: FakeRunner,
    now: Instant,
}

impl Play {
    fn new(n_cells: usize, n_draft_rows: usize) -> Self {
        let limits = Limits {
            n_slots: 2,
            n_cells,
            n_batch: 32,
            max_draft: 4,
            n_draft_rows,
            ..Limits::default()
        };
        Self {
            scheduler: Scheduler::new(limits),
            runner: FakeRunner::new(&limits, sample_x),
            now: Instant::now(),
        }
    }

    fn submit(&mut self, id: u64, max_tokens: u32) {
        let new = NewSequence {
            max_tokens: Some(max_tokens),
            ..NewSequence::new(SequenceId(id), [0, 1, 2].map(Token).to_vec())
        };
        self.scheduler.submit(new).expect("it fits");
    }

    /// The sequences that ask for drafts, and for how many tokens.
    fn drafting(&self) -> Vec<(u64, usize)> {
        let drafting = self.scheduler.drafting();
        drafting.map(|d| (d.sequence.0, d.max_tokens)).collect()
    }

    fn step(&mut self, drafts: &[(u64, &[i32])], plan_expected: &str, events_expected: &str) {
        let drafts = drafts.iter().map(|&(id, tokens)| Draft {
            sequence: SequenceId(id),
            tokens: tokens.iter().copied().map(Token).collect(),
        });
        self.scheduler.draft(drafts.collect());
        let plan = self.scheduler.schedule(self.now);
        assert_eq!(show_plan(&plan), plan_expected);
        let out = self.runner.run(&plan);
        let events = self.scheduler.apply(&out, self.now);
        assert_eq!(show_events(&events), events_expected);
    }
}

#[test]
fn a_draft_saves_as_many_steps_as_it_has_right_tokens() {
    let mut play = Play::new(64, 8);
    play.submit(1, 20);
    assert_eq!(play.drafting(), []);
    play.step(&[], "1@0:0-2*", "1!+x");
    // All right: five tokens in one step.
    assert_eq!(play.drafting(), [(1, 4)]);
    play.step(&[(1, &[4, 5, 6, 7])], "1@0:3-7*", "1+x+x+x+x+x");
    // Two right: what came after them goes.
    play.step(&[(1, &[9, 10, 0, 0])], "1@0:8-12*", "1+x+x+x");
    play.step(&[(1, &[0, 0, 0, 0])], "0[11] 1@0:11-15*", "1+x");
    // None was right, so the next draft is short.
    assert_eq!(play.drafting(), [(1, 2)]);
    play.step(&[(1, &[13, 14, 15, 16])], "0[12] 1@0:12-14*", "1+x+x+x");
    assert_eq!(play.drafting(), [(1, 4)]);
    play.step(&[], "1@0:15*", "1+x");
}

#[test]
fn a_draft_is_no_longer_than_what_is_left_to_say() {
    let mut play = Play::new(64, 8);
    play.submit(1, 4);
    play.step(&[], "1@0:0-2*", "1!+x");
    assert_eq!(play.drafting(), [(1, 2)]);
    play.step(&[(1, &[4, 5, 6, 7])], "1@0:3-5*", "1+x+x+x.length(3,4)");
    // Nothing that was refused outlasts its sequence.
    play.submit(2, 4);
    play.step(&[], "-0 2@0:0-2*", "2!+x");
    play.step(&[(2, &[0, 0])], "2@0:3-5*", "2+x");
    assert!(play.scheduler.cancel(SequenceId(2)));
    play.step(&[], "0[4] -0", "");
    assert_eq!(play.runner.n_held_cells(), 0);
}

#[test]
fn the_oldest_drafts_first_and_nobody_loses_a_cell_for_a_guess() {
    for (n_cells, n_draft_rows, expected) in [
        (64, 10, "1@0:3-7* 2@1:3-7*"),
        (64, 7, "1@0:3-7* 2@1:3-4*"),
        (64, 2, "1@0:3* 2@1:3*"),
        (64, 0, "1@0:3* 2@1:3*"),
        (11, 10, "1@0:3-6* 2@1:3*"),
        (8, 10, "1@0:3* 2@1:3*"),
    ] {
        let mut play = Play::new(n_cells, n_draft_rows);
        play.submit(1, 20);
        play.submit(2, 20);
        play.step(&[], "1@0:0-2* 2@1:0-2*", "1!+x 2!+x");
        // Nobody is asked where there are rows enough without drafts.
        assert_eq!(play.drafting().is_empty(), n_draft_rows <= 2);
        let drafts = [1, 2].map(|id| Draft {
            sequence: SequenceId(id),
            tokens: [4, 5, 6, 7].map(Token).to_vec(),
        });
        play.scheduler.draft(drafts.to_vec());
        let plan = play.scheduler.schedule(play.now);
        assert_eq!(show_plan(&plan), expected, "{n_cells} {n_draft_rows}");
    }
}

#[test]
fn drafts_for_nobody_and_stale_ones_are_dropped() {
    let mut play = Play::new(64, 8);
    play.submit(1, 20);
    play.step(&[(1, &[4]), (7, &[1])], "1@0:0-2*", "1!+x");
    play.step(&[], "1@0:3*", "1+x");
    play.step(&[(1, &[5]), (7, &[1])], "1@0:4-5*", "1+x+x");
}
