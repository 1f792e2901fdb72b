//! minijinja's own filters and functions, each of which spends what it costs before it is called.
//!
//! Called by templates, on the thread that renders. Nothing lazy comes out of any of them, so no value is
//! larger than what was paid for.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

use super::budget::{
    ELEMENT, MAX_RANGE, grows, is_list, nested, plain, refused, shallow, spend, walk, weigh,
};
use super::tuple::{tuple, tuples};
use super::unguarded::PLAIN;
use super::{json, methods, operators, python, words};

/// The attribute by which a namespace is known; no template can set it.
const MARK: &str = "__namespace";

/// Puts everything that `rewrite` writes, and all that is not to be called unguarded, into the environment.
pub(super) fn guard(environment: &mut Environment<'static>) {
    operators::guard(environment);
    words::guard(environment);
    environment.set_formatter(put_out);
    environment.set_unknown_method_callback(methods::call);
    environment.remove_global("debug");
    environment.add_function("range", range);
    environment.add_function("namespace", namespace);
    environment.add_function("dict", dict);
    environment.add_filter("__list", plain);
    environment.add_filter("__new", nested);
    environment.add_filter("__tuple", tuple);
    environment.add_filter("__keep", keep);
    environment.add_filter("tojson", json::tojson);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", |value: &Value| {
        value.is_undefined() || value.len().is_some()
    });
    environment.add_test("callable", is_callable);
    environment.add_test("number", |value: &Value| {
        value.is_number() || value.kind() == ValueKind::Bool
    });
    for &(name, cost) in FILTERS {
        environment.add_filter(name, move |state: &State, args: Rest<Value>| {
            filter(name, cost, state, &args)
        });
    }
}

/// What a filter of minijinja's costs.
#[derive(Clone, Copy)]
enum Cost {
    /// This many times the bytes of all that it is given.
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
    ("groupby", Cost::Bytes(32)),
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
    let args = &in_words(name, args)?;
    grows(name, args)?;
    // Names of filters and tests are looked up where this one is; none of these calls another.
    let _ = state;
    let result = PLAIN.empty_state().apply_filter(name, args)?;
    let result = match result.kind() {
        ValueKind::Iterable => plain(&result)?,
        _ => result,
    };
    let result = match name {
        "dictsort" | "items" => tuples(&result)?,
        _ => result,
    };
    match cost {
        Cost::Elements => nested(&result),
        Cost::Bytes(_) => Ok(result),
    }
}

/// What a filter is given, in Python's text where it works on text.
fn in_words(name: &str, args: &[Value]) -> Result<Vec<Value>, Error> {
    const OF_TEXT: &[&str] = &["capitalize", "lower", "replace", "title", "trim", "upper"];
    let mut args = args.to_vec();
    match args.first_mut() {
        Some(value) if OF_TEXT.contains(&name) => *value = python::soft_str(value)?,
        Some(list)
            if name == "join"
                && is_list(list)
                && list.try_iter()?.any(|item| item.as_str().is_none()) =>
        {
            let items: Result<Vec<_>, Error> = list
                .try_iter()?
                .map(|item| python::soft_str(&item))
                .collect();
            *list = Value::from(items?);
        }
        _ => {}
    }
    Ok(args)
}

/// Every value that is put out, into a variable as into the prompt.
fn put_out(out: &mut Output, _: &State, value: &Value) -> Result<(), Error> {
    let written = match value.as_str() {
        Some(text) => {
            spend(text.len() as u64)?;
            out.write_str(text)
        }
        None => out.write_str(&python::str(value)?),
    };
    written.map_err(|error| Error::new(ErrorKind::WriteFailure, "cannot write").with_source(error))
}

/// Jinja's `length`: nothing is none long.
fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    let kind = value.kind();
    let n = value.len();
    n.ok_or_else(|| refused(format!("a value of type {kind} has no length")))
}

/// Jinja's `iterable`, which none is not; templates ask it before they look at `tools`.
fn is_iterable(value: &Value) -> bool {
    let kind = value.kind();
    is_list(value)
        || matches!(
            kind,
            ValueKind::String | ValueKind::Map | ValueKind::Undefined
        )
}

/// Python's `callable`, by which Jinja's undefined is one.
fn is_callable(value: &Value) -> bool {
    value.is_undefined() || value.kind() == ValueKind::Plain
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

/// The pairs of dicts, of lists of pairs and of named arguments, as Python's `dict` takes them.
fn pairs(args: &[Value]) -> Result<Vec<(Value, Value)>, Error> {
    let mut pairs = Vec::new();
    for arg in args {
        nested(arg)?;
        let map = arg.as_object().filter(|_| arg.kind() == ValueKind::Map);
        match map.and_then(|map| map.try_iter_pairs()) {
            Some(found) => pairs.extend(found),
            None if is_list(arg) => {
                for item in arg.try_iter()? {
                    pairs.push((item.get_item_by_index(0)?, item.get_item_by_index(1)?));
                }
            }
            None => return Err(refused("a dict is made of dicts and pairs")),
        }
    }
    Ok(pairs)
}

fn dict(args: Rest<Value>) -> Result<Value, Error> {
    Ok(pairs(&args)?.into_iter().collect())
}

fn namespace(state: &State, args: Rest<Value>) -> Result<Value, Error> {
    let mut pairs = pairs(&args)?;
    pairs.push((MARK.into(), true.into()));
    let function = PLAIN.globals().find(|(known, _)| *known == "namespace");
    let (_, function) = function.ok_or_else(|| refused("namespace is unknown"))?;
    function.call(state, &[pairs.into_iter().collect()])
}
