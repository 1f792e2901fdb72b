//! Who holds which slot and how many cells of the KV cache, and what is kept of ended sequences.
//!
//! Only the scheduler calls this, on the worker thread. It decides what is shared and what is
//! evicted, and leaves to the plan what the runner must do for it: see [`CacheOp`].

use std::ops::Range;

use super::ids::{Scope, SlotId, Token};
use super::limits::{Limits, Sharing};
use super::plan::CacheOp;
use super::prefix::Prefix;
use super::prefix_tree::{Match, PrefixTree};

/// A shorter beginning is computed again: that costs less than to share it.
pub(super) const MIN_SHARED_TOKENS: usize = 16;

/// Cells that an eviction frees at least, where the slot has that many: each has its price.
const MIN_EVICTED_CELLS: usize = 64;

/// The cells kept of what nobody has shared yet, times the slots that run, are at most one in this many
/// of all: each costs every row of every step a look, and few prompts come again.
const UNPROVEN_PART: usize = 4;

/// The slots and cells of one KV cache.
///
/// # Invariants
/// - A running slot's cells hold the tokens computed for it and are reserved for those planned, an
///   ended slot's hold what a later sequence may share. Cells are free, used or cached:
///   `n_free() + n_used() + n_cached() == n_cells`.
/// - What a running slot uses is never evicted.
/// - Only slots that never run are parked: their tokens are in host memory.
#[derive(Debug)]
pub(super) struct Cache {
    sharing: Sharing,
    n_slots: usize,
    n_cells: usize,
    n_host: usize,
    n_rows_to_park: u64,
    tree: PrefixTree,
    /// Cells of each running slot that hold nothing yet; `None` for the other slots.
    reserved: Vec<Option<usize>>,
    ops: Vec<CacheOp>,
    /// Counts the rows that have run and the uses of ended slots, so that these have an order and an age.
    clock: u64,
}

/// A slot for a sequence, and how many of its tokens are there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Admitted {
    pub(super) slot: SlotId,
    pub(super) n_shared: usize,
}

impl Cache {
    /// All slots and cells are free.
    pub(super) fn new(limits: &Limits) -> Self {
        let n_slots = limits.n_slots + limits.n_kept;
        Self {
            sharing: limits.sharing,
            n_slots: limits.n_slots,
            n_cells: limits.n_cells,
            n_host: match limits.sharing {
                Sharing::Prefix => limits.n_host,
                _ => 0,
            },
            n_rows_to_park: limits.n_rows_to_park as u64,
            tree: PrefixTree::new(n_slots),
            reserved: vec![None; n_slots],
            ops: Vec::new(),
            clock: 0,
        }
    }

    /// How many of a sequence's tokens some slot holds already, and could share now.
    pub(super) fn n_shareable(&self, prefix: Prefix) -> usize {
        self.find(prefix).map_or(0, |found| found.n_tokens)
    }

    /// Takes a slot and cells for a sequence's tokens, so that `n_spare` more could be had; `None`
    /// where they cannot.
    ///
    /// At least one token is left to compute.
    pub(super) fn admit(&mut self, prefix: Prefix, n_spare: usize) -> Option<Admitted> {
        let found = self.make_room(prefix, n_spare)?;
        let n_shared = found.map_or(0, |found| found.n_tokens);
        let slot = match found {
            None => self.open_empty(prefix.scope)?,
            Some(found) if self.tree.is_parked(found.slot) => self.open_parked(found)?,
            Some(found) => self.open(found)?,
        };
        self.reserved[usize::from(slot.0)] = Some(0);
        self.reserve(slot, prefix.tokens.len() - n_shared);
        Some(Admitted { slot, n_shared })
    }

    /// Reserves `n_cells` more for a running slot, at the price of ended ones; false where even they
    /// do not suffice.
    pub(super) fn reserve(&mut self, slot: SlotId, n_cells: usize) -> bool {
        while self.n_free() < n_cells {
            if !self.evict(n_cells - self.n_free()) {
                return false;
            }
        }
        if let Some(n_reserved) = &mut self.reserved[usize::from(slot.0)] {
            *n_reserved += n_cells;
        }
        true
    }

    /// Has what ended slots hold leave the cache where it has been in the way of enough rows, the
    /// `n_coming` counted that are known to come.
    pub(super) fn park_idle(&mut self, n_coming: usize) {
        if self.n_host == 0 {
            return;
        }
        let until = self.clock + n_coming as u64;
        while let Some(slot) = self.tree.least_recent(false)
            && let Some(last_use) = self.tree.last_use(slot)
            && until - last_use >= self.n_rows_to_park
        {
            self.park(slot);
        }
    }

    /// Notes that tokens of a running slot were computed into cells reserved for them.
    pub(super) fn commit(&mut self, slot: SlotId, tokens: &[Token]) {
        if let Some(n_reserved) = &mut self.reserved[usize::from(slot.0)] {
            *n_reserved -= tokens.len();
            self.clock += tokens.len() as u64;
            self.tree.push(slot, tokens);
        }
    }

    /// Takes back rows of a running slot that ran after its tokens, into cells reserved for them.
    pub(super) fn refuse(&mut self, slot: SlotId, n_rows: usize) {
        if let Some(n_reserved) = &mut self.reserved[usize::from(slot.0)]
            && n_rows > 0
        {
            *n_reserved -= n_rows;
            self.ops.push(CacheOp::keep(slot, self.tree.n_tokens(slot)));
        }
    }

    /// Ends a slot's run and keeps its tokens for sequences to come.
    pub(super) fn release(&mut self, slot: SlotId) {
        self.clock += 1;
        self.reserved[usize::from(slot.0)] = None;
        self.tree.end(slot, self.clock);
        let is_kept = self.sharing != Sharing::None
            && self.tree.n_tokens(slot) >= MIN_SHARED_TOKENS
            && !self.tree.is_redundant(slot);
        if !is_kept {
            self.empty(slot);
        } else if self.n_host == 0 {
            self.bound_unproven();
        }
    }

    /// Ends the run of a slot whose tokens nobody may use: they are lost, or more ran than is known.
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

    /// Tokens in host memory.
    pub(super) fn n_parked(&self) -> usize {
        self.tree.n_parked()
    }

    fn n_reserved(&self) -> usize {
        self.reserved.iter().flatten().sum()
    }

    /// What a sequence with these tokens may share.
    fn find(&self, prefix: Prefix) -> Option<Match> {
        let beginning = prefix.shareable()?;
        let found = match self.sharing {
            Sharing::None => None,
            Sharing::Whole => self.tree.longest_whole_match(beginning),
            Sharing::Prefix => {
                let found = self.tree.longest_match(beginning)?;
                self.worth_loading(found)
            }
        };
        found.filter(|found| found.n_tokens >= MIN_SHARED_TOKENS)
    }

    /// Less of a match where the last block in it has few of its tokens.
    fn worth_loading(&self, found: Match) -> Option<Match> {
        match self.tree.last_block_in(found) {
            None => self.tree.with_cells(found),
            Some(block) if found.n_tokens - block.start >= MIN_SHARED_TOKENS => Some(found),
            Some(block) => self.worth_loading(Match {
                n_tokens: block.start,
                ..found
            }),
        }
    }

    /// Gives up what nobody has shared yet, the oldest first, but never the latest.
    fn bound_unproven(&mut self) {
        let n_running = self.reserved.iter().flatten().count();
        let mut n_left = self.n_cells / UNPROVEN_PART / n_running.max(1);
        let unproven = self.tree.unproven();
        for (age, &slot) in unproven.iter().rev().enumerate() {
            let n_own = self.tree.n_own(slot);
            if n_own > n_left && age > 0 {
                self.empty(slot);
            } else {
                n_left = n_left.saturating_sub(n_own);
            }
        }
    }

    /// What a sequence may share once its blocks, if any, are in cells: for these there is room then.
    ///
    /// `None` where the cells do not do for it.
    fn make_room(&mut self, prefix: Prefix, n_spare: usize) -> Option<Option<Match>> {
        let n_needed = prefix.tokens.len() + n_spare;
        loop {
            let mut found = self.find(prefix);
            if !self.has_room(n_needed, found) {
                // More may have to come into cells than is of use.
                found = found.and_then(|found| self.tree.with_cells(found));
                found = found.filter(|found| found.n_tokens >= MIN_SHARED_TOKENS);
                if !self.has_room(n_needed, found) {
                    return None;
                }
            }
            let Some(wanted) = found else {
                return Some(None);
            };
            self.clock += 1;
            self.tree.touch(wanted.slot, self.clock);
            let n_to_load = self.tree.n_to_load(wanted);
            if n_to_load == 0 {
                return Some(found);
            }
            // What is given up for it may be of this match: so it is looked up again.
            if n_to_load > self.n_free() {
                if !self.evict(n_to_load - self.n_free()) {
                    return None;
                }
            } else if self.tree.vacant_in(self.ranges().0).is_none() {
                self.vacate()?;
            } else {
                return Some(found);
            }
        }
    }

    /// Whether there are cells for `n_needed` tokens, those of a match among them.
    fn has_room(&self, n_needed: usize, found: Option<Match>) -> bool {
        let (n_shared, n_kept) = match found {
            Some(found) => (
                found.n_tokens,
                self.tree.n_unused_in(found) + self.tree.n_to_load(found),
            ),
            None => (0, 0),
        };
        self.n_free() + self.n_cached() >= n_needed - n_shared + n_kept
    }

    /// A slot that may run and holds nothing.
    fn open_empty(&mut self, scope: Scope) -> Option<SlotId> {
        let (slot, _) = self.vacate()?;
        self.tree.open_empty(slot, scope);
        Some(slot)
    }

    /// A slot that may run and holds the match: the match's own where nobody loses by it.
    fn open(&mut self, found: Match) -> Option<SlotId> {
        let (running, kept) = self.ranges();
        let is_all = self.tree.n_tokens(found.slot) == found.n_tokens;
        let is_last = kept.is_empty()
            && self.tree.vacant_in(running.clone()).is_none()
            && self.tree.least_recent_in(running.clone()) == Some(found.slot);
        let has_ended = self.tree.last_use(found.slot).is_some();
        if has_ended && running.contains(&usize::from(found.slot.0)) && (is_all || is_last) {
            self.cut(found.slot, found.n_tokens);
            self.tree.reopen(found.slot);
            return Some(found.slot);
        }
        self.open_beside(found, has_ended)
    }

    /// A slot that may run and shares the match with the one that has it.
    fn open_beside(&mut self, found: Match, has_ended: bool) -> Option<SlotId> {
        let n_not_own = self.tree.n_tokens(found.slot) - self.tree.n_own(found.slot);
        let goes_on = has_ended && found.n_tokens > n_not_own;
        let (slot, moved_to) = self.vacate()?;
        let source = match moved_to {
            Some(moved_to) if found.slot == slot => moved_to,
            _ => found.slot,
        };
        let n_tokens = found.n_tokens;
        let found = Match {
            slot: source,
            n_tokens,
        };
        self.tree.open(slot, found);
        if goes_on {
            // Whoever has come back will come again.
            self.tree.touch(slot, self.clock);
        }
        self.ops.push(CacheOp::share(source, slot, n_tokens));
        if has_ended && self.tree.is_redundant(source) {
            self.empty(source);
        }
        Some(slot)
    }

    /// A slot that may run and holds a match that is in host memory, or the end of it is.
    fn open_parked(&mut self, found: Match) -> Option<SlotId> {
        let (slot, _) = self.vacate()?;
        if let Some(before) = self.tree.with_cells(found) {
            self.ops
                .push(CacheOp::share(before.slot, slot, before.n_tokens));
        }
        let (blocks, end) = self.tree.unpark(found);
        let loads = blocks.into_iter();
        self.ops
            .extend(loads.map(|block| CacheOp::Load { slot, block }));
        self.tree.open(slot, found);
        // A block comes whole; what others had of it beyond the match goes back.
        for rest in self.tree.park(found.slot) {
            self.ops.push(CacheOp::save(slot, &rest));
        }
        if end > found.n_tokens {
            self.ops.push(CacheOp::keep(slot, found.n_tokens));
        }
        if self.tree.is_redundant(found.slot) {
            self.empty(found.slot);
        }
        Some(slot)
    }

    /// A slot that may run and holds nothing. What an ended one held is kept in another, the second of
    /// the two, if there is room or something older to give up for it.
    fn vacate(&mut self) -> Option<(SlotId, Option<SlotId>)> {
        let (running, _) = self.ranges();
        if let Some(slot) = self.tree.vacant_in(running.clone()) {
            return Some((slot, None));
        }
        let slot = self.tree.least_recent_in(running)?;
        let vacant = self.vacant_to_keep(slot);
        match vacant {
            Some(vacant) => {
                let n_tokens = self.tree.n_tokens(slot);
                self.tree.rename(slot, vacant);
                self.ops.push(CacheOp::share(slot, vacant, n_tokens));
                self.ops.push(CacheOp::keep(slot, 0));
            }
            None => self.empty(slot),
        }
        Some((slot, vacant))
    }

    /// Where what an ended slot holds can be kept: a slot that never runs, its own if it is one, if there
    /// is room or something older to give up for it.
    fn vacant_to_keep(&mut self, slot: SlotId) -> Option<SlotId> {
        let (_, kept) = self.ranges();
        if kept.contains(&usize::from(slot.0)) {
            return Some(slot);
        }
        self.tree.vacant_in(kept.clone()).or_else(|| {
            let oldest = self.tree.least_recent_in(kept)?;
            let is_older = self.tree.last_use(oldest) < self.tree.last_use(slot);
            is_older.then(|| {
                self.empty(oldest);
                oldest
            })
        })
    }

    /// The slots that may run, and those that only keep what ended ones held.
    fn ranges(&self) -> (Range<usize>, Range<usize>) {
        (0..self.n_slots, self.n_slots..self.reserved.len())
    }

    /// Has one ended slot give up cells, `n_missing` if it has that many; false where none has any.
    fn evict(&mut self, n_missing: usize) -> bool {
        let Some(least_recent) = self.tree.least_recent(false) else {
            return false;
        };
        let n_own = self.tree.n_own(least_recent);
        let n_evicted = n_missing.max(MIN_EVICTED_CELLS);
        if self.n_host > 0 {
            self.park(least_recent);
        } else if n_own > n_evicted && self.sharing == Sharing::Prefix {
            let n_tokens = self.tree.n_tokens(least_recent) - n_evicted;
            self.cut(least_recent, n_tokens);
        } else {
            self.empty(least_recent);
        }
        true
    }

    /// Moves what an ended slot holds to host memory, if it is worth it and there is room or something
    /// older to give up for it.
    fn park(&mut self, slot: SlotId) {
        let is_worth_it = (MIN_SHARED_TOKENS..=self.n_host).contains(&self.tree.n_alone(slot));
        let kept = is_worth_it.then(|| self.vacant_to_keep(slot)).flatten();
        let Some(kept) = kept else {
            return self.empty(slot);
        };
        while self.tree.n_parked() + self.tree.n_alone(slot) > self.n_host {
            match self.tree.least_recent(true) {
                Some(oldest) if self.tree.last_use(oldest) < self.tree.last_use(slot) => {
                    self.empty(oldest);
                }
                _ => return self.empty(slot),
            }
        }
        for block in self.tree.park(slot) {
            self.ops.push(CacheOp::save(slot, &block));
        }
        self.ops.push(CacheOp::keep(slot, 0));
        if self.tree.is_redundant(slot) {
            self.tree.remove(slot);
        } else if slot != kept {
            self.tree.rename(slot, kept);
        }
    }

    fn cut(&mut self, slot: SlotId, n_tokens: usize) {
        if n_tokens < self.tree.n_tokens(slot) {
            self.tree.truncate(slot, n_tokens);
            self.ops.push(CacheOp::keep(slot, n_tokens));
        }
    }

    fn empty(&mut self, slot: SlotId) {
        if !self.tree.is_parked(slot) {
            self.ops.push(CacheOp::keep(slot, 0));
        }
        self.tree.remove(slot);
        let dropped = self.tree.take_dropped().into_iter();
        self.ops
            .extend(dropped.map(|block| CacheOp::Drop { block }));
    }
}
