//! Vocabularies that lack something, and texts that a tokenizer cannot take.

use triton_llm::engine::Token;
use triton_llm::llama::{LoadParams, Model, TokenizeError};

use crate::writer::{Folder, Value, tiny_model};

/// A vocabulary of this kind, loaded without weights.
fn vocabulary(folder: &Folder, kind: &str, pre: &str, tokens: &[String]) -> Result<Model, String> {
    let gguf = tiny_model()
        .set("tokenizer.ggml.model", Value::Text(kind.to_owned()))
        .set("tokenizer.ggml.pre", Value::Text(pre.to_owned()))
        .set(
            "tokenizer.ggml.merges",
            Value::Texts(vec!["a b".to_owned()]),
        )
        .set("tokenizer.ggml.tokens", Value::Texts(tokens.to_vec()))
        .set(
            "tokenizer.ggml.token_type",
            Value::Ints(vec![1; tokens.len()]),
        )
        .set(
            "tokenizer.ggml.scores",
            Value::Floats(vec![0.0; tokens.len()]),
        );
    let path = folder.write(&format!("{kind}-{pre}.gguf"), &gguf.bytes());
    let params = LoadParams {
        vocab_only: true,
        use_mmap: Some(false),
        ..LoadParams::default()
    };
    Model::load(&path, &params).map_err(|error| error.to_string())
}

#[test]
fn a_text_without_a_token_is_refused() {
    let folder = Folder::new("unknown");
    let keep = |tokens: &[&str]| -> Vec<String> { tokens.iter().map(|&t| t.to_owned()).collect() };
    // The special tokens that this kind has by itself are from 100 on, out of so small a vocabulary.
    let gguf = tiny_model()
        .set("tokenizer.ggml.model", Value::Text("bert".to_owned()))
        .set(
            "tokenizer.ggml.tokens",
            Value::Texts(keep(&["\u{2581}a", "b", "c"])),
        )
        .set("tokenizer.ggml.add_sep_token", Value::Bool(false))
        .without("tokenizer.ggml.token_type")
        .without("tokenizer.ggml.scores");
    let params = LoadParams {
        vocab_only: true,
        use_mmap: Some(false),
        ..LoadParams::default()
    };
    let path = folder.write("bert.gguf", &gguf.bytes());
    // llama.cpp asserts a separator even where the file says that none is added.
    let error = Model::load(&path, &params).map_err(|error| error.to_string());
    let error = error.expect_err("it lacks a separator");
    assert!(
        error.contains("adds a special token it does not have"),
        "{error}"
    );
    let gguf = gguf.set("tokenizer.ggml.seperator_token_id", Value::U32(2));
    let path = folder.write("bert.gguf", &gguf.bytes());
    let model = Model::load(&path, &params).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(model.tokenize("a", false, true), Ok(vec![Token(0)]));
    let unknown = TokenizeError::NoToken {
        index: 1,
        id: -1,
        max_id: 2,
    };
    assert_eq!(model.tokenize("a z", false, true), Err(unknown));
    let mut bytes: Vec<String> = (0..=255).map(|byte| format!("\\x{byte:02x}")).collect();
    let rwkv = vocabulary(&folder, "rwkv", "", &bytes).unwrap_or_else(|error| panic!("{error}"));
    let text = "every byte: \u{e9}\0";
    let tokens = rwkv.tokenize(text, false, true).expect("it has them all");
    assert_eq!(tokens.len(), text.len());
    bytes.pop();
    let error = vocabulary(&folder, "rwkv", "", &bytes).expect_err("a byte is missing");
    assert!(error.contains("not every byte has a token"), "{error}");
}

#[test]
fn tokens_take_no_more_memory_than_they_need() {
    let folder = Folder::new("memory");
    let path = folder.write("tiny.gguf", &tiny_model().bytes());
    let model =
        Model::load(&path, &LoadParams::default()).unwrap_or_else(|error| panic!("{error}"));
    let text = "<s>".repeat(1000);
    let tokens = model.tokenize(&text, false, true).expect("short");
    assert_eq!(tokens.len(), 1000);
    assert!(tokens.capacity() < 2000, "{}", tokens.capacity());
}

#[test]
fn text_that_would_exhaust_the_stack_is_refused() {
    let folder = Folder::new("bpe");
    // The alphabet of byte-level BPE, as far as this test's texts need it.
    let tokens: Vec<String> = (' '..='~')
        .map(String::from)
        .chain(["\u{120}".to_owned()])
        .collect();
    let bpe = |kind: &str, pre: &str| {
        vocabulary(&folder, kind, pre, &tokens).unwrap_or_else(|error| panic!("{error}"))
    };
    let (std_regex, own_code) = (bpe("gpt2", "gpt-4o"), bpe("gpt2", "llama-bpe"));
    let dna = bpe("hybriddna", "gpt-4o");
    let work = move || {
        for text in ["a", " ", "~", "7", "é"].map(|unit| unit.repeat(32 * 1024)) {
            let tokens = std_regex.tokenize(&text, false, true);
            assert!(tokens.is_ok(), "{tokens:?}");
            let refused = std_regex.tokenize(&(text.clone() + &text), false, true);
            assert!(matches!(refused, Err(TokenizeError::LongRun { .. })));
            let refused = dna.tokenize(&(text.clone() + &text), false, true);
            assert!(matches!(refused, Err(TokenizeError::LongRun { .. })));
            assert!(own_code.tokenize(&text.repeat(8), false, true).is_ok());
        }
        let words = std_regex.tokenize(&"word ".repeat(100_000), false, true);
        assert_eq!(words.map(|tokens| tokens.len()), Ok(500_000));
    };
    let thread = std::thread::Builder::new().stack_size(64 << 20).spawn(work);
    assert!(thread.expect("a thread starts").join().is_ok());
}

#[test]
fn tokens_that_a_tokenizer_would_abort_or_never_end_at_are_refused() {
    let folder = Folder::new("long");
    let long = |n| vec!["a".to_owned(), "b".repeat(n)];
    for (kind, tokens, expected) in [
        (
            "plamo2",
            long(100_000),
            "the cubed bytes of all tokens are 1000000000000001, the limit is 4294967296",
        ),
        ("bert", long(257), "token 1 has 257 bytes, the limit of"),
    ] {
        let error = vocabulary(&folder, kind, "", &tokens).expect_err(expected);
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
    // Of which the tiny model has.
    let gguf = tiny_model().set("tokenizer.ggml.model", Value::Text("bert".to_owned()));
    let path = folder.write("bytes.gguf", &gguf.bytes());
    let error = Model::load(&path, &LoadParams::default()).map_err(|error| error.to_string());
    let error = error.expect_err("it has tokens for bytes");
    assert!(error.contains("token_type: holds 6"), "{error}");
}
