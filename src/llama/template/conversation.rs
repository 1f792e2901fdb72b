//! A conversation as values for a template, in the form that the template wants: see `probe`.
//!
//! Called for each rendering, on the thread that renders. Knows nothing of Jinja.

use std::borrow::Cow;

use minijinja::Value;

use crate::protocol::{Content, Message, Role, ToolCall};

/// What a template wants of a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wants {
    pub(super) content: ContentForm,
    /// Whether it takes system messages; else they begin the user message that follows.
    pub(super) system: bool,
    pub(super) arguments: ArgumentsForm,
    pub(super) no_tools: NoTools,
}

/// What `content` is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ContentForm {
    /// A string, whatever the client sent.
    Text,
    /// A list of parts, whatever the client sent.
    Parts,
    /// As the client sent it.
    Either,
}

/// What the `arguments` of a call are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ArgumentsForm {
    Object,
    Text,
}

/// What `tools` is to be where there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoTools {
    /// As in transformers.
    None,
    /// For templates that loop over them without a look: transformers has these beside a second one without tools.
    EmptyList,
}

impl Default for Wants {
    fn default() -> Self {
        Self {
            content: ContentForm::Text,
            system: true,
            arguments: ArgumentsForm::Object,
            no_tools: NoTools::None,
        }
    }
}

impl Wants {
    /// The variable `tools`.
    pub(super) fn tools(&self) -> Value {
        match self.no_tools {
            NoTools::None => Value::from(()),
            NoTools::EmptyList => Value::from(Vec::<Value>::new()),
        }
    }

    /// The list `messages`.
    pub(super) fn messages(&self, messages: &[Message]) -> Value {
        let messages = match self.system {
            true => Cow::Borrowed(messages),
            false => Cow::Owned(merged(messages)),
        };
        messages
            .iter()
            .map(|message| self.message(message))
            .collect()
    }

    /// Only with the keys that the client gave, as transformers leaves out what is none.
    fn message(&self, message: &Message) -> Value {
        let role = Value::from_serialize(message.role);
        let mut pairs = vec![("role", role), ("content", self.content(&message.content))];
        for (key, text) in [
            ("name", &message.name),
            ("tool_call_id", &message.tool_call_id),
            // Templates ask for either name.
            ("reasoning_content", &message.reasoning),
            ("thinking", &message.reasoning),
        ] {
            pairs.extend(text.as_ref().map(|text| (key, Value::from(text.as_str()))));
        }
        if !message.tool_calls.is_empty() {
            let calls = message.tool_calls.iter().map(|call| self.call(call));
            pairs.push(("tool_calls", calls.collect()));
        }
        pairs.into_iter().collect()
    }

    fn content(&self, content: &Content) -> Value {
        let texts = match (self.content, content) {
            (ContentForm::Parts, Content::Text(text)) => std::slice::from_ref(text),
            (ContentForm::Parts | ContentForm::Either, Content::Parts(parts)) => parts,
            _ => return Value::from(content.text().as_ref()),
        };
        let part = |text: &String| -> Value {
            let pairs = [("type", "text"), ("text", text.as_str())];
            pairs.into_iter().collect()
        };
        texts.iter().map(part).collect()
    }

    fn call(&self, call: &ToolCall) -> Value {
        let mut call_as_sent = Value::from_serialize(&call.call);
        if self.arguments == ArgumentsForm::Text {
            let mut with_text = call.call.clone();
            if let Some(arguments) = with_text
                .get_mut("function")
                .and_then(|function| function.get_mut("arguments"))
                && arguments.is_object()
            {
                let text = call.arguments.clone();
                *arguments = text.unwrap_or_else(|| arguments.to_string()).into();
            }
            call_as_sent = Value::from_serialize(&with_text);
        }
        call_as_sent
    }
}

/// A conversation without system messages: each begins the next user message, on a line of its own as in
/// llama-server, or is one where none follows.
fn merged(messages: &[Message]) -> Vec<Message> {
    let mut merged: Vec<Message> = Vec::with_capacity(messages.len());
    let mut pending: Vec<Cow<str>> = Vec::new();
    for message in messages {
        match message.role {
            Role::System => pending.push(message.content.text()),
            Role::User if !pending.is_empty() => {
                pending.push(message.content.text());
                merged.push(Message {
                    content: Content::Text(pending.join("\n")),
                    ..message.clone()
                });
                pending.clear();
            }
            _ => merged.push(message.clone()),
        }
    }
    if !pending.is_empty() {
        merged.push(Message::new(Role::User, pending.join("\n")));
    }
    merged
}
