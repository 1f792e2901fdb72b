//! What becomes of each field of a model configuration.
//!
//! [`FIELDS`] is the one place that says it: `raw` refuses through it what would be dropped in silence, and
//! docs/parameters.md has its rows. Pure.

use serde_json::{Map, Value};

use super::ConfigError;

/// Who looks at a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// We do.
    Backend,
    /// Triton does, and it works as for any other backend.
    Triton,
    /// Nobody: it changes nothing.
    Nobody,
    /// A configuration that has it is refused.
    Refused,
}

impl Reader {
    /// How docs/parameters.md calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Backend => "the backend",
            Self::Triton => "Triton",
            Self::Nobody => "nobody",
            Self::Refused => "refused",
        }
    }
}

/// A field of the protobuf message ModelConfig.
pub struct Field {
    pub name: &'static str,
    pub reader: Reader,
    /// What it does here, or what to write in its place.
    pub meaning: &'static str,
}

const fn field(name: &'static str, reader: Reader, meaning: &'static str) -> Field {
    Field {
        name,
        reader,
        meaning,
    }
}

/// All fields that Triton knows, in the order of its message.
pub static FIELDS: [Field; 25] = [
    field("name", Reader::Backend, "The model's name"),
    field(
        "platform",
        Reader::Triton,
        "Left empty: `backend` says more",
    ),
    field(
        "backend",
        Reader::Triton,
        "`llm`, the name under which the library is installed",
    ),
    field(
        "runtime",
        Reader::Triton,
        "The library's file, `libtriton_llm.so` if left empty",
    ),
    field(
        "version_policy",
        Reader::Triton,
        "Which version folders are served",
    ),
    field(
        "max_batch_size",
        Reader::Backend,
        "Above 0 requests have a batch dimension, which must be 1: requests are batched by the backend itself",
    ),
    field(
        "input",
        Reader::Backend,
        "Checked where it is given, filled in where not",
    ),
    field("output", Reader::Backend, "The same"),
    field(
        "batch_input",
        Reader::Refused,
        "requests are batched by the backend itself",
    ),
    field(
        "batch_output",
        Reader::Refused,
        "requests are batched by the backend itself",
    ),
    field(
        "optimization",
        Reader::Nobody,
        "Hints for other backends; what there is to choose is among the parameters",
    ),
    field(
        "dynamic_batching",
        Reader::Triton,
        "Priorities and queue policies hold; a delay only makes requests wait",
    ),
    field(
        "sequence_batching",
        Reader::Refused,
        "requests are batched by the backend itself",
    ),
    field(
        "ensemble_scheduling",
        Reader::Refused,
        "requests are batched by the backend itself",
    ),
    field(
        "instance_group",
        Reader::Backend,
        "Where the model runs, and how many times `n_parallel` slots it has",
    ),
    field(
        "default_model_filename",
        Reader::Backend,
        "The model's file, as the parameter `model_path`; give one of the two",
    ),
    field(
        "cc_model_filenames",
        Reader::Refused,
        "the same file runs on every GPU: write default_model_filename",
    ),
    field("metric_tags", Reader::Triton, "Labels of its metrics"),
    field("parameters", Reader::Backend, "The table below"),
    field(
        "model_warmup",
        Reader::Triton,
        "Requests that it sends before the model is ready",
    ),
    field(
        "model_operations",
        Reader::Refused,
        "no libraries are loaded for a model",
    ),
    field(
        "model_transaction_policy",
        Reader::Backend,
        "Always decoupled; false is changed, with a line in the log",
    ),
    field(
        "model_repository_agents",
        Reader::Triton,
        "Programs that see the model's files first",
    ),
    field(
        "response_cache",
        Reader::Triton,
        "Refused by it for decoupled models",
    ),
    field("model_metrics", Reader::Triton, "How it measures the model"),
];

/// Refuses what would be dropped in silence; notes for the log of what nobody knows.
pub(super) fn check(config: &Map<String, Value>) -> Result<Vec<String>, ConfigError> {
    let mut notes = Vec::new();
    for (name, _) in config.iter().filter(|(name, value)| is_set(name, value)) {
        match FIELDS.iter().find(|field| field.name == name) {
            Some(field) if field.reader == Reader::Refused => {
                return Err(ConfigError::Field {
                    field: field.name,
                    meaning: field.meaning,
                });
            }
            Some(_) => {}
            None => notes.push(format!(
                "field '{}' of the model configuration is not known here and changes nothing",
                name.escape_debug()
            )),
        }
    }
    Ok(notes)
}

/// Whether somebody wrote it: Triton gives all lists, maps and numbers, empty where nobody did.
fn is_set(name: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty() && text != "0",
        Value::Array(elements) => !elements.is_empty(),
        // The one map among them; of the messages each is there or not.
        Value::Object(entries) => name != "cc_model_filenames" || !entries.is_empty(),
        Value::Bool(true) => true,
    }
}
