//! llama.cpp: the only home of its types and calls.
//!
//! An intake thread renders and tokenises ([`ChatTemplate`], [`Model`]), the worker thread runs
//! plans ([`Runner`]), and whoever loads a model calls [`Model::load`] and [`Runner::new`].
//! llama.cpp answers what it cannot do with an assertion, and so with the end of the process: model
//! files, contexts, prompts and plans are checked here first, as far as the files below say. Knows
//! nothing of Triton.
//!
//! | file | holds |
//! |---|---|
//! | `backend` | what is set once per process |
//! | `lines` | llama.cpp's log and last words |
//! | `modules` | loads llama.cpp's modules, where it is built in modules |
//! | `gguf` | reads a model file's header before llama.cpp does: [`ModelFile`] |
//! | `lease` | keeps mapped model files as they were |
//! | `maps` | what is mapped of a file |
//! | `load` | what a model is loaded with: [`LoadParams`] |
//! | `model` | weights and vocabulary: [`Model`] |
//! | `template` | messages to prompt: [`ChatTemplate`] |
//! | `sampler` | logits to token, one per sequence |
//! | `cache_type` | llama.cpp's number for a cache type, and its bytes |
//! | `context` | how a context is made, and the calls on it: [`ContextParams`] |
//! | `pool` | the threads that it computes with |
//! | `at_once` | which rows llama.cpp is given at once |
//! | `attention` | attention on CPUs, in place of llama.cpp's |
//! | `slots` | what each slot holds, and the changes to it |
//! | `runner` | the holder of the context: runs a [`crate::engine::Plan`] |
//! | `draft_model` | a small model that guesses what a large one will say |
//! | `error` | why it cannot do what it is asked |
//! | `threads` | how many threads to compute with |
//! | `trial` | what a load will run, first in a process that may die |
//! | `objects` | which file code is in |
//! | `exp` | exponentials of many numbers at a time |

mod at_once;
mod attention;
mod backend;
mod cache_type;
mod context;
mod crowding;
mod draft_model;
mod error;
mod exp;
mod gguf;
mod lease;
mod lines;
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
pub use backend::{has_gpu, init};
pub use context::{ContextParams, cells_made};
pub use draft_model::DraftModel;
pub use error::{
    ContextError, DraftModelError, LoadError, NoModule, NoThreads, RowProblem, RunError,
    SampleError, TokenizeError,
};
pub use gguf::{GgufError, ModelFile, Problem, TensorInfo, VocabularyProblem};
pub use load::LoadParams;
pub use model::Model;
pub use runner::Runner;
pub use sampler::{Buffers, Sampler, SamplerFactory, SamplingThreads, Vocabulary};
pub use template::{CHATML, CHATML_END, ChatTemplate, Finding, RAW, TemplateError};

pub use crate::config::{CacheType, FlashAttention};
