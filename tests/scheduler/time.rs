//! Steps keep to their time: a runner whose steps take what a formula says.

use std::time::{Duration, Instant};

use crate::fake::sample_x;
use triton_llm::engine::{Limits, NewSequence, Plan, Scheduler, SequenceId, Token};

/// How fast a machine is.
struct Machine {
    fixed_us: f64,
    row_us: f64,
    /// For a row with 1,000 tokens before it.
    depth_us: f64,
    /// What comes on top of the first rows of a step: small batches are inefficient.
    small_batch_us: f64,
}

impl Machine {
    fn time(&self, plan: &Plan) -> Duration {
        let depths = plan.rows.iter().map(|row| f64::from(row.pos) / 1000.0);
        let depth: f64 = depths.sum();
        let n_rows = plan.rows.len() as f64;
        let us = self.fixed_us
            + self.row_us * n_rows
            + self.depth_us * depth
            + self.small_batch_us * n_rows.min(32.0);
        Duration::from_secs_f64(us / 1e6)
    }
}

const SMALL_CPU: Machine = Machine {
    fixed_us: 8_000.0,
    row_us: 1_000.0,
    depth_us: 1_100.0,
    small_batch_us: 5_000.0,
};
const SLOW_CPU: Machine = Machine {
    fixed_us: 300_000.0,
    row_us: 20_000.0,
    depth_us: 300.0,
    small_batch_us: 0.0,
};
const GPU: Machine = Machine {
    fixed_us: 9_000.0,
    row_us: 30.0,
    depth_us: 5.0,
    small_batch_us: 10.0,
};

/// Reads one long prompt, beside `n_decoding` answers, and returns the steps' times and rows.
fn read_prompt(
    machine: &Machine,
    target_itl: Duration,
    n_decoding: u64,
    n_prompt: usize,
) -> Vec<(Duration, usize)> {
    let mut now = Instant::now();
    let mut scheduler = Scheduler::new(Limits {
        n_slots: 16,
        n_cells: 100_000,
        n_batch: 2048,
        target_itl,
        ..Limits::default()
    });
    let submit = |scheduler: &mut Scheduler, id, n_prompt| {
        let new = NewSequence::new(SequenceId(id), vec![Token(1); n_prompt]);
        scheduler.submit(new).expect("it fits");
    };
    let mut step = |scheduler: &mut Scheduler| {
        let plan = scheduler.schedule(now);
        let took = machine.time(&plan);
        now += took;
        let outputs = plan.rows.iter().filter(|row| row.output);
        let out: Vec<_> = outputs.map(|row| sample_x(row.sequence, &[])).collect();
        scheduler.apply(&out, now);
        (took, plan)
    };
    for id in 0..n_decoding {
        submit(&mut scheduler, id, 100);
        while step(&mut scheduler).1.rows.len() != id as usize + 1 {}
    }
    let id = n_decoding;
    submit(&mut scheduler, id, n_prompt);
    let mut steps = Vec::new();
    loop {
        let (took, plan) = step(&mut scheduler);
        let rows = plan.rows.iter().filter(|row| row.sequence.0 == id);
        steps.push((took, rows.count()));
        if plan
            .rows
            .iter()
            .any(|row| row.sequence.0 == id && row.output)
        {
            return steps;
        }
    }
}

#[test]
fn a_prompt_read_alone_fills_steps_of_at_most_a_second() {
    for (machine, n_prompt) in [(SMALL_CPU, 16_000), (SLOW_CPU, 1_000), (GPU, 40_000)] {
        let steps = read_prompt(&machine, Duration::from_millis(50), 0, n_prompt);
        for &(took, n_rows) in &steps {
            assert!(took <= Duration::from_secs(1), "{n_rows} rows: {took:?}");
        }
        // Once as many rows as a step may have are known to fit, only time limits it.
        let is_full = |&&(_, n_rows): &&(Duration, usize)| n_rows < 2048;
        let full: Vec<_> = steps[12..steps.len() - 1].iter().filter(is_full).collect();
        let used: Duration = full.iter().map(|(took, _)| *took).sum();
        let enough = Duration::from_millis(600) * full.len() as u32;
        assert!(used >= enough, "{steps:?}");
    }
}

#[test]
fn running_answers_wait_no_longer_than_the_target() {
    for (machine, target_ms) in [(SMALL_CPU, 300), (SMALL_CPU, 1000), (GPU, 40)] {
        let target = Duration::from_millis(target_ms);
        let steps = read_prompt(&machine, target, 8, 8_000);
        for &(took, n_rows) in &steps[2..] {
            assert!(took <= target, "{n_rows} rows: {took:?} of {target:?}");
        }
        let full = &steps[12..steps.len() - 1];
        let used: Duration = full.iter().map(|(took, _)| *took).sum();
        assert!(used / full.len() as u32 > target.mul_f64(0.6), "{steps:?}");
    }
}

/// Where not even the answers keep to the target, a prompt still comes to its end.
#[test]
fn a_target_that_cannot_be_met_leaves_prompts_a_few_rows() {
    let steps = read_prompt(&SLOW_CPU, Duration::from_millis(100), 2, 200);
    assert!(steps.iter().all(|(_, n_rows)| *n_rows >= 8));
}
