//! Who holds which slot and how many cells of the KV cache, and what is kept of ended sequences.
//!
//! Only the scheduler calls this, on the worker thread. It decides what is shared and what is
//! evicted, and leaves to the plan what the runner must do for it: see [`CacheOp`].

use super::ids::{SlotId, Token};
use super::plan::CacheOp;
use super::prefix_tree::{Match, PrefixTree};

/// A shorter beginning is computed again: that costs less than to share it.
pub(super) const MIN_SHARED_TOKENS: usize = 16;

/// Cells that an eviction frees at least, where the slot has so many: each has its price.
const MIN_EVICTED_CELLS: usize = 64;

/// What the memory of the model lets sequences share.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sharing {
    /// Nothing: each sequence computes all its tokens.
    #[default]
    None,
    /// All the tokens of a slot or none: the memory cannot be cut back to fewer.
    Whole,
    /// Any beginning.
    Prefix,
}

/// The slots and cells of one KV cache.
///
/// # Invariants
/// - A running slot's cells hold the tokens computed for it and are reserved for those planned, an
///   ended slot's hold what a later sequence may share. Cells are free, used or cached:
///   `n_free() + n_used() + n_cached() == n_cells`.
/// - What a running slot uses is never evicted.
#[derive(Debug)]
pub(super) struct Cache {
    sharing: Sharing,
    n_cells: usize,
    tree: PrefixTree,
    /// Cells of each running slot that hold nothing yet; `None` for the other slots.
    reserved: Vec<Option<usize>>,
    ops: Vec<CacheOp>,
    /// Counts the uses, so that ended slots have an order.
    n_uses: u64,
}

/// A slot for a sequence, and how many of its tokens are there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Admitted {
    pub(super) slot: SlotId,
    pub(super) n_shared: usize,
}

impl Cache {
    /// All `n_slots` slots and `n_cells` cells are free.
    pub(super) fn new(n_slots: usize, n_cells: usize, sharing: Sharing) -> Self {
        Self {
            sharing,
            n_cells,
            tree: PrefixTree::new(n_slots),
            reserved: vec![None; n_slots],
            ops: Vec::new(),
            n_uses: 0,
        }
    }

    /// How many of a sequence's tokens some slot holds already, and could share now.
    pub(super) fn n_shareable(&self, tokens: &[Token]) -> usize {
        self.find(tokens).map_or(0, |found| found.n_tokens)
    }

    /// Takes a slot and cells for `tokens`, so that `n_spare` more could be had; `None` where they
    /// cannot.
    ///
    /// At least one token is left to compute.
    pub(super) fn admit(&mut self, tokens: &[Token], n_spare: usize) -> Option<Admitted> {
        let found = self.find(tokens);
        let n_shared = found.map_or(0, |found| found.n_tokens);
        let n_kept = found.map_or(0, |found| self.tree.n_unused_in(found));
        let n_new = tokens.len() - n_shared;
        if self.n_free() + self.n_cached() < n_new + n_spare + n_kept {
            return None;
        }
        let slot = self.open(found)?;
        self.reserved[usize::from(slot.0)] = Some(0);
        self.reserve(slot, n_new);
        Some(Admitted { slot, n_shared })
    }

    /// Reserves `n_cells` more for a running slot, at the price of ended ones; false where even they
    /// do not have so many.
    pub(super) fn reserve(&mut self, slot: SlotId, n_cells: usize) -> bool {
        while self.n_free() < n_cells {
            let n_missing = n_cells - self.n_free();
            let Some((least_recent, n_own)) = self.tree.least_recent() else {
                return false;
            };
            let n_evicted = n_missing.max(MIN_EVICTED_CELLS);
            if n_own > n_evicted && self.sharing == Sharing::Prefix {
                let n_tokens = self.tree.n_tokens(least_recent) - n_evicted;
                self.cut(least_recent, n_tokens);
            } else {
                self.empty(least_recent);
            }
        }
        if let Some(n_reserved) = &mut self.reserved[usize::from(slot.0)] {
            *n_reserved += n_cells;
        }
        true
    }

    /// Notes that tokens of a running slot were computed into cells reserved for them.
    pub(super) fn commit(&mut self, slot: SlotId, tokens: &[Token]) {
        if let Some(n_reserved) = &mut self.reserved[usize::from(slot.0)] {
            *n_reserved -= tokens.len();
            self.tree.push(slot, tokens);
        }
    }

    /// Ends a slot's run and keeps its tokens for sequences to come.
    pub(super) fn release(&mut self, slot: SlotId) {
        self.n_uses += 1;
        self.reserved[usize::from(slot.0)] = None;
        self.tree.end(slot, self.n_uses);
        let is_kept = self.sharing != Sharing::None
            && self.tree.n_tokens(slot) >= MIN_SHARED_TOKENS
            && !self.tree.is_redundant(slot);
        if !is_kept {
            self.empty(slot);
        }
    }

    /// Ends a slot's run whose tokens nobody may use: they are lost, or more ran than is known.
    pub(super) fn discard(&mut self, slot: SlotId) {
        self.reserved[usize::from(slot.0)] = None;
        self.empty(slot);
    }

    /// What the runner must do before the rows planned from now on, in this order.
    pub(super) fn take_ops(&mut self) -> Vec<CacheOp> {
        std::mem::take(&mut self.ops)
    }

    /// Whether there is something for the runner to do.
    pub(super) fn has_ops(&self) -> bool {
        !self.ops.is_empty()
    }

    /// Cells that hold nothing and are not reserved.
    pub(super) fn n_free(&self) -> usize {
        self.n_cells - self.tree.n_cells() - self.n_reserved()
    }

    /// Cells that running slots use or have reserved.
    pub(super) fn n_used(&self) -> usize {
        self.tree.n_used() + self.n_reserved()
    }

    /// Cells that only ended slots hold: they can be shared, or evicted.
    pub(super) fn n_cached(&self) -> usize {
        self.tree.n_cells() - self.tree.n_used()
    }

    fn n_reserved(&self) -> usize {
        self.reserved.iter().flatten().sum()
    }

    /// What a sequence with these tokens may share; the last one is computed in any case.
    fn find(&self, tokens: &[Token]) -> Option<Match> {
        let (_, beginning) = tokens.split_last()?;
        let found = match self.sharing {
            Sharing::None => None,
            Sharing::Whole => self.tree.longest_whole_match(beginning),
            Sharing::Prefix => self.tree.longest_match(beginning),
        };
        found.filter(|found| found.n_tokens >= MIN_SHARED_TOKENS)
    }

    /// A slot that holds the match: the match's own where that costs nobody anything, else one that
    /// holds nothing, else the one that was of use the longest ago.
    fn open(&mut self, found: Option<Match>) -> Option<SlotId> {
        let Some(found) = found else {
            let slot = self.vacate()?;
            self.tree.open(slot, None);
            return Some(slot);
        };
        self.n_uses += 1;
        self.tree.touch(found.slot, self.n_uses);
        let is_all = self.tree.n_tokens(found.slot) == found.n_tokens;
        let is_last = self.tree.vacant_slot().is_none()
            && self
                .tree
                .least_recent()
                .is_some_and(|(slot, _)| slot == found.slot);
        if self.tree.has_ended(found.slot) && (is_all || is_last) {
            self.cut(found.slot, found.n_tokens);
            self.tree.reopen(found.slot);
            return Some(found.slot);
        }
        let slot = self.vacate()?;
        self.tree.open(slot, Some(found));
        self.ops
            .push(CacheOp::share(found.slot, slot, found.n_tokens));
        Some(slot)
    }

    fn vacate(&mut self) -> Option<SlotId> {
        self.tree.vacant_slot().or_else(|| {
            let (slot, _) = self.tree.least_recent()?;
            self.empty(slot);
            Some(slot)
        })
    }

    fn cut(&mut self, slot: SlotId, n_tokens: usize) {
        if n_tokens < self.tree.n_tokens(slot) {
            self.tree.truncate(slot, n_tokens);
            self.ops.push(CacheOp::keep(slot, n_tokens));
        }
    }

    fn empty(&mut self, slot: SlotId) {
        self.tree.remove(slot);
        self.ops.push(CacheOp::keep(slot, 0));
    }
}
