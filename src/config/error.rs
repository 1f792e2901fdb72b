//! Why a model configuration is refused: the text ends up as the model's load error.
//!
//! Built on Triton's model-initialize thread; every text names the field, the
//! value found and what may stand there.

use super::values::MAX_SLOTS;
use crate::protocol::RequestError;
use crate::table::ParameterError;

/// Why a model configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the model configuration is not JSON that we read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("max_batch_size = {value}: must be between 0 and {}", i32::MAX)]
    MaxBatchSize { value: i64 },
    #[error("unknown {direction} '{name}': known are {known}")]
    UnknownTensor {
        direction: &'static str,
        name: String,
        known: String,
    },
    #[error("{direction} '{name}' is declared twice")]
    RepeatedTensor {
        direction: &'static str,
        name: String,
    },
    #[error("{direction} '{name}': data_type = {found}: must be {expected}")]
    TensorType {
        direction: &'static str,
        name: String,
        expected: &'static str,
        found: String,
    },
    #[error("{direction} '{name}': dims = {found:?}: must be [1] or [-1]")]
    TensorDims {
        direction: &'static str,
        name: String,
        found: Vec<i64>,
    },
    #[error(
        "{direction} '{name}' is missing and auto-complete is off: add {direction} \
         [ {{ name: \"{name}\" data_type: TYPE_STRING dims: [ {dim} ] }} ]"
    )]
    MissingTensor {
        direction: &'static str,
        name: &'static str,
        dim: i64,
    },
    #[error(
        "model_transaction_policy.decoupled is false and auto-complete is off: add \
         model_transaction_policy {{ decoupled: true }}"
    )]
    NotDecoupled,
    #[error("{field} is not supported: remove it, {meaning}")]
    Field {
        field: &'static str,
        meaning: &'static str,
    },
    #[error("{direction}[{index}] '{name}' has a reshape: remove it, its shape is fixed")]
    Reshape {
        direction: &'static str,
        index: usize,
        name: String,
    },
    #[error(
        "default_model_filename and the config parameter 'model_path' both name the model's file: \
         give one of them"
    )]
    TwoModelFiles,
    #[error(
        "instance_group[{group}] asks for {found} with count = {count}: count must be between 0 and \
         {MAX_SLOTS}"
    )]
    InstanceCount {
        group: usize,
        found: &'static str,
        count: i64,
    },
    #[error(
        "instance_group has only groups with 'passive: true', to which Triton gives no requests: leave \
         'passive' out of one"
    )]
    AllPassive,
    #[error(
        "instance_group[{group}] names GPU {number} in 'gpus': must be between 0 and {}",
        i32::MAX
    )]
    GpuNumber { group: usize, number: i64 },
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    #[error("config parameter 'sampling_parameters': {0}")]
    Defaults(#[source] RequestError),
    #[error(
        "config parameter 'n_ctx' = 1: must be 0 (automatic) or at least 2, room for a prompt of one \
         token and its answer"
    )]
    ContextOfOne,
    #[error("config parameters 'chat_template' and 'chat_template_file' are both set: keep one")]
    TwoTemplates,
    #[error(
        "config parameter 'speculative_model' is set: set 'speculative_method' to \"draft_model\" to \
         use it"
    )]
    UnusedDraftModel,
    #[error(
        "config parameter 'speculative_method' = \"draft_model\": needs 'speculative_model', the \
         file of the draft model"
    )]
    NoDraftModel,
    #[error("config parameter '{name}' = {value}: must be at most '{other}' = {limit}")]
    AboveOther {
        name: &'static str,
        value: u32,
        other: &'static str,
        limit: u32,
    },
    #[error(
        "config parameter 'n_parallel' = {n_parallel}: with {n_instances} instances that is \
         {n_slots} slots, must be at most {MAX_SLOTS}"
    )]
    TooManySlots {
        n_parallel: u32,
        n_instances: usize,
        n_slots: usize,
    },
    #[error(
        "config parameter 'n_batch' = {n_batch}: must be at least {n_slots}, one token for each \
         of the slots (n_parallel = {n_parallel} x {n_instances} instances)"
    )]
    BatchBelowSlots {
        n_batch: u32,
        n_slots: usize,
        n_parallel: u32,
        n_instances: usize,
    },
    #[error(
        "config parameter 'n_ctx' = {n_ctx}: must be 0 (automatic) or at least {limit}, {n_tokens} for \
         each of the slots (n_parallel = {n_parallel} x {n_instances} instances)"
    )]
    ContextBelowSlots {
        n_ctx: u32,
        limit: u32,
        /// Tokens that a slot needs.
        n_tokens: u32,
        n_parallel: u32,
        n_instances: usize,
    },
    #[error(
        "config parameter 'cache_type_v' = \"{cache_type}\": must be f32, f16 or bf16 where \
         'flash_attn' is \"off\""
    )]
    QuantizedWithoutFlash { cache_type: &'static str },
    #[error("config parameter '{name}' = {value}: must be {expected}")]
    Value {
        name: &'static str,
        value: String,
        expected: String,
    },
    #[error("config parameter '{name}' is set: it is for KIND_MODEL, instance_group has {kind}")]
    ForKindModel {
        name: &'static str,
        kind: &'static str,
    },
    #[error("config parameter 'devices' names {name}: there is {there}")]
    UnknownDevice { name: String, there: String },
    #[error(
        "instance_group asks for KIND_GPU, or for KIND_AUTO on a server that sees a GPU, but this build \
         has no CUDA: use KIND_CPU"
    )]
    NoCuda,
    #[error(
        "instance_group asks for KIND_GPU, or for KIND_AUTO on a server that sees a GPU, but there is no \
         GPU that can be used: use KIND_CPU; the log says why"
    )]
    NoGpu,
    #[error("instance_group[{group}] names GPU {number} in 'gpus': there is {there}")]
    UnknownGpu {
        group: usize,
        number: u32,
        there: String,
    },
    #[error(
        "instance_group[{group}] names GPU {number} in 'gpus' twice: must be once, 'count' is for more \
         instances; there is {there}"
    )]
    RepeatedGpu {
        group: usize,
        number: u32,
        there: String,
    },
    #[error(
        "{field}: {gpu} has compute capability {}.{}: must be {wanted}",
        found.0, found.1
    )]
    UnfitGpu {
        /// What chose the GPU.
        field: String,
        gpu: String,
        found: (u32, u32),
        wanted: String,
    },
}
