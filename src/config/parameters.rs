//! What the parameters of the model configuration say: `parameters { key: ... }` in config.pbtxt.
//!
//! `config::parse` reads them once per load, by [`TABLE`], on the model-initialize thread. Here is
//! what a row of the table cannot tell: which values go together.

use std::collections::BTreeMap;

use crate::protocol::given::Given;
use crate::protocol::table::Rules;
use crate::protocol::{DEFAULT_MAX_PROMPT_BYTES, defaults};

use super::offload::{self, GpuLayers, SplitMode, TensorOverride, TensorSplit};
use super::raw::RawParameter;
use super::table::{Draft, TABLE};
use super::{ConfigError, MAX_SLOTS};

/// Slots of an instance where the configuration leaves it to us.
const AUTOMATIC_N_PARALLEL: u32 = 16;

/// A prompt of one token, and its answer.
const MIN_SLOT_TOKENS: u32 = 2;

/// What the configuration's parameters say, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// As written: absolute or relative to the version folder; `None` means the only *.gguf there.
    pub model_path: Option<String>,
    /// Tokens in the KV cache; 0 leaves it to the program.
    pub n_ctx: u32,
    /// Slots per instance; 0 leaves it to the program.
    pub n_parallel: u32,
    /// Tokens per step; at least the slots.
    pub n_batch: u32,
    /// Tokens computed at once within a step; at most `n_batch`.
    pub n_ubatch: u32,
    /// 0 leaves it to the program.
    pub n_threads: u32,
    /// For steps with prompts; 0 is as many as `n_threads`.
    pub n_threads_batch: u32,
    pub n_gpu_layers: GpuLayers,
    /// Layers, from the first, whose experts stay in host memory; `None` is as few as it takes to fit.
    pub n_cpu_moe: Option<u32>,
    pub override_tensor: Vec<TensorOverride>,
    /// Names of GPUs for KIND_MODEL; `None` means all, and an empty list the CPU.
    pub devices: Option<Vec<String>>,
    pub split_mode: SplitMode,
    /// `None` leaves it to the program, and is so for [`SplitMode::None`].
    pub tensor_split: Option<TensorSplit>,
    /// An index into the devices, for [`SplitMode::None`].
    pub main_gpu: u32,
    /// MiB of each GPU that are left free.
    pub fit_margin_mib: u32,
    pub cache_type_k: CacheType,
    pub cache_type_v: CacheType,
    pub flash_attn: FlashAttn,
    /// Whether all slots share the KV cache; else each has its part of it.
    pub kv_unified: bool,
    /// Whether requests may share what the KV cache holds of their beginnings.
    pub enable_prefix_caching: bool,
    /// Host memory for what ended requests leave in the KV cache; `None` is without a limit.
    pub cache_ram_mib: Option<u32>,
    /// How long a step may take that reads prompts while answers are generated.
    pub target_itl_ms: u32,
    /// Who drafts tokens for the model to verify.
    pub speculative_method: SpeculativeMethod,
    /// Tokens of a draft.
    pub num_speculative_tokens: u32,
    /// Tokens of an n-gram; at least `prompt_lookup_min`.
    pub prompt_lookup_max: u32,
    pub prompt_lookup_min: u32,
    /// As written: absolute or relative to the version folder; there for `DraftModel` only.
    pub speculative_model: Option<String>,
    /// `None` leaves it to the program.
    pub use_mmap: Option<bool>,
    pub use_mlock: bool,
    /// Copy weights into a form that is multiplied faster.
    pub repack: bool,
    /// Try what a load will run in a process of its own first.
    pub trial: bool,
    /// Jinja text in place of the model's own; never beside `chat_template_file`.
    pub chat_template: Option<String>,
    /// As written: absolute or relative to the version folder.
    pub chat_template_file: Option<String>,
    /// Requests that may wait for a slot.
    /// 0 is no limit.
    pub request_timeout_ms: u32,
    pub max_queue_size: u32,
    pub max_prompt_bytes: usize,
    /// What a request that does not say otherwise gets.
    pub sampling_parameters: String,
    /// Whether a request with an unknown parameter is refused.
    pub strict_parameters: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            model_path: None,
            n_ctx: 0,
            n_parallel: 0,
            n_batch: 512,
            n_ubatch: 512,
            n_threads: 0,
            n_threads_batch: 0,
            n_gpu_layers: GpuLayers::Auto,
            n_cpu_moe: None,
            override_tensor: Vec::new(),
            devices: None,
            split_mode: SplitMode::Layer,
            tensor_split: None,
            main_gpu: 0,
            fit_margin_mib: 1024,
            cache_type_k: CacheType::F16,
            cache_type_v: CacheType::F16,
            flash_attn: FlashAttn::Auto,
            kv_unified: true,
            enable_prefix_caching: true,
            cache_ram_mib: Some(8192),
            target_itl_ms: 1000,
            speculative_method: SpeculativeMethod::None,
            num_speculative_tokens: 8,
            prompt_lookup_max: 5,
            prompt_lookup_min: 2,
            speculative_model: None,
            use_mmap: None,
            use_mlock: false,
            repack: true,
            trial: true,
            chat_template: None,
            chat_template_file: None,
            request_timeout_ms: 0,
            max_queue_size: 512,
            max_prompt_bytes: DEFAULT_MAX_PROMPT_BYTES,
            sampling_parameters: "{}".to_owned(),
            strict_parameters: true,
        }
    }
}

/// The number format of the K or V cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheType {
    F32,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlashAttn {
    /// On GPUs that support it, and where a quantized V cache needs it.
    Auto,
    On,
    Off,
}

impl FlashAttn {
    pub(super) const ALL: [FlashAttn; 3] = [FlashAttn::Auto, FlashAttn::On, FlashAttn::Off];
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

/// Names that Triton's core reads from the same map.
fn passes(name: &str) -> bool {
    name.starts_with("TRITON_")
}

impl Parameters {
    /// Reads and checks the map as a whole.
    pub(crate) fn read(written: &BTreeMap<String, RawParameter>) -> Result<Self, ConfigError> {
        let mut draft = Draft::default();
        let rules = Rules {
            n_ctx: None,
            strict: true,
            passes,
        };
        let pairs = written.iter().map(|(name, parameter)| {
            let value = Given::Text(parameter.string_value.clone());
            (name.clone(), value)
        });
        let given = TABLE.read(&mut draft, pairs, &rules)?;

        let mut parameters = draft.parameters;
        if parameters.n_ctx == 1 {
            return Err(ConfigError::ContextOfOne);
        }
        let texts = (draft.devices, draft.tensor_split, draft.override_tensor);
        parameters.devices = texts.0.as_deref().map(offload::read_devices).transpose()?;
        if let Some(text) = texts.1 {
            let split = offload::read_split(&text, parameters.split_mode)?;
            parameters.tensor_split = Some(split);
        }
        if let Some(text) = texts.2 {
            parameters.override_tensor = offload::read_overrides(&text)?;
        }
        if let Some(json) = draft.sampling_json {
            // Checked here; read once more when the defaults of the model's file are known.
            defaults(&[], &json).map_err(ConfigError::Defaults)?;
            parameters.sampling_parameters = json;
        }
        if parameters.chat_template.is_some() && parameters.chat_template_file.is_some() {
            return Err(ConfigError::TwoTemplates);
        }
        if parameters.n_ubatch > parameters.n_batch {
            if given.contains(&"n_ubatch") {
                return Err(ConfigError::AboveOther {
                    name: "n_ubatch",
                    value: parameters.n_ubatch,
                    other: "n_batch",
                    limit: parameters.n_batch,
                });
            }
            parameters.n_ubatch = parameters.n_batch;
        }
        parameters.check_speculation(&given)?;
        // llama.cpp refuses the pair when the context is made, without saying which setting.
        if parameters.cache_type_v.is_quantized() && parameters.flash_attn == FlashAttn::Off {
            return Err(ConfigError::QuantizedWithoutFlash {
                cache_type: parameters.cache_type_v.as_str(),
            });
        }
        Ok(parameters)
    }

    fn check_speculation(&mut self, given: &[&'static str]) -> Result<(), ConfigError> {
        let is_draft_model = self.speculative_method == SpeculativeMethod::DraftModel;
        match (is_draft_model, self.speculative_model.is_some()) {
            (true, false) => return Err(ConfigError::NoDraftModel),
            (false, true) => return Err(ConfigError::UnusedDraftModel),
            _ => {}
        }
        let (min, max) = (self.prompt_lookup_min, self.prompt_lookup_max);
        match (
            given.contains(&"prompt_lookup_min"),
            given.contains(&"prompt_lookup_max"),
        ) {
            // As vLLM: one that is not set gives way to the other.
            (true, false) => self.prompt_lookup_max = max.max(min),
            (false, _) => self.prompt_lookup_min = min.min(max),
            (true, true) if min > max => {
                return Err(ConfigError::AboveOther {
                    name: "prompt_lookup_min",
                    value: min,
                    other: "prompt_lookup_max",
                    limit: max,
                });
            }
            (true, true) => {}
        }
        Ok(())
    }

    /// The slots of so many instances, checked against llama.cpp's limit, the step's size and the context.
    pub(crate) fn n_slots(&self, n_instances: usize) -> Result<usize, ConfigError> {
        let n_parallel = match (self.n_parallel, self.n_ctx) {
            (0, 0) => AUTOMATIC_N_PARALLEL,
            (0, n_ctx) => {
                let most = n_ctx / MIN_SLOT_TOKENS / n_instances.max(1) as u32;
                most.clamp(1, AUTOMATIC_N_PARALLEL)
            }
            (n_parallel, _) => n_parallel,
        };
        let n_slots = n_instances.saturating_mul(n_parallel as usize);
        if n_slots > MAX_SLOTS {
            return Err(ConfigError::TooManySlots {
                n_parallel,
                n_instances,
                n_slots,
            });
        }
        // Every running request needs one token of each step to keep going.
        if n_slots > self.n_batch as usize {
            return Err(ConfigError::BatchBelowSlots {
                n_batch: self.n_batch,
                n_slots,
                n_parallel,
                n_instances,
            });
        }
        let n_tokens = match self.kv_unified {
            true => 1,
            false => MIN_SLOT_TOKENS,
        };
        let limit = n_slots as u32 * n_tokens;
        if self.n_ctx != 0 && self.n_ctx < limit {
            return Err(ConfigError::ContextBelowSlots {
                n_ctx: self.n_ctx,
                limit,
                n_tokens,
                n_parallel,
                n_instances,
            });
        }
        Ok(n_slots)
    }
}
