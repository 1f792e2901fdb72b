//! What comes of a row does not depend, to the bit, on how many rows are computed with it: for every kind of
//! weights that llama.cpp's quantize program writes, one by one and as experts.
//!
//! Calls llama.cpp directly, as the logits are what is compared. How products are made so is in
//! `include/compiler`.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::ptr;
use std::slice;

use llama_cpp_sys_2 as sys;
use triton_llm::llama::{LoadParams, Model};

use crate::kinds::Random;
use crate::writer::{Folder, Gguf, Tensor, Value, tiny_model};

const KINDS: [(&str, sys::ggml_type); 28] = [
    ("F32", sys::GGML_TYPE_F32),
    ("F16", sys::GGML_TYPE_F16),
    ("BF16", sys::GGML_TYPE_BF16),
    ("Q4_0", sys::GGML_TYPE_Q4_0),
    ("Q4_1", sys::GGML_TYPE_Q4_1),
    ("Q5_0", sys::GGML_TYPE_Q5_0),
    ("Q5_1", sys::GGML_TYPE_Q5_1),
    ("Q8_0", sys::GGML_TYPE_Q8_0),
    ("Q2_K", sys::GGML_TYPE_Q2_K),
    ("Q3_K", sys::GGML_TYPE_Q3_K),
    ("Q4_K", sys::GGML_TYPE_Q4_K),
    ("Q5_K", sys::GGML_TYPE_Q5_K),
    ("Q6_K", sys::GGML_TYPE_Q6_K),
    ("IQ1_S", sys::GGML_TYPE_IQ1_S),
    ("IQ1_M", sys::GGML_TYPE_IQ1_M),
    ("IQ2_XXS", sys::GGML_TYPE_IQ2_XXS),
    ("IQ2_XS", sys::GGML_TYPE_IQ2_XS),
    ("IQ2_S", sys::GGML_TYPE_IQ2_S),
    ("IQ3_XXS", sys::GGML_TYPE_IQ3_XXS),
    ("IQ3_S", sys::GGML_TYPE_IQ3_S),
    ("IQ4_NL", sys::GGML_TYPE_IQ4_NL),
    ("IQ4_XS", sys::GGML_TYPE_IQ4_XS),
    ("TQ1_0", sys::GGML_TYPE_TQ1_0),
    ("TQ2_0", sys::GGML_TYPE_TQ2_0),
    ("MXFP4", sys::GGML_TYPE_MXFP4),
    ("NVFP4", sys::GGML_TYPE_NVFP4),
    ("Q1_0", sys::GGML_TYPE_Q1_0),
    ("Q2_0", sys::GGML_TYPE_Q2_0),
];

const N_ROWS: [usize; 9] = [2, 3, 4, 5, 8, 16, 17, 33, 64];
const MAX_ROWS: usize = 64;
/// The rows that are compared, at the ends of groups of 4, 8 and 16 and behind them.
const ALONE: [usize; 10] = [0, 1, 2, 3, 4, 7, 15, 16, 32, 63];

/// Whole blocks of every kind; what is repacked is, but for the output layer, whose rows are no multiple of 8.
const N_EMBD: u64 = 256;
const N_FF: u64 = 512;
const N_TOKENS: u64 = 324;
const N_EXPERTS: u64 = 4;

/// Rows of weights that all tensors are made of, each from another one on.
const N_BANK: usize = 37;

/// The bytes of `N_BANK` rows of random weights.
fn bank(kind: sys::ggml_type) -> Vec<Vec<u8>> {
    let mut random = Random(kind.into());
    let n = N_BANK * N_EMBD as usize;
    let numbers: Vec<f32> = (0..n)
        .map(|_| (random.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0) * 0.1)
        .collect();
    let importance = vec![1.0f32; N_EMBD as usize];
    // SAFETY: the kind is one of ggml's, and a row has whole blocks of it.
    let row_size = unsafe { sys::ggml_row_size(kind, N_EMBD as i64) };
    let mut bytes = vec![0u8; N_BANK * row_size];
    // SAFETY: the source has as many rows as are named, the importance a number for each of a row, and the
    // destination room for them.
    let written = unsafe {
        sys::ggml_quantize_chunk(
            kind,
            numbers.as_ptr(),
            bytes.as_mut_ptr().cast(),
            0,
            N_BANK as i64,
            N_EMBD as i64,
            importance.as_ptr(),
        )
    };
    assert_eq!(written, bytes.len());
    bytes.chunks(row_size).map(<[u8]>::to_vec).collect()
}

/// A tensor of rows of the bank; its bytes are written as if they were numbers.
fn tensor(name: &str, shape: &[u64], kind: sys::ggml_type, bank: &[Vec<u8>]) -> Tensor {
    let n_rows = shape.iter().product::<u64>() / N_EMBD;
    let first = name.bytes().map(usize::from).sum::<usize>();
    let rows = (0..n_rows as usize).map(|row| &bank[(first + row) % N_BANK]);
    let mut bytes: Vec<u8> = rows.flatten().copied().collect();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    let numbers = bytes
        .as_chunks()
        .0
        .iter()
        .map(|word| f32::from_le_bytes(*word));
    (name.to_owned(), shape.to_vec(), kind, numbers.collect())
}

fn ones(name: &str) -> Tensor {
    let numbers = vec![1.0; N_EMBD as usize];
    (name.to_owned(), vec![N_EMBD], sys::GGML_TYPE_F32, numbers)
}

/// A llama of one kind of weights.
fn llama(kind: sys::ggml_type, has_experts: bool, bank: &[Vec<u8>], plain: &[Vec<u8>]) -> Gguf {
    let mut gguf = tiny_model();
    gguf.keys.iter_mut().for_each(|(key, value)| match value {
        Value::Texts(tokens) if key == "tokenizer.ggml.tokens" => {
            let n = tokens.len() as u64;
            tokens.extend((n..N_TOKENS).map(|id| format!("t{id}")));
        }
        Value::Floats(scores) => scores.resize(N_TOKENS as usize, 0.0),
        Value::Ints(kinds) => kinds.resize(N_TOKENS as usize, 1),
        _ => {}
    });
    let mut gguf = gguf
        .set("llama.embedding_length", Value::U32(N_EMBD as u32))
        .set("llama.feed_forward_length", Value::U32(N_FF as u32))
        .set("llama.attention.head_count", Value::U32(4))
        .set("llama.attention.head_count_kv", Value::U32(2));
    if has_experts {
        gguf = gguf
            .set("llama.expert_count", Value::U32(N_EXPERTS as u32))
            .set("llama.expert_used_count", Value::U32(2));
    }
    let mut tensors = vec![
        tensor(
            "token_embd.weight",
            &[N_EMBD, N_TOKENS],
            sys::GGML_TYPE_F32,
            plain,
        ),
        ones("output_norm.weight"),
        tensor("output.weight", &[N_EMBD, N_TOKENS], kind, bank),
    ];
    for layer in 0..2 {
        let name = |name: &str| format!("blk.{layer}.{name}.weight");
        tensors.extend([ones(&name("attn_norm")), ones(&name("ffn_norm"))]);
        for (part, n) in [("q", 1), ("k", 2), ("v", 2), ("output", 1)] {
            let shape = [N_EMBD, N_EMBD / n];
            tensors.push(tensor(&name(&format!("attn_{part}")), &shape, kind, bank));
        }
        let (end, experts): (_, &[u64]) = match has_experts {
            true => ("_exps", &[N_EXPERTS]),
            false => ("", &[]),
        };
        if has_experts {
            let shape = [N_EMBD, N_EXPERTS];
            tensors.push(tensor(
                &name("ffn_gate_inp"),
                &shape,
                sys::GGML_TYPE_F32,
                plain,
            ));
        }
        for (part, shape) in [
            ("gate", [N_EMBD, N_FF]),
            ("up", [N_EMBD, N_FF]),
            ("down", [N_FF, N_EMBD]),
        ] {
            let shape = [&shape, experts].concat();
            tensors.push(tensor(
                &name(&format!("ffn_{part}{end}")),
                &shape,
                kind,
                bank,
            ));
        }
    }
    gguf.tensors = tensors;
    gguf
}

/// llama.cpp's model and a context on it.
struct Context(*mut sys::llama_model, *mut sys::llama_context);

impl Context {
    fn new(path: &Path, repack: bool) -> Self {
        let path = CString::new(path.as_os_str().as_bytes()).expect("a path has no NUL");
        // SAFETY: the parameters are llama.cpp's own with a few plain values changed, the path a C string.
        let model = unsafe {
            let mut params = sys::llama_model_default_params();
            params.n_gpu_layers = 0;
            params.use_extra_bufts = repack;
            sys::llama_model_load_from_file(path.as_ptr(), params)
        };
        assert!(!model.is_null());
        // SAFETY: as above; the model is one.
        let context = unsafe {
            let mut params = sys::llama_context_default_params();
            params.n_ctx = 256;
            params.n_batch = 256;
            params.n_ubatch = 256;
            params.n_seq_max = MAX_ROWS as u32;
            params.kv_unified = true;
            params.n_threads = 2;
            params.n_threads_batch = 2;
            params.flash_attn_type = sys::LLAMA_FLASH_ATTN_TYPE_DISABLED;
            sys::llama_init_from_model(model, params)
        };
        assert!(!context.is_null());
        Self(model, context)
    }

    /// The logits after each token, each a sequence of its own, as bits.
    fn logits(&self, tokens: &[i32]) -> Vec<Vec<u32>> {
        // SAFETY: the batch has room for as many tokens as are written, each of one sequence; the context has
        // as many sequences, and the logits of each of its rows are as many as there are tokens.
        unsafe {
            sys::llama_memory_clear(sys::llama_get_memory(self.1), true);
            let mut batch = sys::llama_batch_init(tokens.len() as i32, 0, 1);
            batch.n_tokens = tokens.len() as i32;
            for (row, token) in tokens.iter().enumerate() {
                *batch.token.add(row) = *token;
                *batch.pos.add(row) = 0;
                *batch.n_seq_id.add(row) = 1;
                **batch.seq_id.add(row) = row as i32;
                *batch.logits.add(row) = 1;
            }
            assert_eq!(sys::llama_decode(self.1, batch), 0);
            sys::llama_batch_free(batch);
            let rows = (0..tokens.len() as i32).map(|row| {
                let logits = sys::llama_get_logits_ith(self.1, row);
                let logits = slice::from_raw_parts(logits, N_TOKENS as usize);
                logits.iter().map(|logit| logit.to_bits()).collect()
            });
            rows.collect()
        }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: both are owned here, and nobody else has them.
        unsafe {
            sys::llama_free(self.1);
            sys::llama_model_free(self.0);
        }
        (self.0, self.1) = (ptr::null_mut(), ptr::null_mut());
    }
}

#[test]
fn a_row_is_the_same_in_company() {
    let folder = Folder::new("rows");
    let tokens: Vec<i32> = (0..MAX_ROWS as i32).map(|row| 3 + row * 5).collect();
    let plain = bank(sys::GGML_TYPE_F32);
    let mut differing = Vec::new();
    for (name, kind) in KINDS {
        let bank = bank(kind);
        for (has_experts, repack) in [(false, true), (false, false), (true, true)] {
            let gguf = llama(kind, has_experts, &bank, &plain);
            let path = folder.write("tiny.gguf", &gguf.bytes());
            // Our own reader takes it, too, and has llama.cpp begun.
            let read = Model::load(&path, &LoadParams::default());
            read.unwrap_or_else(|error| panic!("{name}: {error}"));
            let context = Context::new(&path, repack);
            let alone = ALONE.map(|row| (row, context.logits(&tokens[row..=row]).swap_remove(0)));
            assert!(alone[0].1 != alone[1].1, "{name}");
            for n_rows in N_ROWS {
                let together = context.logits(&tokens[..n_rows]);
                let mut compared = alone.iter().filter(|(row, _)| *row < n_rows);
                if compared.any(|(row, logits)| together[*row] != *logits) {
                    differing.push(format!(
                        "{name} of {n_rows} rows, experts {has_experts}, repacked {repack}"
                    ));
                }
            }
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}
