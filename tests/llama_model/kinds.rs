//! Tiny models of random weights, one for each kind of memory that llama.cpp has.

use std::path::PathBuf;
use std::sync::Arc;

use triton_llm::engine::{Sharing, Token};
use triton_llm::llama::{ContextParams, FlashAttention, LoadParams, Model, Runner};

use crate::writer::{Folder, Gguf, N_EMBD, Shape, Value, attention, feed_forward, llama, model};

/// How many tokens the layers with a window look at: few, so that tests go far beyond.
const N_WINDOW: u32 = 8;

const N_INNER: u64 = 2 * N_EMBD;
const N_STATE: u64 = 16;
const N_CONV: u64 = 4;
const N_TIME_STEP: u64 = 2;

/// A kind of memory.
pub struct Kind {
    pub name: &'static str,
    /// What its sequences may share.
    pub sharing: Sharing,
    /// Whether sequences have states, which each slot needs memory of its own for.
    pub has_states: bool,
    pub gguf: fn() -> Gguf,
}

pub const KINDS: [Kind; 5] = [
    Kind {
        name: "plain",
        sharing: Sharing::Prefix,
        has_states: false,
        gguf: || llama(weight),
    },
    Kind {
        name: "window",
        sharing: Sharing::Whole,
        has_states: false,
        gguf: window,
    },
    Kind {
        name: "recurrent",
        sharing: Sharing::Whole,
        has_states: true,
        gguf: recurrent,
    },
    Kind {
        name: "hybrid",
        sharing: Sharing::Whole,
        has_states: true,
        gguf: hybrid,
    },
    Kind {
        name: "hybrid-window",
        sharing: Sharing::Whole,
        has_states: true,
        gguf: hybrid_window,
    },
];

impl Kind {
    /// Its file, which is gone with the folder.
    pub fn file(&self) -> (Folder, PathBuf) {
        let folder = Folder::new(&format!("kind-{}", self.name));
        let path = folder.write("tiny.gguf", &(self.gguf)().bytes());
        (folder, path)
    }

    pub fn model(&self) -> Arc<Model> {
        let (_folder, path) = self.file();
        let params = LoadParams {
            use_mmap: Some(false),
            ..LoadParams::default()
        };
        Arc::new(Model::load(&path, &params).unwrap_or_else(|error| panic!("{error}")))
    }
}

/// A runner whose tokens do not depend on who is computed with whom.
pub fn runner(model: &Arc<Model>, n_slots: usize, n_cells: usize, n_ubatch: usize) -> Runner {
    let params = ContextParams {
        n_slots,
        n_cells,
        n_batch: 128,
        n_ubatch,
        n_threads: 1,
        flash_attention: FlashAttention::On,
        ..ContextParams::default()
    };
    Runner::new(model.clone(), &params).unwrap_or_else(|error| panic!("{error}"))
}

/// `n` tokens that are the same for the same seed, none of them a special one.
pub fn tokens(seed: u64, n: usize) -> Vec<Token> {
    let mut random = Random(seed);
    (0..n)
        .map(|_| Token(3 + random.below(283) as i32))
        .collect()
}

/// Numbers that are the same for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed >> 33) % n
    }
}

/// Three layers look at the last tokens, the fourth at all.
fn window() -> Gguf {
    let layer: Vec<_> = [("attn_norm", vec![N_EMBD])]
        .into_iter()
        .chain(attention())
        .chain(feed_forward())
        .collect();
    let keys = [
        ("block_count", Value::U32(4)),
        ("attention.head_count", Value::U32(2)),
        ("attention.head_count_kv", Value::U32(2)),
        ("attention.layer_norm_epsilon", Value::F32(1e-5)),
        ("attention.sliding_window", Value::U32(N_WINDOW)),
        ("logit_scale", Value::F32(1.0)),
    ];
    let layers = vec![layer; 4];
    let outer = [("output_norm.weight", vec![N_EMBD])];
    model("cohere2", &keys, &layers, &outer, weight)
}

fn recurrent() -> Gguf {
    let keys = [
        ("block_count", Value::U32(2)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let keys = [&keys[..], &state_keys()].concat();
    let outer = [("output_norm.weight", vec![N_EMBD])];
    model("mamba", &keys, &vec![state(); 2], &outer, weight)
}

/// Attention between two layers with states.
fn hybrid() -> Gguf {
    let norms = [
        ("ssm_dt_norm", vec![N_TIME_STEP]),
        ("ssm_b_norm", vec![N_STATE]),
        ("ssm_c_norm", vec![N_STATE]),
    ];
    let with_feed_forward = |mut layer: Vec<Shape>| {
        layer.push(("ffn_norm", vec![N_EMBD]));
        layer.extend(feed_forward());
        layer
    };
    let state = with_feed_forward([state(), norms.to_vec()].concat());
    let mut attending = vec![("attn_norm", vec![N_EMBD])];
    attending.extend(attention());
    let layers = [state.clone(), with_feed_forward(attending), state];
    let keys = [
        ("block_count", Value::U32(3)),
        ("attention.head_count", Value::U32(2)),
        ("attention.head_count_kv", Value::Ints(vec![0, 2, 0])),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let keys = [&keys[..], &state_keys()].concat();
    let outer = [("output_norm.weight", vec![N_EMBD])];
    model("jamba", &keys, &layers, &outer, weight)
}

/// Attention to the last tokens in every second layer, the others with the state of a convolution.
fn hybrid_window() -> Gguf {
    let layer = |own: Vec<Shape>| {
        let norms = ["attn_norm", "ffn_norm"].map(|name| (name, vec![N_EMBD]));
        [norms.to_vec(), own, feed_forward().to_vec()].concat()
    };
    let convolving = layer(vec![
        ("shortconv.conv.weight", vec![N_CONV, N_EMBD]),
        ("shortconv.in_proj.weight", vec![N_EMBD, 3 * N_EMBD]),
        ("shortconv.out_proj.weight", vec![N_EMBD, N_EMBD]),
    ]);
    let norms = ["attn_q_norm", "attn_k_norm"].map(|name| (name, vec![N_EMBD / 2]));
    let attending = layer([norms.to_vec(), attention().to_vec()].concat());
    let keys = [
        ("block_count", Value::U32(4)),
        ("attention.head_count", Value::U32(2)),
        ("attention.head_count_kv", Value::Ints(vec![0, 2, 0, 2])),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("attention.sliding_window", Value::U32(N_WINDOW)),
        ("shortconv.l_cache", Value::U32(N_CONV as u32)),
    ];
    let layers = [convolving.clone(), attending.clone(), convolving, attending];
    let outer = [("token_embd_norm.weight", vec![N_EMBD])];
    model("lfm2", &keys, &layers, &outer, weight)
}

/// A layer whose state each token changes.
fn state() -> Vec<Shape> {
    vec![
        ("attn_norm", vec![N_EMBD]),
        ("ssm_in", vec![N_EMBD, 2 * N_INNER]),
        ("ssm_conv1d", vec![N_CONV, N_INNER]),
        ("ssm_conv1d.bias", vec![N_INNER]),
        ("ssm_x", vec![N_INNER, N_TIME_STEP + 2 * N_STATE]),
        ("ssm_dt", vec![N_TIME_STEP, N_INNER]),
        ("ssm_dt.bias", vec![N_INNER]),
        ("ssm_a", vec![N_STATE, N_INNER]),
        ("ssm_d", vec![N_INNER]),
        ("ssm_out", vec![N_INNER, N_EMBD]),
    ]
}

fn state_keys() -> [(&'static str, Value); 4] {
    [
        ("ssm.conv_kernel", N_CONV),
        ("ssm.inner_size", N_INNER),
        ("ssm.state_size", N_STATE),
        ("ssm.time_step_rank", N_TIME_STEP),
    ]
    .map(|(key, n)| (key, Value::U32(n as u32)))
}

/// Norms are about 1, the last token counts for little and states fade slowly, so that answers depend
/// on tokens long past.
fn weight(name: &str, random: f32) -> f32 {
    if name.ends_with("norm.weight") {
        1.0 + random
    } else if name == "token_embd.weight" {
        random / 4.0
    } else if name.ends_with("ssm_a") {
        -0.01 - random.abs() / 10.0
    } else {
        random
    }
}
