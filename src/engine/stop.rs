//! The search for stop strings in text that comes in parts.
//!
//! Each sequence owns one filter; called on the worker thread. Every byte is looked at once per
//! stop string (Knuth, Morris, Pratt), however long the text before it is.

/// Passes text on until a stop string has come, and keeps back what may yet become one.
///
/// The string that is complete first wins, and of those complete at one byte the longest, so that
/// the result does not depend on how the text was cut into pieces.
#[derive(Debug)]
pub(super) struct StopFilter {
    patterns: Vec<Pattern>,
    /// The longest end of the text that is the start of a stop string.
    held: String,
}

/// What [`StopFilter::push`] made of a piece of text.
#[derive(Debug)]
pub(super) struct Filtered {
    /// What may be shown now; may be empty.
    pub(super) text: String,
    /// Whether a stop string has come: it and what follows are dropped.
    pub(super) stopped: bool,
}

impl StopFilter {
    /// Searches for `stops`; empty strings among them are ignored.
    pub(super) fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty());
        Self {
            patterns: stops.map(|stop| Pattern::new(stop)).collect(),
            held: String::new(),
        }
    }

    /// Takes the next part of the text.
    pub(super) fn push(&mut self, text: String) -> Filtered {
        let n_held = self.held.len();
        if n_held == 0 {
            self.held = text;
        } else {
            self.held.push_str(&text);
        }
        if let Some(cut) = self.find_from(n_held) {
            self.held.truncate(cut);
            let text = std::mem::take(&mut self.held);
            let stopped = true;
            return Filtered { text, stopped };
        }
        // A stop string starts with a whole character, so the cut is at a character's start.
        let n_open = self.patterns.iter().map(|p| p.n_matched).max().unwrap_or(0);
        let open = self.held.split_off(self.held.len() - n_open);
        let text = std::mem::replace(&mut self.held, open);
        let stopped = false;
        Filtered { text, stopped }
    }

    /// What was kept back, when no more text will come.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Looks at the bytes of `held` from `start`; the index where the stop string found begins.
    fn find_from(&mut self, start: usize) -> Option<usize> {
        if self.patterns.is_empty() {
            return None;
        }
        for (byte_idx, &byte) in self.held.as_bytes().iter().enumerate().skip(start) {
            let complete = self.patterns.iter_mut().filter_map(|p| p.advance(byte));
            if let Some(n_bytes) = complete.max() {
                return Some(byte_idx + 1 - n_bytes);
            }
        }
        None
    }
}

/// One stop string and how much of it the text ends with.
#[derive(Debug)]
struct Pattern {
    bytes: Vec<u8>,
    /// `borders[n]`: the longest proper start of the first n bytes that is also their end.
    borders: Vec<usize>,
    /// The longest start of the string that the text ends with; all of it once it is found.
    n_matched: usize,
}

impl Pattern {
    fn new(stop: &str) -> Self {
        let bytes = stop.as_bytes().to_vec();
        let mut borders = vec![0; bytes.len() + 1];
        for end in 1..bytes.len() {
            borders[end + 1] = longer_match(&bytes, &borders, borders[end], bytes[end]);
        }
        Self {
            bytes,
            borders,
            n_matched: 0,
        }
    }

    /// Takes the text's next byte; the string's length in bytes if it is now complete.
    fn advance(&mut self, byte: u8) -> Option<usize> {
        self.n_matched = longer_match(&self.bytes, &self.borders, self.n_matched, byte);
        (self.n_matched == self.bytes.len()).then_some(self.bytes.len())
    }
}

/// How much of `bytes` matches once `byte` follows a match of `n_matched` bytes.
fn longer_match(bytes: &[u8], borders: &[usize], mut n_matched: usize, byte: u8) -> usize {
    while n_matched > 0 && bytes.get(n_matched) != Some(&byte) {
        n_matched = borders[n_matched];
    }
    n_matched + usize::from(bytes.get(n_matched) == Some(&byte))
}
