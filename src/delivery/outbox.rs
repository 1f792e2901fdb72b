//! What one request has to say that is not sent yet: its answers, by index, and its writer.
//!
//! The worker puts in what an engine generated and never waits; the delivery thread takes responses out. How
//! they look is the writer's business, when they go out the delivery's.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::queue::Queue;
use super::unsent::Unsent;
use crate::contract::{AnswerPart, Writer};
use crate::engine::{Chosen, Ended};
use crate::permit::Permit;
use crate::tensor::Tensor;
use crate::triton::{Backlog, Code, Error, Lane, Responder, Times, now_ns};

/// The shortest time between two responses of one stream.
pub(super) const STREAM_GAP: Duration = Duration::from_millis(1);
/// When a stream whose thread has too much to write looks again.
const HELD: Duration = Duration::from_millis(5);

/// One request's way back to its client: Triton's, or a test's.
///
/// Dropped before it completed or failed, it fails the request itself.
pub(crate) trait Wire: Send {
    /// Sends one response that is not the last.
    fn send(&mut self, tensors: &[Tensor]) -> Result<(), Error>;
    /// Sends the last response.
    fn complete(&mut self, tensors: &[Tensor], times: Times);
    /// Ends the stream with an error.
    fn fail(&mut self, error: &Error, times: Times);
}

impl Wire for Responder {
    fn send(&mut self, tensors: &[Tensor]) -> Result<(), Error> {
        Responder::send(self, tensors)
    }

    fn complete(&mut self, tensors: &[Tensor], times: Times) {
        Responder::complete(self, tensors, times);
    }

    fn fail(&mut self, error: &Error, times: Times) {
        Responder::fail(self, error, times);
    }
}

/// What a client is told when its request was dropped without an end.
pub(super) const GIVEN_UP: &str = "the engine gave this request up: see the server's log";

/// What nobody reads any more.
pub(super) const GONE: &str = "the client was gone when the server stopped";

/// When a request arrived, and how long it may take.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    /// `None` is as long as it takes.
    pub(crate) timeout: Option<Duration>,
}

/// What of a request the delivery needs to know.
pub(crate) struct NewRequest {
    pub(crate) wire: Box<dyn Wire>,
    pub(crate) writer: Box<dyn Writer>,
    pub(crate) is_cancelled: Box<dyn Fn() -> bool + Send + Sync>,
    /// Answers that it gets, at least 1.
    pub(crate) n_answers: usize,
    /// How many tokens' text is to share a response; `None` is all of it.
    pub(crate) stream: Option<usize>,
    pub(crate) arrival: Arrival,
    /// Names it in our log lines.
    pub(crate) label: String,
    /// Counts it as in flight until all of it is sent.
    pub(crate) permit: Permit,
}

/// What a request has to say that is not sent yet.
pub(crate) struct Outbox {
    pending: Mutex<Pending>,
    is_cancelled: Box<dyn Fn() -> bool + Send + Sync>,
    streaming: bool,
    queue: Arc<Queue<Outbox>>,
    arrival: Arrival,
    label: String,
    _permit: Permit,
}

struct Answer {
    unsent: Unsent,
    end: Option<Ended>,
}

struct Pending {
    answers: Vec<Answer>,
    /// Why the request ends without the ends of its answers.
    failure: Option<Error>,
    times: Times,
    /// `None` while the delivery thread uses it, and once the stream has ended.
    way: Option<Way>,
    has_sent: bool,
    /// The client was sent the error as a chunk.
    is_told: bool,
    is_queued: bool,
    is_broken: bool,
    is_gone: bool,
    /// The client may be gone: a response without a text makes Triton look.
    is_doubted: bool,
    next_send: Option<Instant>,
    lane: Lane,
}

/// The way back to the client, and how what goes there looks.
struct Way {
    wire: Box<dyn Wire>,
    writer: Box<dyn Writer>,
}

/// What goes out next.
enum Next {
    Chunk(Vec<AnswerPart>),
    /// An error as a chunk, for a client that reads chunks already.
    ErrorChunk(String),
    Complete(Vec<AnswerPart>, Vec<Ended>),
    Fail(Error),
}

impl Pending {
    /// Whether nothing more will come.
    fn is_over(&self) -> bool {
        self.failure.is_some() || self.answers.iter().all(|answer| answer.end.is_some())
    }

    /// Whether there is something to send by now.
    fn is_ready(&self, streaming: bool) -> bool {
        let mut answers = self.answers.iter();
        let is_ready = |answer: &Answer| answer.unsent.is_ready(answer.end.is_some());
        self.is_over() || self.is_doubted || streaming && answers.any(is_ready)
    }

    /// What goes out next, if there is anything by now.
    fn next(&mut self, streaming: bool) -> Option<Next> {
        let is_over = self.is_over();
        if streaming {
            let is_doubted = mem::take(&mut self.is_doubted) && !self.has_sent && !is_over;
            let parts =
                self.parts(|unsent, has_ended| unsent.next(Instant::now(), is_over || has_ended));
            if !parts.is_empty() || is_doubted {
                return Some(Next::Chunk(parts));
            }
        }
        if let Some(message) = self.untold() {
            return Some(Next::ErrorChunk(message));
        }
        if let Some(error) = &self.failure {
            return Some(Next::Fail(error.clone()));
        }
        is_over.then(|| {
            let rest = self.parts(|unsent, _| unsent.all());
            let ends = self.answers.iter().filter_map(|answer| answer.end);
            Next::Complete(rest, ends.collect())
        })
    }

    /// What `take` takes of each answer.
    fn parts(&mut self, mut take: impl FnMut(&mut Unsent, bool) -> Vec<Chosen>) -> Vec<AnswerPart> {
        let answers = self.answers.iter_mut().enumerate();
        let parts = answers.map(|(index, answer)| AnswerPart {
            index,
            chosen: take(&mut answer.unsent, answer.end.is_some()),
        });
        parts.filter(|part| !part.chosen.is_empty()).collect()
    }

    /// The error that ends the stream, once, where the client has read chunks before.
    fn untold(&mut self) -> Option<String> {
        let error = self.failure.as_ref()?;
        let is_told = !self.has_sent || mem::replace(&mut self.is_told, true);
        (!is_told).then(|| error.message.clone())
    }
}

impl Outbox {
    pub(super) fn new(queue: Arc<Queue<Self>>, request: NewRequest) -> Arc<Self> {
        let NewRequest {
            wire,
            writer,
            is_cancelled,
            n_answers,
            stream,
            arrival,
            label,
            permit,
        } = request;
        let answer = || Answer {
            unsent: Unsent::new(stream.unwrap_or(1)),
            end: None,
        };
        let pending = Pending {
            answers: std::iter::repeat_with(answer).take(n_answers).collect(),
            failure: None,
            times: Times::default(),
            way: Some(Way { wire, writer }),
            has_sent: false,
            is_told: false,
            is_queued: false,
            is_broken: false,
            is_gone: false,
            is_doubted: false,
            next_send: None,
            lane: Lane::default(),
        };
        let outbox = Arc::new(Self {
            pending: Mutex::new(pending),
            is_cancelled,
            streaming: stream.is_some(),
            queue,
            arrival,
            label,
            _permit: permit,
        });
        outbox.queue.open(&outbox);
        outbox
    }

    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn arrived(&self) -> Instant {
        self.arrival.at
    }

    /// Why no more is to be computed for this request, if so.
    pub(crate) fn given_up(&self) -> Option<Error> {
        let is_cancelled = (self.is_cancelled)();
        let pending = self.lock();
        if is_cancelled || pending.is_broken {
            return Some(Error::new(Code::Cancelled, "the request was cancelled"));
        }
        if let Some(error) = &pending.failure {
            return Some(error.clone());
        }
        let limit = self.arrival.timeout?;
        (self.arrival.at.elapsed() > limit).then(|| {
            let text = format!(
                "the request took longer than 'request_timeout_ms' = {}",
                limit.as_millis()
            );
            Error::new(Code::Unavailable, text)
        })
    }

    /// Notes when the engine began to work on the request.
    pub(crate) fn started(&self, planned_ns: u64) {
        self.lock().times.scheduled_ns.get_or_insert(planned_ns);
    }

    /// Adds what the engine chose for an answer, and its end where it has one; nothing once that has ended.
    pub(crate) fn push(self: &Arc<Self>, index: usize, chosen: Vec<Chosen>, end: Option<Ended>) {
        let mut pending = self.lock();
        // After a response that could not be sent, more text would follow a hole.
        if pending.is_broken || pending.is_over() {
            return;
        }
        let answer = pending.answers.get_mut(index);
        let Some(answer) = answer.filter(|answer| answer.end.is_none()) else {
            return;
        };
        answer.unsent.push(chosen, Instant::now());
        answer.end = end;
        if pending.is_over() {
            pending.times.computed_ns = Some(now_ns());
        }
        if pending.is_ready(self.streaming) {
            self.enqueue(&mut pending);
        }
    }

    /// Ends the request without the ends of its answers; false, and nothing changed, where it had ended.
    pub(crate) fn fail(self: &Arc<Self>, error: Error) -> bool {
        let mut pending = self.lock();
        let ends = !pending.is_over();
        if ends {
            pending.times.computed_ns = Some(now_ns());
            pending.failure = Some(error);
            self.enqueue(&mut pending);
        }
        ends
    }

    /// Ends a request whose client is found gone a second time.
    ///
    /// Not the first time: gRPC's front end is then still telling its requests
    /// of it, and can crash where one ends meanwhile.
    pub(super) fn fail_if_gone(self: &Arc<Self>) {
        if (self.is_cancelled)() && mem::replace(&mut self.lock().is_gone, true) {
            self.fail(Error::new(Code::Cancelled, GONE));
        }
    }

    /// Whether nothing was sent yet of what is to be a stream.
    pub(super) fn is_silent(&self) -> bool {
        self.streaming && !self.lock().has_sent
    }

    /// Sends a response without a text as the client may have hung up: Triton notices that at a write.
    ///
    /// Only while nothing was sent, as later it notices by itself. Where there is to be one response, none can be
    /// spared.
    pub(super) fn doubt(self: &Arc<Self>) {
        let mut pending = self.lock();
        if self.streaming && !pending.has_sent && !pending.is_over() {
            pending.is_doubted = true;
            self.enqueue(&mut pending);
        }
    }

    /// Notes that nothing more can be sent, as the delivery panicked over it.
    pub(super) fn break_off(&self) {
        self.lock().is_broken = true;
    }

    fn enqueue(self: &Arc<Self>, pending: &mut Pending) {
        if !pending.is_queued {
            pending.is_queued = true;
            let now = Instant::now();
            let due = pending.next_send.map_or(now, |next| next.max(now));
            self.queue.push(due, Arc::clone(self));
        }
    }

    /// Whether it has to wait, as the thread that would write its response has too much to write.
    pub(super) fn is_held(self: &Arc<Self>, backlog: &Backlog) -> bool {
        let mut pending = self.lock();
        let is_held = backlog.is_full(&mut pending.lane);
        if is_held {
            self.queue.push(Instant::now() + HELD, Arc::clone(self));
        }
        is_held
    }

    /// Sends one response, on the delivery thread, with no lock held.
    pub(super) fn deliver(self: &Arc<Self>, backlog: &mut Backlog) {
        let mut pending = self.lock();
        let Some(mut way) = pending.way.take() else {
            return;
        };
        let Some(next) = pending.next(self.streaming) else {
            pending.way = Some(way);
            pending.is_queued = false;
            return;
        };
        let (times, mut lane) = (pending.times, pending.lane);
        drop(pending);
        let chunk = match next {
            Next::Chunk(parts) => way.writer.chunk(&parts),
            Next::ErrorChunk(message) => way.writer.error(&message),
            Next::Complete(rest, ends) => {
                let last = way.writer.complete(&rest, &ends);
                return way.wire.complete(&last, times);
            }
            Next::Fail(error) => return way.wire.fail(&error, times),
        };
        let sent = backlog.watch(&mut lane, || way.wire.send(&chunk));
        self.sent(way, lane, sent);
    }

    /// Takes the way back after a response that is not the last.
    fn sent(self: &Arc<Self>, way: Way, lane: Lane, sent: Result<(), Error>) {
        let mut pending = self.lock();
        pending.way = Some(way);
        pending.lane = lane;
        pending.next_send = Some(Instant::now() + STREAM_GAP);
        pending.is_queued = false;
        pending.has_sent |= sent.is_ok();
        if let Err(error) = sent {
            log::error!("{}: a response could not be sent: {error}", self.label);
            pending.is_broken = true;
            for answer in &mut pending.answers {
                answer.unsent.all();
            }
            if !pending.is_told {
                pending.failure = Some(error);
            }
        }
        if pending.is_ready(self.streaming) {
            self.enqueue(&mut pending);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        // No code of ours can leave the state half-changed by panicking.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outbox {
    /// Fails a request that was given up without an end, as a poisoned engine does.
    fn drop(&mut self) {
        self.queue.close_one(self);
        let pending = self
            .pending
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(Way {
            mut wire,
            mut writer,
        }) = pending.way.take()
        {
            let error = Error::new(Code::Internal, GIVEN_UP);
            pending.failure = Some(error.clone());
            if let Some(message) = pending.untold() {
                // Should it not be sent, the error that follows says the same.
                let _ = wire.send(&writer.error(&message));
            }
            wire.fail(&error, pending.times);
        }
    }
}
