//! Which devices the instances of a model run on.
//!
//! Called once per load on the model-initialize thread; decides from what the
//! configuration says and one fact about the build, and asks no device.

use super::ConfigError;
use super::raw::{InstanceGroup, InstanceKind};

/// A device that holds a copy of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Device {
    Cpu,
    Gpu(u32),
}

/// The instances on one device, which share one copy of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    pub device: Device,
    pub n_instances: usize,
}

/// Sorts instances by device, each device once, in the order first named.
///
/// `gpu` says whether this build and this machine can use GPUs. Without, only
/// KIND_GPU is an error; KIND_AUTO and KIND_MODEL leave the choice to us.
pub fn placement(groups: &[InstanceGroup], gpu: bool) -> Result<Vec<Placement>, ConfigError> {
    let mut placements: Vec<Placement> = Vec::new();
    for group in groups {
        for device in devices(group, gpu)? {
            let n_instances = group.n_per_device();
            match placements.iter_mut().find(|known| known.device == device) {
                Some(known) => known.n_instances += n_instances,
                None => placements.push(Placement {
                    device,
                    n_instances,
                }),
            }
        }
    }
    if placements.is_empty() {
        // No group at all is one of KIND_AUTO.
        return placement(&[InstanceGroup::default()], gpu);
    }
    Ok(placements)
}

fn devices(group: &InstanceGroup, gpu: bool) -> Result<Vec<Device>, ConfigError> {
    Ok(match group.kind {
        InstanceKind::Gpu if !gpu => return Err(ConfigError::NoGpu),
        InstanceKind::Cpu => vec![Device::Cpu],
        _ if !gpu => vec![Device::Cpu],
        _ if group.gpus.is_empty() => vec![Device::Gpu(0)],
        _ => group.gpus.iter().copied().map(Device::Gpu).collect(),
    })
}
