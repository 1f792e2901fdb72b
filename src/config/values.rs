//! The values that config parameters take, and their names.
//!
//! The bottom of `config`: knows neither rows nor the configuration around them. Other modules use the
//! values as they are. Pure.

use std::sync::LazyLock;

use regex_lite::Regex;
use serde::{Deserialize, Serialize};

pub use crate::engine::MAX_SLOTS;

/// Bytes of a chat template, in the configuration or in a file.
pub const MAX_TEMPLATE_BYTES: usize = 1024 * 1024;

/// llama.cpp's limit on the devices of one model.
pub const MAX_DEVICES: usize = 16;

/// `n_cpu_moe` as a word: as many as it takes for the rest to fit.
pub(super) const EXPERTS_TO_FIT: [(&str, i128); 1] = [("auto", -1)];

/// The name of host memory among the buffer types.
const HOST_BUFFER: &str = "CPU";
/// What the names of experts' tensors have after that of their layer.
const EXPERTS: &str = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps";

/// The number format of the K or V cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum CacheType {
    F32,
    #[default]
    F16,
    Bf16,
    Q8_0,
    Q4_0,
    Q4_1,
    Iq4Nl,
    Q5_0,
    Q5_1,
}

impl CacheType {
    /// In the order of their names.
    pub const ALL: [CacheType; 9] = [
        CacheType::F32,
        CacheType::F16,
        CacheType::Bf16,
        CacheType::Q8_0,
        CacheType::Q4_0,
        CacheType::Q4_1,
        CacheType::Iq4Nl,
        CacheType::Q5_0,
        CacheType::Q5_1,
    ];
    /// llama.cpp's names, in the order of `ALL`.
    pub(super) const NAMES: [&str; 9] = [
        "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1",
    ];

    /// llama.cpp's name for it.
    pub fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// Whether llama.cpp needs flash attention for a V cache of it.
    pub fn is_quantized(self) -> bool {
        !matches!(self, CacheType::F32 | CacheType::F16 | CacheType::Bf16)
    }
}

/// Whether flash attention is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FlashAttention {
    /// Where it is supported and worth it, and where a quantized V cache needs it.
    #[default]
    Auto,
    On,
    Off,
}

impl FlashAttention {
    pub(super) const ALL: [Self; 3] = [Self::Auto, Self::On, Self::Off];
    pub(super) const NAMES: [&str; 3] = ["auto", "on", "off"];
}

/// Who drafts the tokens of speculative decoding, as vLLM names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpeculativeMethod {
    None,
    /// The text so far, where its last tokens occur in it before.
    Ngram,
    /// A small model of the same vocabulary.
    DraftModel,
}

impl SpeculativeMethod {
    pub(super) const ALL: [SpeculativeMethod; 3] = [
        SpeculativeMethod::None,
        SpeculativeMethod::Ngram,
        SpeculativeMethod::DraftModel,
    ];
    pub(super) const NAMES: [&str; 3] = ["none", "ngram", "draft_model"];
}

/// How a model is spread over several GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitMode {
    /// On one of them.
    None,
    /// Whole layers, each with its part of the KV cache.
    Layer,
    /// The rows of each matrix.
    Row,
}

impl SplitMode {
    pub(super) const ALL: [SplitMode; 3] = [SplitMode::None, SplitMode::Layer, SplitMode::Row];
    pub(super) const NAMES: [&str; 3] = ["none", "layer", "row"];
}

/// How many layers, counted from the last, are kept on GPUs; the output counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuLayers {
    /// As many as fit.
    Auto,
    All,
    Count(u32),
}

impl GpuLayers {
    pub(super) const WORDS: [(&str, i128); 2] = [("auto", -1), ("all", -2)];

    pub(super) fn from_number(number: i128) -> Self {
        match u32::try_from(number) {
            Ok(count) => GpuLayers::Count(count),
            Err(_) if number == -1 => GpuLayers::Auto,
            Err(_) => GpuLayers::All,
        }
    }
}

/// Where the tensors go whose name a pattern is found in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorOverride {
    /// A regular expression that Rust and C++ read alike.
    pub pattern: String,
    /// A buffer type's name: `CPU`, or a GPU's.
    pub buffer: String,
}

impl TensorOverride {
    /// Keeps a layer's experts in host memory.
    pub(super) fn of_experts(layer: u32) -> Self {
        Self {
            pattern: format!(r"blk\.{layer}{EXPERTS}"),
            buffer: HOST_BUFFER.to_owned(),
        }
    }

    /// Whether these tensors stay in host memory.
    pub fn is_host(&self) -> bool {
        self.buffer == HOST_BUFFER
    }
}

/// How much of a model each of several GPUs gets.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSplit {
    /// As written.
    pub text: String,
    /// A proportion for each device.
    pub ratios: Vec<f32>,
}

/// Whether a tensor holds experts, which `n_cpu_moe` counts the layers of.
pub fn is_of_experts(tensor: &str) -> bool {
    static PATTERN: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(EXPERTS).expect("a constant pattern"));
    PATTERN.is_match(tensor)
}
