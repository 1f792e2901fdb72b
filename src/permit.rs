//! The bound on requests in flight: Execute takes from the count, the end of a stream gives back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A place among the requests in flight, given back on Drop.
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Permit {
    pub(crate) fn take(n_in_flight: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        let taken = n_in_flight.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| {
            (n < limit).then_some(n + 1)
        });
        taken.ok().map(|_| Self(Arc::clone(n_in_flight)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
