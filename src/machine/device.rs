//! A device that a model can be put on, as a plain value, whoever provides it.
//!
//! Filled in by who lists the devices; read when instances are placed and layers fitted. Pure: asks nobody, and
//! imports nothing, so that `config` may know it.

/// A device of this machine beside its processors, whoever provides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// llama.cpp's name for it, as `CUDA0`: each device has its own.
    pub name: String,
    pub kind: DeviceKind,
    /// What its maker calls it.
    pub description: String,
    pub free_bytes: u64,
    pub total_bytes: u64,
    /// CUDA's number for it, and so Triton's: in `gpus` of an instance group, in an instance's kind and in a
    /// model's report of memory. `None` for a device that CUDA does not list, which Triton cannot name.
    pub cuda_index: Option<u32>,
    /// Where CUDA tells it.
    pub compute_capability: Option<(u32, u32)>,
}

/// What a device is, as ggml tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// With memory of its own.
    Gpu,
    /// Shares the memory of the processors.
    IntegratedGpu,
    /// Works for the processors, as a library for matrices does.
    Accelerator,
}

impl std::fmt::Display for Device {
    /// As errors name it: `CUDA0 (NVIDIA H200)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name, self.description)
    }
}

/// A device that is there but cannot be used: it is full, or another process has it to itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} cannot be used: {reason}")]
pub struct UnusableDevice {
    /// llama.cpp's name for it.
    pub name: String,
    pub reason: String,
}
