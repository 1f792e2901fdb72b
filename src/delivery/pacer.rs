//! The bound on responses over all streams.

use std::time::{Duration, Instant};

/// Responses a second over all streams.
pub(super) const RATE: f64 = 5_000.0;
/// Responses that may follow each other at once after a quiet time.
pub(super) const BURST: f64 = 8.0;

/// A token bucket on the time it is given.
pub(super) struct Pacer {
    tokens: f64,
    at: Instant,
}

impl Pacer {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            tokens: BURST,
            at: now,
        }
    }

    /// Takes the right to send one response and returns how long to wait first.
    ///
    /// Time lost by a late thread is not made up for beyond [`BURST`].
    pub(super) fn take(&mut self, now: Instant) -> Duration {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * RATE;
        self.tokens = (self.tokens + gained).min(BURST) - 1.0;
        self.at = self.at.max(now);
        Duration::from_secs_f64((-self.tokens).max(0.0) / RATE)
    }
}
