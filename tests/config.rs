//! The model configuration read as tables: Triton's JSON in, the settings or the exact error out.

use serde_json::{Value, json};
use triton_llm::config::{
    CacheType, FlashAttention, GpuLayers, InstanceGroup, InstanceKind, ModelConfig, Parameters,
    Place, SpeculativeMethod, SplitMode, autocomplete, parse, placement,
};
use triton_llm::machine::device::{Device, DeviceKind};

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

#[test]
fn a_field_that_nobody_knows_is_named_in_the_log() {
    let mut config = smallest();
    config["response_cache"] = json!({"enable": false});
    config["model_metrics"] = json!({"metric_control": []});
    config["new_number"] = json!(0);
    config["new_list"] = json!([]);
    config["new_field"] = json!({"a": 1});
    let (_, notes) = parse(&config.to_string(), true).expect("it changes nothing");
    let note = "field 'new_field' of the model configuration is not known here and changes nothing";
    assert_eq!(notes, [note]);
}

#[test]
fn the_model_file_has_one_name() {
    let check = |filename: &str, model_path: Option<&str>, expected: Result<Option<&str>, &str>| {
        let written = model_path.map(|path| ("model_path", path));
        let mut config = with_parameters(written.as_slice());
        config["default_model_filename"] = json!(filename);
        let read = read(&config).map(|config| config.model_file.map(|file| file.path));
        assert_eq!(
            read,
            expected
                .map(|path| path.map(str::to_owned))
                .map_err(str::to_owned)
        );
    };
    check("", None, Ok(None));
    check("a.gguf", None, Ok(Some("a.gguf")));
    // What Triton fills in where the model's name names the backend.
    check("model.llm", None, Ok(None));
    check("model.llm", Some("b.gguf"), Ok(Some("b.gguf")));
    check("model.gguf", None, Ok(Some("model.gguf")));
    check("", Some("b.gguf"), Ok(Some("b.gguf")));
    let text = "default_model_filename and the config parameter 'model_path' both name the model's \
                file: give one of them";
    check("a.gguf", Some("a.gguf"), Err(text));
}

#[test]
fn a_tensor_keeps_its_shape() {
    let mut config = seed();
    config["input"][0]["reshape"] = json!({"shape": []});
    let text = "input[0] 'text_input' has a reshape: remove it, its shape is fixed";
    assert_eq!(read(&config), Err(text.to_owned()));
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
            "instance_group[0] asks for KIND_CPU with count = 257: count must be between 0 and 256",
        ),
        (
            "/instance_group/0/count",
            json!(-1),
            "instance_group[0] asks for KIND_CPU with count = -1: count must be between 0 and 256",
        ),
        (
            "/instance_group/0/gpus",
            json!([0, -1]),
            "instance_group[0] names GPU -1 in 'gpus': must be between 0 and 2147483647",
        ),
        (
            "/instance_group/0/gpus",
            json!([2147483648_u32]),
            "instance_group[0] names GPU 2147483648 in 'gpus': must be between 0 and 2147483647",
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
    let batched = "requests are batched by the backend itself";
    for (field, value, why) in [
        ("sequence_batching", json!({}), batched),
        ("ensemble_scheduling", json!({}), batched),
        (
            "batch_input",
            json!([{"kind": "BATCH_ELEMENT_COUNT"}]),
            batched,
        ),
        ("batch_output", json!([{}]), batched),
        (
            "cc_model_filenames",
            json!({"7.5": "a.gguf"}),
            "the same file runs on every GPU: write default_model_filename",
        ),
        (
            "model_operations",
            json!({"op_library_filename": ["a.so"]}),
            "no libraries are loaded for a model",
        ),
    ] {
        let mut config = seed();
        config[field] = value;
        let text = format!("{field} is not supported: remove it, {why}");
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

fn group(kind: InstanceKind, count: u32, gpus: &[u32]) -> InstanceGroup {
    InstanceGroup {
        kind,
        count,
        gpus: gpus.to_vec(),
        passive: false,
    }
}

/// A group that Triton gives no requests to.
fn passive(kind: InstanceKind, count: u32) -> InstanceGroup {
    InstanceGroup {
        passive: true,
        ..group(kind, count, &[])
    }
}

#[test]
fn a_group_takes_requests() {
    let mut config = with_parameters(&[]);
    config["instance_group"] = json!([{"kind": "KIND_CPU", "passive": true}, {"passive": true}]);
    let error = "instance_group has only groups with 'passive: true', to which Triton gives no requests: \
                 leave 'passive' out of one";
    assert_eq!(read(&config), Err(error.to_owned()));
}

#[test]
fn every_slot_has_tokens() {
    let check = |written: &[(&str, &str)], n_instances, expected: Result<usize, &str>| {
        let config = with_groups(&[group(InstanceKind::Cpu, n_instances, &[])], written);
        let placed = placement(&config, None).map_err(|error| error.to_string());
        let n_slots = placed.map(|placed| placed[0].n_slots);
        assert_eq!(n_slots, expected.map_err(str::to_owned), "{written:?}");
    };
    check(&[], 2, Ok(32));
    check(&[("n_ctx", "2")], 1, Ok(1));
    check(&[("n_ctx", "11")], 1, Ok(5));
    check(&[("n_ctx", "32")], 1, Ok(16));
    check(&[("n_ctx", "11")], 2, Ok(4));
    check(&[("n_ctx", "11"), ("kv_unified", "false")], 1, Ok(5));
    check(&[("n_ctx", "16"), ("n_parallel", "16")], 1, Ok(16));
    let error = "config parameter 'n_ctx' = 15: must be 0 (automatic) or at least 16, 1 for each of the slots \
                 (n_parallel = 16 x 1 instances)";
    check(&[("n_ctx", "15"), ("n_parallel", "16")], 1, Err(error));
    let error = "config parameter 'n_ctx' = 31: must be 0 (automatic) or at least 32, 2 for each of the slots \
                 (n_parallel = 8 x 2 instances)";
    let split = [
        ("n_ctx", "31"),
        ("n_parallel", "8"),
        ("kv_unified", "false"),
    ];
    check(&split, 2, Err(error));
    let error = "config parameter 'n_ctx' = 2: must be 0 (automatic) or at least 3, 1 for each of the slots \
                 (n_parallel = 1 x 3 instances)";
    check(&[("n_ctx", "2")], 3, Err(error));
}

fn gpu(index: u32) -> Device {
    Device {
        name: format!("CUDA{index}"),
        kind: DeviceKind::Gpu,
        description: "H200".to_owned(),
        free_bytes: 1 << 37,
        total_bytes: 1 << 37,
        cuda_index: Some(index),
        compute_capability: Some((9, 0)),
    }
}

fn with_groups(groups: &[InstanceGroup], parameters: &[(&str, &str)]) -> ModelConfig {
    let mut config = with_parameters(parameters);
    config["instance_group"] = groups
        .iter()
        .map(|g| json!({"kind": g.kind.as_str(), "count": g.count, "gpus": g.gpus, "passive": g.passive}))
        .collect();
    read(&config).expect("every group is valid")
}

#[test]
fn instances_are_counted_and_placed() {
    use InstanceKind as Kind;
    use Place::{Cpu, Model};
    const NO_CUDA: &str = "instance_group asks for KIND_GPU, or for KIND_AUTO on a server that sees a GPU, but \
                           this build has no CUDA: use KIND_CPU";
    const NO_GPU: &str = "instance_group asks for KIND_GPU, or for KIND_AUTO on a server that sees a GPU, but \
                          there is no GPU that can be used: use KIND_CPU; the log says why";
    type Placed = Vec<(Place, usize, Vec<u32>)>;
    let gpu_of = |index, n_instances| (Place::Gpu(index), n_instances, vec![index]);
    let cpu = |n_instances| (Cpu, n_instances, vec![]);
    // groups, instances in all, placement without a GPU and with two
    type Case = (Vec<InstanceGroup>, usize, Result<Placed, ()>, Placed);
    let cases: Vec<Case> = vec![
        (
            vec![],
            1,
            Ok(vec![cpu(1)]),
            vec![gpu_of(0, 1), gpu_of(1, 1)],
        ),
        (
            vec![group(Kind::Cpu, 4, &[])],
            4,
            Ok(vec![cpu(4)]),
            vec![cpu(4)],
        ),
        (
            vec![group(Kind::Cpu, 0, &[])],
            1,
            Ok(vec![cpu(1)]),
            vec![cpu(1)],
        ),
        (
            vec![group(Kind::Auto, 2, &[1])],
            2,
            Ok(vec![cpu(2)]),
            vec![gpu_of(1, 2)],
        ),
        (
            vec![group(Kind::Model, 1, &[])],
            1,
            Ok(vec![cpu(1)]),
            vec![(Model, 1, vec![0, 1])],
        ),
        (
            vec![group(Kind::Gpu, 1, &[])],
            1,
            Err(()),
            vec![gpu_of(0, 1), gpu_of(1, 1)],
        ),
        (
            vec![group(Kind::Gpu, 2, &[1, 0])],
            4,
            Err(()),
            vec![gpu_of(1, 2), gpu_of(0, 2)],
        ),
        (
            vec![
                group(Kind::Cpu, 1, &[]),
                group(Kind::Gpu, 1, &[0]),
                group(Kind::Cpu, 2, &[]),
                group(Kind::Gpu, 3, &[0]),
            ],
            7,
            Err(()),
            vec![cpu(3), gpu_of(0, 4)],
        ),
        // On the CPU, those that leave the choice to us share an engine with those of KIND_CPU.
        (
            vec![group(Kind::Model, 1, &[]), group(Kind::Cpu, 1, &[])],
            2,
            Ok(vec![cpu(2)]),
            vec![(Model, 1, vec![0, 1]), cpu(1)],
        ),
        (
            vec![passive(Kind::Gpu, 3), group(Kind::Cpu, 1, &[])],
            1,
            Ok(vec![cpu(1)]),
            vec![cpu(1)],
        ),
    ];
    for (groups, n_instances, without, with) in cases {
        let config = with_groups(&groups, &[]);
        assert_eq!(config.n_instances, n_instances, "{groups:?}");
        assert_eq!(config.instance_groups, groups);
        let place = |gpus: Option<&[Device]>| match placement(&config, gpus) {
            Ok(placed) => {
                assert!(
                    placed.iter().all(|p| p.n_slots == 16 * p.n_instances),
                    "{placed:?}"
                );
                let numbers = |p: &triton_llm::config::Placement| {
                    p.devices.iter().filter_map(|g| g.cuda_index).collect()
                };
                Ok(placed
                    .iter()
                    .map(|p| (p.place, p.n_instances, numbers(p)))
                    .collect())
            }
            Err(error) => Err(error.to_string()),
        };
        assert_eq!(
            place(None),
            without.clone().map_err(|()| NO_CUDA.to_owned()),
            "{groups:?}"
        );
        assert_eq!(
            place(Some(&[])),
            without.map_err(|()| NO_GPU.to_owned()),
            "{groups:?}"
        );
        assert_eq!(
            place(Some(&[gpu(0), gpu(1)])),
            Ok::<Placed, _>(with),
            "{groups:?}"
        );
    }
}

#[test]
fn parameters_choose_the_devices_of_kind_model() {
    let model = [group(InstanceKind::Model, 1, &[])];
    let gpus = [gpu(0), gpu(1), gpu(2)];
    let check = |parameters: &[(&str, &str)], expected: &[u32], split_mode: SplitMode| {
        let placed = placement(&with_groups(&model, parameters), Some(&gpus));
        let placed = placed.unwrap_or_else(|error| panic!("{parameters:?}: {error}"));
        let devices = placed[0].devices.iter();
        let numbers: Vec<u32> = devices.filter_map(|gpu| gpu.cuda_index).collect();
        assert_eq!(
            (numbers.as_slice(), placed[0].split_mode),
            (expected, split_mode),
            "{parameters:?}"
        );
        let place = if expected.is_empty() {
            Place::Cpu
        } else {
            Place::Model
        };
        assert_eq!(placed[0].place, place, "{parameters:?}");
    };
    check(&[], &[0, 1, 2], SplitMode::Layer);
    check(&[("devices", "CUDA2,CUDA0")], &[2, 0], SplitMode::Layer);
    check(&[("devices", "CUDA1")], &[1], SplitMode::None);
    check(&[("devices", "none")], &[], SplitMode::None);
    check(&[("split_mode", "none")], &[0], SplitMode::None);
    check(
        &[("split_mode", "none"), ("main_gpu", "2")],
        &[2],
        SplitMode::None,
    );
    check(
        &[
            ("split_mode", "none"),
            ("main_gpu", "1"),
            ("devices", "CUDA2,CUDA0"),
        ],
        &[0],
        SplitMode::None,
    );
    check(&[("split_mode", "row")], &[0, 1, 2], SplitMode::Row);
    check(
        &[("split_mode", "row"), ("devices", "none")],
        &[],
        SplitMode::None,
    );
    check(&[("tensor_split", "3,0,1")], &[0, 1, 2], SplitMode::Layer);
    check(
        &[("override_tensor", "a=CUDA2,b=CPU")],
        &[0, 1, 2],
        SplitMode::Layer,
    );
}

#[test]
fn proportions_are_for_the_group_that_is_spread() {
    use InstanceKind as Kind;
    use Place::{Cpu, Model};
    let gpus = [gpu(0), gpu(1)];
    let model = || group(Kind::Model, 1, &[]);
    let check = |groups: &[InstanceGroup],
                 parameters: &[(&str, &str)],
                 expected: &[(Place, &[f32])]| {
        let placed = placement(&with_groups(groups, parameters), Some(&gpus));
        let placed = placed.unwrap_or_else(|error| panic!("{groups:?} {parameters:?}: {error}"));
        let found: Vec<(Place, &[f32])> = placed
            .iter()
            .map(|p| (p.place, p.tensor_split.as_slice()))
            .collect();
        assert_eq!(found, expected, "{groups:?} {parameters:?}");
    };
    let split = ("tensor_split", "3,1");
    check(&[model()], &[], &[(Model, &[])]);
    check(&[model()], &[split], &[(Model, &[3.0, 1.0])]);
    check(
        &[model()],
        &[split, ("split_mode", "row")],
        &[(Model, &[3.0, 1.0])],
    );
    check(
        &[model()],
        &[("tensor_split", "1"), ("devices", "CUDA1")],
        &[(Model, &[])],
    );
    check(
        &[group(Kind::Gpu, 1, &[1]), model(), group(Kind::Cpu, 1, &[])],
        &[split],
        &[(Place::Gpu(1), &[]), (Model, &[3.0, 1.0]), (Cpu, &[])],
    );
}

/// One that no build has code for.
fn old_gpu(index: u32) -> Device {
    Device {
        compute_capability: Some((6, 1)),
        description: "P40".to_owned(),
        ..gpu(index)
    }
}

#[test]
fn a_gpu_that_is_not_used_may_be_of_any_kind() {
    let model = [group(InstanceKind::Model, 1, &[])];
    let gpus = [old_gpu(0), gpu(1)];
    let check = |parameters: &[(&str, &str)], expected: Result<&[u32], &str>| {
        let placed = placement(&with_groups(&model, parameters), Some(&gpus));
        let found = placed.map_err(|error| error.to_string()).map(|placed| {
            let indices = placed[0].devices.iter().filter_map(|gpu| gpu.cuda_index);
            indices.collect::<Vec<_>>()
        });
        let expected = expected.map(<[u32]>::to_vec).map_err(str::to_owned);
        assert_eq!(found, expected, "{parameters:?}");
    };
    let unfit =
        "config parameter 'devices': CUDA0 (P40) has compute capability 6.1: must be at least 7.5";
    check(&[], Err(unfit));
    check(&[("devices", "CUDA1")], Ok(&[1]));
    check(&[("split_mode", "none")], Err(unfit));
    check(&[("split_mode", "none"), ("main_gpu", "1")], Ok(&[1]));
}

#[test]
fn a_device_may_be_of_any_provider() {
    let other = |name: &str, kind: DeviceKind| Device {
        name: name.to_owned(),
        kind,
        cuda_index: None,
        compute_capability: None,
        ..gpu(0)
    };
    let devices = [
        other("Vulkan0", DeviceKind::Gpu),
        other("Vulkan1", DeviceKind::IntegratedGpu),
        gpu(0),
    ];
    let check = |group: InstanceGroup,
                 parameters: &[(&str, &str)],
                 there: &[Device],
                 expected: Result<&[&str], &str>| {
        let placed = placement(&with_groups(&[group], parameters), Some(there));
        let found = placed.map_err(|error| error.to_string()).map(|placed| {
            let names = placed.iter().flat_map(|placed| &placed.devices);
            names.map(|device| device.name.clone()).collect::<Vec<_>>()
        });
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(found, expected.map(names).map_err(str::to_owned));
    };
    let group = |kind| group(kind, 1, &[]);
    // Triton has numbers for those of CUDA alone.
    check(group(InstanceKind::Gpu), &[], &devices, Ok(&["CUDA0"]));
    check(group(InstanceKind::Auto), &[], &devices, Ok(&["CUDA0"]));
    check(group(InstanceKind::Auto), &[], &devices[..2], Ok(&[]));
    let none = "instance_group asks for KIND_GPU, or for KIND_AUTO on a server that sees a GPU, but \
                there is no GPU that can be used: use KIND_CPU; the log says why";
    check(group(InstanceKind::Gpu), &[], &devices[..2], Err(none));
    // Where none is named, all GPUs are taken.
    let model = || group(InstanceKind::Model);
    check(model(), &[], &devices, Ok(&["Vulkan0", "CUDA0"]));
    check(
        model(),
        &[("split_mode", "row")],
        &devices,
        Ok(&["Vulkan0", "CUDA0"]),
    );
    check(
        model(),
        &[("devices", "Vulkan1")],
        &devices,
        Ok(&["Vulkan1"]),
    );
    let unknown = "config parameter 'devices' names \"CUDA1\": there is Vulkan0 (H200), Vulkan1 (H200), CUDA0 (H200)";
    check(model(), &[("devices", "CUDA1")], &devices, Err(unknown));
}

#[test]
fn what_is_wrong_with_devices_is_named() {
    use InstanceKind as Kind;
    let gpus = [gpu(0), gpu(1), old_gpu(2)];
    let check = |group: InstanceGroup,
                 parameters: &[(&str, &str)],
                 gpus: Option<&[Device]>,
                 expected: &str| {
        let placed = placement(&with_groups(&[group], parameters), gpus);
        let error = placed.expect_err(expected).to_string();
        assert_eq!(error, expected);
    };
    let all = Some(&gpus[..]);
    let two = Some(&gpus[..2]);
    let model = || group(Kind::Model, 1, &[]);
    check(
        group(Kind::Gpu, 1, &[3]),
        &[],
        all,
        "instance_group[0] names GPU 3 in 'gpus': there is CUDA0 (H200), CUDA1 (H200), CUDA2 (P40)",
    );
    check(
        group(Kind::Gpu, 1, &[1, 1]),
        &[],
        all,
        "instance_group[0] names GPU 1 in 'gpus' twice: must be once, 'count' is for more instances; \
         there is CUDA0 (H200), CUDA1 (H200), CUDA2 (P40)",
    );
    // One that cannot be used is not in the list.
    check(
        group(Kind::Gpu, 1, &[0, 1]),
        &[],
        Some(&[gpu(0), gpu(2)]),
        "instance_group[0] names GPU 1 in 'gpus': there is CUDA0 (H200), CUDA2 (H200)",
    );
    let unfit = "CUDA2 (P40) has compute capability 6.1: must be at least 7.5";
    let of_group = format!("'gpus' of instance_group[0]: {unfit}");
    check(group(Kind::Gpu, 1, &[2]), &[], all, &of_group);
    check(group(Kind::Gpu, 1, &[]), &[], all, &of_group);
    let of_model = format!("config parameter 'devices': {unfit}");
    check(model(), &[], all, &of_model);
    check(model(), &[("devices", "CUDA2")], all, &of_model);
    check(
        model(),
        &[("devices", "CUDA0,CUDA7")],
        two,
        "config parameter 'devices' names \"CUDA7\": there is CUDA0 (H200), CUDA1 (H200)",
    );
    check(
        model(),
        &[("devices", "CPU")],
        Some(&[]),
        "config parameter 'devices' names \"CPU\": there is no GPU",
    );
    check(
        model(),
        &[("devices", "CUDA0")],
        None,
        "config parameter 'devices' names \"CUDA0\": there is no GPU, as this build has no CUDA",
    );
    check(
        model(),
        &[("tensor_split", "1,1,1")],
        two,
        "config parameter 'tensor_split' = \"1,1,1\": must be a number for each device, which are CUDA0, CUDA1",
    );
    check(
        model(),
        &[("tensor_split", "1"), ("devices", "none")],
        two,
        "config parameter 'tensor_split' = \"1\": must be a number for each device, which are none",
    );
    check(
        model(),
        &[("main_gpu", "2")],
        two,
        "config parameter 'main_gpu' = 2: must be the index, from 0, of one of the devices CUDA0, CUDA1",
    );
    check(
        model(),
        &[("split_mode", "row"), ("devices", "CUDA1,CUDA0")],
        two,
        "config parameter 'split_mode' = \"row\": must be none or layer, unless the devices are CUDA0 \
         (H200), CUDA1 (H200), in this order",
    );
    for (name, value) in [
        ("devices", "CUDA0"),
        ("split_mode", "row"),
        ("tensor_split", "1"),
        ("main_gpu", "1"),
    ] {
        for (kind, gpus) in [(Kind::Gpu, two), (Kind::Cpu, None)] {
            let kind_name = kind.as_str();
            let expected = format!(
                "config parameter '{name}' is set: it is for KIND_MODEL, instance_group has {kind_name}"
            );
            check(group(kind, 1, &[]), &[(name, value)], gpus, &expected);
        }
    }
    check(
        group(Kind::Gpu, 1, &[0]),
        &[("override_tensor", "ffn=CUDA1")],
        two,
        "config parameter 'override_tensor' = \"ffn=CUDA1\": must be with a buffer type of this model: CPU, CUDA0",
    );
    check(
        group(Kind::Cpu, 1, &[]),
        &[("override_tensor", "ffn=CUDA1")],
        None,
        "config parameter 'override_tensor' = \"ffn=CUDA1\": must be with a buffer type of this model: CPU",
    );
    check(
        group(Kind::Cpu, 17, &[]),
        &[],
        None,
        "config parameter 'n_parallel' = 16: with 17 instances that is 272 slots, must be at most 256",
    );
    check(
        group(Kind::Cpu, 1, &[]),
        &[("n_batch", "15"), ("n_ubatch", "15")],
        None,
        "config parameter 'n_batch' = 15: must be at least 16, one token for each of the slots \
         (n_parallel = 16 x 1 instances)",
    );
    // The limits are those of each engine.
    let config = with_groups(&[group(Kind::Gpu, 16, &[0, 1])], &[]);
    assert!(placement(&config, two).is_ok());
}
