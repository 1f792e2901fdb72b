//! What a vocabulary must hold so that llama.cpp neither aborts at load nor throws or hangs at a
//! prompt: a kind that is known to be sound, distinct tokens, and a token for each byte where the kind
//! needs them.
//!
//! Called while a model file's header is read; pure. Special tokens are checked in `model`, after the
//! load.

use std::borrow::Cow;
use std::collections::HashSet;

/// The key of the tokens' texts.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";

/// The key of what kind of token each is.
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";

/// The kind of token that stands for a byte.
const BYTE: i32 = 6;

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

/// Bytes of a token where the kind's tokenizer looks at each place of a text for tokens of every length up
/// to the longest.
const MAX_TOKEN_BYTES: usize = 256;

/// Cubed bytes of all tokens together where the kind makes a table of all beginnings of all their ends:
/// some seconds. Real vocabularies have a hundredth of it.
const MAX_CUBED_BYTES: u64 = 1 << 32;

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
    /// llama.cpp aborts when it looks for their text.
    #[error(
        "{TYPES}: holds {BYTE}, tokens for bytes, which tokenizer.ggml.model = 'bert' has none of"
    )]
    ByteTokens,
    #[error(
        "{TOKENS}: token {index} has {n_bytes} bytes, the limit of tokenizer.ggml.model = '{kind}' is \
         {MAX_TOKEN_BYTES}"
    )]
    LongToken {
        index: usize,
        n_bytes: usize,
        kind: String,
    },
    #[error(
        "{TOKENS}: too long for tokenizer.ggml.model = 'plamo2': the cubed bytes of all tokens are \
         {found}, the limit is {MAX_CUBED_BYTES}"
    )]
    LongTokens { found: u64 },
    /// llama.cpp asserts that no space reaches its merges, which this one lets through.
    #[error("tokenizer.ggml.pre = 'whitespace': this tokenizer is for embedding models")]
    Whitespace,
}

/// What is asked of the tokens' texts.
#[derive(Default)]
pub(super) struct Tokens {
    n_tokens: usize,
    duplicate: Option<VocabularyProblem>,
    /// Which token is the longest, and its bytes.
    longest: (usize, usize),
    /// The bytes of each, cubed, and all of them added.
    cubed_bytes: u64,
    /// As `<0x0A>` or as itself.
    has_all_bytes: bool,
    /// As itself, or escaped as in Python.
    has_all_escaped_bytes: bool,
    /// Whether any is of the kind that stands for a byte.
    has_byte_tokens: bool,
}

impl Tokens {
    /// Looks at the texts.
    pub(super) fn read(&mut self, tokens: &[Vec<u8>]) {
        let lengths = tokens.iter().map(|token| c_string(token).len());
        let cubed = |n_bytes: usize| (n_bytes as u64).saturating_pow(3);
        let longest = (0..)
            .zip(lengths.clone())
            .max_by_key(|&(_, n_bytes)| n_bytes);
        self.n_tokens = tokens.len();
        self.duplicate = duplicate(tokens);
        self.longest = longest.unwrap_or_default();
        self.cubed_bytes = lengths.map(cubed).fold(0, u64::saturating_add);
        self.has_all_bytes = has_all_bytes(tokens, plain_byte);
        self.has_all_escaped_bytes = has_all_bytes(tokens, escaped_byte);
    }

    /// Looks at the kinds.
    pub(super) fn read_types(&mut self, types: &[i32]) {
        self.has_byte_tokens = types.contains(&BYTE);
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
        if kind == "bert" && self.has_byte_tokens {
            return Err(VocabularyProblem::ByteTokens);
        }
        let (index, n_bytes) = self.longest;
        if kind == "bert" && n_bytes > MAX_TOKEN_BYTES {
            let kind = kind.to_owned();
            return Err(VocabularyProblem::LongToken {
                index,
                n_bytes,
                kind,
            });
        }
        if kind == "plamo2" && self.cubed_bytes > MAX_CUBED_BYTES {
            let found = self.cubed_bytes;
            return Err(VocabularyProblem::LongTokens { found });
        }
        if pre_tokenizer == "whitespace" {
            return Err(VocabularyProblem::Whitespace);
        }
        Ok(())
    }
}

/// llama.cpp asserts that no two tokens have the same text, once it has named the empty ones.
fn duplicate(tokens: &[Vec<u8>]) -> Option<VocabularyProblem> {
    let mut seen = HashSet::with_capacity(tokens.len());
    for (index, token) in tokens.iter().enumerate() {
        let token = match c_string(token) {
            b"" => Cow::Owned(format!("[EMPTY_{index}]").into_bytes()),
            text => Cow::Borrowed(text),
        };
        if seen.contains(&token) {
            let text = String::from_utf8_lossy(&token).into_owned();
            return Some(VocabularyProblem::Duplicate { index, text });
        }
        seen.insert(token);
    }
    None
}

/// llama.cpp reads C strings.
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
