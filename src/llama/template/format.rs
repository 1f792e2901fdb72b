//! Formatting: `%`, the filter `format` and the method `format`, with Python's text of each value.
//!
//! Called by templates, on the thread that renders. minijinja formats; what is here gives it Python's text of
//! values, and bounds widths.

use minijinja::value::ValueKind;
use minijinja::{Error, FormatStyle, Value, format_filter};

use super::budget::{MAX_WIDTH, refused, spend, weigh};
use super::python;
use super::tuple::Tuple;

/// Refuses widths that are given by a value or are large.
fn check_widths(text: &str) -> Result<(), Error> {
    let longest = text
        .split(|c: char| !c.is_ascii_digit())
        .map(str::len)
        .max()
        .unwrap_or(0);
    if longest > 3 || text.contains('*') {
        return Err(refused(format!("format: a width of more than {MAX_WIDTH}")));
    }
    spend(2 * MAX_WIDTH * text.matches(['%', '{']).count() as u64)
}

/// Python's `%` with a text on its left.
pub(super) fn percent(text: &str, right: &Value) -> Result<Value, Error> {
    match right.downcast_object_ref::<Tuple>() {
        Some(tuple) => printf(text, &tuple.0),
        None => printf(text, std::slice::from_ref(right)),
    }
}

/// Python's `%` of a text and a tuple of values, or one dict.
pub(super) fn printf(text: &str, args: &[Value]) -> Result<Value, Error> {
    spend(4 * text.len() as u64)?;
    args.iter().try_for_each(|arg| weigh(arg, 4))?;
    check_widths(text)?;
    if text.contains("%(") {
        repeated(text.matches('%').count(), args)?;
        return format_filter(FormatStyle::Printf, text, args).map(Value::from);
    }
    let mut plain = String::with_capacity(text.len());
    let mut values = Vec::with_capacity(args.len());
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        plain.push_str(&rest[..=at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            plain.push('%');
            rest = after;
            continue;
        }
        let Some(end) = rest.find(|c: char| c.is_ascii_alphabetic()) else {
            break;
        };
        plain.push_str(&rest[..end]);
        let kind = &rest[end..=end];
        rest = &rest[end + 1..];
        let value = args.get(values.len()).cloned();
        values.push(match (kind, value) {
            (_, None) => return Err(refused("format: not enough values")),
            ("s", Some(value)) => python::soft_str(&value)?,
            ("r" | "a", Some(value)) => Value::from(python::repr(&value)?),
            (_, Some(value)) => value,
        });
        plain.push_str(if kind == "r" || kind == "a" {
            "s"
        } else {
            kind
        });
    }
    plain.push_str(rest);
    let is_dict = matches!(args, [one] if one.kind() == ValueKind::Map);
    if values.len() < args.len() && !is_dict {
        return Err(refused("format: not all values are used"));
    }
    format_filter(FormatStyle::Printf, &plain, &values).map(Value::from)
}

/// Spends what comes of values that each of `n_fields` fields may name.
fn repeated(n_fields: usize, args: &[Value]) -> Result<(), Error> {
    for arg in args {
        let n_bytes = python::str(arg)?.len() as u64;
        spend((2 * n_bytes).saturating_mul(n_fields as u64))?;
    }
    Ok(())
}

/// Python's `str.format`.
pub(super) fn str_format(text: &str, args: &[Value]) -> Result<Value, Error> {
    check_widths(text)?;
    repeated(text.matches('{').count(), args)?;
    // A format of its own needs the value as it is, and so does a look into it.
    let as_text = !text.contains([':', '!', '[', '.']);
    let mut values = Vec::with_capacity(args.len());
    for arg in args {
        let named = arg.is_kwargs().then(|| arg.as_object()).flatten();
        values.push(match named.and_then(|map| map.try_iter_pairs()) {
            _ if !as_text => arg.clone(),
            None => python::soft_str(arg)?,
            Some(pairs) => {
                let mut texts = Vec::new();
                for (name, value) in pairs {
                    texts.push((name.to_string(), python::soft_str(&value)?));
                }
                minijinja::value::Kwargs::from_iter(texts).into()
            }
        });
    }
    format_filter(FormatStyle::StrFormat, text, &values).map(Value::from)
}
