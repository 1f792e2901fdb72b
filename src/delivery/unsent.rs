//! What of an answer waits to be sent, and how much of it the next response takes.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::engine::Chosen;

/// How far a stream may lag behind its text before what has gathered shares a response.
const MAX_LAG: Duration = Duration::from_millis(50);

/// What was chosen for one answer and is not sent yet, in pieces: a token with a text, and those without before it.
pub(super) struct Unsent {
    /// With when each came.
    chosen: VecDeque<(Chosen, Instant)>,
    n_pieces: usize,
    /// Pieces of a response after the first one, which has one; at least 1.
    interval: usize,
    has_begun: bool,
}

impl Unsent {
    pub(super) fn new(interval: usize) -> Self {
        Self {
            chosen: VecDeque::new(),
            n_pieces: 0,
            interval: interval.max(1),
            has_begun: false,
        }
    }

    pub(super) fn push(&mut self, chosen: Vec<Chosen>, now: Instant) {
        self.n_pieces += chosen.iter().filter(|chosen| has_text(chosen)).count();
        self.chosen
            .extend(chosen.into_iter().map(|chosen| (chosen, now)));
    }

    /// Whether there is text for a response; `is_over` says that no more comes, so that what is left is enough.
    pub(super) fn is_ready(&self, is_over: bool) -> bool {
        self.n_pieces >= self.n_next(is_over).max(1)
    }

    /// Takes the pieces of the next response.
    pub(super) fn next(&mut self, now: Instant, is_over: bool) -> Vec<Chosen> {
        let n_next = self.n_next(is_over);
        // What is waited for is no lag.
        let texts = self.chosen.iter().enumerate();
        let mut texts = texts.filter(|(_, (chosen, _))| has_text(chosen));
        let last = n_next.checked_sub(1).and_then(|n| texts.nth(n));
        let Some((index, &(_, ready))) = last else {
            return Vec::new();
        };
        self.has_begun = true;
        if now.saturating_duration_since(ready) > MAX_LAG {
            return self.all();
        }
        self.n_pieces -= n_next;
        let taken = self.chosen.drain(..=index);
        taken.map(|(chosen, _)| chosen).collect()
    }

    /// Takes all of it.
    pub(super) fn all(&mut self) -> Vec<Chosen> {
        self.n_pieces = 0;
        let taken = self.chosen.drain(..);
        taken.map(|(chosen, _)| chosen).collect()
    }

    fn n_next(&self, is_over: bool) -> usize {
        let n_next = match self.has_begun {
            true => self.interval,
            false => 1,
        };
        match is_over {
            true => n_next.min(self.n_pieces),
            false => n_next,
        }
    }
}

fn has_text(chosen: &Chosen) -> bool {
    !chosen.text.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Token;

    const PIECES: [&str; 7] = ["a", "bc", "d", "é", "f", "g", "h"];

    fn piece_of(text: &str) -> Vec<Chosen> {
        let text = text.to_owned();
        let token = Token(0);
        vec![Chosen { token, text }]
    }

    fn text(chosen: Vec<Chosen>) -> String {
        chosen.into_iter().map(|chosen| chosen.text).collect()
    }

    /// The responses of pieces that all came at once, when the first is sent `lag` ms later and each next one
    /// 1 ms after.
    #[track_caller]
    fn check(interval: usize, lag: u64, expected: &[&str]) {
        let came = Instant::now();
        let mut unsent = Unsent::new(interval);
        for piece in PIECES {
            unsent.push(piece_of(piece), came);
        }
        let times = (lag..).map(|ms| came + Duration::from_millis(ms));
        let texts = times.map(|now| text(unsent.next(now, true)));
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
        assert!(!unsent.is_ready(false));
        unsent.push(piece_of("a"), now);
        assert!(unsent.is_ready(false));
        assert_eq!(text(unsent.next(now, false)), "a");
        unsent.push(piece_of("b"), now);
        assert!(!unsent.is_ready(false));
        assert_eq!(text(unsent.next(now + MAX_LAG * 2, false)), "");
        assert_eq!(text(unsent.next(now, true)), "b");
        unsent.push(piece_of("c"), now);
        unsent.push(piece_of("d"), now + MAX_LAG);
        assert!(unsent.is_ready(false));
        assert_eq!(text(unsent.next(now + MAX_LAG * 2, false)), "cd");
    }
}
