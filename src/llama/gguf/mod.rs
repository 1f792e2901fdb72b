//! Reads a GGUF file's header and checks it before llama.cpp sees the file.
//!
//! Called where a model is loaded, on any thread. llama.cpp answers some damaged files with an
//! assertion, which ends the process, and others with a null pointer. Here a fault has a name if it is
//! in the structure of the file, the vocabulary, or a key that llama.cpp asserts for every
//! architecture; what one architecture asserts of its own keys and shapes is left to it. Weights are
//! not read.
//!
//! | file | holds |
//! |---|---|
//! | `model_file` | what a model's header says: [`ModelFile`] |
//! | `header` | the keys of one file, as they were read |
//! | `architecture`, `vocabulary`, `tensors`, `types` | what each must say so that llama.cpp does not assert |
//! | `source` | a file as a stream of typed values |
//! | `error` | what can be wrong with it |

mod architecture;
mod error;
mod header;
mod model_file;
mod source;
mod tensors;
mod types;
mod vocabulary;

pub use error::{GgufError, Problem};
pub use model_file::ModelFile;
pub use tensors::TensorInfo;
pub use vocabulary::VocabularyProblem;
