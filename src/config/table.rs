//! The table of config parameters: names, ranges, defaults and meanings.
//!
//! The one place that knows them; `read` reads the configuration by it, on the model-initialize thread. Names
//! follow llama.cpp and, where it has none, vLLM; llama.cpp's long options are synonyms. Pure: a path is a text here.

use super::parameters::Parameters;
use super::values::{
    CacheType, EXPERTS_TO_FIT, FlashAttention, GpuLayers, MAX_DEVICES, MAX_SLOTS,
    MAX_TEMPLATE_BYTES, SpeculativeMethod, SplitMode,
};
use crate::protocol::MAX_SAMPLING_JSON_BYTES;
use crate::table::Limit::At;
use crate::table::{Parameter, Table};

/// Bytes of a path.
const MAX_PATH_BYTES: usize = 4096;

/// Bytes of a text that says what goes where.
const MAX_OFFLOAD_BYTES: usize = 16 * 1024;

/// The parameters as far as single rows can tell; texts that only make sense beside others wait here.
#[derive(Default)]
pub struct Written {
    pub(super) parameters: Parameters,
    pub(super) sampling_json: Option<String>,
    pub(super) devices: Option<String>,
    pub(super) tensor_split: Option<String>,
    pub(super) override_tensor: Option<String>,
}

/// The range of every row was checked before its setter sees a number.
fn small(n: i128) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

type Row = Parameter<Written>;

/// The config parameters, in the order the documentation lists them.
pub static TABLE: Table<Written> = Table {
    noun: "config parameter",
    supersedes: &[],
    rows: &[
        Row::text("model_path", MAX_PATH_BYTES, |w, text| w.parameters.model_path = Some(text))
            .synonyms(&["model"]).default("the single `*.gguf`")
            .meaning("Model file, absolute or relative to the version folder; of a split model the first part"),
        Row::whole("n_ctx", 0, At(1 << 24), |w, n| w.parameters.n_ctx = small(n))
            .synonyms(&["ctx_size"]).default("0")
            .meaning("Tokens in the KV cache, for all slots together; 0 is automatic"),
        Row::whole("n_parallel", 0, At(MAX_SLOTS as i128), |w, n| w.parameters.n_parallel = small(n))
            .synonyms(&["parallel"]).default("0")
            .meaning("Requests that run at the same time, per instance; 0 is automatic"),
        Row::whole("n_batch", 1, At(1 << 16), |w, n| w.parameters.n_batch = small(n))
            .synonyms(&["batch_size"]).default("512")
            .meaning("Tokens per step at most; at least the slots (`n_parallel` times the instances on a device)"),
        Row::whole("n_ubatch", 1, At(1 << 16), |w, n| w.parameters.n_ubatch = small(n))
            .synonyms(&["ubatch_size"]).default("512")
            .meaning("Tokens computed at once within a step, at most n_batch"),
        Row::whole("n_threads", 0, At(512), |w, n| w.parameters.n_threads = small(n))
            .synonyms(&["threads"]).default("0")
            .meaning("CPU threads for generating tokens; 0 is automatic"),
        Row::whole("n_threads_batch", 0, At(512), |w, n| w.parameters.n_threads_batch = small(n))
            .synonyms(&["threads_batch"]).default("0")
            .meaning("CPU threads for processing prompts; 0 is as many as n_threads"),
        Row::whole_or_word("n_gpu_layers", 1 << 16, &GpuLayers::WORDS, |w, n| w.parameters.n_gpu_layers = GpuLayers::from_number(n))
            .synonyms(&["gpu_layers"]).default("auto")
            .meaning("Layers kept on GPUs, counted from the last; the output layer counts as one; auto is as many as fit; CPU instances only check the number"),
        Row::whole_or_word("n_cpu_moe", 1 << 16, &EXPERTS_TO_FIT, |w, n| w.parameters.n_cpu_moe = u32::try_from(n).ok())
            .default("auto")
            .meaning("Layers, from the first, whose experts stay in host memory; auto is as few as it takes to fit"),
        Row::text("override_tensor", MAX_OFFLOAD_BYTES, |w, text| w.override_tensor = Some(text))
            .default("none")
            .meaning("Where tensors go, as `<tensor name pattern>=<buffer type>,...`; the buffer types are CPU and the devices"),
        Row::text("devices", MAX_OFFLOAD_BYTES, |w, text| w.devices = Some(text))
            .synonyms(&["device"]).default("all")
            .meaning("GPUs of a KIND_MODEL instance, as `CUDA0,CUDA1`; none is the CPU"),
        Row::choice("split_mode", &SplitMode::NAMES, |w, i| w.parameters.split_mode = SplitMode::ALL[i])
            .default("layer")
            .meaning("How a KIND_MODEL instance is spread over its GPUs: none is one of them, layer is whole layers, row is the rows of each matrix"),
        Row::text("tensor_split", MAX_OFFLOAD_BYTES, |w, text| w.tensor_split = Some(text))
            .default("what fits")
            .meaning("Proportions of the model on the GPUs of a KIND_MODEL instance, as `3,1`"),
        Row::whole("main_gpu", 0, At(MAX_DEVICES as i128 - 1), |w, n| w.parameters.main_gpu = small(n))
            .default("0").meaning("Index into the devices of the GPU that split_mode none uses"),
        Row::whole("fit_margin_mib", 0, At(1 << 20), |w, n| w.parameters.fit_margin_mib = small(n))
            .synonyms(&["fit_target"]).default("1024")
            .meaning("MiB of each GPU that layers, context and slots leave free"),
        Row::choice("cache_type_k", &CacheType::NAMES, |w, i| w.parameters.cache_type_k = CacheType::ALL[i])
            .default("f16").meaning("Number format of the K cache"),
        Row::choice("cache_type_v", &CacheType::NAMES, |w, i| w.parameters.cache_type_v = CacheType::ALL[i])
            .default("f16").meaning("Number format of the V cache; the quantized ones need flash attention"),
        Row::choice("flash_attn", &FlashAttention::NAMES, |w, i| w.parameters.flash_attn = FlashAttention::ALL[i])
            .default("auto")
            .meaning("Flash attention; auto uses it on GPUs, for most models on CPUs, and where a quantized V cache needs it"),
        Row::flag("kv_unified", |w, flag| w.parameters.kv_unified = flag)
            .default("true")
            .meaning("All requests share the KV cache; false gives each slot an equal part of it"),
        Row::flag("enable_prefix_caching", |w, flag| w.parameters.enable_prefix_caching = flag)
            .synonyms(&["cache_prompt"]).default("true")
            .meaning("Compute the common beginning of prompts once; needs kv_unified"),
        Row::whole_or_minus_one("cache_ram", 0, At(1 << 30), "no limit", |w, n| w.parameters.cache_ram_mib = u32::try_from(n).ok())
            .default("8192")
            .meaning("MiB of host memory for what ended requests leave in the KV cache; never more than a quarter of what is free at load, even with -1; 0 uses none"),
        Row::whole("target_itl_ms", 1, At(600_000), |w, n| w.parameters.target_itl_ms = small(n))
            .default("1000")
            .meaning("Milliseconds that may pass between two tokens of an answer because prompts are read"),
        Row::choice("speculative_method", &SpeculativeMethod::NAMES, |w, i| w.parameters.speculative_method = SpeculativeMethod::ALL[i])
            .default("none")
            .meaning("Who guesses tokens for the model to verify: ngram looks them up in prompt and answer, draft_model is a small model"),
        Row::whole("num_speculative_tokens", 1, At(64), |w, n| w.parameters.num_speculative_tokens = small(n))
            .synonyms(&["draft_max"]).default("8")
            .meaning("Tokens guessed at a time, at most"),
        Row::whole("prompt_lookup_max", 1, At(64), |w, n| w.parameters.prompt_lookup_max = small(n))
            .default("5").meaning("Tokens of the n-gram looked up, at most"),
        Row::whole("prompt_lookup_min", 1, At(64), |w, n| w.parameters.prompt_lookup_min = small(n))
            .default("2").meaning("Tokens of the n-gram looked up, at least; at most prompt_lookup_max"),
        Row::text("speculative_model", MAX_PATH_BYTES, |w, text| w.parameters.speculative_model = Some(text))
            .synonyms(&["model_draft"]).default("none")
            .meaning("File of the draft model, absolute or relative to the version folder; it needs the vocabulary of the model"),
        Row::flag("use_mmap", |w, flag| w.parameters.use_mmap = Some(flag))
            .synonyms(&["mmap"]).default("what is safe")
            .meaning("Map the model file instead of reading it; where it is not set, a file is mapped if it can be kept from changing under the model"),
        Row::flag("use_mlock", |w, flag| w.parameters.use_mlock = flag)
            .synonyms(&["mlock"]).default("false")
            .meaning("Keep the model from being swapped out"),
        Row::flag("repack", |w, flag| w.parameters.repack = flag)
            .default("true")
            .meaning("Copy weights on CPUs into a form that is multiplied faster, for AMX too; false keeps them as they are in the file"),
        Row::flag("trial", |w, flag| w.parameters.trial = flag)
            .default("true")
            .meaning("Before the model is loaded, try it in a process of its own: what ends that process would end the server"),
        Row::text("chat_template", MAX_TEMPLATE_BYTES, |w, text| w.parameters.chat_template = Some(text))
            .default("the model's").meaning("Jinja chat template in place of the one in the model file"),
        Row::text("chat_template_file", MAX_PATH_BYTES, |w, text| w.parameters.chat_template_file = Some(text))
            .default("none").meaning("File with such a template, absolute or relative to the version folder"),
        Row::whole("max_queue_size", 0, At(1 << 16), |w, n| w.parameters.max_queue_size = small(n))
            .default("512").meaning("Requests that may wait for a slot; one more is refused as UNAVAILABLE"),
        Row::whole("request_timeout_ms", 0, At(i32::MAX as i128), |w, n| w.parameters.request_timeout_ms = small(n))
            .default("0")
            .meaning("Milliseconds that a request may take from its arrival, waiting included; then it ends with an error, UNAVAILABLE; 0 is no limit"),
        Row::whole("max_prompt_bytes", 1, At(1 << 28), |w, n| w.parameters.max_prompt_bytes = small(n) as usize)
            .default("8388608").meaning("Bytes of text_input, at most"),
        Row::text("sampling_parameters", MAX_SAMPLING_JSON_BYTES, |w, text| w.sampling_json = Some(text))
            .default("{}").meaning("JSON object of request parameters, the defaults of every request"),
        Row::flag("strict_parameters", |w, flag| w.parameters.strict_parameters = flag)
            .default("true")
            .meaning("Refuse requests with an unknown parameter; false ignores such parameters"),
    ],
};
