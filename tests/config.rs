//! The model configuration read as tables: Triton's JSON in, the settings or the exact error out.

use serde_json::{Value, json};
use triton_llm::config::{
    CacheType, Device, FlashAttn, InstanceGroup, InstanceKind, ModelConfig, Parameters,
    SpeculativeMethod, autocomplete, parse, placement,
};

/// A tensor as Triton prints a declared one.
fn tensor(name: &str, data_type: &str, dims: Value) -> Value {
    json!({
        "name": name, "data_type": data_type, "format": "FORMAT_NONE", "dims": dims,
        "is_shape_tensor": false, "allow_ragged_batch": false, "optional": name == "parameters"
    })
}

/// The smallest configuration, `backend: "llm"`, as Triton hands it over.
fn smallest() -> Value {
    json!({
        "name": "m", "platform": "", "backend": "llm", "runtime": "",
        "version_policy": {"latest": {"num_versions": 1}}, "max_batch_size": 0,
        "input": [], "output": [], "batch_input": [], "batch_output": [],
        "optimization": {"priority": "PRIORITY_DEFAULT", "input_pinned_memory": {"enable": true}},
        "instance_group": [{
            "name": "m", "kind": "KIND_CPU", "count": 1, "gpus": [], "secondary_devices": [],
            "profile": [], "passive": false, "host_policy": ""
        }],
        "default_model_filename": "", "cc_model_filenames": {}, "metric_tags": {},
        "parameters": {}, "model_warmup": []
    })
}

/// The configuration that the seed prints, with our backend's name.
fn seed() -> Value {
    let mut config = smallest();
    config["name"] = json!("llm_decoupled");
    config["input"] = json!([
        tensor("text_input", "TYPE_STRING", json!([1])),
        tensor("parameters", "TYPE_STRING", json!([1]))
    ]);
    config["output"] = json!([tensor("text_output", "TYPE_STRING", json!([1]))]);
    config["model_transaction_policy"] = json!({"decoupled": true});
    config
}

fn with_parameters(parameters: &[(&str, &str)]) -> Value {
    let mut config = smallest();
    for (name, value) in parameters {
        config["parameters"][name] = json!({"string_value": value});
    }
    config
}

fn read(config: &Value) -> Result<ModelConfig, String> {
    let (config, notes) = parse(&config.to_string(), true).map_err(|error| error.to_string())?;
    assert_eq!(notes, Vec::<String>::new());
    Ok(config)
}

fn parameters(written: &[(&str, &str)]) -> Result<Parameters, String> {
    read(&with_parameters(written)).map(|config| config.parameters)
}

/// The completed configuration, which must itself be complete, and the notes.
fn completed(config: &Value) -> (Value, Vec<String>) {
    let completed = autocomplete(&config.to_string()).expect("can be completed");
    let json = completed.json.expect("something was missing");
    let (parsed, _) = parse(&json, false).expect("what auto-complete writes is complete");
    assert!(parsed.decoupled);
    let again = autocomplete(&json).expect("can be read again");
    assert_eq!(
        (again.json, again.notes),
        (None, vec![]),
        "nothing is left to complete"
    );
    (
        serde_json::from_str(&json).expect("is JSON"),
        completed.notes,
    )
}

#[test]
fn the_smallest_configuration_is_completed() {
    let (config, notes) = completed(&smallest());
    assert_eq!(notes, Vec::<String>::new());
    let mut expected = smallest();
    expected["input"] = json!([
        {"name": "text_input", "data_type": "TYPE_STRING", "dims": [1]},
        {"name": "sampling_parameters", "data_type": "TYPE_STRING", "dims": [1], "optional": true},
        {"name": "stop", "data_type": "TYPE_STRING", "dims": [-1], "optional": true}
    ]);
    expected["output"] = json!([{"name": "text_output", "data_type": "TYPE_STRING", "dims": [1]}]);
    expected["model_transaction_policy"] = json!({"decoupled": true});
    assert_eq!(config, expected);
    // A core that leaves empty lists out.
    let bare = json!({"name": "m", "backend": "llm"});
    assert_eq!(completed(&bare).0["input"], expected["input"]);
}

#[test]
fn the_seeds_configuration_is_healed() {
    let (config, notes) = completed(&seed());
    assert_eq!(
        notes,
        [
            "input 'parameters' is left out of the model: with it Triton's generate endpoints refuse \
          every request whose body has a 'parameters' key; request parameters arrive without it"
        ]
    );
    let names: Vec<_> = config["input"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|i| &i["name"])
        .collect();
    assert_eq!(names, ["text_input", "sampling_parameters", "stop"]);
    assert_eq!(config["input"][0], seed()["input"][0]);
    assert_eq!(config["output"], seed()["output"]);
    assert_eq!(
        read(&config).map(|config| config.name),
        Ok("llm_decoupled".to_owned())
    );
}

#[test]
fn what_the_user_wrote_is_kept() {
    let mut config = smallest();
    config["max_batch_size"] = json!(8);
    config["dynamic_batching"] = json!({
        "preferred_batch_size": [8], "max_queue_delay_microseconds": 18446744073709551615u64
    });
    config["input"] = json!([tensor("stop", "TYPE_STRING", json!(["-1"]))]);
    config["parameters"] = json!({"n_ctx": {"string_value": "64"}});
    let (result, notes) = completed(&config);
    assert_eq!(notes, Vec::<String>::new());
    for key in [
        "max_batch_size",
        "dynamic_batching",
        "parameters",
        "instance_group",
        "version_policy",
    ] {
        assert_eq!(result[key], config[key], "{key}");
    }
    assert_eq!(result["input"][0], config["input"][0]);
    assert_eq!(result["input"].as_array().map(Vec::len), Some(3));
    assert_eq!(read(&result).map(|config| config.max_batch_size), Ok(8));

    config["model_transaction_policy"] = json!({"decoupled": false});
    let (result, notes) = completed(&config);
    assert_eq!(
        result["model_transaction_policy"],
        json!({"decoupled": true})
    );
    assert_eq!(
        notes,
        [
            "model_transaction_policy.decoupled = false is changed to true: a stream is several \
          responses; send \"streaming\": false for a single one"
        ]
    );
}

#[test]
fn without_auto_complete_it_says_what_to_write() {
    let strict = |config: &Value| match parse(&config.to_string(), false) {
        Ok((_, notes)) => Ok(notes),
        Err(error) => Err(error.to_string()),
    };
    let mut config = smallest();
    let mut says = |key: &str, value: Value, expected: &str| {
        assert_eq!(strict(&config), Err(expected.to_owned()));
        config[key] = value;
    };
    says(
        "input",
        seed()["input"].clone(),
        "input 'text_input' is missing and auto-complete is off: add input [ { name: \
         \"text_input\" data_type: TYPE_STRING dims: [ 1 ] } ]",
    );
    says(
        "output",
        seed()["output"].clone(),
        "output 'text_output' is missing and auto-complete is off: add output [ { name: \
         \"text_output\" data_type: TYPE_STRING dims: [ 1 ] } ]",
    );
    let decoupled = "model_transaction_policy.decoupled is false and auto-complete is off: add \
                     model_transaction_policy { decoupled: true }";
    says(
        "model_transaction_policy",
        json!({"decoupled": false}),
        decoupled,
    );
    says(
        "model_transaction_policy",
        json!({"decoupled": true}),
        decoupled,
    );
    let advice = "input 'parameters' is declared and auto-complete is off: Triton's generate \
                  endpoints refuse every request whose body has a 'parameters' key; remove this \
                  input from config.pbtxt, request parameters arrive without it";
    assert_eq!(strict(&config), Ok(vec![advice.to_owned()]));
    config["input"] = json!([seed()["input"][0]]);
    assert_eq!(strict(&config), Ok(vec![]));
}

#[test]
fn bad_fields_are_named() {
    let cases = [
        (
            "/max_batch_size",
            json!(-1),
            "max_batch_size = -1: must be between 0 and 2147483647",
        ),
        (
            "/max_batch_size",
            json!("2147483648"),
            "max_batch_size = 2147483648: must be between 0 and 2147483647",
        ),
        (
            "/input/0/name",
            json!("prompt"),
            "unknown input 'prompt': known are text_input, sampling_parameters, stop, parameters",
        ),
        (
            "/input/0/name",
            json!("parameters"),
            "input 'parameters' is declared twice",
        ),
        (
            "/output/0/name",
            json!("text"),
            "unknown output 'text': known are text_output",
        ),
        (
            "/input/0/data_type",
            json!("TYPE_INT32"),
            "input 'text_input': data_type = TYPE_INT32: must be TYPE_STRING",
        ),
        (
            "/input/0/dims",
            json!([2]),
            "input 'text_input': dims = [2]: must be [1] or [-1]",
        ),
        (
            "/input/1/dims",
            json!([]),
            "input 'parameters': dims = []: must be [1] or [-1]",
        ),
        (
            "/output/0/dims",
            json!([1, 1]),
            "output 'text_output': dims = [1, 1]: must be [1] or [-1]",
        ),
        (
            "/instance_group/0/count",
            json!(257),
            "instance_group[0] asks for KIND_CPU with count = 257: count must be at most 256",
        ),
        (
            "/instance_group/0/count",
            json!(17),
            "config parameter 'n_parallel' = 16: with 17 instances that is 272 slots, must be at most 256",
        ),
    ];
    for (path, value, expected) in cases {
        let mut config = seed();
        *config.pointer_mut(path).expect("the field exists") = value;
        assert_eq!(read(&config), Err(expected.to_owned()), "{path}");
        let completing = autocomplete(&config.to_string())
            .map(|_| ())
            .map_err(|e| e.to_string());
        if path.starts_with("/input") || path.starts_with("/output") {
            assert_eq!(completing, Err(expected.to_owned()), "{path}");
        }
    }
    for field in ["sequence_batching", "ensemble_scheduling"] {
        let mut config = seed();
        config[field] = json!({});
        let text = format!(
            "{field} is not supported: remove it, requests are batched by the backend itself"
        );
        assert_eq!(read(&config), Err(text.clone()));
        assert_eq!(
            autocomplete(&config.to_string()).map_err(|e| e.to_string()),
            Err(text)
        );
    }
    for text in [
        "",
        "{",
        "7",
        r#"{"input":7}"#,
        r#"{"instance_group":[{"kind":"KIND_TPU"}]}"#,
    ] {
        assert!(parse(text, true).is_err(), "{text}");
        assert!(autocomplete(text).is_err(), "{text}");
    }
    // 64-bit integers may be strings, and either shape of one element will do.
    let mut config = seed();
    config["max_batch_size"] = json!("4");
    config["input"][0]["dims"] = json!(["-1"]);
    config["output"][0]["dims"] = json!(["1"]);
    assert_eq!(read(&config).map(|config| config.max_batch_size), Ok(4));
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
        ("chat_template", "{{ messages }}"),
        ("max_queue_size", "0"),
        ("max_prompt_bytes", "1000"),
        (
            "sampling_parameters",
            r#"{"temp": 0, "stop": ["a"], "stream": false}"#,
        ),
        ("strict_parameters", "False"),
        ("TRITON_BATCH_STRATEGY_PATH", "x"),
    ]);
    let mut expected = Parameters {
        model_path: Some("models/a.gguf".to_owned()),
        n_ctx: 8192,
        n_parallel: 4,
        n_batch: 1024,
        n_ubatch: 256,
        n_threads: 2,
        n_threads_batch: 8,
        n_gpu_layers: Some(20),
        cache_type_k: CacheType::Q8_0,
        cache_type_v: CacheType::Iq4Nl,
        flash_attn: FlashAttn::On,
        cache_ram_mib: Some(512),
        use_mmap: false,
        use_mlock: true,
        chat_template: Some("{{ messages }}".to_owned()),
        chat_template_file: None,
        max_queue_size: 0,
        max_prompt_bytes: 1000,
        strict_parameters: false,
        ..Parameters::default()
    };
    expected.sampling_parameters.sampling.temperature = 0.0;
    expected.sampling_parameters.stop = vec!["a".to_owned()];
    expected.sampling_parameters.streaming = false;
    assert_eq!(read, Ok(expected));
    for name in [
        "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1",
    ] {
        let read = parameters(&[("cache_type_k", name)]).expect("is a cache type");
        assert_eq!(read.cache_type_k.as_str(), name);
    }
    let read = parameters(&[("n_gpu_layers", "-1"), ("chat_template_file", "t.jinja")]);
    let read = read.expect("are in range");
    assert_eq!(
        (read.n_gpu_layers, read.chat_template_file.as_deref()),
        (None, Some("t.jinja"))
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
    let long = "p".repeat(4097);
    let cases = [
        ("model_path", "", "\"\": must be text of 1 to 4096 bytes".to_owned()),
        ("model_path", &long, "a text of 4097 bytes: must be text of 1 to 4096 bytes".to_owned()),
        ("n_ctx", "-1", "\"-1\": must be between 0 and 16777216".to_owned()),
        ("n_ctx", "16777217", "\"16777217\": must be between 0 and 16777216".to_owned()),
        (
            "n_ctx",
            "1",
            "1: must be 0 (automatic) or at least 2, room for a prompt of one token and its answer".to_owned(),
        ),
        ("n_ctx", "4k", "\"4k\": must be a whole number between 0 and 16777216".to_owned()),
        ("n_parallel", "0", "\"0\": must be between 1 and 256".to_owned()),
        ("n_parallel", "257", "\"257\": must be between 1 and 256".to_owned()),
        ("n_batch", "0", "\"0\": must be between 1 and 65536".to_owned()),
        ("n_batch", "65537", "\"65537\": must be between 1 and 65536".to_owned()),
        (
            "n_batch",
            "15",
            "15: must be at least 16, one token for each of the slots (n_parallel = 16 x 1 instances)".to_owned(),
        ),
        ("n_ubatch", "0", "\"0\": must be between 1 and 65536".to_owned()),
        ("n_ubatch", "513", "513: must be at most 'n_batch' = 512".to_owned()),
        ("n_threads", "513", "\"513\": must be between 0 and 512".to_owned()),
        ("n_threads_batch", "-1", "\"-1\": must be between 0 and 512".to_owned()),
        ("n_gpu_layers", "-2", "\"-2\": must be between 0 and 65536, or -1 (all)".to_owned()),
        ("cache_type_k", "q4_k", format!("\"q4_k\": {caches}")),
        ("cache_type_v", "", format!("\"\": {caches}")),
        ("flash_attn", "yes", "\"yes\": must be one of auto, on, off".to_owned()),
        ("use_mmap", "on", "\"on\": must be true or false".to_owned()),
        ("use_mlock", "", "\"\": must be true or false".to_owned()),
        ("speculative_method", "eagle", "\"eagle\": must be one of none, ngram, draft_model".to_owned()),
        ("num_speculative_tokens", "0", "\"0\": must be between 1 and 64".to_owned()),
        ("num_speculative_tokens", "65", "\"65\": must be between 1 and 64".to_owned()),
        ("prompt_lookup_max", "65", "\"65\": must be between 1 and 64".to_owned()),
        ("prompt_lookup_min", "0", "\"0\": must be between 1 and 64".to_owned()),
        ("speculative_model", "", "\"\": must be text of 1 to 4096 bytes".to_owned()),
        ("chat_template", "", "\"\": must be text of 1 to 1048576 bytes".to_owned()),
        ("chat_template_file", "", "\"\": must be text of 1 to 4096 bytes".to_owned()),
        ("max_queue_size", "65537", "\"65537\": must be between 0 and 65536".to_owned()),
        ("max_prompt_bytes", "0", "\"0\": must be between 1 and 268435456".to_owned()),
        ("strict_parameters", "2", "\"2\": must be true or false".to_owned()),
        ("sampling_parameters", "", "\"\": must be text of 1 to 65536 bytes".to_owned()),
    ];
    for (name, value, expected) in cases {
        let expected = format!("config parameter '{name}' = {expected}");
        assert_eq!(parameters(&[(name, value)]), Err(expected));
    }
}

#[test]
fn bad_combinations_and_names_are_named() {
    let cases: [(&[(&str, &str)], &str); 12] = [
        (
            &[("n_ctxx", "1")],
            "unknown config parameter 'n_ctxx': did you mean 'n_ctx'?",
        ),
        (
            &[("context", "1")],
            "unknown config parameter 'context': known are model_path, n_ctx, \
          n_parallel, n_batch, n_ubatch, n_threads, n_threads_batch, n_gpu_layers, cache_type_k, \
          cache_type_v, flash_attn, kv_unified, enable_prefix_caching, cache_ram, target_itl_ms, speculative_method, \
          num_speculative_tokens, prompt_lookup_max, prompt_lookup_min, speculative_model, use_mmap, use_mlock, chat_template, chat_template_file, \
          max_queue_size, max_prompt_bytes, sampling_parameters, strict_parameters",
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
            &[("sampling_parameters", "{")],
            "config parameter 'sampling_parameters': 'sampling_parameters': invalid JSON: EOF while \
             parsing an object at line 1 column 1",
        ),
        (
            &[("sampling_parameters", r#"{"top_p": 2}"#)],
            "config parameter 'sampling_parameters': parameter 'top_p' = 2: must be above 0 and at most 1",
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
fn instances_are_counted_and_placed() {
    use Device::{Cpu, Gpu};
    use InstanceKind as Kind;
    let group = |kind, count, gpus: &[u32]| InstanceGroup {
        kind,
        count,
        gpus: gpus.to_vec(),
    };
    let no_gpu = "instance_group asks for KIND_GPU, or for KIND_AUTO on a server that sees a GPU, but \
                  this build has no CUDA, or this machine no GPU: use KIND_CPU";
    // groups, instances in all, placement without and with a GPU
    let cases = [
        (vec![], 1, Ok(vec![(Cpu, 1)]), vec![(Gpu(0), 1)]),
        (
            vec![group(Kind::Cpu, 4, &[])],
            4,
            Ok(vec![(Cpu, 4)]),
            vec![(Cpu, 4)],
        ),
        (
            vec![group(Kind::Cpu, 0, &[])],
            1,
            Ok(vec![(Cpu, 1)]),
            vec![(Cpu, 1)],
        ),
        (
            vec![group(Kind::Auto, 2, &[])],
            2,
            Ok(vec![(Cpu, 2)]),
            vec![(Gpu(0), 2)],
        ),
        (
            vec![group(Kind::Model, 1, &[])],
            1,
            Ok(vec![(Cpu, 1)]),
            vec![(Gpu(0), 1)],
        ),
        (
            vec![group(Kind::Gpu, 1, &[])],
            1,
            Err(no_gpu),
            vec![(Gpu(0), 1)],
        ),
        (
            vec![group(Kind::Gpu, 2, &[1, 0])],
            4,
            Err(no_gpu),
            vec![(Gpu(1), 2), (Gpu(0), 2)],
        ),
        (
            vec![
                group(Kind::Cpu, 1, &[]),
                group(Kind::Gpu, 1, &[0]),
                group(Kind::Cpu, 2, &[]),
            ],
            4,
            Err(no_gpu),
            vec![(Cpu, 3), (Gpu(0), 1)],
        ),
    ];
    for (groups, n_instances, without, with) in cases {
        let place = |gpu| match placement(&groups, gpu) {
            Ok(placed) => Ok(placed
                .iter()
                .map(|p| (p.device, p.n_instances))
                .collect::<Vec<_>>()),
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(place(false), without.map_err(str::to_owned), "{groups:?}");
        assert_eq!(place(true), Ok(with), "{groups:?}");
        let mut config = smallest();
        config["instance_group"] = groups
            .iter()
            .map(|g| json!({"kind": g.kind.as_str(), "count": g.count, "gpus": g.gpus}))
            .collect();
        let read = read(&config).expect("every group is valid");
        assert_eq!(
            (read.n_instances, read.n_slots),
            (n_instances, 16 * n_instances)
        );
        assert_eq!(read.instance_groups, groups);
    }
}
