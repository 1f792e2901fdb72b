//! The inputs and outputs that a configuration declares, against those of its contract.
//!
//! Used by `parse` and `autocomplete` on the model-initialize thread to check
//! what is declared and to add what is not. Knows nothing of their contents.

use serde_json::{Value, json};

use super::ConfigError;
use super::raw::{RawConfig, RawTensor};
use crate::contract::{Contract, Declared, Presence};

/// The declaration in Triton's JSON.
pub(crate) fn declaration(tensor: &Declared) -> Value {
    let mut declaration = json!({
        "name": tensor.name,
        "data_type": tensor.datatype.config_name(),
        "dims": [tensor.dim],
    });
    if tensor.presence != Presence::Required {
        declaration["optional"] = Value::Bool(true);
    }
    declaration
}

/// Those of `known` that auto-complete has to add to `declared`.
pub(crate) fn missing<'a>(
    known: &'a [Declared],
    declared: &'a [RawTensor],
) -> impl Iterator<Item = &'a Declared> {
    known.iter().filter(|tensor| {
        let is_wanted = tensor.presence != Presence::Unwanted;
        is_wanted && !declared.iter().any(|found| found.name == tensor.name)
    })
}

/// The inputs that a configuration declares and had better not.
pub(crate) fn unwanted(contract: &Contract, raw: &RawConfig) -> Vec<&'static str> {
    let unwanted = contract.inputs.iter();
    let unwanted = unwanted.filter(|input| input.presence == Presence::Unwanted);
    let names = unwanted.map(|input| input.name);
    names.filter(|name| raw.declares_input(name)).collect()
}

/// Checks whatever is declared: name, type, shape.
pub(crate) fn check_declared(contract: &Contract, raw: &RawConfig) -> Result<(), ConfigError> {
    check_direction("input", contract.inputs, &raw.input)?;
    check_direction("output", contract.outputs, &raw.output)
}

/// Checks that nothing needed is missing, where auto-complete is off.
pub(crate) fn check_complete(contract: &Contract, raw: &RawConfig) -> Result<(), ConfigError> {
    for (direction, known, declared) in [
        ("input", contract.inputs, &raw.input),
        ("output", contract.outputs, &raw.output),
    ] {
        let mut missing = missing(known, declared);
        if let Some(tensor) = missing.find(|tensor| tensor.presence == Presence::Required) {
            return Err(ConfigError::MissingTensor {
                direction,
                name: tensor.name,
                dim: tensor.dim,
            });
        }
    }
    Ok(())
}

/// What to say about an unwanted input that cannot be dropped.
pub(crate) fn unwanted_advice(name: &str) -> String {
    format!(
        "input '{name}' is declared and auto-complete is off: Triton's generate endpoints \
         refuse every request whose body has a '{name}' key; remove this input from \
         config.pbtxt, request parameters arrive without it"
    )
}

fn check_direction(
    direction: &'static str,
    known: &[Declared],
    declared: &[RawTensor],
) -> Result<(), ConfigError> {
    for (index, tensor) in declared.iter().enumerate() {
        let name = tensor.name.clone();
        if tensor.reshape.is_some() {
            return Err(ConfigError::Reshape {
                direction,
                index,
                name,
            });
        }
        let Some(row) = known.iter().find(|row| row.name == name) else {
            let known: Vec<_> = known.iter().map(|row| row.name).collect();
            return Err(ConfigError::UnknownTensor {
                direction,
                name,
                known: known.join(", "),
            });
        };
        if declared[..index].iter().any(|other| other.name == name) {
            return Err(ConfigError::RepeatedTensor { direction, name });
        }
        let expected = row.datatype.config_name();
        if tensor.data_type != expected {
            return Err(ConfigError::TensorType {
                direction,
                name,
                expected,
                found: tensor.data_type.clone(),
            });
        }
        let dims: Vec<i64> = tensor.dims.iter().map(|dim| dim.0).collect();
        if !matches!(dims[..], [1] | [-1]) {
            return Err(ConfigError::TensorDims {
                direction,
                name,
                found: dims,
            });
        }
    }
    Ok(())
}
