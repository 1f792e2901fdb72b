//! Conversations: a text read as a list of chat messages.
//!
//! Called by the contracts whose prompts are conversations, on an intake thread; the chat template is given
//! the messages. Knows nothing of templates or tokens.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Map, Value};

use super::error::{MessageError, RequestError};
use super::limits::MAX_MESSAGES;
use crate::json;
use crate::table::quoted;

/// Who speaks a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
    Tool,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: Role,
    pub content: Content,
    pub name: Option<String>,
    pub tool_call_id: Option<String>,
    /// What an assistant thought before it answered.
    pub reasoning: Option<String>,
    pub tool_calls: Vec<ToolCall>,
}

/// The text of a message, as the client sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Text(String),
    Parts(Vec<String>),
}

/// A call of a tool that an assistant made.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolCall {
    /// As the client sent it; `function.arguments` is an object, or text that is none.
    pub call: Map<String, Value>,
    /// The arguments as text, where the client sent them so.
    pub arguments: Option<String>,
}

impl Message {
    /// A message that is nothing but text.
    pub fn new(role: Role, text: impl Into<String>) -> Self {
        Self {
            role,
            content: Content::Text(text.into()),
            name: None,
            tool_call_id: None,
            reasoning: None,
            tool_calls: Vec::new(),
        }
    }

    /// Bytes of its texts, those of its calls included.
    pub fn n_bytes(&self) -> usize {
        let content = match &self.content {
            Content::Text(text) => text.len(),
            Content::Parts(parts) => parts.iter().map(String::len).sum(),
        };
        let others = [&self.name, &self.tool_call_id, &self.reasoning];
        let others = others.into_iter().flatten().map(String::len).sum::<usize>();
        let calls = self.tool_calls.iter().map(|call| {
            json::n_bytes(call.call.values()) + call.arguments.as_ref().map_or(0, String::len)
        });
        content + others + calls.sum::<usize>()
    }
}

impl Content {
    /// Parts joined with line ends, as vLLM does for templates that take a string.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Content::Text(text) => Cow::Borrowed(text),
            Content::Parts(parts) => Cow::Owned(parts.join("\n")),
        }
    }
}

/// Reads the text of an input: a JSON list of messages, else plain text, which is one user message.
pub fn read(name: &'static str, text: String) -> Result<Vec<Message>, RequestError> {
    if !looks_like_messages(&text) {
        return Ok(vec![Message::new(Role::User, text)]);
    }
    let elements = json::list(&text).map_err(|source| RequestError::Json { name, source })?;
    if elements.is_empty() {
        return Err(RequestError::NoMessages { name });
    }
    if elements.len() > MAX_MESSAGES {
        return Err(RequestError::TooManyMessages {
            name,
            n_messages: elements.len(),
        });
    }
    let mut messages = Vec::with_capacity(elements.len());
    let mut n_values = 0;
    for (index, element) in elements.into_iter().enumerate() {
        let read = message(element, &mut n_values);
        messages.push(read.map_err(|problem| RequestError::Message {
            name,
            index,
            problem,
        })?);
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

/// Reads one message; `n_values` counts those of JSON within texts, over all messages.
fn message(element: Value, n_values: &mut usize) -> Result<Message, MessageError> {
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
        Some(Value::String(text)) => Content::Text(text),
        Some(Value::Array(parts)) => Content::Parts(text_parts(parts)?),
        // An assistant that only called tools has no text.
        None | Some(Value::Null) if role == Role::Assistant => Content::Text(String::new()),
        other => {
            return Err(MessageError::Content {
                found: json::describe(other.as_ref()),
            });
        }
    };
    let mut text = |key: &'static str| match object.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        other => Err(MessageError::Key {
            key,
            found: json::describe(other.as_ref()),
        }),
    };
    let (name, tool_call_id) = (text("name")?, text("tool_call_id")?);
    // Three names of one thing, the strongest first as in transformers.
    let mut reasoning = None;
    for key in ["reasoning_content", "thinking", "reasoning"] {
        reasoning = reasoning.or(text(key)?);
    }
    let tool_calls = match object.remove("tool_calls") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(calls)) => calls
            .into_iter()
            .enumerate()
            .map(|(index, call)| tool_call(index, call, n_values))
            .collect::<Result<_, _>>()?,
        other => {
            return Err(MessageError::ToolCalls {
                found: json::describe(other.as_ref()),
            });
        }
    };
    Ok(Message {
        role,
        content,
        name,
        tool_call_id,
        reasoning,
        tool_calls,
    })
}

/// Reads a call `{"id": .., "type": "function", "function": {"name": .., "arguments": ..}}`.
fn tool_call(index: usize, call: Value, n_values: &mut usize) -> Result<ToolCall, MessageError> {
    let wrong = |key, found, expected| MessageError::ToolCall {
        index,
        key,
        found: json::describe(found),
        expected,
    };
    let Value::Object(mut call) = call else {
        return Err(wrong("", Some(&call), "an object with 'function'"));
    };
    let function = match call.get_mut("function") {
        Some(Value::Object(function)) => function,
        other => {
            return Err(wrong(
                ".function",
                other.as_deref(),
                "an object with 'name'",
            ));
        }
    };
    if !matches!(function.get("name"), Some(Value::String(_))) {
        return Err(wrong(".function.name", function.get("name"), "a string"));
    }
    let given = function.entry("arguments").or_insert(Value::Null);
    let mut arguments = None;
    match given {
        Value::Object(_) => {}
        Value::Null => *given = Value::Object(Map::new()),
        Value::String(text) => {
            let text = std::mem::take(text);
            let parsed = json::object_in(&text, n_values);
            let parsed = parsed.map_err(|source| MessageError::Arguments { index, source })?;
            *given = parsed.map_or_else(|| Value::String(text.clone()), Value::Object);
            arguments = Some(text);
        }
        other => {
            let expected = "an object, or a string with one";
            return Err(wrong(".function.arguments", Some(other), expected));
        }
    }
    Ok(ToolCall { call, arguments })
}

fn text_parts(parts: Vec<Value>) -> Result<Vec<String>, MessageError> {
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
    Ok(texts)
}
