//! Products of many queries with the cells of a tile: scores, and sums of values.
//!
//! Everything here is written for several queries and columns at a time, so that what is read once is
//! used for all of them.

use super::cells::{Cells, Numbers};
use super::softmax::Softmax;
use super::strip::{STRIP, Strip, in_order};
use super::visible::TILE;

/// Something to be done for each of many queries and columns, several at a time.
pub(super) trait ForQueries<S: Strip>: Sized {
    fn n_columns(&self) -> usize;

    /// For `M` columns from `column` on, which are all below [`ForQueries::n_columns`].
    fn step<const N: usize, const M: usize>(&mut self, queries: &[usize; N], column: usize);

    #[inline(always)]
    fn run<const N: usize, const M: usize>(mut self, queries: &[usize]) {
        let rest = self.some::<N, M>(queries);
        let rest = self.some::<3, M>(rest);
        let rest = self.some::<2, M>(rest);
        self.some::<1, 4>(rest);
    }

    #[inline(always)]
    fn some<'a, const N: usize, const M: usize>(
        &mut self,
        mut queries: &'a [usize],
    ) -> &'a [usize] {
        while let Some((some, rest)) = queries.split_first_chunk::<N>() {
            let mut column = 0;
            while column + M <= self.n_columns() {
                self.step::<N, M>(some, column);
                column += M;
            }
            while column < self.n_columns() {
                self.step::<N, 1>(some, column);
                column += 1;
            }
            queries = rest;
        }
        queries
    }
}

/// From the cells themselves, four in a column.
pub(super) struct ScoreCells<'a, S: Strip, C> {
    pub(super) here: S::Here,
    pub(super) cells: &'a Cells<C>,
    pub(super) n_columns: usize,
    /// For each query as many numbers as a cell has.
    pub(super) queries: &'a [f32],
    pub(super) states: &'a mut [Softmax],
}

impl<S: Strip, C: Numbers> ForQueries<S> for ScoreCells<'_, S, C> {
    fn n_columns(&self) -> usize {
        self.n_columns
    }

    #[inline(always)]
    fn step<const N: usize, const M: usize>(&mut self, queries: &[usize; N], column: usize) {
        let (here, n_numbers) = (self.here, self.cells.n_numbers());
        assert!(n_numbers.is_multiple_of(STRIP));
        const { assert!(S::N == STRIP) };
        let numbers = queries.map(|query| &self.queries[query * n_numbers..][..n_numbers]);
        for column in column..column + M {
            let cells = &self.cells.all().as_chunks::<4>().0[column];
            let mut products = [[S::splat(here, 0.0); 4]; N];
            for at in (0..n_numbers).step_by(STRIP) {
                let mut strips = [S::splat(here, 0.0); N];
                for row in 0..N {
                    // SAFETY: `at` and `n_numbers` are multiples of `STRIP`, and the slice has `n_numbers` numbers:
                    // `STRIP` of them can be read from `at` on.
                    strips[row] = unsafe { S::load(here, numbers[row].as_ptr().add(at)) };
                }
                for (cell_idx, cell) in cells.iter().enumerate() {
                    // SAFETY: as above; from each of `Cells` on, `n_numbers` numbers can be read.
                    let cell: S = unsafe { cell.load(here, at) };
                    for row in 0..N {
                        products[row][cell_idx] =
                            cell.multiply_add(strips[row], products[row][cell_idx]);
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
pub(super) struct ScoreStrips<'a, S: Strip> {
    pub(super) here: S::Here,
    pub(super) strips: &'a [f32],
    pub(super) n_columns: usize,
    pub(super) queries: &'a [f32],
    pub(super) n_numbers: usize,
    pub(super) states: &'a mut [Softmax],
}

impl<S: Strip> ForQueries<S> for ScoreStrips<'_, S> {
    fn n_columns(&self) -> usize {
        self.n_columns
    }

    #[inline(always)]
    fn step<const N: usize, const M: usize>(&mut self, queries: &[usize; N], column: usize) {
        let (here, n_numbers) = (self.here, self.n_numbers);
        const { assert!(S::N == STRIP) };
        let numbers = queries.map(|query| &self.queries[query * n_numbers..][..n_numbers]);
        let strips = &self.strips[column * n_numbers * STRIP..][..M * n_numbers * STRIP];
        let strip = |column, at| {
            // SAFETY: `multiply` asks for columns below `M` and numbers below the `n_numbers` of a query. The
            // slice has a strip for each of both.
            unsafe { S::load(here, strips.as_ptr().add((column * n_numbers + at) * STRIP)) }
        };
        let zeros = [[S::splat(here, 0.0); M]; N];
        let every_sixteenth = |first| {
            S::call(here, || {
                multiply::<S, N, M, STRIP>(here, numbers, first, strip, zeros)
            })
        };
        let scores = in_order(every_sixteenth, |a, b| S::call(here, || add(a, b)));
        for (&query, scores) in queries.iter().zip(scores) {
            store(scores, &mut self.states[query].weights[column * STRIP..]);
        }
    }
}

/// The values of a tile's cells.
pub(super) trait Values {
    /// Whether there are `n_columns` columns, each of [`STRIP`] numbers, for each of `n_cells` cells.
    fn have(&self, n_columns: usize, n_cells: usize) -> bool;

    /// The numbers of a cell in a column.
    ///
    /// # Safety
    /// [`Values::have`] is true of more columns than `column` and, at once, more cells than `cell_idx`.
    unsafe fn strip<S: Strip>(&self, here: S::Here, column: usize, cell_idx: usize) -> S;
}

/// Where they are in the cache.
impl<C: Numbers> Values for Cells<C> {
    #[inline(always)]
    fn have(&self, n_columns: usize, n_cells: usize) -> bool {
        n_columns * STRIP <= self.n_numbers() && n_cells <= TILE
    }

    #[inline(always)]
    unsafe fn strip<S: Strip>(&self, here: S::Here, column: usize, cell_idx: usize) -> S {
        const { assert!(S::N == STRIP) };
        // SAFETY: from each of `Cells` on, `n_numbers` numbers can be read, and those of this column are among
        // them, says the caller.
        unsafe { self.all()[cell_idx].load(here, column * STRIP) }
    }
}

/// In strips: for each column one of each cell.
impl Values for [f32] {
    #[inline(always)]
    fn have(&self, n_columns: usize, n_cells: usize) -> bool {
        n_columns * TILE * STRIP <= self.len() && n_cells <= TILE
    }

    #[inline(always)]
    unsafe fn strip<S: Strip>(&self, here: S::Here, column: usize, cell_idx: usize) -> S {
        const { assert!(S::N == STRIP) };
        // SAFETY: a column has `TILE` strips, of which this cell has one, and the slice all of this column, says
        // the caller.
        unsafe { S::load(here, self.as_ptr().add((column * TILE + cell_idx) * STRIP)) }
    }
}

/// What is added, a strip of numbers in a column.
pub(super) struct AddFrom<'a, S: Strip, V: ?Sized> {
    pub(super) here: S::Here,
    pub(super) values: &'a V,
    pub(super) n_cells: usize,
    pub(super) n_values: usize,
    pub(super) states: &'a [Softmax],
    pub(super) sums: &'a mut [f32],
}

impl<S: Strip, V: Values + ?Sized> ForQueries<S> for AddFrom<'_, S, V> {
    fn n_columns(&self) -> usize {
        self.n_values / STRIP
    }

    #[inline(always)]
    fn step<const N: usize, const M: usize>(&mut self, queries: &[usize; N], column: usize) {
        let here = self.here;
        assert!(self.values.have(column + M, self.n_cells));
        let place = |query: usize| query * self.n_values + column * STRIP;
        let states = queries.map(|query| &self.states[query]);
        let weights = states.map(|state| &state.weights[..self.n_cells]);
        let mut sums = [[S::splat(here, 0.0); M]; N];
        for row in 0..N {
            let before = &self.sums[place(queries[row])..][..M * STRIP];
            let keep = S::splat(here, states[row].keep);
            for (sum, before) in sums[row].iter_mut().zip(before.as_chunks::<STRIP>().0) {
                *sum = S::of(here, before).multiply(keep);
            }
        }
        let strip = |at, cell_idx| {
            // SAFETY: `multiply` asks for columns below `M` and cells below the number of weights; that the
            // values have as many was asserted.
            unsafe { self.values.strip(here, column + at, cell_idx) }
        };
        let sums = multiply::<S, N, M, 1>(here, weights, 0, strip, sums);
        for (&query, sum) in queries.iter().zip(sums) {
            store(sum, &mut self.sums[place(query)..]);
        }
    }
}

/// Adds to the sums of each row the strips of each column, each times that row's factor for it: those
/// from the first on, `STEP` apart.
///
/// `strip` is asked for columns below `M` and for places below the number of factors.
#[inline(always)]
fn multiply<S: Strip, const N: usize, const M: usize, const STEP: usize>(
    here: S::Here,
    factors: [&[f32]; N],
    first: usize,
    strip: impl Fn(usize, usize) -> S,
    mut sums: [[S; M]; N],
) -> [[S; M]; N] {
    let n_factors = factors[0].len();
    assert!(factors.iter().all(|row| row.len() == n_factors));
    for at in (first..n_factors).step_by(STEP) {
        let mut strips = [S::splat(here, 0.0); M];
        for (column, loaded) in strips.iter_mut().enumerate() {
            *loaded = strip(column, at);
        }
        for row in 0..N {
            // SAFETY: `at` is below `n_factors`, and each row has `n_factors` factors, as asserted.
            let factor = S::splat(here, unsafe { *factors[row].get_unchecked(at) });
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
    let places = &mut numbers.as_chunks_mut::<STRIP>().0[..M];
    for (strip, place) in strips.into_iter().zip(places) {
        strip.put(place);
    }
}
