//! Values as the text that Python makes of them: `str` and `repr`.
//!
//! Called by whatever puts a value into text, on the thread that renders. Spends each byte before it is written.

use minijinja::value::ValueKind;
use minijinja::{Error, Value};

use super::budget::{ELEMENT, MAX_DEPTH, is_list, refused, spend};
use super::tuple::Tuple;

/// Python's `str` of a value.
pub(super) fn str(value: &Value) -> Result<String, Error> {
    match value.as_str() {
        Some(text) => {
            spend(text.len() as u64)?;
            Ok(text.to_owned())
        }
        None if value.is_undefined() => Ok(String::new()),
        None => repr(value),
    }
}

/// A text as it is, and Python's `str` of anything else.
pub(super) fn soft_str(value: &Value) -> Result<Value, Error> {
    match value.as_str() {
        Some(_) => Ok(value.clone()),
        None => str(value).map(Value::from),
    }
}

/// Python's `repr` of a value.
pub(super) fn repr(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    write_repr(&mut out, value, 0)?;
    Ok(out)
}

fn put(out: &mut String, text: &str) -> Result<(), Error> {
    spend(text.len() as u64)?;
    out.push_str(text);
    Ok(())
}

fn write_repr(out: &mut String, value: &Value, depth: usize) -> Result<(), Error> {
    spend(ELEMENT)?;
    if depth > MAX_DEPTH {
        return Err(refused(format!(
            "values lie more than {MAX_DEPTH} deep in each other"
        )));
    }
    if let Some(text) = value.as_str() {
        return write_quoted(out, text);
    }
    if is_list(value) {
        let is_tuple = value.downcast_object_ref::<Tuple>().is_some();
        let n = value.len().unwrap_or(0);
        put(out, if is_tuple { "(" } else { "[" })?;
        for (index, item) in value.try_iter()?.enumerate() {
            put(out, if index > 0 { ", " } else { "" })?;
            write_repr(out, &item, depth + 1)?;
        }
        return match (is_tuple, n) {
            (false, _) => put(out, "]"),
            (true, 1) => put(out, ",)"),
            (true, _) => put(out, ")"),
        };
    }
    if let (ValueKind::Map, Some(map)) = (value.kind(), value.as_object())
        && let Some(pairs) = map.try_iter_pairs()
    {
        put(out, "{")?;
        for (index, (key, item)) in pairs.enumerate() {
            put(out, if index > 0 { ", " } else { "" })?;
            write_repr(out, &key, depth + 1)?;
            put(out, ": ")?;
            write_repr(out, &item, depth + 1)?;
        }
        return put(out, "}");
    }
    match value.kind() {
        ValueKind::Undefined => put(out, "Undefined"),
        ValueKind::Number if !value.is_integer() => put(out, &float(f64::try_from(value.clone())?)),
        _ => put(out, &value.to_string()),
    }
}

/// Python's shortest text for a float.
pub(super) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = number.to_string();
        let end = if plain.contains('.') { "" } else { ".0" };
        return plain + end;
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

fn write_quoted(out: &mut String, text: &str) -> Result<(), Error> {
    // An escape has ten bytes at most.
    spend(10 * text.len() as u64)?;
    let quote = match text.contains('\'') && !text.contains('"') {
        true => '"',
        false => '\'',
    };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            _ if c == quote => out.extend(['\\', c]),
            _ if is_printable(c) => out.push(c),
            _ => out.push_str(&match u32::from(c) {
                code @ ..0x100 => format!("\\x{code:02x}"),
                code @ ..0x10000 => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
    Ok(())
}

/// Python's `isprintable`, by Rust's table of what it escapes in texts.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // Behind another character, as one that combines is only escaped in front.
    let text: String = ['a', c].into_iter().collect();
    !c.is_whitespace() && !text.escape_debug().skip(1).any(|escaped| escaped == '\\')
}
