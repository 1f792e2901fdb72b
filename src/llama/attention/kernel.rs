//! The arithmetic of attention: a bundle of rows and heads, tile by tile of the cells that they look at.
//!
//! Softmax is computed as it goes, and beside it the sum of values by its weights. All of it in f32, and
//! for each query in an order that only the positions of its own cells decide.

use std::ops::Range;

use super::cells::{self, Cells, Numbers};
use super::instructions::Instructions;
#[cfg(target_arch = "aarch64")]
use super::neon::Neon;
use super::operands::Operands;
use super::products::{AddFrom, ForQueries, ScoreCells, ScoreStrips};
use super::read::{Take, prefetch, read};
use super::softmax::Softmax;
use super::strip::{STRIP, Strip};
use super::visible::{Bundle, TILE, Tile, Visible};
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512, HasAvx2, HasAvx512};

/// So few queries are computed from the cells as they are: what it costs to put these in strips comes
/// back only with more.
const FEW: usize = 12;

/// Room for one bundle's numbers.
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
    states: Vec<Softmax>,
    /// For each query the sums of its values.
    sums: Vec<f32>,
    /// The queries that look at a tile.
    active: Vec<usize>,
}

/// Computes one thread's part.
pub(super) fn run(
    instructions: Instructions,
    operands: &Operands,
    visible: &Visible,
    buffers: &mut Buffers,
) {
    for bundle in &visible.bundles {
        let part = Part { operands, bundle };
        match instructions {
            // SAFETY: the processor has what the function is compiled for: `HasAvx512` is made nowhere else.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx512(here) => unsafe { part.attend_avx512(here, buffers) },
            // SAFETY: as above, with `HasAvx2`.
            #[cfg(target_arch = "x86_64")]
            Instructions::Avx2(here) => unsafe { part.attend_avx2(here, buffers) },
            #[cfg(target_arch = "aarch64")]
            Instructions::Neon => part.attend::<Neon, 4, 1, 1>((), buffers),
            Instructions::Scalar => part.attend::<[f32; STRIP], 2, 1, 1>((), buffers),
        }
    }
}

/// A bundle, and where its numbers are.
struct Part<'a> {
    operands: &'a Operands,
    bundle: &'a Bundle,
}

/// Those heads of a bundle that share keys and values.
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
    fn attend_avx2(&self, here: HasAvx2, buffers: &mut Buffers) {
        self.attend::<Avx2, 4, 1, 1>(here, buffers);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
    fn attend_avx512(&self, here: HasAvx512, buffers: &mut Buffers) {
        self.attend::<Avx512, 6, 4, 4>(here, buffers);
    }

    /// As many at a time as there are registers for: `N` queries and `M` strips, or `F` queries where
    /// there are few.
    #[inline(always)]
    fn attend<S: Strip, const N: usize, const M: usize, const F: usize>(
        &self,
        here: S::Here,
        buffers: &mut Buffers,
    ) {
        let Self { operands, bundle } = self;
        buffers.begin(self);
        let mut tiles = bundle.tiles.iter().peekable();
        while let Some(tile) = tiles.next() {
            let next = tiles.peek().map_or(&[][..], |tile| tile.cells());
            for group in self.groups() {
                prefetch(&operands.k, group.place, next);
                prefetch(&operands.v, group.place, next);
                buffers.attend_tile::<S, N, M, F>(here, operands, &group, tile);
            }
        }
        for group in self.groups() {
            for (row_idx, row) in bundle.rows.clone().enumerate() {
                for (head_idx, head) in group.heads.clone().enumerate() {
                    let query = group.first + row_idx * group.heads.len() + head_idx;
                    let numbers = buffers.end(query, operands.sink(head));
                    // SAFETY: `Visible` has each row and head of a stream in one bundle of one thread, and llama.cpp
                    // has nobody look at the result before all threads are done.
                    unsafe { operands.write([row, head, bundle.stream], numbers) };
                }
            }
        }
    }

    fn groups(&self) -> impl Iterator<Item = Group> {
        let Self { operands, bundle } = self;
        let heads = bundle.heads.clone();
        let n_per_group = operands.n_heads_per_group();
        let groups = heads.start / n_per_group..heads.end.div_ceil(n_per_group);
        groups.map(move |group| {
            let start = heads.start.max(group * n_per_group);
            let end = heads.end.min((group + 1) * n_per_group);
            Group {
                place: [group, bundle.stream],
                heads: start..end,
                first: (start - heads.start) * bundle.rows.len(),
            }
        })
    }
}

impl Buffers {
    /// Takes the queries of a part.
    fn begin(&mut self, part: &Part) {
        let Part { operands, bundle } = part;
        let (n_numbers, n_values) = (operands.k.ne[0], operands.v.ne[0]);
        self.queries.clear();
        for group in part.groups() {
            for row in bundle.rows.clone() {
                for head in group.heads.clone() {
                    let query = operands.query(row, head, bundle.stream);
                    self.queries
                        .extend(query.iter().map(|number| number * operands.scale));
                }
            }
        }
        let n_queries = bundle.rows.len() * bundle.heads.len();
        self.states.clear();
        self.states.resize(n_queries, Softmax::NONE);
        self.sums.clear();
        self.sums.resize(n_queries * n_values, 0.0);
        self.keys.resize(TILE * n_numbers, 0.0);
        self.values.resize(TILE * n_values, 0.0);
    }

    #[inline(always)]
    fn attend_tile<S: Strip, const N: usize, const M: usize, const F: usize>(
        &mut self,
        here: S::Here,
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
        read(
            k,
            group.place,
            cells,
            &mut self.floats,
            Score::<S, N, M, F> {
                here,
                active: &self.active,
                queries: &self.queries,
                n_cells: cells.len(),
                strips: &mut self.keys,
                states: &mut self.states,
            },
        );
        for (query, seen) in looks {
            self.states[query].weigh::<S>(here, seen, operands.softcap);
        }
        read(
            v,
            group.place,
            cells,
            &mut self.floats,
            Add::<S, N, M, F> {
                here,
                active: &self.active,
                states: &self.states,
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

/// Computes the scores of a tile's cells.
struct Score<'a, S: Strip, const N: usize, const M: usize, const F: usize> {
    here: S::Here,
    active: &'a [usize],
    queries: &'a [f32],
    n_cells: usize,
    strips: &'a mut [f32],
    states: &'a mut [Softmax],
}

impl<S: Strip, const N: usize, const M: usize, const F: usize> Take for Score<'_, S, N, M, F> {
    #[inline(always)]
    fn take<C: Numbers>(self, cells: &Cells<C>) {
        let (here, n_numbers) = (self.here, cells.n_numbers());
        if self.active.len() <= FEW {
            let from = ScoreCells::<S, C> {
                here,
                cells,
                n_columns: self.n_cells.div_ceil(4),
                queries: self.queries,
                states: self.states,
            };
            return from.run::<F, 1>(self.active);
        }
        assert!(self.strips.len() >= TILE * n_numbers && n_numbers.is_multiple_of(STRIP));
        let eights = self.n_cells.div_ceil(STRIP) * 2;
        let all = &cells.all().as_chunks::<8>().0[..eights];
        for (eight_idx, eight) in all.iter().enumerate() {
            let (strip, half) = (eight_idx / 2, eight_idx % 2);
            for at in (0..n_numbers).step_by(8) {
                let to = (strip * n_numbers + at) * STRIP + half * 8;
                // SAFETY: `at` and `n_numbers` are multiples of 8, so from each of `Cells` on there are 8 numbers
                // more than `at`. What is written ends at `(strip * n_numbers + at + 8) * STRIP` at most, which is
                // within the `TILE / STRIP` strips of `n_numbers` times `STRIP` numbers that are asserted.
                unsafe {
                    let to = self.strips.as_mut_ptr().add(to);
                    cells::turn::<S::Eight, _>(S::eight(here), *eight, at, to);
                }
            }
        }
        ScoreStrips::<S> {
            here,
            strips: self.strips,
            n_columns: self.n_cells.div_ceil(STRIP),
            queries: self.queries,
            n_numbers,
            states: self.states,
        }
        .run::<3, 2>(self.active);
    }
}

/// Adds the values of a tile's cells to the sums, by their weights.
struct Add<'a, S: Strip, const N: usize, const M: usize, const F: usize> {
    here: S::Here,
    active: &'a [usize],
    states: &'a [Softmax],
    n_cells: usize,
    strips: &'a mut [f32],
    sums: &'a mut [f32],
}

impl<S: Strip, const N: usize, const M: usize, const F: usize> Take for Add<'_, S, N, M, F> {
    #[inline(always)]
    fn take<C: Numbers>(self, cells: &Cells<C>) {
        let Self {
            here,
            active,
            states,
            n_cells,
            strips,
            sums,
        } = self;
        let n_values = cells.n_numbers();
        if active.len() <= FEW {
            let from = AddFrom::<S, _> {
                here,
                values: cells,
                n_cells,
                n_values,
                states,
                sums,
            };
            return from.run::<F, 4>(active);
        }
        assert!(strips.len() >= TILE * n_values);
        const { assert!(S::N == STRIP) };
        for (cell_idx, cell) in cells.all()[..n_cells].iter().enumerate() {
            for column in 0..n_values / STRIP {
                let to = (column * TILE + cell_idx) * STRIP;
                // SAFETY: from each of `Cells` on, `n_values` numbers can be read, which `STRIP` times the columns
                // are at most. `cell_idx` is below `TILE`, so what is written ends at `(column + 1) * TILE * STRIP`
                // at most, which is within the `n_values * TILE` that are asserted.
                unsafe {
                    let strip: S = cell.load(here, column * STRIP);
                    strip.store(strips.as_mut_ptr().add(to));
                }
            }
        }
        AddFrom::<S, _> {
            here,
            values: &*strips,
            n_cells,
            n_values,
            states,
            sums,
        }
        .run::<N, M>(active);
    }
}
