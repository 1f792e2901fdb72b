//! The order of sequences: who comes first where not all can have what they need.
//!
//! Given by the scheduler on the worker thread, and compared by it alone. Whatever orders sequences
//! is a part of it, so that there is one order, and one proof that none waits for ever.

/// A sequence's place in the order: what is less comes first.
///
/// # Invariants
/// - No two sequences have the same rank, and a sequence keeps its own.
/// - Of all the sequences that ever come, only a finite number is before any one of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Rank {
    arrival: u64,
}

impl Rank {
    /// The rank of the sequence that arrived after `arrival` others.
    pub(super) fn of(arrival: u64) -> Self {
        Self { arrival }
    }
}
