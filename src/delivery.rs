//! Delivery: what the engine produced goes out, no faster than the front end takes it.
//!
//! Triton's HTTP front end silently loses responses that pile up faster than a
//! connection's thread writes them, and gives no signal of it. So one delivery
//! thread for the whole library sends everything at a bounded rate, per stream
//! and over all, and nothing to a thread behind which much waits already. Each
//! token's text is a response of its own, as long as its stream keeps up.
//!
//! The worker puts what was generated into a request's [`Outbox`] and never waits;
//! the delivery thread uses its wire, unless a request is given up without an
//! end. While the server stops, it also looks for clients that are gone: the
//! front end does not outlive the last of them for as long as a step may take.
//! Knows nothing of llama.cpp, of how responses look or how Triton is called.

mod outbox;
mod pacer;
mod queue;
#[cfg(test)]
mod tests;
mod unsent;

use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::triton::{Backlog, Hangups, panic_text, while_running};

#[cfg(test)]
pub(crate) use outbox::Wire;
pub(crate) use outbox::{Arrival, NewRequest, Outbox};
use pacer::Pacer;
use queue::{Next, Queue};

/// How long streams are still held once the server stops: its threads may have ended before.
const HELD_WHILE_STOPPING: Duration = Duration::from_secs(1);

/// How often it is looked for a stop while requests are open, and how often for
/// clients that are gone while the server stops.
const WATCH: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(5));

/// How often it is looked for clients that hung up while they wait for their first response.
const LOOK_FOR_HANGUPS: Duration = Duration::from_millis(250);
/// How long after its last bytes, at most, a request is handed to us.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// How well it is known when a client sent something, and which of two requests came of it.
const ACCURACY: Duration = Duration::from_millis(20);

/// The delivery thread; dropping this sends what is pending and joins it.
pub(crate) struct Delivery {
    queue: Arc<Queue<Outbox>>,
    thread: Option<JoinHandle<()>>,
}

impl Delivery {
    /// Starts the thread; `is_stopping` says whether the server has been told to stop.
    ///
    /// # Errors
    ///
    /// The system's, where it has no thread for us.
    pub(crate) fn start(is_stopping: impl Fn() -> bool + Send + 'static) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::new());
        let inbox = Arc::clone(&queue);
        let thread = thread::Builder::new()
            .name("llm-delivery".to_owned())
            .spawn(move || deliver_all(&inbox, is_stopping))?;
        Ok(Self {
            queue,
            thread: Some(thread),
        })
    }

    /// Takes over the way back of a request, until its outbox is let go of.
    pub(crate) fn open(&self, request: NewRequest) -> Arc<Outbox> {
        Outbox::new(Arc::clone(&self.queue), request)
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

fn deliver_all(queue: &Queue<Outbox>, is_stopping: impl Fn() -> bool) {
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
                        let at = outbox.arrived();
                        if doubted.iter().flatten().any(|came| came.contains(&at)) {
                            outbox.doubt();
                        }
                        if is_stopping {
                            outbox.fail_if_gone();
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

/// When the request whose last bytes a client sent at some time arrived: the first one from then on, if there
/// is one. What arrived at the same time may be it as well.
fn came_of(asked: Instant, open: &[Arc<Outbox>]) -> Option<RangeInclusive<Instant>> {
    let arrivals = open.iter().map(|outbox| outbox.arrived());
    let possible = arrivals.filter(|&at| at + ACCURACY >= asked && at <= asked + ON_ITS_WAY);
    possible.min().map(|first| first..=first + ACCURACY)
}

/// Does one thing with an outbox and lets go of it, whatever panics.
fn guarded(outbox: Arc<Outbox>, body: impl FnOnce(&Arc<Outbox>)) {
    // A panic drops the wire, which fails that one request.
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| body(&outbox))) {
        log::error!(
            "{}: delivery panicked: {}",
            outbox.label(),
            panic_text(panic.as_ref())
        );
        outbox.break_off();
    }
    // The last one to let go of an outbox may have its stream to end.
    if catch_unwind(AssertUnwindSafe(move || drop(outbox))).is_err() {
        log::error!("triton-llm: giving a request up panicked");
    }
}
