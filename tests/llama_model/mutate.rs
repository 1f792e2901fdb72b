//! Damages model files: the same way for the same number.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use triton_llm::llama::ModelFile;

use crate::keys::gpt2;
use crate::kinds::{KINDS, Random};
use crate::writer::{Gguf, Value, tiny_model};

/// Numbers at which something overflows, is empty or out of range.
const LIMITS: [u64; 14] = [
    0,
    1,
    2,
    3,
    7,
    8,
    32,
    64,
    255,
    65_535,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    u64::MAX,
];

const FLOATS: [f32; 8] = [0.0, -1.0, 1e-30, 1e30, 0.5, f32::NAN, f32::INFINITY, 3.0];

const TEXTS: [&str; 10] = [
    "", "llama", "gpt2", "bert", "plamo2", "rwkv", "none", "linear", "yarn", "\0",
];

/// Keys that these files lack, without the architecture.
const OTHER_KEYS: [&str; 26] = [
    "attention.key_length",
    "attention.value_length",
    "attention.sliding_window",
    "attention.sliding_window_pattern",
    "attention.clamp_kqv",
    "attention.max_alibi_bias",
    "attention.scale",
    "attention.output_scale",
    "attention.key_length_swa",
    "attn_logit_softcapping",
    "embedding_length_out",
    "embedding_scale",
    "expert_count",
    "expert_used_count",
    "expert_feed_forward_length",
    "interleave_moe_layer_step",
    "leading_dense_block_count",
    "logit_scale",
    "nextn_predict_layers",
    "pooling_type",
    "residual_scale",
    "rope.dimension_count",
    "rope.dimension_sections",
    "rope.freq_base",
    "rope.scaling.factor",
    "vocab_size",
];

const OTHER_TENSORS: [&str; 12] = [
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "position_embd.weight",
    "output.bias",
    "blk.0.attn_q.bias",
    "blk.0.attn_q.scale",
    "blk.0.attn_q_norm.weight",
    "blk.0.attn_output.bias",
    "blk.0.attn_sinks.weight",
    "blk.0.attn_qkv.weight",
    "blk.0.ffn_gate_inp.weight",
    "blk.0.ffn_up.bias",
];

/// What is damaged: files of several architectures.
fn bases() -> &'static [(String, Gguf)] {
    static BASES: OnceLock<Vec<(String, Gguf)>> = OnceLock::new();
    BASES.get_or_init(|| {
        let mut bases = vec![("llama".to_owned(), tiny_model())];
        bases.extend(
            KINDS
                .iter()
                .skip(1)
                .map(|kind| (kind.name.to_owned(), (kind.gguf)())),
        );
        bases.push(("gpt2".to_owned(), gpt2(256)));
        for name in ["qwen2", "qwen2vl", "paddleocr", "olmo2", "granite"] {
            bases.push((name.to_owned(), renamed(name)));
        }
        bases
    })
}

/// The tiny model as one of another architecture.
pub fn renamed(architecture: &str) -> Gguf {
    let mut gguf = tiny_model();
    for (key, _) in &mut gguf.keys {
        if let Some(rest) = key.strip_prefix("llama.") {
            *key = format!("{architecture}.{rest}");
        }
    }
    gguf.set("general.architecture", Value::Text(architecture.to_owned()))
        .set(
            &format!("{architecture}.rope.dimension_sections"),
            Value::Ints(vec![2, 3, 3, 0]),
        )
}

/// The demo model, and how long its header is.
fn demo() -> &'static (Vec<u8>, usize) {
    static DEMO: OnceLock<(Vec<u8>, usize)> = OnceLock::new();
    DEMO.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let path = root.join("triton_repo/llm_decoupled/1/demo.gguf");
        let file = ModelFile::read(&path).unwrap_or_else(|error| panic!("{error}"));
        let n_bytes = |bytes: u64| bytes.next_multiple_of(32);
        let data: u64 = file.tensors.iter().map(|t| n_bytes(t.n_bytes)).sum();
        let bytes = fs::read(&path).expect("it was read");
        let n_header = bytes.len() - data as usize;
        (bytes, n_header)
    })
}

/// The file of this number, and what is wrong with it.
pub fn mutant(number: u64) -> (String, Vec<u8>) {
    let mut random = Random(number);
    if random.below(6) == 0 {
        let (bytes, n_header) = demo();
        let mut bytes = bytes.clone();
        let what = damage(&mut bytes, *n_header, &mut random);
        return (format!("demo: {what}"), bytes);
    }
    let bases = bases();
    let (name, base) = &bases[random.below(bases.len() as u64) as usize];
    let mut gguf = base.clone();
    if random.below(4) == 0 {
        let mut bytes = gguf.bytes();
        let what = damage(&mut bytes, gguf.header().len(), &mut random);
        return (format!("{name}: {what}"), bytes);
    }
    let changes: Vec<_> = (0..=random.below(2))
        .map(|_| match random.below(2) {
            0 => change_key(&mut gguf, &mut random),
            _ => change_tensor(&mut gguf, &mut random),
        })
        .collect();
    (format!("{name}: {}", changes.join(", ")), gguf.bytes())
}

/// Changes bytes of the header.
fn damage(bytes: &mut [u8], n_header: usize, random: &mut Random) -> String {
    let changes = (0..=random.below(3)).map(|_| {
        let at = random.below(n_header as u64 - 8) as usize;
        match random.below(4) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            2 => bytes[at..at + 4].copy_from_slice(&(pick(&LIMITS, random) as u32).to_le_bytes()),
            _ => bytes[at..at + 8].copy_from_slice(&pick(&LIMITS, random).to_le_bytes()),
        }
        format!("byte {at}")
    });
    changes.collect::<Vec<_>>().join(", ")
}

fn pick<T: Copy>(choices: &[T], random: &mut Random) -> T {
    choices[random.below(choices.len() as u64) as usize]
}

fn change_key(gguf: &mut Gguf, random: &mut Random) -> String {
    let at = random.below(gguf.keys.len() as u64) as usize;
    let (key, value) = gguf.keys[at].clone();
    match random.below(8) {
        0 => {
            gguf.keys.remove(at);
            format!("no {key}")
        }
        1 => {
            gguf.keys.push((key.clone(), value));
            format!("{key} twice")
        }
        2 => {
            gguf.keys[at].1 = any_value(random);
            format!("another type of {key}")
        }
        3 | 4 => {
            let architecture = gguf.keys[1].0.split('.').next().unwrap_or_default();
            let key = format!("{architecture}.{}", pick(&OTHER_KEYS, random));
            gguf.keys.push((key.clone(), any_value(random)));
            format!("with {key}")
        }
        _ => {
            gguf.keys[at].1 = another(value, random);
            format!("another {key}")
        }
    }
}

fn any_value(random: &mut Random) -> Value {
    let number = pick(&LIMITS, random);
    match random.below(8) {
        0 | 1 => Value::U32(number as u32),
        2 => Value::U64(number),
        3 => Value::U16(number as u16),
        4 => Value::F32(pick(&FLOATS, random)),
        5 => Value::Bool(random.below(2) == 0),
        6 => Value::Text(pick(&TEXTS, random).to_owned()),
        _ => Value::Ints(
            (0..1 + random.below(4))
                .map(|_| pick(&LIMITS, random) as i32)
                .collect(),
        ),
    }
}

/// A value of the same type.
fn another(value: Value, random: &mut Random) -> Value {
    match value {
        Value::U32(_) => Value::U32(pick(&LIMITS, random) as u32),
        Value::U16(_) => Value::U16(pick(&LIMITS, random) as u16),
        Value::U64(_) => Value::U64(pick(&LIMITS, random)),
        Value::F32(_) => Value::F32(pick(&FLOATS, random)),
        Value::Bool(flag) => Value::Bool(!flag),
        Value::Text(_) => Value::Text(pick(&TEXTS, random).to_owned()),
        Value::Texts(texts) => Value::Texts(some(texts, random, |random| {
            pick(&TEXTS, random).to_owned()
        })),
        Value::Floats(numbers) => {
            Value::Floats(some(numbers, random, |random| pick(&FLOATS, random)))
        }
        Value::Ints(numbers) => {
            Value::Ints(some(numbers, random, |random| pick(&LIMITS, random) as i32))
        }
    }
}

/// The list with one element replaced, cut, or with one too many.
fn some<T>(mut list: Vec<T>, random: &mut Random, new: fn(&mut Random) -> T) -> Vec<T> {
    let at = random.below(list.len().max(1) as u64) as usize;
    match random.below(3) {
        0 => list.truncate(at),
        1 => list.push(new(random)),
        _ if list.is_empty() => {}
        _ => list[at] = new(random),
    }
    list
}

fn change_tensor(gguf: &mut Gguf, random: &mut Random) -> String {
    let at = random.below(gguf.tensors.len() as u64) as usize;
    let name = gguf.tensors[at].0.clone();
    match random.below(8) {
        0 => {
            gguf.tensors.remove(at);
            return format!("no {name}");
        }
        1 => {
            let twin = gguf.tensors[at].clone();
            gguf.tensors.push(twin);
            return format!("{name} twice");
        }
        2 => {
            let other = pick(&OTHER_TENSORS, random).to_owned();
            let shapes: [&[u64]; 6] = [&[32], &[16], &[8], &[1], &[32, 32], &[32, 8]];
            let shape = pick(&shapes, random).to_vec();
            let n = shape.iter().product::<u64>() as usize;
            gguf.tensors.push((other.clone(), shape, 0, vec![0.5; n]));
            return format!("with {other}");
        }
        3 => {
            let shape = &mut gguf.tensors[at].1;
            let dimension = random.below(shape.len() as u64) as usize;
            match random.below(4) {
                0 => shape[dimension] = pick(&LIMITS, random),
                1 => shape.reverse(),
                2 => shape.push(1 + random.below(2)),
                _ => shape[dimension] = shape[dimension] * 2 / (1 + 3 * random.below(2)),
            }
        }
        4 => {
            // All of a kind, as a careless converter would.
            let kind = random.below(44) as u32;
            let end = name.rsplit_once('.').map_or(name.as_str(), |(_, end)| end);
            let like = |other: &str| {
                other
                    .rsplit_once('.')
                    .is_some_and(|(_, found)| found == end)
            };
            for tensor in gguf.tensors.iter_mut().filter(|tensor| like(&tensor.0)) {
                tensor.2 = kind;
                fill(&mut tensor.3, &tensor.1, kind);
            }
            return format!("type {kind} of all {end}");
        }
        _ => gguf.tensors[at].2 = random.below(44) as u32,
    }
    let (_, shape, kind, numbers) = &mut gguf.tensors[at];
    let what = format!("{name} of shape {shape:?} and type {kind}");
    fill(numbers, shape, *kind);
    what
}

/// As many bytes as a tensor of this shape and type has, if they are not too many.
fn fill(numbers: &mut Vec<f32>, shape: &[u64], kind: u32) {
    let product = shape.iter().try_fold(1u64, |n, &more| n.checked_mul(more));
    if kind >= llama_cpp_sys_2::GGML_TYPE_COUNT {
        return;
    }
    // SAFETY: `kind` is an index of the constant tables that both read.
    let (block, bytes) = unsafe {
        (
            llama_cpp_sys_2::ggml_blck_size(kind).unsigned_abs(),
            llama_cpp_sys_2::ggml_type_size(kind) as u64,
        )
    };
    let n_bytes = product.and_then(|n| (n / block.max(1)).checked_mul(bytes));
    if let Some(n_bytes) = n_bytes.filter(|&n| n < 1 << 20) {
        numbers.resize(n_bytes.div_ceil(4) as usize, 0.25);
    }
}
