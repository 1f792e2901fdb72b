//! Serves GGUF language models from NVIDIA Triton Inference Server with llama.cpp.
//!
//! The library is a Triton backend: a shared object that `tritonserver` loads
//! and calls through its C API. ARCHITECTURE.md has the map.

pub mod config;
pub mod contract;
mod delivery;
pub mod engine;
mod exports;
mod intake;
mod json;
pub mod llama;
pub mod machine;
mod metrics;
mod permit;
pub mod protocol;
mod serving;
pub mod table;
pub mod tensor;
mod triton;
mod worker;
