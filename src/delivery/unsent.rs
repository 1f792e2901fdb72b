//! Text that waits to be sent, and how much of it the next response takes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How far a stream may lag behind its text before what has gathered shares a response.
const MAX_LAG: Duration = Duration::from_millis(50);

/// The text of one request that is not sent yet, in pieces of one token each.
pub(super) struct Unsent {
    text: String,
    /// Bytes of each piece, and when it came.
    pieces: VecDeque<(usize, Instant)>,
    /// Pieces of a response after the first one, which has one; at least 1.
    interval: usize,
    has_begun: bool,
}

impl Unsent {
    pub(super) fn new(interval: usize) -> Self {
        Self {
            text: String::new(),
            pieces: VecDeque::new(),
            interval: interval.max(1),
            has_begun: false,
        }
    }

    pub(super) fn push(&mut self, text: &str, now: Instant) {
        self.text.push_str(text);
        self.pieces.push_back((text.len(), now));
    }

    /// Whether there is text for a response.
    pub(super) fn is_ready(&self) -> bool {
        self.pieces.len() >= self.n_next()
    }

    /// Takes the text of the next response; `is_over` says that no more comes, so that what is left is enough.
    pub(super) fn next(&mut self, now: Instant, is_over: bool) -> String {
        let n = self.n_next();
        let n = match is_over {
            true => n.min(self.pieces.len()),
            false => n,
        };
        // What is waited for is no lag.
        let last = n.checked_sub(1).and_then(|last| self.pieces.get(last));
        let Some(&(_, ready)) = last else {
            return String::new();
        };
        self.has_begun = true;
        if now.saturating_duration_since(ready) > MAX_LAG {
            return self.all();
        }
        let n_bytes = self.pieces.drain(..n).map(|(n_bytes, _)| n_bytes).sum();
        let rest = self.text.split_off(n_bytes);
        std::mem::replace(&mut self.text, rest)
    }

    /// Takes all of it.
    pub(super) fn all(&mut self) -> String {
        self.pieces.clear();
        std::mem::take(&mut self.text)
    }

    fn n_next(&self) -> usize {
        match self.has_begun {
            true => self.interval,
            false => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECES: [&str; 7] = ["a", "bc", "d", "é", "f", "g", "h"];

    /// The responses of pieces that all came at once, when the first is sent `lag` ms later and each next one
    /// 1 ms after.
    #[track_caller]
    fn check(interval: usize, lag: u64, expected: &[&str]) {
        let came = Instant::now();
        let mut unsent = Unsent::new(interval);
        for piece in PIECES {
            unsent.push(piece, came);
        }
        let times = (lag..).map(|ms| came + Duration::from_millis(ms));
        let texts = times.map(|now| unsent.next(now, true));
        let texts: Vec<String> = texts.take_while(|text| !text.is_empty()).collect();
        assert_eq!(texts, expected);
    }

    #[test]
    fn each_piece_is_a_response_unless_the_stream_lags() {
        check(1, 0, &PIECES);
        check(1, 50, &["a", "bcdéfgh"]);
        check(1, 51, &["abcdéfgh"]);
        check(0, 0, &PIECES);
    }

    #[test]
    fn an_interval_joins_all_but_the_first() {
        check(3, 0, &["a", "bcdé", "fgh"]);
        check(4, 0, &["a", "bcdéf", "gh"]);
        check(100, 0, &["a", "bcdéfgh"]);
    }

    #[test]
    fn an_interval_is_waited_for_until_the_end() {
        let now = Instant::now();
        let mut unsent = Unsent::new(2);
        assert!(!unsent.is_ready());
        unsent.push("a", now);
        assert!(unsent.is_ready());
        assert_eq!(unsent.next(now, false), "a");
        unsent.push("b", now);
        assert!(!unsent.is_ready());
        assert_eq!(unsent.next(now + MAX_LAG * 2, false), "");
        assert_eq!(unsent.next(now, true), "b");
        unsent.push("c", now);
        unsent.push("d", now + MAX_LAG);
        assert!(unsent.is_ready());
        assert_eq!(unsent.next(now + MAX_LAG * 2, false), "cd");
    }
}
