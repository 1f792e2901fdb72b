//! The model configuration: what the user wrote, checked, and what the program needs.
//!
//! Triton's model-initialize thread calls [`autocomplete`], [`parse`] and
//! [`placement`] once per load. Pure: the configuration comes in as Triton's
//! JSON text and nothing here reads files, devices or the clock; whether paths
//! exist is found out by those who open them.

mod architectures;
mod autocomplete;
mod error;
pub mod fields;
mod offload;
mod parameters;
mod placement;
mod raw;
mod read;
pub mod table;
mod tensors;
mod values;

pub use autocomplete::{Completed, autocomplete};
pub use error::ConfigError;
pub use parameters::Parameters;
pub use placement::{Place, Placement, placement};
pub use raw::{InstanceGroup, InstanceKind};
pub use values::{
    CacheType, FlashAttention, GpuLayers, MAX_DEVICES, MAX_SLOTS, MAX_TEMPLATE_BYTES,
    SpeculativeMethod, SplitMode, TensorOverride, TensorSplit, is_of_experts,
};

use crate::contract::{CHAT, Contract};
use raw::RawConfig;

/// How the clients of every model speak.
const CONTRACT: &Contract = &CHAT;

/// A model configuration that has been checked as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub name: String,
    /// How the model's clients speak.
    pub contract: &'static Contract,
    /// 0 where requests have no batch dimension.
    pub max_batch_size: u32,
    /// Whether the model may answer a request with several responses.
    pub decoupled: bool,
    /// As Triton resolved them; may be empty only where Triton has not done so.
    pub instance_groups: Vec<InstanceGroup>,
    /// Instances that Triton gives requests to, over all groups and devices; at least 1.
    pub n_instances: usize,
    /// The model's file, absolute or relative to the version folder, where the configuration names it.
    pub model_file: Option<ModelFileName>,
    pub parameters: Parameters,
}

/// A file, and what names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFileName {
    pub path: String,
    /// How an error calls what names it.
    pub field: &'static str,
}

/// Reads a configuration and the remarks for the log that go with it.
///
/// Where `auto_complete` is on, `config_json` is what [`autocomplete`] made of
/// the configuration; where it is off, missing tensors and a policy that is
/// not decoupled are errors that say what to write.
pub fn parse(
    config_json: &str,
    auto_complete: bool,
) -> Result<(ModelConfig, Vec<String>), ConfigError> {
    let raw = RawConfig::read(config_json)?;
    tensors::check_declared(CONTRACT, &raw)?;
    let mut notes = raw.notes.clone();
    if !auto_complete {
        tensors::check_complete(CONTRACT, &raw)?;
        if !raw.is_decoupled() {
            return Err(ConfigError::NotDecoupled);
        }
        let unwanted = tensors::unwanted(CONTRACT, &raw).into_iter();
        notes.extend(unwanted.map(tensors::unwanted_advice));
    }
    let instance_groups = raw.instance_groups()?;
    let n_instances = raw::n_instances(&instance_groups);
    let parameters = Parameters::read(&raw.parameters)?;
    let model_file = model_file(&parameters, raw.default_model_filename())?;
    let config = ModelConfig {
        max_batch_size: raw.max_batch_size()?,
        decoupled: raw.is_decoupled(),
        name: raw.name,
        contract: CONTRACT,
        instance_groups,
        n_instances,
        model_file,
        parameters,
    };
    Ok((config, notes))
}

fn model_file(
    parameters: &Parameters,
    default_model_filename: Option<&str>,
) -> Result<Option<ModelFileName>, ConfigError> {
    let (path, field) = match (parameters.model_path.as_deref(), default_model_filename) {
        (Some(_), Some(_)) => return Err(ConfigError::TwoModelFiles),
        (Some(path), None) => (path, "config parameter 'model_path'"),
        (None, Some(name)) => (name, "default_model_filename"),
        (None, None) => return Ok(None),
    };
    Ok(Some(ModelFileName {
        path: path.to_owned(),
        field,
    }))
}
