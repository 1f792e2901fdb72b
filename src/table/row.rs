//! A row of a table: one parameter, and how it is written down.
//!
//! A row is what it is called and takes, then `synonyms`, `default` and `meaning`, all of it constant:
//!
//! ```text
//! Row::number("top_p", 0.0..=1.0, |settings, x| settings.top_p = x)
//!     .default("0.95").meaning("Sample among the likeliest tokens that together have this probability"),
//! ```
//!
//! Pure; read on any thread.

use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::error::ParameterError;
use super::given::Given;
use super::kind::{Kind, Limit};

/// One parameter: its names, what it takes, and what it means.
pub struct Parameter<T: 'static> {
    pub name: &'static str,
    pub synonyms: &'static [&'static str],
    pub kind: Kind<T>,
    /// The default, in words.
    pub default: &'static str,
    /// One sentence with the unit, for the documentation.
    pub meaning: &'static str,
}

impl<T> Parameter<T> {
    /// A number within a range.
    pub const fn number(
        name: &'static str,
        range: RangeInclusive<f64>,
        set: fn(&mut T, f32),
    ) -> Self {
        Self::new(
            name,
            Kind::Number {
                min: *range.start(),
                above_min: false,
                max: *range.end(),
                set,
            },
        )
    }

    /// A number above one and up to another.
    pub const fn number_above(
        name: &'static str,
        min: f64,
        max: f64,
        set: fn(&mut T, f32),
    ) -> Self {
        Self::new(
            name,
            Kind::Number {
                min,
                above_min: true,
                max,
                set,
            },
        )
    }

    /// A whole number within a range.
    pub const fn whole(name: &'static str, min: i128, max: Limit, set: fn(&mut T, i128)) -> Self {
        Self::new(
            name,
            Kind::Whole {
                min,
                max,
                minus_one: None,
                set,
            },
        )
    }

    /// A whole number within a range, or -1, which means what `minus_one` says.
    pub const fn whole_or_minus_one(
        name: &'static str,
        min: i128,
        max: Limit,
        minus_one: &'static str,
        set: fn(&mut T, i128),
    ) -> Self {
        Self::new(
            name,
            Kind::Whole {
                min,
                max,
                minus_one: Some(minus_one),
                set,
            },
        )
    }

    /// A whole number from 0 to `max`, or a word that stands for a number below.
    pub const fn whole_or_word(
        name: &'static str,
        max: i128,
        words: &'static [(&'static str, i128)],
        set: fn(&mut T, i128),
    ) -> Self {
        Self::new(name, Kind::WholeOrWord { max, words, set })
    }

    /// True or false.
    pub const fn flag(name: &'static str, set: fn(&mut T, bool)) -> Self {
        Self::new(name, Kind::Flag { set })
    }

    /// One of some names; `set` receives its index.
    pub const fn choice(
        name: &'static str,
        names: &'static [&'static str],
        set: fn(&mut T, usize),
    ) -> Self {
        Self::new(name, Kind::Choice { names, set })
    }

    /// A text of 1 to `max_bytes` bytes.
    pub const fn text(name: &'static str, max_bytes: usize, set: fn(&mut T, String)) -> Self {
        Self::new(name, Kind::Text { max_bytes, set })
    }

    /// Strings within these bounds, as a list or one alone.
    pub const fn strings(
        name: &'static str,
        max_strings: usize,
        max_bytes: usize,
        set: fn(&mut T, Vec<String>),
    ) -> Self {
        Self::new(
            name,
            Kind::Strings {
                max_strings,
                max_bytes,
                may_have_nul: true,
                set,
            },
        )
    }

    /// Such strings without NUL, which C's cannot hold.
    pub const fn c_strings(
        name: &'static str,
        max_strings: usize,
        max_bytes: usize,
        set: fn(&mut T, Vec<String>),
    ) -> Self {
        Self::new(
            name,
            Kind::Strings {
                max_strings,
                max_bytes,
                may_have_nul: false,
                set,
            },
        )
    }

    /// A JSON object without the keys that are `reserved`.
    pub const fn object(
        name: &'static str,
        max_bytes: usize,
        reserved: &'static [&'static str],
        set: fn(&mut T, Map<String, Value>),
    ) -> Self {
        Self::new(
            name,
            Kind::Object {
                max_bytes,
                reserved,
                set,
            },
        )
    }

    const fn new(name: &'static str, kind: Kind<T>) -> Self {
        Self {
            name,
            synonyms: &[],
            kind,
            default: "",
            meaning: "",
        }
    }

    /// Other names for it.
    pub const fn synonyms(mut self, synonyms: &'static [&'static str]) -> Self {
        self.synonyms = synonyms;
        self
    }

    /// What holds where nobody gives it, in words.
    pub const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    /// One sentence with the unit, for the documentation.
    pub const fn meaning(mut self, meaning: &'static str) -> Self {
        self.meaning = meaning;
        self
    }

    pub(crate) fn is_called(&self, name: &str) -> bool {
        self.name == name || self.synonyms.contains(&name)
    }

    /// Checks and stores what was given under this name.
    pub(super) fn store(
        &self,
        noun: &'static str,
        target: &mut T,
        name: &str,
        given: &Given,
        n_ctx: Option<u32>,
    ) -> Result<(), ParameterError> {
        let stored = self.kind.store(target, given, n_ctx);
        stored.map_err(|refusal| ParameterError::Value {
            noun,
            name: name.to_owned(),
            value: refusal.value,
            expected: refusal.expected,
        })
    }
}
