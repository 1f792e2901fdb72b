//! Which devices the instances of a model run on.
//!
//! Called once per load on the model-initialize thread; decides from the configuration and a list of
//! the GPUs that are there, and asks no device itself.

use std::fmt;

use super::architectures;
use super::offload::{SplitMode, TensorOverride};
use super::raw::{InstanceGroup, InstanceKind};
use super::{ConfigError, ModelConfig, Parameters};
use crate::protocol::given::quoted;

/// A GPU of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// CUDA's number for it, and so Triton's.
    pub index: u32,
    /// What its maker calls it.
    pub model: String,
    pub compute_capability: (u32, u32),
    pub free_bytes: u64,
    pub total_bytes: u64,
}

impl Gpu {
    /// llama.cpp's name for it.
    pub fn name(&self) -> String {
        format!("CUDA{}", self.index)
    }
}

/// A GPU that is there but cannot be used: it is full, or another process has it to itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CUDA{index} cannot be used: {reason}")]
pub struct UnusableGpu {
    pub index: u32,
    pub reason: String,
}

/// What instances say of where they run: those that say the same share an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Cpu,
    Gpu(u32),
    /// The GPUs that the parameters name.
    Model,
}

/// The instances of one engine, and what it computes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    pub place: Place,
    pub n_instances: usize,
    /// Requests that run at the same time; at most [`super::MAX_SLOTS`].
    pub n_slots: usize,
    /// In the order of the model's parts; none where it runs on the CPU.
    pub gpus: Vec<Gpu>,
    /// How the model is spread; `None` for fewer than two GPUs.
    pub split_mode: SplitMode,
    /// A proportion for each GPU; empty leaves it to the program, and is so for fewer than two GPUs.
    pub tensor_split: Vec<f32>,
}

/// Sorts instances by place, each place once, in the order first named.
///
/// `gpus` are those that this build and this machine can use; `None` is a build that can use none.
/// Without GPUs only KIND_GPU is an error; KIND_AUTO and KIND_MODEL then run on the CPU.
pub fn placement(
    config: &ModelConfig,
    gpus: Option<&[Gpu]>,
) -> Result<Vec<Placement>, ConfigError> {
    let there = There(gpus);
    let no_group = [InstanceGroup::default()];
    let groups = match config.instance_groups.as_slice() {
        [] => &no_group,
        groups => groups,
    };
    check_kinds(&config.parameters, groups)?;
    let mut placements: Vec<Placement> = Vec::new();
    let active = groups.iter().enumerate();
    for (index, group) in active.filter(|(_, group)| !group.passive) {
        for mut placed in there.place(index, group, &config.parameters)? {
            placed.n_instances = group.n_per_device();
            match placements.iter_mut().find(|p| p.place == placed.place) {
                Some(known) => known.n_instances += placed.n_instances,
                None => placements.push(placed),
            }
        }
    }
    for placed in &mut placements {
        placed.n_slots = config.parameters.n_slots(placed.n_instances)?;
        check_buffers(&config.parameters, &placed.gpus)?;
    }
    Ok(placements)
}

/// The parameters that choose devices are for those groups that leave the choice to them.
fn check_kinds(parameters: &Parameters, groups: &[InstanceGroup]) -> Result<(), ConfigError> {
    let active = || groups.iter().filter(|group| !group.passive);
    let kinds = || active().map(|group| group.kind);
    if kinds().any(|kind| kind == InstanceKind::Model) {
        return Ok(());
    }
    let given = [
        ("devices", parameters.devices.is_some()),
        ("split_mode", parameters.split_mode == SplitMode::Row),
        ("tensor_split", parameters.tensor_split.is_some()),
        ("main_gpu", parameters.main_gpu != 0),
    ];
    match (given.iter().find(|(_, given)| *given), kinds().next()) {
        (Some((name, _)), Some(kind)) => Err(ConfigError::ForKindModel {
            name,
            kind: kind.as_str(),
        }),
        _ => Ok(()),
    }
}

/// The GPUs that are there.
#[derive(Clone, Copy)]
struct There<'a>(Option<&'a [Gpu]>);

impl There<'_> {
    fn place(
        self,
        index: usize,
        group: &InstanceGroup,
        parameters: &Parameters,
    ) -> Result<Vec<Placement>, ConfigError> {
        let cpu = || vec![placed(Place::Cpu, Vec::new(), SplitMode::None)];
        let gpus = self.0.unwrap_or_default();
        match group.kind {
            InstanceKind::Cpu => Ok(cpu()),
            InstanceKind::Auto if gpus.is_empty() => Ok(cpu()),
            InstanceKind::Auto | InstanceKind::Gpu => self.one_each(index, group),
            InstanceKind::Model => {
                let chosen = self.chosen(parameters)?;
                let split = parameters.tensor_split.as_ref();
                Ok(match chosen.len() {
                    0 => cpu(),
                    1 => vec![placed(Place::Model, chosen, SplitMode::None)],
                    _ => vec![Placement {
                        tensor_split: split.map_or(Vec::new(), |split| split.ratios.clone()),
                        ..placed(Place::Model, chosen, parameters.split_mode)
                    }],
                })
            }
        }
    }

    /// A copy of the model on each of the group's GPUs; all there are, where it names none.
    fn one_each(self, index: usize, group: &InstanceGroup) -> Result<Vec<Placement>, ConfigError> {
        let gpus = match self.0 {
            None => return Err(ConfigError::NoCuda),
            Some([]) => return Err(ConfigError::NoGpu),
            Some(gpus) => gpus,
        };
        let named: Vec<u32> = match group.gpus.is_empty() {
            true => gpus.iter().map(|gpu| gpu.index).collect(),
            false => group.gpus.clone(),
        };
        let field = format!("'gpus' of instance_group[{index}]");
        let one = |(at, &number): (usize, &u32)| {
            if named[..at].contains(&number) {
                return Err(ConfigError::RepeatedGpu {
                    group: index,
                    number,
                    there: self.to_string(),
                });
            }
            let gpu = gpus.iter().find(|gpu| gpu.index == number);
            let gpu = gpu.ok_or_else(|| ConfigError::UnknownGpu {
                group: index,
                number,
                there: self.to_string(),
            })?;
            check_fitness(gpu, &field)?;
            Ok(placed(
                Place::Gpu(number),
                vec![gpu.clone()],
                SplitMode::None,
            ))
        };
        named.iter().enumerate().map(one).collect()
    }

    /// The GPUs that the parameters choose.
    fn chosen(self, parameters: &Parameters) -> Result<Vec<Gpu>, ConfigError> {
        let gpus = self.0.unwrap_or_default();
        let mut chosen = match &parameters.devices {
            None => gpus.to_vec(),
            Some(names) => self.named(names)?,
        };
        let chosen_names = || names(chosen.iter().map(Gpu::name));
        if let Some(split) = &parameters.tensor_split
            && split.ratios.len() != chosen.len()
        {
            return Err(ConfigError::Value {
                name: "tensor_split",
                value: quoted(&split.text),
                expected: format!("a number for each device, which are {}", chosen_names()),
            });
        }
        let main_gpu = parameters.main_gpu as usize;
        if main_gpu != 0 && main_gpu >= chosen.len() {
            return Err(ConfigError::Value {
                name: "main_gpu",
                value: main_gpu.to_string(),
                expected: format!(
                    "the index, from 0, of one of the devices {}",
                    chosen_names()
                ),
            });
        }
        if parameters.split_mode == SplitMode::None && !chosen.is_empty() {
            chosen = vec![chosen.swap_remove(main_gpu)];
        }
        // What is left over may be of any kind.
        for gpu in &chosen {
            check_fitness(gpu, "config parameter 'devices'")?;
        }
        // ggml counts rows by the GPU's number, and gives those that are not named their part, too.
        if parameters.split_mode == SplitMode::Row && !chosen.is_empty() && chosen != gpus {
            return Err(ConfigError::Value {
                name: "split_mode",
                value: "\"row\"".to_owned(),
                expected: format!("none or layer, unless the devices are {self}, in this order"),
            });
        }
        Ok(chosen)
    }

    fn named(self, names: &[String]) -> Result<Vec<Gpu>, ConfigError> {
        let one = |name: &String| {
            let gpu = self
                .0
                .unwrap_or_default()
                .iter()
                .find(|gpu| gpu.name() == *name);
            gpu.cloned().ok_or_else(|| ConfigError::UnknownDevice {
                name: quoted(name),
                there: self.to_string(),
            })
        };
        names.iter().map(one).collect()
    }
}

impl fmt::Display for There<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("no GPU, as this build has no CUDA"),
            Some([]) => f.write_str("no GPU"),
            Some(gpus) => {
                let gpus: Vec<_> = gpus
                    .iter()
                    .map(|gpu| format!("{} ({})", gpu.name(), gpu.model))
                    .collect();
                f.write_str(&gpus.join(", "))
            }
        }
    }
}

fn placed(place: Place, gpus: Vec<Gpu>, split_mode: SplitMode) -> Placement {
    Placement {
        place,
        n_instances: 0,
        n_slots: 0,
        gpus,
        split_mode,
        tensor_split: Vec::new(),
    }
}

/// `field` chose the GPU.
fn check_fitness(gpu: &Gpu, field: &str) -> Result<(), ConfigError> {
    match architectures::wanted(architectures::BUILT_FOR, gpu.compute_capability) {
        None => Ok(()),
        Some(wanted) => Err(ConfigError::UnfitGpu {
            field: field.to_owned(),
            gpu: format!("{} ({})", gpu.name(), gpu.model),
            found: gpu.compute_capability,
            wanted,
        }),
    }
}

/// Tensors go to host memory or to a GPU that the model runs on.
fn check_buffers(parameters: &Parameters, gpus: &[Gpu]) -> Result<(), ConfigError> {
    let is_known = |place: &TensorOverride| {
        place.is_host() || gpus.iter().any(|gpu| gpu.name() == place.buffer)
    };
    match parameters
        .override_tensor
        .iter()
        .find(|place| !is_known(place))
    {
        None => Ok(()),
        Some(place) => Err(ConfigError::Value {
            name: "override_tensor",
            value: quoted(&format!("{}={}", place.pattern, place.buffer)),
            expected: format!(
                "with a buffer type of this model: {}",
                names(std::iter::once("CPU".to_owned()).chain(gpus.iter().map(Gpu::name)))
            ),
        }),
    }
}

fn names(names: impl Iterator<Item = String>) -> String {
    let names: Vec<String> = names.collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}
