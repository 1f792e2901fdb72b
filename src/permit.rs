//! The bound on sequences in flight: Execute takes from the count, the end of a request gives back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Places among the sequences in flight, given back on Drop.
#[derive(Debug)]
pub(crate) struct Permit {
    n_in_flight: Arc<AtomicUsize>,
    n: usize,
}

impl Permit {
    /// A place for a request's first sequence, if fewer than `limit` are taken.
    pub(crate) fn take(n_in_flight: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let mut permit = Self {
            n_in_flight: Arc::clone(n_in_flight),
            n: 0,
        };
        permit.extend_to(1, limit).then_some(permit)
    }

    /// Has it count for `n` sequences, at least as many as before; false where `limit` does not allow them all.
    #[must_use]
    pub(crate) fn extend_to(&mut self, n: usize, limit: usize) -> bool {
        let n_more = n.saturating_sub(self.n);
        let taken = self
            .n_in_flight
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n_taken| {
                (n_taken + n_more <= limit).then_some(n_taken + n_more)
            });
        if taken.is_ok() {
            self.n += n_more;
        }
        taken.is_ok()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.n_in_flight.fetch_sub(self.n, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_permit_counts_sequences() {
        let n_in_flight = Arc::<AtomicUsize>::default();
        let count = || n_in_flight.load(Ordering::Acquire);
        let take = || Permit::take(&n_in_flight, 4);
        let mut first = take().expect("a place");
        let second = take().expect("a place");
        assert!(first.extend_to(3, 4));
        assert_eq!(count(), 4);
        assert!(take().is_none());
        assert!(!first.extend_to(4, 4) && first.extend_to(2, 4));
        drop(second);
        assert_eq!(count(), 3);
        drop(first);
        assert_eq!(count(), 0);
    }
}
