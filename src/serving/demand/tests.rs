//! What is counted of a model file, and where.

use super::*;

fn tensor(name: &str, n_rows: u64, n_matrices: u64, n_bytes: u64) -> Tensor {
    Tensor {
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
        pre_tokenizer: String::new(),
    }
}

fn parameters(n_ubatch: u32) -> Parameters {
    Parameters {
        n_ubatch,
        ..Parameters::default()
    }
}

fn weights(file: &ModelFile, parameters: &Parameters) -> Vec<u64> {
    let demand = Demand::new(file, None, parameters, FlashAttention::Auto);
    demand.layers.iter().map(|layer| layer.weights).collect()
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
        let demand = Demand::new(&file(), None, parameters, FlashAttention::Auto);
        let experts = demand.layers.iter().map(|layer| layer.experts);
        (experts.collect::<Vec<_>>(), demand.keeps_in_host)
    };
    // Which of them stay there is chosen later.
    assert_eq!(experts(&parameters(8)), (vec![0, 800, 0], false));
    let place = |pattern: &str, buffer: &str| TensorOverride {
        pattern: pattern.to_owned(),
        buffer: buffer.to_owned(),
    };
    let named = Parameters {
        override_tensor: vec![place("exps", "CUDA0"), place("ffn_up", "CPU")],
        ..parameters(8)
    };
    assert_eq!(weights(&file(), &named), [100, 900, 3010]);
    assert_eq!(experts(&named), (vec![0, 0, 0], true));
}

#[test]
fn buffers_grow_with_rows_and_cells() {
    let check = |flash_attention, parameters: &Parameters, step_cell| {
        let demand = Demand::new(&file(), None, parameters, flash_attention);
        // The experts that are used make 400 numbers of a token.
        assert_eq!(demand.step, 8 * 4 * 3 * 400);
        assert_eq!(demand.logits, 8 * 4 * 1000);
        assert_eq!(demand.copies, 2 * 3000);
        assert_eq!(demand.step_cell, step_cell);
    };
    check(FlashAttention::Auto, &parameters(8), 8 * 6);
    check(FlashAttention::Off, &parameters(8), 8 * 6 + 5 * 8 * 4);
    let quantized = Parameters {
        cache_type_k: config::CacheType::Q8_0,
        ..parameters(8)
    };
    check(FlashAttention::Auto, &quantized, 8 * 6 + 4 * 128 * 2);
    let mut odd = file();
    odd.key_length = 48;
    let demand = Demand::new(&odd, None, &parameters(8), FlashAttention::Auto);
    assert_eq!(demand.step_cell, 8 * 6 + 5 * 8 * 4);
}

#[test]
fn caches_and_drafts_are_counted() {
    let draft = file();
    let demand = Demand::new(&file(), Some(&draft), &parameters(8), FlashAttention::Auto);
    let cells: Vec<u64> = demand.layers.iter().map(|layer| layer.cell).collect();
    assert_eq!(cells, [4 * 128 * 2, 2 * 128 * 2, 0]);
    assert_eq!(demand.draft.weights, 10_000 + 8 * 4 * (3 * 400 + 1000));
    assert_eq!(demand.draft.cell, 6 * 128 * 2 + 8 * 6);
}

#[test]
fn every_configured_cache_type_is_known() {
    for cache_type_k in config::CacheType::ALL {
        let parameters = Parameters {
            cache_type_k,
            ..Parameters::default()
        };
        let names = |kind| CacheType::NAMES.iter().find(|(_, known)| *known == kind);
        let name = names(cache_types(&parameters).0).map(|(name, _)| *name);
        assert_eq!(name, Some(cache_type_k.as_str()));
    }
}
