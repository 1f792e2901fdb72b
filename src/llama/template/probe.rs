//! What a template wants, and what it lacks, found out at load by rendering conversations.
//!
//! Called once for each template. What no rendering of these conversations reaches is found only where it is a name.

use std::collections::BTreeSet;
use std::fmt;

use minijinja::ErrorKind;
use serde_json::{Map, json};

use super::conversation::{ArgumentsForm, ContentForm, NoTools, Wants};
use super::{ChatTemplate, MAX_TIME, TemplateError};
use crate::protocol::{Content, Message, Role, ToolCall};

/// What was found that the log should say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The template calls what is not there.
    Missing { what: String },
    /// It renders none of the conversations.
    Fails { why: String },
    /// It takes no system messages.
    NoSystem,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Missing { what } => write!(
                f,
                "the chat template calls what is not there, requests that need it are refused: {what}"
            ),
            Finding::Fails { why } => {
                write!(f, "the chat template renders no simple conversation: {why}")
            }
            Finding::NoSystem => write!(
                f,
                "the chat template takes no system messages: each is put before the user message that follows"
            ),
        }
    }
}

impl Finding {
    /// Whether somebody should look at it.
    pub fn is_warning(&self) -> bool {
        !matches!(self, Finding::NoSystem)
    }
}

const SYSTEM: &str = "probe-of-system";
const USER: &str = "probe-of-user";
const ARGUMENT: &str = "probe-of-argument";

impl ChatTemplate {
    /// Finds out what the template wants, to give it that from now on.
    ///
    /// # Errors
    ///
    /// Where it loses the user's text, or is too costly for conversations as clients send them.
    pub fn probed(mut self) -> Result<(Self, Vec<Finding>), TemplateError> {
        let mut findings = Vec::new();
        let mut content = self.content_form()?;
        if content.is_err() {
            self.wants.no_tools = NoTools::EmptyList;
            // Where both ways fail, the finding is that of the usual one.
            match self.content_form()? {
                Ok(found) => content = Ok(found),
                Err(_) => self.wants.no_tools = NoTools::None,
            }
        }
        match content {
            Ok(content) => self.wants.content = content,
            Err(why) => findings.push(Finding::Fails { why }),
        }
        self.wants.system = self.takes_system()?;
        self.wants.arguments = self.arguments_form()?;
        let missing = self.missing()?.into_iter();
        findings.extend(missing.map(|what| Finding::Missing { what }));
        if !self.wants.system {
            findings.push(Finding::NoSystem);
        }
        Ok((self, findings))
    }

    /// A rendering; an error within where the template refuses or fails.
    fn try_as(
        &self,
        wants: Wants,
        messages: &[Message],
    ) -> Result<Result<String, TemplateError>, TemplateError> {
        match self.render_as(wants, messages, &Map::new(), MAX_TIME) {
            // One that is too costly for these serves nobody.
            Err(
                error @ (TemplateError::TooSlow
                | TemplateError::OutputTooLong { .. }
                | TemplateError::TooMuchWork { .. }
                | TemplateError::TooLate { .. }),
            ) => Err(error),
            rendered => Ok(rendered),
        }
    }

    /// In which form the user's text comes through, or why the template renders nothing.
    fn content_form(&self) -> Result<Result<ContentForm, String>, TemplateError> {
        let mut rendered = Vec::new();
        for messages in conversations() {
            let render = |content| {
                let wants = Wants {
                    content,
                    ..self.wants
                };
                self.try_as(wants, &messages)
            };
            rendered.push((render(ContentForm::Text)?, render(ContentForm::Parts)?));
        }
        let is_shown = |prompt: &str| prompt.to_lowercase().contains(USER);
        let text = rendered
            .iter()
            .any(|(text, _)| text.as_deref().is_ok_and(is_shown));
        let parts = rendered
            .iter()
            .any(|(_, parts)| parts.as_deref().is_ok_and(is_shown));
        let are_equal = rendered
            .iter()
            .all(|(text, parts)| text.as_ref().ok() == parts.as_ref().ok());
        let first_error = rendered.iter().find_map(|(text, _)| text.as_ref().err());
        match (text, parts) {
            (true, _) if are_equal => Ok(Ok(ContentForm::Either)),
            // Parts come through in any template that prints them as they are.
            (true, _) => Ok(Ok(ContentForm::Text)),
            (false, true) => Ok(Ok(ContentForm::Parts)),
            (false, false) => match first_error {
                Some(error)
                    if rendered
                        .iter()
                        .all(|(text, parts)| text.is_err() && parts.is_err()) =>
                {
                    Ok(Err(error.to_string()))
                }
                _ => Err(TemplateError::LosesText),
            },
        }
    }

    /// Whether system messages come through; also true where they do not even when they are merged.
    fn takes_system(&self) -> Result<bool, TemplateError> {
        let messages = [
            Message::new(Role::System, SYSTEM),
            Message::new(Role::User, USER),
        ];
        let shows = |system| {
            let wants = Wants {
                system,
                ..self.wants
            };
            let rendered = self.try_as(wants, &messages)?;
            Ok(rendered.is_ok_and(|prompt| prompt.contains(SYSTEM) && prompt.contains(USER)))
        };
        Ok(shows(true)? || !shows(false)?)
    }

    /// What the arguments of calls must be to come through: objects, unless only text does.
    fn arguments_form(&self) -> Result<ArgumentsForm, TemplateError> {
        let shows = |arguments| {
            let wants = Wants {
                arguments,
                ..self.wants
            };
            let rendered = self.try_as(wants, &a_call())?;
            Ok::<_, TemplateError>(rendered.is_ok_and(|prompt| prompt.contains(ARGUMENT)))
        };
        Ok(match shows(ArgumentsForm::Object)? {
            false if shows(ArgumentsForm::Text)? => ArgumentsForm::Text,
            _ => ArgumentsForm::Object,
        })
    }

    /// What the template calls and what does not exist: filters and tests in whatever branch, and what conversations reach.
    fn missing(&self) -> Result<BTreeSet<String>, TemplateError> {
        let state = self.environment.empty_state();
        let mut missing = BTreeSet::new();
        for name in &self.names.filters {
            let called = state.apply_filter(name, &[]);
            if called.is_err_and(|error| error.kind() == ErrorKind::UnknownFilter) {
                missing.insert(format!("filter {name}"));
            }
        }
        for name in &self.names.tests {
            let called = state.perform_test(name, &[]);
            if called.is_err_and(|error| error.kind() == ErrorKind::UnknownTest) {
                missing.insert(format!("test {name}"));
            }
        }
        for messages in conversations().into_iter().chain([a_call().to_vec()]) {
            if let Err(TemplateError::Missing { what }) = self.try_as(self.wants, &messages)?
                && !missing.iter().any(|known| what.contains(known.as_str()))
            {
                missing.insert(what);
            }
        }
        Ok(missing)
    }
}

/// What clients send, each with a last message of the user's.
fn conversations() -> [Vec<Message>; 4] {
    let [system, user, assistant, last] = [
        (Role::System, "Be brief."),
        (Role::User, "Hello, how are you?"),
        (Role::Assistant, "Well."),
        (Role::User, USER),
    ]
    .map(|(role, text)| Message::new(role, text));
    [
        vec![last.clone()],
        vec![system.clone(), last.clone()],
        vec![user.clone(), assistant.clone(), last.clone()],
        vec![system, user, assistant, last],
    ]
}

fn a_call() -> [Message; 3] {
    let call = json!({
        "id": "probe0001",
        "type": "function",
        "function": {"name": "probe", "arguments": {"key": ARGUMENT}},
    });
    let call = ToolCall {
        call: call.as_object().cloned().unwrap_or_default(),
        arguments: None,
    };
    [
        Message::new(Role::User, USER),
        Message {
            tool_calls: vec![call],
            ..Message::new(Role::Assistant, "")
        },
        Message {
            name: Some("probe".to_owned()),
            tool_call_id: Some("probe0001".to_owned()),
            content: Content::Text("done".to_owned()),
            ..Message::new(Role::Tool, "")
        },
    ]
}
