//! Which rows of a plan llama.cpp is given at once.
//!
//! Called by the runner, on the worker thread. It only looks at rows; it changes nothing.

use super::context::FUSED_TILE_ROWS;
use super::{ContextParams, Model};
use crate::engine::Row;

/// Rows that are computed one by one.
const N_UNTILED: usize = FUSED_TILE_ROWS - 4;

/// Cells of others that cost a tile's row as much as it gains at one of its own: see docs/performance.md.
const TILE_GAIN: u64 = 4;

/// How many rows llama.cpp may be given at once.
///
/// It splits what it is given into batches that it computes one after the other, and finds the cells
/// for all of them beforehand. A batch may get cells that a window has left behind by then. They are
/// taken away at once, although an earlier batch, not computed yet, has to look at some of them. So a
/// memory with a window is given one batch at a time.
///
/// The fused attention of CPUs computes 64 rows and more in tiles, fewer one by one. Tiles are faster
/// with the cells that a row looks at and slower with those of other sequences, which they skip only
/// where none of their rows looks at them. So rows that decode are never in tiles, with whatever drafts
/// they have, and those of prompts only where they are deep in a cache that holds little else.
#[derive(Clone, Copy)]
pub(super) enum AtOnce {
    All,
    /// Slots whose rows all have an output, or all others; in tiles or not.
    Fused,
    Rows(usize),
    /// So many rows of slots with equally many: for a memory whose batches are such.
    EqualRuns(usize),
}

impl AtOnce {
    pub(super) fn new(model: &Model, params: &ContextParams) -> Self {
        let n_max = params.n_ubatch.min(params.n_batch);
        match model.has_window() {
            false if params.decode_apart => Self::Fused,
            false => Self::All,
            true if params.kv_unified && !model.has_states() => Self::Rows(n_max),
            true => Self::EqualRuns(n_max),
        }
    }

    /// The rows to begin with, at least one if there are any; they look at `n_cells` cells.
    pub(super) fn first(self, rows: &[Row], n_cells: u32) -> &[Row] {
        let n_rows = match self {
            Self::All => rows.len(),
            Self::Fused => match n_decoding(rows) {
                0 if tiles_pay(rows, n_cells) => rows.len(),
                0 => rows.len().min(N_UNTILED),
                n_rows => n_rows,
            },
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

/// The rows of the first slots that decode, as many as are not computed in tiles.
fn n_decoding(rows: &[Row]) -> usize {
    let runs = rows.chunk_by(|a, b| a.slot == b.slot);
    let decoding = runs.take_while(|run| run.iter().all(|row| row.output));
    let ends = decoding.scan(0, |end, run| {
        *end += run.len();
        Some(*end)
    });
    let mut ends = ends.peekable();
    let first = ends.peek().copied().unwrap_or(0);
    ends.take_while(|&end| end <= N_UNTILED)
        .last()
        .unwrap_or(first)
}

/// Whether tiles are faster for rows of prompts than one row after the other.
fn tiles_pay(rows: &[Row], n_cells: u32) -> bool {
    let n_own: u64 = rows.iter().map(|row| 1 + u64::from(row.pos)).sum();
    let n_all = u64::from(n_cells) * rows.len() as u64;
    n_own * TILE_GAIN >= n_all.saturating_sub(n_own)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{SequenceId, SlotId, Token};

    /// Rows of slots 0, 1, 2 and so on, so many of each; those of one or two have outputs.
    fn rows(n_rows: &[u32]) -> Vec<Row> {
        let slots = (0..).zip(n_rows);
        let row = |slot, pos, n| Row {
            sequence: SequenceId(u64::from(slot)),
            slot: SlotId(slot),
            token: Token(0),
            pos,
            output: n <= 2,
        };
        slots
            .flat_map(|(slot, &n)| (0..n).map(move |pos| row(slot, pos, n)))
            .collect()
    }

    #[test]
    fn a_plan_is_cut_where_it_must_be() {
        use AtOnce::{All, EqualRuns, Fused, Rows};
        for (at_once, given, expected) in [
            (All, vec![1, 1, 5, 3], vec![10]),
            (Fused, vec![1, 2, 5, 3], vec![3, 8]),
            (Fused, vec![5, 3], vec![8]),
            (Fused, vec![1, 1], vec![2]),
            (Fused, vec![1, 5, 1], vec![1, 6]),
            (Fused, vec![1; 70], vec![60, 10]),
            (Fused, vec![2; 35], vec![60, 10]),
            (Fused, vec![1, 130, 60], vec![1, 190]),
            (Rows(4), vec![1, 1, 5, 3], vec![4, 4, 2]),
            (EqualRuns(4), vec![1, 1, 5, 3], vec![2, 4, 1, 3]),
            (EqualRuns(4), vec![2, 2, 2], vec![4, 2]),
        ] {
            let plan = rows(&given);
            let mut left = plan.as_slice();
            let mut found = Vec::new();
            while !left.is_empty() {
                let first = at_once.first(left, 0);
                found.push(first.len());
                left = &left[first.len()..];
            }
            assert_eq!(found, expected, "{given:?}");
        }
    }

    /// 200 rows of one prompt look at 100 cells of their own on average.
    #[test]
    fn tiles_are_for_rows_with_few_cells_of_others() {
        let rows = rows(&[200]);
        assert_eq!(AtOnce::Fused.first(&rows, 500).len(), 200);
        assert_eq!(AtOnce::Fused.first(&rows, 510).len(), 60);
        assert_eq!(AtOnce::All.first(&rows, 510).len(), 200);
    }
}
