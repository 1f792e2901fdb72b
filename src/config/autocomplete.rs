//! What we fill in of a model configuration at load, so that `backend: "llm"` is enough.
//!
//! Called on Triton's model-initialize thread while auto-complete is on; the
//! result goes to ModelSetConfig. Triton takes over only the inputs, outputs,
//! max_batch_size, an unset scheduler and the decoupled flag, but compares the
//! scheduler, so the configuration goes back whole, with nothing else changed.

use serde_json::{Map, Value, json};

use super::ConfigError;
use super::raw::RawConfig;
use super::{CONTRACT, tensors};
use crate::contract::Declared;

/// A completed configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// The whole configuration for ModelSetConfig; `None` where nothing was missing.
    pub json: Option<String>,
    /// What the user wrote and we changed, a sentence each for the log.
    pub notes: Vec<String>,
}

/// Adds what is missing, drops inputs that are better not declared and makes the model decoupled.
pub fn autocomplete(config_json: &str) -> Result<Completed, ConfigError> {
    let raw = RawConfig::read(config_json)?;
    tensors::check_declared(CONTRACT, &raw)?;

    let mut config: Map<String, Value> = serde_json::from_str(config_json)?;
    let mut notes = Vec::new();
    let mut changed = false;

    for name in tensors::unwanted(CONTRACT, &raw) {
        if let Some(Value::Array(inputs)) = config.get_mut("input") {
            inputs.retain(|input| input["name"] != name);
        }
        changed = true;
        notes.push(format!(
            "input '{name}' is left out of the model: with it Triton's generate endpoints \
             refuse every request whose body has a '{name}' key; request parameters arrive \
             without it"
        ));
    }
    changed |= add(
        &mut config,
        "input",
        tensors::missing(CONTRACT.inputs, &raw.input).collect(),
    );
    changed |= add(
        &mut config,
        "output",
        tensors::missing(CONTRACT.outputs, &raw.output).collect(),
    );
    if !raw.is_decoupled() {
        // Absent is the usual case; false written out is a wish that we do not follow.
        if raw.model_transaction_policy.is_some() {
            notes.push(
                "model_transaction_policy.decoupled = false is changed to true: a stream is \
                 several responses; send \"streaming\": false for a single one"
                    .to_owned(),
            );
        }
        config.insert(
            "model_transaction_policy".to_owned(),
            json!({ "decoupled": true }),
        );
        changed = true;
    }

    let json = changed.then(|| Value::Object(config).to_string());
    Ok(Completed { json, notes })
}

/// Appends declarations to a list of the configuration; true if there were any.
fn add(config: &mut Map<String, Value>, list: &str, missing: Vec<&Declared>) -> bool {
    if missing.is_empty() {
        return false;
    }
    let declarations = missing.into_iter().map(tensors::declaration);
    match config.get_mut(list) {
        Some(Value::Array(declared)) => declared.extend(declarations),
        _ => {
            config.insert(list.to_owned(), declarations.collect());
        }
    }
    true
}
