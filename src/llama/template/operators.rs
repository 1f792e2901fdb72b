//! Jinja's operators, each of which spends what it costs: what `rewrite` puts in the place of minijinja's.
//!
//! Called by templates, on the thread that renders.

use std::cmp::Ordering;

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, Value};

use super::budget::{ELEMENT, is_list, refused, spend, weigh};
use super::unguarded::PLAIN;
use super::{format, python};

/// Puts the operators into the environment, and the tests of the same names.
pub(super) fn guard(environment: &mut Environment<'static>) {
    environment.add_filter("__add", add);
    environment.add_filter("__mul", multiply);
    environment.add_filter("__rem", remainder);
    environment.add_filter("__floordiv", floor_divide);
    environment.add_filter("__pow", power);
    environment.add_filter("__concat", concat);
    environment.add_filter("__slice", slice);
    environment.add_filter("__iter", iterated);
    for (names, wanted, is_wanted) in COMPARISONS {
        let compare = move |a: &Value, b: &Value| -> Result<bool, Error> {
            compared(a, b)?;
            ordered(a, b)?;
            Ok(wanted.contains(&a.cmp(b)) == *is_wanted)
        };
        for name in *names {
            environment.add_test(*name, compare);
            environment.add_filter(format!("__{name}"), compare);
        }
    }
    for name in ["__eq", "eq", "equalto", "=="] {
        let equal = |a: &Value, b: &Value| compared(a, b).map(|()| a == b);
        environment.add_test(name, equal);
        environment.add_filter(name, equal);
    }
    for name in ["__ne", "ne", "!="] {
        let unequal = |a: &Value, b: &Value| compared(a, b).map(|()| a != b);
        environment.add_test(name, unequal);
        environment.add_filter(name, unequal);
    }
    environment.add_test("in", contained);
    environment.add_filter("__in", contained);
}

/// Names of comparisons, the orders that they mean, and whether these are wanted.
type Comparison = (&'static [&'static str], &'static [Ordering], bool);

const COMPARISONS: &[Comparison] = &[
    (&["lt", "lessthan", "<"], &[Ordering::Less], true),
    (&["le", "<="], &[Ordering::Greater], false),
    (&["gt", "greaterthan", ">"], &[Ordering::Greater], true),
    (&["ge", ">="], &[Ordering::Less], false),
];

/// What is looped over: a text is one character after the other.
pub(super) fn iterated(value: &Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(refused("none is not iterable"));
    }
    if let Some(text) = value.as_str() {
        spend(8 * text.len() as u64)?;
    }
    Ok(value.clone())
}

fn compared(a: &Value, b: &Value) -> Result<(), Error> {
    match (a.as_str(), b.as_str()) {
        (Some(a), Some(b)) => spend(a.len().min(b.len()) as u64),
        (Some(_), None) | (None, Some(_)) => Ok(()),
        _ if a.as_object().is_none() || b.as_object().is_none() => Ok(()),
        _ => weigh(a, 1).and_then(|()| weigh(b, 1)),
    }
}

/// Refuses what has no order in Python.
fn ordered(a: &Value, b: &Value) -> Result<(), Error> {
    let kind = |value: &Value| match value.kind() {
        ValueKind::Bool => ValueKind::Number,
        kind => kind,
    };
    let of_one_kind = kind(a) == kind(b)
        && matches!(
            kind(a),
            ValueKind::Number | ValueKind::String | ValueKind::Seq
        );
    match of_one_kind || (is_list(a) && is_list(b)) {
        true => Ok(()),
        false => Err(unsupported("<", a, b)),
    }
}

fn unsupported(op: &str, a: &Value, b: &Value) -> Error {
    let (a, b) = (a.kind(), b.kind());
    refused(format!(
        "tried to use {op} operator on unsupported types {a} and {b}"
    ))
}

fn numbers(
    (op, a, b): (&str, &Value, &Value),
    whole: fn(i128, i128) -> Option<i128>,
    float: fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    let is_float = |value: &Value| value.is_number() && !value.is_integer();
    let of = |value: &Value| match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        _ => f64::try_from(value.clone()).ok(),
    };
    if is_float(a) || is_float(b) {
        let (Some(a), Some(b)) = (of(a), of(b)) else {
            return Err(unsupported(op, a, b));
        };
        return Ok(float(a, b).into());
    }
    let (Ok(x), Ok(y)) = (i128::try_from(a.clone()), i128::try_from(b.clone())) else {
        return Err(unsupported(op, a, b));
    };
    let result = whole(x, y).ok_or_else(|| refused(format!("unable to calculate {x} {op} {y}")))?;
    Ok(i64::try_from(result).map_or_else(|_| Value::from(result), Value::from))
}

fn add(a: &Value, b: &Value) -> Result<Value, Error> {
    if let (Some(a), Some(b)) = (a.as_str(), b.as_str()) {
        spend((a.len() + b.len()) as u64)?;
        return Ok(Value::from([a, b].concat()));
    }
    if is_list(a) && is_list(b) {
        let mut items = Vec::new();
        for item in a.try_iter()?.chain(b.try_iter()?) {
            spend(ELEMENT)?;
            items.push(item);
        }
        return Ok(Value::from(items));
    }
    numbers(("+", a, b), i128::checked_add, |a, b| a + b)
}

fn multiply(a: &Value, b: &Value) -> Result<Value, Error> {
    let repeated = |value: &Value| value.as_str().is_some() || is_list(value);
    let (what, n) = match (repeated(a), repeated(b)) {
        (true, _) => (a, b),
        (_, true) => (b, a),
        _ => return numbers(("*", a, b), i128::checked_mul, |a, b| a * b),
    };
    let Ok(n) = i64::try_from(n.clone()) else {
        return Err(unsupported("*", a, b));
    };
    let n = usize::try_from(n).unwrap_or(0);
    if let Some(text) = what.as_str() {
        spend((text.len() as u64).saturating_mul(n as u64))?;
        return Ok(Value::from(text.repeat(n)));
    }
    let items: Vec<_> = what.try_iter()?.collect();
    spend(
        ELEMENT
            * (items.len() as u64)
                .saturating_mul(n as u64)
                .min(u64::MAX / ELEMENT),
    )?;
    Ok(Value::from(
        std::iter::repeat_n(items, n).flatten().collect::<Vec<_>>(),
    ))
}

/// `%`: of numbers with the sign of the divisor, of a text what Python formats.
fn remainder(a: &Value, b: &Value) -> Result<Value, Error> {
    if let Some(text) = a.as_str() {
        return format::percent(text, b);
    }
    not_zero(b)?;
    let whole = |a: i128, b: i128| {
        let rest = a.checked_rem(b)?;
        Some(if rest != 0 && (rest < 0) != (b < 0) {
            rest + b
        } else {
            rest
        })
    };
    numbers(("%", a, b), whole, |a, b| a - b * (a / b).floor())
}

fn floor_divide(a: &Value, b: &Value) -> Result<Value, Error> {
    not_zero(b)?;
    let whole = |a: i128, b: i128| {
        let (quotient, rest) = (a.checked_div(b)?, a.checked_rem(b)?);
        Some(if rest != 0 && (rest < 0) != (b < 0) {
            quotient - 1
        } else {
            quotient
        })
    };
    numbers(("//", a, b), whole, |a, b| (a / b).floor())
}

/// `**`: of whole numbers a whole one, unless the exponent is negative.
fn power(a: &Value, b: &Value) -> Result<Value, Error> {
    let is_negative = i64::try_from(b.clone()).is_ok_and(|exponent| exponent < 0);
    if is_negative {
        not_zero(a)?;
        let b = Value::from(f64::try_from(b.clone())?);
        return numbers(("**", a, &b), |_, _| None, f64::powf);
    }
    let whole = |a: i128, b: i128| a.checked_pow(u32::try_from(b).ok()?);
    numbers(("**", a, b), whole, f64::powf)
}

fn not_zero(divisor: &Value) -> Result<(), Error> {
    match divisor.is_number() && *divisor == Value::from(0) {
        true => Err(refused("division by zero")),
        false => Ok(()),
    }
}

fn concat(a: &Value, b: &Value) -> Result<Value, Error> {
    let (a, b) = (python::soft_str(a)?, python::soft_str(b)?);
    let (a, b) = (
        a.as_str().unwrap_or_default(),
        b.as_str().unwrap_or_default(),
    );
    spend((a.len() + b.len()) as u64)?;
    Ok(Value::from([a, b].concat()))
}

fn contained(value: &Value, container: &Value) -> Result<bool, Error> {
    match container.kind() {
        ValueKind::String => {
            weigh(container, 1)?;
            weigh(value, 4)?;
            if value.as_str().is_none() && !value.is_undefined() {
                return Err(refused("only a text is in a text"));
            }
        }
        ValueKind::None => return Err(refused("none contains nothing")),
        ValueKind::Seq | ValueKind::Iterable => {
            let n_bytes = value.as_str().map_or(0, |text| text.len() as u64);
            match value.as_object() {
                Some(_) => weigh(container, 1)?,
                None => {
                    spend((n_bytes + ELEMENT).saturating_mul(container.len().unwrap_or(0) as u64))?
                }
            }
        }
        _ => weigh(value, 1)?,
    }
    PLAIN
        .empty_state()
        .perform_test("in", &[value.clone(), container.clone()])
}

/// As Python slices, with every part of it optional.
fn slice(value: &Value, start: &Value, stop: &Value, step: &Value) -> Result<Value, Error> {
    let number = |part: &Value| match part.is_none() || part.is_undefined() {
        true => Ok(None),
        false => i64::try_from(part.clone()).map(Some),
    };
    let (start, stop, step) = (number(start)?, number(stop)?, number(step)?.unwrap_or(1));
    if step == 0 {
        return Err(refused("cannot slice by step size of 0"));
    }
    // Jinja makes nothing of what it cannot look into.
    if value.is_none() || value.is_number() || value.kind() == ValueKind::Map {
        return Ok(Value::UNDEFINED);
    }
    if let Some(text) = value.as_str() {
        spend(8 * text.len() as u64)?;
        let chars: Vec<_> = text.chars().collect();
        let taken = indices(chars.len(), start, stop, step);
        return Ok(Value::from(taken.map(|at| chars[at]).collect::<String>()));
    }
    if !is_list(value) {
        let kind = value.kind();
        return Err(refused(format!("value of type {kind} cannot be sliced")));
    }
    spend(ELEMENT * value.len().unwrap_or(0) as u64)?;
    let items: Vec<_> = value.try_iter()?.collect();
    let taken = indices(items.len(), start, stop, step);
    Ok(Value::from(
        taken.map(|at| items[at].clone()).collect::<Vec<_>>(),
    ))
}

fn indices(
    n: usize,
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
) -> impl Iterator<Item = usize> {
    let n = n as i64;
    let (lowest, highest) = if step > 0 { (0, n) } else { (-1, n - 1) };
    let place = |given: Option<i64>, default: i64| match given {
        None => default,
        Some(at) if at < 0 => at.saturating_add(n).max(lowest),
        Some(at) => at.min(highest),
    };
    let (first, end) = match step > 0 {
        true => (place(start, 0), place(stop, n)),
        false => (place(start, n - 1), place(stop, -1)),
    };
    let mut at = first;
    std::iter::from_fn(move || {
        let is_within = if step > 0 { at < end } else { at > end };
        let taken = is_within.then_some(at)?;
        at = at.saturating_add(step);
        usize::try_from(taken).ok()
    })
}
