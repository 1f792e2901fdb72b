//! Which cells the rows of a step look at, in which order, and how they are shared out.
//!
//! Found from a mask, once for all heads and layers that have it. A row's cells are taken by their
//! positions, [`TILE`] at a time, whoever else is computed beside it: so its sums depend on nothing but
//! its own text.

use std::ops::Range;

use super::operands::Operands;

/// Cells that are computed together: as many as a `u64` has bits.
pub(super) const TILE: usize = u64::BITS as usize;

/// Queries that are computed together, if there are that many: each is a row and a head.
const MAX_QUERIES: usize = 64;

/// Rows are computed together if one looks at as many of the cells of those before it, out of four.
const MIN_COMMON: u32 = 3;

/// What the mask says of a cell that a row does not look at: negative infinity.
const UNSEEN: u16 = 0xFC00;

/// One thread's part of the work.
pub(super) struct Visible {
    /// Whose it is: the mask, and the numbers of heads.
    key: Key,
    pub(super) bundles: Vec<Bundle>,
}

type Key = (*const u8, usize, usize);

// SAFETY: the pointer is only compared.
unsafe impl Send for Visible {}

/// Rows that look at much the same cells, and heads.
pub(super) struct Bundle {
    pub(super) stream: usize,
    pub(super) rows: Range<usize>,
    pub(super) heads: Range<usize>,
    pub(super) tiles: Vec<Tile>,
}

/// Cells of [`TILE`] positions that follow one another.
pub(super) struct Tile {
    /// The first of these positions, in tiles.
    at: u32,
    /// For each position the cell that has it; any other one where there is none.
    cells: [u32; TILE],
    /// The positions that have a cell.
    held: u64,
    /// Rows of the bundle that look at it, and at which positions.
    pub(super) looks: Vec<(usize, u64)>,
}

impl Visible {
    /// Finds this thread's part, of an equal amount of work for each.
    ///
    /// The parts of all threads, which are told the same but for their numbers, have each row and head of a
    /// stream once, in one bundle.
    ///
    /// A cell without one of these positions has its own number for one.
    pub(super) fn find(
        operands: &Operands,
        positions: &[u32],
        thread_idx: usize,
        n_threads: usize,
    ) -> Self {
        let n_heads = operands.n_heads();
        let bundles = Bundle::all(operands, positions);
        let total: u64 = bundles
            .iter()
            .map(|bundle| bundle.cost() * n_heads as u64)
            .sum();
        let [start, end] =
            [thread_idx, thread_idx + 1].map(|n| total * n as u64 / n_threads as u64);
        let mut before = 0;
        let mut own = Vec::new();
        for mut bundle in bundles {
            let cost = bundle.cost();
            // A head is the thread's in whose part it begins.
            let head = |limit: u64| {
                limit
                    .saturating_sub(before)
                    .div_ceil(cost)
                    .min(n_heads as u64)
            };
            bundle.heads = head(start) as usize..head(end) as usize;
            before += cost * n_heads as u64;
            if !bundle.heads.is_empty() {
                own.push(bundle);
            }
        }
        Self {
            key: key(operands),
            bundles: own,
        }
    }

    /// Whether it was found for this mask and this many heads.
    pub(super) fn is_for(&self, operands: &Operands) -> bool {
        self.key == key(operands)
    }
}

impl Bundle {
    /// Those of all rows, with no heads.
    fn all(operands: &Operands, positions: &[u32]) -> Vec<Self> {
        let max_rows = (MAX_QUERIES / operands.n_heads_per_group()).max(1);
        let mut cells = Vec::new();
        let mut all: Vec<Self> = Vec::new();
        for stream in 0..operands.n_streams() {
            for row in 0..operands.n_rows() {
                let tiles = tiles(operands.mask(row, stream), positions, &mut cells);
                let last = all.last_mut().filter(|last| {
                    last.stream == stream && last.rows.len() < max_rows && last.has_most(&tiles)
                });
                match last {
                    Some(last) => last.join(tiles),
                    None => all.push(Self {
                        stream,
                        rows: row..row + 1,
                        heads: 0..0,
                        tiles,
                    }),
                }
            }
        }
        all
    }

    /// Cells that are looked at, once for each row.
    fn cost(&self) -> u64 {
        let cost = |tile: &Tile| u64::from(tile.held.count_ones()) * tile.looks.len() as u64;
        self.tiles.iter().map(cost).sum::<u64>().max(1)
    }

    fn has_most(&self, tiles: &[Tile]) -> bool {
        let common = |tile: &Tile| {
            self.find(tile)
                .map_or(0, |idx| (self.tiles[idx].held & tile.held).count_ones())
        };
        let n_cells = tiles.iter().map(|tile| tile.held.count_ones()).sum::<u32>();
        4 * tiles.iter().map(common).sum::<u32>() >= MIN_COMMON * n_cells
    }

    /// Adds a row, which looks at these tiles.
    fn join(&mut self, tiles: Vec<Tile>) {
        let row = self.rows.len();
        self.rows.end += 1;
        for mut tile in tiles {
            let look = (row, tile.held);
            if let Some(idx) = self.find(&tile) {
                self.tiles[idx].add(&tile);
                self.tiles[idx].looks.push(look);
            } else {
                tile.looks = vec![look];
                let idx = self.tiles.partition_point(|other| other.at <= tile.at);
                self.tiles.insert(idx, tile);
            }
        }
    }

    /// The tile that this one can be a part of.
    fn find(&self, tile: &Tile) -> Option<usize> {
        let first = self.tiles.partition_point(|other| other.at < tile.at);
        let same = self.tiles[first..]
            .iter()
            .take_while(|other| other.at == tile.at);
        same.enumerate()
            .find(|(_, other)| other.has_no_other(tile))
            .map(|(idx, _)| first + idx)
    }
}

impl Tile {
    fn new(at: u32, cell: u32) -> Self {
        Self {
            at,
            cells: [cell; TILE],
            held: 0,
            looks: Vec::new(),
        }
    }

    /// The cells up to the last position that has one.
    pub(super) fn cells(&self) -> &[u32] {
        &self.cells[..TILE - self.held.leading_zeros() as usize]
    }

    /// Whether no position has different cells.
    fn has_no_other(&self, tile: &Self) -> bool {
        if self.held == tile.held && self.cells == tile.cells {
            return true;
        }
        let cells = self.cells.iter().zip(&tile.cells).enumerate();
        let differ = cells.fold(0, |bits, (at, (a, b))| bits | u64::from(a != b) << at);
        differ & self.held & tile.held == 0
    }

    fn put(&mut self, place: usize, cell: u32) {
        self.cells[place] = cell;
        self.held |= 1 << place;
    }

    /// Takes what another one has and this one has not.
    fn add(&mut self, tile: &Self) {
        let mut new = tile.held & !self.held;
        while new != 0 {
            let place = new.trailing_zeros() as usize;
            self.put(place, tile.cells[place]);
            new &= new - 1;
        }
    }
}

/// The cells that the first row of a bundle looks at. `cells` is room for them.
fn tiles(mask: &[u16], positions: &[u32], cells: &mut Vec<u64>) -> Vec<Tile> {
    cells.clear();
    for (chunk_idx, chunk) in mask.chunks(TILE).enumerate() {
        if chunk.iter().fold(0, |any, seen| any | (seen ^ UNSEEN)) == 0 {
            continue;
        }
        let numbered = (chunk_idx * TILE..).zip(chunk);
        cells.extend(
            numbered
                .filter(|(_, seen)| **seen != UNSEEN)
                .map(|(cell, _)| {
                    let position = positions.get(cell).copied().unwrap_or(cell as u32);
                    u64::from(position) << u32::BITS | cell as u64
                }),
        );
    }
    cells.sort();
    let mut tiles: Vec<Tile> = Vec::new();
    for &cell in &*cells {
        let (position, cell) = ((cell >> u32::BITS) as u32, cell as u32);
        let (at, place) = (position / TILE as u32, position as usize % TILE);
        let is_free = |tile: &&mut Tile| tile.at == at && tile.held >> place & 1 == 0;
        match tiles.last_mut().filter(is_free) {
            Some(tile) => tile.put(place, cell),
            // Also where a wrong position was told, so that two cells have it.
            None => {
                let mut tile = Tile::new(at, cell);
                tile.put(place, cell);
                tiles.push(tile);
            }
        }
    }
    for tile in &mut tiles {
        tile.looks.push((0, tile.held));
    }
    tiles
}

fn key(operands: &Operands) -> Key {
    (
        operands.mask.data,
        operands.n_heads(),
        operands.n_heads_per_group(),
    )
}
