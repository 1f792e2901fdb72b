//! The engine thread: drain the inbox; draft; plan = schedule(now); out = run(plan); apply(out).
//!
//! One per model and device, and the only user of its scheduler and runner. It
//! never waits for a client: what is generated goes into outboxes. A panic here
//! poisons the engine: the stack unwinds, every outbox is dropped and so ends
//! its stream with an error, and the closed inbox refuses what comes later.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError};

use crate::delivery::Outbox;
use crate::engine::{
    Drafter, Drafting, Event, NewSequence, Plan, Sampled, Scheduler, SequenceId, Stats, SubmitError,
};
use crate::llama::{Runner, Sampler};
use crate::triton::{Code, Error, now_ns, while_running};

/// How often a busy worker asks whether the server still serves its model.
const SERVING_POLL: Duration = Duration::from_millis(100);

/// A request that is ready to run.
pub(crate) struct Job {
    /// One for each of its answers, in their order.
    pub(crate) sequences: Vec<(NewSequence, Sampler)>,
    pub(crate) outbox: Arc<Outbox>,
}

/// Where what comes of a sequence goes.
struct Answering {
    outbox: Arc<Outbox>,
    /// Which answer of the request it is.
    index: usize,
}

/// What the worker needs of the model: llama.cpp's runner, or a test's.
pub(crate) trait StepRunner {
    /// Takes what samples for a sequence.
    fn open(&mut self, id: SequenceId, sampler: Sampler);
    /// Forgets a sequence.
    fn close(&mut self, id: SequenceId);
    /// Runs a plan: one sample for each output row, or why the step failed.
    fn run(&mut self, plan: &Plan) -> Result<Vec<Sampled>, String>;
    /// Sequences of the last plan for which no token could be chosen, and why.
    fn failures(&self) -> Vec<(SequenceId, String)>;
}

impl StepRunner for Runner {
    fn open(&mut self, id: SequenceId, sampler: Sampler) {
        Runner::open(self, id, sampler);
    }

    fn close(&mut self, id: SequenceId) {
        Runner::close(self, id);
    }

    fn run(&mut self, plan: &Plan) -> Result<Vec<Sampled>, String> {
        Runner::run(self, plan).map_err(|error| error.to_string())
    }

    fn failures(&self) -> Vec<(SequenceId, String)> {
        let failures = Runner::failures(self).iter();
        failures
            .map(|(id, error)| (*id, error.to_string()))
            .collect()
    }
}

/// The engine's loop and what it owns.
pub(crate) struct Worker<R> {
    inbox: Receiver<Job>,
    scheduler: Scheduler,
    runner: R,
    drafter: Option<Box<dyn Drafter>>,
    live: HashMap<SequenceId, Answering>,
    watch: ServingWatch,
    report: Box<dyn FnMut(&Stats) + Send>,
}

impl<R: StepRunner> Worker<R> {
    /// `is_serving` says whether the server still serves the model; `report` is told how things stand.
    pub(crate) fn new(
        inbox: Receiver<Job>,
        scheduler: Scheduler,
        runner: R,
        drafter: Option<Box<dyn Drafter>>,
        is_serving: Box<dyn Fn() -> bool + Send>,
        report: Box<dyn FnMut(&Stats) + Send>,
    ) -> Self {
        let watch = ServingWatch {
            is_serving,
            was_serving: false,
            polled: None,
        };
        Self {
            inbox,
            scheduler,
            runner,
            drafter,
            live: HashMap::new(),
            watch,
            report,
        }
    }

    /// Works until the inbox is closed; what still runs then is failed.
    pub(crate) fn run(mut self) {
        while self.receive() {
            let _running = while_running();
            self.drop_cancelled();
            if self.watch.has_ended(Instant::now()) {
                self.fail_all("the model is being unloaded or the server is shutting down");
            }
            // Before a step, too, as that may be long: requests that came wait then.
            self.report();
            self.step();
        }
        self.fail_all("the model was unloaded");
    }

    fn step(&mut self) {
        if let Some(drafter) = &mut self.drafter {
            let wanted: Vec<Drafting> = self.scheduler.drafting().collect();
            let drafts = drafter.draft(&wanted);
            self.scheduler.draft(drafts);
        }
        let planned_ns = now_ns();
        let plan = self.scheduler.schedule(Instant::now());
        match self.runner.run(&plan) {
            Ok(out) => {
                let failures = self.runner.failures();
                for (id, _) in &failures {
                    self.scheduler.cancel(*id);
                }
                let events = self.scheduler.apply(&out, Instant::now());
                self.report();
                for (id, reason) in failures {
                    self.fail(id, Code::Internal, &reason);
                }
                for event in events {
                    self.handle(event, planned_ns);
                }
            }
            Err(reason) => {
                let failed = self.scheduler.fail_running();
                if failed.is_empty() {
                    log::error!("a step without sequences failed: {reason}");
                }
                self.report();
                for id in failed {
                    self.fail(id, Code::Internal, &reason);
                }
            }
        }
    }

    /// Tells how things stand, before anyone is told of an end: who knows of it is no longer counted.
    fn report(&mut self) {
        (self.report)(&self.scheduler.stats());
    }

    /// Takes in what has arrived, waiting for it while idle; false once closed.
    fn receive(&mut self) -> bool {
        if self.scheduler.is_idle() {
            match self.inbox.recv() {
                Ok(job) => self.admit(job),
                Err(_) => return false,
            }
        }
        loop {
            match self.inbox.try_recv() {
                Ok(job) => self.admit(job),
                Err(TryRecvError::Empty) => return true,
                Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn admit(&mut self, job: Job) {
        let sequences = job.sequences.into_iter().enumerate();
        for (index, (sequence, sampler)) in sequences {
            let id = sequence.id;
            let outbox = Arc::clone(&job.outbox);
            self.runner.open(id, sampler);
            self.live.insert(id, Answering { outbox, index });
            if let Err(error) = self.scheduler.submit(sequence) {
                let error = refusal(&error);
                self.fail(id, error.code, &error.message);
            }
        }
    }

    fn handle(&mut self, event: Event, planned_ns: u64) {
        let id = event.sequence;
        let has_ended = event.end.is_some();
        if let Some(Answering { outbox, index }) = self.live.get(&id) {
            if event.started {
                outbox.started(planned_ns);
            }
            outbox.push(*index, event.chosen, event.end);
        }
        if has_ended {
            self.forget(id);
        }
    }

    fn drop_cancelled(&mut self) {
        let given_up = self.live.iter();
        let given_up =
            given_up.filter_map(|(&id, answering)| Some((id, answering.outbox.given_up()?)));
        let given_up: Vec<_> = given_up.collect();
        self.fail_each(given_up);
    }

    fn fail_all(&mut self, reason: &str) {
        let error = |&id| (id, Error::new(Code::Unavailable, reason));
        let all = self.live.keys().map(error).collect();
        self.fail_each(all);
    }

    fn fail_each(&mut self, sequences: Vec<(SequenceId, Error)>) {
        if sequences.is_empty() {
            return;
        }
        for (id, _) in &sequences {
            self.scheduler.cancel(*id);
        }
        self.report();
        for (id, error) in sequences {
            self.fail(id, error.code, &error.message);
        }
    }

    /// Fails the request of a sequence; its other ones end as those of a request that was given up.
    fn fail(&mut self, id: SequenceId, code: Code, reason: &str) {
        let Some(Answering { outbox, .. }) = self.forget(id) else {
            return;
        };
        if !outbox.fail(Error::new(code, reason)) {
            return;
        }
        let label = outbox.label();
        match code {
            Code::Cancelled | Code::Unavailable | Code::InvalidArg => {
                log::debug!("{label}: {reason}");
            }
            _ => log::error!("{label}: {reason}"),
        }
    }

    fn forget(&mut self, id: SequenceId) -> Option<Answering> {
        self.runner.close(id);
        if let Some(drafter) = &mut self.drafter {
            drafter.close(id);
        }
        self.live.remove(&id)
    }
}

fn refusal(error: &SubmitError) -> Error {
    let code = match error {
        SubmitError::EmptyPrompt | SubmitError::PromptTooLong { .. } => Code::InvalidArg,
        SubmitError::DuplicateId { .. } => Code::Internal,
    };
    Error::new(code, error.to_string())
}

/// Notices that the server stops serving the model while requests still run.
///
/// Triton tells a backend nothing of an unload or a shutdown before the last
/// request has ended, so the worker asks. While the server starts, and runs a
/// model's warm-up, it does not serve yet: only the change counts.
struct ServingWatch {
    is_serving: Box<dyn Fn() -> bool + Send>,
    was_serving: bool,
    polled: Option<Instant>,
}

impl ServingWatch {
    fn has_ended(&mut self, now: Instant) -> bool {
        if self
            .polled
            .is_some_and(|polled| now.duration_since(polled) < SERVING_POLL)
        {
            return false;
        }
        self.polled = Some(now);
        let is_serving = (self.is_serving)();
        self.was_serving |= is_serving;
        self.was_serving && !is_serving
    }
}

#[cfg(test)]
mod tests;
