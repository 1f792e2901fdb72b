//! What rules are compiled from: a model's vocabulary.
//!
//! The factory asks, on an intake thread.

use llama_cpp_2::model::LlamaModel;
use llama_cpp_2::token::LlamaToken;

use crate::engine::Token;

/// The texts of a model's tokens.
pub trait Vocabulary {
    /// The bytes that a token stands for, those of special tokens too; `token` must be one of the model's.
    fn text(&self, token: Token) -> Vec<u8>;

    /// The tokens of some bytes, none added and none special.
    fn tokens(&self, text: &[u8]) -> Vec<Token>;
}

impl Vocabulary for LlamaModel {
    fn text(&self, token: Token) -> Vec<u8> {
        self.vocab().detokenize(&[LlamaToken(token.0)], false, true)
    }

    fn tokens(&self, text: &[u8]) -> Vec<Token> {
        let mut tokens = Vec::with_capacity(text.len() + 8);
        self.vocab().tokenize_into(text, &mut tokens, false, false);
        tokens.into_iter().map(|token| Token(token.0)).collect()
    }
}
