//! What of a model goes to which device, as llama.cpp's options say it.
//!
//! Reads the texts of `devices`, `tensor_split` and `override_tensor`. Pure: whether the devices are
//! there is asked in `placement`, whether the model has the layers by those who read it.

use std::sync::LazyLock;

use regex_lite::Regex;

use super::ConfigError;
use super::parameters::Parameters;
use crate::protocol::given::quoted;

/// llama.cpp's limit on the devices of one model.
pub const MAX_DEVICES: usize = 16;

/// What an entry of `override_tensor` must be.
const OVERRIDE: &str = "<tensor name pattern>=<buffer type>, several separated by commas";
/// What may follow a backslash in a pattern.
const ESCAPED: &str = r".\-/|()[]{}*+?^$dws";
/// The name of host memory among the buffer types.
const HOST_BUFFER: &str = "CPU";
/// What the names of experts' tensors have after that of their layer.
const EXPERTS: &str = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps";
/// `n_cpu_moe` as a word: as many as it takes for the rest to fit.
pub(super) const EXPERTS_TO_FIT: [(&str, i128); 1] = [("auto", -1)];

/// How a model is spread over several GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SplitMode {
    /// On one of them.
    None,
    /// Whole layers, each with its part of the KV cache.
    Layer,
    /// The rows of each matrix.
    Row,
}

impl SplitMode {
    pub(super) const ALL: [SplitMode; 3] = [SplitMode::None, SplitMode::Layer, SplitMode::Row];
    pub(super) const NAMES: [&str; 3] = ["none", "layer", "row"];
}

/// How many layers, counted from the last, are kept on GPUs; the output counts as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GpuLayers {
    /// As many as fit.
    Auto,
    All,
    Count(u32),
}

impl GpuLayers {
    pub(super) const WORDS: [(&str, i128); 2] = [("auto", -1), ("all", -2)];

    pub(super) fn from_number(number: i128) -> Self {
        match u32::try_from(number) {
            Ok(count) => GpuLayers::Count(count),
            Err(_) if number == -1 => GpuLayers::Auto,
            Err(_) => GpuLayers::All,
        }
    }
}

/// Where the tensors go whose name a pattern is found in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorOverride {
    /// A regular expression that Rust and C++ read alike.
    pub pattern: String,
    /// A buffer type's name: `CPU`, or a GPU's.
    pub buffer: String,
}

impl TensorOverride {
    /// Whether these tensors stay in host memory.
    pub fn is_host(&self) -> bool {
        self.buffer == HOST_BUFFER
    }
}

/// How much of a model each of several GPUs gets.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorSplit {
    /// As written.
    pub text: String,
    /// A proportion for each device.
    pub ratios: Vec<f32>,
}

/// Whether a tensor holds experts, which `n_cpu_moe` counts the layers of.
pub fn is_of_experts(tensor: &str) -> bool {
    static PATTERN: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(EXPERTS).expect("a constant pattern"));
    PATTERN.is_match(tensor)
}

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

impl Parameters {
    /// `override_tensor`, and after it the experts of the first `n_cpu_moe` layers; the first that
    /// matches a tensor counts.
    pub fn overrides(&self, n_cpu_moe: u32) -> Vec<TensorOverride> {
        let experts = (0..n_cpu_moe).map(|layer| TensorOverride {
            pattern: format!(r"blk\.{layer}{EXPERTS}"),
            buffer: HOST_BUFFER.to_owned(),
        });
        self.override_tensor
            .iter()
            .cloned()
            .chain(experts)
            .collect()
    }

    /// Checks what refers to the layers of the model.
    pub fn check_layers(&self, n_layers: u32) -> Result<(), ConfigError> {
        match self.n_gpu_layers {
            GpuLayers::Count(count) if count > n_layers + 1 => Err(ConfigError::Value {
                name: "n_gpu_layers",
                value: count.to_string(),
                expected: format!(
                    "at most {}, the {n_layers} layers of this model and its output",
                    n_layers + 1
                ),
            }),
            _ => match self.n_cpu_moe {
                Some(count) if count > n_layers => Err(ConfigError::Value {
                    name: "n_cpu_moe",
                    value: count.to_string(),
                    expected: format!("at most {n_layers}, the layers of this model"),
                }),
                _ => Ok(()),
            },
        }
    }
}

fn refused(name: &'static str, value: &str, expected: &str) -> ConfigError {
    ConfigError::Value {
        name,
        value: quoted(value),
        expected: expected.to_owned(),
    }
}
