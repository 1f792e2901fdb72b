//! Which cells the rows of a step look at, and how they are shared out.
//!
//! Found from a mask, once for all heads and layers that have it.

use std::ops::Range;

use super::operands::Operands;

/// Cells that are computed together: as many as a `u64` has bits.
pub(super) const TILE: usize = u64::BITS as usize;

/// Queries that are computed together, if there are so many: each is a row and a head.
const MAX_QUERIES: usize = 64;

/// Rows are computed together if one looks at as many of the cells of those before it, out of four.
const MIN_COMMON: u32 = 3;

/// What the mask says of a cell that a row does not look at: negative infinity.
const UNSEEN: u16 = 0xFC00;

/// One thread's part of the work.
pub(super) struct Visible {
    /// Whose it is: the mask, and the numbers of heads.
    key: (*const u8, usize, usize),
    pub(super) blocks: Vec<Block>,
    cells: Vec<u32>,
    seen: Vec<u64>,
}

// SAFETY: the pointer is only compared.
unsafe impl Send for Visible {}

/// Rows that look at much the same cells, and heads.
pub(super) struct Block {
    pub(super) stream: usize,
    pub(super) rows: Range<usize>,
    pub(super) heads: Range<usize>,
    cells: Range<usize>,
    seen: usize,
}

/// Rows that look at much the same cells.
struct Rows {
    stream: usize,
    rows: Range<usize>,
    n_cells: usize,
}

/// A bit for each cell of each row.
struct Bits {
    n_words: usize,
    words: Vec<u64>,
}

impl Visible {
    /// Finds this thread's part, of an equal amount of work for each.
    pub(super) fn find(operands: &Operands, thread_idx: usize, n_threads: usize) -> Self {
        let n_heads = operands.n_heads();
        let bits = Bits::of(operands);
        let max_rows = (MAX_QUERIES / operands.n_heads_per_group()).max(1);
        let rows = bits.in_blocks(operands, max_rows);
        let cost = |rows: &Rows| (rows.n_cells.max(1) * rows.rows.len()) as u64;
        let total: u64 = rows.iter().map(|rows| cost(rows) * n_heads as u64).sum();
        let [start, end] =
            [thread_idx, thread_idx + 1].map(|n| total * n as u64 / n_threads as u64);
        let mut found = Self {
            key: key(operands),
            blocks: Vec::new(),
            cells: Vec::new(),
            seen: Vec::new(),
        };
        let mut before = 0;
        for rows in &rows {
            let cost = cost(rows);
            // A head is the thread's in whose part it begins.
            let head = |limit: u64| {
                limit
                    .saturating_sub(before)
                    .div_ceil(cost)
                    .min(n_heads as u64)
            };
            let heads = head(start) as usize..head(end) as usize;
            if !heads.is_empty() {
                found.push(rows, heads, &bits, operands.n_rows());
            }
            before += cost * n_heads as u64;
        }
        found
    }

    /// Whether it was found for this mask and so many heads.
    pub(super) fn is_for(&self, operands: &Operands) -> bool {
        self.key == key(operands)
    }

    /// The cells of a block, and what its rows look at of each tile of them: a bit for each cell.
    pub(super) fn of_block(&self, block: &Block) -> (&[u32], &[u64]) {
        let cells = &self.cells[block.cells.clone()];
        let n_seen = cells.len().div_ceil(TILE) * block.rows.len();
        (cells, &self.seen[block.seen..][..n_seen])
    }

    fn push(&mut self, rows: &Rows, heads: Range<usize>, bits: &Bits, n_rows: usize) {
        let (start, seen_start) = (self.cells.len(), self.seen.len());
        let of_stream = rows.stream * n_rows;
        let bits_of = |row: usize| bits.row(of_stream + row);
        for word_idx in 0..bits.n_words {
            let mut word = rows
                .rows
                .clone()
                .fold(0, |word, row| word | bits_of(row)[word_idx]);
            while word != 0 {
                self.cells
                    .push((64 * word_idx) as u32 + word.trailing_zeros());
                word &= word - 1;
            }
        }
        for tile in self.cells[start..].chunks(TILE) {
            for row in rows.rows.clone() {
                let bits = bits_of(row);
                let bit = |cell: u32| bits[cell as usize / 64] >> (cell % 64) & 1;
                let seen = tile
                    .iter()
                    .enumerate()
                    .fold(0, |seen, (at, &cell)| seen | bit(cell) << at);
                self.seen.push(seen);
            }
        }
        self.blocks.push(Block {
            stream: rows.stream,
            rows: rows.rows.clone(),
            heads,
            cells: start..self.cells.len(),
            seen: seen_start,
        });
    }
}

impl Bits {
    fn of(operands: &Operands) -> Self {
        let n_words = operands.mask.ne[0].div_ceil(64);
        let mut words = Vec::with_capacity(operands.n_streams() * operands.n_rows() * n_words);
        for stream in 0..operands.n_streams() {
            for row in 0..operands.n_rows() {
                let mask = operands.mask(row, stream).chunks(64);
                words.extend(mask.map(|mask| {
                    let bits = mask.iter().enumerate();
                    bits.fold(0, |word, (at, &mask)| {
                        word | u64::from(mask != UNSEEN) << at
                    })
                }));
            }
        }
        Self { n_words, words }
    }

    fn row(&self, idx: usize) -> &[u64] {
        &self.words[idx * self.n_words..][..self.n_words]
    }

    fn in_blocks(&self, operands: &Operands, max_rows: usize) -> Vec<Rows> {
        let n_rows = operands.n_rows();
        let mut found: Vec<Rows> = Vec::new();
        let mut union = vec![0; self.n_words];
        for stream in 0..operands.n_streams() {
            let mut last: Option<Rows> = None;
            for row in 0..n_rows {
                let bits = self.row(stream * n_rows + row);
                let joins = last.as_ref().is_some_and(|last| {
                    let common = union.iter().zip(bits).map(|(a, b)| (a & b).count_ones());
                    let own = bits.iter().map(|word| word.count_ones()).sum::<u32>();
                    last.rows.len() < max_rows && 4 * common.sum::<u32>() >= MIN_COMMON * own
                });
                match &mut last {
                    Some(last) if joins => {
                        last.rows.end = row + 1;
                        union.iter_mut().zip(bits).for_each(|(a, b)| *a |= b);
                    }
                    _ => {
                        found.extend(last.take());
                        union.copy_from_slice(bits);
                        last = Some(Rows {
                            stream,
                            rows: row..row + 1,
                            n_cells: 0,
                        });
                    }
                }
                if let Some(last) = &mut last {
                    last.n_cells = union.iter().map(|word| word.count_ones() as usize).sum();
                }
            }
            found.extend(last);
        }
        found
    }
}

fn key(operands: &Operands) -> (*const u8, usize, usize) {
    (
        operands.mask.data,
        operands.n_heads(),
        operands.n_heads_per_group(),
    )
}
