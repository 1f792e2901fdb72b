//! Serves GGUF language models from NVIDIA Triton Inference Server with llama.cpp.
//!
//! The library is a Triton backend: a shared object that `tritonserver` loads
//! and calls through its C API. ARCHITECTURE.md has the map.

mod cgroup;
pub mod config;
mod delivery;
mod devices;
pub mod engine;
mod exports;
mod intake;
pub mod llama;
mod memory;
mod permit;
pub mod protocol;
mod serving;
mod triton;
mod worker;
