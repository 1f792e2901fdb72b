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

use crate::delivery::{End, Outbox};
use crate::engine::{
    Drafter, Drafting, Ended, Event, NewSequence, Plan, Sampled, Scheduler, SequenceId, SubmitError,
};
use crate::llama::{Runner, Sampler};
use crate::triton::{Code, Error, now_ns, while_running};

/// How often a busy worker asks whether the server still serves its model.
const SERVING_POLL: Duration = Duration::from_millis(100);

/// A request that is ready to run.
pub(crate) struct Job {
    pub(crate) sequence: NewSequence,
    pub(crate) sampler: Sampler,
    pub(crate) outbox: Arc<Outbox>,
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
    live: HashMap<SequenceId, Arc<Outbox>>,
    watch: ServingWatch,
}

impl<R: StepRunner> Worker<R> {
    pub(crate) fn new(
        inbox: Receiver<Job>,
        scheduler: Scheduler,
        runner: R,
        drafter: Option<Box<dyn Drafter>>,
        is_serving: Box<dyn Fn() -> bool + Send>,
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
                for (id, reason) in self.runner.failures() {
                    self.scheduler.cancel(id);
                    self.fail(id, Code::Internal, &reason);
                }
                for event in self.scheduler.apply(&out, Instant::now()) {
                    self.handle(event, planned_ns);
                }
            }
            Err(reason) => {
                let failed = self.scheduler.fail_running();
                if failed.is_empty() {
                    log::error!("a step without sequences failed: {reason}");
                }
                for id in failed {
                    self.fail(id, Code::Internal, &reason);
                }
            }
        }
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
        let Job {
            sequence,
            sampler,
            outbox,
        } = job;
        let id = sequence.id;
        self.runner.open(id, sampler);
        match self.scheduler.submit(sequence) {
            Ok(()) => {
                self.live.insert(id, outbox);
            }
            Err(error) => {
                self.runner.close(id);
                log::debug!("{}: {error}", outbox.label());
                outbox.finish(End::Fail(refusal(&error)));
            }
        }
    }

    fn handle(&mut self, event: Event, planned_ns: u64) {
        if let Some(outbox) = self.live.get(&event.sequence) {
            if event.started {
                outbox.started(planned_ns);
            }
            let texts = event.chosen.iter().map(|chosen| &chosen.text);
            for text in texts.filter(|text| !text.is_empty()) {
                outbox.push(text);
            }
        }
        if let Some(Ended { reason, usage }) = event.end {
            self.finish(event.sequence, End::Complete { reason, usage });
        }
    }

    fn drop_cancelled(&mut self) {
        let given_up = self.live.iter();
        let given_up = given_up.filter_map(|(&id, outbox)| Some((id, outbox.given_up()?)));
        for (id, error) in given_up.collect::<Vec<_>>() {
            self.scheduler.cancel(id);
            self.fail(id, error.code, &error.message);
        }
    }

    fn fail_all(&mut self, reason: &str) {
        let ids: Vec<SequenceId> = self.live.keys().copied().collect();
        for id in ids {
            self.scheduler.cancel(id);
            self.fail(id, Code::Unavailable, reason);
        }
    }

    fn fail(&mut self, id: SequenceId, code: Code, reason: &str) {
        if let Some(outbox) = self.live.get(&id) {
            let label = outbox.label();
            match code {
                Code::Cancelled | Code::Unavailable => log::debug!("{label}: {reason}"),
                _ => log::error!("{label}: {reason}"),
            }
        }
        self.finish(id, End::Fail(Error::new(code, reason)));
    }

    fn finish(&mut self, id: SequenceId, end: End) {
        self.runner.close(id);
        if let Some(drafter) = &mut self.drafter {
            drafter.close(id);
        }
        if let Some(outbox) = self.live.remove(&id) {
            outbox.finish(end);
        }
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
