//! Conversations: `text_input` read as a list of chat messages.
//!
//! Called by `protocol::parse` on the intake thread; the chat template
//! serialises the messages. Knows nothing of templates or tokens.

use serde::Serialize;
use serde_json::Value;

use super::error::{MessageError, RequestError};
use super::given::quoted;
use super::{MAX_MESSAGES, json};

/// Who speaks a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

/// One message of a conversation, as chat templates expect it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

/// Reads `text_input`: a JSON list of messages, else plain text, which is one user message.
pub(crate) fn messages(text: String) -> Result<Vec<Message>, RequestError> {
    if !looks_like_messages(&text) {
        return Ok(vec![Message {
            role: Role::User,
            content: text,
        }]);
    }
    let elements = json::list(&text).map_err(|source| RequestError::Json {
        name: "text_input",
        source,
    })?;
    if elements.is_empty() {
        return Err(RequestError::NoMessages);
    }
    if elements.len() > MAX_MESSAGES {
        return Err(RequestError::TooManyMessages {
            n_messages: elements.len(),
        });
    }
    let mut messages = Vec::with_capacity(elements.len());
    for (index, element) in elements.into_iter().enumerate() {
        messages
            .push(message(element).map_err(|problem| RequestError::Message { index, problem })?);
    }
    Ok(messages)
}

/// Tells a list of messages, well-formed or not, from text that merely begins with a bracket.
///
/// Text such as `[1] see below` or `[{x}]` is a prompt like any other. Once it
/// opens with `[{` and names a role or a content, in JSON's quotes or Python's, it is meant
/// as messages and every fault in it is reported rather than sent to the model.
fn looks_like_messages(text: &str) -> bool {
    let Some(rest) = text.trim_start().strip_prefix('[') else {
        return false;
    };
    let rest = rest.trim_start();
    if rest.starts_with('{') {
        let names = ["\"role\"", "'role'", "\"content\"", "'content'"];
        names.iter().any(|name| rest.contains(name))
    } else {
        rest.trim_end() == "]"
    }
}

fn message(element: Value) -> Result<Message, MessageError> {
    let Value::Object(mut object) = element else {
        return Err(MessageError::NotAnObject {
            found: json::describe(Some(&element)),
        });
    };
    let role = match object.get("role") {
        None => return Err(MessageError::NoRole),
        Some(Value::String(role)) => match role.as_str() {
            // OpenAI's newer name for it.
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" => Role::Tool,
            other => {
                return Err(MessageError::Role {
                    role: quoted(other),
                });
            }
        },
        Some(other) => {
            return Err(MessageError::Role {
                role: json::describe(Some(other)).to_owned(),
            });
        }
    };
    let content = match object.remove("content") {
        Some(Value::String(text)) => text,
        Some(Value::Array(parts)) => text_of_parts(parts)?,
        // An assistant that only called tools has no text.
        None | Some(Value::Null) if role == Role::Assistant => String::new(),
        other => {
            return Err(MessageError::Content {
                found: json::describe(other.as_ref()),
            });
        }
    };
    Ok(Message { role, content })
}

/// Joins text parts with line ends, as vLLM does for templates that take a string.
fn text_of_parts(parts: Vec<Value>) -> Result<String, MessageError> {
    let mut texts = Vec::with_capacity(parts.len());
    for (part, value) in parts.into_iter().enumerate() {
        let Value::Object(mut object) = value else {
            return Err(MessageError::Part {
                part,
                found: json::describe(Some(&value)),
            });
        };
        match object.get("type") {
            Some(Value::String(kind)) if kind == "text" => {}
            Some(Value::String(kind)) => {
                return Err(MessageError::PartType {
                    part,
                    kind: quoted(kind),
                });
            }
            other => {
                return Err(MessageError::PartType {
                    part,
                    kind: json::describe(other).to_owned(),
                });
            }
        }
        match object.remove("text") {
            Some(Value::String(text)) => texts.push(text),
            other => {
                return Err(MessageError::PartText {
                    part,
                    found: json::describe(other.as_ref()),
                });
            }
        }
    }
    Ok(texts.join("\n"))
}
