//! What is planned in which step: tables of operations and the plans that must follow.

use std::time::{Duration, Instant};

use crate::fake::{FakeRunner, sample_x};
use crate::show::{show_events, show_plan};
use triton_llm::engine::{
    Limits, NewSequence, Sampled, Scheduler, SequenceId, Stats, SubmitError, Token,
};

/// One line of a table.
enum Do {
    /// id, prompt length, max_tokens
    Submit(u64, usize, u32),
    /// The plan that must come, see `show_plan`, and the events after it, see `show_events`.
    Step(&'static str, &'static str),
    /// A step whose run fails before anything ran, and the ids that must have failed.
    Fail(&'static str, &'static [u64]),
    /// A step whose samples are lost.
    Lose(&'static str),
    /// A cancellation and what it must return.
    Cancel(u64, bool),
    /// Free cells, cached cells, running, waiting.
    Counts(usize, usize, usize, usize),
    Idle(bool),
}
use Do::{Cancel, Counts, Fail, Idle, Lose, Step, Submit};

fn limits(n_slots: usize, n_cells: usize, n_ctx: usize, n_batch: usize) -> Limits {
    Limits {
        n_slots,
        n_cells,
        n_ctx,
        n_batch,
        ..Limits::default()
    }
}

fn new_sequence(id: u64, n_prompt: usize, max_tokens: u32) -> NewSequence {
    NewSequence {
        max_tokens: Some(max_tokens),
        ..NewSequence::new(SequenceId(id), vec![Token(7); n_prompt])
    }
}

fn check(limits: Limits, table: &[Do]) {
    let mut scheduler = Scheduler::new(limits);
    let mut runner = FakeRunner::new(&limits, sample_x);
    let mut now = Instant::now();
    for (line_idx, line) in table.iter().enumerate() {
        now += Duration::from_millis(5);
        match *line {
            Submit(id, n_prompt, max_tokens) => {
                let new = new_sequence(id, n_prompt, max_tokens);
                scheduler.submit(new).expect("the table's limits admit it");
            }
            Step(plan_expected, events_expected) => {
                let plan = scheduler.schedule(now);
                assert_eq!(show_plan(&plan), plan_expected, "line {line_idx}");
                let out = runner.run(&plan);
                let events = scheduler.apply(&out, now);
                assert_eq!(show_events(&events), events_expected, "line {line_idx}");
            }
            Fail(plan_expected, ids) => {
                let plan = scheduler.schedule(now);
                assert_eq!(show_plan(&plan), plan_expected, "line {line_idx}");
                let failed: Vec<u64> = scheduler.fail_running().iter().map(|id| id.0).collect();
                assert_eq!(failed, ids, "line {line_idx}");
            }
            Lose(plan_expected) => {
                let plan = scheduler.schedule(now);
                assert_eq!(show_plan(&plan), plan_expected, "line {line_idx}");
                runner.run(&plan);
                scheduler.apply(&[], now);
            }
            Cancel(id, expected) => {
                let is_known = scheduler.cancel(SequenceId(id));
                assert_eq!(is_known, expected, "line {line_idx}");
            }
            Counts(n_free_cells, n_cached_cells, n_running, n_waiting) => {
                let expected = Stats {
                    n_running,
                    n_waiting,
                    n_free_cells,
                    n_used_cells: limits.n_cells - n_free_cells - n_cached_cells,
                    n_cached_cells,
                    n_host_tokens: 0,
                };
                assert_eq!(scheduler.stats(), expected, "line {line_idx}");
            }
            Idle(expected) => assert_eq!(scheduler.is_idle(), expected, "line {line_idx}"),
        }
        let stats = scheduler.stats();
        let n_cells = stats.n_free_cells + stats.n_used_cells + stats.n_cached_cells;
        assert_eq!(n_cells, limits.n_cells, "line {line_idx}");
    }
}

#[test]
fn one_sequence_from_prompt_to_end() {
    check(
        limits(2, 16, 8, 8),
        &[
            Idle(true),
            Step("", ""),
            Submit(1, 3, 2),
            Idle(false),
            Counts(16, 0, 0, 1),
            Step("1@0:0-2*", "1!+x"),
            Counts(13, 0, 1, 0),
            Step("1@0:3*", "1+x.length(3,2)"),
            Counts(16, 0, 0, 0),
            Idle(false),
            Step("-0", ""),
            Idle(true),
            Step("", ""),
        ],
    );
}

#[test]
fn prompts_longer_than_a_batch_run_in_chunks_behind_decode_rows() {
    check(
        limits(3, 64, 32, 4),
        &[
            Submit(1, 1, 9),
            Submit(2, 6, 9),
            Submit(3, 2, 9),
            Step("1@0:0* 2@1:0 3@2:0-1*", "1!+x 2! 3!+x"),
            Step("1@0:1* 3@2:2* 2@1:1-2", "1+x 3+x"),
            Step("1@0:2* 3@2:3* 2@1:3-4", "1+x 3+x"),
            Step("1@0:3* 3@2:4* 2@1:5*", "1+x 3+x 2+x"),
        ],
    );
}

#[test]
fn max_tokens_of_one_ends_after_the_prompt() {
    check(
        limits(1, 8, 8, 8),
        &[
            Submit(1, 3, 1),
            Submit(2, 1, 1),
            Step("1@0:0-2*", "1!+x.length(3,1)"),
            Step("-0 2@0:0*", "2!+x.length(1,1)"),
        ],
    );
}

#[test]
fn the_context_length_ends_a_sequence() {
    check(
        limits(1, 4, 4, 8),
        &[
            Submit(1, 2, 99),
            Step("1@0:0-1*", "1!+x"),
            Step("1@0:2*", "1+x.length(2,2)"),
            Submit(2, 3, 99),
            Step("-0 2@0:0-2*", "2!+x.length(3,1)"),
        ],
    );
}

#[test]
fn the_lowest_free_slot_is_taken_and_emptied_before_its_new_rows() {
    check(
        limits(3, 64, 32, 16),
        &[
            Submit(1, 1, 9),
            Submit(2, 1, 9),
            Submit(3, 1, 9),
            Step("1@0:0* 2@1:0* 3@2:0*", "1!+x 2!+x 3!+x"),
            Cancel(2, true),
            Cancel(1, true),
            Cancel(1, false),
            Submit(4, 1, 9),
            Step("-1 -0 3@2:1* 4@0:0*", "3+x 4!+x"),
        ],
    );
}

#[test]
fn admission_keeps_a_cell_for_everyones_next_token() {
    // After the first step 1 holds 4 of 8 cells, after the second 5. 2 needs 2 + 1 + 1 free cells.
    check(
        limits(2, 8, 8, 16),
        &[
            Submit(1, 4, 3),
            Step("1@0:0-3*", "1!+x"),
            Submit(2, 2, 9),
            Counts(4, 0, 1, 1),
            Step("1@0:4*", "1+x"),
            Counts(3, 0, 1, 1),
            Step("1@0:5*", "1+x.length(4,3)"),
            Step("-0 2@0:0-1*", "2!+x"),
        ],
    );
    check(
        limits(2, 9, 9, 16),
        &[
            Submit(1, 4, 3),
            Step("1@0:0-3*", "1!+x"),
            Submit(2, 2, 9),
            Step("1@0:4* 2@1:0-1*", "1+x 2!+x"),
        ],
    );
}

#[test]
fn nobody_overtakes_a_sequence_that_waits_for_cells() {
    check(
        limits(3, 10, 10, 16),
        &[
            Submit(1, 4, 2),
            Submit(2, 8, 1),
            Submit(3, 1, 1),
            Step("1@0:0-3*", "1!+x"),
            Step("1@0:4*", "1+x.length(4,2)"),
            Step("-0 2@0:0-7*", "2!+x.length(8,1)"),
            Step("-0 3@0:0*", "3!+x.length(1,1)"),
        ],
    );
}

#[test]
fn the_youngest_is_preempted_and_goes_on_as_if_nothing_had_happened() {
    check(
        limits(3, 6, 6, 16),
        &[
            Submit(1, 1, 4),
            Submit(2, 1, 4),
            Step("1@0:0* 2@1:0*", "1!+x 2!+x"),
            Step("1@0:1* 2@1:1*", "1+x 2+x"),
            Submit(3, 1, 9),
            Step("1@0:2* 2@1:2*", "1+x 2+x"),
            Counts(0, 0, 2, 1),
            // 2 has sampled 3 tokens; it waits with 1 + 3 tokens, ahead of 3.
            Step("-1 1@0:3*", "1+x.length(1,4)"),
            Step("-0 2@0:0-3*", "2+x.length(1,4)"),
            Step("-0 3@0:0*", "3!+x"),
        ],
    );
}

#[test]
fn a_sequence_is_preempted_in_the_middle_of_its_prompt() {
    check(
        limits(2, 10, 10, 2),
        &[
            Submit(1, 1, 8),
            Submit(2, 6, 9),
            Step("1@0:0* 2@1:0", "1!+x 2!"),
            Step("1@0:1* 2@1:1", "1+x"),
            Step("1@0:2* 2@1:2", "1+x"),
            Step("1@0:3* 2@1:3", "1+x"),
            Counts(0, 0, 2, 0),
            Step("-1 1@0:4*", "1+x"),
            Counts(5, 0, 1, 1),
            Step("1@0:5*", "1+x"),
            Step("1@0:6*", "1+x"),
            Step("1@0:7*", "1+x.length(1,8)"),
            Step("-0 2@0:0-1", ""),
        ],
    );
}

#[test]
fn no_more_sequences_run_than_a_batch_has_rows() {
    check(
        limits(4, 64, 32, 2),
        &[
            Submit(1, 1, 3),
            Submit(2, 1, 3),
            Submit(3, 3, 9),
            Step("1@0:0* 2@1:0*", "1!+x 2!+x"),
            Counts(62, 0, 2, 1),
            Step("1@0:1* 2@1:1*", "1+x 2+x"),
            Cancel(2, true),
            Step("-1 1@0:2* 3@1:0", "1+x.length(1,3) 3!"),
            Step("-0 3@1:1-2*", "3+x"),
        ],
    );
}

#[test]
fn a_failed_step_takes_only_the_sequences_it_ran() {
    check(
        limits(2, 32, 16, 4),
        &[
            Submit(1, 1, 9),
            Submit(2, 6, 9),
            Submit(3, 2, 9),
            Step("1@0:0* 2@1:0-2", "1!+x 2!"),
            Fail("1@0:1* 2@1:3-5*", &[1, 2]),
            Counts(32, 0, 0, 1),
            Step("-0 -1 3@0:0-1*", "3!+x"),
            Cancel(3, true),
            // What a plan does to the cache is done, though its run fails.
            Fail("-0", &[]),
            Idle(true),
        ],
    );
}

#[test]
fn a_sequence_starts_once_and_only_when_rows_have_run() {
    check(
        limits(1, 8, 8, 2),
        &[
            Submit(1, 4, 9),
            Fail("1@0:0-1", &[1]),
            Submit(2, 4, 9),
            Step("-0 2@0:0-1", "2!"),
            Step("2@0:2-3*", "2+x"),
        ],
    );
}

#[test]
fn a_lost_sample_makes_the_sequence_compute_again() {
    check(
        limits(2, 32, 16, 8),
        &[
            Submit(1, 3, 3),
            Submit(2, 1, 9),
            Step("1@0:0-2* 2@1:0*", "1!+x 2!+x"),
            Lose("1@0:3* 2@1:1*"),
            Counts(32, 0, 0, 2),
            Step("-0 -1 1@0:0-3* 2@1:0-1*", "1+x 2+x"),
            Step("1@0:4* 2@1:2*", "1+x.length(3,3) 2+x"),
        ],
    );
}

#[test]
fn a_waiting_sequence_is_cancelled_without_an_eviction() {
    check(
        limits(1, 8, 8, 4),
        &[
            Submit(1, 1, 9),
            Submit(2, 1, 9),
            Submit(3, 1, 9),
            Step("1@0:0*", "1!+x"),
            Cancel(2, true),
            Step("1@0:1*", "1+x"),
            Cancel(1, true),
            Step("-0 3@0:0*", "3!+x"),
        ],
    );
}

#[test]
fn samples_that_nobody_waits_for_are_ignored() {
    let now = Instant::now();
    let mut scheduler = Scheduler::new(limits(3, 32, 16, 4));
    for (id, n_prompt) in [(1, 1), (2, 1), (3, 9)] {
        scheduler
            .submit(new_sequence(id, n_prompt, 9))
            .expect("fits");
    }
    let x = |id| sample_x(SequenceId(id), &[]);
    assert!(scheduler.apply(&[x(1)], now).is_empty());
    assert_eq!(show_plan(&scheduler.schedule(now)), "1@0:0* 2@1:0* 3@2:0-1");
    assert!(scheduler.cancel(SequenceId(1)));
    // 1 is cancelled, 2 comes twice, 3 has no output row, 9 was never there.
    let out: Vec<Sampled> = [1, 2, 2, 3, 9].map(x).to_vec();
    let events = scheduler.apply(&out, now);
    assert_eq!(show_events(&events), "2!+x 3!");
    assert!(scheduler.apply(&out, now).is_empty());
    assert_eq!(show_plan(&scheduler.schedule(now)), "-0 2@1:1* 3@2:2-4");
}

#[test]
fn what_cannot_run_is_refused() {
    let now = Instant::now();
    let mut scheduler = Scheduler::new(limits(2, 32, 4, 8));
    let mut check = |id, n_prompt, expected| {
        assert_eq!(scheduler.submit(new_sequence(id, n_prompt, 9)), expected);
    };
    let too_long = |n_tokens| Err(SubmitError::PromptTooLong { n_tokens, n_ctx: 4 });
    check(1, 0, Err(SubmitError::EmptyPrompt));
    check(1, 5, too_long(5));
    check(1, 4, too_long(4));
    check(1, 3, Ok(()));
    let id = SequenceId(1);
    check(1, 3, Err(SubmitError::DuplicateId { id }));
    check(2, 3, Ok(()));
    check(3, 3, Ok(()));
    assert_eq!(show_plan(&scheduler.schedule(now)), "1@0:0-2* 2@1:0-2*");
    assert_eq!(scheduler.stats().n_waiting, 1);
}

#[test]
fn limits_that_allow_nothing_are_raised() {
    let now = Instant::now();
    let mut scheduler = Scheduler::new(limits(0, 3, 100, 0));
    let too_long = SubmitError::PromptTooLong {
        n_tokens: 3,
        n_ctx: 3,
    };
    assert_eq!(scheduler.submit(new_sequence(1, 3, 1)), Err(too_long));
    assert_eq!(scheduler.submit(new_sequence(1, 2, 1)), Ok(()));
    assert_eq!(show_plan(&scheduler.schedule(now)), "1@0:0");
}

#[test]
fn errors_name_the_value_and_the_limit() {
    let error = SubmitError::PromptTooLong {
        n_tokens: 9,
        n_ctx: 8,
    };
    assert_eq!(
        error.to_string(),
        "the prompt has 9 tokens: must be fewer than n_ctx = 8"
    );
}
