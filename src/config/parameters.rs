//! The parameters of the model configuration: `parameters { key: ... }` in config.pbtxt.
//!
//! [`TABLE`] is the one place that knows them; `config::parse` reads them once
//! per load on the model-initialize thread. Names follow llama.cpp, its long
//! options as synonyms. Pure: a path is a text here.

use std::collections::BTreeMap;

use crate::protocol::table::{Given, Kind, Limit, Parameter, Rules, Table};
use crate::protocol::{DEFAULT_MAX_PROMPT_BYTES, RequestDefaults, defaults};

use super::raw::RawParameter;
use super::{ConfigError, MAX_SLOTS};

/// Bytes of a path.
const MAX_PATH_BYTES: usize = 4096;
/// Bytes of a chat template.
const MAX_TEMPLATE_BYTES: usize = 1024 * 1024;

/// What the configuration's parameters say, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// As written: absolute or relative to the version folder; `None` means the only *.gguf there.
    pub model_path: Option<String>,
    /// Tokens in the KV cache; 0 leaves it to the program.
    pub n_ctx: u32,
    /// Slots per instance.
    pub n_parallel: u32,
    /// Tokens per step; at least the slots.
    pub n_batch: u32,
    /// Tokens computed at once within a step; at most `n_batch`.
    pub n_ubatch: u32,
    /// 0 leaves it to the program.
    pub n_threads: u32,
    /// For steps with prompts; 0 is as many as `n_threads`.
    pub n_threads_batch: u32,
    /// Layers on the GPU; `None` means all.
    pub n_gpu_layers: Option<u32>,
    pub cache_type_k: CacheType,
    pub cache_type_v: CacheType,
    pub flash_attn: FlashAttn,
    /// Whether all slots share the KV cache; else each has its part of it.
    pub kv_unified: bool,
    /// Whether requests may share what the KV cache holds of their beginnings.
    pub enable_prefix_caching: bool,
    /// How long a step may take that reads prompts while answers are generated.
    pub target_itl_ms: u32,
    pub use_mmap: bool,
    pub use_mlock: bool,
    /// Jinja text in place of the model's own; never beside `chat_template_file`.
    pub chat_template: Option<String>,
    /// As written: absolute or relative to the version folder.
    pub chat_template_file: Option<String>,
    /// Requests that may wait for a slot.
    pub max_queue_size: u32,
    pub max_prompt_bytes: usize,
    /// What a request that does not say otherwise gets.
    pub sampling_parameters: RequestDefaults,
    /// Whether a request with an unknown parameter is refused.
    pub strict_parameters: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            model_path: None,
            n_ctx: 0,
            n_parallel: 16,
            n_batch: 512,
            n_ubatch: 512,
            n_threads: 0,
            n_threads_batch: 0,
            n_gpu_layers: None,
            cache_type_k: CacheType::F16,
            cache_type_v: CacheType::F16,
            flash_attn: FlashAttn::Auto,
            kv_unified: true,
            enable_prefix_caching: true,
            target_itl_ms: 1000,
            use_mmap: true,
            use_mlock: false,
            chat_template: None,
            chat_template_file: None,
            max_queue_size: 512,
            max_prompt_bytes: DEFAULT_MAX_PROMPT_BYTES,
            sampling_parameters: RequestDefaults::default(),
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
    const NAMES: [&str; 9] = [
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
    const ALL: [FlashAttn; 3] = [FlashAttn::Auto, FlashAttn::On, FlashAttn::Off];
    const NAMES: [&str; 3] = ["auto", "on", "off"];
}

/// Parameters while they are read: what a setter cannot check alone waits here.
#[derive(Default)]
pub struct Draft {
    parameters: Parameters,
    sampling_json: Option<String>,
}

/// A row of the table for a whole number that fits `u32`.
const fn whole(
    name: &'static str,
    synonyms: &'static [&'static str],
    range: (i128, i128),
    default: &'static str,
    meaning: &'static str,
    set: fn(&mut Draft, i128),
) -> Parameter<Draft> {
    let kind = Kind::Whole {
        min: range.0,
        max: Limit::At(range.1),
        minus_one: None,
        set,
    };
    Parameter {
        name,
        synonyms,
        kind,
        default,
        meaning,
    }
}

/// The range of every row was checked before its setter sees a number.
fn small(n: i128) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// The config parameters, in the order the documentation lists them.
pub static TABLE: Table<Draft> = Table {
    noun: "config parameter",
    rows: &[
        Parameter {
            name: "model_path",
            synonyms: &["model"],
            kind: Kind::Text {
                max_bytes: MAX_PATH_BYTES,
                set: |d, text| d.parameters.model_path = Some(text),
            },
            default: "the single `*.gguf`",
            meaning: "Model file, absolute or relative to the version folder; of a split model the first part",
        },
        whole(
            "n_ctx",
            &["ctx_size"],
            (0, 1 << 24),
            "0",
            "Tokens in the KV cache, for all slots together; 0 is automatic",
            |d, n| d.parameters.n_ctx = small(n),
        ),
        whole(
            "n_parallel",
            &["parallel"],
            (1, MAX_SLOTS as i128),
            "16",
            "Requests that run at the same time, per instance",
            |d, n| d.parameters.n_parallel = small(n),
        ),
        whole(
            "n_batch",
            &["batch_size"],
            (1, 1 << 16),
            "512",
            "Tokens per step, at least one for each request that runs",
            |d, n| d.parameters.n_batch = small(n),
        ),
        whole(
            "n_ubatch",
            &["ubatch_size"],
            (1, 1 << 16),
            "512",
            "Tokens computed at once within a step, at most n_batch",
            |d, n| d.parameters.n_ubatch = small(n),
        ),
        whole(
            "n_threads",
            &["threads"],
            (0, 512),
            "0",
            "CPU threads that generate; 0 is automatic",
            |d, n| d.parameters.n_threads = small(n),
        ),
        whole(
            "n_threads_batch",
            &["threads_batch"],
            (0, 512),
            "0",
            "CPU threads that read prompts; 0 is as many as n_threads",
            |d, n| d.parameters.n_threads_batch = small(n),
        ),
        Parameter {
            name: "n_gpu_layers",
            synonyms: &["gpu_layers"],
            kind: Kind::Whole {
                min: 0,
                max: Limit::At(1 << 16),
                minus_one: Some("all"),
                set: |d, n| d.parameters.n_gpu_layers = u32::try_from(n).ok(),
            },
            default: "-1",
            meaning: "Layers of the model that a GPU instance keeps on the GPU; without effect on CPU instances",
        },
        Parameter {
            name: "cache_type_k",
            synonyms: &[],
            kind: Kind::Choice {
                names: &CacheType::NAMES,
                set: |d, i| d.parameters.cache_type_k = CacheType::ALL[i],
            },
            default: "f16",
            meaning: "Number format of the K cache",
        },
        Parameter {
            name: "cache_type_v",
            synonyms: &[],
            kind: Kind::Choice {
                names: &CacheType::NAMES,
                set: |d, i| d.parameters.cache_type_v = CacheType::ALL[i],
            },
            default: "f16",
            meaning: "Number format of the V cache; the quantized ones need flash attention",
        },
        Parameter {
            name: "flash_attn",
            synonyms: &[],
            kind: Kind::Choice {
                names: &FlashAttn::NAMES,
                set: |d, i| d.parameters.flash_attn = FlashAttn::ALL[i],
            },
            default: "auto",
            meaning: "Flash attention; auto uses it on GPUs, for large heads on CPUs, and where a quantized V cache needs it",
        },
        Parameter {
            name: "kv_unified",
            synonyms: &[],
            kind: Kind::Flag {
                set: |d, flag| d.parameters.kv_unified = flag,
            },
            default: "true",
            meaning: "All requests share the KV cache; false gives each slot an equal part of it",
        },
        Parameter {
            name: "enable_prefix_caching",
            synonyms: &["cache_prompt"],
            kind: Kind::Flag {
                set: |d, flag| d.parameters.enable_prefix_caching = flag,
            },
            default: "true",
            meaning: "Compute the common beginning of prompts once; needs kv_unified",
        },
        whole(
            "target_itl_ms",
            &[],
            (1, 600_000),
            "1000",
            "Milliseconds that may pass between two tokens of an answer because prompts are read",
            |d, n| d.parameters.target_itl_ms = small(n),
        ),
        Parameter {
            name: "use_mmap",
            synonyms: &["mmap"],
            kind: Kind::Flag {
                set: |d, flag| d.parameters.use_mmap = flag,
            },
            default: "true",
            meaning: "Map the model file instead of reading it",
        },
        Parameter {
            name: "use_mlock",
            synonyms: &["mlock"],
            kind: Kind::Flag {
                set: |d, flag| d.parameters.use_mlock = flag,
            },
            default: "false",
            meaning: "Keep the model from being swapped out",
        },
        Parameter {
            name: "chat_template",
            synonyms: &[],
            kind: Kind::Text {
                max_bytes: MAX_TEMPLATE_BYTES,
                set: |d, text| d.parameters.chat_template = Some(text),
            },
            default: "the model's",
            meaning: "Jinja chat template in place of the one in the model file",
        },
        Parameter {
            name: "chat_template_file",
            synonyms: &[],
            kind: Kind::Text {
                max_bytes: MAX_PATH_BYTES,
                set: |d, text| d.parameters.chat_template_file = Some(text),
            },
            default: "none",
            meaning: "File with such a template, absolute or relative to the version folder",
        },
        whole(
            "max_queue_size",
            &[],
            (0, 1 << 16),
            "512",
            "Requests that may wait for a slot; one more is refused as UNAVAILABLE",
            |d, n| d.parameters.max_queue_size = small(n),
        ),
        whole(
            "max_prompt_bytes",
            &[],
            (1, 1 << 28),
            "8388608",
            "Bytes of text_input",
            |d, n| d.parameters.max_prompt_bytes = small(n) as usize,
        ),
        Parameter {
            name: "sampling_parameters",
            synonyms: &[],
            kind: Kind::Text {
                max_bytes: crate::protocol::MAX_SAMPLING_JSON_BYTES,
                set: |d, text| d.sampling_json = Some(text),
            },
            default: "{}",
            meaning: "JSON object of request parameters, the defaults of every request",
        },
        Parameter {
            name: "strict_parameters",
            synonyms: &[],
            kind: Kind::Flag {
                set: |d, flag| d.parameters.strict_parameters = flag,
            },
            default: "true",
            meaning: "Refuse requests with an unknown parameter; false ignores such parameters",
        },
    ],
};

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
        if let Some(json) = draft.sampling_json {
            parameters.sampling_parameters = defaults(&json).map_err(ConfigError::Defaults)?;
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
        // llama.cpp refuses the pair when the context is made, without saying which setting.
        if parameters.cache_type_v.is_quantized() && parameters.flash_attn == FlashAttn::Off {
            return Err(ConfigError::QuantizedWithoutFlash {
                cache_type: parameters.cache_type_v.as_str(),
            });
        }
        Ok(parameters)
    }

    /// Slots over all instances, checked against llama.cpp's limit and the step's size.
    pub(crate) fn n_slots(&self, n_instances: usize) -> Result<usize, ConfigError> {
        let n_parallel = self.n_parallel;
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
        Ok(n_slots)
    }
}
