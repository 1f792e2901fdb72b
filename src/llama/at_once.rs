//! Which rows of a plan llama.cpp is given at once.
//!
//! Called by the runner, on the worker thread. It only looks at rows; it changes nothing.

use super::context::ContextParams;
use super::model::Model;
use crate::engine::Row;

/// How many rows llama.cpp may be given at once.
///
/// It splits what it is given into batches that it computes one after the other, and finds the cells
/// for all of them beforehand. A batch may get cells that a window has left behind by then. They are
/// taken away at once, although an earlier batch, not computed yet, has to look at some of them. So a
/// memory with a window is given one batch at a time.
#[derive(Clone, Copy)]
pub(super) enum AtOnce {
    All,
    Rows(usize),
    /// So many rows of slots with equally many: for a memory whose batches are such.
    EqualRuns(usize),
}

impl AtOnce {
    pub(super) fn new(model: &Model, params: &ContextParams) -> Self {
        let n_max = params.n_ubatch.min(params.n_batch);
        match model.has_window() {
            false => Self::All,
            true if params.kv_unified && !model.has_states() => Self::Rows(n_max),
            true => Self::EqualRuns(n_max),
        }
    }

    /// The rows to begin with, at least one if there are any.
    pub(super) fn first(self, rows: &[Row]) -> &[Row] {
        let n_rows = match self {
            Self::All => rows.len(),
            Self::Rows(n_max) => n_max.min(rows.len()),
            Self::EqualRuns(n_max) => {
                let mut runs = rows.chunk_by(|a, b| a.slot == b.slot);
                let n_run = runs.next().map_or(0, |run| run.len().min(n_max));
                let n_equal = 1 + runs.take_while(|run| run.len() == n_run).count();
                n_run * n_equal.min(n_max / n_run.max(1))
            }
        };
        &rows[..n_rows]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{SequenceId, SlotId, Token};

    /// Rows of slots 0, 1, 2 and so on, so many of each.
    fn rows(n_rows: &[u32]) -> Vec<Row> {
        let slots = (0..).zip(n_rows);
        let row = |slot, pos| Row {
            sequence: SequenceId(u64::from(slot)),
            slot: SlotId(slot),
            token: Token(0),
            pos,
            output: false,
        };
        slots
            .flat_map(|(slot, &n)| (0..n).map(move |pos| row(slot, pos)))
            .collect()
    }

    #[test]
    fn a_plan_is_cut_where_it_must_be() {
        use AtOnce::{All, EqualRuns, Rows};
        for (at_once, given, expected) in [
            (All, vec![1, 1, 5, 3], vec![10]),
            (Rows(4), vec![1, 1, 5, 3], vec![4, 4, 2]),
            (EqualRuns(4), vec![1, 1, 5, 3], vec![2, 4, 1, 3]),
            (EqualRuns(4), vec![2, 2, 2], vec![4, 2]),
        ] {
            let plan = rows(&given);
            let mut left = plan.as_slice();
            let mut found = Vec::new();
            while !left.is_empty() {
                let first = at_once.first(left);
                found.push(first.len());
                left = &left[first.len()..];
            }
            assert_eq!(found, expected, "{given:?}");
        }
    }
}
