//! Who holds which slot and how many cells of the KV cache.
//!
//! Only the scheduler calls this, on the worker thread. It counts; it knows neither sequences nor
//! tokens. A cache of shared prefixes would be a third owner here: free + used + cached == total.

use super::ids::SlotId;

/// The slots and cells of one KV cache.
///
/// # Invariants
/// - `n_free` plus what all slots hold equals the total given to [`Cells::new`].
/// - A closed slot holds no cells, and stays marked for eviction until a plan carries the mark.
#[derive(Debug)]
pub(super) struct Cells {
    n_free: usize,
    slots: Vec<Slot>,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    /// Cells reserved; `None` while nobody holds the slot.
    n_held: Option<usize>,
    /// Whether the cache still has rows here that the next plan must drop.
    evict: bool,
}

impl Cells {
    /// All `n_slots` slots and `n_cells` cells are free.
    pub(super) fn new(n_slots: usize, n_cells: usize) -> Self {
        Self {
            n_free: n_cells,
            slots: vec![Slot::default(); n_slots],
        }
    }

    /// Takes the lowest free slot with `n_cells` cells; `None` where either is short.
    pub(super) fn open(&mut self, n_cells: usize) -> Option<SlotId> {
        if self.n_free < n_cells {
            return None;
        }
        let slot_idx = self.slots.iter().position(|slot| slot.n_held.is_none())?;
        self.slots[slot_idx].n_held = Some(n_cells);
        self.n_free -= n_cells;
        Some(slot_id(slot_idx))
    }

    /// Gives an open slot one more cell; false where none is free.
    pub(super) fn grow(&mut self, slot: SlotId) -> bool {
        match &mut self.slots[usize::from(slot.0)].n_held {
            Some(n_held) if self.n_free > 0 => {
                *n_held += 1;
                self.n_free -= 1;
                true
            }
            _ => false,
        }
    }

    /// Frees a slot with its cells and marks it for eviction.
    pub(super) fn close(&mut self, slot: SlotId) {
        let held = self.slots[usize::from(slot.0)].n_held.take();
        self.n_free += held.unwrap_or(0);
        self.mark_evict(slot);
    }

    /// Has the next plan drop the slot's KV, whoever holds the slot.
    pub(super) fn mark_evict(&mut self, slot: SlotId) {
        self.slots[usize::from(slot.0)].evict = true;
    }

    /// The slots marked for eviction, ascending; their marks are cleared.
    pub(super) fn take_evict(&mut self) -> Vec<SlotId> {
        let marked = self.slots.iter_mut().enumerate();
        marked
            .filter_map(|(slot_idx, slot)| {
                std::mem::take(&mut slot.evict).then(|| slot_id(slot_idx))
            })
            .collect()
    }

    /// Whether a slot is marked for eviction.
    pub(super) fn has_evict(&self) -> bool {
        self.slots.iter().any(|slot| slot.evict)
    }

    /// Cells that nobody holds.
    pub(super) fn n_free(&self) -> usize {
        self.n_free
    }

    /// Cells held, summed over the slots and so independent of [`Cells::n_free`].
    pub(super) fn n_used(&self) -> usize {
        self.slots.iter().filter_map(|slot| slot.n_held).sum()
    }

    /// Slots that nobody holds.
    pub(super) fn n_free_slots(&self) -> usize {
        let free = self.slots.iter().filter(|slot| slot.n_held.is_none());
        free.count()
    }
}

fn slot_id(slot_idx: usize) -> SlotId {
    SlotId(u16::try_from(slot_idx).expect("the scheduler makes at most MAX_SLOTS slots"))
}
