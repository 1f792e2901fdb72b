//! Intake: from one request of Triton's to one job for the worker.
//!
//! Runs on the intake threads of an engine, which have a stack for the worst of prompts: reads the request by
//! its model's contract, renders the chat template, tokenises, and makes the samplers. Decides nothing about
//! when a request runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::Sender;

use crate::contract::{Asked, Contract, ContractError, Writer};
use crate::delivery::{Arrival, Delivery, NewRequest};
use crate::engine::{NewSequence, SequenceId, Token};
use crate::llama::{ChatTemplate, Model, Sampler, TemplateError, TokenizeError};
use crate::permit::Permit;
use crate::protocol::{GenerateRequest, Prompt, Reading, RequestError};
use crate::triton::{Code, Error, Responder, Times};
use crate::worker::Job;

/// Numbers every request of the process.
static N_REQUESTS: AtomicU64 = AtomicU64::new(0);
/// Numbers every sequence of the process.
static N_SEQUENCES: AtomicU64 = AtomicU64::new(0);

/// The sequences that may be in flight on an engine, running and waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    pub(crate) n_slots: usize,
    pub(crate) max_queue: usize,
}

impl Bound {
    pub(crate) fn n_sequences(self) -> usize {
        self.n_slots.saturating_add(self.max_queue)
    }
}

/// Reads the requests of one engine.
pub(crate) struct Intake {
    /// Names the model in log lines.
    pub(crate) model_name: String,
    pub(crate) contract: &'static Contract,
    pub(crate) reading: Reading,
    pub(crate) bound: Bound,
    /// How long a request may take; `None` is as long as it takes.
    pub(crate) timeout: Option<Duration>,
    pub(crate) template: ChatTemplate,
    pub(crate) weights: Arc<Model>,
}

/// Why a request is refused before it runs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Contract(#[from] ContractError),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Tokenize(#[from] TokenizeError),
    #[error(
        "the prompt has {n_bytes} bytes, so more tokens than n_ctx = {n_ctx}: \
         no token of this model has more than {max_piece_bytes} bytes"
    )]
    PromptTooLong {
        n_bytes: usize,
        n_ctx: u32,
        max_piece_bytes: usize,
    },
    #[error(
        "the queue is full: {limit} requests are in flight, the limit is that of n_parallel \
         ({n_slots} slots over all instances) and max_queue_size ({max_queue}) together",
        limit = .0.n_sequences(), n_slots = .0.n_slots, max_queue = .0.max_queue
    )]
    QueueFull(Bound),
    #[error("the engine has stopped after an internal error: reload the model")]
    Stopped,
    #[error("the request was cancelled")]
    Cancelled,
    #[error(transparent)]
    Triton(#[from] Error),
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        let code = match &refusal {
            Refusal::QueueFull(_) | Refusal::Stopped => Code::Unavailable,
            Refusal::Cancelled => Code::Cancelled,
            Refusal::Triton(error) => error.code,
            Refusal::Contract(_)
            | Refusal::Request(_)
            | Refusal::Template(_)
            | Refusal::Tokenize(_)
            | Refusal::PromptTooLong { .. } => Code::InvalidArg,
        };
        Error::new(code, refusal.to_string())
    }
}

/// A request that was read.
struct Ready {
    /// One for each answer.
    sequences: Vec<(NewSequence, Sampler)>,
    n_prompt_tokens: usize,
    writer: Box<dyn Writer>,
    /// How many tokens' text shares a response; `None` is all of it.
    stream: Option<usize>,
}

impl Intake {
    /// Reads one request and gives it to the worker, or answers what is wrong with it.
    pub(crate) fn hand_over(
        &self,
        mut responder: Responder,
        mut permit: Permit,
        jobs: &Sender<Job>,
        delivery: &Delivery,
    ) {
        let label = self.label(&responder.request().id());
        let is_cancelled = responder.cancel_probe();
        let read = self.read(&responder, &is_cancelled).and_then(|ready| {
            match permit.extend_to(ready.sequences.len(), self.bound.n_sequences()) {
                true => Ok(ready),
                false => Err(Refusal::QueueFull(self.bound)),
            }
        });
        let ready = match read {
            Ok(ready) => ready,
            Err(refusal) => {
                log::debug!("{label}: {refusal}");
                responder.fail(&refusal.into(), Times::default());
                return;
            }
        };
        log::debug!("{label}: {} prompt tokens", ready.n_prompt_tokens);
        let arrival = Arrival {
            at: responder.arrived(),
            timeout: self.timeout,
        };
        let outbox = delivery.open(NewRequest {
            wire: Box::new(responder),
            writer: ready.writer,
            is_cancelled: Box::new(is_cancelled),
            n_answers: ready.sequences.len(),
            stream: ready.stream,
            arrival,
            label,
            permit,
        });
        let job = Job {
            sequences: ready.sequences,
            outbox,
        };
        if let Err(error) = jobs.try_send(job) {
            let job = error.into_inner();
            job.outbox.fail(Refusal::Stopped.into());
        }
    }

    /// Names a request in the log: by the client's id, or else by our number.
    fn label(&self, id: &str) -> String {
        let model_name = &self.model_name;
        let number = N_REQUESTS.fetch_add(1, Ordering::Relaxed);
        match id {
            "" => format!("model '{model_name}', request #{number}"),
            id => format!("model '{model_name}', request '{}'", id.escape_debug()),
        }
    }

    fn read(
        &self,
        responder: &Responder,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<Ready, Refusal> {
        if is_cancelled() {
            return Err(Refusal::Cancelled);
        }
        let request = responder.request();
        let limits = &self.reading.limits;
        let parameters = request.parameters()?;
        let inputs = request.inputs(|name| self.contract.max_bytes(name, limits))?;
        let Asked { request, writer } = (self.contract.read)(inputs, parameters, &self.reading)?;
        let GenerateRequest { prompt, settings } = request;
        let Prompt::Messages(messages) = prompt;
        let text = self
            .template
            .render_with(&messages, &settings.template_kwargs)?;
        let prompt = self.tokens(&text)?;
        if is_cancelled() {
            return Err(Refusal::Cancelled);
        }
        let sampler = self.weights.sampler(&settings.sampling, &prompt)?;
        let id = SequenceId(N_SEQUENCES.fetch_add(1, Ordering::Relaxed));
        let sequence = NewSequence {
            max_tokens: settings.max_tokens,
            stop: settings.stop,
            ..NewSequence::new(id, prompt)
        };
        Ok(Ready {
            n_prompt_tokens: sequence.prompt.len(),
            sequences: vec![(sequence, sampler)],
            writer,
            stream: settings
                .streaming
                .then_some(settings.stream_interval as usize),
        })
    }

    /// Tokenises a prompt, unless its length alone says that it cannot fit.
    fn tokens(&self, text: &str) -> Result<Vec<Token>, Refusal> {
        let (n_ctx, max_piece_bytes) = (self.reading.limits.n_ctx, self.weights.max_piece_bytes());
        let n_bytes = text.len();
        if n_bytes > (n_ctx as usize).saturating_mul(max_piece_bytes) {
            return Err(Refusal::PromptTooLong {
                n_bytes,
                n_ctx,
                max_piece_bytes,
            });
        }
        Ok(self.weights.tokenize_prompt(text)?)
    }
}
