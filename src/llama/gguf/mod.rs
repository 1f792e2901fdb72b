//! Reads a GGUF file's header and checks it before llama.cpp sees the file.
//!
//! Called where a model is loaded, on any thread. llama.cpp answers some damaged files with an
//! assertion, which ends the process, and others with a null pointer. Here a fault has a name if it is
//! in the structure of the file, the vocabulary, or a key that llama.cpp asserts for every
//! architecture; what one architecture asserts of its own keys and shapes is left to it. Weights are
//! not read.

mod architecture;
mod error;
mod header;
mod source;
mod tensors;
mod types;
mod vocabulary;

pub use error::{GgufError, Problem};
pub use tensors::Tensor;
pub use vocabulary::VocabularyProblem;

use std::path::{Path, PathBuf};

use self::header::Header;
use super::CacheType;
use crate::table::Given;

/// What a model's header says, as far as loading and planning need it.
#[derive(Clone, PartialEq, Debug)]
pub struct ModelFile {
    /// The file, or all shards in order; never empty.
    pub shards: Vec<PathBuf>,
    /// Of all shards together.
    pub n_bytes: u64,
    /// Of all shards, in the order of the file.
    pub tensors: Vec<Tensor>,
    pub architecture: String,
    pub n_layers: u32,
    /// Tokens of context that the model was trained with.
    pub n_ctx_train: u32,
    /// Experts that compute a token, of the layer that has most; 0 where there are none.
    pub n_experts_used: u32,
    /// Attention heads of the layer that has most.
    pub n_heads: u32,
    /// One for each layer.
    pub n_kv_heads: Vec<u32>,
    pub key_length: u32,
    pub value_length: u32,
    /// The positions that the model has learned, each a row of a table: a context must not be longer.
    /// `None` where positions are computed.
    pub max_positions: Option<u32>,
    /// The kind of tokenizer: `llama`, `gpt2`...
    pub tokenizer: String,
    /// The kind of splitting before byte pairs are merged, empty where there is none.
    pub pre_tokenizer: String,
    /// What the file says of sampling: its keys `general.sampling.*` without that beginning, in their order by name.
    pub sampling: Vec<(String, Given)>,
}

impl ModelFile {
    /// Reads and checks the header of a model, and of its other shards.
    pub fn read(path: &Path) -> Result<Self, GgufError> {
        let fail = |problem| GgufError {
            file: path.to_owned(),
            problem,
        };
        let mut header = Header::read(path, true).map_err(fail)?;
        let shards = header.shards(path).map_err(fail)?;
        let mut n_bytes = header.n_bytes;
        let mut tensors = std::mem::take(&mut header.tensors);
        for (shard, number) in shards.iter().skip(1).zip(1..) {
            let fail = |problem| GgufError {
                file: shard.clone(),
                problem,
            };
            let other = Header::read(shard, false).map_err(fail)?;
            let found = other.unsigned("split.no").map_err(fail)?;
            if found != Some(number) {
                return Err(fail(Problem::Value {
                    what: "split.no".to_owned(),
                    found: found.map_or("nothing".to_owned(), |found| found.to_string()),
                    expected: "the number in the file's name less 1".to_owned(),
                }));
            }
            n_bytes += other.n_bytes;
            tensors.extend(other.tensors);
        }
        header.model(shards, n_bytes, tensors).map_err(fail)
    }

    /// The file; of a split model the first shard.
    pub fn path(&self) -> &Path {
        &self.shards[0]
    }

    /// Bytes that one token takes in the KV cache, for each layer.
    ///
    /// An upper bound for models whose layers do not all cache every token.
    pub fn kv_bytes_by_layer(
        &self,
        type_k: CacheType,
        type_v: CacheType,
    ) -> impl Iterator<Item = u64> {
        self.n_kv_heads.iter().map(move |&n_heads| {
            type_k.n_bytes(u64::from(n_heads) * u64::from(self.key_length))
                + type_v.n_bytes(u64::from(n_heads) * u64::from(self.value_length))
        })
    }

    /// Bytes that one token takes in the KV cache, over all layers.
    pub fn kv_bytes_per_cell(&self, type_k: CacheType, type_v: CacheType) -> u64 {
        self.kv_bytes_by_layer(type_k, type_v).sum()
    }

    /// Bytes that one token in the KV cache adds to the buffers of a step of `n_rows` rows where
    /// attention is not fused: a score for each head and row, and a row's mask.
    pub fn score_bytes_per_cell(&self, n_rows: u32) -> u64 {
        (u64::from(self.n_heads) + 1) * u64::from(n_rows) * size_of::<f32>() as u64
    }
}
