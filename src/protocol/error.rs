//! Why a request is refused: one type, whose texts go to the client as they are.
//!
//! Built by `parse` on the intake thread; the `triton` layer maps all of them
//! to INVALID_ARG. A text names the field, the value and the limit, and quotes
//! at most a few dozen characters of what the client sent.

use super::MAX_MESSAGES;
use crate::json::JsonError;
use crate::table::ParameterError;

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    #[error("input '{name}' is missing")]
    MissingInput { name: &'static str },
    #[error("input '{name}' has {n_elements} elements: must have 1, one text per request")]
    ElementCount {
        name: &'static str,
        n_elements: usize,
    },
    #[error("input '{name}' has {n_bytes} bytes: must have at most {max_bytes}")]
    InputTooLong {
        name: &'static str,
        n_bytes: usize,
        max_bytes: usize,
    },
    #[error("input '{name}' is not UTF-8: invalid byte at offset {offset}")]
    NotUtf8 { name: &'static str, offset: usize },
    #[error("'{name}': {source}")]
    Json {
        name: &'static str,
        source: JsonError,
    },
    #[error(
        "'{first}' and '{second}' both carry sampling parameters: send them once",
        first = .first,
        second = .second
    )]
    TwoSamplingInputs {
        first: &'static str,
        second: &'static str,
    },
    /// `what` is the request, or the name of the JSON that has them.
    #[error("{what} has {n_parameters} parameters: must have at most {limit}")]
    TooManyParameters {
        what: String,
        n_parameters: usize,
        limit: usize,
    },
    #[error("parameter 'sampling_parameters' = {value}: must be a string with a JSON object")]
    SamplingKind { value: String },
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
    #[error("'text_input' is an empty list of messages: must have at least 1")]
    NoMessages,
    #[error(
        "'text_input' has {n_messages} messages: must have at most {limit}",
        limit = MAX_MESSAGES
    )]
    TooManyMessages { n_messages: usize },
    #[error("text_input[{index}]{problem}")]
    Message { index: usize, problem: MessageError },
}

/// What is wrong with one message; the text continues `text_input[3]`.
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
