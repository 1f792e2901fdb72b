//! What is asked of the machine: its devices, and what is left of its memory and processors.
//!
//! Called on Triton's threads when the backend starts and while a model is loaded. Asks the driver and the files
//! that Linux keeps, and changes nothing; what is done with the answers is decided elsewhere.
//!
//! | file | holds |
//! |---|---|
//! | `device` | a device as a plain value: [`device::Device`]; pure, and all that `config` knows of here |
//! | `cuda` | the GPUs that NVIDIA's driver lists |
//! | `memory` | how much memory the process may still take |
//! | `cgroup` | what control groups leave of memory and CPU time |

pub(crate) mod cgroup;
mod cuda;
pub mod device;
pub(crate) mod memory;

pub(crate) use cuda::devices;
