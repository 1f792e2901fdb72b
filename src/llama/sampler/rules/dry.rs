//! DRY: makes tokens that would continue a repetition unlikely.
//!
//! Every logit is the one that llama.cpp's sampler comes to. That one is not used because each sequence
//! would have its own table of what breaks a sequence, of megabytes, made by a look at all of the
//! vocabulary: here all sequences that name the same strings share one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::Rule;
use crate::engine::Token;
use crate::llama::sampler::logits::Logits;
use crate::protocol::DryParams;

/// Tokens of a breaker that are looked at after its first; as in llama.cpp.
const MAX_TAIL_TOKENS: usize = 20;

/// From where on `exp` of a float is infinite.
const MAX_LOG: f32 = 88.722_84;

/// What no repetition reaches across, in a model's tokens.
#[derive(Debug, Default)]
pub(in crate::llama::sampler) struct Breakers {
    /// Tokens whose text holds a breaker, in order.
    whole: Vec<Token>,
    /// Tokens whose text ends with the beginning of one, in order, and which of `endings` are theirs.
    begun: Vec<(Token, u32)>,
    /// Which of `tails` complete a breaker.
    endings: Vec<Vec<u16>>,
    tails: Vec<Vec<Token>>,
}

impl Breakers {
    /// `pieces` are the texts of all tokens, in order.
    pub(in crate::llama::sampler) fn new(
        texts: &[String],
        pieces: impl Iterator<Item = (Token, Vec<u8>)>,
        mut tokenize: impl FnMut(&[u8]) -> Vec<Token>,
    ) -> Self {
        let mut found = Self::default();
        // By what is left of a breaker.
        let mut tails: HashMap<&[u8], u16> = HashMap::new();
        let mut endings: HashMap<Vec<u16>, u32> = HashMap::new();
        for (token, piece) in pieces {
            let (mut is_whole, mut ending) = (false, Vec::new());
            for text in texts.iter().map(String::as_bytes) {
                if piece.windows(text.len()).any(|window| window == text) {
                    is_whole = true;
                    continue;
                }
                for n_bytes in 1..text.len().min(piece.len() + 1) {
                    let (beginning, rest) = text.split_at(n_bytes);
                    if piece.ends_with(beginning) {
                        let tail_idx = *tails.entry(rest).or_insert_with(|| {
                            let mut tail = tokenize(rest);
                            tail.truncate(MAX_TAIL_TOKENS);
                            found.tails.push(tail);
                            (found.tails.len() - 1) as u16
                        });
                        // What has no tokens is there already.
                        match found.tails[usize::from(tail_idx)].is_empty() {
                            true => is_whole = true,
                            false => ending.push(tail_idx),
                        }
                    }
                }
            }
            if is_whole {
                found.whole.push(token);
            }
            if !ending.is_empty() {
                let ending_idx = *endings.entry(ending).or_insert_with_key(|ending| {
                    found.endings.push(ending.clone());
                    (found.endings.len() - 1) as u32
                });
                found.begun.push((token, ending_idx));
            }
        }
        found
    }

    fn is_whole(&self, token: Token) -> bool {
        self.whole.binary_search(&token).is_ok()
    }

    /// How many of the tokens `after` this one belong to a breaker that begins with it, at most; none if none
    /// does.
    fn length_after(&self, token: Token, after: &[Token]) -> Option<usize> {
        let begun = self.begun.binary_search_by_key(&token, |&(begun, _)| begun);
        let ending = begun.map_or(&[][..], |at| &self.endings[self.begun[at].1 as usize][..]);
        let lengths = ending
            .iter()
            .map(|&tail_idx| &self.tails[usize::from(tail_idx)])
            .filter(|tail| after.starts_with(tail))
            .map(Vec::len);
        lengths.chain(self.is_whole(token).then_some(0)).max()
    }

    /// The last place among the last `n` of a text where a breaker begins, and how many tokens it has after
    /// the first.
    fn last_in(&self, text: &[Token], n: usize) -> Option<(usize, usize)> {
        (text.len().saturating_sub(n)..text.len())
            .rev()
            .find_map(|place| {
                let length = self.length_after(text[place], &text[place + 1..])?;
                Some((place, length))
            })
    }
}

/// DRY for one sequence.
pub(in crate::llama::sampler) struct Dry {
    params: DryParams,
    breakers: Arc<Breakers>,
    /// The end of prompt and answer, as far as it is searched.
    text: VecDeque<Token>,
    /// Where in `text` the last breaker begins, and how many tokens it has after the first.
    broken: Option<(usize, usize)>,
}

impl Dry {
    /// `prompt` is what stands before the answer.
    pub(in crate::llama::sampler) fn new(
        params: &DryParams,
        breakers: Arc<Breakers>,
        prompt: &[Token],
    ) -> Self {
        let start = prompt.len().saturating_sub(params.penalty_last_n as usize);
        let text = &prompt[start..];
        Self {
            params: params.clone(),
            broken: breakers.last_in(text, text.len()),
            breakers,
            text: text.iter().copied().collect(),
        }
    }

    /// Each token that would continue a repetition, and how many tokens that has already.
    fn repetitions(&mut self) -> HashMap<Token, usize> {
        let (allowed, mut longest) = (self.params.allowed_length as usize, HashMap::new());
        let text = &*self.text.make_contiguous();
        let n_since = match self.broken {
            Some((place, length)) => text.len() - 1 - place - length,
            None => text.len(),
        };
        if text.len() <= allowed || n_since < allowed {
            return longest;
        }
        for (place, n_common) in common_ends(text).into_iter().enumerate() {
            let n_repeated = n_common.min(n_since);
            if n_repeated >= allowed {
                let known = longest.entry(text[place]).or_insert(0);
                *known = n_repeated.max(*known);
            }
        }
        longest
    }
}

impl Rule for Dry {
    /// Lowers the logits of what would continue a repetition.
    fn adjust(&mut self, logits: &mut Logits) {
        let allowed = self.params.allowed_length as usize;
        for (token, n_repeated) in self.repetitions() {
            if !self.breakers.is_whole(token)
                && let Some(logit) = logits.get_mut(token)
            {
                *logit -= penalty(&self.params, n_repeated - allowed);
            }
        }
    }

    fn accept(&mut self, token: Token) {
        if self.text.len() == self.params.penalty_last_n as usize {
            self.text.pop_front();
            self.broken = self
                .broken
                .and_then(|(place, length)| Some((place.checked_sub(1)?, length)));
        }
        self.text.push_back(token);
        // No breaker that the token ends begins before these; one that begins later counts more.
        let text = &*self.text.make_contiguous();
        let last = self.breakers.last_in(text, MAX_TAIL_TOKENS + 1);
        self.broken = self.broken.max(last);
    }
}

/// What a token that would continue a repetition of `n_more` tokens more than are allowed loses.
fn penalty(params: &DryParams, n_more: usize) -> f32 {
    let base = params.base;
    let most = match base > 1.000_001 {
        true => (MAX_LOG / base.ln()) as usize,
        false => 0,
    };
    let exponent = if most > 0 { n_more.min(most) } else { n_more };
    (f64::from(params.multiplier) * f64::from(base).powf(exponent as f64)) as f32
}

/// For each place in a text, with how many of its tokens what stands before the place ends like the text;
/// 0 for the first.
///
/// The Z function of the text read backwards, in time that grows with its length.
fn common_ends(text: &[Token]) -> Vec<usize> {
    let n = text.len();
    let back = |index: usize| text[n - 1 - index];
    let mut common = vec![0; n];
    let mut matched = 0..0;
    for start in 1..n {
        let mut length = match matched.contains(&start) {
            // Seen in the other half of what matched.
            true => common[n - start + matched.start].min(matched.end - start),
            false => 0,
        };
        while start + length < n && back(length) == back(start + length) {
            length += 1;
        }
        if start + length > matched.end {
            matched = start..start + length;
        }
        common[n - start] = length;
    }
    common
}
