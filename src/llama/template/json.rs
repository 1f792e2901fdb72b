//! The filter `tojson`: JSON as Python's `json.dumps` writes it, with the arguments that Hugging Face gives it.
//!
//! Called by templates, on the thread that renders. Spends each byte before it is written.

use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::budget::{ELEMENT, MAX_DEPTH, is_list, refused, spend};
use super::python;

/// Characters of an indent, and of a separator.
const MAX_SPACES: usize = 64;

/// How `json.dumps` is to write.
struct Dumps {
    ensure_ascii: bool,
    sort_keys: bool,
    /// What each level is indented by; `None` is all on one line.
    indent: Option<String>,
    comma: String,
    colon: String,
    out: String,
}

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String, Error> {
    let option = |at: usize, name: &str| -> Result<Value, Error> {
        let named: Option<Value> = kwargs.get(name)?;
        Ok(named.or(args.get(at).cloned()).unwrap_or_default())
    };
    let is_given = |value: &Value| !value.is_none() && !value.is_undefined();
    let indent = option(1, "indent")?;
    let separators = option(2, "separators")?;
    let mut dumps = Dumps {
        ensure_ascii: option(0, "ensure_ascii")?.is_true(),
        sort_keys: option(3, "sort_keys")?.is_true(),
        indent: is_given(&indent).then(|| spaces(&indent)).transpose()?,
        comma: ", ".to_owned(),
        colon: ": ".to_owned(),
        out: String::new(),
    };
    kwargs.assert_all_used()?;
    if dumps.indent.is_some() {
        dumps.comma = ",".to_owned();
    }
    if is_given(&separators) {
        dumps.comma = separator(&separators, 0)?;
        dumps.colon = separator(&separators, 1)?;
    }
    dumps.write(value, 0)?;
    Ok(dumps.out)
}

/// An indent: a text, or a number of spaces.
fn spaces(indent: &Value) -> Result<String, Error> {
    let text = match (indent.as_str(), i64::try_from(indent.clone())) {
        (Some(text), _) => text.to_owned(),
        (None, Ok(n)) => " ".repeat(usize::try_from(n).unwrap_or(0).min(MAX_SPACES + 1)),
        _ => return Err(refused("tojson: an indent is a number or a text")),
    };
    bounded(text)
}

fn separator(separators: &Value, at: usize) -> Result<String, Error> {
    let found = separators.get_item_by_index(at)?;
    let text = found.as_str();
    let text = text.ok_or_else(|| refused("tojson: separators are two texts"))?;
    bounded(text.to_owned())
}

fn bounded(text: String) -> Result<String, Error> {
    match text.len() > MAX_SPACES {
        true => Err(refused(format!(
            "tojson: an indent or a separator has more than {MAX_SPACES} bytes"
        ))),
        false => Ok(text),
    }
}

impl Dumps {
    fn put(&mut self, text: &str) -> Result<(), Error> {
        spend(text.len() as u64)?;
        self.out.push_str(text);
        Ok(())
    }

    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        spend(ELEMENT)?;
        if depth > MAX_DEPTH {
            return Err(refused(format!(
                "values lie more than {MAX_DEPTH} deep in each other"
            )));
        }
        if let Some(text) = value.as_str() {
            return self.text(text);
        }
        if is_list(value) {
            self.put("[")?;
            let mut n = 0;
            for item in value.try_iter()? {
                self.begin(n, depth + 1)?;
                self.write(&item, depth + 1)?;
                n += 1;
            }
            return self.end("]", n, depth);
        }
        if let (ValueKind::Map, Some(map)) = (value.kind(), value.as_object())
            && let Some(pairs) = map.try_iter_pairs()
        {
            let mut pairs: Vec<_> = pairs.collect();
            if self.sort_keys {
                pairs.sort_by(|(a, _), (b, _)| a.cmp(b));
            }
            self.put("{")?;
            let n = pairs.len();
            for (index, (key, item)) in pairs.into_iter().enumerate() {
                self.begin(index, depth + 1)?;
                match key.as_str() {
                    Some(text) => self.text(text)?,
                    None => {
                        let text = scalar(&key)?;
                        self.text(&text)?;
                    }
                }
                let colon = self.colon.clone();
                self.put(&colon)?;
                self.write(&item, depth + 1)?;
            }
            return self.end("}", n, depth);
        }
        let text = scalar(value)?;
        self.put(&text)
    }

    /// What stands before the element of this index.
    fn begin(&mut self, index: usize, depth: usize) -> Result<(), Error> {
        if index > 0 {
            let comma = self.comma.clone();
            self.put(&comma)?;
        }
        self.line(depth)
    }

    fn end(&mut self, bracket: &str, n: usize, depth: usize) -> Result<(), Error> {
        if n > 0 {
            self.line(depth)?;
        }
        self.put(bracket)
    }

    fn line(&mut self, depth: usize) -> Result<(), Error> {
        match &self.indent {
            Some(indent) => {
                // Bounded, as both are: see MAX_SPACES and MAX_DEPTH.
                let line = format!("\n{}", indent.repeat(depth));
                self.put(&line)
            }
            None => Ok(()),
        }
    }

    fn text(&mut self, text: &str) -> Result<(), Error> {
        // An escape has twelve bytes at most, for a character of four.
        spend(6 * text.len() as u64)?;
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\r' => self.out.push_str("\\r"),
                '\t' => self.out.push_str("\\t"),
                '\u{8}' => self.out.push_str("\\b"),
                '\u{c}' => self.out.push_str("\\f"),
                ' '..='~' => self.out.push(c),
                _ if c >= ' ' && !self.ensure_ascii => self.out.push(c),
                _ => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
            }
        }
        self.out.push('"');
        Ok(())
    }
}

/// What is neither text nor made of other values.
fn scalar(value: &Value) -> Result<String, Error> {
    match value.kind() {
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(value.to_string().to_lowercase()),
        ValueKind::Number if value.is_integer() => Ok(value.to_string()),
        ValueKind::Number => {
            let number = f64::try_from(value.clone())?;
            Ok(match python::float(number).as_str() {
                "nan" => "NaN".to_owned(),
                "inf" => "Infinity".to_owned(),
                "-inf" => "-Infinity".to_owned(),
                text => text.to_owned(),
            })
        }
        kind => Err(Error::new(
            ErrorKind::BadSerialization,
            format!("tojson: a value of type {kind} is no JSON value"),
        )),
    }
}
