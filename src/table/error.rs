//! Why a named value is refused.
//!
//! Built by the reading of a table, on any thread; the texts go to whoever gave the value, so they quote at most a
//! few dozen characters of it.

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
