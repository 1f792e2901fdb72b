//! What the keys of an architecture must say, and its table of positions.

use std::sync::Arc;

use triton_llm::engine::Token;
use triton_llm::llama::{ContextParams, LoadParams, Model, ModelFile, Runner};

use crate::running::{generate, greedy};
use crate::writer::{Folder, Gguf, N_EMBD, N_FF, N_LAYERS, Value, tiny_model};

/// The good file with a table of `n_positions` learned positions.
fn with_positions(n_positions: u64) -> Vec<u8> {
    let mut gguf = tiny_model();
    let numbers = vec![0.0; 32 * n_positions as usize];
    let shape = vec![32, n_positions];
    gguf.tensors
        .push(("position_embd.weight".to_owned(), shape, 0, numbers));
    gguf.bytes()
}

#[test]
fn learned_positions_are_counted() {
    let folder = Folder::new("positions");
    let path = folder.write("positions.gguf", &with_positions(100));
    let file = ModelFile::read(&path).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(file.max_positions, Some(100));
    let path = folder.write("positions.gguf", &with_positions(1));
    let error = ModelFile::read(&path).map_err(|error| error.problem.to_string());
    let text = "rows of tensor 'position_embd.weight' = 1: must be at least 2";
    assert_eq!(error, Err(text.to_owned()));
}

/// The good file as a gpt2 of as many learned positions.
pub fn gpt2(n_positions: u64) -> Gguf {
    let mut gguf = tiny_model();
    for (key, _) in &mut gguf.keys {
        if let Some(rest) = key.strip_prefix("llama.") {
            *key = format!("gpt2.{}", rest.replace("_rms", ""));
        }
    }
    let vocabulary = gguf.tensors[0].clone();
    let mut shapes = vec![("position_embd.weight".to_owned(), vec![N_EMBD, n_positions])];
    let mut pair = |name: &str, shape: &[u64]| {
        shapes.push((format!("{name}.weight"), shape.to_vec()));
        shapes.push((format!("{name}.bias"), shape[shape.len() - 1..].to_vec()));
    };
    pair("output_norm", &[N_EMBD]);
    for layer in 0..N_LAYERS {
        pair(&format!("blk.{layer}.attn_norm"), &[N_EMBD]);
        pair(&format!("blk.{layer}.attn_qkv"), &[N_EMBD, 3 * N_EMBD]);
        pair(&format!("blk.{layer}.attn_output"), &[N_EMBD, N_EMBD]);
        pair(&format!("blk.{layer}.ffn_norm"), &[N_EMBD]);
        pair(&format!("blk.{layer}.ffn_up"), &[N_EMBD, N_FF]);
        pair(&format!("blk.{layer}.ffn_down"), &[N_FF, N_EMBD]);
    }
    let tensors = shapes.into_iter().map(|(name, shape)| {
        let n = shape.iter().product::<u64>() as usize;
        (name, shape, 0, vec![0.01; n])
    });
    gguf.tensors = std::iter::once(vocabulary).chain(tensors).collect();
    gguf.set("general.architecture", Value::Text("gpt2".to_owned()))
        .set("gpt2.context_length", Value::U32(n_positions as u32))
}

#[test]
fn every_learned_position_can_be_run() {
    let folder = Folder::new("gpt2");
    let path = folder.write("gpt2.gguf", &gpt2(256).bytes());
    let params = LoadParams {
        use_mmap: Some(false),
        ..LoadParams::default()
    };
    let model = Arc::new(Model::load(&path, &params).unwrap_or_else(|error| panic!("{error}")));
    assert_eq!(model.file().max_positions, Some(256));
    let params = ContextParams {
        n_slots: 1,
        n_cells: 256,
        n_batch: 64,
        ..ContextParams::default()
    };
    let mut runner = Runner::new(model.clone(), &params).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(runner.n_cells(), 256);
    let request = (vec![Token(260); 250], greedy(), 100);
    let texts = generate(&mut runner, &model, 1, &[request]);
    assert_eq!(texts.len(), 1);
}

/// Every case is one that llama.cpp asserts, at load or when it builds the first graph.
#[test]
fn keys_of_the_architecture_fit_each_other() {
    let folder = Folder::new("keys");
    let read = |architecture: &str, keys: &[(&str, Value)]| {
        let mut gguf = tiny_model();
        for (key, _) in &mut gguf.keys {
            if let Some(rest) = key.strip_prefix("llama.") {
                *key = format!("{architecture}.{rest}");
            }
        }
        gguf = gguf.set("general.architecture", Value::Text(architecture.to_owned()));
        for (key, value) in keys {
            gguf = gguf.set(&format!("{architecture}.{key}"), value.clone());
        }
        let path = folder.write("keys.gguf", &gguf.bytes());
        ModelFile::read(&path).map_err(|error| error.to_string())
    };
    let n = Value::U32;
    let experts = |count, used| vec![("expert_count", n(count)), ("expert_used_count", n(used))];
    let groups = |count, used| {
        let mut keys = experts(8, 2);
        keys.push(("expert_group_count", n(count)));
        keys.push(("expert_group_used_count", n(used)));
        keys
    };
    let scaling = |kind: &str| vec![("rope.scaling.type", Value::Text(kind.to_owned()))];
    let lengths = |key, value, rotated| {
        vec![
            ("attention.key_length", n(key)),
            ("attention.value_length", n(value)),
            ("rope.dimension_count", n(rotated)),
        ]
    };
    let sections =
        |numbers: &[i32]| vec![("rope.dimension_sections", Value::Ints(numbers.to_vec()))];
    let rotated = |length| vec![("rope.dimension_count", n(length))];
    for (architecture, keys) in [
        ("llama", vec![("nextn_predict_layers", n(1))]),
        ("llama", experts(1024, 1024)),
        (
            "llama",
            vec![
                ("expert_count", n(8)),
                ("expert_used_count", Value::Ints(vec![0, 2])),
            ],
        ),
        ("llama", groups(1, 0)),
        ("llama", groups(4, 2)),
        ("hunyuan-dense", experts(1, 0)),
        ("llama", scaling("none")),
        ("llama", scaling("longrope")),
        // Models that rotate a part of each head, or have keys and values of two lengths.
        ("phi2", rotated(6)),
        ("gptneox", rotated(4)),
        ("stablelm", rotated(8)),
        ("chatglm", rotated(8)),
        ("minimax-m2", lengths(128, 128, 64)),
        ("deepseek2", lengths(192, 128, 64)),
        ("gpt2", lengths(25, 25, 25)),
        (
            "mamba",
            vec![
                ("attention.head_count", n(0)),
                ("rope.dimension_count", n(7)),
            ],
        ),
        ("gemma3", vec![("rope.dimension_count_swa", n(8))]),
        ("qwen2vl", sections(&[2, 3, 3, 0])),
        ("paddleocr", sections(&[8, 0, 0, 0])),
        (
            "lfm2",
            vec![("attention.head_count_kv", Value::Ints(vec![0, 2]))],
        ),
        (
            "llama",
            vec![("attention.head_count_kv", Value::Ints(vec![1, 1]))],
        ),
        ("jamba", vec![("ssm.inner_size", n(64))]),
    ] {
        let file = read(architecture, &keys);
        assert!(file.is_ok(), "{architecture}: {file:?}");
    }
    for (architecture, keys, expected) in [
        (
            "llama",
            vec![("nextn_predict_layers", n(2))],
            "nextn_predict_layers = 2: must be less than llama.block_count = 2",
        ),
        (
            "llama",
            experts(1025, 1),
            "llama.expert_count = 1025, the limit is 1024",
        ),
        (
            "llama",
            experts(8, 0),
            "expert_used_count = 0: must be from 1 to llama.expert_count = 8",
        ),
        (
            "llama",
            experts(8, 9),
            "expert_used_count = 9: must be from 1 to llama.expert_count = 8",
        ),
        (
            "llama",
            experts(0, 1),
            "expert_used_count = 1: must be 0, as llama.expert_count = 0",
        ),
        (
            "llama",
            vec![("expert_group_count", n(1))],
            "expert_group_count = 1: must be 0",
        ),
        (
            "llama",
            groups(8, 1),
            "expert_group_count = 8: must be less than llama.expert_count = 8",
        ),
        (
            "llama",
            groups(3, 1),
            "expert_group_count = 3: must be a divisor of llama.expert_count = 8",
        ),
        (
            "llama",
            groups(4, 0),
            "expert_group_used_count = 0: must be at least 1 and less than llama.expert_group_count = 4",
        ),
        (
            "llama",
            groups(4, 4),
            "expert_group_used_count = 4: must be at least 1",
        ),
        (
            "glm4moe",
            Vec::new(),
            "glm4moe.expert_count = 0: must be at least 1",
        ),
        (
            "llama",
            vec![("attention.head_count_kv", n(3))],
            "attention.head_count_kv = 3: must be a divisor of llama.attention.head_count = 2 (layer 0)",
        ),
        (
            "llama",
            vec![("attention.head_count_kv", Value::Ints(vec![2, 1]))],
            "attention.head_count_kv = 1: must be 2 as in layer 0, not another in layer 1",
        ),
        (
            "qwen2",
            vec![("attention.head_count", Value::Ints(vec![2, 1]))],
            "attention.head_count = 1: must be 2 as in layer 0",
        ),
        (
            "llama",
            vec![("attention.head_count", n(0))],
            "attention.head_count = 0: must be at least 1",
        ),
        (
            "llama",
            vec![("attention.head_count_kv", n(0))],
            "attention.head_count_kv = 0: must be at least 1",
        ),
        (
            "paddleocr",
            Vec::new(),
            "has no key 'paddleocr.rope.dimension_sections'",
        ),
        (
            "qwen3vl",
            Vec::new(),
            "has no key 'qwen3vl.rope.dimension_sections'",
        ),
        (
            "qwen2vl",
            sections(&[0, 0, 0, 0]),
            "rope.dimension_sections = [0, 0, 0, 0]: must be numbers from 0, not all of them 0",
        ),
        ("qwen2vl", sections(&[4, -4, 4, 0]), "numbers from 0"),
        ("qwen2vl", sections(&[9, 9, 9, 9]), "that add up to 16"),
        ("glm4", sections(&[-1, 2, 2, 2]), "numbers from 0"),
        (
            "jamba",
            vec![("ssm.inner_size", n(32))],
            "ssm.inner_size = 32: must be twice jamba.embedding_length = 32",
        ),
        (
            "lfm2",
            vec![("shortconv.l_cache", n(1))],
            "shortconv.l_cache = 1: must be at least 2",
        ),
        (
            "rwkv6",
            vec![("token_shift_count", n(3))],
            "token_shift_count = 3: must be 2",
        ),
        (
            "ernie4_5-moe",
            vec![("interleave_moe_layer_step", n(0))],
            "interleave_moe_layer_step = 0: must be at least 1",
        ),
        (
            "mamba2",
            vec![("ssm.inner_size", n(64)), ("ssm.time_step_rank", n(3))],
            "ssm.time_step_rank = 3: must be a divisor of mamba2.ssm.inner_size = 64",
        ),
        (
            "llama",
            scaling("cubic"),
            "rope.scaling.type = \"cubic\": must be one of none, linear, yarn, longrope",
        ),
        (
            "qwen2",
            rotated(8),
            "rope.dimension_count = 8: must be as qwen2.attention.key_length = 16",
        ),
        (
            "qwen2",
            lengths(16, 8, 16),
            "attention.value_length = 8: must be as qwen2.attention.key_length = 16",
        ),
        (
            "phi2",
            lengths(16, 8, 8),
            "attention.value_length = 8: must be as phi2.attention.key_length = 16",
        ),
        ("phi2", rotated(7), "rope.dimension_count = 7: must be even"),
        (
            "phi2",
            rotated(18),
            "rope.dimension_count = 18: must be at most phi2.attention.key_length = 16",
        ),
        (
            "gemma3",
            vec![("attention.key_length_swa", n(8))],
            "rope.dimension_count_swa = 16: must be at most gemma3.attention.key_length_swa = 8",
        ),
    ] {
        let error = read(architecture, &keys).expect_err(expected);
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
    for architecture in ["pockettts", "qwen3tts"] {
        let error = read(architecture, &[]).expect_err("it makes sound");
        assert!(error.contains("does not generate text"), "{error}");
    }
}
