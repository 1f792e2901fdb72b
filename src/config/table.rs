//! The table of config parameters: names, ranges, defaults and meanings.
//!
//! The one place that knows them; [`Parameters`] reads the configuration by it. Names follow llama.cpp
//! and, where it has none, vLLM; llama.cpp's long options are synonyms. Pure: a path is a text here.

use crate::protocol::table::{Kind, Limit, Parameter, Table};

use super::offload::{EXPERTS_TO_FIT, GpuLayers, MAX_DEVICES, SplitMode};
use super::parameters::{CacheType, FlashAttn, Parameters, SpeculativeMethod};
use super::{MAX_SLOTS, MAX_TEMPLATE_BYTES};

/// Bytes of a path.
const MAX_PATH_BYTES: usize = 4096;

/// Bytes of a text that says what goes where.
const MAX_OFFLOAD_BYTES: usize = 16 * 1024;

/// Parameters while they are read: what a setter cannot check alone waits here.
#[derive(Default)]
pub struct Draft {
    pub(super) parameters: Parameters,
    pub(super) sampling_json: Option<String>,
    pub(super) devices: Option<String>,
    pub(super) tensor_split: Option<String>,
    pub(super) override_tensor: Option<String>,
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
    supersedes: &[],
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
            (0, MAX_SLOTS as i128),
            "0",
            "Requests that run at the same time, per instance; 0 is automatic",
            |d, n| d.parameters.n_parallel = small(n),
        ),
        whole(
            "n_batch",
            &["batch_size"],
            (1, 1 << 16),
            "512",
            "Tokens per step at most; at least the slots (`n_parallel` times the instances on a device)",
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
            "CPU threads for generating tokens; 0 is automatic",
            |d, n| d.parameters.n_threads = small(n),
        ),
        whole(
            "n_threads_batch",
            &["threads_batch"],
            (0, 512),
            "0",
            "CPU threads for processing prompts; 0 is as many as n_threads",
            |d, n| d.parameters.n_threads_batch = small(n),
        ),
        Parameter {
            name: "n_gpu_layers",
            synonyms: &["gpu_layers"],
            kind: Kind::WholeOrWord {
                max: 1 << 16,
                words: &GpuLayers::WORDS,
                set: |d, n| d.parameters.n_gpu_layers = GpuLayers::from_number(n),
            },
            default: "auto",
            meaning: "Layers kept on GPUs, counted from the last; the output layer counts as one; auto is as many as fit; CPU instances only check the number",
        },
        Parameter {
            name: "n_cpu_moe",
            synonyms: &[],
            kind: Kind::WholeOrWord {
                max: 1 << 16,
                words: &EXPERTS_TO_FIT,
                set: |d, n| d.parameters.n_cpu_moe = u32::try_from(n).ok(),
            },
            default: "auto",
            meaning: "Layers, from the first, whose experts stay in host memory; auto is as few as it takes to fit",
        },
        Parameter {
            name: "override_tensor",
            synonyms: &[],
            kind: Kind::Text {
                max_bytes: MAX_OFFLOAD_BYTES,
                set: |d, text| d.override_tensor = Some(text),
            },
            default: "none",
            meaning: "Where tensors go, as `<tensor name pattern>=<buffer type>,...`; the buffer types are CPU and the devices",
        },
        Parameter {
            name: "devices",
            synonyms: &["device"],
            kind: Kind::Text {
                max_bytes: MAX_OFFLOAD_BYTES,
                set: |d, text| d.devices = Some(text),
            },
            default: "all",
            meaning: "GPUs of a KIND_MODEL instance, as `CUDA0,CUDA1`; none is the CPU",
        },
        Parameter {
            name: "split_mode",
            synonyms: &[],
            kind: Kind::Choice {
                names: &SplitMode::NAMES,
                set: |d, i| d.parameters.split_mode = SplitMode::ALL[i],
            },
            default: "layer",
            meaning: "How a KIND_MODEL instance is spread over its GPUs: none is one of them, layer is whole layers, row is the rows of each matrix",
        },
        Parameter {
            name: "tensor_split",
            synonyms: &[],
            kind: Kind::Text {
                max_bytes: MAX_OFFLOAD_BYTES,
                set: |d, text| d.tensor_split = Some(text),
            },
            default: "what fits",
            meaning: "Proportions of the model on the GPUs of a KIND_MODEL instance, as `3,1`",
        },
        whole(
            "main_gpu",
            &[],
            (0, MAX_DEVICES as i128 - 1),
            "0",
            "Index into the devices of the GPU that split_mode none uses",
            |d, n| d.parameters.main_gpu = small(n),
        ),
        whole(
            "fit_margin_mib",
            &["fit_target"],
            (0, 1 << 20),
            "1024",
            "MiB of each GPU that layers, context and slots leave free",
            |d, n| d.parameters.fit_margin_mib = small(n),
        ),
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
            meaning: "Flash attention; auto uses it on GPUs, for most models on CPUs, and where a quantized V cache needs it",
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
        Parameter {
            name: "cache_ram",
            synonyms: &[],
            kind: Kind::Whole {
                min: 0,
                max: Limit::At(1 << 30),
                minus_one: Some("no limit"),
                set: |d, n| d.parameters.cache_ram_mib = u32::try_from(n).ok(),
            },
            default: "8192",
            meaning: "MiB of host memory for what ended requests leave in the KV cache; never more than a quarter of what is free at load, even with -1; 0 uses none",
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
            name: "speculative_method",
            synonyms: &[],
            kind: Kind::Choice {
                names: &SpeculativeMethod::NAMES,
                set: |d, i| d.parameters.speculative_method = SpeculativeMethod::ALL[i],
            },
            default: "none",
            meaning: "Who guesses tokens for the model to verify: ngram looks them up in prompt and answer, draft_model is a small model",
        },
        whole(
            "num_speculative_tokens",
            &["draft_max"],
            (1, 64),
            "8",
            "Tokens guessed at a time, at most",
            |d, n| d.parameters.num_speculative_tokens = small(n),
        ),
        whole(
            "prompt_lookup_max",
            &[],
            (1, 64),
            "5",
            "Tokens of the n-gram looked up, at most",
            |d, n| d.parameters.prompt_lookup_max = small(n),
        ),
        whole(
            "prompt_lookup_min",
            &[],
            (1, 64),
            "2",
            "Tokens of the n-gram looked up, at least; at most prompt_lookup_max",
            |d, n| d.parameters.prompt_lookup_min = small(n),
        ),
        Parameter {
            name: "speculative_model",
            synonyms: &["model_draft"],
            kind: Kind::Text {
                max_bytes: MAX_PATH_BYTES,
                set: |d, text| d.parameters.speculative_model = Some(text),
            },
            default: "none",
            meaning: "File of the draft model, absolute or relative to the version folder; it needs the vocabulary of the model",
        },
        Parameter {
            name: "use_mmap",
            synonyms: &["mmap"],
            kind: Kind::Flag {
                set: |d, flag| d.parameters.use_mmap = Some(flag),
            },
            default: "what is safe",
            meaning: "Map the model file instead of reading it; where it is not set, a file is mapped if it can be kept from changing under the model",
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
            name: "repack",
            synonyms: &[],
            kind: Kind::Flag {
                set: |d, flag| d.parameters.repack = flag,
            },
            default: "true",
            meaning: "Copy weights on CPUs into a form that is multiplied faster, for AMX too; false keeps them as they are in the file",
        },
        Parameter {
            name: "trial",
            synonyms: &[],
            kind: Kind::Flag {
                set: |d, flag| d.parameters.trial = flag,
            },
            default: "true",
            meaning: "Before the model is loaded, try it in a process of its own: what ends that process would end the server",
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
            "request_timeout_ms",
            &[],
            (0, i32::MAX as i128),
            "0",
            "Milliseconds that a request may take from its arrival, waiting included; then it ends with an error, UNAVAILABLE; 0 is no limit",
            |d, n| d.parameters.request_timeout_ms = small(n),
        ),
        whole(
            "max_prompt_bytes",
            &[],
            (1, 1 << 28),
            "8388608",
            "Bytes of text_input, at most",
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
