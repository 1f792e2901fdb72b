//! Why a model cannot be loaded: the text becomes the load's error in Triton.

use std::path::PathBuf;

use super::fit;
use crate::config::{self, MAX_TEMPLATE_BYTES};
use crate::llama;
use crate::protocol::RequestError;
use crate::triton::{Code, Error};

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Triton(#[from] Error),
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error("{}'{}' cannot be read: {source}", field.map(|field| format!("{field}: ")).unwrap_or_default(), path.display())]
    File {
        /// What names the file, if anything does.
        field: Option<&'static str>,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("no *.gguf file in '{}': put one there or set default_model_filename or the parameter 'model_path'", .0.display())]
    NoModelFile(PathBuf),
    #[error("{} *.gguf files in '{}': keep one or set default_model_filename or the parameter 'model_path'", files.len(), folder.display())]
    ManyModelFiles {
        folder: PathBuf,
        files: Vec<PathBuf>,
    },
    #[error("chat template file '{}' has {n_bytes} bytes: at most {MAX_TEMPLATE_BYTES} are allowed", path.display())]
    TemplateTooLong { path: PathBuf, n_bytes: u64 },
    #[error(transparent)]
    Template(#[from] llama::TemplateError),
    #[error(transparent)]
    Weights(#[from] llama::LoadError),
    #[error("config parameter 'speculative_model': {0}")]
    DraftModelFile(#[source] llama::LoadError),
    #[error("config parameter 'speculative_model': {0}")]
    DraftModel(#[from] llama::DraftModelError),
    #[error(
        "config parameter 'speculative_method': must be \"none\" for the architecture of this model, \
         whose memory cannot be cut back to before a wrong guess"
    )]
    Uncut,
    #[error(transparent)]
    Trial(#[from] llama::trial::TrialError),
    #[error(transparent)]
    Context(#[from] llama::ContextError),
    #[error(transparent)]
    Defaults(#[from] RequestError),
    #[error(
        "config parameter 'n_ctx' = {n_ctx}: must be at most {max_positions}, the positions that \
         this model has learned"
    )]
    Positions { n_ctx: u32, max_positions: u32 },
    #[error(transparent)]
    Fit(#[from] fit::Short),
    #[error(
        "n_ctx = {n_ctx} tokens, {n_cells} cells of KV cache in {n_parts} parts (one if 'kv_unified', else one \
         for each slot), and attention need {needed} bytes: {available} bytes of memory are available"
    )]
    KvCache {
        n_ctx: u32,
        n_cells: u64,
        n_parts: u32,
        needed: u64,
        available: u64,
    },
}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        let code = match &error {
            LoadError::Triton(error) => error.code,
            LoadError::NoModelFile(_) => Code::NotFound,
            LoadError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Code::NotFound
            }
            LoadError::Context(llama::ContextError::OutOfRange { .. }) => Code::InvalidArg,
            LoadError::Context(_) => Code::Internal,
            LoadError::KvCache { .. }
            | LoadError::Fit(_)
            | LoadError::Weights(llama::LoadError::Memory { .. })
            | LoadError::DraftModelFile(llama::LoadError::Memory { .. }) => Code::Unavailable,
            _ => Code::InvalidArg,
        };
        Error::new(code, error.to_string())
    }
}
