//! Products of many queries with the cells of a tile: scores, and sums of values.
//!
//! Everything here is written for several queries and columns at a time, so that what is read once is
//! used for all of them.

use super::STRIP;
use super::kernel::State;
use super::strip::{Numbers, Strip, in_order};
use super::visible::TILE;

/// Something to be done for each of many queries and columns, several at a time.
pub(super) trait ForQueries: Sized {
    fn n_columns(&self) -> usize;

    /// For `M` columns from `column` on.
    fn step<S: Strip, const N: usize, const M: usize>(
        &mut self,
        queries: &[usize; N],
        column: usize,
    );

    #[inline(always)]
    fn run<S: Strip, const N: usize, const M: usize>(mut self, queries: &[usize]) {
        let rest = self.some::<S, N, M>(queries);
        let rest = self.some::<S, 3, M>(rest);
        let rest = self.some::<S, 2, M>(rest);
        self.some::<S, 1, 4>(rest);
    }

    #[inline(always)]
    fn some<'a, S: Strip, const N: usize, const M: usize>(
        &mut self,
        mut queries: &'a [usize],
    ) -> &'a [usize] {
        while let Some((some, rest)) = queries.split_first_chunk::<N>() {
            let mut column = 0;
            while column + M <= self.n_columns() {
                self.step::<S, N, M>(some, column);
                column += M;
            }
            while column < self.n_columns() {
                self.step::<S, N, 1>(some, column);
                column += 1;
            }
            queries = rest;
        }
        queries
    }
}

/// From the cells themselves, four in a column.
pub(super) struct ScoreCells<'a, C> {
    pub(super) cells: &'a [C; TILE],
    pub(super) n_columns: usize,
    pub(super) queries: &'a [f32],
    pub(super) n_numbers: usize,
    pub(super) states: &'a mut [State],
}

impl<C: Numbers> ForQueries for ScoreCells<'_, C> {
    fn n_columns(&self) -> usize {
        self.n_columns
    }

    #[inline(always)]
    fn step<S: Strip, const N: usize, const M: usize>(
        &mut self,
        queries: &[usize; N],
        column: usize,
    ) {
        let n_numbers = self.n_numbers;
        let numbers = queries.map(|query| &self.queries[query * n_numbers..][..n_numbers]);
        for column in column..column + M {
            let cells = &self.cells.as_chunks::<4>().0[column];
            let mut products = [[S::splat(0.0); 4]; N];
            for at in (0..n_numbers).step_by(STRIP) {
                // SAFETY: each query has so many numbers, and each cell, as `Take` says.
                unsafe {
                    let mut strips = [S::splat(0.0); N];
                    for row in 0..N {
                        strips[row] = S::load(numbers[row].as_ptr().add(at));
                    }
                    for (cell_idx, cell) in cells.iter().enumerate() {
                        let cell: S = cell.load(at);
                        for row in 0..N {
                            products[row][cell_idx] =
                                cell.multiply_add(strips[row], products[row][cell_idx]);
                        }
                    }
                }
            }
            for (&query, products) in queries.iter().zip(products) {
                let scores = &mut self.states[query].weights[column * 4..][..4];
                scores.copy_from_slice(&S::totals(products));
            }
        }
    }
}

/// From strips of cells.
pub(super) struct ScoreStrips<'a> {
    pub(super) strips: &'a [f32],
    pub(super) n_columns: usize,
    pub(super) queries: &'a [f32],
    pub(super) n_numbers: usize,
    pub(super) states: &'a mut [State],
}

impl ForQueries for ScoreStrips<'_> {
    fn n_columns(&self) -> usize {
        self.n_columns
    }

    #[inline(always)]
    fn step<S: Strip, const N: usize, const M: usize>(
        &mut self,
        queries: &[usize; N],
        column: usize,
    ) {
        let n_numbers = self.n_numbers;
        let numbers = queries.map(|query| &self.queries[query * n_numbers..][..n_numbers]);
        let strips = &self.strips[column * n_numbers * STRIP..][..M * n_numbers * STRIP];
        // SAFETY: there are so many.
        let strip =
            |column, at| unsafe { S::load(strips.as_ptr().add((column * n_numbers + at) * STRIP)) };
        let zeros = [[S::splat(0.0); M]; N];
        // SAFETY: the processor has the instructions, as `S` is computed with.
        let every_sixteenth =
            |first| unsafe { S::call(|| multiply::<S, N, M, STRIP>(numbers, first, strip, zeros)) };
        // SAFETY: as above.
        let scores = in_order(every_sixteenth, |a, b| unsafe { S::call(|| add(a, b)) });
        for (&query, scores) in queries.iter().zip(scores) {
            store(scores, &mut self.states[query].weights[column * STRIP..]);
        }
    }
}

/// The values of a tile's cells.
pub(super) trait Values {
    /// 16 of a cell's numbers.
    ///
    /// # Safety
    /// There is such a column.
    unsafe fn strip<S: Strip>(&self, column: usize, cell_idx: usize) -> S;
}

/// Where they are in the cache.
impl<C: Numbers> Values for [C; TILE] {
    #[inline(always)]
    unsafe fn strip<S: Strip>(&self, column: usize, cell_idx: usize) -> S {
        // SAFETY: the caller has made sure of it.
        unsafe { self[cell_idx].load(column * STRIP) }
    }
}

/// In strips.
impl Values for [f32] {
    #[inline(always)]
    unsafe fn strip<S: Strip>(&self, column: usize, cell_idx: usize) -> S {
        // SAFETY: the caller has made sure of it.
        unsafe { S::load(self.as_ptr().add((column * TILE + cell_idx) * STRIP)) }
    }
}

/// What is added, a strip of numbers in a column.
pub(super) struct AddFrom<'a, V: ?Sized> {
    pub(super) values: &'a V,
    pub(super) n_cells: usize,
    pub(super) n_values: usize,
    pub(super) states: &'a [State],
    pub(super) sums: &'a mut [f32],
}

impl<V: Values + ?Sized> ForQueries for AddFrom<'_, V> {
    fn n_columns(&self) -> usize {
        self.n_values / STRIP
    }

    #[inline(always)]
    fn step<S: Strip, const N: usize, const M: usize>(
        &mut self,
        queries: &[usize; N],
        column: usize,
    ) {
        let place = |query: usize| query * self.n_values + column * STRIP;
        let states = queries.map(|query| &self.states[query]);
        let weights = states.map(|state| &state.weights[..self.n_cells]);
        let mut sums = [[S::splat(0.0); M]; N];
        for row in 0..N {
            let before = &self.sums[place(queries[row])..][..M * STRIP];
            let keep = S::splat(states[row].keep);
            for (at, sum) in sums[row].iter_mut().enumerate() {
                // SAFETY: there are so many strips.
                let strip = unsafe { S::load(before.as_ptr().add(at * STRIP)) };
                *sum = strip.multiply(keep);
            }
        }
        // SAFETY: there are so many cells and columns.
        let strip = |at, cell_idx| unsafe { self.values.strip(column + at, cell_idx) };
        let sums = multiply::<S, N, M, 1>(weights, 0, strip, sums);
        for (&query, sum) in queries.iter().zip(sums) {
            store(sum, &mut self.sums[place(query)..]);
        }
    }
}

/// Adds to the sums of each row the strips of each column, each times that row's factor for it: those
/// from the first on, `STEP` apart.
#[inline(always)]
fn multiply<S: Strip, const N: usize, const M: usize, const STEP: usize>(
    factors: [&[f32]; N],
    first: usize,
    strip: impl Fn(usize, usize) -> S,
    mut sums: [[S; M]; N],
) -> [[S; M]; N] {
    let n_factors = factors[0].len();
    assert!(factors.iter().all(|row| row.len() == n_factors));
    for at in (first..n_factors).step_by(STEP) {
        let mut strips = [S::splat(0.0); M];
        for (column, loaded) in strips.iter_mut().enumerate() {
            *loaded = strip(column, at);
        }
        for row in 0..N {
            // SAFETY: there are so many, as asserted.
            let factor = S::splat(unsafe { *factors[row].get_unchecked(at) });
            for column in 0..M {
                sums[row][column] = strips[column].multiply_add(factor, sums[row][column]);
            }
        }
    }
    sums
}

#[inline(always)]
fn add<S: Strip, const N: usize, const M: usize>(
    mut sums: [[S; M]; N],
    others: [[S; M]; N],
) -> [[S; M]; N] {
    for row in 0..N {
        for column in 0..M {
            sums[row][column] = sums[row][column].add(others[row][column]);
        }
    }
    sums
}

#[inline(always)]
fn store<S: Strip, const M: usize>(strips: [S; M], numbers: &mut [f32]) {
    assert!(numbers.len() >= M * STRIP);
    for (at, strip) in strips.into_iter().enumerate() {
        // SAFETY: there is room for so many, as asserted.
        unsafe { strip.store(numbers.as_mut_ptr().add(at * STRIP)) };
    }
}
