//! The model configuration read as tables: Triton's JSON in, the settings or the exact error out.
//!
//! Here are the configurations that the tables begin with.

mod autocomplete;
mod devices;
mod fields;
mod parameters;
mod placement;

use serde_json::{Value, json};
use triton_llm::config::{InstanceGroup, InstanceKind, ModelConfig, parse};
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

fn group(kind: InstanceKind, count: u32, gpus: &[u32]) -> InstanceGroup {
    InstanceGroup {
        kind,
        count,
        gpus: gpus.to_vec(),
        passive: false,
    }
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
