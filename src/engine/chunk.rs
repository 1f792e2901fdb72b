//! How the prompts share a step: how many rows each of them gets.
//!
//! Only the scheduler calls this, on the worker thread. It knows neither slots nor cells.

use std::time::Duration;

use super::ids::SequenceId;
use super::sequence::Sequence;
use super::step_time::{StepSize, StepTime};

/// What of its time a step is planned to take: predictions err.
const AIM: f64 = 0.7;

/// Rows that prompts get in every step, whatever it takes, so that they come to their end.
const MIN_ROWS: usize = 8;

/// The next rows of one prompt.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) id: SequenceId,
    pub(super) n_rows: usize,
    pos: usize,
    n_prompt_left: usize,
}

impl Chunk {
    /// No rows yet.
    pub(super) fn of(sequence: &Sequence) -> Self {
        Self {
            id: sequence.id,
            n_rows: 0,
            pos: sequence.n_computed(),
            n_prompt_left: sequence.n_prefill_left(),
        }
    }

    fn n_left(&self) -> usize {
        self.n_prompt_left - self.n_rows
    }
}

/// What a step has room for.
#[derive(Debug)]
pub(super) struct Room {
    /// Rows for all prompts together.
    pub(super) n_rows: usize,
    /// The rows that the step has already.
    pub(super) base: StepSize,
    /// How long all of the step may take.
    pub(super) time: Duration,
}

/// Gives the first prompt half of the room and the others what is left, those with the least to do
/// first; what nobody else needs goes to the first. They come in order of rank.
pub(super) fn share_out(room: &Room, step_time: &StepTime, chunks: &mut [Chunk]) {
    let Some((first, others)) = chunks.split_first_mut() else {
        return;
    };
    let time = room.time.mul_f64(AIM);
    let (mut n_rows, mut size) = (0, room.base);
    let mut grow = |chunk: &mut Chunk, time: Duration, max_rows: usize| {
        let pos = chunk.pos + chunk.n_rows;
        let max_rows = max_rows.min(room.n_rows - n_rows).min(chunk.n_left());
        let n_more = step_time.n_rows_within(time, size, pos, max_rows);
        size = size.with(pos, n_more);
        chunk.n_rows += n_more;
        n_rows += n_more;
        n_rows
    };
    if !others.is_empty() {
        let decoding = step_time.predict(room.base);
        let half = decoding + time.saturating_sub(decoding) / 2;
        grow(first, half, room.n_rows.div_ceil(2));
        let mut others: Vec<&mut Chunk> = others.iter_mut().collect();
        others.sort_by_key(|chunk| chunk.n_left());
        for chunk in others {
            grow(chunk, time, room.n_rows);
        }
    }
    let n_rows = grow(first, time, room.n_rows);
    grow(first, Duration::MAX, MIN_ROWS.saturating_sub(n_rows));
}
