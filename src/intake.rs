//! Intake: from a request of Triton's to a job for the worker.
//!
//! Execute calls [`Intake::accept`], which only counts and hands over; reading
//! the request, the chat template and the tokenizer run on the intake thread,
//! one per engine, with a stack for the worst of prompts. Decides nothing about
//! when a request runs.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::delivery::{Arrival, Delivery, End, Outbox};
use crate::engine::{Drafter, Limits, NewSequence, Scheduler, SequenceId, Token};
use crate::llama::{ChatTemplate, Model, Runner, Sampler, TemplateError, TokenizeError};
use crate::permit::Permit;
use crate::protocol::{self, Prompt, RequestDefaults, RequestError, RequestLimits};
use crate::triton::{Code, Error, Responder, Times, panic_text, while_running};
use crate::worker::{Job, Worker};

/// Bytes of stack for llama.cpp's tokenizers, some of which recurse over the text.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Numbers every request of the process.
static N_REQUESTS: AtomicU64 = AtomicU64::new(0);

/// How requests are read for one model.
pub(crate) struct Reading {
    /// Names the model in log lines.
    pub(crate) model_name: String,
    pub(crate) defaults: RequestDefaults,
    pub(crate) limits: RequestLimits,
    pub(crate) strict: bool,
    /// How long a request may take; `None` is as long as it takes.
    pub(crate) timeout: Option<Duration>,
    pub(crate) template: ChatTemplate,
    pub(crate) weights: Arc<Model>,
}

/// Why a request is refused before it runs.
#[derive(Debug, thiserror::Error)]
enum Refusal {
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
         ({n_slots} slots over all instances) and max_queue_size ({max_queue}) together"
    )]
    QueueFull {
        limit: usize,
        n_slots: usize,
        max_queue: usize,
    },
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
            Refusal::QueueFull { .. } | Refusal::Stopped => Code::Unavailable,
            Refusal::Cancelled => Code::Cancelled,
            Refusal::Triton(error) => error.code,
            Refusal::Request(_)
            | Refusal::Template(_)
            | Refusal::Tokenize(_)
            | Refusal::PromptTooLong { .. } => Code::InvalidArg,
        };
        Error::new(code, refusal.to_string())
    }
}

/// One engine: its intake and worker threads. Dropping it ends both.
pub(crate) struct Intake {
    /// `None` only while Drop runs.
    sender: Option<Sender<(Responder, Permit)>>,
    threads: Vec<JoinHandle<()>>,
    n_in_flight: Arc<AtomicUsize>,
    limit: usize,
    n_slots: usize,
}

impl Intake {
    /// Starts the threads of an engine.
    ///
    /// # Errors
    ///
    /// INTERNAL where the system has no threads for us.
    pub(crate) fn start(
        reading: Reading,
        limits: Limits,
        max_queue: usize,
        runner: Runner,
        drafter: Option<Box<dyn Drafter>>,
        is_serving: Box<dyn Fn() -> bool + Send>,
        delivery: &Arc<Delivery>,
    ) -> Result<Self, Error> {
        let limit = limits.n_slots + max_queue;
        // Both hold every request in flight, so that sending never waits.
        let (sender, requests) = bounded(limit);
        let (jobs, inbox) = bounded(limit);
        let mut intake = Self {
            sender: Some(sender),
            threads: Vec::new(),
            n_in_flight: Arc::default(),
            limit,
            n_slots: limits.n_slots,
        };
        let worker = Worker::new(inbox, Scheduler::new(limits), runner, drafter, is_serving);
        let model_name = reading.model_name.clone();
        intake.spawn("llm-engine", move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| worker.run())) {
                let text = panic_text(panic.as_ref());
                log::error!("model '{model_name}': the engine stopped for good: {text}");
            }
        })?;
        let delivery = Arc::clone(delivery);
        intake.spawn("llm-intake", move || {
            read_all(&reading, &requests, &jobs, &delivery)
        })?;
        Ok(intake)
    }

    fn spawn(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .stack_size(STACK_BYTES);
        let thread = thread.spawn(body).map_err(|error| {
            Error::new(Code::Internal, format!("no thread for {name}: {error}"))
        })?;
        self.threads.push(thread);
        Ok(())
    }

    /// Takes over a request, or answers it at once where that cannot be.
    pub(crate) fn accept(&self, mut responder: Responder) {
        let Some(permit) = Permit::take(&self.n_in_flight, self.limit) else {
            let full = Refusal::QueueFull {
                limit: self.limit,
                n_slots: self.n_slots,
                max_queue: self.limit - self.n_slots,
            };
            responder.fail(&full.into(), Times::default());
            return;
        };
        let sender = self
            .sender
            .as_ref()
            .expect("the sender is there until Drop");
        if let Err(error) = sender.try_send((responder, permit)) {
            let (mut responder, _permit) = error.into_inner();
            responder.fail(&Refusal::Stopped.into(), Times::default());
        }
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        // The intake thread ends when this closes, the worker when that thread has.
        self.sender = None;
        for thread in self.threads.drain(..) {
            // Their panics are caught inside, so there is no error to see here.
            let _ = thread.join();
        }
    }
}

fn read_all(
    reading: &Reading,
    requests: &Receiver<(Responder, Permit)>,
    jobs: &Sender<Job>,
    delivery: &Delivery,
) {
    for (responder, permit) in requests {
        let _running = while_running();
        // A panic drops the responder, which answers with an error.
        let read = catch_unwind(AssertUnwindSafe(|| {
            hand_over(reading, responder, permit, jobs, delivery);
        }));
        if let Err(panic) = read {
            let text = panic_text(panic.as_ref());
            log::error!(
                "model '{}': reading a request panicked: {text}",
                reading.model_name
            );
        }
    }
}

/// Reads one request and gives it to the worker, or answers what is wrong with it.
fn hand_over(
    reading: &Reading,
    mut responder: Responder,
    permit: Permit,
    jobs: &Sender<Job>,
    delivery: &Delivery,
) {
    let number = N_REQUESTS.fetch_add(1, Ordering::Relaxed);
    let label = label(&reading.model_name, &responder.request().id(), number);
    let is_cancelled = responder.cancel_probe();
    let arrival = Arrival {
        at: responder.arrived(),
        timeout: reading.timeout,
    };
    let ready = match reading.read(&responder, &is_cancelled, SequenceId(number)) {
        Ok(ready) => ready,
        Err(refusal) => {
            log::debug!("{label}: {refusal}");
            responder.fail(&refusal.into(), Times::default());
            return;
        }
    };
    log::debug!("{label}: {} prompt tokens", ready.sequence.prompt.len());
    let outbox = Outbox::new(
        delivery,
        Box::new(responder),
        Box::new(is_cancelled),
        ready.stream,
        arrival,
        label,
        permit,
    );
    let Ready {
        sequence, sampler, ..
    } = ready;
    if let Err(error) = jobs.try_send(Job {
        sequence,
        sampler,
        outbox,
    }) {
        let job = error.into_inner();
        job.outbox.finish(End::Fail(Refusal::Stopped.into()));
    }
}

/// Names a request in the log: by the client's id, or else by our number.
fn label(model_name: &str, id: &str, number: u64) -> String {
    match id {
        "" => format!("model '{model_name}', request #{number}"),
        id => format!("model '{model_name}', request '{}'", id.escape_debug()),
    }
}

struct Ready {
    sequence: NewSequence,
    sampler: Sampler,
    /// How many tokens' text shares a response; `None` is all of it.
    stream: Option<usize>,
}

impl Reading {
    fn read(
        &self,
        responder: &Responder,
        is_cancelled: &dyn Fn() -> bool,
        id: SequenceId,
    ) -> Result<Ready, Refusal> {
        if is_cancelled() {
            return Err(Refusal::Cancelled);
        }
        let raw = responder.request().read(self.limits.max_prompt_bytes)?;
        let request = protocol::parse(raw, &self.defaults, &self.limits, self.strict)?;
        let Prompt::Messages(messages) = request.prompt;
        let text = self
            .template
            .render_with(&messages, &request.template_kwargs)?;
        let prompt = self.tokens(&text)?;
        if is_cancelled() {
            return Err(Refusal::Cancelled);
        }
        let sampler = self.weights.sampler(&request.sampling, &prompt);
        let sequence = NewSequence {
            max_tokens: request.max_tokens,
            stop: request.stop,
            ..NewSequence::new(id, prompt)
        };
        Ok(Ready {
            sequence,
            sampler,
            stream: request
                .streaming
                .then_some(request.stream_interval as usize),
        })
    }

    /// Tokenises a prompt, unless its length alone says that it cannot fit.
    fn tokens(&self, text: &str) -> Result<Vec<Token>, Refusal> {
        let (n_ctx, max_piece_bytes) = (self.limits.n_ctx, self.weights.max_piece_bytes());
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
