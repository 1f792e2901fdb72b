//! What the parameters of the model configuration say: `parameters { key: ... }` in config.pbtxt.
//!
//! Filled by the rows of `table`, checked as a whole by `read`; used by all that load a model. Pure.

use crate::protocol::DEFAULT_MAX_PROMPT_BYTES;

use super::ConfigError;
use super::values::{
    CacheType, FlashAttention, GpuLayers, MAX_SLOTS, SpeculativeMethod, SplitMode, TensorOverride,
    TensorSplit,
};

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
    pub flash_attn: FlashAttention,
    /// Whether all slots share the KV cache; else each has its part of it.
    pub kv_unified: bool,
    /// Whether requests may share what the KV cache holds of their beginnings.
    pub enable_prefix_caching: bool,
    /// Host memory for what ended requests leave in the KV cache; `None` is without a limit.
    pub cache_ram_mib: Option<u32>,
    /// How long a step that reads prompts may take while answers are generated.
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
    /// 0 is no limit.
    pub request_timeout_ms: u32,
    /// Requests that may wait for a slot.
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
            flash_attn: FlashAttention::Auto,
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

impl Parameters {
    /// `override_tensor`, and after it the experts of the first `n_cpu_moe` layers; the first that
    /// matches a tensor counts.
    pub fn overrides(&self, n_cpu_moe: u32) -> Vec<TensorOverride> {
        let experts = (0..n_cpu_moe).map(TensorOverride::of_experts);
        self.override_tensor
            .iter()
            .cloned()
            .chain(experts)
            .collect()
    }

    /// Checks what refers to the layers of the model.
    pub fn check_layers(&self, n_layers: u32) -> Result<(), ConfigError> {
        match self.n_gpu_layers {
            GpuLayers::Count(count) if count > n_layers + 1 => Err(ConfigError::Value {
                name: "n_gpu_layers",
                value: count.to_string(),
                expected: format!(
                    "at most {}, the {n_layers} layers of this model and its output",
                    n_layers + 1
                ),
            }),
            _ => match self.n_cpu_moe {
                Some(count) if count > n_layers => Err(ConfigError::Value {
                    name: "n_cpu_moe",
                    value: count.to_string(),
                    expected: format!("at most {n_layers}, the layers of this model"),
                }),
                _ => Ok(()),
            },
        }
    }

    /// The slots of `n_instances` instances, checked against llama.cpp's limit, the step's size and the context.
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
