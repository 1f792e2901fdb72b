//! Why a request is refused: one type, whose texts go to the client as they are.
//!
//! Built on an intake thread; intake maps all of them to INVALID_ARG. A text names the field, the value and
//! the limit, and quotes at most a few dozen characters of what the client sent.

use super::limits::MAX_MESSAGES;
use crate::json::JsonError;
use crate::table::ParameterError;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("'{name}': {source}")]
    Json {
        name: &'static str,
        source: JsonError,
    },
    /// `what` is the request, or the name of the JSON that has them.
    #[error("{what} has {n_parameters} parameters: must have at most {limit}")]
    TooManyParameters {
        what: String,
        n_parameters: usize,
        limit: usize,
    },
    /// A default of the model configuration that no request of this model could have.
    #[error(
        "config parameter 'sampling_parameters': '{name}' = {value}: must be at most n_ctx = {n_ctx}"
    )]
    DefaultAboveContext {
        name: &'static str,
        value: u32,
        n_ctx: u32,
    },
    #[error(transparent)]
    Parameter(#[from] ParameterError),
    #[error("parameter 'min_tokens' = {min_tokens}: must be at most 'max_tokens' = {max_tokens}")]
    MinAboveMax { min_tokens: u32, max_tokens: u32 },
    #[error("'{name}' is an empty list of messages: must have at least 1")]
    NoMessages { name: &'static str },
    #[error(
        "'{name}' has {n_messages} messages: must have at most {limit}",
        limit = MAX_MESSAGES
    )]
    TooManyMessages {
        name: &'static str,
        n_messages: usize,
    },
    #[error("{name}[{index}]{problem}")]
    Message {
        name: &'static str,
        index: usize,
        problem: MessageError,
    },
}

/// What is wrong with one message; the text continues the name and index of the message.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    #[error(" is {found}: must be an object with 'role' and 'content'")]
    NotAnObject { found: &'static str },
    #[error(".role is missing: must be one of system, developer, user, assistant, tool")]
    NoRole,
    #[error(".role = {role}: must be one of system, developer, user, assistant, tool")]
    Role { role: String },
    #[error(".content is {found}: must be a string or a list of text parts")]
    Content { found: &'static str },
    #[error(".content[{part}] is {found}: must be an object of type \"text\"")]
    Part { part: usize, found: &'static str },
    #[error(".content[{part}].type = {kind}: must be \"text\"")]
    PartType { part: usize, kind: String },
    #[error(".content[{part}].text is {found}: must be a string")]
    PartText { part: usize, found: &'static str },
    #[error(".{key} is {found}: must be a string")]
    Key {
        key: &'static str,
        found: &'static str,
    },
    #[error(".tool_calls is {found}: must be a list of calls")]
    ToolCalls { found: &'static str },
    #[error(".tool_calls[{index}]{key} is {found}: must be {expected}")]
    ToolCall {
        index: usize,
        key: &'static str,
        found: &'static str,
        expected: &'static str,
    },
    #[error(".tool_calls[{index}].function.arguments: {source}")]
    Arguments { index: usize, source: JsonError },
}
