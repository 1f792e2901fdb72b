//! Reads the texts that say what of a model goes to which device, as llama.cpp's options have them.
//!
//! `devices`, `tensor_split` and `override_tensor`. Pure: whether the devices are there is asked in
//! `placement`, whether the model has the layers by those who read it.

use regex_lite::Regex;

use super::ConfigError;
use super::values::{MAX_DEVICES, SplitMode, TensorOverride, TensorSplit};
use crate::table::quoted;

/// What an entry of `override_tensor` must be.
const OVERRIDE: &str = "<tensor name pattern>=<buffer type>, several separated by commas";
/// What may follow a backslash in a pattern.
const ESCAPED: &str = r".\-/|()[]{}*+?^$dws";

/// Reads `devices`: names separated by commas, or `none`, which is no name.
pub(super) fn read_devices(text: &str) -> Result<Vec<String>, ConfigError> {
    if text.trim() == "none" {
        return Ok(Vec::new());
    }
    let names = text.split(',').map(|name| name.trim().to_owned());
    let names: Vec<String> = names.collect();
    let is_repeated = |(index, name): (usize, &String)| names[..index].contains(name);
    match names.iter().enumerate().any(is_repeated) {
        true => Err(refused("devices", text, "names of devices, each once")),
        false => Ok(names),
    }
}

/// Reads `tensor_split`: proportions separated by commas or slashes, for more than one GPU.
pub(super) fn read_split(text: &str, split_mode: SplitMode) -> Result<TensorSplit, ConfigError> {
    if split_mode == SplitMode::None {
        let expected = "left out where 'split_mode' is \"none\"";
        return Err(refused("tensor_split", text, expected));
    }
    let ratios: Option<Vec<f32>> = text
        .split([',', '/'])
        .map(|ratio| ratio.trim().parse().ok())
        .collect();
    ratios
        .filter(|ratios| {
            ratios
                .iter()
                .all(|ratio| ratio.is_finite() && *ratio >= 0.0)
        })
        .filter(|ratios| ratios.iter().sum::<f32>() > 0.0)
        .filter(|ratios| ratios.iter().sum::<f32>().is_finite())
        .filter(|ratios| ratios.len() <= MAX_DEVICES)
        .ok_or_else(|| {
            let expected = format!(
                "at most {MAX_DEVICES} numbers from 0, not all of them 0, separated by commas"
            );
            refused("tensor_split", text, &expected)
        })
        .map(|ratios| TensorSplit {
            text: text.to_owned(),
            ratios,
        })
}

/// Reads `override_tensor`: patterns and buffer types.
pub(super) fn read_overrides(text: &str) -> Result<Vec<TensorOverride>, ConfigError> {
    let entry = |entry: &str| {
        let (pattern, buffer) = entry
            .split_once('=')
            .filter(|(pattern, buffer)| !pattern.is_empty() && !buffer.is_empty())
            .ok_or_else(|| refused("override_tensor", entry, OVERRIDE))?;
        if let Err(problem) = check_pattern(pattern) {
            let expected = format!("with a plain regular expression: {problem}");
            return Err(refused("override_tensor", entry, &expected));
        }
        Ok(TensorOverride {
            pattern: pattern.to_owned(),
            buffer: buffer.to_owned(),
        })
    };
    text.split(',').map(entry).collect()
}

/// Checks that a pattern is what C++'s and Rust's regular expressions have in common.
///
/// llama.cpp hands it to `std::regex`, which backtracks: a repetition of what holds a repetition could
/// take for ever.
fn check_pattern(pattern: &str) -> Result<(), String> {
    Regex::new(pattern).map_err(|error| error.to_string())?;
    let is_repeat = |c: Option<&char>| matches!(c, Some('*' | '+' | '{'));
    // Whether the group that is open holds a repetition, and those around it.
    let mut repeats = false;
    let mut around = Vec::new();
    let mut in_class = false;
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(escaped) if ESCAPED.contains(escaped) => {}
                other => return Err(format!("'\\{}' is not known", other.unwrap_or(' '))),
            },
            '[' | ']' => in_class = c == '[',
            _ if in_class => {}
            '(' => {
                if chars.next_if_eq(&'?').is_some() && chars.next() != Some(':') {
                    return Err("of groups, only '(' and '(?:' are known".to_owned());
                }
                around.push(std::mem::take(&mut repeats));
            }
            ')' => {
                if repeats && is_repeat(chars.peek()) {
                    return Err("a repeated group must hold no repetition".to_owned());
                }
                repeats |= around.pop().unwrap_or(false);
            }
            '*' | '+' | '{' => repeats = true,
            _ => {}
        }
        if is_repeat(Some(&c)) && is_repeat(chars.peek()) {
            return Err("a repetition must not be repeated".to_owned());
        }
    }
    Ok(())
}

fn refused(name: &'static str, value: &str, expected: &str) -> ConfigError {
    ConfigError::Value {
        name,
        value: quoted(value),
        expected: expected.to_owned(),
    }
}
