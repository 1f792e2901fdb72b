//! What a vocabulary must hold so that llama.cpp neither aborts at load nor throws at a request.
//!
//! Called while a model file's header is read; pure.

use std::collections::HashSet;

/// The key of the tokens' texts.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";

/// What is wrong with a vocabulary.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VocabularyProblem {
    #[error("has no vocabulary, so text cannot be turned into tokens")]
    Empty,
    #[error("{TOKENS}: token {index} has the same text as one before, {text:?}")]
    Duplicate { index: usize, text: String },
    #[error("{TOKENS}: not every byte has a token, so some texts cannot be turned into tokens")]
    MissingBytes,
    /// llama.cpp asserts that no space reaches its merges, which this one lets through.
    #[error("tokenizer.ggml.pre = 'whitespace': this tokenizer is for embedding models")]
    Whitespace,
}

/// llama.cpp asserts that no two tokens have the same text.
pub(super) fn check(tokens: &[Vec<u8>]) -> Result<(), VocabularyProblem> {
    let mut seen = HashSet::with_capacity(tokens.len());
    for (index, token) in tokens.iter().enumerate() {
        // llama.cpp reads C strings, and gives empty ones a text of their own.
        let token = token.split(|&byte| byte == 0).next().unwrap_or_default();
        if !token.is_empty() && !seen.insert(token) {
            let text = String::from_utf8_lossy(token).into_owned();
            return Err(VocabularyProblem::Duplicate { index, text });
        }
    }
    Ok(())
}

/// Whether each byte has a token, as `<0x0A>` or as itself.
///
/// llama.cpp's tokenizer of the kind `llama` throws a C++ exception at a byte that has none.
pub(super) fn has_all_bytes(tokens: &[Vec<u8>]) -> bool {
    let mut found = [false; 256];
    for token in tokens {
        match token.as_slice() {
            [byte] => found[usize::from(*byte)] = true,
            [b'<', b'0', b'x', high, low, b'>'] => {
                let digit = |c: u8| match c {
                    b'0'..=b'9' => Some(c - b'0'),
                    b'A'..=b'F' => Some(c - b'A' + 10),
                    _ => None,
                };
                if let (Some(high), Some(low)) = (digit(*high), digit(*low)) {
                    found[usize::from(high << 4 | low)] = true;
                }
            }
            _ => {}
        }
    }
    found.iter().all(|&found| found)
}
