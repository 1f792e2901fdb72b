//! Tables of named values: one row for each parameter, and the one reader for all of them.
//!
//! `protocol` has the table of request parameters, `config` that of the model configuration. From a row follow
//! parsing, synonyms, ranges, error texts, suggestions and the documentation, so adding a parameter is adding a row.
//! Pure, and knows nothing of what a parameter does; called on any thread.

mod error;
mod given;
mod kind;
mod row;

pub use error::ParameterError;
pub use given::Given;
pub(crate) use given::quoted;
pub use kind::{Kind, Limit};
pub use row::Parameter;

use given::shortened;

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

/// What depends on the model rather than on the table.
pub struct Rules {
    /// The value of [`Limit::Context`]; unlimited where it is not known yet.
    pub n_ctx: Option<u32>,
    /// Whether unknown names are errors.
    pub strict: bool,
    /// Names that are left alone although the table lacks them.
    pub passes: fn(&str) -> bool,
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
