//! What auto-complete fills in, what it changes and says, and what to write where it is off.

use serde_json::{Value, json};
use triton_llm::config::{autocomplete, parse};

use crate::{read, seed, smallest, tensor};

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
