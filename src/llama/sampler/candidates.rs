//! Tokens that may be chosen, and what llama.cpp's samplers leave of them.
//!
//! Called by the sampler, on any thread.

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;

use crate::engine::Token;

/// A token that may be chosen, and its logit.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    pub(super) token: Token,
    pub(super) logit: f32,
}

/// What llama.cpp's sampler leaves of the candidates, in memory that is taken from `data`.
pub(super) fn apply_llama(
    sampler: &mut LlamaSampler,
    candidates: impl Iterator<Item = Candidate>,
    data: &mut Vec<LlamaTokenData>,
) -> LlamaTokenDataArray {
    let mut array = LlamaTokenDataArray::new(std::mem::take(data), false);
    array.data.clear();
    array
        .data
        .extend(candidates.map(|c| LlamaTokenData::new(LlamaToken(c.token.0), c.logit, 0.0)));
    if !array.data.is_empty() {
        array.apply_sampler(sampler);
    }
    array
}
