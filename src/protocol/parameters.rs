//! The request parameters: how to sample, when to stop, whether to stream.
//!
//! [`TABLE`] is the one place that knows them; `protocol::parse` reads request
//! parameters and sampling JSON through it on the intake thread, and `config`
//! the model's defaults at load. Names and ranges follow vLLM, with
//! llama.cpp's names as synonyms.

use serde_json::{Map, Value};

use super::error::RequestError;
use super::given::Given;
use super::json;
use super::sampling::{MAX_BREAKER_BYTES, MAX_BREAKERS, Mirostat, SamplingParams};
use super::table::{Kind, Limit, Parameter, Table};
use super::{MAX_PARAMETERS, MAX_SAMPLING_JSON_BYTES, MAX_STOP_BYTES, MAX_STOP_STRINGS};

/// Everything that request parameters can set.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub streaming: bool,
    pub stream_interval: u32,
    pub sampling: SamplingParams,
    pub max_tokens: Option<u32>,
    pub stop: Vec<String>,
    /// More variables for the chat template.
    pub template_kwargs: Map<String, Value>,
}

impl Default for Settings {
    /// Those of llama.cpp's programs.
    fn default() -> Self {
        Self {
            streaming: true,
            stream_interval: 1,
            sampling: SamplingParams {
                temperature: 0.8,
                top_k: 40,
                top_p: 0.95,
                min_p: 0.05,
                ..SamplingParams::default()
            },
            max_tokens: None,
            stop: Vec::new(),
            template_kwargs: Map::new(),
        }
    }
}

impl Settings {
    /// Checks defaults once the context's length is known, which it is not when they are read.
    pub fn check(&self, n_ctx: u32) -> Result<(), RequestError> {
        for (name, value) in [
            ("max_tokens", self.max_tokens.unwrap_or(0)),
            ("min_tokens", self.sampling.min_tokens),
        ] {
            if value > n_ctx {
                return Err(RequestError::DefaultAboveContext { name, value, n_ctx });
            }
        }
        Ok(())
    }
}

/// The name of the JSON object that carries request parameters.
pub(super) const SAMPLING_PARAMETERS: &str = "sampling_parameters";

/// Below this a temperature overflows the logits it divides; vLLM has the same floor.
const MIN_TEMPERATURE: f32 = 0.01;

/// The request parameters, in the order the documentation lists them.
pub static TABLE: Table<Settings> = Table {
    noun: "parameter",
    // OpenAI's newer name for the older one; some clients send both.
    supersedes: &[("max_completion_tokens", "max_tokens")],
    rows: &[
        Parameter {
            name: "max_tokens",
            synonyms: &["max_completion_tokens", "max_new_tokens", "n_predict"],
            kind: Kind::Whole {
                min: 1,
                max: Limit::Context,
                minus_one: Some("no limit"),
                set: |s, n| s.max_tokens = u32::try_from(n).ok(),
            },
            default: "-1",
            meaning: "Tokens to generate at most; without a limit, until the model stops or the context is full",
        },
        Parameter {
            name: "temperature",
            synonyms: &["temp"],
            kind: Kind::Number {
                min: 0.0,
                above_min: false,
                max: 100.0,
                set: |s, x| {
                    s.sampling.temperature = if x > 0.0 { x.max(MIN_TEMPERATURE) } else { 0.0 };
                },
            },
            default: "0.8",
            meaning: "Randomness; 0 always takes the likeliest token, values up to 0.01 count as 0.01",
        },
        Parameter {
            name: "top_k",
            synonyms: &[],
            kind: Kind::Whole {
                min: 0,
                max: Limit::At(i32::MAX as i128),
                minus_one: Some("off"),
                set: |s, n| s.sampling.top_k = u32::try_from(n).unwrap_or(0),
            },
            default: "40",
            meaning: "Sample among this many likeliest tokens; 0 is off",
        },
        Parameter {
            name: "top_p",
            synonyms: &[],
            kind: Kind::Number {
                min: 0.0,
                above_min: false,
                max: 1.0,
                // So that 0, and what rounds to it, keep the likeliest one.
                set: |s, x| s.sampling.top_p = x.max(f32::MIN_POSITIVE),
            },
            default: "0.95",
            meaning: "Sample among the likeliest tokens that together have this probability; 1 is off, 0 always takes the likeliest",
        },
        Parameter {
            name: "min_p",
            synonyms: &[],
            kind: Kind::Number {
                min: 0.0,
                above_min: false,
                max: 1.0,
                set: |s, x| s.sampling.min_p = x,
            },
            default: "0.05",
            meaning: "Drop tokens less likely than this share of the likeliest one; 0 is off",
        },
        Parameter {
            name: "typical_p",
            synonyms: &["typical", "typ_p"],
            kind: Kind::Number {
                min: 0.0,
                above_min: true,
                max: 1.0,
                set: |s, x| s.sampling.typical_p = x.max(f32::MIN_POSITIVE),
            },
            default: "1",
            meaning: "Locally typical sampling with this probability; 1 is off",
        },
        Parameter {
            name: "xtc_probability",
            synonyms: &[],
            kind: Kind::Number {
                min: 0.0,
                above_min: false,
                max: 1.0,
                set: |s, x| s.sampling.xtc_probability = x,
            },
            default: "0",
            meaning: "XTC: how often all tokens of at least `xtc_threshold` but the least likely of them are dropped; 0 is off",
        },
        Parameter {
            name: "xtc_threshold",
            synonyms: &[],
            kind: Kind::Number {
                min: 0.0,
                above_min: false,
                max: 1.0,
                set: |s, x| s.sampling.xtc_threshold = x,
            },
            default: "0.1",
            meaning: "XTC: the probability from which a token may be dropped; above 0.5 is off",
        },
        Parameter {
            name: "mirostat",
            synonyms: &[],
            kind: Kind::Whole {
                min: 0,
                max: Limit::At(2),
                minus_one: None,
                set: |s, n| {
                    s.sampling.mirostat = match n {
                        1 => Mirostat::V1,
                        2 => Mirostat::V2,
                        _ => Mirostat::Off,
                    };
                },
            },
            default: "0",
            meaning: "Mirostat of version 1 or 2 draws instead of top_k, top_p, min_p, typical_p and XTC; 0 is off",
        },
        Parameter {
            name: "mirostat_tau",
            synonyms: &[],
            kind: Kind::Number {
                min: 0.0,
                above_min: false,
                max: 100.0,
                set: |s, x| s.sampling.mirostat_tau = x,
            },
            default: "5",
            meaning: "Mirostat: the surprise aimed at, in bits a token",
        },
        Parameter {
            name: "mirostat_eta",
            synonyms: &[],
            kind: Kind::Number {
                min: 0.0,
                above_min: false,
                max: 1.0,
                set: |s, x| s.sampling.mirostat_eta = x,
            },
            default: "0.1",
            meaning: "Mirostat: how fast it adapts",
        },
        Parameter {
            name: "dry_multiplier",
            synonyms: &[],
            kind: Kind::Number {
                min: 0.0,
                above_min: false,
                max: 100.0,
                set: |s, x| s.sampling.dry.multiplier = x,
            },
            default: "0",
            meaning: "DRY: a token that would continue a repetition of n tokens loses `dry_multiplier` * `dry_base` ^ (n - `dry_allowed_length`); 0 is off",
        },
        Parameter {
            name: "dry_base",
            synonyms: &[],
            kind: Kind::Number {
                min: 1.0,
                above_min: false,
                max: 100.0,
                set: |s, x| s.sampling.dry.base = x,
            },
            default: "1.75",
            meaning: "DRY: how the penalty grows with the repetition",
        },
        Parameter {
            name: "dry_allowed_length",
            synonyms: &[],
            kind: Kind::Whole {
                min: 1,
                max: Limit::Context,
                minus_one: None,
                set: |s, n| s.sampling.dry.allowed_length = u32::try_from(n).unwrap_or(0),
            },
            default: "2",
            meaning: "DRY: tokens of a repetition from which its continuation is penalised",
        },
        Parameter {
            name: "dry_penalty_last_n",
            synonyms: &[],
            kind: Kind::Whole {
                min: 0,
                max: Limit::Context,
                minus_one: None,
                set: |s, n| s.sampling.dry.penalty_last_n = u32::try_from(n).unwrap_or(0),
            },
            default: "64",
            meaning: "DRY: tokens of prompt and answer, from the end, that are searched for repetitions at each token; 0 is off",
        },
        Parameter {
            name: "dry_sequence_breakers",
            synonyms: &[],
            kind: Kind::Strings {
                max_strings: MAX_BREAKERS,
                max_bytes: MAX_BREAKER_BYTES,
                may_have_nul: false,
                set: |s, breakers| s.sampling.dry.sequence_breakers = breakers,
            },
            default: r#"["\n", ":", "\"", "*"]"#,
            meaning: "DRY: no repetition reaches across one of these, `[]` is none; a string that is a JSON list of strings counts as that list",
        },
        Parameter {
            name: "repetition_penalty",
            synonyms: &["repeat_penalty"],
            kind: Kind::Number {
                min: 0.01,
                above_min: false,
                max: 10.0,
                set: |s, x| s.sampling.repetition_penalty = x,
            },
            default: "1",
            meaning: "Factor against tokens that occur in the prompt or the answer so far; above 1 discourages, 1 is off",
        },
        Parameter {
            name: "presence_penalty",
            synonyms: &[],
            kind: Kind::Number {
                min: -2.0,
                above_min: false,
                max: 2.0,
                set: |s, x| s.sampling.presence_penalty = x,
            },
            default: "0",
            meaning: "Subtracted once from the logit of each token that occurs in the answer so far",
        },
        Parameter {
            name: "frequency_penalty",
            synonyms: &[],
            kind: Kind::Number {
                min: -2.0,
                above_min: false,
                max: 2.0,
                set: |s, x| s.sampling.frequency_penalty = x,
            },
            default: "0",
            meaning: "Subtracted from a token's logit for each time it occurs in the answer so far",
        },
        Parameter {
            name: "seed",
            synonyms: &[],
            kind: Kind::Whole {
                min: 0,
                max: Limit::At(u64::MAX as i128),
                minus_one: Some("random"),
                set: |s, n| s.sampling.seed = u64::try_from(n).ok(),
            },
            default: "-1",
            meaning: "Seed of the random numbers; the same seed gives the same text",
        },
        Parameter {
            name: "stop",
            synonyms: &["stop_words"],
            kind: Kind::Strings {
                max_strings: MAX_STOP_STRINGS,
                max_bytes: MAX_STOP_BYTES,
                may_have_nul: true,
                set: |s, stop| s.stop = stop,
            },
            default: "none",
            meaning: "The answer ends before any of these; a string that is a JSON list of strings counts as that list",
        },
        Parameter {
            name: "bad_words",
            synonyms: &[],
            kind: Kind::Strings {
                max_strings: 0,
                max_bytes: 0,
                may_have_nul: false,
                set: |_, _| {},
            },
            default: "[]",
            meaning: "Words that the answer must not have: none can be given",
        },
        Parameter {
            name: "n",
            synonyms: &[],
            kind: Kind::Whole {
                min: 1,
                max: Limit::At(1),
                minus_one: None,
                set: |_, _| {},
            },
            default: "1",
            meaning: "Answers to the prompt",
        },
        Parameter {
            name: "ignore_eos",
            synonyms: &[],
            kind: Kind::Flag {
                set: |s, flag| s.sampling.ignore_eos = flag,
            },
            default: "false",
            meaning: "Go on where the model would stop",
        },
        Parameter {
            name: "min_tokens",
            synonyms: &[],
            kind: Kind::Whole {
                min: 0,
                max: Limit::Context,
                minus_one: None,
                set: |s, n| s.sampling.min_tokens = u32::try_from(n).unwrap_or(0),
            },
            default: "0",
            meaning: "Tokens to generate before the model may stop; at most max_tokens",
        },
        Parameter {
            name: "chat_template_kwargs",
            synonyms: &[],
            kind: Kind::Object {
                max_bytes: MAX_SAMPLING_JSON_BYTES,
                reserved: &["messages", "tools", "documents"],
                set: |s, kwargs| s.template_kwargs.extend(kwargs),
            },
            default: "{}",
            meaning: "More variables for the chat template; those of a request and of the configuration are joined, key by key",
        },
        Parameter {
            name: "enable_thinking",
            synonyms: &[],
            kind: Kind::Flag {
                set: |s, flag| {
                    drop(
                        s.template_kwargs
                            .insert("enable_thinking".into(), flag.into()),
                    )
                },
            },
            default: "the template's",
            meaning: "The same as this key in `chat_template_kwargs`: whether the model is to think before it answers, where its template asks",
        },
        Parameter {
            name: "streaming",
            synonyms: &["stream"],
            kind: Kind::Flag {
                set: |s, flag| s.streaming = flag,
            },
            default: "true",
            meaning: "Responses as tokens come; false gives one response with the whole text, as `/generate` needs",
        },
        Parameter {
            name: "stream_interval",
            synonyms: &[],
            kind: Kind::Whole {
                min: 1,
                max: Limit::At(u32::MAX as i128),
                minus_one: None,
                set: |s, n| s.stream_interval = u32::try_from(n).unwrap_or(1),
            },
            default: "1",
            meaning: "Tokens whose text shares a response where it streams; the first always has its own",
        },
    ],
};

/// Names that are taken and change nothing: those that belong to Triton itself and reach us as request
/// parameters, of which `id` is the request id of `generate`, and `model`, which clients of OpenAI's API send.
const IGNORED: [&str; 7] = [
    "id",
    "priority",
    "timeout",
    "sequence_id",
    "sequence_start",
    "sequence_end",
    "model",
];

/// Whether a name is none of our business.
pub(crate) fn passes(name: &str) -> bool {
    name.starts_with("triton_") || IGNORED.contains(&name)
}

/// The members of a JSON object of parameters; a null is a parameter not given.
///
/// Empty text is an empty object: Triton's `zero_data` warm-up sends that.
pub(crate) fn json_pairs(
    name: &'static str,
    text: &str,
) -> Result<Vec<(String, Given)>, RequestError> {
    if text.len() > MAX_SAMPLING_JSON_BYTES {
        return Err(RequestError::InputTooLong {
            name,
            n_bytes: text.len(),
            max_bytes: MAX_SAMPLING_JSON_BYTES,
        });
    }
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let members = json::object(text).map_err(|source| RequestError::Json { name, source })?;
    if members.len() > MAX_PARAMETERS {
        return Err(RequestError::TooManyParameters {
            what: format!("'{name}'"),
            n_parameters: members.len(),
            limit: MAX_PARAMETERS,
        });
    }
    Ok(members
        .into_iter()
        .filter(|(_, value)| !value.is_null())
        .map(|(name, value)| (name, value.into()))
        .collect())
}

/// Makes `min_tokens` fit `max_tokens`; an error only where the request asked for both.
///
/// A request that sets just a small `max_tokens` is not at fault for the
/// configured `min_tokens`, nor one that sets `min_tokens` for the configured
/// `max_tokens`: the setting that was given wins.
pub(crate) fn reconcile(settings: &mut Settings, given: &[&str]) -> Result<(), RequestError> {
    let min_tokens = settings.sampling.min_tokens;
    let Some(max_tokens) = settings.max_tokens else {
        return Ok(());
    };
    if min_tokens <= max_tokens {
        return Ok(());
    }
    match (given.contains(&"min_tokens"), given.contains(&"max_tokens")) {
        (true, false) => settings.max_tokens = Some(min_tokens),
        (false, _) => settings.sampling.min_tokens = max_tokens,
        (true, true) => {
            return Err(RequestError::MinAboveMax {
                min_tokens,
                max_tokens,
            });
        }
    }
    Ok(())
}
