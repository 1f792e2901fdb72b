//! The protocol: what a request means, in whatever tensors it came.
//!
//! A contract calls this on an intake thread, once for each request. Everything here is a pure function of
//! its arguments: no tensors, no Triton or llama.cpp types, no I/O, no clock, no threads, and no input,
//! however hostile, may panic or use unbounded memory or stack.

mod defaults;
mod error;
mod limits;
pub mod messages;
pub mod parameters;
mod sampling;

pub use defaults::{Defaults, defaults};
pub use error::{MessageError, RequestError};
pub use limits::{
    DEFAULT_MAX_PROMPT_BYTES, MAX_MESSAGES, MAX_PARAMETERS, MAX_SAMPLING_JSON_BYTES,
    MAX_STOP_BYTES, MAX_STOP_STRINGS, RequestLimits,
};
pub use messages::{Content, Message, Role, ToolCall};
pub use parameters::Settings;
pub use sampling::{DryParams, Mirostat, SamplingParams};

use crate::table::{Given, Rules};

/// What the model is asked to continue.
#[derive(Clone, Debug, PartialEq)]
pub enum Prompt {
    /// A conversation for the model's chat template; never empty.
    Messages(Vec<Message>),
}

/// A request that has been checked against every limit.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateRequest {
    pub prompt: Prompt,
    pub settings: Settings,
}

/// How the requests of a model are read.
#[derive(Clone, Debug, PartialEq)]
pub struct Reading {
    /// What a request that says nothing gets; checked against `limits` with [`Settings::check`].
    pub defaults: Settings,
    pub limits: RequestLimits,
    /// Whether an unknown name is an error; else it is ignored. A known name with a bad value is always one.
    pub strict: bool,
}

impl Reading {
    /// What a request asks for: `defaults` overlaid with each source in turn, the strongest last.
    ///
    /// # Errors
    ///
    /// The first parameter that is refused, and why.
    pub fn settings<S>(&self, sources: S) -> Result<Settings, RequestError>
    where
        S: IntoIterator<Item = Vec<(String, Given)>>,
    {
        let mut settings = self.defaults.clone();
        let rules = Rules {
            n_ctx: Some(self.limits.n_ctx),
            strict: self.strict,
            passes: parameters::passes,
        };
        let mut given = Vec::new();
        for source in sources {
            given.extend(parameters::TABLE.read(&mut settings, source, &rules)?);
        }
        parameters::reconcile(&mut settings, &given)?;
        Ok(settings)
    }
}
