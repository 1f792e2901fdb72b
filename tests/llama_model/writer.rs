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
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).to_vec();
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(('a'..='z').map(String::from));
    tokens.push("\u{2581}".to_owned());
    let mut kinds = vec![2, 3, 3];
    kinds.extend([6; 256]);
    kinds.resize(tokens.len(), 1);
    let n_vocab = tokens.len() as u64;
    let u32 = Value::U32;
    let keys = [
        ("general.architecture", Value::Text("llama".to_owned())),
        ("llama.block_count", u32(N_LAYERS)),
        ("llama.context_length", u32(512)),
        ("llama.embedding_length", u32(N_EMBD as u32)),
        ("llama.feed_forward_length", u32(N_FF as u32)),
        ("llama.attention.head_count", u32(2)),
        ("llama.attention.head_count_kv", u32(2)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.model", Value::Text("llama".to_owned())),
        (
            "tokenizer.ggml.scores",
            Value::Floats(vec![0.0; tokens.len()]),
        ),
        ("tokenizer.ggml.token_type", Value::Ints(kinds)),
        ("tokenizer.ggml.tokens", Value::Texts(tokens)),
        ("tokenizer.ggml.bos_token_id", u32(1)),
        ("tokenizer.ggml.eos_token_id", u32(2)),
        ("tokenizer.ggml.add_space_prefix", Value::Bool(false)),
        (
            "tokenizer.chat_template",
            Value::Text("{{ messages[0].content }}".to_owned()),
        ),
    ];
    let mut shapes = vec![("token_embd.weight".to_owned(), vec![N_EMBD, n_vocab])];
    for layer in 0..N_LAYERS {
        for (name, shape) in [
            ("attn_norm", vec![N_EMBD]),
            ("attn_q", vec![N_EMBD, N_EMBD]),
            ("attn_k", vec![N_EMBD, N_EMBD]),
            ("attn_v", vec![N_EMBD, N_EMBD]),
            ("attn_output", vec![N_EMBD, N_EMBD]),
            ("ffn_norm", vec![N_EMBD]),
            ("ffn_gate", vec![N_EMBD, N_FF]),
            ("ffn_up", vec![N_EMBD, N_FF]),
            ("ffn_down", vec![N_FF, N_EMBD]),
        ] {
            shapes.push((format!("blk.{layer}.{name}.weight"), shape));
        }
    }
    shapes.push(("output_norm.weight".to_owned(), vec![N_EMBD]));
    shapes.push(("output.weight".to_owned(), vec![N_EMBD, n_vocab]));
    let mut random = 1u64;
    let tensors = shapes.into_iter().map(|(name, shape)| {
        let n = shape.iter().product::<u64>();
        let numbers = (0..n).map(|_| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            ((random >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 0.8
        });
        let numbers = numbers.collect();
        (name, shape, 0, numbers)
    });
    Gguf {
        keys: keys.map(|(key, value)| (key.to_owned(), value)).to_vec(),
        tensors: tensors.collect(),
    }
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
