//! The methods of Python's texts, lists and dicts, each of which spends what it costs before it works.
//!
//! Called by templates, on the thread that renders. What `pycompat` has as Python has it is called there; here is
//! what it lacks, or counts in bytes rather than characters.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::budget::{MAX_WIDTH, grows, is_list, joined, plain, refused, spend, weigh};
use super::tuple::{Tuple, tuples};
use super::{format, python};

/// What a method was called with, by place or by name.
struct Args<'a> {
    placed: &'a [Value],
    named: Kwargs,
}

impl<'a> Args<'a> {
    fn new(args: &'a [Value]) -> Result<Self, Error> {
        let (placed, named) = match args.split_last() {
            Some((last, placed)) if last.is_kwargs() => (placed, Kwargs::try_from(last.clone())?),
            _ => (args, Kwargs::from_iter(Vec::<(&str, Value)>::new())),
        };
        Ok(Self { placed, named })
    }

    /// Argument `at`, or of that name, unless it is none.
    fn option(&self, at: usize, name: &str) -> Result<Option<Value>, Error> {
        let named: Option<Value> = self.named.get(name)?;
        let given = self.placed.get(at).cloned().or(named);
        Ok(given.filter(|value| !value.is_none() && !value.is_undefined()))
    }

    fn text(&self, at: usize, name: &str) -> Result<Option<String>, Error> {
        match self.option(at, name)? {
            None => Ok(None),
            Some(value) => match value.as_str() {
                Some(text) => Ok(Some(text.to_owned())),
                None => Err(refused(format!("{name} must be a text"))),
            },
        }
    }

    fn number(&self, at: usize, name: &str) -> Result<Option<i64>, Error> {
        self.option(at, name)?.map(i64::try_from).transpose()
    }

    fn end(&self, max: usize) -> Result<(), Error> {
        if self.placed.len() > max {
            return Err(Error::from(ErrorKind::TooManyArguments));
        }
        self.named.assert_all_used()
    }
}

/// Whatever minijinja knows no method for.
pub(super) fn call(
    state: &State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    spend_for(value, name, args)?;
    let known = match (value.as_str(), value.kind()) {
        (Some(text), _) => of_text(text, name, args)?,
        (None, ValueKind::Map) if name == "copy" => {
            from_args(args).map(|()| Some(value.clone()))?
        }
        _ if is_list(value) => of_list(value, name, args)?,
        _ => None,
    };
    if let Some(result) = known {
        return Ok(result);
    }
    let result = pycompat::unknown_method_callback(state, value, name, args)?;
    match (name, result.kind()) {
        ("items", _) => tuples(&result),
        (_, ValueKind::Iterable) => plain(&result),
        _ => Ok(result),
    }
}

fn spend_for(value: &Value, name: &str, args: &[Value]) -> Result<(), Error> {
    if value.kind() == ValueKind::Map {
        return args.iter().try_for_each(|arg| weigh(arg, 1));
    }
    let times = match name {
        "split" | "rsplit" | "splitlines" => 40,
        "startswith" | "endswith" | "removeprefix" | "removesuffix" => 1,
        _ => 8,
    };
    // A text of which only the beginning or the end is looked at costs no more than what it is compared with.
    let is_short = matches!(name, "startswith" | "endswith") && args.len() == 1;
    let all = std::iter::once(value).chain(args);
    all.skip(usize::from(is_short))
        .try_for_each(|arg| weigh(arg, times))?;
    match (name, args.first()) {
        ("replace", Some(_)) => {
            let all: Vec<_> = std::iter::once(value).chain(args).cloned().collect();
            grows("replace", &all)
        }
        ("join", list) => joined(list, value),
        _ => Ok(()),
    }
}

fn of_text(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let given = Args::new(args)?;
    let is_all = |is: fn(char) -> bool| !text.is_empty() && text.chars().all(is);
    let result: Value = match name {
        "split" | "rsplit" => {
            let separator = given.text(0, "sep")?;
            let n = given.number(1, "maxsplit")?;
            let n = n.and_then(|n| usize::try_from(n).ok());
            given.end(2)?;
            return split(text, separator.as_deref(), n, name == "rsplit").map(Some);
        }
        "splitlines" => {
            let keep = given.option(0, "keepends")?;
            given.end(1)?;
            return Ok(Some(lines(text, keep.is_some_and(|keep| keep.is_true()))));
        }
        "removeprefix" | "removesuffix" => {
            let (end,): (&str,) = from_args(args)?;
            let rest = match name {
                "removeprefix" => text.strip_prefix(end),
                _ => text.strip_suffix(end),
            };
            rest.unwrap_or(text).into()
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            return partition(text, separator, name == "rpartition").map(Some);
        }
        "find" | "rfind" | "index" | "rindex" | "count" => {
            return search(text, name, &given).map(Some);
        }
        "startswith" | "endswith" if args.len() > 1 => {
            let (wanted, start, end): (&str, i64, Option<i64>) = from_args(args)?;
            let part = within(text, start, end).1;
            match name {
                "startswith" => part.starts_with(wanted).into(),
                _ => part.ends_with(wanted).into(),
            }
        }
        "zfill" | "center" | "ljust" | "rjust" => return pad(text, name, args).map(Some),
        "swapcase" => {
            let () = from_args(args)?;
            let swapped = text
                .chars()
                .flat_map(|c| -> Box<dyn Iterator<Item = char>> {
                    match c.is_uppercase() {
                        true => Box::new(c.to_lowercase()),
                        false => Box::new(c.to_uppercase()),
                    }
                });
            swapped.collect::<String>().into()
        }
        "casefold" => {
            let () = from_args(args)?;
            text.to_lowercase().replace('ß', "ss").into()
        }
        "title" => {
            let () = from_args(args)?;
            title(text).into()
        }
        "isdigit" | "isnumeric" | "isdecimal" => is_all(char::is_numeric).into(),
        "isalpha" => is_all(char::is_alphabetic).into(),
        "isalnum" => is_all(char::is_alphanumeric).into(),
        "isspace" => is_all(is_space).into(),
        "islower" | "isupper" => {
            let has_lower = text.chars().any(char::is_lowercase);
            let has_upper = text.chars().any(char::is_uppercase);
            let (wanted, other) = match name {
                "islower" => (has_lower, has_upper),
                _ => (has_upper, has_lower),
            };
            (wanted && !other).into()
        }
        "strip" | "lstrip" | "rstrip" if args.first().is_none_or(Value::is_none) => {
            let text = match name {
                "rstrip" => text,
                _ => text.trim_start_matches(is_space),
            };
            match name {
                "lstrip" => text,
                _ => text.trim_end_matches(is_space),
            }
            .into()
        }
        "join" => {
            let (list,): (&Value,) = from_args(args)?;
            let is_text = |item: Value| item.as_str().is_some();
            if !list.try_iter()?.all(is_text) {
                return Err(refused("join: every element must be a text"));
            }
            return Ok(None);
        }
        "format" => return format::str_format(text, args).map(Some),
        _ => return Ok(None),
    };
    Ok(Some(result))
}

/// Python's `isspace`, which knows four separators more.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

fn split(
    text: &str,
    separator: Option<&str>,
    n: Option<usize>,
    from_right: bool,
) -> Result<Value, Error> {
    let mut parts: Vec<&str> = match (separator, n) {
        (Some(""), _) => return Err(refused("split: empty separator")),
        (Some(separator), None) => text.split(separator).collect(),
        (Some(separator), Some(n)) if from_right => text.rsplitn(n + 1, separator).collect(),
        (Some(separator), Some(n)) => text.splitn(n + 1, separator).collect(),
        (None, n) => words(text, n.unwrap_or(usize::MAX), from_right),
    };
    if from_right && (n.is_some() || separator.is_none()) {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// The words of a text, `n` of them cut off and the rest in one piece; from the right the last first.
fn words(text: &str, n: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        rest = match from_right {
            true => rest.trim_end_matches(is_space),
            false => rest.trim_start_matches(is_space),
        };
        if rest.is_empty() {
            return parts;
        }
        let cut = match from_right {
            true => rest.rfind(is_space),
            false => rest.find(is_space),
        };
        let Some(cut) = cut.filter(|_| parts.len() < n) else {
            // What is left keeps the spaces at its other end only where it was cut short.
            let is_cut = parts.len() == n;
            parts.push(if is_cut {
                rest
            } else {
                rest.trim_matches(is_space)
            });
            return parts;
        };
        let width = rest[cut..].chars().next().map_or(0, char::len_utf8);
        let (before, after) = (&rest[..cut], &rest[cut + width..]);
        let (word, others) = if from_right {
            (after, before)
        } else {
            (before, after)
        };
        parts.push(word);
        rest = others;
    }
}

fn lines(text: &str, keep_ends: bool) -> Value {
    let is_end = |c| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (line, width) = match rest.find(is_end) {
            None => (rest.len(), 0),
            Some(at) if rest[at..].starts_with("\r\n") => (at, 2),
            Some(at) => (at, rest[at..].chars().next().map_or(0, char::len_utf8)),
        };
        let end = if keep_ends { line + width } else { line };
        found.push(Value::from(&rest[..end]));
        rest = &rest[line + width..];
    }
    Value::from(found)
}

fn partition(text: &str, separator: &str, from_right: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(refused("partition: empty separator"));
    }
    let parts = match from_right {
        true => text.rsplit_once(separator),
        false => text.split_once(separator),
    };
    let parts = match parts {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    let parts = parts.into_iter().map(Value::from).collect();
    Ok(Value::from_object(Tuple(parts)))
}

/// The part of a text between two places, counted in characters as Python does, and where it begins.
fn within(text: &str, start: i64, end: Option<i64>) -> (usize, &str) {
    let n = text.chars().count();
    let place = |at: i64| match usize::try_from(at) {
        Ok(at) => at.min(n),
        Err(_) => n.saturating_sub(usize::try_from(at.unsigned_abs()).unwrap_or(n)),
    };
    let byte = |at: usize| {
        text.char_indices()
            .nth(at)
            .map_or(text.len(), |(byte, _)| byte)
    };
    let (first, last) = (place(start), end.map_or(n, place));
    match first <= last {
        true => (first, &text[byte(first)..byte(last)]),
        false => (first, ""),
    }
}

fn search(text: &str, name: &str, given: &Args) -> Result<Value, Error> {
    let wanted = given.text(0, "sub")?;
    let wanted = wanted.ok_or_else(|| refused(format!("{name}: a text to look for is missing")))?;
    let (start, end) = (given.number(1, "start")?, given.number(2, "end")?);
    given.end(3)?;
    let (first, part) = within(text, start.unwrap_or(0), end);
    if name == "count" {
        // An empty text is between all characters.
        return Ok(match wanted.is_empty() {
            true => part.chars().count() + 1,
            false => part.matches(&wanted).count(),
        }
        .into());
    }
    let found = match name.starts_with('r') {
        true => part.rfind(&wanted),
        false => part.find(&wanted),
    };
    match found {
        Some(byte) => Ok((first + part[..byte].chars().count()).into()),
        None if name.ends_with("index") => Err(refused("substring not found")),
        None => Ok((-1).into()),
    }
}

fn pad(text: &str, name: &str, args: &[Value]) -> Result<Value, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(args)?;
    if width > MAX_WIDTH as i64 {
        return Err(refused(format!("{name} to {width}: at most {MAX_WIDTH}")));
    }
    let fill = fill.unwrap_or(if name == "zfill" { "0" } else { " " });
    if fill.chars().count() != 1 {
        return Err(refused(format!("{name}: fill with one character")));
    }
    let width = usize::try_from(width).unwrap_or(0);
    let missing = width.saturating_sub(text.chars().count());
    Ok(padded(text, name, missing, fill).into())
}

fn padded(text: &str, name: &str, missing: usize, fill: &str) -> String {
    let (left, right) = match name {
        "ljust" => (0, missing),
        // As Python shares an odd one out.
        "center" => {
            let n = text.chars().count() + missing;
            let left = missing / 2 + (missing & n & 1);
            (left, missing - left)
        }
        _ => (missing, 0),
    };
    let sign = match name == "zfill" && text.starts_with(['+', '-']) {
        true => &text[..1],
        false => "",
    };
    let rest = &text[sign.len()..];
    [sign, &fill.repeat(left), rest, &fill.repeat(right)].concat()
}

fn title(text: &str) -> String {
    let mut is_inside = false;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_inside {
            true => out.extend(c.to_lowercase()),
            false => out.extend(c.to_uppercase()),
        }
        is_inside = c.is_alphabetic();
    }
    out
}

fn of_list(list: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(match name {
        "copy" => {
            let () = from_args(args)?;
            Some(plain(list)?)
        }
        "index" => {
            let (wanted,): (&Value,) = from_args(args)?;
            for (index, item) in list.try_iter()?.enumerate() {
                spend(wanted.as_str().map_or(1, str::len) as u64)?;
                if wanted.as_object().is_some() {
                    weigh(wanted, 1)?;
                }
                if item == *wanted {
                    return Ok(Some(index.into()));
                }
            }
            let shown = python::repr(wanted)?;
            let shown: String = shown.chars().take(64).collect();
            return Err(refused(format!("{shown} is not in list")));
        }
        _ => None,
    })
}

/// The filter `center`.
pub(super) fn center(text: &Value, width: Option<i64>) -> Result<Value, Error> {
    let text = python::str(text)?;
    pad(&text, "center", &[width.unwrap_or(80).into()])
}
