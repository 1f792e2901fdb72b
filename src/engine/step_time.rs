//! How long a step will take, learned from those that have run.
//!
//! Only the scheduler calls this, on the worker thread, with times that it was given. A step is
//! described by its rows and by how many tokens lie before them, as attention looks at all of those:
//! its time is taken as `fixed + per_row * n_rows + per_depth * depth`, none of them negative, and
//! fitted to the last steps that read prompts. Steps that only decode are no part of it: their few
//! rows cost more apiece.

use std::time::Duration;

/// How much an older step weighs against the next one: about ten steps are remembered.
const DECAY: f64 = 0.9;

/// Passes of the fit over its three numbers, from where the step before has left them.
const N_PASSES: usize = 16;

/// Rows first: after a single step all its time is theirs, and a larger step expected to take longer.
const FIT_ORDER: [usize; 3] = [1, 2, 0];

/// A step that took longer than the prediction by this factor was held up by something else.
const MAX_SURPRISE: f64 = 2.0;

/// Rows of the first step, whose time nobody knows.
const FIRST_ROWS: f64 = 32.0;

/// How much larger than all before it a step may be: what many rows take is not known from a few.
const MAX_GROWTH: f64 = 1.5;

/// Steps after which the prediction is good enough to call another time a surprise.
const N_STEPS_TO_TRUST: u32 = 4;

/// The size of a step.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct StepSize {
    n_rows: f64,
    depth: f64,
}

impl StepSize {
    /// With `n_rows` rows more, of one sequence, the first of them at position `pos`.
    pub(super) fn with(self, pos: usize, n_rows: usize) -> Self {
        let (pos, n_rows) = (pos as f64, n_rows as f64);
        Self {
            n_rows: self.n_rows + n_rows,
            depth: self.depth + n_rows * (pos + n_rows / 2.0),
        }
    }

    /// Numbers of one magnitude, for which the fit converges.
    fn features(self) -> [f64; 3] {
        [1.0, self.n_rows / 64.0, self.depth / 65_536.0]
    }
}

/// The times of the last steps that read prompts.
#[derive(Debug)]
pub(super) struct StepTime {
    /// Seconds for each feature.
    rates: [f64; 3],
    /// Weighted sums over the steps: feature by feature, and feature by seconds.
    products: [[f64; 3]; 3],
    targets: [f64; 3],
    n_steps: u32,
    max_rows: f64,
}

impl StepTime {
    /// Nothing is known yet.
    pub(super) fn new() -> Self {
        Self {
            rates: [0.0; 3],
            products: [[0.0; 3]; 3],
            targets: [0.0; 3],
            n_steps: 0,
            max_rows: 0.0,
        }
    }

    /// Learns from a step that read prompts.
    pub(super) fn record(&mut self, size: StepSize, took: Duration) {
        let features = size.features();
        let mut seconds = took.as_secs_f64();
        if self.n_steps >= N_STEPS_TO_TRUST {
            seconds = seconds.min(self.seconds(size) * MAX_SURPRISE);
        }
        for row in 0..3 {
            self.targets[row] = self.targets[row] * DECAY + features[row] * seconds;
            for column in 0..3 {
                let product = features[row] * features[column];
                self.products[row][column] = self.products[row][column] * DECAY + product;
            }
        }
        for _ in 0..N_PASSES {
            for rate_idx in FIT_ORDER {
                self.fit(rate_idx);
            }
        }
        self.n_steps = self.n_steps.saturating_add(1);
        self.max_rows = self.max_rows.max(size.n_rows);
    }

    /// How many of `max_rows` rows from position `pos` can join a step of size `base` so that it
    /// takes at most `limit`.
    pub(super) fn n_rows_within(
        &self,
        limit: Duration,
        base: StepSize,
        pos: usize,
        max_rows: usize,
    ) -> usize {
        let more_rows = match self.n_steps {
            0 => 0.0,
            _ => MAX_GROWTH * self.max_rows,
        };
        let known_rows = FIRST_ROWS.max(more_rows);
        largest(max_rows, |n_rows| {
            let size = base.with(pos, n_rows);
            size.n_rows <= known_rows && self.predict(size) <= limit
        })
    }

    /// How long a step of this size will take, if it reads prompts; zero while nothing is known.
    pub(super) fn predict(&self, size: StepSize) -> Duration {
        Duration::try_from_secs_f64(self.seconds(size)).unwrap_or(Duration::MAX)
    }

    fn seconds(&self, size: StepSize) -> f64 {
        let features = size.features();
        (0..3).map(|idx| self.rates[idx] * features[idx]).sum()
    }

    /// Sets one number to what fits best while the others stay: coordinate descent.
    fn fit(&mut self, rate_idx: usize) {
        let products = &self.products[rate_idx];
        if products[rate_idx] > 0.0 {
            let others = (0..3).filter(|&idx| idx != rate_idx);
            let explained: f64 = others.map(|idx| products[idx] * self.rates[idx]).sum();
            let rate = (self.targets[rate_idx] - explained) / products[rate_idx];
            self.rates[rate_idx] = rate.max(0.0);
        }
    }
}

/// The largest number up to `max` that fits, if 0 does and none fits above one that does not.
fn largest(max: usize, fits: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, max);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}
