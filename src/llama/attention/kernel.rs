//! The arithmetic of attention.
//!
//! Softmax is computed as it goes: for each query the highest score so far, the sum of what the
//! exponentials of scores are beside it, and the sum of values by these weights. All of it in f32, and
//! for each query in an order that only the positions of its own cells decide.

use std::array;
use std::ops::Range;

use super::STRIP;
use super::instructions::Instructions;
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::operands::Operands;
use super::products::{AddFrom, ForQueries, ScoreCells, ScoreStrips};
use super::read::{Take, prefetch, read};
use super::strip::{self, Numbers, Strip};
use super::visible::{Block, TILE, Tile, Visible};
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512};
use crate::llama::exp::{Lanes, exp};

/// Strips of a tile of cells.
const STRIPS: usize = TILE / STRIP;

/// So few queries are computed from the cells as they are: what it costs to put these in strips comes
/// back only with more.
const FEW: usize = 12;

/// Room for one block's numbers.
#[derive(Default)]
pub(super) struct Buffers {
    /// For each query its numbers, scaled.
    queries: Vec<f32>,
    /// The numbers of a tile's cells, where they had to be made f32 first.
    floats: Vec<f32>,
    /// For each strip of cells of a tile, and each number of a key, that strip.
    keys: Vec<f32>,
    /// For each strip of numbers of a value, and each cell of a tile, that strip.
    values: Vec<f32>,
    states: Vec<State>,
    /// For each query the sums of its values.
    sums: Vec<f32>,
    /// The queries that look at a tile.
    active: Vec<usize>,
}

/// Where a query is.
#[derive(Clone, Copy)]
pub(super) struct State {
    max: f32,
    sum: f32,
    /// What the sums are to be multiplied with before something is added to them.
    pub(super) keep: f32,
    /// Of each cell of a tile the score, then its weight.
    pub(super) weights: [f32; TILE],
}

/// Computes one thread's part.
pub(super) fn run(
    instructions: Instructions,
    operands: &Operands,
    visible: &Visible,
    buffers: &mut Buffers,
) {
    for block in &visible.blocks {
        let part = Part { operands, block };
        match instructions {
            // SAFETY: the processor has them, see `Instructions`.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512 => unsafe { part.attend_avx512(buffers) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2 => unsafe { part.attend_avx2(buffers) },
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => part.attend::<Neon, 4, 1, 1>(buffers),
            Instructions::Scalar => part.attend::<[f32; STRIP], 2, 1, 1>(buffers),
        }
    }
}

/// A block, and where its numbers are.
struct Part<'a> {
    operands: &'a Operands,
    block: &'a Block,
}

/// Those heads of a block that share keys and values.
struct Group {
    /// Which keys and values, and of which stream.
    place: [usize; 2],
    heads: Range<usize>,
    /// The first of its queries: one for each of these heads of the first row, then of the next.
    first: usize,
}

impl Part<'_> {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn attend_avx2(&self, buffers: &mut Buffers) {
        self.attend::<Avx2, 4, 1, 1>(buffers);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    fn attend_avx512(&self, buffers: &mut Buffers) {
        self.attend::<Avx512, 6, 4, 4>(buffers);
    }

    /// As many at a time as there are registers for: `N` queries and `M` strips, or `F` queries where
    /// there are few.
    #[inline(always)]
    fn attend<S: Strip, const N: usize, const M: usize, const F: usize>(
        &self,
        buffers: &mut Buffers,
    ) {
        let Self { operands, block } = self;
        buffers.begin(self);
        let mut tiles = block.tiles.iter().peekable();
        while let Some(tile) = tiles.next() {
            let next = tiles.peek().map_or(&[][..], |tile| tile.cells());
            for group in self.groups() {
                prefetch(&operands.k, group.place, next);
                prefetch(&operands.v, group.place, next);
                buffers.attend_tile::<S, N, M, F>(operands, &group, tile);
            }
        }
        for group in self.groups() {
            for (row_idx, row) in block.rows.clone().enumerate() {
                for (head_idx, head) in group.heads.clone().enumerate() {
                    let query = group.first + row_idx * group.heads.len() + head_idx;
                    let numbers = buffers.end(query, operands.sink(head));
                    // SAFETY: each row and head is in one block of one thread.
                    unsafe { operands.write([row, head, block.stream], numbers) };
                }
            }
        }
    }

    fn groups(&self) -> impl Iterator<Item = Group> {
        let Self { operands, block } = self;
        let heads = block.heads.clone();
        let n_per_group = operands.n_heads_per_group();
        let groups = heads.start / n_per_group..heads.end.div_ceil(n_per_group);
        groups.map(move |group| {
            let start = heads.start.max(group * n_per_group);
            let end = heads.end.min((group + 1) * n_per_group);
            Group {
                place: [group, block.stream],
                heads: start..end,
                first: (start - heads.start) * block.rows.len(),
            }
        })
    }
}

impl Buffers {
    /// Takes the queries of a part.
    fn begin(&mut self, part: &Part) {
        let Part { operands, block } = part;
        let (n_numbers, n_values) = (operands.k.ne[0], operands.v.ne[0]);
        self.queries.clear();
        for group in part.groups() {
            for row in block.rows.clone() {
                for head in group.heads.clone() {
                    let query = operands.query(row, head, block.stream);
                    self.queries
                        .extend(query.iter().map(|number| number * operands.scale));
                }
            }
        }
        let n_queries = block.rows.len() * block.heads.len();
        self.states.clear();
        self.states.resize(n_queries, State::NONE);
        self.sums.clear();
        self.sums.resize(n_queries * n_values, 0.0);
        self.keys.resize(TILE * n_numbers, 0.0);
        self.values.resize(TILE * n_values, 0.0);
    }

    #[inline(always)]
    fn attend_tile<S: Strip, const N: usize, const M: usize, const F: usize>(
        &mut self,
        operands: &Operands,
        group: &Group,
        tile: &Tile,
    ) {
        let (k, v, cells) = (&operands.k, &operands.v, tile.cells());
        let n_heads = group.heads.len();
        let looks = tile.looks.iter().flat_map(|&(row, seen)| {
            let first = group.first + row * n_heads;
            (first..first + n_heads).map(move |query| (query, seen))
        });
        self.active.clear();
        self.active.extend(looks.clone().map(|(query, _)| query));
        read::<S, N, M, F>(
            k,
            group.place,
            cells,
            &mut self.floats,
            Score {
                active: &self.active,
                queries: &self.queries,
                n_numbers: k.ne[0],
                n_cells: cells.len(),
                strips: &mut self.keys,
                states: &mut self.states,
            },
        );
        for (query, seen) in looks {
            self.states[query].weigh::<S>(seen, operands.softcap);
        }
        read::<S, N, M, F>(
            v,
            group.place,
            cells,
            &mut self.floats,
            Add {
                active: &self.active,
                states: &self.states,
                n_values: v.ne[0],
                n_cells: cells.len(),
                strips: &mut self.values,
                sums: &mut self.sums,
            },
        );
    }

    /// What came of a query.
    fn end(&self, query: usize, sink: Option<f32>) -> impl Iterator<Item = f32> {
        let factor = self.states[query].end(sink);
        let n_values = self.sums.len() / self.states.len();
        let sums = &self.sums[query * n_values..][..n_values];
        sums.iter().map(move |sum| sum * factor)
    }
}

impl State {
    const NONE: Self = Self {
        max: f32::NEG_INFINITY,
        sum: 0.0,
        keep: 1.0,
        weights: [0.0; TILE],
    };

    /// Makes the scores of a tile weights.
    #[inline(always)]
    fn weigh<S: Strip>(&mut self, seen: u64, softcap: f32) {
        if softcap != 0.0 {
            for score in &mut self.weights {
                *score = softcap * (*score / softcap).tanh();
            }
        }
        let weights = self.weights.as_mut_ptr();
        let bits = |at: usize| (seen >> (at * STRIP)) as u16;
        // SAFETY: there are so many strips.
        let scores: [S; STRIPS] = array::from_fn(|at| unsafe { S::load(weights.add(at * STRIP)) });
        let scores: [S; STRIPS] =
            array::from_fn(|at| scores[at].where_bits(bits(at), f32::NEG_INFINITY));
        let highest = scores
            .into_iter()
            .reduce(S::max)
            .map_or(self.max, S::highest);
        let max = Lanes::max(highest, self.max);
        self.keep = exp(self.max - max);
        self.max = max;
        let mut total = S::splat(0.0);
        for (at, score) in scores.into_iter().enumerate() {
            let weight = exp(score.add(S::splat(-max))).where_bits(bits(at), 0.0);
            // SAFETY: as above.
            unsafe { weight.store(weights.add(at * STRIP)) };
            total = total.add(weight);
        }
        self.sum = self.sum * self.keep + total.total();
    }

    /// What the sums are to be multiplied with in the end.
    fn end(&self, sink: Option<f32>) -> f32 {
        let (sum, scale) = match sink {
            Some(sink) if sink > self.max => {
                let scale = (self.max - sink).exp();
                (self.sum * scale + 1.0, scale)
            }
            Some(sink) => (self.sum + (sink - self.max).exp(), 1.0),
            None => (self.sum, 1.0),
        };
        if sum == 0.0 { 0.0 } else { scale / sum }
    }
}

/// Computes the scores of a tile's cells.
struct Score<'a> {
    active: &'a [usize],
    queries: &'a [f32],
    n_numbers: usize,
    n_cells: usize,
    strips: &'a mut [f32],
    states: &'a mut [State],
}

impl Take for Score<'_> {
    #[inline(always)]
    unsafe fn take<C: Numbers, S: Strip, const N: usize, const M: usize, const F: usize>(
        self,
        cells: &[C; TILE],
    ) {
        let n_numbers = self.n_numbers;
        if self.active.len() <= FEW {
            ScoreCells {
                cells,
                n_columns: self.n_cells.div_ceil(4),
                queries: self.queries,
                n_numbers,
                states: self.states,
            }
            .run::<S, F, 1>(self.active);
            return;
        }
        assert!(self.strips.len() >= TILE * n_numbers);
        let eights = self.n_cells.div_ceil(STRIP) * 2;
        for (eight_idx, cells) in cells.as_chunks::<8>().0[..eights].iter().enumerate() {
            let (strip, half) = (eight_idx / 2, eight_idx % 2);
            for at in (0..n_numbers).step_by(8) {
                let to = (strip * n_numbers + at) * STRIP + half * 8;
                // SAFETY: there is room for all numbers, as asserted.
                unsafe { strip::turn::<S::Eight, _>(*cells, at, self.strips.as_mut_ptr().add(to)) };
            }
        }
        ScoreStrips {
            strips: self.strips,
            n_columns: self.n_cells.div_ceil(STRIP),
            queries: self.queries,
            n_numbers,
            states: self.states,
        }
        .run::<S, 3, 2>(self.active);
    }
}

/// Adds the values of a tile's cells to the sums, by their weights.
struct Add<'a> {
    active: &'a [usize],
    states: &'a [State],
    n_values: usize,
    n_cells: usize,
    strips: &'a mut [f32],
    sums: &'a mut [f32],
}

impl Take for Add<'_> {
    #[inline(always)]
    unsafe fn take<C: Numbers, S: Strip, const N: usize, const M: usize, const F: usize>(
        self,
        cells: &[C; TILE],
    ) {
        let Self {
            active,
            states,
            n_values,
            n_cells,
            strips,
            sums,
        } = self;
        if active.len() <= FEW {
            let from = AddFrom {
                values: cells,
                n_cells,
                n_values,
                states,
                sums,
            };
            return from.run::<S, F, 4>(active);
        }
        assert!(strips.len() >= TILE * n_values);
        for (cell_idx, cell) in cells[..n_cells].iter().enumerate() {
            for column in 0..n_values / STRIP {
                let to = (column * TILE + cell_idx) * STRIP;
                // SAFETY: there is room for all numbers, as asserted, and each cell has so many.
                unsafe {
                    cell.load::<S>(column * STRIP)
                        .store(strips.as_mut_ptr().add(to))
                };
            }
        }
        AddFrom {
            values: &*strips,
            n_cells,
            n_values,
            states,
            sums,
        }
        .run::<S, N, M>(active);
    }
}
