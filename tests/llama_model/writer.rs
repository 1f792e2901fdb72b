//! Writes model files: a tiny good one, and whatever a test makes of it.

use std::fs;
use std::path::PathBuf;

/// A key's value, as far as the tests write any.
#[derive(Clone)]
pub enum Value {
    U32(u32),
    U16(u16),
    U64(u64),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    Floats(Vec<f32>),
    Ints(Vec<i32>),
}

/// Name, shape, type (0 is f32) and numbers.
pub type Tensor = (String, Vec<u64>, u32, Vec<f32>);

/// A model file to be: change what a test is about, then write it.
#[derive(Clone)]
pub struct Gguf {
    pub keys: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
}

impl Gguf {
    pub fn set(mut self, key: &str, value: Value) -> Self {
        self.keys.retain(|(known, _)| known != key);
        self.keys.push((key.to_owned(), value));
        self
    }

    pub fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(known, _)| known != key);
        self
    }

    pub fn header(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(3u32.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            text(&mut out, key);
            put(&mut out, value);
        }
        let mut offset = 0u64;
        for (name, shape, kind, numbers) in &self.tensors {
            text(&mut out, name);
            out.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|n| out.extend(n.to_le_bytes()));
            out.extend(kind.to_le_bytes());
            out.extend(offset.to_le_bytes());
            offset += (numbers.len() as u64 * 4).next_multiple_of(32);
        }
        out
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        for (_, _, _, numbers) in &self.tensors {
            out.resize(out.len().next_multiple_of(32), 0);
            numbers.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out
    }
}

pub fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

pub fn put(out: &mut Vec<u8>, value: &Value) {
    let array = |out: &mut Vec<u8>, kind: u32, n: usize| {
        out.extend(9u32.to_le_bytes());
        out.extend(kind.to_le_bytes());
        out.extend((n as u64).to_le_bytes());
    };
    match value {
        Value::U32(n) => {
            out.extend(4u32.to_le_bytes());
            out.extend(n.to_le_bytes());
        }
        Value::U16(n) => {
            out.extend(2u32.to_le_bytes());
            out.extend(n.to_le_bytes());
        }
        Value::U64(n) => {
            out.extend(10u32.to_le_bytes());
            out.extend(n.to_le_bytes());
        }
        Value::F32(n) => {
            out.extend(6u32.to_le_bytes());
            out.extend(n.to_le_bytes());
        }
        Value::Bool(n) => {
            out.extend(7u32.to_le_bytes());
            out.push(u8::from(*n));
        }
        Value::Text(value) => {
            out.extend(8u32.to_le_bytes());
            text(out, value);
        }
        Value::Texts(values) => {
            array(out, 8, values.len());
            values.iter().for_each(|value| text(out, value));
        }
        Value::Floats(values) => {
            array(out, 6, values.len());
            values.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        Value::Ints(values) => {
            array(out, 5, values.len());
            values.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
    }
}

pub const N_EMBD: u64 = 32;
pub const N_FF: u64 = 64;
pub const N_LAYERS: u32 = 2;

/// A llama of random weights with a vocabulary of bytes and letters.
pub fn tiny_model() -> Gguf {
    llama(|_, random| random)
}

/// A llama with the `weight`s of [`model`].
pub fn llama(weight: fn(&str, f32) -> f32) -> Gguf {
    let keys = [
        ("block_count", Value::U32(N_LAYERS)),
        ("attention.head_count", Value::U32(2)),
        ("attention.head_count_kv", Value::U32(2)),
        ("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let layer: Vec<_> = [("attn_norm", vec![N_EMBD])]
        .into_iter()
        .chain(attention())
        .chain([("ffn_norm", vec![N_EMBD])])
        .chain(feed_forward())
        .collect();
    let layers = [layer.clone(), layer];
    let n_vocab = vocabulary().0.len() as u64;
    let outer = [
        ("output_norm.weight", vec![N_EMBD]),
        ("output.weight", vec![N_EMBD, n_vocab]),
    ];
    model("llama", &keys, &layers, &outer, weight)
}

/// A tensor's name, without `weight` where that is all that follows, and its shape.
pub type Shape = (&'static str, Vec<u64>);

/// The tensors of attention with two heads.
pub fn attention() -> [Shape; 4] {
    ["attn_q", "attn_k", "attn_v", "attn_output"].map(|name| (name, vec![N_EMBD, N_EMBD]))
}

/// The tensors of a gated feed-forward network.
pub fn feed_forward() -> [Shape; 3] {
    [
        ("ffn_gate", vec![N_EMBD, N_FF]),
        ("ffn_up", vec![N_EMBD, N_FF]),
        ("ffn_down", vec![N_FF, N_EMBD]),
    ]
}

/// A model of any architecture: `keys` of its own, the tensors of each of its `layers`, and the `outer`
/// ones that follow.
///
/// `weight` makes a tensor's numbers out of its name and random ones between -0.4 and 0.4, which are
/// the same for every call.
pub fn model(
    architecture: &str,
    keys: &[(&str, Value)],
    layers: &[Vec<Shape>],
    outer: &[Shape],
    weight: fn(&str, f32) -> f32,
) -> Gguf {
    let own = [
        ("context_length", Value::U32(512)),
        ("embedding_length", Value::U32(N_EMBD as u32)),
        ("feed_forward_length", Value::U32(N_FF as u32)),
    ];
    let own = own.iter().chain(keys);
    let own = own.map(|(key, value)| (format!("{architecture}.{key}"), value.clone()));
    let name = Value::Text(architecture.to_owned());
    let mut keys = vec![("general.architecture".to_owned(), name)];
    keys.extend(own);
    keys.extend(vocabulary_keys());
    let n_vocab = vocabulary().0.len() as u64;
    let mut shapes = vec![("token_embd.weight".to_owned(), vec![N_EMBD, n_vocab])];
    for (layer_idx, layer) in layers.iter().enumerate() {
        shapes.extend(layer.iter().map(|(name, shape)| {
            let is_whole = name.contains('.') || ["ssm_a", "ssm_d"].contains(name);
            let end = if is_whole { "" } else { ".weight" };
            (format!("blk.{layer_idx}.{name}{end}"), shape.clone())
        }));
    }
    let outer = outer.iter();
    shapes.extend(outer.map(|(name, shape)| ((*name).to_owned(), shape.clone())));
    let mut random = 1u64;
    let tensors = shapes.into_iter().map(|(name, shape)| {
        let n = shape.iter().product::<u64>();
        let numbers = (0..n).map(|_| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let random = ((random >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.8;
            weight(&name, random)
        });
        let numbers = numbers.collect();
        (name, shape, 0, numbers)
    });
    Gguf {
        tensors: tensors.collect(),
        keys,
    }
}

/// The tokens and their kinds: bytes, letters and the space.
fn vocabulary() -> (Vec<String>, Vec<i32>) {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(('a'..='z').map(String::from));
    tokens.push("\u{2581}".to_owned());
    let mut kinds = vec![2, 3, 3];
    kinds.extend([6; 256]);
    kinds.resize(tokens.len(), 1);
    (tokens, kinds)
}

fn vocabulary_keys() -> impl Iterator<Item = (String, Value)> {
    let (tokens, kinds) = vocabulary();
    let template = "{{ messages[0].content }}".to_owned();
    let scores = vec![0.0; tokens.len()];
    [
        ("tokenizer.ggml.model", Value::Text("llama".to_owned())),
        ("tokenizer.ggml.scores", Value::Floats(scores)),
        ("tokenizer.ggml.token_type", Value::Ints(kinds)),
        ("tokenizer.ggml.tokens", Value::Texts(tokens)),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.add_space_prefix", Value::Bool(false)),
        ("tokenizer.chat_template", Value::Text(template)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into_iter()
}

/// A folder that is removed with its files when the test ends.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("llama-model-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).expect("the folder for temporary files is writable");
        Self(path)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).expect("the folder is writable");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
