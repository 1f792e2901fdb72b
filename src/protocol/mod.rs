//! The protocol: what a client's request means, and how replies are written.
//!
//! The intake thread calls [`parse`] once per request; the delivery thread
//! calls the writers in [`reply`]. Everything here is a pure function of its
//! arguments: no Triton or llama.cpp types, no I/O, no clock, no threads, and
//! no input, however hostile, may panic or use unbounded memory or stack.

pub mod chat;
mod defaults;
mod error;
pub mod parameters;
pub mod reply;
mod sampling;

pub use chat::{Content, Message, Role, ToolCall};
pub use defaults::{Defaults, RequestDefaults, defaults};
pub use error::{MessageError, RequestError};
pub use parameters::Settings;
pub use sampling::{DryParams, Mirostat, SamplingParams};

use serde_json::{Map, Value};

use crate::table::{Given, Rules};

/// Bytes of text one request may carry where the configuration does not say otherwise.
pub const DEFAULT_MAX_PROMPT_BYTES: usize = 8 * 1024 * 1024;
/// Messages one request may carry.
pub const MAX_MESSAGES: usize = 4096;
/// Bytes of the JSON that carries sampling parameters.
pub const MAX_SAMPLING_JSON_BYTES: usize = 64 * 1024;
/// Parameters in one request, or keys in its sampling JSON.
pub const MAX_PARAMETERS: usize = 64;
/// Stop strings of one request.
pub const MAX_STOP_STRINGS: usize = 32;
/// Bytes of one stop string.
pub const MAX_STOP_BYTES: usize = 1024;

/// A request parameter as Triton carries it.
#[derive(Clone, Debug, PartialEq)]
pub enum ParamValue {
    String(String),
    Int(i64),
    Bool(bool),
    Double(f64),
}

impl From<ParamValue> for Given {
    fn from(value: ParamValue) -> Self {
        match value {
            ParamValue::String(text) => Given::Text(text),
            ParamValue::Int(int) => Given::Whole(int.into()),
            ParamValue::Bool(flag) => Given::Flag(flag),
            ParamValue::Double(number) => Given::Number(number),
        }
    }
}

/// A request as it came off the wire: the elements of each input that was sent.
///
/// An optional input without elements counts as not sent: shape [0] is how some clients leave it out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RawRequest {
    pub text_input: Option<Vec<Vec<u8>>>,
    pub sampling_parameters: Option<Vec<Vec<u8>>>,
    /// The input named `parameters`, where the configuration declares one.
    pub parameters_input: Option<Vec<Vec<u8>>>,
    pub stop: Option<Vec<Vec<u8>>>,
    pub parameters: Vec<(String, ParamValue)>,
}

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
    /// More variables for the chat template; none of `messages`, `tools` and `documents`.
    pub template_kwargs: Map<String, Value>,
    pub streaming: bool,
    /// How many tokens' text shares a response, after the first; at least 1.
    pub stream_interval: u32,
    pub sampling: SamplingParams,
    /// Tokens to generate at most; `None` means until the model stops or the context is full.
    pub max_tokens: Option<u32>,
    /// Each of 1 to [`MAX_STOP_BYTES`] bytes, at most [`MAX_STOP_STRINGS`].
    pub stop: Vec<String>,
}

/// The limits that depend on the model and its configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Tokens one sequence may hold; the upper end of `max_tokens`.
    pub n_ctx: u32,
    /// Bytes `text_input` may have.
    pub max_prompt_bytes: usize,
}

/// Reads a request, or says in one sentence what is wrong with it.
///
/// The caller has checked `defaults` against `limits` with [`Settings::check`].
///
/// A setting is taken from the first of these that gives it: a request
/// parameter, the `stop` input, the `sampling_parameters` (or `parameters`)
/// input, `defaults`. Unknown names are errors if `strict`, else ignored; a
/// known name with a bad value is always an error.
pub fn parse(
    mut raw: RawRequest,
    defaults: &RequestDefaults,
    limits: &RequestLimits,
    strict: bool,
) -> Result<GenerateRequest, RequestError> {
    let settings = settings(&mut raw, defaults, limits, strict)?;
    let text = raw
        .text_input
        .ok_or(RequestError::MissingInput { name: "text_input" })?;
    let text = one_text("text_input", text, limits.max_prompt_bytes)?;
    Ok(GenerateRequest {
        prompt: Prompt::Messages(chat::messages(text)?),
        template_kwargs: settings.template_kwargs,
        streaming: settings.streaming,
        stream_interval: settings.stream_interval,
        sampling: settings.sampling,
        max_tokens: settings.max_tokens,
        stop: settings.stop,
    })
}

/// Everything but the prompt: `defaults` overlaid with each source in turn, the strongest last.
fn settings(
    raw: &mut RawRequest,
    defaults: &RequestDefaults,
    limits: &RequestLimits,
    strict: bool,
) -> Result<Settings, RequestError> {
    let mut settings = defaults.clone();
    let rules = Rules {
        n_ctx: Some(limits.n_ctx),
        strict,
        passes: parameters::passes,
    };
    let table = &parameters::TABLE;
    let (json, others) = split_sampling(raw)?;
    let mut given = Vec::new();

    if let Some((name, json)) = json {
        let pairs = parameters::json_pairs(name, &json)?;
        given.extend(table.read(&mut settings, pairs, &rules)?);
    }
    if let Some(elements) = raw.stop.take().filter(|elements| !elements.is_empty()) {
        let stop = stop_input(elements)?;
        given.extend(table.read(&mut settings, [("stop".to_owned(), stop)], &rules)?);
    }
    if others.len() > MAX_PARAMETERS {
        return Err(RequestError::TooManyParameters {
            what: "the request".to_owned(),
            n_parameters: others.len(),
            limit: MAX_PARAMETERS,
        });
    }
    let pairs = others.into_iter().map(|(name, value)| (name, value.into()));
    given.extend(table.read(&mut settings, pairs, &rules)?);

    parameters::reconcile(&mut settings, &given)?;
    Ok(settings)
}

/// The sampling JSON with the name it came under, and the request parameters without it.
///
/// Where the configuration does not declare the input `sampling_parameters`,
/// Triton delivers the same key of the body as a request parameter.
type Split = (Option<(&'static str, String)>, Vec<(String, ParamValue)>);

fn split_sampling(raw: &mut RawRequest) -> Result<Split, RequestError> {
    let mut found: Vec<(&'static str, String)> = Vec::new();
    for (name, input) in [
        ("sampling_parameters", raw.sampling_parameters.take()),
        ("parameters", raw.parameters_input.take()),
    ] {
        match input {
            None => {}
            Some(elements) if elements.is_empty() => {}
            Some(elements) => {
                found.push((name, one_text(name, elements, MAX_SAMPLING_JSON_BYTES)?));
            }
        }
    }
    let mut others = Vec::with_capacity(raw.parameters.len());
    for (name, value) in raw.parameters.drain(..) {
        match value {
            ParamValue::String(json) if name == "sampling_parameters" => {
                found.push(("sampling_parameters", json));
            }
            value if name == "sampling_parameters" => {
                let value = Given::from(value).shown();
                return Err(RequestError::SamplingKind { value });
            }
            value => others.push((name, value)),
        }
    }
    if found.len() > 1 {
        return Err(RequestError::TwoSamplingInputs {
            first: found[0].0,
            second: found[1].0,
        });
    }
    Ok((found.pop(), others))
}

/// The `stop` input: one element is read as the parameter `stop` would be, several are a list.
fn stop_input(elements: Vec<Vec<u8>>) -> Result<Given, RequestError> {
    let mut texts = Vec::new();
    for element in elements {
        texts.push(utf8("stop", element)?);
    }
    Ok(match texts.len() {
        1 => Given::Text(texts.remove(0)),
        _ => Given::Strings(texts),
    })
}

/// The single element of a text input.
fn one_text(
    name: &'static str,
    mut elements: Vec<Vec<u8>>,
    max_bytes: usize,
) -> Result<String, RequestError> {
    let n_elements = elements.len();
    let (Some(bytes), 1) = (elements.pop(), n_elements) else {
        return Err(RequestError::ElementCount { name, n_elements });
    };
    if bytes.len() > max_bytes {
        return Err(RequestError::InputTooLong {
            name,
            n_bytes: bytes.len(),
            max_bytes,
        });
    }
    utf8(name, bytes)
}

fn utf8(name: &'static str, bytes: Vec<u8>) -> Result<String, RequestError> {
    String::from_utf8(bytes).map_err(|error| RequestError::NotUtf8 {
        name,
        offset: error.utf8_error().valid_up_to(),
    })
}
