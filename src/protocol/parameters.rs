//! The request parameters: how to sample, when to stop, whether to stream.
//!
//! [`TABLE`] is the one place that knows them; contracts read request
//! parameters and sampling JSON through it on an intake thread, and `config`
//! the model's defaults at load. Names and ranges follow vLLM, with
//! llama.cpp's names as synonyms.

use serde_json::{Map, Value};

use super::error::RequestError;
use super::limits::{MAX_PARAMETERS, MAX_SAMPLING_JSON_BYTES, MAX_STOP_BYTES, MAX_STOP_STRINGS};
use super::sampling::{MAX_BREAKER_BYTES, MAX_BREAKERS, Mirostat, SamplingParams};
use crate::json;
use crate::table::Limit::{At, Context};
use crate::table::{Given, Parameter, Table};

/// Everything that request parameters can set.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub streaming: bool,
    /// How many tokens' text shares a response, after the first; at least 1.
    pub stream_interval: u32,
    pub sampling: SamplingParams,
    /// Tokens to generate at most; `None` means until the model stops or the context is full.
    pub max_tokens: Option<u32>,
    /// Each of 1 to [`MAX_STOP_BYTES`] bytes, at most [`MAX_STOP_STRINGS`].
    pub stop: Vec<String>,
    /// More variables for the chat template; none of `messages`, `tools` and `documents`.
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
pub const SAMPLING_PARAMETERS: &str = "sampling_parameters";

/// Below this a temperature overflows the logits it divides; vLLM has the same floor.
const MIN_TEMPERATURE: f32 = 0.01;

type Row = Parameter<Settings>;

/// The request parameters, in the order the documentation lists them.
pub static TABLE: Table<Settings> = Table {
    noun: "parameter",
    // OpenAI's newer name for the older one; some clients send both.
    supersedes: &[("max_completion_tokens", "max_tokens")],
    rows: &[
        Row::whole_or_minus_one("max_tokens", 1, Context, "no limit", |s, n| s.max_tokens = u32::try_from(n).ok())
            .synonyms(&["max_completion_tokens", "max_new_tokens", "n_predict"]).default("-1")
            .meaning("Tokens to generate at most; without a limit, until the model stops or the context is full"),
        Row::number("temperature", 0.0..=100.0, |s, x| s.sampling.temperature = temperature(x))
            .synonyms(&["temp"]).default("0.8")
            .meaning("Randomness; 0 always takes the likeliest token, values up to 0.01 count as 0.01"),
        Row::whole_or_minus_one("top_k", 0, At(i32::MAX as i128), "off", |s, n| s.sampling.top_k = small(n))
            .default("40").meaning("Sample among this many likeliest tokens; 0 is off"),
        // So that 0, and what rounds to it, keep the likeliest one.
        Row::number("top_p", 0.0..=1.0, |s, x| s.sampling.top_p = x.max(f32::MIN_POSITIVE))
            .default("0.95")
            .meaning("Sample among the likeliest tokens that together have this probability; 1 is off, 0 always takes the likeliest"),
        Row::number("min_p", 0.0..=1.0, |s, x| s.sampling.min_p = x)
            .default("0.05").meaning("Drop tokens less likely than this share of the likeliest one; 0 is off"),
        Row::number_above("typical_p", 0.0, 1.0, |s, x| s.sampling.typical_p = x.max(f32::MIN_POSITIVE))
            .synonyms(&["typical", "typ_p"]).default("1")
            .meaning("Locally typical sampling with this probability; 1 is off"),
        Row::number("xtc_probability", 0.0..=1.0, |s, x| s.sampling.xtc_probability = x)
            .default("0")
            .meaning("XTC: how often all tokens of at least `xtc_threshold` but the least likely of them are dropped; 0 is off"),
        Row::number("xtc_threshold", 0.0..=1.0, |s, x| s.sampling.xtc_threshold = x)
            .default("0.1").meaning("XTC: the probability from which a token may be dropped; above 0.5 is off"),
        Row::whole("mirostat", 0, At(2), |s, n| s.sampling.mirostat = mirostat(n))
            .default("0")
            .meaning("Mirostat of version 1 or 2 draws instead of top_k, top_p, min_p, typical_p and XTC; 0 is off"),
        Row::number("mirostat_tau", 0.0..=100.0, |s, x| s.sampling.mirostat_tau = x)
            .default("5").meaning("Mirostat: the surprise aimed at, in bits a token"),
        Row::number("mirostat_eta", 0.0..=1.0, |s, x| s.sampling.mirostat_eta = x)
            .default("0.1").meaning("Mirostat: how fast it adapts"),
        Row::number("dry_multiplier", 0.0..=100.0, |s, x| s.sampling.dry.multiplier = x)
            .default("0")
            .meaning("DRY: a token that would continue a repetition of n tokens loses `dry_multiplier` * `dry_base` ^ (n - `dry_allowed_length`); 0 is off"),
        Row::number("dry_base", 1.0..=100.0, |s, x| s.sampling.dry.base = x)
            .default("1.75").meaning("DRY: how the penalty grows with the repetition"),
        Row::whole("dry_allowed_length", 1, Context, |s, n| s.sampling.dry.allowed_length = small(n))
            .default("2").meaning("DRY: tokens of a repetition from which its continuation is penalised"),
        Row::whole("dry_penalty_last_n", 0, Context, |s, n| s.sampling.dry.penalty_last_n = small(n))
            .default("64")
            .meaning("DRY: tokens of prompt and answer, from the end, that are searched for repetitions at each token; 0 is off"),
        Row::c_strings("dry_sequence_breakers", MAX_BREAKERS, MAX_BREAKER_BYTES, |s, texts| s.sampling.dry.sequence_breakers = texts)
            .default(r#"["\n", ":", "\"", "*"]"#)
            .meaning("DRY: no repetition reaches across one of these, `[]` is none; a string that is a JSON list of strings counts as that list"),
        Row::number("repetition_penalty", 0.01..=10.0, |s, x| s.sampling.repetition_penalty = x)
            .synonyms(&["repeat_penalty"]).default("1")
            .meaning("Factor against tokens that occur in the prompt or the answer so far; above 1 discourages, 1 is off"),
        Row::number("presence_penalty", -2.0..=2.0, |s, x| s.sampling.presence_penalty = x)
            .default("0").meaning("Subtracted once from the logit of each token that occurs in the answer so far"),
        Row::number("frequency_penalty", -2.0..=2.0, |s, x| s.sampling.frequency_penalty = x)
            .default("0").meaning("Subtracted from a token's logit for each time it occurs in the answer so far"),
        Row::whole_or_minus_one("seed", 0, At(u64::MAX as i128), "random", |s, n| s.sampling.seed = u64::try_from(n).ok())
            .default("-1").meaning("Seed of the random numbers; the same seed gives the same text"),
        Row::strings("stop", MAX_STOP_STRINGS, MAX_STOP_BYTES, |s, texts| s.stop = texts)
            .synonyms(&["stop_words"]).default("none")
            .meaning("The answer ends before any of these; a string that is a JSON list of strings counts as that list"),
        Row::strings("bad_words", 0, 0, |_, _| {})
            .default("[]").meaning("Words that the answer must not have: none can be given"),
        Row::whole("n", 1, At(1), |_, _| {})
            .default("1").meaning("Answers to the prompt"),
        Row::flag("ignore_eos", |s, flag| s.sampling.ignore_eos = flag)
            .default("false").meaning("Go on where the model would stop"),
        Row::whole("min_tokens", 0, Context, |s, n| s.sampling.min_tokens = small(n))
            .default("0").meaning("Tokens to generate before the model may stop; at most max_tokens"),
        Row::object("chat_template_kwargs", MAX_SAMPLING_JSON_BYTES, &["messages", "tools", "documents"], |s, kwargs| s.template_kwargs.extend(kwargs))
            .default("{}")
            .meaning("More variables for the chat template; those of a request and of the configuration are joined, key by key"),
        Row::flag("enable_thinking", |s, flag| drop(s.template_kwargs.insert("enable_thinking".into(), flag.into())))
            .default("the template's")
            .meaning("The same as this key in `chat_template_kwargs`: whether the model is to think before it answers, where its template asks"),
        Row::flag("streaming", |s, flag| s.streaming = flag)
            .synonyms(&["stream"]).default("true")
            .meaning("Responses as tokens come; false gives one response with the whole text, as `/generate` needs"),
        Row::whole("stream_interval", 1, At(u32::MAX as i128), |s, n| s.stream_interval = small(n))
            .default("1").meaning("Tokens whose text shares a response where it streams; the first always has its own"),
    ],
};

/// The range of a row was checked before its setter sees a number; only -1, which is off, does not fit.
fn small(n: i128) -> u32 {
    u32::try_from(n).unwrap_or(0)
}

fn temperature(x: f32) -> f32 {
    if x > 0.0 { x.max(MIN_TEMPERATURE) } else { 0.0 }
}

fn mirostat(n: i128) -> Mirostat {
    match n {
        1 => Mirostat::V1,
        2 => Mirostat::V2,
        _ => Mirostat::Off,
    }
}

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
