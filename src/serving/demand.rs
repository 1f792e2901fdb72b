//! What a model takes of a GPU's memory, from its file and its configuration.
//!
//! Pure. Weights and caches are exact but for models that cache less than every token in every layer.
//! The buffers of a step are an upper estimate, as llama.cpp plans them only once the weights are
//! loaded: see [`Demand::step`].

use regex_lite::Regex;

use crate::config::{self, CacheType, FlashAttention, Parameters, TensorOverride};
use crate::llama::{ModelFile, TensorInfo};
use crate::machine::device::Device;

/// One byte in this many of the memory that is free at load may hold what has left the KV cache.
const HOST_PART: u64 = 4;

/// Live rows of the widest layer in a step: gate, up and their product.
const N_LIVE: u64 = 3;
/// Bytes of an entry of the mask, in the two formats that are made of it.
const MASK_BYTES: u64 = 6;
/// Weights that are copied to the GPU at a time: one computes while the next comes.
const N_COPIES: u64 = 2;
/// Head sizes that CUDA's fused attention has code for.
const FUSED_HEADS: [(u32, u32); 10] = [
    (40, 40),
    (64, 64),
    (72, 72),
    (80, 80),
    (96, 96),
    (112, 112),
    (128, 128),
    (256, 256),
    (512, 512),
    (576, 512),
];

/// Tensors that are read row by row, which llama.cpp leaves in host memory.
const INPUTS: [&str; 4] = [
    "token_embd.weight",
    "position_embd.weight",
    "per_layer_token_embd.weight",
    "token_types.weight",
];
const OUTPUT: &str = "output.weight";

/// What is held on a GPU for a layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Layer {
    pub(super) weights: u64,
    /// The part of them that `n_cpu_moe` keeps in host memory.
    pub(super) experts: u64,
    /// For each cell of the KV cache.
    pub(super) cell: u64,
}

/// The bytes that a model takes where it computes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Demand {
    /// The layers that can be on a GPU, the output as the last.
    pub(super) layers: Vec<Layer>,
    /// Of a step on each GPU that has layers: the rows of the widest of them.
    pub(super) step: u64,
    /// And for each cell that a sequence can see: masks, and the scores where attention is not fused.
    pub(super) step_cell: u64,
    /// The rows of the output.
    pub(super) logits: u64,
    /// For weights that stay in host memory, which the GPU reads for large steps.
    pub(super) copies: u64,
    /// Whether `override_tensor` keeps some there.
    pub(super) keeps_in_host: bool,
    /// What `override_tensor` puts on each GPU, whatever its layers; nothing on those past the end.
    pub(super) placed: Vec<u64>,
    /// A model that drafts, whole on the first GPU.
    pub(super) draft: Layer,
}

impl Demand {
    pub(super) fn new(
        file: &ModelFile,
        draft: Option<&ModelFile>,
        parameters: &Parameters,
        gpus: &[Device],
        flash_attention: FlashAttention,
    ) -> Self {
        let (type_k, type_v) = (parameters.cache_type_k, parameters.cache_type_v);
        let n_layers = file.n_layers as usize;
        let cells = file.kv_bytes_by_layer(type_k, type_v);
        let of_cell = |cell| Layer {
            cell,
            ..Layer::default()
        };
        let mut layers: Vec<Layer> = cells.map(of_cell).collect();
        layers.resize(n_layers + 1, Layer::default());
        let overrides = Overrides::new(&parameters.override_tensor, gpus);
        let mut placed = vec![0_u64; gpus.len()];
        let (mut largest, mut keeps_in_host) = (0, false);
        for tensor in &file.tensors {
            let home = overrides.home_of(tensor);
            // Whatever its layer, the input too, and once where the output reads the same matrix.
            if let Some(Home::Gpu(gpu)) = home {
                placed[gpu] += tensor.n_bytes;
                continue;
            }
            let layer = layer_of(tensor, file, n_layers);
            let Some(layer) = layer else { continue };
            largest = largest.max(tensor.n_bytes);
            if home == Some(Home::Host) {
                keeps_in_host = true;
                continue;
            }
            layers[layer].weights += tensor.n_bytes;
            if config::is_of_experts(&tensor.name) {
                layers[layer].experts += tensor.n_bytes;
            }
        }
        let rows = u64::from(parameters.n_ubatch) * size_of::<f32>() as u64;
        let is_fused = flash_attention != FlashAttention::Off
            && FUSED_HEADS.contains(&(file.key_length, file.value_length));
        let mut step_cell = u64::from(parameters.n_ubatch) * MASK_BYTES;
        if !is_fused {
            step_cell += file.score_bytes_per_cell(parameters.n_ubatch);
        } else if type_k != CacheType::F16 || type_v != CacheType::F16 {
            // The fused attention computes in f16, and converts a layer's cache for large steps.
            let converted = file.kv_bytes_by_layer(CacheType::F16, CacheType::F16);
            step_cell += converted.max().unwrap_or(0);
        }
        let draft = draft.map(|file| Layer {
            weights: file
                .n_bytes
                .saturating_add(rows * (N_LIVE * widest(file) + n_outputs(file))),
            experts: 0,
            cell: file.kv_bytes_per_cell(type_k, type_v) + step_cell,
        });
        Self {
            layers,
            step: rows.saturating_mul(N_LIVE * widest(file)),
            step_cell,
            logits: rows.saturating_mul(n_outputs(file)),
            copies: largest.saturating_mul(N_COPIES),
            keeps_in_host,
            placed,
            draft: draft.unwrap_or_default(),
        }
    }

    /// What `override_tensor` puts on a GPU, by its place in the list.
    pub(super) fn placed_on(&self, gpu: usize) -> u64 {
        self.placed.get(gpu).copied().unwrap_or(0)
    }

    /// Layers up to the last that has experts.
    pub(super) fn n_with_experts(&self) -> u32 {
        let last = self.layers.iter().rposition(|layer| layer.experts > 0);
        last.map_or(0, |index| index as u32 + 1)
    }
}

/// Tokens for which there is host memory once they have left the KV cache.
pub(super) fn n_host(parameters: &Parameters, file: &ModelFile, available: Option<u64>) -> usize {
    let token_bytes = file.kv_bytes_per_cell(parameters.cache_type_k, parameters.cache_type_v);
    let wanted = parameters
        .cache_ram_mib
        .map_or(u64::MAX, |mib| u64::from(mib) << 20);
    let n_bytes = available.map_or(wanted, |available| wanted.min(available / HOST_PART));
    usize::try_from(n_bytes / token_bytes.max(1)).unwrap_or(usize::MAX)
}

/// The index of the layer that a tensor belongs to, the output's after the last; `None` for input.
fn layer_of(tensor: &TensorInfo, file: &ModelFile, n_layers: usize) -> Option<usize> {
    if let Some(rest) = tensor.name.strip_prefix("blk.") {
        let number = rest
            .split('.')
            .next()
            .and_then(|number| number.parse().ok());
        return Some(number.unwrap_or(n_layers).min(n_layers));
    }
    let is_tied = || !file.tensors.iter().any(|tensor| tensor.name == OUTPUT);
    let is_input = INPUTS.contains(&tensor.name.as_str());
    // Without a matrix of its own, the output has a copy of the input's.
    let is_both = tensor.name == INPUTS[0] && is_tied();
    (!is_input || is_both).then_some(n_layers)
}

/// The numbers that the widest layer makes of a token.
fn widest(file: &ModelFile) -> u64 {
    let width = |tensor: &TensorInfo| match tensor.n_matrices {
        0 | 1 => tensor.n_rows,
        n_matrices => tensor.n_rows * n_matrices.min(u64::from(file.n_experts_used.max(1))),
    };
    let blocks = file
        .tensors
        .iter()
        .filter(|tensor| tensor.name.starts_with("blk."));
    blocks.map(width).max().unwrap_or(0)
}

/// The numbers that the output makes of a token.
fn n_outputs(file: &ModelFile) -> u64 {
    let is_output = |tensor: &&TensorInfo| [OUTPUT, INPUTS[0]].contains(&tensor.name.as_str());
    let outputs = file.tensors.iter().filter(is_output);
    outputs.map(|tensor| tensor.n_rows).max().unwrap_or(0)
}

/// Where `override_tensor` puts a tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Home {
    Host,
    /// By its place in the list of the model's GPUs.
    Gpu(usize),
}

/// Compiled patterns, each with the place of what it matches.
struct Overrides(Vec<(Regex, Home)>);

impl Overrides {
    fn new(overrides: &[TensorOverride], gpus: &[Device]) -> Self {
        let compiled = overrides.iter().map(|place| {
            let pattern =
                Regex::new(&place.pattern).expect("patterns are checked when they are read");
            let gpu = gpus.iter().position(|gpu| gpu.name == place.buffer);
            (pattern, gpu.map_or(Home::Host, Home::Gpu))
        });
        Self(compiled.collect())
    }

    fn home_of(&self, tensor: &TensorInfo) -> Option<Home> {
        let mut overrides = self.0.iter();
        let found = overrides.find(|(pattern, _)| pattern.is_match(&tensor.name));
        found.map(|(_, home)| *home)
    }
}

#[cfg(test)]
mod tests;
