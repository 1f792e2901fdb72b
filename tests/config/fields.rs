//! Fields of the model configuration: what is taken of each, and what is refused.

use serde_json::json;
use triton_llm::config::{autocomplete, parse};

use crate::{read, seed, smallest, with_parameters};

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
fn a_group_takes_requests() {
    let mut config = with_parameters(&[]);
    config["instance_group"] = json!([{"kind": "KIND_CPU", "passive": true}, {"passive": true}]);
    let error = "instance_group has only groups with 'passive: true', to which Triton gives no requests: \
                 leave 'passive' out of one";
    assert_eq!(read(&config), Err(error.to_owned()));
}
