//! What is counted of a model file, and where.

use super::*;
use crate::machine::device::DeviceKind;

fn tensor(name: &str, n_rows: u64, n_matrices: u64, n_bytes: u64) -> TensorInfo {
    TensorInfo {
        kind: 0,
        name: name.to_owned(),
        n_rows,
        n_matrices,
        n_bytes,
    }
}

/// Two layers, the second with 8 experts of which 2 are used.
fn file() -> ModelFile {
    ModelFile {
        shards: vec!["m.gguf".into()],
        n_bytes: 10_000,
        tensors: vec![
            tensor("token_embd.weight", 1000, 1, 4000),
            tensor("blk.0.attn_q.weight", 64, 1, 100),
            tensor("blk.0.ffn_up.weight", 256, 1, 200),
            tensor("blk.1.attn_q.weight", 64, 1, 100),
            tensor("blk.1.ffn_up_exps.weight", 200, 8, 800),
            tensor("output_norm.weight", 1, 1, 10),
            tensor("output.weight", 1000, 1, 3000),
        ],
        architecture: "llama".to_owned(),
        n_layers: 2,
        n_ctx_train: 4096,
        n_experts_used: 2,
        n_heads: 4,
        n_kv_heads: vec![4, 2],
        key_length: 64,
        value_length: 64,
        max_positions: None,
        tokenizer: "gpt2".to_owned(),
        sampling: Vec::new(),
        pre_tokenizer: String::new(),
    }
}

fn parameters(n_ubatch: u32) -> Parameters {
    Parameters {
        n_ubatch,
        ..Parameters::default()
    }
}

fn gpus() -> Vec<Device> {
    let gpu = |index| Device {
        name: format!("CUDA{index}"),
        kind: DeviceKind::Gpu,
        description: "H200".to_owned(),
        free_bytes: 1 << 37,
        total_bytes: 1 << 37,
        cuda_index: Some(index),
        compute_capability: Some((9, 0)),
    };
    // In another order than CUDA's.
    vec![gpu(1), gpu(0)]
}

fn demand(file: &ModelFile, parameters: &Parameters) -> Demand {
    Demand::new(file, None, parameters, &gpus(), FlashAttention::Auto)
}

fn weights(file: &ModelFile, parameters: &Parameters) -> Vec<u64> {
    let demand = demand(file, parameters);
    demand.layers.iter().map(|layer| layer.weights).collect()
}

/// Parameters that put what a pattern matches into a buffer.
fn overrides(overrides: &[(&str, &str)]) -> Parameters {
    let place = |&(pattern, buffer): &(&str, &str)| TensorOverride {
        pattern: pattern.to_owned(),
        buffer: buffer.to_owned(),
    };
    Parameters {
        override_tensor: overrides.iter().map(place).collect(),
        ..parameters(8)
    }
}

#[test]
fn tensors_are_counted_with_their_layer() {
    assert_eq!(weights(&file(), &parameters(8)), [300, 900, 3010]);
    // Without an output of its own, the model has a second copy of its input.
    let mut tied = file();
    tied.tensors.pop();
    assert_eq!(weights(&tied, &parameters(8)), [300, 900, 4010]);
    // Layers that are not loaded, for drafts, are counted with the last.
    let mut next = file();
    next.tensors.push(tensor("blk.2.nextn.weight", 1, 1, 5));
    assert_eq!(weights(&next, &parameters(8)), [300, 900, 3015]);
}

#[test]
fn what_stays_in_host_memory_takes_no_room() {
    let experts = |parameters: &Parameters| {
        let demand = demand(&file(), parameters);
        let experts = demand.layers.iter().map(|layer| layer.experts);
        (experts.collect::<Vec<_>>(), demand.keeps_in_host)
    };
    // Which of them stay there is chosen later.
    assert_eq!(experts(&parameters(8)), (vec![0, 800, 0], false));
    let named = overrides(&[("exps", "CUDA0"), ("ffn_up", "CPU")]);
    assert_eq!(weights(&file(), &named), [100, 100, 3010]);
    assert_eq!(experts(&named), (vec![0, 0, 0], true));
    let named = overrides(&[("ffn_up", "CPU"), ("exps", "CUDA0")]);
    assert_eq!(weights(&file(), &named), [100, 100, 3010]);
    assert_eq!(demand(&file(), &named).placed, [0, 0]);
}

#[test]
fn what_is_put_on_a_gpu_is_counted_there() {
    let mut tied = file();
    tied.tensors.pop();
    let check = |file: &ModelFile, named: &[(&str, &str)], layers: [u64; 3], placed: [u64; 2]| {
        let named = overrides(named);
        let found = demand(file, &named);
        assert_eq!(weights(file, &named), layers, "{named:?}");
        assert_eq!(found.placed, placed, "{named:?}");
        assert!(!found.keeps_in_host, "{named:?}");
        // Those of the GPUs in order, and none past their end.
        let on: Vec<u64> = (0..3).map(|gpu| found.placed_on(gpu)).collect();
        assert_eq!(on, [placed[0], placed[1], 0], "{named:?}");
    };
    check(&file(), &[], [300, 900, 3010], [0, 0]);
    check(&file(), &[("exps", "CUDA0")], [300, 100, 3010], [0, 800]);
    check(&file(), &[("exps", "CUDA1")], [300, 100, 3010], [800, 0]);
    check(
        &file(),
        &[("exps", "CUDA1"), ("ffn", "CUDA0"), ("^output", "CUDA0")],
        [100, 100, 0],
        [800, 3210],
    );
    check(&file(), &[("embd", "CUDA0")], [300, 900, 3010], [0, 4000]);
    // The output reads the same matrix, on that GPU.
    check(&tied, &[("embd", "CUDA0")], [300, 900, 10], [0, 4000]);
}

#[test]
fn buffers_grow_with_rows_and_cells() {
    let check = |flash_attention, parameters: &Parameters, step_cell| {
        let demand = Demand::new(&file(), None, parameters, &gpus(), flash_attention);
        // The experts that are used make 400 numbers of a token.
        assert_eq!(demand.step, 8 * 4 * 3 * 400);
        assert_eq!(demand.logits, 8 * 4 * 1000);
        assert_eq!(demand.copies, 2 * 3000);
        assert_eq!(demand.step_cell, step_cell);
    };
    check(FlashAttention::Auto, &parameters(8), 8 * 6);
    check(FlashAttention::Off, &parameters(8), 8 * 6 + 5 * 8 * 4);
    let quantized = Parameters {
        cache_type_k: CacheType::Q8_0,
        ..parameters(8)
    };
    check(FlashAttention::Auto, &quantized, 8 * 6 + 4 * 128 * 2);
    let mut odd = file();
    odd.key_length = 48;
    let demand = demand(&odd, &parameters(8));
    assert_eq!(demand.step_cell, 8 * 6 + 5 * 8 * 4);
}

#[test]
fn caches_and_drafts_are_counted() {
    let draft = file();
    let demand = Demand::new(
        &file(),
        Some(&draft),
        &parameters(8),
        &gpus(),
        FlashAttention::Auto,
    );
    let cells: Vec<u64> = demand.layers.iter().map(|layer| layer.cell).collect();
    assert_eq!(cells, [4 * 128 * 2, 2 * 128 * 2, 0]);
    assert_eq!(demand.draft.weights, 10_000 + 8 * 4 * (3 * 400 + 1000));
    assert_eq!(demand.draft.cell, 6 * 128 * 2 + 8 * 6);
}
