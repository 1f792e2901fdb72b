//! Delivery: what the engine produced goes out, no faster than the front end takes it.
//!
//! Triton's HTTP front end silently loses responses that pile up faster than a
//! connection's thread writes them, and gives no signal of it. So one delivery
//! thread for the whole library sends everything at a bounded rate, per stream
//! and over all, and nothing to a thread behind which much waits already. Each
//! token's text is a response of its own, as long as its stream keeps up.
//!
//! The worker pushes text into a request's [`Outbox`] and never waits; the
//! delivery thread uses the [`Wire`], unless a request is given up without an
//! end. While the server stops, it also looks for clients that are gone: the
//! front end does not outlive the last of them for as long as a step may take.
//! Knows nothing of tokens, llama.cpp or how Triton is called.

mod pacer;
mod queue;
#[cfg(test)]
mod tests;
mod unsent;

use std::mem;
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::engine::{FinishReason, Usage};
use crate::permit::Permit;
use crate::protocol::reply;
use crate::triton::{
    Backlog, Code, Error, Hangups, Lane, Responder, Times, now_ns, panic_text, while_running,
};

use pacer::Pacer;
use queue::{Next, Queue};
use unsent::Unsent;

/// The shortest time between two responses of one stream.
const STREAM_GAP: Duration = Duration::from_millis(1);
/// When a stream looks again whose thread has too much to write.
const HELD: Duration = Duration::from_millis(5);
/// How long such streams are still held once the server stops: its threads may have ended before.
const HELD_WHILE_STOPPING: Duration = Duration::from_secs(1);

/// How often it is looked for a stop while requests are open, and how often for
/// clients that are gone while the server stops.
const WATCH: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(5));

/// How often it is looked for clients that hung up while they wait for their first response.
const LOOK_FOR_HANGUPS: Duration = Duration::from_millis(250);
/// How long after its last bytes a request is handed to us at most.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// How well it is known when a client sent something, and which of two requests came of it.
const ACCURACY: Duration = Duration::from_millis(20);

/// One request's way back to its client: Triton's, or a test's.
///
/// Dropped before it completed or failed, it fails the request itself.
pub(crate) trait Wire: Send {
    /// Sends one response that is not the last.
    fn send(&mut self, text: &str) -> Result<(), Error>;
    /// Sends the last response.
    fn complete(&mut self, text: &str, times: Times);
    /// Ends the stream with an error.
    fn fail(&mut self, error: &Error, times: Times);
}

impl Wire for Responder {
    fn send(&mut self, text: &str) -> Result<(), Error> {
        Responder::send(self, text)
    }

    fn complete(&mut self, text: &str, times: Times) {
        Responder::complete(self, text, times);
    }

    fn fail(&mut self, error: &Error, times: Times) {
        Responder::fail(self, error, times);
    }
}

/// What a client is told whose request was dropped without an end.
const GIVEN_UP: &str = "the engine gave this request up: see the server's log";

/// What nobody reads any more.
const GONE: &str = "the client was gone when the server stopped";

/// When a request arrived, and how long it may take.
#[derive(Clone, Copy)]
pub(crate) struct Arrival {
    pub(crate) at: Instant,
    /// `None` is as long as it takes.
    pub(crate) timeout: Option<Duration>,
}

/// How a request ends.
#[derive(Debug)]
pub(crate) enum End {
    Complete { reason: FinishReason, usage: Usage },
    Fail(Error),
}

/// What a request has to say that is not sent yet.
pub(crate) struct Outbox {
    pending: Mutex<Pending>,
    is_cancelled: Box<dyn Fn() -> bool + Send + Sync>,
    streaming: bool,
    queue: Arc<Queue>,
    arrival: Arrival,
    label: String,
    /// Counts the request as in flight until all of it is sent.
    _permit: Permit,
}

struct Pending {
    unsent: Unsent,
    end: Option<End>,
    times: Times,
    /// `None` while the delivery thread uses it, and once the stream has ended.
    wire: Option<Box<dyn Wire>>,
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

impl Pending {
    /// Whether there is something to send by now.
    fn is_ready(&self, streaming: bool) -> bool {
        self.end.is_some() || self.is_doubted || streaming && self.unsent.is_ready()
    }

    /// The error that ends the stream as a chunk, once, for a client that reads chunks already.
    fn error_chunk(&mut self) -> Option<String> {
        match &self.end {
            Some(End::Fail(error)) if self.has_sent && !self.is_told => {
                self.is_told = true;
                Some(reply::error(&error.message))
            }
            _ => None,
        }
    }
}

impl Outbox {
    /// `stream` is how many tokens' text is to share a response; `None` is all of it. `label` names the request
    /// in our log lines.
    pub(crate) fn new(
        delivery: &Delivery,
        wire: Box<dyn Wire>,
        is_cancelled: Box<dyn Fn() -> bool + Send + Sync>,
        stream: Option<usize>,
        arrival: Arrival,
        label: String,
        permit: Permit,
    ) -> Arc<Self> {
        let pending = Pending {
            unsent: Unsent::new(stream.unwrap_or(1)),
            end: None,
            times: Times::default(),
            wire: Some(wire),
            has_sent: false,
            is_told: false,
            is_queued: false,
            is_broken: false,
            is_gone: false,
            is_doubted: false,
            next_send: None,
            lane: Lane::default(),
        };
        let queue = Arc::clone(&delivery.queue);
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

    /// Why no more is to be computed for this request, if so.
    pub(crate) fn given_up(&self) -> Option<Error> {
        if (self.is_cancelled)() || self.lock().is_broken {
            return Some(Error::new(Code::Cancelled, "the request was cancelled"));
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
        self.lock().times.scheduled_ns = Some(planned_ns);
    }

    /// Adds text that the engine generated; none once the request has ended.
    pub(crate) fn push(self: &Arc<Self>, text: &str) {
        let mut pending = self.lock();
        // After a response that could not be sent, more text would follow a hole.
        if pending.is_broken || pending.end.is_some() {
            return;
        }
        pending.unsent.push(text, Instant::now());
        if pending.is_ready(self.streaming) {
            self.enqueue(&mut pending);
        }
    }

    /// Ends the request; later calls change nothing.
    pub(crate) fn finish(self: &Arc<Self>, end: End) {
        let mut pending = self.lock();
        if pending.end.is_none() {
            pending.times.computed_ns = Some(now_ns());
            pending.end = Some(end);
            self.enqueue(&mut pending);
        }
    }

    /// Ends a request whose client is found gone a second time.
    ///
    /// Not the first time: gRPC's front end is then still telling its requests
    /// of it, and can crash where one ends meanwhile.
    fn finish_if_gone(self: &Arc<Self>) {
        if (self.is_cancelled)() && mem::replace(&mut self.lock().is_gone, true) {
            self.finish(End::Fail(Error::new(Code::Cancelled, GONE)));
        }
    }

    /// Whether nothing was sent yet of what is to be a stream.
    fn is_silent(&self) -> bool {
        self.streaming && !self.lock().has_sent
    }

    /// Sends a response without a text as the client may have hung up: Triton notices that at a write.
    ///
    /// Only while nothing was sent, as later it notices by itself. Where there is to be one response, none can be
    /// spared.
    fn doubt(self: &Arc<Self>) {
        let mut pending = self.lock();
        if self.streaming && !pending.has_sent && pending.end.is_none() {
            pending.is_doubted = true;
            self.enqueue(&mut pending);
        }
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
    fn is_held(self: &Arc<Self>, backlog: &Backlog) -> bool {
        let mut pending = self.lock();
        let is_held = backlog.is_full(&mut pending.lane);
        if is_held {
            self.queue.push(Instant::now() + HELD, Arc::clone(self));
        }
        is_held
    }

    /// Sends one response, on the delivery thread, with no lock held.
    fn deliver(self: &Arc<Self>, backlog: &mut Backlog) {
        let mut pending = self.lock();
        let Some(mut wire) = pending.wire.take() else {
            return;
        };
        let mut lane = pending.lane;
        let is_over = pending.end.is_some();
        let text = match self.streaming {
            true => pending.unsent.next(Instant::now(), is_over),
            false => pending.unsent.all(),
        };
        let is_doubted = mem::take(&mut pending.is_doubted) && !pending.has_sent && !is_over;
        let chunk = match self.streaming && (!text.is_empty() || is_doubted) {
            true => Some(reply::chunk(&text)),
            false => pending.error_chunk(),
        };
        if let Some(chunk) = chunk {
            drop(pending);
            let sent = backlog.watch(&mut lane, || wire.send(&chunk));
            let mut pending = self.lock();
            pending.wire = Some(wire);
            pending.lane = lane;
            pending.next_send = Some(Instant::now() + STREAM_GAP);
            pending.is_queued = false;
            pending.has_sent |= sent.is_ok();
            if let Err(error) = sent {
                log::error!("{}: a response could not be sent: {error}", self.label);
                pending.is_broken = true;
                pending.unsent.all();
                if !pending.is_told {
                    pending.end = Some(End::Fail(error));
                }
            }
            if pending.is_ready(self.streaming) {
                self.enqueue(&mut pending);
            }
            return;
        }
        let Some(end) = pending.end.take() else {
            pending.wire = Some(wire);
            pending.is_queued = false;
            return;
        };
        let times = pending.times;
        drop(pending);
        match end {
            End::Complete { reason, usage } => {
                let last = if self.streaming {
                    reply::complete(reason, &usage)
                } else {
                    reply::whole(&text, reason, &usage)
                };
                wire.complete(&last, times);
            }
            End::Fail(error) => wire.fail(&error, times),
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
        if let Some(mut wire) = pending.wire.take() {
            let error = Error::new(Code::Internal, GIVEN_UP);
            pending.end = Some(End::Fail(error.clone()));
            if let Some(chunk) = pending.error_chunk() {
                // Should it not be sent, the error that follows says the same.
                let _ = wire.send(&chunk);
            }
            wire.fail(&error, pending.times);
        }
    }
}

/// The delivery thread; dropping this sends what is pending and joins it.
pub(crate) struct Delivery {
    queue: Arc<Queue>,
    thread: Option<JoinHandle<()>>,
}

impl Delivery {
    /// Starts the thread; `is_stopping` says whether the server has been told to stop.
    ///
    /// # Errors
    ///
    /// The system's, where it has no thread for us.
    pub(crate) fn start(is_stopping: impl Fn() -> bool + Send + 'static) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let inbox = Arc::clone(&queue);
        let thread = thread::Builder::new()
            .name("llm-delivery".to_owned())
            .spawn(move || deliver_all(&inbox, is_stopping))?;
        Ok(Self {
            queue,
            thread: Some(thread),
        })
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // Its panics are caught inside, so there is no error to see here.
            let _ = thread.join();
        }
    }
}

fn deliver_all(queue: &Queue, is_stopping: impl Fn() -> bool) {
    let mut pacer = Pacer::new(Instant::now());
    let mut backlog = Backlog::new();
    let mut look = Instant::now();
    let mut stopping_since: Option<Instant> = None;
    let (mut hangups, mut looked_for_hangups) = (Hangups::default(), Instant::now());
    while let Some(next) = queue.pop(look) {
        let outbox = match next {
            Next::Send(outbox) => outbox,
            Next::Look(open) => {
                let is_stopping = is_stopping();
                let _running = while_running();
                let now = Instant::now();
                let is_time = now - looked_for_hangups > LOOK_FOR_HANGUPS;
                let asked = match is_time && open.iter().any(|outbox| outbox.is_silent()) {
                    true => hangups.look(),
                    false => Vec::new(),
                };
                if is_time {
                    looked_for_hangups = now;
                }
                let doubted: Vec<_> = asked.iter().map(|&asked| came_of(asked, &open)).collect();
                for outbox in open {
                    guarded(outbox, |outbox| {
                        let at = outbox.arrival.at;
                        if doubted.iter().flatten().any(|came| came.contains(&at)) {
                            outbox.doubt();
                        }
                        if is_stopping {
                            outbox.finish_if_gone();
                        }
                    });
                }
                stopping_since = is_stopping.then(|| stopping_since.unwrap_or(now));
                look = now + if is_stopping { WATCH.1 } else { WATCH.0 };
                continue;
            }
        };
        let may_hold = stopping_since.is_none_or(|since| since.elapsed() < HELD_WHILE_STOPPING);
        if may_hold && outbox.is_held(&backlog) {
            continue;
        }
        let wait = pacer.take(Instant::now());
        if !wait.is_zero() {
            thread::sleep(wait);
        }
        let _running = while_running();
        guarded(outbox, |outbox| outbox.deliver(&mut backlog));
    }
}

/// When the request arrived that a client sent the last bytes of at some time: the first one from then on, if there
/// is one. What arrived at the same time may be it as well.
fn came_of(asked: Instant, open: &[Arc<Outbox>]) -> Option<RangeInclusive<Instant>> {
    let arrivals = open.iter().map(|outbox| outbox.arrival.at);
    let possible = arrivals.filter(|&at| at + ACCURACY >= asked && at <= asked + ON_ITS_WAY);
    possible.min().map(|first| first..=first + ACCURACY)
}

/// Does one thing with an outbox and lets go of it, whatever panics.
fn guarded(outbox: Arc<Outbox>, body: impl FnOnce(&Arc<Outbox>)) {
    // A panic drops the wire, which fails that one request.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&outbox))) {
        log::error!(
            "{}: delivery panicked: {}",
            outbox.label,
            panic_text(panic.as_ref())
        );
        outbox.lock().is_broken = true;
    }
    // The last one to let go of an outbox may have its stream to end.
    if catch_unwind(AssertUnwindSafe(move || drop(outbox))).is_err() {
        log::error!("triton-llm: giving a request up panicked");
    }
}
