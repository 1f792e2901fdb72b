//! Which devices the instances of a model run on.
//!
//! Called once per load on the model-initialize thread; decides from the configuration and a list of
//! the devices that are there, and asks none itself.

use std::fmt;

use super::architectures;
use super::raw::{InstanceGroup, InstanceKind};
use super::values::{SplitMode, TensorOverride};
use super::{ConfigError, ModelConfig, Parameters};
use crate::machine::device::{Device, DeviceKind};
use crate::table::quoted;

/// What instances say of where they run: those that say the same share an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Cpu,
    /// By CUDA's number, and so Triton's.
    Gpu(u32),
    /// The devices that the parameters name.
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
    pub devices: Vec<Device>,
    /// How the model is spread; `None` for fewer than two devices.
    pub split_mode: SplitMode,
    /// A proportion for each device; empty leaves it to the program, and is so for fewer than two.
    pub tensor_split: Vec<f32>,
}

/// Sorts instances by place, each place once, in the order first named.
///
/// `devices` are those that this build and this machine can use; `None` is a build that can use none.
/// Without GPUs only KIND_GPU is an error; KIND_AUTO and KIND_MODEL then run on the CPU.
pub fn placement(
    config: &ModelConfig,
    devices: Option<&[Device]>,
) -> Result<Vec<Placement>, ConfigError> {
    let there = There(devices);
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
        check_buffers(&config.parameters, &placed.devices)?;
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

/// The devices that are there.
#[derive(Clone, Copy)]
struct There<'a>(Option<&'a [Device]>);

impl<'a> There<'a> {
    fn all(self) -> impl Iterator<Item = &'a Device> {
        self.0.unwrap_or_default().iter()
    }

    /// Those that KIND_GPU can name, and KIND_AUTO means, by their numbers.
    fn numbered(self) -> impl Iterator<Item = (u32, &'a Device)> {
        self.all()
            .filter_map(|device| device.cuda_index.map(|index| (index, device)))
    }

    /// Those that KIND_MODEL takes where nothing is named.
    fn gpus(self) -> impl Iterator<Item = &'a Device> {
        self.all().filter(|device| device.kind == DeviceKind::Gpu)
    }

    fn place(
        self,
        index: usize,
        group: &InstanceGroup,
        parameters: &Parameters,
    ) -> Result<Vec<Placement>, ConfigError> {
        let cpu = || vec![placed(Place::Cpu, Vec::new(), SplitMode::None)];
        match group.kind {
            InstanceKind::Cpu => Ok(cpu()),
            InstanceKind::Auto if self.numbered().next().is_none() => Ok(cpu()),
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
        if self.0.is_none() {
            return Err(ConfigError::NoCuda);
        }
        if self.numbered().next().is_none() {
            return Err(ConfigError::NoGpu);
        }
        let named: Vec<u32> = match group.gpus.is_empty() {
            true => self.numbered().map(|(index, _)| index).collect(),
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
            let mut numbered = self.numbered();
            let found = numbered.find(|&(index, _)| index == number);
            let (_, gpu) = found.ok_or_else(|| ConfigError::UnknownGpu {
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

    /// The devices that the parameters choose.
    fn chosen(self, parameters: &Parameters) -> Result<Vec<Device>, ConfigError> {
        let mut chosen = match &parameters.devices {
            None => self.gpus().cloned().collect(),
            Some(names) => self.named(names)?,
        };
        let chosen_names = || names(of_devices(&chosen));
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
        for device in &chosen {
            check_fitness(device, "config parameter 'devices'")?;
        }
        // ggml counts rows by the GPU's number, and gives those that are not named their part, too.
        let is_all = chosen.iter().eq(self.gpus());
        if parameters.split_mode == SplitMode::Row && !chosen.is_empty() && !is_all {
            return Err(ConfigError::Value {
                name: "split_mode",
                value: "\"row\"".to_owned(),
                expected: format!("none or layer, unless the devices are {self}, in this order"),
            });
        }
        Ok(chosen)
    }

    fn named(self, names: &[String]) -> Result<Vec<Device>, ConfigError> {
        let one = |name: &String| {
            let device = self.all().find(|device| device.name == *name);
            device.cloned().ok_or_else(|| ConfigError::UnknownDevice {
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
            Some(devices) => {
                let devices: Vec<_> = devices.iter().map(Device::to_string).collect();
                f.write_str(&devices.join(", "))
            }
        }
    }
}

fn placed(place: Place, devices: Vec<Device>, split_mode: SplitMode) -> Placement {
    Placement {
        place,
        n_instances: 0,
        n_slots: 0,
        devices,
        split_mode,
        tensor_split: Vec::new(),
    }
}

/// Code for CUDA is compiled for some compute capabilities; `field` chose the device.
fn check_fitness(device: &Device, field: &str) -> Result<(), ConfigError> {
    let Some(found) = device.compute_capability else {
        return Ok(());
    };
    match architectures::wanted(architectures::BUILT_FOR, found) {
        None => Ok(()),
        Some(wanted) => Err(ConfigError::UnfitGpu {
            field: field.to_owned(),
            gpu: device.to_string(),
            found,
            wanted,
        }),
    }
}

/// Tensors go to host memory or to a device that the model runs on.
fn check_buffers(parameters: &Parameters, devices: &[Device]) -> Result<(), ConfigError> {
    let is_known = |place: &TensorOverride| {
        place.is_host() || devices.iter().any(|device| device.name == place.buffer)
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
                names(std::iter::once("CPU").chain(of_devices(devices)))
            ),
        }),
    }
}

fn of_devices(devices: &[Device]) -> impl Iterator<Item = &str> {
    devices.iter().map(|device| device.name.as_str())
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}
