//! A model file as its header tells it, all shards together: read, checked, and what follows for memory.
//!
//! Called where a model is loaded or planned, on any thread. Weights are not read.

use std::path::{Path, PathBuf};

use super::architecture::{Keys, Lengths};
use super::error::{GgufError, Problem, value};
use super::header::Header;
use super::source::MAX_KEPT;
use super::tensors::{self, TensorInfo};
use crate::llama::CacheType;
use crate::table::Given;

/// llama.cpp's limit; as many elements of an array are kept.
const MAX_LAYERS: u64 = MAX_KEPT;

/// The tensor with a row for each position, where positions are learned: ggml asserts that a position
/// has one.
const POSITIONS: &str = "position_embd.weight";

/// What a model's header says, as far as loading and planning need it.
#[derive(Clone, PartialEq, Debug)]
pub struct ModelFile {
    /// The file, or all shards in order; never empty.
    pub shards: Vec<PathBuf>,
    /// Of all shards together.
    pub n_bytes: u64,
    /// Of all shards, in the order of the file.
    pub tensors: Vec<TensorInfo>,
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
        Self::of(&header, shards, n_bytes, tensors).map_err(fail)
    }

    /// What the keys of the first shard say about a model of these shards and tensors.
    fn of(
        header: &Header,
        shards: Vec<PathBuf>,
        n_bytes: u64,
        tensors: Vec<TensorInfo>,
    ) -> Result<Self, Problem> {
        let architecture = header.text("general.architecture")?;
        let keys = Keys {
            header,
            architecture: &architecture,
        };
        keys.check_generates()?;
        let tokenizer = header.text("tokenizer.ggml.model")?;
        let pre_tokenizer = header.text("tokenizer.ggml.pre").unwrap_or_default();
        header
            .tokens
            .check(&tokenizer, &pre_tokenizer)
            .map_err(Problem::Vocabulary)?;
        let n_layers = keys.needed("block_count")?;
        if u64::from(n_layers) > MAX_LAYERS {
            let what = format!("{architecture}.block_count");
            return Err(Problem::TooMany {
                what,
                found: n_layers.into(),
                limit: MAX_LAYERS,
            });
        }
        keys.check_drafting_layers(n_layers)?;
        keys.check_experts(n_layers)?;
        keys.check_rope_scaling()?;
        let n_experts_used = keys.per_layer("expert_used_count", n_layers)?;
        let n_experts_used = n_experts_used.unwrap_or_default();
        let n_embd = keys.needed("embedding_length")?;
        keys.check_own_keys(n_embd)?;
        let n_heads = keys.per_layer("attention.head_count", n_layers)?;
        let n_kv_heads = keys.per_layer("attention.head_count_kv", n_layers)?;
        let n_heads = n_heads.unwrap_or_default();
        let n_kv_heads = n_kv_heads.unwrap_or_else(|| n_heads.clone());
        keys.check_heads_by_layer(&n_heads, &n_kv_heads)?;
        keys.check_kv_heads(&n_heads, &n_kv_heads)?;
        let first = n_heads.first().copied().unwrap_or(0);
        let head_length = n_embd / first.max(1);
        let lengths = Lengths {
            key: keys.number("attention.key_length")?.unwrap_or(head_length),
            value: keys
                .number("attention.value_length")?
                .unwrap_or(head_length),
        };
        keys.check_heads(lengths, first)?;
        let positions = tensors.iter().find(|tensor| tensor.name == POSITIONS);
        let max_positions = match positions.map(|tensor| tensor.n_rows) {
            Some(found @ 0..2) => {
                let what = format!("rows of {}", tensors::called(POSITIONS));
                return Err(value(&what, found, "at least 2"));
            }
            n_positions => n_positions.map(|n| u32::try_from(n).unwrap_or(u32::MAX)),
        };
        Ok(Self {
            shards,
            n_bytes,
            tensors,
            n_ctx_train: keys.number("context_length")?.unwrap_or(0),
            n_experts_used: n_experts_used.iter().copied().max().unwrap_or(0),
            n_layers,
            n_heads: n_heads.iter().copied().max().unwrap_or(0),
            n_kv_heads,
            key_length: lengths.key,
            value_length: lengths.value,
            max_positions,
            pre_tokenizer,
            tokenizer,
            sampling: header.sampling(),
            architecture,
        })
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
