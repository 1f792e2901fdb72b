//! The protocol read as tables: a request in, the settings or the exact error text out.
//!
//! Here are the requests that the tables are made of, and what is read of one.

mod names;
#[path = "../requests/mod.rs"]
mod requests;
mod sources;
mod values;

use triton_llm::contract::ContractError;
use triton_llm::protocol::{GenerateRequest, Settings};
use triton_llm::table::Given::{self, Text as Str};

use requests::{RawRequest, ask};

fn parse(
    raw: RawRequest,
    defaults: &Settings,
    strict: bool,
) -> Result<GenerateRequest, ContractError> {
    ask(raw, defaults, strict).map(|asked| asked.request)
}

fn s(text: &str) -> Given {
    Str(text.to_owned())
}

fn bytes(text: &str) -> Option<Vec<Vec<u8>>> {
    Some(vec![text.as_bytes().to_vec()])
}

fn hello() -> RawRequest {
    RawRequest {
        text_input: bytes("hello"),
        ..RawRequest::default()
    }
}

fn with(parameters: &[(&str, Given)]) -> RawRequest {
    RawRequest {
        parameters: parameters
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect(),
        ..hello()
    }
}

fn with_json(json: &str) -> RawRequest {
    RawRequest {
        sampling_parameters: bytes(json),
        ..hello()
    }
}

fn read(raw: RawRequest) -> Result<GenerateRequest, String> {
    parse(raw, &Settings::default(), true).map_err(|error| error.to_string())
}

/// The value that a request ended up with for one parameter.
fn setting(request: &GenerateRequest, name: &str) -> String {
    let sampling = &request.settings.sampling;
    match name {
        "max_tokens" => format!("{:?}", request.settings.max_tokens),
        "temperature" => sampling.temperature.to_string(),
        "top_k" => sampling.top_k.to_string(),
        "top_p" => sampling.top_p.to_string(),
        "min_p" => sampling.min_p.to_string(),
        "typical_p" => sampling.typical_p.to_string(),
        "xtc_probability" => sampling.xtc_probability.to_string(),
        "xtc_threshold" => sampling.xtc_threshold.to_string(),
        "mirostat" => format!("{:?}", sampling.mirostat),
        "mirostat_tau" => sampling.mirostat_tau.to_string(),
        "mirostat_eta" => sampling.mirostat_eta.to_string(),
        "dry_multiplier" => sampling.dry.multiplier.to_string(),
        "dry_base" => sampling.dry.base.to_string(),
        "dry_allowed_length" => sampling.dry.allowed_length.to_string(),
        "dry_penalty_last_n" => sampling.dry.penalty_last_n.to_string(),
        "dry_sequence_breakers" => format!("{:?}", sampling.dry.sequence_breakers),
        "repetition_penalty" => sampling.repetition_penalty.to_string(),
        "presence_penalty" => sampling.presence_penalty.to_string(),
        "frequency_penalty" => sampling.frequency_penalty.to_string(),
        "seed" => format!("{:?}", sampling.seed),
        "stop" => format!("{:?}", request.settings.stop),
        "ignore_eos" => sampling.ignore_eos.to_string(),
        "min_tokens" => sampling.min_tokens.to_string(),
        "streaming" => request.settings.streaming.to_string(),
        other => panic!("no such parameter in the test: {other}"),
    }
}

/// What a parameter does with a value: its setting, or its error after "!".
fn outcome(name: &str, as_called: &str, value: Given) -> String {
    match read(with(&[(as_called, value)])) {
        Ok(request) => setting(&request, name),
        Err(error) => format!("!{error}"),
    }
}

fn refused(name: &str, shown: &str, expected: &str) -> String {
    format!("!parameter '{name}' = {shown}: must be {expected}")
}
