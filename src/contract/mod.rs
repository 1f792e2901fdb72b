//! Contracts: the ways that clients speak, one file each.
//!
//! A contract says which tensors a model has, reads what a request's tensors and parameters ask for, and makes
//! the [`Writer`] of its answer. `config` fills in and checks a configuration by it, an intake thread reads
//! requests, and the delivery thread writes responses. Pure: knows neither Triton nor how a text is computed.

mod chat;

use crate::engine::{Chosen, Ended};
use crate::protocol::{GenerateRequest, Reading, RequestError, RequestLimits, Settings};
use crate::table::Given;
use crate::tensor::{DataType, Tensor, TensorError};

pub use chat::CHAT;

/// One way that clients speak.
#[derive(Debug)]
pub struct Contract {
    pub name: &'static str,
    pub inputs: &'static [Declared],
    pub outputs: &'static [Declared],
    /// What a request that says nothing gets, where neither configuration nor model file say more.
    pub defaults: fn() -> Settings,
    pub limit_of: LimitOf,
    pub read: Read,
}

/// Says how many bytes an input of this name, which is one of the contract's, may have.
pub type LimitOf = fn(&str, &RequestLimits) -> usize;

/// Reads the tensors and the parameters of a request.
pub type Read = fn(Vec<Tensor>, Vec<(String, Given)>, &Reading) -> Result<Asked, ContractError>;

/// An input or output that models with a contract have.
#[derive(Debug)]
pub struct Declared {
    pub name: &'static str,
    pub datatype: DataType,
    /// Its one dimension; -1 is any number of elements.
    pub dim: i64,
    pub presence: Presence,
}

/// Whether a model has a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It cannot work without.
    Required,
    Optional,
    /// It is read where a configuration declares it, and left out where that can be completed.
    Unwanted,
}

/// What a request asks for, and the writer of its answer.
pub struct Asked {
    pub request: GenerateRequest,
    pub writer: Box<dyn Writer>,
}

/// What became of one answer of a request since it was last written of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerPart {
    /// Which answer, from 0.
    pub index: usize,
    pub chosen: Vec<Chosen>,
}

impl AnswerPart {
    pub fn text(&self) -> String {
        self.chosen
            .iter()
            .map(|chosen| chosen.text.as_str())
            .collect()
    }
}

/// Turns what comes of a request into responses, and remembers what its client wants to see.
pub trait Writer: Send {
    /// A response that is not the last; without a part it only shows that the request is alive.
    fn chunk(&mut self, parts: &[AnswerPart]) -> Vec<Tensor>;

    /// The last response: how each answer ended, and what of it was in no chunk. That is all of it where a
    /// request does not stream, else tokens without a text.
    fn complete(&mut self, parts: &[AnswerPart], ends: &[Ended]) -> Vec<Tensor>;

    /// What tells of an error after the first chunk, where Triton's own status can no longer be set.
    fn error(&mut self, message: &str) -> Vec<Tensor>;
}

/// Why a request is refused; the text goes to the client as it is.
#[derive(Debug, thiserror::Error)]
pub enum ContractError {
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error(
        "'{first}' and '{second}' both carry sampling parameters: send them once",
        first = .first,
        second = .second
    )]
    TwoSamplingInputs {
        first: &'static str,
        second: &'static str,
    },
    #[error("parameter 'sampling_parameters' = {value}: must be a string with a JSON object")]
    SamplingKind { value: String },
}

/// There is one contract of a name.
impl PartialEq for Contract {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Contract {
    /// Bytes that an input of this name may have; `None` for one that is not read.
    pub fn max_bytes(&self, name: &str, limits: &RequestLimits) -> Option<usize> {
        let is_read = self.inputs.iter().any(|input| input.name == name);
        is_read.then(|| (self.limit_of)(name, limits))
    }
}
