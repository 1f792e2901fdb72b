//! Good and bad model files.

use std::fs;

use triton_llm::llama::{CacheType, LoadParams, Model, ModelFile};

use crate::writer::{Folder, Tensor, Value, tiny_model};

#[test]
fn a_good_file_is_described() {
    let folder = Folder::new("good");
    let path = folder.write("tiny.gguf", &tiny_model().bytes());
    let file = ModelFile::read(&path).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(file.architecture, "llama");
    assert_eq!((file.n_layers, file.max_positions), (2, None));
    assert_eq!((file.key_length, file.value_length), (16, 16));
    assert_eq!(file.n_kv_heads, [2, 2]);
    assert_eq!(file.tensors.len(), 21);
    assert_eq!(file.tensors[0].name, "token_embd.weight");
    assert_eq!(file.tokenizer, "llama");
    assert_eq!(file.n_bytes, fs::metadata(&path).expect("written").len());
    // 2 layers of 32 keys and 32 values.
    assert_eq!(
        file.kv_bytes_per_cell(CacheType::F16, CacheType::F16),
        2 * (64 + 64)
    );
    assert_eq!(
        file.kv_bytes_per_cell(CacheType::F32, CacheType::Q8_0),
        2 * (128 + 34)
    );
}

/// The bytes of a good file with some replaced.
fn with_bytes(offset: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = tiny_model().bytes();
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
    file
}

fn tensor(change: impl FnOnce(&mut Tensor)) -> Vec<u8> {
    let mut gguf = tiny_model();
    change(&mut gguf.tensors[1]);
    gguf.bytes()
}

/// The embedding of tokens in another type.
fn matrix(kind: u32) -> Vec<u8> {
    let mut gguf = tiny_model();
    gguf.tensors[0].2 = kind;
    gguf.bytes()
}

#[test]
fn bad_files_are_named_with_their_fault() {
    let good = tiny_model();
    let huge = u64::MAX.to_le_bytes();
    let s = |text: &str| Value::Text(text.to_owned());
    let texts = |texts: &[&str]| Value::Texts(texts.iter().map(|&t| t.to_owned()).collect());
    let n_header = good.header().len();
    let mut twice = good.clone();
    twice
        .keys
        .push(("llama.block_count".to_owned(), Value::U32(2)));
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "is empty"),
        (
            b"GG".to_vec(),
            "ends too early: the magic at byte 0 needs 4 bytes, 2 are left",
        ),
        (
            with_bytes(0, b"GGML"),
            "starts with \"GGML\", not with \"GGUF\"",
        ),
        (
            with_bytes(4, &1u32.to_le_bytes()),
            "version 1, versions 2 and 3 can be read",
        ),
        (
            with_bytes(4, &0x0300_0000u32.to_le_bytes()),
            "GGUF version 50331648",
        ),
        (
            with_bytes(8, &huge),
            "the number of tensors = 18446744073709551615, the limit is 262144",
        ),
        (
            with_bytes(16, &huge),
            "the number of keys = 18446744073709551615, the limit is 65536",
        ),
        (
            with_bytes(24, &huge),
            "the length of a key = 18446744073709551615, the limit is",
        ),
        (
            with_bytes(24, &1_000_000u64.to_le_bytes()),
            "ends too early: a key at byte 32",
        ),
        (good.bytes()[..n_header / 2].to_vec(), "ends too early"),
        (
            good.bytes()[..n_header].to_vec(),
            "ends too early: tensor 'token_embd.weight'",
        ),
        (
            good.bytes()[..good.bytes().len() - 4096].to_vec(),
            "ends too early: tensor 'output.weight'",
        ),
        (
            tensor(|t| t.2 = 4),
            "type of tensor 'blk.0.attn_norm.weight' = 4: must be a type that",
        ),
        (
            tensor(|t| t.2 = 9999),
            "= 9999: must be a type that this llama.cpp knows",
        ),
        (
            tensor(|t| t.2 = 12),
            "row of tensor 'blk.0.attn_norm.weight' = 32: must be whole blocks",
        ),
        (
            tensor(|t| t.2 = 1),
            "type of tensor 'blk.0.attn_norm.weight' = f16: must be f32, as it is computed with number",
        ),
        (
            tensor(|t| t.2 = 30),
            "'blk.0.attn_norm.weight' = bf16: must be f32",
        ),
        (
            tensor(|t| t.2 = 28),
            "'blk.0.attn_norm.weight' = f64: must be f32",
        ),
        (
            tensor(|t| t.2 = 8),
            "'blk.0.attn_norm.weight' = q8_0: must be f32",
        ),
        (
            matrix(26),
            "type of tensor 'token_embd.weight' = i32: must be one that matrices are multiplied in",
        ),
        (matrix(24), "'token_embd.weight' = i8: must be one that"),
        (matrix(28), "'token_embd.weight' = f64: must be one that"),
        (matrix(9), "'token_embd.weight' = q8_1: must be one that"),
        (
            tensor(|t| t.1 = vec![0]),
            "shape of tensor 'blk.0.attn_norm.weight' = [0]: must be without a 0",
        ),
        (
            good.clone().set("general.alignment", Value::U32(1)).bytes(),
            "general.alignment = 1: must be a power of 2 from 32 to 1048576",
        ),
        (
            good.clone()
                .set("general.alignment", Value::U32(16))
                .bytes(),
            "general.alignment = 16: must be a power of 2 from 32",
        ),
        (
            good.clone()
                .set("tokenizer.ggml.tokens", texts(&["", "[EMPTY_0]"]))
                .bytes(),
            "token 1 has the same text as one before, \"[EMPTY_0]\"",
        ),
        (
            tensor(|t| t.1 = vec![1; 5]),
            "dimensions of tensor 'blk.0.attn_norm.weight' = 5, the limit is 4",
        ),
        (
            tensor(|t| t.1 = vec![32, 1 << 40, 1 << 40]),
            "must be countable",
        ),
        (tensor(|t| t.1 = vec![16]), "offset of tensor"),
        (
            tensor(|t| t.0 = "x".repeat(64)),
            "the bytes of a tensor's name = 64, the limit is 63",
        ),
        (twice.bytes(), "key 'llama.block_count' occurs twice"),
        (
            good.clone().set("", s("x")).bytes(),
            "a key = \"\": must be",
        ),
        (
            good.clone().set("general.alignment", Value::U32(3)).bytes(),
            "general.alignment = 3",
        ),
        (
            good.clone().without("general.architecture").bytes(),
            "no key 'general.architecture'",
        ),
        (
            good.clone()
                .set("general.architecture", Value::U32(1))
                .bytes(),
            "must be a string",
        ),
        (
            good.clone().set("general.architecture", s("bert")).bytes(),
            "'bert' does not generate text",
        ),
        (
            good.clone()
                .set("llama.attention.causal", Value::Bool(false))
                .bytes(),
            "'llama' does not generate",
        ),
        (
            good.clone().without("llama.block_count").bytes(),
            "no key 'llama.block_count'",
        ),
        (
            good.clone().set("llama.block_count", Value::U32(0)).bytes(),
            "llama.block_count = 0: must be at least 1",
        ),
        (
            good.clone()
                .set("llama.block_count", Value::U32(513))
                .bytes(),
            "= 513, the limit is 512",
        ),
        (
            good.clone()
                .set("llama.embedding_length", Value::U32(u32::MAX))
                .bytes(),
            "at most 2147483647",
        ),
        (
            good.clone()
                .set("llama.attention.head_count_kv", Value::Ints(vec![2]))
                .bytes(),
            "one number from 0 for each layer",
        ),
        (
            good.clone().without("tokenizer.ggml.model").bytes(),
            "no key 'tokenizer.ggml.model'",
        ),
        (
            good.clone().without("tokenizer.ggml.tokens").bytes(),
            "has no vocabulary",
        ),
        (
            good.clone()
                .set("tokenizer.ggml.tokens", texts(&[]))
                .bytes(),
            "has no vocabulary",
        ),
        (
            good.clone()
                .set("tokenizer.ggml.tokens", texts(&["a", "b", "a"]))
                .bytes(),
            "token 2 has the same text as one before, \"a\"",
        ),
        (
            good.clone()
                .set("tokenizer.ggml.tokens", texts(&["a", "b"]))
                .bytes(),
            "not every byte has a token",
        ),
        (
            good.clone()
                .set("tokenizer.ggml.tokens", texts(&["a", "a\0b"]))
                .bytes(),
            "token 1 has the same text",
        ),
        (
            good.clone()
                .set("tokenizer.ggml.pre", s("whitespace"))
                .bytes(),
            "is for embedding models",
        ),
        (
            good.clone()
                .set("llama.attention.layer_norm_rms_epsilon", Value::F32(-1.0))
                .bytes(),
            "epsilon = -1: must be from 0 to 1",
        ),
        (
            good.clone().set("split.count", Value::U16(2)).bytes(),
            "so its name must end in '-00001-of-00002.gguf'",
        ),
        (
            good.clone()
                .set("split.count", Value::U16(2))
                .set("split.no", Value::U64(u64::MAX))
                .bytes(),
            "split.no = 18446744073709551615: must be less than split.count = 2",
        ),
        (
            good.clone().set("tokenizer.ggml.model", s("t5")).bytes(),
            "tokenizer.ggml.model = \"t5\": must be one of bert, gemma4, gpt2, hybriddna, llama, plamo2, rwkv",
        ),
        (
            good.clone().set("tokenizer.ggml.model", s("rwkv")).bytes(),
            "not every byte has a token",
        ),
    ];
    let folder = Folder::new("bad");
    for (bytes, expected) in cases {
        let path = folder.write("bad.gguf", &bytes);
        let error = Model::load(&path, &LoadParams::default())
            .expect_err(expected)
            .to_string();
        assert!(error.contains(expected), "{error} lacks {expected}");
        assert!(error.contains("bad.gguf"), "{error}");
    }
    for (path, expected) in [
        (folder.0.clone(), "not a regular file"),
        (folder.0.join("x.gguf"), "cannot be read"),
    ] {
        let error = Model::load(&path, &LoadParams::default())
            .expect_err(expected)
            .to_string();
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
}

#[test]
fn what_llama_cpp_refuses_is_told_with_its_reason() {
    let folder = Folder::new("refused");
    let mut lacking = tiny_model();
    lacking.tensors.pop();
    lacking.tensors.pop();
    let unknown = tiny_model().set("general.architecture", Value::Text("martian".to_owned()));
    let unknown = unknown
        .set("martian.block_count", Value::U32(1))
        .set("martian.attention.head_count", Value::U32(1))
        .set("martian.embedding_length", Value::U32(8));
    for (gguf, expected) in [(lacking, "output_norm.weight"), (unknown, "martian")] {
        let path = folder.write("refused.gguf", &gguf.bytes());
        let error = Model::load(&path, &LoadParams::default())
            .expect_err(expected)
            .to_string();
        assert!(error.contains("llama.cpp cannot load it"), "{error}");
        assert!(error.contains(expected), "{error}");
    }
}

/// A regular expression that C++ cannot read throws, and no exception may come out of llama.cpp.
#[test]
fn devices_buffers_and_patterns_that_are_not_there_are_told() {
    let folder = Folder::new("overrides");
    let path = folder.write("tiny.gguf", &tiny_model().bytes());
    let load = |params: LoadParams| match Model::load(&path, &params) {
        Ok(_) => "loaded".to_owned(),
        Err(error) => error.to_string(),
    };
    let overridden = |pattern: &str, buffer: &str| LoadParams {
        overrides: vec![(pattern.to_owned(), buffer.to_owned())],
        ..LoadParams::default()
    };
    let check = |params, expected: &str| {
        let found = load(params);
        assert!(found.contains(expected), "{found} lacks {expected}");
    };
    check(overridden(r"blk\.\d+\.ffn_(up|down)", "CPU"), "loaded");
    check(overridden("(", "CPU"), "llama.cpp cannot load it");
    check(overridden("a\0", "CPU"), "NUL");
    check(overridden("a", "CUDA99"), "no buffer type 'CUDA99'");
    let gpus = vec!["CUDA99".to_owned()];
    let params = LoadParams {
        gpus,
        ..LoadParams::default()
    };
    check(params, "no device 'CUDA99'");
}

#[test]
fn every_shard_is_needed() {
    let folder = Folder::new("shards");
    let shard = |number: u16| {
        let mut gguf = tiny_model()
            .set("split.count", Value::U16(2))
            .set("split.no", Value::U16(number));
        gguf = gguf.set("split.tensors.count", Value::Ints(vec![21]));
        gguf.tensors = match number {
            0 => gguf.tensors[..10].to_vec(),
            _ => gguf.tensors[10..].to_vec(),
        };
        gguf.bytes()
    };
    let first = folder.write("m-00001-of-00002.gguf", &shard(0));
    let error = ModelFile::read(&first)
        .expect_err("the second is missing")
        .to_string();
    assert!(error.contains("shard 2 of 2 is missing"), "{error}");
    let second = folder.write("m-00002-of-00002.gguf", &shard(0));
    let error = ModelFile::read(&first)
        .expect_err("the second is wrong")
        .to_string();
    assert!(
        error.contains("m-00002-of-00002.gguf': split.no = "),
        "{error}"
    );
    fs::write(&second, shard(1)).expect("writable");
    let file = ModelFile::read(&first).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((file.tensors.len(), file.shards.len()), (21, 2));
    assert_eq!(file.n_bytes, (shard(0).len() + shard(1).len()) as u64);
    let error = ModelFile::read(&second)
        .expect_err("it is not the first")
        .to_string();
    assert!(
        error.contains("is shard 2 of a split model: give the first one"),
        "{error}"
    );
}

#[test]
fn no_damage_of_a_header_panics() {
    let folder = Folder::new("damage");
    let good = tiny_model().bytes();
    let n_header = tiny_model().header().len();
    for length in (0..n_header).step_by(7) {
        let path = folder.write("cut.gguf", &good[..length]);
        ModelFile::read(&path).expect_err("it ends too early");
    }
    for offset in (0..n_header).step_by(3) {
        let mut damaged = good.clone();
        damaged[offset] ^= 0xA5;
        let path = folder.write("flip.gguf", &damaged);
        // It may still be a model: only that it returns is asked for.
        let _ = ModelFile::read(&path);
    }
}
