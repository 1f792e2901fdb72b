//! The contract of chat clients, such as the Kubrick CLI: messages in, JSON out.
//!
//! `text_input` is a conversation or a plain text. A response is one `text_output`, a JSON object: a chunk for
//! what is new, then `complete` with usage and the reason for the end.

use serde::Serialize;

use super::{AnswerPart, Asked, Contract, ContractError, Declared, Presence, Writer};
use crate::engine::{Ended, Usage};
use crate::protocol::parameters::{self, SAMPLING_PARAMETERS};
use crate::protocol::{
    GenerateRequest, MAX_PARAMETERS, MAX_SAMPLING_JSON_BYTES, Prompt, Reading, RequestError,
    Settings, messages,
};
use crate::table::Given;
use crate::tensor::{DataType, Tensor, TensorError, check_length};

/// A conversation as JSON, or a plain text.
const TEXT_INPUT: &str = "text_input";
/// The input with sampling JSON that Triton's generate endpoints trip over.
const PARAMETERS: &str = "parameters";
const STOP: &str = "stop";
const TEXT_OUTPUT: &str = "text_output";

/// What chat clients speak.
pub static CHAT: Contract = Contract {
    name: "chat",
    inputs: &[
        text(TEXT_INPUT, 1, Presence::Required),
        text(SAMPLING_PARAMETERS, 1, Presence::Optional),
        text(STOP, -1, Presence::Optional),
        text(PARAMETERS, 1, Presence::Unwanted),
    ],
    outputs: &[text(TEXT_OUTPUT, 1, Presence::Required)],
    defaults: Settings::default,
    limit_of: |name, limits| match name {
        TEXT_INPUT => limits.max_prompt_bytes,
        _ => MAX_SAMPLING_JSON_BYTES,
    },
    read,
};

const fn text(name: &'static str, dim: i64, presence: Presence) -> Declared {
    Declared {
        name,
        datatype: DataType::Bytes,
        dim,
        presence,
    }
}

/// A setting is taken from the first of these that gives it: a request parameter, the `stop` input, the
/// `sampling_parameters` (or `parameters`) input, the model's defaults.
fn read(
    inputs: Vec<Tensor>,
    parameters: Vec<(String, Given)>,
    reading: &Reading,
) -> Result<Asked, ContractError> {
    let mut read = Inputs::default();
    for input in inputs {
        // Shape [0] is how some clients leave an input out.
        if input.name != TEXT_INPUT && input.is_empty() {
            continue;
        }
        match input.name.as_ref() {
            TEXT_INPUT => read.text = Some(input.into_text()?),
            SAMPLING_PARAMETERS => read
                .sampling
                .push((SAMPLING_PARAMETERS, input.into_text()?)),
            PARAMETERS => read.sampling.push((PARAMETERS, input.into_text()?)),
            STOP => read.stop = Some(stop(input.into_texts()?)),
            _ => {}
        }
    }
    let mut others = Vec::with_capacity(parameters.len());
    for (name, value) in parameters {
        match value {
            // Where the configuration does not declare the input, Triton delivers the key of the body so.
            Given::Text(json) if name == SAMPLING_PARAMETERS => {
                check_length(&name, json.len() as u64, MAX_SAMPLING_JSON_BYTES)?;
                read.sampling.push((SAMPLING_PARAMETERS, json));
            }
            value if name == SAMPLING_PARAMETERS => {
                let value = value.shown();
                return Err(ContractError::SamplingKind { value });
            }
            value => others.push((name, value)),
        }
    }
    let sampling = match &read.sampling[..] {
        [] => Vec::new(),
        [(name, json)] => parameters::json_pairs(name, json)?,
        [(first, _), (second, _), ..] => {
            return Err(ContractError::TwoSamplingInputs { first, second });
        }
    };
    if others.len() > MAX_PARAMETERS {
        return Err(RequestError::TooManyParameters {
            what: "the request".to_owned(),
            n_parameters: others.len(),
            limit: MAX_PARAMETERS,
        }
        .into());
    }
    let stop = read.stop.map(|stop| (STOP.to_owned(), stop));
    let sources = [sampling, stop.into_iter().collect(), others];
    let settings = reading.settings(sources)?;
    let text = read.text.ok_or(TensorError::Missing { name: TEXT_INPUT })?;
    let prompt = Prompt::Messages(messages::read(TEXT_INPUT, text)?);
    let writer = ChatWriter {
        streaming: settings.streaming,
    };
    Ok(Asked {
        request: GenerateRequest { prompt, settings },
        writer: Box::new(writer),
    })
}

/// What the inputs say.
#[derive(Default)]
struct Inputs {
    text: Option<String>,
    /// The name and the text of each that carries sampling JSON.
    sampling: Vec<(&'static str, String)>,
    stop: Option<Given>,
}

/// One element is read as the parameter `stop` would be, several are a list.
fn stop(mut texts: Vec<String>) -> Given {
    match texts.len() {
        1 => Given::Text(texts.remove(0)),
        _ => Given::Strings(texts),
    }
}

struct ChatWriter {
    streaming: bool,
}

impl Writer for ChatWriter {
    fn chunk(&mut self, parts: &[AnswerPart]) -> Vec<Tensor> {
        output(&Text {
            kind: "chunk",
            content: &parts.first().map(AnswerPart::text).unwrap_or_default(),
        })
    }

    fn complete(&mut self, parts: &[AnswerPart], ends: &[Ended]) -> Vec<Tensor> {
        let content =
            (!self.streaming).then(|| parts.first().map(AnswerPart::text).unwrap_or_default());
        let end = ends.first().expect("a request has an answer");
        output(&Complete {
            kind: "complete",
            content,
            finish_reason: end.reason.as_str(),
            usage: end.usage.into(),
        })
    }

    fn error(&mut self, message: &str) -> Vec<Tensor> {
        output(&Text {
            kind: "error",
            content: message,
        })
    }
}

#[derive(Serialize)]
struct Text<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct Complete {
    #[serde(rename = "type")]
    kind: &'static str,
    /// The whole answer, for a request that does not stream.
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    finish_reason: &'static str,
    usage: WireUsage,
}

/// Token counts as OpenAI spells them.
#[derive(Serialize)]
struct WireUsage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_tokens_details: WireDetails,
}

#[derive(Serialize)]
struct WireDetails {
    cached_tokens: u32,
}

impl From<Usage> for WireUsage {
    fn from(usage: Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
            prompt_tokens_details: WireDetails {
                cached_tokens: usage.cached_tokens,
            },
        }
    }
}

fn output<T: Serialize>(reply: &T) -> Vec<Tensor> {
    let json =
        serde_json::to_string(reply).expect("structs of strings and integers always serialise");
    vec![Tensor::text(TEXT_OUTPUT, json)]
}
