//! DRY: makes tokens unlikely that would continue a repetition.
//!
//! Every logit is the one that llama.cpp's sampler comes to. That one is not used because each sequence
//! would have its own table of what breaks a sequence, of megabytes, made by a look at all of the
//! vocabulary: here all sequences that name the same strings share one.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::logits::Logits;
use crate::engine::Token;
use crate::protocol::DryParams;

/// Tokens of a breaker that are looked at after its first; as in llama.cpp.
const MAX_TAIL_TOKENS: usize = 20;

/// From where on `exp` of a float is infinite.
const MAX_LOG: f32 = 88.722_84;

/// What no repetition reaches across, in a model's tokens.
#[derive(Debug, Default)]
pub(in crate::llama) struct Breakers {
    /// Tokens whose text holds a breaker, in order.
    whole: Vec<Token>,
    /// Tokens whose text ends with the beginning of one, in order, and which of `tails` completes it.
    begun: Vec<(Token, usize)>,
    tails: Vec<Vec<Token>>,
}

impl Breakers {
    /// `pieces` are the texts of all tokens, in order.
    pub(in crate::llama) fn new(
        texts: &[String],
        pieces: impl Iterator<Item = (Token, Vec<u8>)>,
        mut tokenize: impl FnMut(&[u8]) -> Vec<Token>,
    ) -> Self {
        let mut found = Self::default();
        // By text and by how many of its bytes are there.
        let mut known: HashMap<(usize, usize), usize> = HashMap::new();
        for (token, piece) in pieces {
            let texts = texts.iter().map(String::as_bytes).enumerate();
            for (text_idx, text) in texts.filter(|(_, text)| !text.is_empty()) {
                if piece.windows(text.len()).any(|window| window == text) {
                    found.whole.push(token);
                    continue;
                }
                for n_bytes in 1..text.len().min(piece.len() + 1) {
                    let (beginning, rest) = text.split_at(n_bytes);
                    if piece.ends_with(beginning) {
                        let tail_idx = *known.entry((text_idx, n_bytes)).or_insert_with(|| {
                            let mut tail = tokenize(rest);
                            tail.truncate(MAX_TAIL_TOKENS);
                            found.tails.push(tail);
                            found.tails.len() - 1
                        });
                        found.begun.push((token, tail_idx));
                    }
                }
            }
        }
        found.whole.dedup();
        found
    }

    fn is_whole(&self, token: Token) -> bool {
        self.whole.binary_search(&token).is_ok()
    }

    /// The tokens after the last breaker.
    fn n_since(&self, text: &[Token]) -> usize {
        let broken = text.iter().enumerate().rev().find_map(|(index, &token)| {
            let after = &text[index + 1..];
            let begun = self.begun.partition_point(|&(begun, _)| begun < token);
            let tails = self.begun[begun..].iter();
            let tails = tails.take_while(|&&(begun, _)| begun == token);
            let lengths = tails
                .map(|&(_, tail_idx)| &self.tails[tail_idx])
                .filter(|tail| after.starts_with(tail))
                .map(Vec::len);
            let longest = lengths.chain(self.is_whole(token).then_some(0)).max()?;
            Some(after.len() - longest)
        });
        broken.unwrap_or(text.len())
    }
}

/// DRY for one sequence.
pub(super) struct Dry {
    params: DryParams,
    breakers: Arc<Breakers>,
    /// The end of prompt and answer, as far as it is searched.
    text: VecDeque<Token>,
}

impl Dry {
    /// `prompt` is what stands before the answer.
    pub(super) fn new(params: &DryParams, breakers: Arc<Breakers>, prompt: &[Token]) -> Self {
        let start = prompt.len().saturating_sub(params.penalty_last_n as usize);
        Self {
            params: params.clone(),
            breakers,
            text: prompt[start..].iter().copied().collect(),
        }
    }

    /// Adds a token of the answer.
    pub(super) fn accept(&mut self, token: Token) {
        if self.text.len() == self.params.penalty_last_n as usize {
            self.text.pop_front();
        }
        self.text.push_back(token);
    }

    /// Lowers the logits of what would continue a repetition.
    pub(super) fn penalise(&mut self, logits: &mut Logits) {
        let allowed = self.params.allowed_length as usize;
        for (token, n_repeated) in self.repetitions() {
            if !self.breakers.is_whole(token)
                && let Some(logit) = logits.get_mut(token)
            {
                *logit -= penalty(&self.params, n_repeated - allowed);
            }
        }
    }

    /// Each token that would continue a repetition, and how many tokens that has already.
    fn repetitions(&mut self) -> HashMap<Token, usize> {
        let (allowed, mut longest) = (self.params.allowed_length as usize, HashMap::new());
        let text = &*self.text.make_contiguous();
        let n_since = self.breakers.n_since(text);
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

/// What a token loses that would continue a repetition of `n_more` tokens more than are allowed.
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
