//! Requests of the chat contract as tests write them, read as the intake thread reads them.

use triton_llm::contract::{Asked, CHAT, ContractError};
use triton_llm::protocol::{Reading, RequestLimits, Settings};
use triton_llm::table::Given;
use triton_llm::tensor::{Data, Tensor, check_length};

pub const LIMITS: RequestLimits = RequestLimits {
    n_ctx: 4096,
    max_prompt_bytes: 1 << 20,
};

/// The elements of each input that is sent, and the parameters.
#[derive(Clone, Default)]
pub struct RawRequest {
    pub text_input: Option<Vec<Vec<u8>>>,
    pub sampling_parameters: Option<Vec<Vec<u8>>>,
    /// The input named `parameters`.
    pub parameters_input: Option<Vec<Vec<u8>>>,
    pub stop: Option<Vec<Vec<u8>>>,
    pub parameters: Vec<(String, Given)>,
}

/// Reads a request of a model with these defaults.
pub fn ask(raw: RawRequest, defaults: &Settings, strict: bool) -> Result<Asked, ContractError> {
    let reading = Reading {
        defaults: defaults.clone(),
        limits: LIMITS,
        strict,
    };
    let inputs = [
        ("text_input", raw.text_input),
        ("sampling_parameters", raw.sampling_parameters),
        ("parameters", raw.parameters_input),
        ("stop", raw.stop),
    ];
    let mut tensors = Vec::new();
    for (name, elements) in inputs {
        let Some(elements) = elements else { continue };
        let max_bytes = CHAT
            .max_bytes(name, &LIMITS)
            .expect("an input of the contract");
        let n_bytes: usize = elements.iter().map(Vec::len).sum();
        check_length(name, n_bytes as u64, max_bytes)?;
        tensors.push(Tensor {
            name: name.into(),
            shape: vec![elements.len() as i64],
            data: Data::Bytes(elements),
        });
    }
    (CHAT.read)(tensors, raw.parameters, &reading)
}
