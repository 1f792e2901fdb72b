//! The reader of named parameters: one row of a table per parameter.
//!
//! `protocol::parameters` holds the table of request parameters and
//! `config::table` that of the model configuration; this file turns a
//! row into parsing, synonyms, ranges, error texts and suggestions, so adding
//! a parameter is adding a row. Pure; called on any thread.

use serde_json::{Map, Value};

use super::given::{Given, quoted, shortened};

/// Whole numbers up to this are the same as doubles; of those above several are one.
const MAX_EXACT: i128 = 1 << 53;
/// Bytes of an unknown name for which a suggestion is looked for.
const MAX_SUGGESTED_BYTES: usize = 64;

/// A set of parameters that are read into a `T`.
pub struct Table<T: 'static> {
    /// What error texts call one of them.
    pub noun: &'static str,
    pub rows: &'static [Parameter<T>],
    /// Pairs of names of one parameter that may both be given: the first wins.
    pub supersedes: &'static [(&'static str, &'static str)],
}

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

/// What depends on the model rather than on the table.
pub struct Rules {
    /// The value of [`Limit::Context`]; unlimited where it is not known yet.
    pub n_ctx: Option<u32>,
    /// Whether unknown names are errors.
    pub strict: bool,
    /// Names that are left alone although the table lacks them.
    pub passes: fn(&str) -> bool,
}

/// Why a parameter is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    #[error("{noun} '{name}' = {value}: must be {expected}")]
    Value {
        noun: &'static str,
        name: String,
        value: String,
        expected: String,
    },
    #[error("unknown {noun} '{name}': did you mean '{nearest}'?")]
    Misspelt {
        noun: &'static str,
        name: String,
        nearest: &'static str,
    },
    #[error("unknown {noun} '{name}': known are {known}")]
    Unknown {
        noun: &'static str,
        name: String,
        known: String,
    },
    #[error("{noun} '{name}' is given twice")]
    Repeated { noun: &'static str, name: String },
    #[error("{noun} '{name}' is given twice, as '{first}' and as '{second}'")]
    TwoNames {
        noun: &'static str,
        name: &'static str,
        first: String,
        second: String,
    },
}

impl<T> Table<T> {
    /// Stores one source's values in `target` and returns the names, without synonyms, it gave.
    pub fn read(
        &self,
        target: &mut T,
        given: impl IntoIterator<Item = (String, Given)>,
        rules: &Rules,
    ) -> Result<Vec<&'static str>, ParameterError> {
        let mut seen: Vec<(&'static str, String)> = Vec::new();
        for (name, value) in given {
            let Some(row) = self.rows.iter().find(|row| row.is_called(&name)) else {
                if !rules.strict || (rules.passes)(&name) {
                    continue;
                }
                return Err(self.unknown(&name));
            };
            if let Some((_, first)) = seen.iter_mut().find(|(known, _)| *known == row.name) {
                if self.supersedes.contains(&(first.as_str(), name.as_str())) {
                    continue;
                }
                if !self.supersedes.contains(&(name.as_str(), first.as_str())) {
                    return Err(self.twice(row.name, first, &name));
                }
                first.clone_from(&name);
                row.store(self.noun, target, &name, &value, rules.n_ctx)?;
                continue;
            }
            row.store(self.noun, target, &name, &value, rules.n_ctx)?;
            seen.push((row.name, name));
        }
        Ok(seen.into_iter().map(|(name, _)| name).collect())
    }

    fn twice(&self, name: &'static str, first: &str, second: &str) -> ParameterError {
        if first == second {
            return ParameterError::Repeated {
                noun: self.noun,
                name: first.to_owned(),
            };
        }
        ParameterError::TwoNames {
            noun: self.noun,
            name,
            first: first.to_owned(),
            second: second.to_owned(),
        }
    }

    fn unknown(&self, name: &str) -> ParameterError {
        let noun = self.noun;
        let shown = shortened(name);
        if let Some(nearest) = self.nearest(name) {
            return ParameterError::Misspelt {
                noun,
                name: shown,
                nearest,
            };
        }
        let known: Vec<_> = self.rows.iter().map(|row| row.name).collect();
        ParameterError::Unknown {
            noun,
            name: shown,
            known: known.join(", "),
        }
    }

    /// The known name, synonyms included, that is a few typing errors away.
    fn nearest(&self, name: &str) -> Option<&'static str> {
        if name.len() > MAX_SUGGESTED_BYTES {
            return None;
        }
        let name = name.to_lowercase().replace('-', "_");
        self.rows
            .iter()
            .flat_map(|row| std::iter::once(&row.name).chain(row.synonyms))
            .map(|known| (strsim::damerau_levenshtein(&name, known), *known))
            .filter(|(distance, known)| *distance <= (known.len() / 3).min(3))
            .min_by_key(|(distance, _)| *distance)
            .map(|(_, known)| known)
    }
}

impl<T> Parameter<T> {
    pub(super) fn is_called(&self, name: &str) -> bool {
        self.name == name || self.synonyms.contains(&name)
    }

    /// Checks and stores what was given under this name.
    fn store(
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

/// The two halves of "= 7: must be between 0 and 1".
struct Refusal {
    value: String,
    expected: String,
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
    fn store(&self, target: &mut T, given: &Given, n_ctx: Option<u32>) -> Result<(), Refusal> {
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
