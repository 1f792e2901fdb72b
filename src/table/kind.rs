//! What a parameter takes: its ranges, how errors and the documentation put them, and how a value is stored.
//!
//! Made by the constructors of `row`, read by `Table::read` on any thread. Pure.

use serde_json::{Map, Value};

use super::given::{Given, quoted};

/// Whole numbers up to this are the same as doubles; of those above several are one.
const MAX_EXACT: i128 = 1 << 53;

/// What a parameter takes and where it is stored; `set` only sees values in range.
pub enum Kind<T> {
    Number {
        min: f64,
        /// Whether `min` itself is out of range.
        above_min: bool,
        max: f64,
        set: fn(&mut T, f32),
    },
    Whole {
        min: i128,
        max: Limit,
        /// What -1 means, where it is taken beside the range.
        minus_one: Option<&'static str>,
        set: fn(&mut T, i128),
    },
    /// A whole number from 0, or a word that stands for a number below.
    WholeOrWord {
        max: i128,
        words: &'static [(&'static str, i128)],
        set: fn(&mut T, i128),
    },
    Flag {
        set: fn(&mut T, bool),
    },
    Choice {
        names: &'static [&'static str],
        /// Receives the index in `names`.
        set: fn(&mut T, usize),
    },
    Text {
        max_bytes: usize,
        set: fn(&mut T, String),
    },
    Strings {
        max_strings: usize,
        max_bytes: usize,
        /// Whether a NUL may be in one, which C's strings cannot hold.
        may_have_nul: bool,
        set: fn(&mut T, Vec<String>),
    },
    /// A JSON object, or a string that holds one.
    Object {
        max_bytes: usize,
        /// Keys that it may not have.
        reserved: &'static [&'static str],
        set: fn(&mut T, Map<String, Value>),
    },
}

/// The upper end of a range of whole numbers.
#[derive(Clone, Copy, Debug)]
pub enum Limit {
    At(i128),
    /// The tokens one sequence may hold.
    Context,
}

impl Limit {
    fn at(self, n_ctx: Option<u32>) -> i128 {
        match self {
            Limit::At(max) => max,
            Limit::Context => n_ctx.unwrap_or(u32::MAX).into(),
        }
    }
}

/// The two halves of "= 7: must be between 0 and 1".
pub(super) struct Refusal {
    pub(super) value: String,
    pub(super) expected: String,
}

impl<T> Kind<T> {
    /// What it takes, in a word or two.
    pub fn type_name(&self) -> &'static str {
        match self {
            Kind::Number { .. } => "number",
            Kind::Whole { .. } => "whole number",
            Kind::WholeOrWord { .. } => "whole number or word",
            Kind::Flag { .. } => "boolean",
            Kind::Choice { .. } | Kind::Text { .. } => "string",
            Kind::Strings { .. } => "string or list of strings",
            Kind::Object { .. } => "object",
        }
    }

    /// The values it takes, as error texts and the documentation put it.
    pub fn range(&self, n_ctx: Option<u32>) -> String {
        match self {
            Kind::Number {
                min,
                above_min: false,
                max,
                ..
            } => format!("between {min} and {max}"),
            Kind::Number { min, max, .. } => format!("above {min} and at most {max}"),
            Kind::Whole {
                min,
                max,
                minus_one,
                ..
            } => {
                let max = match (max, n_ctx) {
                    (Limit::Context, None) => "n_ctx".to_owned(),
                    (max, n_ctx) => max.at(n_ctx).to_string(),
                };
                match minus_one {
                    Some(meaning) => format!("between {min} and {max}, or -1 ({meaning})"),
                    None if max == min.to_string() => max,
                    None => format!("between {min} and {max}"),
                }
            }
            Kind::WholeOrWord { max, words, .. } => {
                let words: Vec<_> = words
                    .iter()
                    .map(|(word, number)| format!("{word} ({number})"))
                    .collect();
                format!("between 0 and {max}, or {}", words.join(" or "))
            }
            Kind::Flag { .. } => "true or false".to_owned(),
            Kind::Choice { names, .. } => format!("one of {}", names.join(", ")),
            Kind::Text { max_bytes, .. } => format!("text of 1 to {max_bytes} bytes"),
            Kind::Strings { max_strings: 0, .. } => "empty".to_owned(),
            Kind::Strings {
                max_strings,
                max_bytes,
                may_have_nul,
                ..
            } => format!(
                "at most {max_strings} non-empty strings of at most {max_bytes} bytes each{}",
                if *may_have_nul { "" } else { ", without NUL" }
            ),
            Kind::Object {
                max_bytes,
                reserved,
                ..
            } => format!(
                "a JSON object of at most {max_bytes} bytes without the keys {}",
                reserved.join(", ")
            ),
        }
    }

    /// Checks a value and stores it.
    pub(super) fn store(
        &self,
        target: &mut T,
        given: &Given,
        n_ctx: Option<u32>,
    ) -> Result<(), Refusal> {
        let refuse = |expected| Refusal {
            value: given.shown(),
            expected,
        };
        let out_of_range = || refuse(self.range(n_ctx));
        match self {
            Kind::Number {
                min,
                above_min,
                max,
                set,
            } => {
                let number = given
                    .number()
                    .ok_or_else(|| refuse(format!("a number {}", self.range(n_ctx))))?;
                let is_above = if *above_min {
                    number > *min
                } else {
                    number >= *min
                };
                // NaN compares as false and so is out of range.
                if !(is_above && number <= *max) {
                    return Err(out_of_range());
                }
                set(target, number as f32);
            }
            Kind::Whole {
                min,
                max,
                minus_one,
                set,
            } => {
                let whole = given
                    .whole()
                    .ok_or_else(|| refuse(format!("a whole number {}", self.range(n_ctx))))?;
                let max = max.at(n_ctx);
                let is_rounded = matches!(given, Given::Number(_)) && whole > MAX_EXACT;
                if is_rounded && whole <= max + 1 {
                    return Err(refuse(format!(
                        "{}; so large a number arrives rounded, send it as a string",
                        self.range(n_ctx)
                    )));
                }
                let in_range = (*min..=max).contains(&whole);
                let is_minus_one = whole == -1 && minus_one.is_some();
                if !in_range && !is_minus_one {
                    return Err(out_of_range());
                }
                set(target, whole);
            }
            Kind::WholeOrWord { max, words, set } => {
                let named = |number: i128| words.iter().any(|&(_, known)| known == number);
                let whole = given
                    .word(words)
                    .or_else(|| given.whole())
                    .filter(|&whole| (0..=*max).contains(&whole) || named(whole))
                    .ok_or_else(out_of_range)?;
                set(target, whole);
            }
            Kind::Flag { set } => set(target, given.flag().ok_or_else(out_of_range)?),
            Kind::Choice { names, set } => {
                set(target, given.choice(names).ok_or_else(out_of_range)?);
            }
            Kind::Text { max_bytes, set } => {
                if let Given::Text(text) = given
                    && text.len() > *max_bytes
                {
                    return Err(Refusal {
                        value: format!("a text of {} bytes", text.len()),
                        expected: self.range(n_ctx),
                    });
                }
                set(target, given.text(*max_bytes).ok_or_else(out_of_range)?);
            }
            Kind::Object {
                max_bytes,
                reserved,
                set,
            } => {
                let map = given.object(*max_bytes).ok_or_else(out_of_range)?;
                if let Some(key) = reserved.iter().find(|key| map.contains_key(**key)) {
                    return Err(Refusal {
                        value: format!("an object with '{key}'"),
                        expected: self.range(n_ctx),
                    });
                }
                set(target, map);
            }
            Kind::Strings {
                max_strings,
                max_bytes,
                may_have_nul,
                set,
            } => {
                let mut strings = given.strings().ok_or_else(out_of_range)?;
                // How clients say that there is none.
                if strings.iter().all(String::is_empty) {
                    strings.clear();
                }
                let is_good = |text: &str| {
                    (1..=*max_bytes).contains(&text.len())
                        && (*may_have_nul || !text.contains('\0'))
                };
                let fault = match strings.iter().find(|text| !is_good(text)) {
                    _ if strings.len() > *max_strings => {
                        format!("a list of {} strings", strings.len())
                    }
                    Some(bad) if bad.len() > *max_bytes => {
                        format!("a string of {} bytes", bad.len())
                    }
                    Some(bad) => quoted(bad),
                    None => {
                        set(target, strings);
                        return Ok(());
                    }
                };
                let expected = self.range(n_ctx);
                return Err(Refusal {
                    value: fault,
                    expected,
                });
            }
        }
        Ok(())
    }
}
