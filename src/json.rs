//! JSON from clients, with its size and nesting checked before it is parsed.
//!
//! Called on any thread, by `protocol` for what a request carries and by `table` for a value that is an object.
//! The JSON library recurses once per level and allocates once per value, so both are bounded here by one flat
//! scan. Pure, and knows nothing of what the JSON means.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

/// Levels of nesting in any JSON of a client.
pub const MAX_JSON_DEPTH: usize = 64;
/// Values (of any type, at any depth) in any JSON of a client.
pub const MAX_JSON_VALUES: usize = 100_000;

/// Why a text is not JSON that we read.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    #[error("JSON is nested deeper than {MAX_JSON_DEPTH} levels at byte {offset}")]
    TooDeep { offset: usize },
    #[error("JSON has more than {MAX_JSON_VALUES} values at byte {offset}")]
    TooManyValues { offset: usize },
    #[error("must be a JSON object")]
    NotAnObject,
    #[error("invalid JSON: {0}")]
    Syntax(#[from] serde_json::Error),
}

/// Parses a JSON list.
pub(crate) fn list(text: &str) -> Result<Vec<Value>, JsonError> {
    check_shape(text)?;
    Ok(serde_json::from_str(text)?)
}

/// Parses a JSON object into its members in the order written, repeated keys included.
pub(crate) fn object(text: &str) -> Result<Vec<(String, Value)>, JsonError> {
    // The parser would quote the whole of a long string here.
    if !text.trim_start().starts_with('{') {
        return Err(JsonError::NotAnObject);
    }
    check_shape(text)?;
    let members: Members = serde_json::from_str(text)?;
    Ok(members.0)
}

/// Parses a JSON object, of repeated keys the last.
pub(crate) fn map(text: &str) -> Result<Map<String, Value>, JsonError> {
    Ok(object(text)?.into_iter().collect())
}

/// The object that a text within other JSON is, if it is one; `n_values` counts those of all such texts.
pub(crate) fn object_in(
    text: &str,
    n_values: &mut usize,
) -> Result<Option<Map<String, Value>>, JsonError> {
    if !text.trim_start().starts_with('{') {
        return Ok(None);
    }
    *n_values += check_shape(text)?;
    if *n_values > MAX_JSON_VALUES {
        return Err(JsonError::TooManyValues { offset: text.len() });
    }
    Ok(serde_json::from_str(text).ok())
}

/// Bytes of the texts in some values, each value counted too; they are no deeper than JSON may be.
pub(crate) fn n_bytes<'a>(values: impl Iterator<Item = &'a Value>) -> usize {
    let of_one = |value: &'a Value| match value {
        Value::String(text) => text.len(),
        Value::Array(items) => n_bytes(items.iter()),
        Value::Object(map) => map.keys().map(String::len).sum::<usize>() + n_bytes(map.values()),
        _ => 8,
    };
    values.fold(0, |sum, value| sum + 8 + of_one(value))
}

/// What a value is, for "must be ..., is a number".
pub(crate) fn describe(value: Option<&Value>) -> &'static str {
    match value {
        None => "missing",
        Some(Value::Null) => "null",
        Some(Value::Bool(_)) => "a boolean",
        Some(Value::Number(_)) => "a number",
        Some(Value::String(_)) => "a string",
        Some(Value::Array(_)) => "a list",
        Some(Value::Object(_)) => "an object",
    }
}

/// Bounds nesting and the number of values, which it returns, without building anything.
///
/// A value beyond the first one of a container follows a comma and a first one
/// follows a bracket, so brackets and commas outside strings bound the count.
fn check_shape(text: &str) -> Result<usize, JsonError> {
    let mut depth = 0usize;
    let mut n_values = 1usize;
    let mut in_string = false;
    let mut escaped = false;
    for (offset, byte) in text.bytes().enumerate() {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'[' | b'{' => {
                depth += 1;
                n_values += 1;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => n_values += 1,
            _ => {}
        }
        if depth > MAX_JSON_DEPTH {
            return Err(JsonError::TooDeep { offset });
        }
        if n_values > MAX_JSON_VALUES {
            return Err(JsonError::TooManyValues { offset });
        }
    }
    Ok(n_values)
}

/// The members of an object; `serde_json::Map` would keep only the last of a repeated key.
struct Members(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}
