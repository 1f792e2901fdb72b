//! The JSON that goes out in `text_output`.
//!
//! Called by the delivery thread for every response, so these only format:
//! what to send and when is decided elsewhere.

use serde::Serialize;

use crate::engine::{FinishReason, Usage};

/// A piece of the answer while it is generated.
pub fn chunk(content: &str) -> String {
    json(&Text {
        kind: "chunk",
        content,
    })
}

/// The end of a stream whose text went out in chunks.
pub fn complete(reason: FinishReason, usage: &Usage) -> String {
    json(&Complete::new(None, reason, usage))
}

/// The whole answer in one response, for a request that does not stream.
pub fn whole(content: &str, reason: FinishReason, usage: &Usage) -> String {
    json(&Complete::new(Some(content), reason, usage))
}

/// An error after the first chunk, where Triton's own status can no longer be set.
pub fn error(message: &str) -> String {
    json(&Text {
        kind: "error",
        content: message,
    })
}

#[derive(Serialize)]
struct Text<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    content: &'a str,
}

#[derive(Serialize)]
struct Complete<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
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

impl<'a> Complete<'a> {
    fn new(content: Option<&'a str>, reason: FinishReason, usage: &Usage) -> Self {
        Self {
            kind: "complete",
            content,
            finish_reason: reason.as_str(),
            usage: WireUsage {
                prompt_tokens: usage.prompt_tokens,
                completion_tokens: usage.completion_tokens,
                total_tokens: usage.prompt_tokens.saturating_add(usage.completion_tokens),
                prompt_tokens_details: WireDetails {
                    cached_tokens: usage.cached_tokens,
                },
            },
        }
    }
}

fn json<T: Serialize>(reply: &T) -> String {
    serde_json::to_string(reply).expect("structs of strings and integers always serialise")
}
