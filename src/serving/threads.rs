//! The threads of one engine, and the way in: Execute only counts a request and hands it over.
//!
//! Started as a model is loaded, joined as it is unloaded. Template and tokenizer take their time with the length
//! of a request, so requests are read in lanes by their length: none waits for one that is much longer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::delivery::Delivery;
use crate::intake::{Bound, Intake, Refusal};
use crate::permit::Permit;
use crate::triton::{Code, Error, Responder, Times, panic_text, while_running};
use crate::worker::{Job, StepRunner, Worker};

/// Bytes of stack for llama.cpp's tokenizers, some of which recurse over the text.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Bytes of inputs up to which a request is read in a lane; each lane has a thread. Parameters do not count: none may
/// be longer than what the first lane takes.
const LANES: [u64; 3] = [64 * 1024, 1024 * 1024, u64::MAX];

/// One engine: its intake and worker threads. Dropping it ends them all.
pub(super) struct EngineThreads {
    /// One for each lane; none only while Drop runs.
    lanes: Vec<Sender<Accepted>>,
    threads: Vec<JoinHandle<()>>,
    n_in_flight: Arc<AtomicUsize>,
    bound: Bound,
}

type Accepted = (Responder, Permit);

impl EngineThreads {
    /// Starts the threads; `worker` makes the worker that takes its jobs from the channel it is given.
    ///
    /// # Errors
    ///
    /// INTERNAL where the system has no threads for us.
    pub(super) fn start<R: StepRunner + Send + 'static>(
        intake: Intake,
        worker: impl FnOnce(Receiver<Job>) -> Worker<R>,
        delivery: &Arc<Delivery>,
    ) -> Result<Self, Error> {
        let bound = intake.bound;
        let mut engine = Self {
            lanes: Vec::new(),
            threads: Vec::new(),
            n_in_flight: Arc::default(),
            bound,
        };
        // Each channel holds every request in flight, so that sending never waits.
        let (jobs, inbox) = bounded(bound.n_sequences());
        let worker = worker(inbox);
        let model_name = intake.model_name.clone();
        engine.spawn("llm-engine", move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| worker.run())) {
                let text = panic_text(panic.as_ref());
                log::error!("model '{model_name}': the engine stopped for good: {text}");
            }
        })?;
        let intake = Arc::new(intake);
        for lane_idx in 0..LANES.len() {
            let (lane, requests) = bounded(bound.n_sequences());
            engine.lanes.push(lane);
            let (intake, jobs) = (Arc::clone(&intake), jobs.clone());
            let delivery = Arc::clone(delivery);
            engine.spawn(&format!("llm-intake-{lane_idx}"), move || {
                read_all(&intake, &requests, &jobs, &delivery)
            })?;
        }
        Ok(engine)
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
    pub(super) fn accept(&self, mut responder: Responder) {
        let Some(permit) = Permit::take(&self.n_in_flight, self.bound.n_sequences()) else {
            let full = Refusal::QueueFull(self.bound);
            responder.fail(&full.into(), Times::default());
            return;
        };
        let n_bytes = responder.request().n_bytes();
        let lane_idx = LANES.partition_point(|&most| most < n_bytes);
        if let Err(error) = self.lanes[lane_idx].try_send((responder, permit)) {
            let (mut responder, _permit) = error.into_inner();
            responder.fail(&Refusal::Stopped.into(), Times::default());
        }
    }
}

impl Drop for EngineThreads {
    fn drop(&mut self) {
        // The intake threads end when these close, the worker when those have.
        self.lanes.clear();
        for thread in self.threads.drain(..) {
            // Their panics are caught inside, so there is no error to see here.
            let _ = thread.join();
        }
    }
}

fn read_all(
    intake: &Intake,
    requests: &Receiver<Accepted>,
    jobs: &Sender<Job>,
    delivery: &Delivery,
) {
    for (responder, permit) in requests {
        let _running = while_running();
        // A panic drops the responder, which answers with an error.
        let read = catch_unwind(AssertUnwindSafe(|| {
            intake.hand_over(responder, permit, jobs, delivery);
        }));
        if let Err(panic) = read {
            let text = panic_text(panic.as_ref());
            log::error!(
                "model '{}': reading a request panicked: {text}",
                intake.model_name
            );
        }
    }
}
