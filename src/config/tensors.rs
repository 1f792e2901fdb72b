//! The inputs and outputs that a model has: one row each.
//!
//! Used by `parse` and `autocomplete` on the model-initialize thread to check
//! what is declared and to add what is not. Knows nothing of their contents.

use serde_json::{Value, json};

use super::ConfigError;
use super::raw::{RawConfig, RawTensor};

/// An input or output; all carry TYPE_STRING.
pub(crate) struct Tensor {
    pub(crate) name: &'static str,
    dim: i64,
    /// Whether a model cannot work without it.
    required: bool,
    /// Whether auto-complete declares it.
    added: bool,
}

/// The input that some configurations declare and Triton's generate endpoints trip over.
pub(crate) const PARAMETERS: &str = "parameters";

pub(crate) const INPUTS: &[Tensor] = &[
    Tensor {
        name: "text_input",
        dim: 1,
        required: true,
        added: true,
    },
    Tensor {
        name: "sampling_parameters",
        dim: 1,
        required: false,
        added: true,
    },
    Tensor {
        name: "stop",
        dim: -1,
        required: false,
        added: true,
    },
    Tensor {
        name: PARAMETERS,
        dim: 1,
        required: false,
        added: false,
    },
];

pub(crate) const OUTPUTS: &[Tensor] = &[Tensor {
    name: "text_output",
    dim: 1,
    required: true,
    added: true,
}];

impl Tensor {
    /// The declaration in Triton's JSON.
    pub(crate) fn declaration(&self) -> Value {
        let mut tensor = json!({
            "name": self.name,
            "data_type": "TYPE_STRING",
            "dims": [self.dim],
        });
        if !self.required {
            tensor["optional"] = Value::Bool(true);
        }
        tensor
    }
}

/// Those of `known` that auto-complete has to add to `declared`.
pub(crate) fn missing<'a>(
    known: &'a [Tensor],
    declared: &'a [RawTensor],
) -> impl Iterator<Item = &'a Tensor> {
    known
        .iter()
        .filter(|tensor| tensor.added && !declared.iter().any(|found| found.name == tensor.name))
}

/// Checks whatever is declared: name, type, shape.
pub(crate) fn check_declared(raw: &RawConfig) -> Result<(), ConfigError> {
    check_direction("input", INPUTS, &raw.input)?;
    check_direction("output", OUTPUTS, &raw.output)
}

/// Checks that nothing needed is missing, where auto-complete is off.
pub(crate) fn check_complete(raw: &RawConfig) -> Result<(), ConfigError> {
    for (direction, known, declared) in [
        ("input", INPUTS, &raw.input),
        ("output", OUTPUTS, &raw.output),
    ] {
        if let Some(tensor) = missing(known, declared).find(|tensor| tensor.required) {
            return Err(ConfigError::MissingTensor {
                direction,
                name: tensor.name,
                dim: tensor.dim,
            });
        }
    }
    Ok(())
}

/// What to say about a declared `parameters` input that cannot be dropped.
pub(crate) fn parameters_advice() -> String {
    format!(
        "input '{PARAMETERS}' is declared and auto-complete is off: Triton's generate endpoints \
         refuse every request whose body has a '{PARAMETERS}' key; remove this input from \
         config.pbtxt, request parameters arrive without it"
    )
}

fn check_direction(
    direction: &'static str,
    known: &[Tensor],
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
        if !known.iter().any(|row| row.name == name) {
            let known: Vec<_> = known.iter().map(|row| row.name).collect();
            return Err(ConfigError::UnknownTensor {
                direction,
                name,
                known: known.join(", "),
            });
        }
        if declared[..index].iter().any(|other| other.name == name) {
            return Err(ConfigError::RepeatedTensor { direction, name });
        }
        if tensor.data_type != "TYPE_STRING" {
            return Err(ConfigError::TensorType {
                direction,
                name,
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
