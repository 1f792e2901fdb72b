//! What a vocabulary must hold so that llama.cpp neither aborts at load nor throws or hangs at a
//! prompt: a kind that is known to be sound, distinct tokens, and a token for each byte where the kind
//! needs them.
//!
//! Called while a model file's header is read; pure. Special tokens are checked in `model`, after the
//! load.

use std::collections::HashSet;

/// The key of the tokens' texts.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";

/// The kinds of llama.cpp that are served.
///
/// Not among them: `t5`, which throws at a damaged `precompiled_charsmap`; `whitespace`, which is for
/// embedding models and lets spaces through to merges that assert there are none; `test`; `none` and
/// `no_vocab`, which turn no text into tokens.
const KINDS: [&str; 7] = [
    "bert",
    "gemma4",
    "gpt2",
    "hybriddna",
    "llama",
    "plamo2",
    "rwkv",
];

/// What is wrong with a vocabulary.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VocabularyProblem {
    #[error("has no vocabulary, so text cannot be turned into tokens")]
    Empty,
    #[error("tokenizer.ggml.model = {found:?}: must be one of {}", KINDS.join(", "))]
    Kind { found: String },
    #[error("{TOKENS}: token {index} has the same text as one before, {text:?}")]
    Duplicate { index: usize, text: String },
    #[error("{TOKENS}: not every byte has a token, so some texts cannot be turned into tokens")]
    MissingBytes,
    /// llama.cpp asserts that no space reaches its merges, which this one lets through.
    #[error("tokenizer.ggml.pre = 'whitespace': this tokenizer is for embedding models")]
    Whitespace,
}

/// What is asked of the tokens' texts.
#[derive(Default)]
pub(super) struct Tokens {
    n_tokens: usize,
    duplicate: Option<VocabularyProblem>,
    /// As `<0x0A>` or as itself.
    has_all_bytes: bool,
    /// As itself, or escaped as in Python.
    has_all_escaped_bytes: bool,
}

impl Tokens {
    pub(super) fn read(tokens: &[Vec<u8>]) -> Self {
        Self {
            n_tokens: tokens.len(),
            duplicate: duplicate(tokens),
            has_all_bytes: has_all_bytes(tokens, plain_byte),
            has_all_escaped_bytes: has_all_bytes(tokens, escaped_byte),
        }
    }

    /// Whether they make a vocabulary of this kind.
    pub(super) fn check(&self, kind: &str, pre_tokenizer: &str) -> Result<(), VocabularyProblem> {
        if self.n_tokens == 0 || kind == "none" || kind == "no_vocab" {
            return Err(VocabularyProblem::Empty);
        }
        if !KINDS.contains(&kind) {
            let found = kind.to_owned();
            return Err(VocabularyProblem::Kind { found });
        }
        if let Some(problem) = &self.duplicate {
            return Err(problem.clone());
        }
        let has_all_bytes = match kind {
            // Throws a C++ exception at a byte that has no token.
            "llama" => self.has_all_bytes,
            // Goes back to the start of the text at a byte that has none, and so never ends.
            "rwkv" => self.has_all_escaped_bytes,
            _ => true,
        };
        if !has_all_bytes {
            return Err(VocabularyProblem::MissingBytes);
        }
        if pre_tokenizer == "whitespace" {
            return Err(VocabularyProblem::Whitespace);
        }
        Ok(())
    }
}

/// llama.cpp asserts that no two tokens have the same text.
fn duplicate(tokens: &[Vec<u8>]) -> Option<VocabularyProblem> {
    let mut seen = HashSet::with_capacity(tokens.len());
    for (index, token) in tokens.iter().enumerate() {
        let token = c_string(token);
        if !token.is_empty() && !seen.insert(token) {
            let text = String::from_utf8_lossy(token).into_owned();
            return Some(VocabularyProblem::Duplicate { index, text });
        }
    }
    None
}

/// llama.cpp reads C strings, and gives empty ones a text of their own.
fn c_string(token: &[u8]) -> &[u8] {
    token.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Whether each byte has a token; `byte_of` tells which a token is for.
fn has_all_bytes(tokens: &[Vec<u8>], byte_of: fn(&[u8]) -> Option<u8>) -> bool {
    let mut found = [false; 256];
    for byte in tokens.iter().filter_map(|token| byte_of(c_string(token))) {
        found[usize::from(byte)] = true;
    }
    found.iter().all(|&found| found)
}

fn plain_byte(token: &[u8]) -> Option<u8> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    };
    match *token {
        [byte] => Some(byte),
        [b'<', b'0', b'x', high, low, b'>'] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    }
}

/// As llama.cpp's `llama_unescape_rwkv_token` reads a token.
fn escaped_byte(token: &[u8]) -> Option<u8> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    match *token {
        // What escapes, and so is nothing by itself.
        [b'\\'] => None,
        [byte] => Some(byte),
        [b'\\', b't'] => Some(b'\t'),
        [b'\\', b'n'] => Some(b'\n'),
        [b'\\', b'r'] => Some(b'\r'),
        [b'\\', b'x', high, low] => Some(digit(high)? << 4 | digit(low)?),
        [b'\\', byte] if byte != b'x' => Some(byte),
        _ => None,
    }
}
