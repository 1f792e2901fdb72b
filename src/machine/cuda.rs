//! The GPUs that NVIDIA's driver lists.
//!
//! Called on Triton's threads when the backend starts and while a model is loaded. The driver is opened
//! at run time, so that the library also loads where there is none; a build without CUDA asks nobody.

#[cfg(feature = "cuda")]
use std::panic::catch_unwind;

#[cfg(feature = "cuda")]
use cudarc::driver::{CudaContext, DriverError, sys};

#[cfg(feature = "cuda")]
use super::device::DeviceKind;
use super::device::{Device, UnusableDevice};

/// Lists the GPUs in CUDA's order, with the memory that is free now; none in a build without CUDA.
#[cfg(not(feature = "cuda"))]
pub(crate) fn devices() -> Vec<Result<Device, UnusableDevice>> {
    Vec::new()
}

/// Lists the GPUs in CUDA's order, with the memory that is free now; none in a build without CUDA.
///
/// A machine whose driver is missing, too old or does not answer has no GPU.
#[cfg(feature = "cuda")]
pub(crate) fn devices() -> Vec<Result<Device, UnusableDevice>> {
    // cudarc panics where the driver, or one of its functions, is missing.
    let listed = catch_unwind(|| list().map_err(|error| error.to_string()));
    match listed {
        Ok(Ok(devices)) => devices,
        Ok(Err(error)) => {
            log::warn!("NVIDIA's driver lists no GPU: {error}");
            Vec::new()
        }
        Err(_) => {
            log::warn!("NVIDIA's driver lacks a function that is needed to list the GPUs");
            Vec::new()
        }
    }
}

#[cfg(feature = "cuda")]
fn list() -> Result<Vec<Result<Device, UnusableDevice>>, DriverError> {
    // SAFETY: this runs the initialisers of the driver's library, which CUDA programs do at start.
    if !unsafe { sys::is_culib_present() } {
        return Ok(Vec::new());
    }
    let one = |index: u32| {
        ask(index).map_err(|error| UnusableDevice {
            name: name(index),
            reason: error.to_string(),
        })
    };
    let n_gpus = positive(CudaContext::device_count()?);
    Ok((0..n_gpus).map(one).collect())
}

/// Fails where a GPU is full, or another process has it to itself.
#[cfg(feature = "cuda")]
fn ask(index: u32) -> Result<Device, DriverError> {
    // llama.cpp makes this context as well; what it takes is then no longer counted as free.
    let context = CudaContext::new(index as usize)?;
    let (free, total) = context.mem_get_info()?;
    let (major, minor) = context.compute_capability()?;
    Ok(Device {
        name: name(index),
        kind: DeviceKind::Gpu,
        description: context.name()?,
        free_bytes: free as u64,
        total_bytes: total as u64,
        cuda_index: Some(index),
        compute_capability: Some((positive(major), positive(minor))),
    })
}

/// llama.cpp's name for CUDA's device of that number.
#[cfg(feature = "cuda")]
fn name(index: u32) -> String {
    format!("CUDA{index}")
}

#[cfg(feature = "cuda")]
fn positive(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_missing_driver_is_no_fault() {
        let devices = super::devices();
        assert!(cfg!(feature = "cuda") || devices.is_empty(), "{devices:?}");
    }
}
