//! What a rendering may cost besides its instructions: a budget of bytes, spent by each operation before it
//! touches or makes them, and a time by which it is done.
//!
//! Used by all that templates call, on the thread that renders: the budget is of that thread.

use std::cell::Cell;
use std::time::Instant;

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};

/// Bytes that an element of a list or a map counts for.
pub(super) const ELEMENT: u64 = 32;

/// How deeply values may lie in each other: dropping and printing them recurses.
pub(super) const MAX_DEPTH: usize = 32;

/// Characters that a filter may be asked to add at one place.
pub(super) const MAX_WIDTH: u64 = 1000;

/// Elements of a `range`.
pub(super) const MAX_RANGE: i64 = 100_000;

thread_local! {
    static LEFT: Cell<u64> = const { Cell::new(0) };
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Marks a rendering that spent its budget behind minijinja's error.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub(super) enum Spent {
    #[error("it makes or works on too many bytes")]
    Bytes,
    #[error("it takes too long")]
    Time,
}

/// Gives this thread's next rendering a budget, and where there is one a deadline.
pub(super) fn fill(n_bytes: u64, deadline: Option<Instant>) {
    LEFT.set(n_bytes);
    DEADLINE.set(deadline);
}

pub(super) fn spend(n_bytes: u64) -> Result<(), Error> {
    let Some(left) = LEFT.get().checked_sub(n_bytes) else {
        return Err(spent(Spent::Bytes));
    };
    LEFT.set(left);
    match DEADLINE.get() {
        Some(deadline) if Instant::now() >= deadline => Err(spent(Spent::Time)),
        _ => Ok(()),
    }
}

fn spent(what: Spent) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.to_string()).with_source(what)
}

pub(super) fn refused(problem: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.into())
}

pub(super) fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// Spends the bytes of a value with all that is in it, `times` over.
pub(super) fn weigh(value: &Value, times: u64) -> Result<(), Error> {
    walk(value, 0, &mut |part| {
        let n_bytes = part.as_str().map_or(0, |text| text.len() as u64);
        spend((n_bytes + ELEMENT).saturating_mul(times))
    })
}

/// Shows `see` a value and all that is in it.
pub(super) fn walk(
    value: &Value,
    depth: usize,
    see: &mut dyn FnMut(&Value) -> Result<(), Error>,
) -> Result<(), Error> {
    see(value)?;
    if depth > MAX_DEPTH {
        return Err(refused(format!(
            "values lie more than {MAX_DEPTH} deep in each other"
        )));
    }
    if is_list(value) {
        for item in value.try_iter()? {
            walk(&item, depth + 1, see)?;
        }
    } else if value.kind() == ValueKind::Map
        && let Some(pairs) = value.as_object().and_then(|map| map.try_iter_pairs())
    {
        for (key, item) in pairs {
            walk(&key, depth + 1, see)?;
            walk(&item, depth + 1, see)?;
        }
    }
    Ok(())
}

/// Spends an element for each of a list's, and the bytes of a text.
pub(super) fn shallow(value: &Value) -> Result<(), Error> {
    match value.as_str() {
        Some(text) => spend(4 * text.len() as u64),
        None => spend(ELEMENT * (1 + value.len().unwrap_or(0) as u64)),
    }
}

/// A list of what a list has, or gives one by one.
pub(super) fn plain(value: &Value) -> Result<Value, Error> {
    if !is_list(value) {
        shallow(value)?;
        return Ok(value.clone());
    }
    let mut items = Vec::new();
    for item in value.try_iter()? {
        spend(ELEMENT)?;
        items.push(item);
    }
    Ok(Value::from(items))
}

/// A value that others were put into.
pub(super) fn nested(value: &Value) -> Result<Value, Error> {
    walk(value, 0, &mut |_| spend(ELEMENT))?;
    Ok(value.clone())
}

/// Spends what a filter or method makes beyond what it is given.
pub(super) fn grows(name: &str, args: &[Value]) -> Result<(), Error> {
    let number = |at: usize| {
        args.get(at)
            .and_then(|arg| i128::try_from(arg.clone()).ok())
    };
    let option = |key: &str| {
        let given = args.last().filter(|arg| arg.is_kwargs());
        given.and_then(|given| given.get_attr(key).ok())
    };
    match name {
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

/// Spends what a text takes that stands between the items of a list.
pub(super) fn joined(list: Option<&Value>, separator: &Value) -> Result<(), Error> {
    let n = list.and_then(Value::len).unwrap_or(0) as u64;
    spend(n.saturating_mul(separator.to_string().len() as u64))
}
