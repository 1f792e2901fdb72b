//! The config parameters: what is read of each, and what is wrong with one or with two together.

use triton_llm::config::{CacheType, FlashAttention, GpuLayers, Parameters, SpeculativeMethod};

use crate::{read, with_parameters};

fn parameters(written: &[(&str, &str)]) -> Result<Parameters, String> {
    read(&with_parameters(written)).map(|config| config.parameters)
}

#[test]
fn parameters_are_read() {
    assert_eq!(parameters(&[]), Ok(Parameters::default()));
    let read = parameters(&[
        ("model_path", "models/a.gguf"),
        ("n_ctx", "8192"),
        ("parallel", "4"),
        ("n_batch", "1024"),
        ("n_ubatch", "256"),
        ("threads", "2"),
        ("n_threads_batch", "8"),
        ("n_gpu_layers", "20"),
        ("cache_type_k", "q8_0"),
        ("cache_type_v", "iq4_nl"),
        ("flash_attn", "on"),
        ("cache_ram", "512"),
        ("use_mmap", "false"),
        ("use_mlock", "1"),
        ("repack", "false"),
        ("trial", "0"),
        ("chat_template", "{{ messages }}"),
        ("max_queue_size", "0"),
        ("request_timeout_ms", "60000"),
        ("max_prompt_bytes", "1000"),
        (
            "sampling_parameters",
            r#"{"temp": 0, "stop": ["a"], "stream": false}"#,
        ),
        ("strict_parameters", "False"),
        ("TRITON_BATCH_STRATEGY_PATH", "x"),
    ]);
    let expected = Parameters {
        model_path: Some("models/a.gguf".to_owned()),
        n_ctx: 8192,
        n_parallel: 4,
        n_batch: 1024,
        n_ubatch: 256,
        n_threads: 2,
        n_threads_batch: 8,
        n_gpu_layers: GpuLayers::Count(20),
        cache_type_k: CacheType::Q8_0,
        cache_type_v: CacheType::Iq4Nl,
        flash_attn: FlashAttention::On,
        cache_ram_mib: Some(512),
        use_mmap: Some(false),
        use_mlock: true,
        repack: false,
        trial: false,
        chat_template: Some("{{ messages }}".to_owned()),
        chat_template_file: None,
        max_queue_size: 0,
        request_timeout_ms: 60_000,
        max_prompt_bytes: 1000,
        sampling_parameters: r#"{"temp": 0, "stop": ["a"], "stream": false}"#.to_owned(),
        strict_parameters: false,
        ..Parameters::default()
    };
    assert_eq!(read, Ok(expected));
    for name in [
        "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1",
    ] {
        let read = parameters(&[("cache_type_k", name)]).expect("is a cache type");
        assert_eq!(read.cache_type_k.as_str(), name);
    }
    let read = parameters(&[("chat_template_file", "t.jinja")]).expect("is a path");
    assert_eq!(read.chat_template_file.as_deref(), Some("t.jinja"));
    for (written, expected) in [
        ("auto", GpuLayers::Auto),
        ("-1", GpuLayers::Auto),
        ("all", GpuLayers::All),
        ("-2", GpuLayers::All),
        ("0", GpuLayers::Count(0)),
    ] {
        let read = parameters(&[("gpu_layers", written)]);
        assert_eq!(
            read.map(|read| read.n_gpu_layers),
            Ok(expected),
            "{written}"
        );
    }
    for (written, expected) in [
        ("3,1", &[3.0, 1.0][..]),
        ("0/ .5", &[0.0, 0.5]),
        ("1", &[1.0]),
    ] {
        let read = parameters(&[("tensor_split", written)]);
        assert_eq!(
            read.map(|read| read.tensor_split.map(|split| (split.text, split.ratios))),
            Ok(Some((written.to_owned(), expected.to_vec()))),
            "{written}"
        );
    }
    for (written, expected) in [
        ("none", &[][..]),
        (" none ", &[]),
        ("CUDA1,CUDA0", &["CUDA1", "CUDA0"]),
        (" CUDA0, CUDA1 ", &["CUDA0", "CUDA1"]),
    ] {
        let read = parameters(&[("device", written)]).map(|read| read.devices);
        let expected: Vec<String> = expected.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(read, Ok(Some(expected)), "{written}");
    }
    for (written, expected) in [("auto", None), ("-1", None), ("0", Some(0)), ("3", Some(3))] {
        let read = parameters(&[("n_cpu_moe", written)]).map(|read| read.n_cpu_moe);
        assert_eq!(read, Ok(expected), "{written}");
    }
    let read = parameters(&[(
        "override_tensor",
        r"ffn_.*=CPU,^blk\.(1|2)\.attn_[qk]{1}=CUDA0",
    )]);
    let overrides = read.expect("are patterns").overrides(1);
    let overrides: Vec<_> = overrides
        .iter()
        .map(|o| (o.pattern.as_str(), o.buffer.as_str()))
        .collect();
    assert_eq!(
        overrides,
        [
            ("ffn_.*", "CPU"),
            (r"^blk\.(1|2)\.attn_[qk]{1}", "CUDA0"),
            (r"blk\.0\.ffn_(up|down|gate|gate_up)_(ch|)exps", "CPU"),
        ]
    );
    for (given, min, max) in [
        (None, 2, 5),
        (Some(("prompt_lookup_max", "1")), 1, 1),
        (Some(("prompt_lookup_min", "9")), 9, 9),
        (Some(("prompt_lookup_max", "7")), 2, 7),
    ] {
        let mut written = vec![("speculative_method", "ngram"), ("draft_max", "3")];
        written.extend(given);
        let read = parameters(&written).expect("is speculation");
        assert_eq!(read.speculative_method, SpeculativeMethod::Ngram);
        let n_grams = (read.prompt_lookup_min, read.prompt_lookup_max);
        assert_eq!((n_grams, read.num_speculative_tokens), ((min, max), 3));
    }
    // A smaller step takes the part of it along, unless that was asked for.
    assert_eq!(parameters(&[("n_batch", "64")]).map(|p| p.n_ubatch), Ok(64));
}

#[test]
fn bad_parameters_are_named() {
    let caches = "must be one of f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0, q5_1";
    let layers = "must be between 0 and 65536, or auto (-1) or all (-2)";
    let ratios = "must be at most 16 numbers from 0, not all of them 0, separated by commas";
    let overrides = "must be <tensor name pattern>=<buffer type>, several separated by commas";
    let many = ["1"; 17].join(",");
    let long = "p".repeat(4097);
    let cases = [
        (
            "model_path",
            "",
            "\"\": must be text of 1 to 4096 bytes".to_owned(),
        ),
        (
            "model_path",
            &long,
            "a text of 4097 bytes: must be text of 1 to 4096 bytes".to_owned(),
        ),
        (
            "n_ctx",
            "-1",
            "\"-1\": must be between 0 and 16777216".to_owned(),
        ),
        (
            "n_ctx",
            "16777217",
            "\"16777217\": must be between 0 and 16777216".to_owned(),
        ),
        (
            "n_ctx",
            "1",
            "1: must be 0 (automatic) or at least 2, room for a prompt of one token and its answer"
                .to_owned(),
        ),
        (
            "n_ctx",
            "4k",
            "\"4k\": must be a whole number between 0 and 16777216".to_owned(),
        ),
        (
            "n_parallel",
            "-1",
            "\"-1\": must be between 0 and 256".to_owned(),
        ),
        (
            "n_parallel",
            "257",
            "\"257\": must be between 0 and 256".to_owned(),
        ),
        (
            "n_batch",
            "0",
            "\"0\": must be between 1 and 65536".to_owned(),
        ),
        (
            "n_batch",
            "65537",
            "\"65537\": must be between 1 and 65536".to_owned(),
        ),
        (
            "n_ubatch",
            "0",
            "\"0\": must be between 1 and 65536".to_owned(),
        ),
        (
            "n_ubatch",
            "513",
            "513: must be at most 'n_batch' = 512".to_owned(),
        ),
        (
            "n_threads",
            "513",
            "\"513\": must be between 0 and 512".to_owned(),
        ),
        (
            "n_threads_batch",
            "-1",
            "\"-1\": must be between 0 and 512".to_owned(),
        ),
        ("n_gpu_layers", "-3", format!("\"-3\": {layers}")),
        ("n_gpu_layers", "65537", format!("\"65537\": {layers}")),
        ("n_gpu_layers", "some", format!("\"some\": {layers}")),
        (
            "n_cpu_moe",
            "-2",
            "\"-2\": must be between 0 and 65536, or auto (-1)".to_owned(),
        ),
        (
            "split_mode",
            "tensor",
            "\"tensor\": must be one of none, layer, row".to_owned(),
        ),
        (
            "main_gpu",
            "16",
            "\"16\": must be between 0 and 15".to_owned(),
        ),
        (
            "fit_margin_mib",
            "-1",
            "\"-1\": must be between 0 and 1048576".to_owned(),
        ),
        (
            "devices",
            "CUDA0,CUDA0",
            "\"CUDA0,CUDA0\": must be names of devices, each once".to_owned(),
        ),
        (
            "devices",
            "CUDA0, CUDA0",
            "\"CUDA0, CUDA0\": must be names of devices, each once".to_owned(),
        ),
        ("tensor_split", "3,x", format!("\"3,x\": {ratios}")),
        ("tensor_split", "3,-1", format!("\"3,-1\": {ratios}")),
        ("tensor_split", "NaN,1", format!("\"NaN,1\": {ratios}")),
        ("tensor_split", "inf", format!("\"inf\": {ratios}")),
        (
            "tensor_split",
            "3e38,3e38",
            format!("\"3e38,3e38\": {ratios}"),
        ),
        ("tensor_split", "0,0", format!("\"0,0\": {ratios}")),
        ("tensor_split", "1,", format!("\"1,\": {ratios}")),
        ("tensor_split", &many, format!("\"{many}\": {ratios}")),
        ("override_tensor", "ffn", format!("\"ffn\": {overrides}")),
        ("override_tensor", "a=CPU,", format!("\"\": {overrides}")),
        ("override_tensor", "=CPU", format!("\"=CPU\": {overrides}")),
        ("override_tensor", "a=", format!("\"a=\": {overrides}")),
        ("cache_type_k", "q4_k", format!("\"q4_k\": {caches}")),
        ("cache_type_v", "", format!("\"\": {caches}")),
        (
            "flash_attn",
            "yes",
            "\"yes\": must be one of auto, on, off".to_owned(),
        ),
        ("use_mmap", "on", "\"on\": must be true or false".to_owned()),
        ("use_mlock", "", "\"\": must be true or false".to_owned()),
        (
            "speculative_method",
            "eagle",
            "\"eagle\": must be one of none, ngram, draft_model".to_owned(),
        ),
        (
            "num_speculative_tokens",
            "0",
            "\"0\": must be between 1 and 64".to_owned(),
        ),
        (
            "num_speculative_tokens",
            "65",
            "\"65\": must be between 1 and 64".to_owned(),
        ),
        (
            "prompt_lookup_max",
            "65",
            "\"65\": must be between 1 and 64".to_owned(),
        ),
        (
            "prompt_lookup_min",
            "0",
            "\"0\": must be between 1 and 64".to_owned(),
        ),
        (
            "speculative_model",
            "",
            "\"\": must be text of 1 to 4096 bytes".to_owned(),
        ),
        (
            "chat_template",
            "",
            "\"\": must be text of 1 to 1048576 bytes".to_owned(),
        ),
        (
            "chat_template_file",
            "",
            "\"\": must be text of 1 to 4096 bytes".to_owned(),
        ),
        (
            "max_queue_size",
            "65537",
            "\"65537\": must be between 0 and 65536".to_owned(),
        ),
        (
            "max_prompt_bytes",
            "0",
            "\"0\": must be between 1 and 268435456".to_owned(),
        ),
        (
            "strict_parameters",
            "2",
            "\"2\": must be true or false".to_owned(),
        ),
        (
            "sampling_parameters",
            "",
            "\"\": must be text of 1 to 65536 bytes".to_owned(),
        ),
    ];
    for (name, value, expected) in cases {
        let expected = format!("config parameter '{name}' = {expected}");
        assert_eq!(parameters(&[(name, value)]), Err(expected));
    }
}

#[test]
fn bad_combinations_and_names_are_named() {
    let cases: [(&[(&str, &str)], &str); 13] = [
        (
            &[("n_ctxx", "1")],
            "unknown config parameter 'n_ctxx': did you mean 'n_ctx'?",
        ),
        (
            &[("context", "1")],
            "unknown config parameter 'context': known are model_path, n_ctx, \
          n_parallel, n_batch, n_ubatch, n_threads, n_threads_batch, n_gpu_layers, n_cpu_moe, \
          override_tensor, devices, split_mode, tensor_split, main_gpu, fit_margin_mib, cache_type_k, \
          cache_type_v, flash_attn, kv_unified, enable_prefix_caching, cache_ram, target_itl_ms, speculative_method, \
          num_speculative_tokens, prompt_lookup_max, prompt_lookup_min, speculative_model, use_mmap, use_mlock, repack, trial, chat_template, chat_template_file, \
          max_queue_size, request_timeout_ms, max_prompt_bytes, sampling_parameters, strict_parameters",
        ),
        (
            &[("n_ctx", "1"), ("ctx_size", "1")],
            "config parameter 'n_ctx' is given twice, as 'ctx_size' and as 'n_ctx'",
        ),
        (
            &[("speculative_method", "draft_model")],
            "config parameter 'speculative_method' = \"draft_model\": needs 'speculative_model', the \
          file of the draft model",
        ),
        (
            &[("speculative_model", "small.gguf")],
            "config parameter 'speculative_model' is set: set 'speculative_method' to \"draft_model\" to use it",
        ),
        (
            &[
                ("speculative_method", "ngram"),
                ("prompt_lookup_min", "4"),
                ("prompt_lookup_max", "3"),
            ],
            "config parameter 'prompt_lookup_min' = 4: must be at most 'prompt_lookup_max' = 3",
        ),
        (
            &[("chat_template", "x"), ("chat_template_file", "y")],
            "config parameters 'chat_template' and 'chat_template_file' are both set: keep one",
        ),
        (
            &[("cache_type_v", "q8_0"), ("flash_attn", "off")],
            "config parameter 'cache_type_v' = \"q8_0\": must be f32, f16 or bf16 where \
             'flash_attn' is \"off\"",
        ),
        (
            &[("tensor_split", "1, 1"), ("split_mode", "none")],
            "config parameter 'tensor_split' = \"1, 1\": must be left out where 'split_mode' is \"none\"",
        ),
        (
            &[("sampling_parameters", "{")],
            "config parameter 'sampling_parameters': 'sampling_parameters': invalid JSON: EOF while \
             parsing an object at line 1 column 1",
        ),
        (
            &[("sampling_parameters", r#"{"top_p": 2}"#)],
            "config parameter 'sampling_parameters': parameter 'top_p' = 2: must be between 0 and 1",
        ),
        (
            &[("sampling_parameters", r#"{"max_tokens": 0}"#)],
            "config parameter 'sampling_parameters': parameter 'max_tokens' = 0: must be between 1 \
             and n_ctx, or -1 (no limit)",
        ),
        (
            &[("sampling_parameters", r#"{"tmp": 0}"#)],
            "config parameter 'sampling_parameters': unknown parameter 'tmp': did you mean 'temp'?",
        ),
    ];
    for (written, expected) in cases {
        assert_eq!(parameters(written), Err(expected.to_owned()));
    }
    for cache in ["f32", "f16", "bf16"] {
        assert!(parameters(&[("cache_type_v", cache), ("flash_attn", "off")]).is_ok());
    }
}

#[test]
fn patterns_are_those_that_both_languages_read_alike() {
    let check = |pattern: &str, problem: Option<&str>| {
        let text = format!("{pattern}=CPU");
        let read = parameters(&[("override_tensor", &text)]);
        match problem {
            None => assert!(read.is_ok(), "{pattern}: {read:?}"),
            Some(problem) => {
                let error = read.expect_err(pattern);
                assert!(
                    error.contains("with a plain regular expression: "),
                    "{error}"
                );
                assert!(
                    error.contains(problem),
                    "{pattern}: {error} lacks {problem}"
                );
            }
        }
    };
    check(r"\.ffn_(up|down|gate|gate_up)_(ch|)exps", None);
    check(r"blk\.(1[0-9]|2\d)\.ffn_.*_exps\.weight$", None);
    check(r"blk\.(?:[^.]+)\.attn", None);
    check("(", Some("group"));
    check("a)", Some("without matching"));
    check("[a", Some("class"));
    check("*", Some("repetition"));
    check("(?i)BLK", Some("of groups, only"));
    check("(?P<n>a)", Some("of groups, only"));
    check(r"\bblk", Some("is not known"));
    check("[[a]]", Some("nested"));
    check("(a*)*b", Some("must hold no repetition"));
    check("((a+)b)+", Some("must hold no repetition"));
    check("a**", Some("must not be repeated"));
}

#[test]
fn layers_are_those_of_the_model() {
    let check = |name, value, expected: Result<(), &str>| {
        let read = parameters(&[(name, value)]).expect("is in range");
        let checked = read.check_layers(32).map_err(|error| error.to_string());
        assert_eq!(checked, expected.map_err(str::to_owned), "{name} {value}");
    };
    check("n_gpu_layers", "33", Ok(()));
    check("n_gpu_layers", "all", Ok(()));
    check("n_cpu_moe", "32", Ok(()));
    check(
        "n_gpu_layers",
        "34",
        Err(
            "config parameter 'n_gpu_layers' = 34: must be at most 33, the 32 layers of this model and \
             its output",
        ),
    );
    check(
        "n_cpu_moe",
        "33",
        Err("config parameter 'n_cpu_moe' = 33: must be at most 32, the layers of this model"),
    );
}
