//! What a request that says nothing gets: of the configuration, else of the model's file, else of the contract.
//!
//! Made at load: first for the configuration alone, to check it, then with the file. Pure.

use std::fmt;

use super::error::RequestError;
use super::parameters::{self, Settings, TABLE, json_pairs, reconcile};
use crate::table::{Given, Rules};

/// Defaults, and where they come from.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    pub settings: Settings,
    /// What was found, for the log: `temperature = 0.6 (model file), ...`; empty where all are ours.
    pub found: String,
    /// What the model's file says that cannot be used, and why.
    pub notes: Vec<String>,
}

const RULES: Rules = Rules {
    n_ctx: None,
    strict: true,
    passes: |_| false,
};

/// The keys of files, which are llama.cpp's, and the parameters that mean the same.
const KEYS: [(&str, &str); 10] = [
    ("temp", "temperature"),
    ("top_k", "top_k"),
    ("top_p", "top_p"),
    ("min_p", "min_p"),
    ("xtc_probability", "xtc_probability"),
    ("xtc_threshold", "xtc_threshold"),
    ("mirostat", "mirostat"),
    ("mirostat_tau", "mirostat_tau"),
    ("mirostat_eta", "mirostat_eta"),
    ("penalty_repeat", "repetition_penalty"),
];

/// Reads the defaults that a model's file and its configuration set.
///
/// `contract` is what holds where neither says anything. `file` has the file's keys `general.sampling.*` without
/// that beginning; what of them no request could say is left out, as the user cannot help it. `json` is the
/// configuration's `sampling_parameters`, an object of request parameters.
///
/// # Errors
///
/// What is wrong with `json`.
pub fn defaults(
    contract: Settings,
    file: &[(String, Given)],
    json: &str,
) -> Result<Defaults, RequestError> {
    let mut settings = contract;
    let mut notes = Vec::new();
    let mut found: Vec<(&str, String, &str)> = Vec::new();
    for (key, value) in file {
        let unused = |why: &dyn fmt::Display| format!("general.sampling.{key} is not used: {why}");
        let Some(&(_, name)) = KEYS.iter().find(|(known, _)| known == key) else {
            notes.push(unused(&"no parameter means the same"));
            continue;
        };
        match TABLE.read(&mut settings, [(name.to_owned(), value.clone())], &RULES) {
            Ok(_) => found.push((name, value.shown(), "model file")),
            Err(error) => notes.push(unused(&error)),
        }
    }
    let pairs = json_pairs(parameters::SAMPLING_PARAMETERS, json)?;
    let given = TABLE.read(&mut settings, pairs.clone(), &RULES)?;
    reconcile(&mut settings, &given)?;
    found.retain(|(name, ..)| !given.contains(name));
    for row in TABLE.rows.iter().filter(|row| given.contains(&row.name)) {
        let said = pairs.iter().rfind(|(name, _)| row.is_called(name));
        found.extend(said.map(|(_, value)| (row.name, value.shown(), "config")));
    }
    let found: Vec<String> = found
        .iter()
        .map(|(name, value, source)| format!("{name} = {value} ({source})"))
        .collect();
    Ok(Defaults {
        settings,
        found: found.join(", "),
        notes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &[(&str, Given)], json: &str, expected: &str, notes: &[&str]) -> Settings {
        let file: Vec<_> = file
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.clone()))
            .collect();
        let defaults =
            defaults(Settings::default(), &file, json).expect("the configuration is in range");
        assert_eq!(defaults.found, expected);
        assert_eq!(defaults.notes, notes);
        defaults.settings
    }

    #[test]
    fn the_configuration_wins_over_the_file_and_that_over_llama_cpps() {
        let ours = check(&[], "", "", &[]);
        assert_eq!(ours, Settings::default());
        let file = [
            ("penalty_repeat", Given::Number(1.1)),
            ("temp", Given::Number(0.6)),
            ("top_k", Given::Whole(20)),
        ];
        let of_file = check(
            &file,
            "",
            "repetition_penalty = 1.1 (model file), temperature = 0.6 (model file), top_k = 20 (model file)",
            &[],
        );
        let expected = (0.6, 20, 1.1, ours.sampling.top_p);
        let sampling = of_file.sampling;
        assert_eq!(
            (
                sampling.temperature,
                sampling.top_k,
                sampling.repetition_penalty,
                sampling.top_p
            ),
            expected
        );
        let both = check(
            &file,
            r#"{"temp": 0, "max_tokens": 7}"#,
            "repetition_penalty = 1.1 (model file), top_k = 20 (model file), max_tokens = 7 (config), \
             temperature = 0 (config)",
            &[],
        );
        assert_eq!(both.sampling.temperature, 0.0);
        assert_eq!(both.sampling.top_k, 20);
        assert_eq!(both.max_tokens, Some(7));
    }

    #[test]
    fn what_a_file_says_that_no_request_could_is_left_out() {
        let file = [
            ("penalty_last_n", Given::Whole(64)),
            ("sequence", Given::Text("kpmt".to_owned())),
            ("temp", Given::Number(f64::NAN)),
            ("top_k", Given::Other("a list")),
            ("top_p", Given::Number(1.5)),
            ("min_p", Given::Number(0.1)),
        ];
        let settings = check(
            &file,
            "",
            "min_p = 0.1 (model file)",
            &[
                "general.sampling.penalty_last_n is not used: no parameter means the same",
                "general.sampling.sequence is not used: no parameter means the same",
                "general.sampling.temp is not used: parameter 'temperature' = NaN: must be between 0 and 100",
                "general.sampling.top_k is not used: parameter 'top_k' = a list: must be a whole number between 0 and 2147483647, \
                 or -1 (off)",
                "general.sampling.top_p is not used: parameter 'top_p' = 1.5: must be between 0 and 1",
            ],
        );
        assert_eq!(
            settings.sampling.temperature,
            Settings::default().sampling.temperature
        );
    }
}
