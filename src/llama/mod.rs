//! llama.cpp: the only home of its types and calls.
//!
//! The intake thread renders and tokenises ([`ChatTemplate`], [`Model`]), the worker thread runs
//! plans ([`Runner`]), and whoever loads a model calls [`Model::load`] and [`Runner::new`].
//! llama.cpp answers what it cannot do with an assertion, and so with the end of the process: model
//! files, contexts, prompts and plans are checked here first, as far as the files below say. Knows
//! nothing of Triton.
//!
//! | file | holds |
//! |---|---|
//! | `backend` | what is set once per process: initialisation, log, last words |
//! | `modules` | loads llama.cpp's modules, where it is built in modules |
//! | `gguf` | reads a model file's header before llama.cpp does: [`ModelFile`] |
//! | `lease` | keeps mapped model files as they were |
//! | `maps` | what is mapped of a file |
//! | `load` | what a model is loaded with: [`LoadParams`] |
//! | `model` | weights and vocabulary: [`Model`] |
//! | `template` | messages to prompt: [`ChatTemplate`] |
//! | `sampler` | logits to token, one per sequence |
//! | `context` | how a context is made, and the calls on it: [`ContextParams`] |
//! | `pool` | the threads that it computes with |
//! | `at_once` | which rows llama.cpp is given at once |
//! | `attention` | attention on CPUs, in place of llama.cpp's |
//! | `slots` | what each slot holds, and the changes to it |
//! | `runner` | the holder of the context: runs a [`crate::engine::Plan`] |
//! | `draft_model` | a small model that guesses what a large one will say |
//! | `threads` | how many threads to compute with |
//! | `trial` | what a load will run, first in a process that may die |
//! | `objects` | which file code is in |
//! | `exp` | exponentials of many numbers at a time |

mod at_once;
mod attention;
mod backend;
mod context;
mod crowding;
mod draft_model;
mod exp;
mod gguf;
mod lease;
mod load;
mod maps;
mod model;
#[cfg(feature = "dynamic-backends")]
mod modules;
mod objects;
mod pool;
mod runner;
mod sampler;
mod slots;
mod template;
mod threads;
pub mod trial;

pub use attention::computes_heads;
pub use backend::{NoModule, has_gpu, init};
pub use context::{ContextError, ContextParams, FlashAttention, cells_made};
pub use draft_model::{DraftModel, DraftModelError};
pub use gguf::{GgufError, ModelFile, Problem, Tensor, VocabularyProblem};
pub use load::LoadParams;
pub use model::{LoadError, Model, TokenizeError};
pub use pool::NoThreads;
pub use runner::{RowProblem, RunError, Runner};
pub use sampler::{Buffers, SampleError, Sampler, SamplingThreads};
pub use template::{CHATML, CHATML_END, ChatTemplate, Finding, RAW, TemplateError};

use llama_cpp_sys_2 as sys;
use serde::{Deserialize, Serialize};

/// The number format of the cached keys or values.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum CacheType {
    F32,
    #[default]
    F16,
    BF16,
    Q8_0,
    Q5_1,
    Q5_0,
    Q4_1,
    Q4_0,
    Iq4Nl,
}

impl CacheType {
    /// Every type with the name llama.cpp's own programs give it.
    pub const NAMES: [(&'static str, Self); 9] = [
        ("f32", Self::F32),
        ("f16", Self::F16),
        ("bf16", Self::BF16),
        ("q8_0", Self::Q8_0),
        ("q5_1", Self::Q5_1),
        ("q5_0", Self::Q5_0),
        ("q4_1", Self::Q4_1),
        ("q4_0", Self::Q4_0),
        ("iq4_nl", Self::Iq4Nl),
    ];

    /// The type of this name, as in llama.cpp's `--cache-type-k`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::NAMES
            .iter()
            .find(|(known, _)| *known == name)
            .map(|&(_, kind)| kind)
    }

    /// The bytes of `n_values` numbers, whole blocks counted.
    fn n_bytes(self, n_values: u64) -> u64 {
        let raw = self.raw();
        // SAFETY: both only look a valid type up in a constant table.
        let (block, bytes) = unsafe { (sys::ggml_blck_size(raw), sys::ggml_type_size(raw)) };
        n_values.div_ceil(block.max(1).unsigned_abs()) * bytes as u64
    }

    /// llama.cpp's number for it.
    fn raw(self) -> sys::ggml_type {
        match self {
            Self::F32 => sys::GGML_TYPE_F32,
            Self::F16 => sys::GGML_TYPE_F16,
            Self::BF16 => sys::GGML_TYPE_BF16,
            Self::Q8_0 => sys::GGML_TYPE_Q8_0,
            Self::Q5_1 => sys::GGML_TYPE_Q5_1,
            Self::Q5_0 => sys::GGML_TYPE_Q5_0,
            Self::Q4_1 => sys::GGML_TYPE_Q4_1,
            Self::Q4_0 => sys::GGML_TYPE_Q4_0,
            Self::Iq4Nl => sys::GGML_TYPE_IQ4_NL,
        }
    }
}
