//! The plan of one step while the scheduler makes it: rows, whose they are, and how large the step is.

use super::ids::{SequenceId, Token};
use super::plan::Row;
use super::sequence::Sequence;
use super::step_time::StepSize;

/// The plan of one step while it is made.
pub(super) struct PlanBuilder {
    n_rows_max: usize,
    pub(super) rows: Vec<Row>,
    /// Whoever has rows, each once.
    pub(super) sequences: Vec<SequenceId>,
    /// How large the step is so far.
    pub(super) size: StepSize,
}

impl PlanBuilder {
    /// Nothing is planned yet.
    pub(super) fn new(n_rows_max: usize) -> Self {
        Self {
            n_rows_max,
            rows: Vec::new(),
            sequences: Vec::new(),
            size: StepSize::default(),
        }
    }

    /// Rows for which there is room.
    pub(super) fn n_rows_left(&self) -> usize {
        self.n_rows_max - self.rows.len()
    }

    /// Adds the sequence's next `n_rows` rows, for which there is room.
    pub(super) fn add(&mut self, sequence: &mut Sequence, n_rows: usize) {
        if n_rows > 0 {
            self.size = self.size.with(sequence.n_computed(), n_rows);
            sequence.plan_rows(n_rows, &mut self.rows);
            self.sequences.push(sequence.id);
        }
    }

    /// Adds guesses after the sequence's output row, which was added last; there is room.
    pub(super) fn add_draft(&mut self, sequence: &mut Sequence, draft: Vec<Token>) {
        self.size = self.size.with(sequence.n_computed(), draft.len());
        sequence.plan_draft(draft, &mut self.rows);
    }
}
