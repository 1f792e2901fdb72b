//! A value, as some source gave it, and how errors show it.
//!
//! Read by `kind`, which says what each parameter takes. Pure; called on any thread.

use serde_json::{Map, Value};

use crate::json;

/// Characters of a client's text that an error quotes at most.
const MAX_QUOTED_CHARS: usize = 64;

/// A value as some source gave it.
#[derive(Clone, Debug, PartialEq)]
pub enum Given {
    Whole(i128),
    Number(f64),
    Flag(bool),
    Text(String),
    Strings(Vec<String>),
    Object(Map<String, Value>),
    /// A JSON value that no parameter takes, in words.
    Other(&'static str),
}

impl Given {
    pub(super) fn number(&self) -> Option<f64> {
        match self {
            Given::Whole(whole) => Some(*whole as f64),
            Given::Number(number) => Some(*number),
            Given::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    pub(super) fn whole(&self) -> Option<i128> {
        match self {
            Given::Whole(whole) => Some(*whole),
            // The cast saturates, and no range reaches that far.
            Given::Number(number) if number.fract() == 0.0 => Some(*number as i128),
            Given::Text(text) => {
                let text = text.trim();
                text.parse()
                    .ok()
                    .or_else(|| Given::Number(text.parse().ok()?).whole())
            }
            _ => None,
        }
    }

    pub(super) fn flag(&self) -> Option<bool> {
        match self {
            Given::Flag(flag) => Some(*flag),
            Given::Whole(0) => Some(false),
            Given::Whole(1) => Some(true),
            Given::Text(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    /// The number that the word stands for.
    pub(super) fn word(&self, words: &[(&str, i128)]) -> Option<i128> {
        match self {
            Given::Text(text) => words
                .iter()
                .find(|(word, _)| word == text)
                .map(|&(_, number)| number),
            _ => None,
        }
    }

    /// The index of the name that was given.
    pub(super) fn choice(&self, names: &[&str]) -> Option<usize> {
        match self {
            Given::Text(text) => names.iter().position(|name| name == text),
            _ => None,
        }
    }

    pub(super) fn text(&self, max_bytes: usize) -> Option<String> {
        match self {
            Given::Text(text) if (1..=max_bytes).contains(&text.len()) => Some(text.clone()),
            _ => None,
        }
    }

    /// A text that is a JSON list of strings is that list; any other text is one string.
    pub(super) fn strings(&self) -> Option<Vec<String>> {
        match self {
            Given::Strings(strings) => Some(strings.clone()),
            Given::Text(text) => Some(
                // Fails at the first element that is no string, so nesting cannot recurse.
                serde_json::from_str(text).unwrap_or_else(|_| vec![text.clone()]),
            ),
            _ => None,
        }
    }

    /// A text that holds a JSON object within the limits of JSON is that object.
    pub(super) fn object(&self, max_bytes: usize) -> Option<Map<String, Value>> {
        match self {
            Given::Object(map) => Some(map.clone()),
            Given::Text(text) if text.len() <= max_bytes => json::map(text).ok(),
            _ => None,
        }
    }

    /// What an error calls it.
    pub fn shown(&self) -> String {
        match self {
            Given::Whole(whole) => whole.to_string(),
            // Debug, since Display writes 1e300 with all its zeros.
            Given::Number(number) => format!("{number:?}"),
            Given::Flag(flag) => flag.to_string(),
            Given::Text(text) => quoted(text),
            Given::Strings(strings) => format!("a list of {} strings", strings.len()),
            Given::Object(_) => "an object".to_owned(),
            Given::Other(words) => (*words).to_owned(),
        }
    }
}

impl From<Value> for Given {
    fn from(value: Value) -> Self {
        match value {
            Value::Bool(flag) => Given::Flag(flag),
            Value::String(text) => Given::Text(text),
            Value::Number(number) => match number.as_i128() {
                Some(whole) => Given::Whole(whole),
                None => Given::Number(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::Array(elements) => {
                let strings: Option<Vec<String>> = elements
                    .into_iter()
                    .map(|element| match element {
                        Value::String(text) => Some(text),
                        _ => None,
                    })
                    .collect();
                strings.map_or(Given::Other("a list"), Given::Strings)
            }
            Value::Object(map) => Given::Object(map),
            Value::Null => Given::Other("null"),
        }
    }
}

/// A client's text in quotes, control characters escaped, cut to a length fit for an error.
pub(crate) fn quoted(text: &str) -> String {
    format!("\"{}\"", shortened(text))
}

pub(super) fn shortened(text: &str) -> String {
    let mut chars = text.chars();
    let mut shown: String = chars.by_ref().take(MAX_QUOTED_CHARS).collect();
    shown = shown.escape_debug().to_string();
    if chars.next().is_some() {
        shown.push('…');
    }
    shown
}
