//! minijinja's own filters, methods and functions, each of which spends what it costs before it is called.
//!
//! Called by templates, on the thread that renders. Nothing lazy comes out of any of them, so no value is
//! larger than what was paid for.

use std::sync::{Arc, LazyLock};

use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, ValueKind};
use minijinja::{Environment, Error, Output, State, Value, escape_formatter};
use minijinja_contrib::pycompat;

use super::budget::{ELEMENT, is_list, nested, plain, refused, shallow, spend, walk, weigh};
use super::operators;

/// Characters that a filter may be asked to add at one place.
const MAX_WIDTH: u64 = 1000;

/// Elements of a `range`.
const MAX_RANGE: i64 = 100_000;

/// The attribute by which a namespace is known; no template can set it.
const MARK: &str = "__namespace";

/// minijinja's own filters, tests and functions.
pub(super) static PLAIN: LazyLock<Environment<'static>> = LazyLock::new(Environment::new);

/// Puts everything that `rewrite` writes, and all that is not to be called unguarded, into the environment.
pub(super) fn guard(environment: &mut Environment<'static>) {
    operators::guard(environment);
    environment.set_formatter(format);
    environment.set_unknown_method_callback(method);
    environment.remove_global("debug");
    environment.add_function("range", range);
    environment.add_function("namespace", namespace);
    environment.add_function("dict", dict);
    environment.add_filter("__list", plain);
    environment.add_filter("__new", nested);
    environment.add_filter("__keep", keep);
    for &(name, cost) in FILTERS {
        environment.add_filter(name, move |state: &State, args: Rest<Value>| {
            filter(name, cost, state, &args)
        });
    }
}

/// What a filter of minijinja's costs.
#[derive(Clone, Copy)]
enum Cost {
    /// So many times the bytes of all that it is given.
    Bytes(u64),
    /// An element each.
    Elements,
}

const FILTERS: &[(&str, Cost)] = &[
    ("batch", Cost::Elements),
    ("bool", Cost::Elements),
    ("capitalize", Cost::Bytes(4)),
    ("chain", Cost::Elements),
    ("dictsort", Cost::Bytes(32)),
    ("e", Cost::Bytes(8)),
    ("escape", Cost::Bytes(8)),
    ("float", Cost::Bytes(1)),
    ("format", Cost::Bytes(4)),
    ("groupby", Cost::Bytes(32)),
    ("indent", Cost::Bytes(2)),
    ("int", Cost::Bytes(1)),
    ("items", Cost::Elements),
    ("join", Cost::Bytes(4)),
    ("last", Cost::Elements),
    ("lines", Cost::Bytes(40)),
    ("list", Cost::Elements),
    ("lower", Cost::Bytes(4)),
    ("max", Cost::Bytes(4)),
    ("min", Cost::Bytes(4)),
    ("pprint", Cost::Bytes(128)),
    ("replace", Cost::Bytes(2)),
    ("reverse", Cost::Elements),
    ("slice", Cost::Elements),
    ("sort", Cost::Bytes(32)),
    ("split", Cost::Bytes(40)),
    ("string", Cost::Bytes(4)),
    ("sum", Cost::Bytes(1)),
    ("title", Cost::Bytes(8)),
    ("trim", Cost::Bytes(1)),
    ("unique", Cost::Bytes(32)),
    ("upper", Cost::Bytes(4)),
    ("zip", Cost::Elements),
];

fn filter(name: &str, cost: Cost, state: &State, args: &[Value]) -> Result<Value, Error> {
    match cost {
        Cost::Bytes(times) => args.iter().try_for_each(|arg| weigh(arg, times))?,
        Cost::Elements => args.iter().try_for_each(shallow)?,
    }
    grows(name, args)?;
    // Names of filters and tests are looked up where this one is; none of these calls another.
    let _ = state;
    let result = PLAIN.empty_state().apply_filter(name, args)?;
    let result = match result.kind() {
        ValueKind::Iterable => plain(&result)?,
        _ => result,
    };
    match cost {
        Cost::Elements => nested(&result),
        Cost::Bytes(_) => Ok(result),
    }
}

/// Spends what a filter or method makes beyond what it is given.
fn grows(name: &str, args: &[Value]) -> Result<(), Error> {
    let number = |at: usize| {
        args.get(at)
            .and_then(|arg| i128::try_from(arg.clone()).ok())
    };
    let option = |key: &str| {
        let given = args.last().filter(|arg| arg.is_kwargs());
        given.and_then(|given| given.get_attr(key).ok())
    };
    match name {
        "indent" => {
            let width = option("width").and_then(|width| i128::try_from(width).ok());
            let width = width.or(number(1)).unwrap_or(4);
            if !(0..=i128::from(MAX_WIDTH)).contains(&width) {
                return Err(refused(format!("indent by {width}: at most {MAX_WIDTH}")));
            }
            let lines = args.first().map_or(1, |text| count(text, "\n") + 1);
            spend(lines * width.unsigned_abs() as u64)
        }
        "batch" | "slice" => {
            let n = option("count").and_then(|n| i128::try_from(n).ok());
            let n = n.or(number(1)).unwrap_or(1);
            if !(0..=i128::from(MAX_RANGE)).contains(&n) {
                return Err(refused(format!("{name} by {n}: at most {MAX_RANGE}")));
            }
            spend(2 * ELEMENT * n.unsigned_abs() as u64)
        }
        "replace" => {
            let [text, old, new, ..] = args else {
                return Ok(());
            };
            let n = count(text, &old.to_string());
            spend(n.saturating_mul(new.to_string().len() as u64))
        }
        "join" => {
            let separator = option("d").or(args.get(1).cloned()).unwrap_or_default();
            joined(args.first(), &separator)
        }
        "format" => {
            let text = args.first().map(Value::to_string).unwrap_or_default();
            formatted(&text)
        }
        _ => Ok(()),
    }
}

/// How often a text is found; an empty one is found between all characters.
fn count(text: &Value, wanted: &str) -> u64 {
    let text = text.to_string();
    match wanted.is_empty() {
        true => text.len() as u64 + 1,
        false => text.matches(wanted).count() as u64,
    }
}

fn joined(list: Option<&Value>, separator: &Value) -> Result<(), Error> {
    let n = list.and_then(Value::len).unwrap_or(0) as u64;
    spend(n.saturating_mul(separator.to_string().len() as u64))
}

/// Refuses widths that are given by a value or are large.
fn formatted(text: &str) -> Result<(), Error> {
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

fn method(state: &State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if value.kind() == ValueKind::Map {
        args.iter().try_for_each(|arg| weigh(arg, 1))?;
    } else {
        let all = std::iter::once(value).chain(args);
        let times = match name {
            "split" | "splitlines" => 40,
            "count" | "startswith" | "endswith" | "find" | "rfind" => 1,
            _ => 8,
        };
        let mut all = all.filter(|_| !matches!(name, "startswith" | "endswith") || args.len() != 1);
        all.try_for_each(|arg| weigh(arg, times))?;
    }
    match (name, args.first()) {
        // It would never end.
        ("count", Some(wanted)) if wanted.as_str() == Some("") => {
            return Err(refused("count: an empty text is everywhere"));
        }
        ("replace", Some(_)) => {
            let all: Vec<_> = std::iter::once(value).chain(args).cloned().collect();
            grows("replace", &all)?;
        }
        ("join", list) => joined(list, value)?,
        ("format", _) => formatted(&value.to_string())?,
        _ => {}
    }
    let result = pycompat::unknown_method_callback(state, value, name, args)?;
    match result.kind() {
        ValueKind::Iterable => plain(&result),
        _ => Ok(result),
    }
}

/// Every value that is put out, into a variable as into the prompt.
fn format(out: &mut Output, state: &State, value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => spend(text.len() as u64)?,
        None => weigh(value, 4)?,
    }
    escape_formatter(out, state, value)
}

/// A value that a namespace will hold: no namespace, as one that held itself would never be freed.
fn keep(value: &Value) -> Result<Value, Error> {
    if !is_list(value) && value.kind() != ValueKind::Map {
        return Ok(value.clone());
    }
    walk(value, 0, &mut |part| {
        spend(ELEMENT)?;
        let is_namespace =
            part.kind() == ValueKind::Map && part.get_attr(MARK).is_ok_and(|mark| mark.is_true());
        match is_namespace {
            true => Err(refused("a namespace cannot be put into another")),
            false => Ok(()),
        }
    })?;
    Ok(value.clone())
}

/// Whole numbers that are not written down.
#[derive(Debug)]
struct Range {
    start: i64,
    step: i64,
    n: usize,
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let index = key.as_usize().filter(|&index| index < self.n)?;
        Some(Value::from(self.start + index as i64 * self.step))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.n)
    }
}

fn range(lower: i64, upper: Option<i64>, step: Option<i64>) -> Result<Value, Error> {
    let (start, end) = upper.map_or((0, lower), |upper| (lower, upper));
    let (start, end) = (i128::from(start), i128::from(end));
    let step = i128::from(step.unwrap_or(1));
    let n = match step {
        0 => return Err(refused("cannot create range with step of 0")),
        1.. => (end - start + step - 1) / step,
        _ => (start - end - step - 1) / -step,
    };
    if n > i128::from(MAX_RANGE) {
        return Err(refused(format!(
            "range has too many elements, the limit is {MAX_RANGE}"
        )));
    }
    let (Ok(start), Ok(step)) = (i64::try_from(start), i64::try_from(step)) else {
        return Err(refused("range of numbers that are too large"));
    };
    let n = usize::try_from(n).unwrap_or(0);
    Ok(Value::from_object(Range { start, step, n }))
}

fn call_plain(name: &str, state: &State, args: &[Value]) -> Result<Value, Error> {
    args.iter().try_for_each(|arg| nested(arg).map(|_| ()))?;
    let function = PLAIN.globals().find(|(known, _)| *known == name);
    let (_, function) = function.ok_or_else(|| refused(format!("{name} is unknown")))?;
    function.call(state, args)
}

fn dict(state: &State, args: Rest<Value>) -> Result<Value, Error> {
    call_plain("dict", state, &args)
}

fn namespace(state: &State, args: Rest<Value>) -> Result<Value, Error> {
    let mark: Value = [(MARK, true)].into_iter().collect();
    let with_mark = dict_with(state, &args, mark)?;
    call_plain("namespace", state, &[with_mark])
}

/// The arguments of `namespace`, one map or names, with those of `more`.
fn dict_with(state: &State, args: &[Value], more: Value) -> Result<Value, Error> {
    let mut pairs: Vec<(Value, Value)> = Vec::new();
    for map in args.iter().chain([&more]) {
        let found = call_plain("dict", state, std::slice::from_ref(map))?;
        if let Some(found) = found.as_object().and_then(|map| map.try_iter_pairs()) {
            pairs.extend(found);
        }
    }
    Ok(pairs.into_iter().collect())
}
