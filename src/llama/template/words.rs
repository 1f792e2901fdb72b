//! The filters that work on text and that minijinja lacks, or has otherwise than Jinja.
//!
//! Called by templates, on the thread that renders. Each spends what it costs before it works.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, Value};

use super::budget::{MAX_WIDTH, refused, spend, weigh};
use super::{format, methods, python};

pub(super) fn guard(environment: &mut Environment<'static>) {
    environment.add_filter("string", python::soft_str);
    for name in ["e", "escape", "forceescape"] {
        environment.add_filter(name, escape);
    }
    environment.add_filter("format", |text: &Value, args: Rest<Value>| {
        format::printf(&python::str(text)?, &args)
    });
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("wordcount", wordcount);
    environment.add_filter("urlencode", urlencode);
    environment.add_filter("center", methods::center);
    environment.add_filter("truncate", truncate);
    environment.add_filter("indent", indent);
    environment.add_filter("round", round);
}

/// Markup's escapes. Jinja marks the result as safe, which changes nothing where nothing is escaped by itself.
fn escape(value: &Value) -> Result<String, Error> {
    let text = python::str(value)?;
    spend(5 * text.len() as u64)?;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    Ok(out)
}

/// `int(value, default=0, base=10)`: what is no number is the default.
fn int(value: &Value, default: Option<Value>, base: Option<u32>) -> Result<Value, Error> {
    weigh(value, 1)?;
    let default = default.unwrap_or_else(|| Value::from(0));
    let Some(text) = value.as_str() else {
        return Ok(match value.kind() {
            ValueKind::Bool => Value::from(i64::from(value.is_true())),
            ValueKind::Number if value.is_integer() => value.clone(),
            ValueKind::Number => whole(f64::try_from(value.clone())?, default),
            _ => default,
        });
    };
    let base = base.unwrap_or(10);
    if !(2..=36).contains(&base) {
        return Err(refused(format!("int of base {base}: between 2 and 36")));
    }
    let text = text.trim_matches(methods::is_space);
    let digits = match base {
        16 => text.trim_start_matches("0x"),
        8 => text.trim_start_matches("0o"),
        2 => text.trim_start_matches("0b"),
        _ => text,
    };
    if let Ok(number) = i128::from_str_radix(digits, base) {
        return Ok(i64::try_from(number).map_or_else(|_| Value::from(number), Value::from));
    }
    Ok(text
        .parse()
        .map_or(default.clone(), |number| whole(number, default)))
}

fn whole(number: f64, default: Value) -> Value {
    match number.is_finite() && number.abs() < 1e30 {
        true => Value::from(number as i128),
        false => default,
    }
}

fn float(value: &Value, default: Option<Value>) -> Result<Value, Error> {
    weigh(value, 1)?;
    let default = default.unwrap_or_else(|| Value::from(0.0));
    Ok(match value.as_str() {
        Some(text) => text
            .trim_matches(methods::is_space)
            .parse::<f64>()
            .map_or(default, Value::from),
        None if value.kind() == ValueKind::Bool => {
            Value::from(f64::from(u8::from(value.is_true())))
        }
        None => f64::try_from(value.clone()).map_or(default, Value::from),
    })
}

/// Words as the regular expression `\w+` finds them.
fn wordcount(value: &Value) -> Result<usize, Error> {
    let text = python::str(value)?;
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
    Ok(words.filter(|word| !word.is_empty()).count())
}

/// Texts quoted for a path, pairs for a query.
fn urlencode(value: &Value) -> Result<String, Error> {
    let quoted = |value: &Value, safe: &str| -> Result<String, Error> {
        let text = python::str(value)?;
        spend(3 * text.len() as u64)?;
        let mut out = String::with_capacity(text.len());
        for byte in text.bytes() {
            match byte {
                b' ' if safe.is_empty() => out.push('+'),
                _ if byte.is_ascii_alphanumeric() || b"_.-~".contains(&byte) => {
                    out.push(byte.into())
                }
                _ if safe.as_bytes().contains(&byte) => out.push(byte.into()),
                _ => out.push_str(&format!("%{byte:02X}")),
            }
        }
        Ok(out)
    };
    let is_map = value.kind() == ValueKind::Map;
    if value.as_str().is_some() || !(is_map || value.try_iter().is_ok()) || value.is_none() {
        return quoted(value, "/");
    }
    let mut parts = Vec::new();
    for item in value.try_iter()? {
        let (key, item) = match is_map {
            true => (item.clone(), value.get_item(&item)?),
            false => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
        };
        parts.push(format!("{}={}", quoted(&key, "")?, quoted(&item, "")?));
    }
    Ok(parts.join("&"))
}

/// `truncate(text, length=255, killwords=False, end='...', leeway=5)`.
fn truncate(
    text: &Value,
    length: Option<usize>,
    kill_words: Option<bool>,
    end: Option<String>,
    leeway: Option<usize>,
) -> Result<String, Error> {
    let text = python::str(text)?;
    let (length, end) = (
        length.unwrap_or(255),
        end.unwrap_or_else(|| "...".to_owned()),
    );
    let n_end = end.chars().count();
    if n_end > length || n_end as u64 > MAX_WIDTH {
        return Err(refused(format!(
            "truncate to {length}: the end has {n_end} characters"
        )));
    }
    if text.chars().count() <= length.saturating_add(leeway.unwrap_or(5)) {
        return Ok(text);
    }
    let mut kept: String = text.chars().take(length - n_end).collect();
    if !kill_words.unwrap_or(false)
        && let Some(at) = kept.rfind(' ')
    {
        kept.truncate(at);
    }
    Ok(kept + &end)
}

/// `indent(text, width=4, first=False, blank=False)`; the width is a number, or what to indent by.
fn indent(
    text: &Value,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<String, Error> {
    let width = width
        .or(named.get("width")?)
        .unwrap_or_else(|| Value::from(4));
    let first = first.or(named.get("first")?).unwrap_or(false);
    let blank = blank.or(named.get("blank")?).unwrap_or(false);
    named.assert_all_used()?;
    let by = match (width.as_str(), i128::try_from(width.clone())) {
        (Some(by), _) if by.len() as u64 <= MAX_WIDTH => by.to_owned(),
        (None, Ok(n)) if n <= MAX_WIDTH.into() => " ".repeat(usize::try_from(n).unwrap_or(0)),
        _ => return Err(refused(format!("indent by {width}: at most {MAX_WIDTH}"))),
    };
    let text = text
        .as_str()
        .ok_or_else(|| refused("indent: only a text is indented"))?;
    let n_lines = text.matches(['\n', '\r']).count() as u64 + 1;
    spend(2 * text.len() as u64 + n_lines * by.len() as u64)?;
    let mut out = String::with_capacity(text.len());
    for (index, line) in text.replace("\r\n", "\n").split(['\n', '\r']).enumerate() {
        let is_first = index == 0;
        out.push_str(if is_first { "" } else { "\n" });
        if if is_first {
            first
        } else {
            blank || !line.is_empty()
        } {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// `round(number, precision=0, method='common')`: to the nearest, and to the even one of two.
fn round(
    number: &Value,
    precision: Option<i32>,
    method: Option<String>,
    named: Kwargs,
) -> Result<Value, Error> {
    let precision = precision.or(named.get("precision")?).unwrap_or(0);
    let method = method
        .or(named.get("method")?)
        .unwrap_or_else(|| "common".to_owned());
    named.assert_all_used()?;
    if !(-30..=30).contains(&precision) {
        return Err(refused(format!(
            "round to {precision} places: between -30 and 30"
        )));
    }
    let scale = 10f64.powi(precision);
    let float = match number.kind() {
        ValueKind::Number | ValueKind::Bool => float(number, None).and_then(f64::try_from)?,
        kind => return Err(refused(format!("a value of type {kind} cannot be rounded"))),
    };
    Ok(match method.as_str() {
        "common" if number.is_integer() && precision >= 0 => number.clone(),
        // Rust's formatting rounds as Python does.
        "common" => match usize::try_from(precision) {
            Ok(places) => format!("{float:.places$}")
                .parse::<f64>()
                .map_or(float, |x| x)
                .into(),
            Err(_) => ((float * scale).round_ties_even() / scale).into(),
        },
        "ceil" => ((float * scale).ceil() / scale).into(),
        "floor" => ((float * scale).floor() / scale).into(),
        _ => return Err(refused("round: the method is common, ceil or floor")),
    })
}
