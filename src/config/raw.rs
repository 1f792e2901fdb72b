//! Triton's model configuration as written: the JSON form of its protobuf message.
//!
//! Read by `parse` and `autocomplete` on the model-initialize thread. Holds
//! only the fields that we look at, with the defaults protobuf gives them;
//! says nothing about what they should be.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, Visitor};

use super::values::MAX_SLOTS;
use super::{ConfigError, fields};

/// The fields of a model configuration that concern us.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawConfig {
    pub(crate) name: String,
    pub(crate) max_batch_size: Int64,
    pub(crate) input: Vec<RawTensor>,
    pub(crate) output: Vec<RawTensor>,
    instance_group: Vec<RawGroup>,
    pub(crate) model_transaction_policy: Option<RawPolicy>,
    pub(crate) parameters: BTreeMap<String, RawParameter>,
    backend: String,
    default_model_filename: String,
    /// Notes for the log on fields that nobody knows.
    #[serde(skip)]
    pub(crate) notes: Vec<String>,
}

/// A declared input or output.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawTensor {
    pub(crate) name: String,
    pub(crate) data_type: String,
    pub(crate) dims: Vec<Int64>,
    pub(crate) reshape: Option<IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawPolicy {
    pub(crate) decoupled: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RawParameter {
    pub(crate) string_value: String,
}

/// A group as written, with numbers that may be out of range.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RawGroup {
    kind: InstanceKind,
    count: Int64,
    gpus: Vec<Int64>,
    passive: bool,
}

/// A group of instances that share a kind of device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceGroup {
    pub kind: InstanceKind,
    /// Instances, per GPU for KIND_GPU; 0 counts as 1.
    pub count: u32,
    /// Device numbers, for KIND_GPU.
    pub gpus: Vec<u32>,
    /// Whether Triton makes these instances but gives them no requests.
    pub passive: bool,
}

/// Where a group's instances run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum InstanceKind {
    #[default]
    #[serde(rename = "KIND_AUTO")]
    Auto,
    #[serde(rename = "KIND_CPU")]
    Cpu,
    #[serde(rename = "KIND_GPU")]
    Gpu,
    #[serde(rename = "KIND_MODEL")]
    Model,
}

impl RawConfig {
    pub(crate) fn read(config_json: &str) -> Result<Self, ConfigError> {
        let mut raw: Self = serde_json::from_str(config_json)?;
        raw.notes = fields::check(&serde_json::from_str(config_json)?)?;
        raw.instance_groups()?;
        Ok(raw)
    }

    /// The groups of instances, their numbers checked; one of them takes requests.
    pub(crate) fn instance_groups(&self) -> Result<Vec<InstanceGroup>, ConfigError> {
        let groups = self.instance_group.iter().enumerate();
        let checked = groups.map(|(index, group)| group.checked(index));
        let groups: Vec<InstanceGroup> = checked.collect::<Result<_, _>>()?;
        match !groups.is_empty() && groups.iter().all(|group| group.passive) {
            // Triton's scheduler ends the process at the first request.
            true => Err(ConfigError::AllPassive),
            false => Ok(groups),
        }
    }

    /// The model's file as Triton's own field names it, if somebody wrote that.
    pub(crate) fn default_model_filename(&self) -> Option<&str> {
        // Triton fills this in where it finds the backend by the model's name.
        let filled_in = self
            .default_model_filename
            .strip_prefix("model.")
            .is_some_and(|ending| ending == self.backend);
        let name = self.default_model_filename.as_str();
        (!name.is_empty() && !filled_in).then_some(name)
    }

    pub(crate) fn is_decoupled(&self) -> bool {
        self.model_transaction_policy
            .as_ref()
            .is_some_and(|policy| policy.decoupled)
    }

    pub(crate) fn declares_input(&self, name: &str) -> bool {
        self.input.iter().any(|tensor| tensor.name == name)
    }

    pub(crate) fn max_batch_size(&self) -> Result<u32, ConfigError> {
        let value = self.max_batch_size.0;
        match u32::try_from(value) {
            Ok(size) if size <= i32::MAX as u32 => Ok(size),
            _ => Err(ConfigError::MaxBatchSize { value }),
        }
    }
}

impl RawGroup {
    /// `group` is its index.
    fn checked(&self, group: usize) -> Result<InstanceGroup, ConfigError> {
        let count = u32::try_from(self.count.0).ok();
        // Bounds the sums of instances, whatever was written.
        let count = count.filter(|&count| count as usize <= MAX_SLOTS);
        let gpu = |&Int64(number): &Int64| {
            let checked = u32::try_from(number).ok();
            checked
                .filter(|&number| number <= i32::MAX as u32)
                .ok_or(ConfigError::GpuNumber { group, number })
        };
        Ok(InstanceGroup {
            kind: self.kind,
            count: count.ok_or(ConfigError::InstanceCount {
                group,
                found: self.kind.as_str(),
                count: self.count.0,
            })?,
            gpus: self.gpus.iter().map(gpu).collect::<Result<_, _>>()?,
            passive: self.passive,
        })
    }
}

/// Instances that Triton gives requests to: each group's count, on each of its GPUs.
pub(crate) fn n_instances(groups: &[InstanceGroup]) -> usize {
    let n_instances: usize = groups
        .iter()
        .filter(|group| !group.passive)
        .map(|group| group.n_per_device() * group.gpus.len().max(1))
        .sum();
    n_instances.max(1)
}

impl InstanceGroup {
    /// Instances on each device of the group.
    pub(crate) fn n_per_device(&self) -> usize {
        self.count.max(1) as usize
    }
}

impl InstanceKind {
    /// Triton's name for it.
    pub fn as_str(self) -> &'static str {
        match self {
            InstanceKind::Auto => "KIND_AUTO",
            InstanceKind::Cpu => "KIND_CPU",
            InstanceKind::Gpu => "KIND_GPU",
            InstanceKind::Model => "KIND_MODEL",
        }
    }
}

/// A 64-bit integer, which protobuf's JSON writes as a string and Triton as a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Int64(pub(crate) i64);

impl<'de> Deserialize<'de> for Int64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Int64Visitor;

        impl Visitor<'_> for Int64Visitor {
            type Value = Int64;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a 64-bit integer")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Int64, E> {
                Ok(Int64(value))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Int64, E> {
                i64::try_from(value).map(Int64).map_err(E::custom)
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Int64, E> {
                value.parse().map(Int64).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(Int64Visitor)
    }
}
