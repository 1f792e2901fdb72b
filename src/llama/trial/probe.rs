//! A tiny model with given kinds of weights: what llama.cpp's code is tried on.
//!
//! Its numbers are all zero, which every kind can hold; which code runs does not depend on them.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _};
use std::path::PathBuf;

use llama_cpp_sys_2 as sys;

use crate::llama::gguf::TensorInfo;

/// Whole blocks of every kind, and whole tiles of every code that computes with them.
const N_EMBD: u64 = 256;
const N_FF: u64 = 256;
const N_HEADS: u32 = 4;
const N_EXPERTS: u64 = 4;
const N_EXPERTS_USED: u32 = 2;
const N_TOKENS: u64 = 320;
const CONTEXT_LENGTH: u32 = 1 << 20;
const ALIGNMENT: u64 = 32;

/// GGUF's numbers of the types of keys.
const U32: u32 = 4;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;
const I32: u32 = 5;

/// The kind of a tensor of weights that rows are multiplied with, `None` for any other.
pub(super) fn kind_of(tensor: &TensorInfo) -> Option<u32> {
    let is_matrix = tensor.n_rows > 1 && tensor.name.ends_with(".weight");
    let is_looked_up = [
        "token_embd.weight",
        "position_embd.weight",
        "token_types.weight",
    ]
    .contains(&tensor.name.as_str());
    (is_matrix && !is_looked_up).then_some(tensor.kind)
}

/// The names of kinds.
pub(super) fn names(kinds: &[u32]) -> String {
    let name = |&kind: &u32| {
        // SAFETY: the kinds are those of a table that was checked; the name is a C string for ever.
        let name = unsafe { CStr::from_ptr(sys::ggml_type_name(kind)) };
        name.to_string_lossy().into_owned()
    };
    let names: Vec<_> = kinds.iter().map(name).collect();
    names.join(", ")
}

/// Writes the model into memory, and returns the path that it can be read at as long as this process
/// lives. Each layer is of another kind.
pub(super) fn write(kinds: &[u32], has_experts: bool) -> io::Result<PathBuf> {
    let tensors = tensors(kinds, has_experts);
    let keys = keys(kinds.len() as u32, has_experts);
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    for (key, value) in &keys {
        put_text(&mut out, key);
        out.extend(value);
    }
    let mut offset = 0;
    for (name, shape, kind) in &tensors {
        put_text(&mut out, name);
        out.extend((shape.len() as u32).to_le_bytes());
        shape.iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(u64::to_le_bytes(offset));
        offset += n_bytes(shape, *kind).next_multiple_of(ALIGNMENT);
    }
    let mut file = memory_file()?;
    file.write_all(&out)?;
    file.set_len((out.len() as u64).next_multiple_of(ALIGNMENT) + offset)?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    // Open until the process ends, as its name is.
    std::mem::forget(file);
    Ok(path)
}

fn memory_file() -> io::Result<File> {
    let name = CString::new("trial").expect("it has no NUL");
    // SAFETY: the name is a C string.
    let descriptor = unsafe { libc::memfd_create(name.as_ptr(), 0) };
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

fn n_bytes(shape: &[u64], kind: u32) -> u64 {
    let n_rows: u64 = shape[1..].iter().product();
    // SAFETY: the kind is one of a table that was checked, and a row has whole blocks.
    n_rows * unsafe { sys::ggml_row_size(kind, shape[0] as i64) } as u64
}

/// Name, shape and kind of each tensor.
fn tensors(kinds: &[u32], has_experts: bool) -> Vec<(String, Vec<u64>, u32)> {
    let mut tensors = vec![
        (
            "token_embd.weight".to_owned(),
            vec![N_EMBD, N_TOKENS],
            sys::GGML_TYPE_F32,
        ),
        (
            "output_norm.weight".to_owned(),
            vec![N_EMBD],
            sys::GGML_TYPE_F32,
        ),
        (
            "output.weight".to_owned(),
            vec![N_EMBD, N_TOKENS],
            kinds.first().copied().unwrap_or(sys::GGML_TYPE_F32),
        ),
    ];
    for (layer_idx, &kind) in kinds.iter().enumerate() {
        let mut add = |name: &str, shape: &[u64], kind| {
            tensors.push((
                format!("blk.{layer_idx}.{name}.weight"),
                shape.to_vec(),
                kind,
            ));
        };
        add("attn_norm", &[N_EMBD], sys::GGML_TYPE_F32);
        for name in ["attn_q", "attn_k", "attn_v", "attn_output"] {
            add(name, &[N_EMBD, N_EMBD], kind);
        }
        add("ffn_norm", &[N_EMBD], sys::GGML_TYPE_F32);
        let (end, experts): (_, &[u64]) = match has_experts {
            true => ("_exps", &[N_EXPERTS]),
            false => ("", &[]),
        };
        if has_experts {
            add("ffn_gate_inp", &[N_EMBD, N_EXPERTS], sys::GGML_TYPE_F32);
        }
        for (name, shape) in [
            ("ffn_gate", [N_EMBD, N_FF]),
            ("ffn_up", [N_EMBD, N_FF]),
            ("ffn_down", [N_FF, N_EMBD]),
        ] {
            add(&format!("{name}{end}"), &[&shape, experts].concat(), kind);
        }
    }
    tensors
}

/// The keys, and their values as they are written.
fn keys(n_layers: u32, has_experts: bool) -> Vec<(&'static str, Vec<u8>)> {
    let number = |n: u32| [U32.to_le_bytes(), n.to_le_bytes()].concat();
    let string = |value: &str| {
        let mut out = STRING.to_le_bytes().to_vec();
        put_text(&mut out, value);
        out
    };
    let array = |kind: u32, values: Vec<u8>| {
        let mut out = [ARRAY.to_le_bytes(), kind.to_le_bytes()].concat();
        out.extend(N_TOKENS.to_le_bytes());
        out.extend(values);
        out
    };
    // What the tokenizer of this kind must have: the unknown one, the ends, each byte.
    let tokens = ["<unk>", "<s>", "</s>"].map(str::to_owned).into_iter();
    let tokens = tokens.chain((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    let tokens: Vec<String> = tokens
        .chain((0..).map(|n| format!("t{n}")))
        .take(N_TOKENS as usize)
        .collect();
    let mut texts = Vec::new();
    tokens.iter().for_each(|token| put_text(&mut texts, token));
    let kinds = (0..N_TOKENS).flat_map(|id| match id {
        0 => 2i32.to_le_bytes(),
        1 | 2 => 3i32.to_le_bytes(),
        3..259 => 6i32.to_le_bytes(),
        _ => 1i32.to_le_bytes(),
    });
    let mut keys = vec![
        ("general.architecture", string("llama")),
        ("llama.block_count", number(n_layers)),
        ("llama.context_length", number(CONTEXT_LENGTH)),
        ("llama.embedding_length", number(N_EMBD as u32)),
        ("llama.feed_forward_length", number(N_FF as u32)),
        ("llama.attention.head_count", number(N_HEADS)),
        ("llama.attention.head_count_kv", number(N_HEADS)),
        (
            "llama.attention.layer_norm_rms_epsilon",
            [F32.to_le_bytes(), 1e-5f32.to_le_bytes()].concat(),
        ),
        ("tokenizer.ggml.model", string("llama")),
        ("tokenizer.ggml.tokens", array(STRING, texts)),
        (
            "tokenizer.ggml.scores",
            array(F32, vec![0; N_TOKENS as usize * 4]),
        ),
        ("tokenizer.ggml.token_type", array(I32, kinds.collect())),
        ("tokenizer.ggml.bos_token_id", number(1)),
        ("tokenizer.ggml.eos_token_id", number(2)),
        (
            "tokenizer.ggml.add_space_prefix",
            [BOOL.to_le_bytes().as_slice(), &[0]].concat(),
        ),
    ];
    if has_experts {
        keys.push(("llama.expert_count", number(N_EXPERTS as u32)));
        keys.push(("llama.expert_used_count", number(N_EXPERTS_USED)));
    }
    keys
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}
