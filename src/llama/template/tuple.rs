//! Python's tuples, which Jinja writes in parentheses and which are lists in all else.
//!
//! Made by filters and methods, on the thread that renders.

use std::sync::Arc;

use minijinja::value::{Enumerator, Object, ObjectRepr};
use minijinja::{Error, Value};

use super::budget::nested;

/// What Python writes in parentheses; a list in all else.
#[derive(Debug)]
pub(super) struct Tuple(pub(super) Vec<Value>);

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.0.len())
    }
}

/// A tuple of what is in a list.
pub(super) fn tuple(list: &Value) -> Result<Value, Error> {
    nested(list)?;
    Ok(Value::from_object(Tuple(list.try_iter()?.collect())))
}

/// A list of pairs, each of them a tuple.
pub(super) fn tuples(list: &Value) -> Result<Value, Error> {
    let tuples: Result<Vec<_>, Error> = list.try_iter()?.map(|pair| tuple(&pair)).collect();
    Ok(Value::from(tuples?))
}
