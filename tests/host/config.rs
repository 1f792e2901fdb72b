//! The configuration of a scenario's model.

use std::ffi::c_int;

use serde_json::Value;

use super::KIND_CPU;

/// A model configuration, as far as scenarios change any.
#[derive(Clone)]
pub struct Config {
    pub name: &'static str,
    pub max_batch_size: u32,
    pub auto_complete: bool,
    /// Of the one instance; the configuration's group has it, too.
    pub kind: c_int,
    /// Whether Triton gives that instance no requests.
    pub is_passive: bool,
    pub parameters: Vec<(&'static str, String)>,
    /// Fields of the configuration in place of those above.
    pub fields: Vec<(&'static str, Value)>,
}

impl Default for Config {
    /// Greedy, small, and one thread only: scenarios are about the wire.
    fn default() -> Self {
        let parameters = [
            ("sampling_parameters", r#"{"temperature": 0}"#),
            ("n_threads", "1"),
            ("n_ctx", "8192"),
            ("n_parallel", "8"),
        ]
        .map(|(name, value)| (name, value.to_owned()));
        Self {
            name: "demo",
            max_batch_size: 0,
            auto_complete: true,
            kind: KIND_CPU,
            is_passive: false,
            parameters: parameters.into(),
            fields: Vec::new(),
        }
    }
}

impl Config {
    /// Sets a parameter.
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.parameters.retain(|(known, _)| *known != name);
        self.parameters.push((name, value.into()));
        self
    }

    /// Sets a field other than a parameter.
    pub fn field(mut self, name: &'static str, value: Value) -> Self {
        self.fields.push((name, value));
        self
    }

    /// Places the instance.
    pub fn on(mut self, kind: c_int) -> Self {
        self.kind = kind;
        self
    }

    pub(super) fn json(&self) -> String {
        let kind = ["KIND_AUTO", "KIND_CPU", "KIND_GPU", "KIND_MODEL"][self.kind as usize];
        let parameters: serde_json::Map<String, Value> = self
            .parameters
            .iter()
            .map(|(name, value)| {
                (
                    (*name).to_owned(),
                    serde_json::json!({ "string_value": value }),
                )
            })
            .collect();
        let mut json = serde_json::json!({
            "name": self.name,
            "backend": "llm",
            "max_batch_size": self.max_batch_size,
            "input": [],
            "output": [],
            "instance_group": [{ "name": self.name, "kind": kind, "count": 1, "gpus": [] }],
            "parameters": parameters,
        });
        for (field, value) in &self.fields {
            json[*field] = value.clone();
        }
        json.to_string()
    }
}
