//! Guesses at the tokens that come next: speculative decoding.
//!
//! The worker thread asks a [`Drafter`] before each step. A guess costs a row of the step and saves a
//! step where it is right: the runner samples after each row, so the text is the same with and
//! without it. A drafter knows neither slots nor what becomes of its guesses.

use std::ops::RangeInclusive;

use super::ids::{SequenceId, Token};

/// A sequence for which a draft would be of use.
#[derive(Clone, Copy, Debug)]
pub struct Drafting<'a> {
    /// Which sequence.
    pub sequence: SequenceId,
    /// All its tokens so far: prompt and completion.
    pub tokens: &'a [Token],
    /// Tokens that the draft may have, at least 1.
    pub max_tokens: usize,
}

/// Tokens that may follow those of a sequence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    /// Which sequence.
    pub sequence: SequenceId,
    /// In their order.
    pub tokens: Vec<Token>,
}

/// Whoever guesses.
pub trait Drafter: Send {
    /// Drafts for some of the sequences.
    fn draft(&mut self, wanted: &[Drafting]) -> Vec<Draft>;

    /// Forgets a sequence that has ended.
    fn close(&mut self, sequence: SequenceId);
}

/// Guesses that a text goes on as it did the last time that its last tokens occurred in it.
///
/// Costs a look at each token of the sequence for each length of n-gram.
#[derive(Clone, Debug)]
pub struct PromptLookup {
    /// Tokens of an n-gram, at least 1; a longer one is tried first.
    pub n_gram: RangeInclusive<usize>,
}

impl Drafter for PromptLookup {
    fn draft(&mut self, wanted: &[Drafting]) -> Vec<Draft> {
        let drafts = wanted.iter().map(|drafting| Draft {
            sequence: drafting.sequence,
            tokens: self.continuation(drafting),
        });
        drafts.filter(|draft| !draft.tokens.is_empty()).collect()
    }

    fn close(&mut self, _: SequenceId) {}
}

impl PromptLookup {
    fn continuation(&self, drafting: &Drafting) -> Vec<Token> {
        let tokens = drafting.tokens;
        let occurrence = self.n_gram.clone().rev().find_map(|n| {
            let start = tokens.len().checked_sub(n)?;
            let (earlier, n_gram) = (&tokens[..tokens.len() - 1], &tokens[start..]);
            let found = earlier.windows(n).rposition(|window| window == n_gram)?;
            Some(found + n)
        });
        let since = &tokens[occurrence.unwrap_or(tokens.len())..];
        // Where that leads to the end, it goes round: the text repeats itself.
        let continuation = since.iter().copied().cycle();
        continuation.take(drafting.max_tokens).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_goes_on_as_it_did_before() {
        for (text, n_gram, max_tokens, expected) in [
            ("abcdabc", 2..=3, 9, "dabcdabcd"),
            ("abcdabc", 2..=3, 2, "da"),
            ("abxcdab", 3..=3, 9, ""),
            ("abxcdab", 1..=3, 9, "xcdabxcda"),
            ("xbc abc ab", 2..=5, 4, "c ab"),
            // The latest, and the longest.
            ("ab1 ab2 ab", 2..=2, 1, "2"),
            ("zab1 ab2 zab", 1..=4, 1, "1"),
            ("aaaa", 1..=3, 3, "aaa"),
            ("a", 1..=3, 3, ""),
            ("", 1..=3, 3, ""),
        ] {
            let tokens: Vec<Token> = text.bytes().map(|byte| Token(byte.into())).collect();
            let drafting = Drafting {
                sequence: SequenceId(1),
                tokens: &tokens,
                max_tokens,
            };
            let drafts = PromptLookup { n_gram }.draft(&[drafting]);
            let found = drafts.first().map_or(&[][..], |draft| &draft.tokens);
            let found: String = found.iter().map(|token| token.0 as u8 as char).collect();
            assert_eq!(found, expected, "{text}");
        }
    }
}
