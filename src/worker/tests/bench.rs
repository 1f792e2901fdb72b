//! A worker on its thread, with a runner that follows a script and wires that keep a record.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, bounded};

use super::super::*;
use crate::contract::{AnswerPart, Writer};
use crate::delivery::{Arrival, Delivery, NewRequest, Wire};
use crate::engine::{Limits, Token};
use crate::permit::Permit;
use crate::protocol::SamplingParams;
use crate::tensor::Tensor;
use crate::triton::Times;

/// Longer than any test waits on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
pub(super) const ENDLESS: Option<u32> = None;

#[derive(PartialEq, Eq, Debug)]
pub(super) enum Ended {
    Complete,
    Failed(Code, String),
}

pub(super) fn failed(code: Code, message: &str) -> Ended {
    Ended::Failed(code, message.to_owned())
}

/// Writes nothing.
struct FakeWriter;

impl Writer for FakeWriter {
    fn chunk(&mut self, _: &[AnswerPart]) -> Vec<Tensor> {
        Vec::new()
    }

    fn complete(&mut self, _: &[AnswerPart], _: &[crate::engine::Ended]) -> Vec<Tensor> {
        Vec::new()
    }

    fn error(&mut self, _: &str) -> Vec<Tensor> {
        Vec::new()
    }
}

/// A wire that tells how its stream ended, and that it has sent something.
struct FakeWire {
    ended: Option<mpsc::Sender<Ended>>,
    n_sent: Arc<AtomicUsize>,
}

impl FakeWire {
    fn end(&mut self, ended: Ended) {
        let sender = self.ended.take().expect("a stream ends once");
        // A test that has seen enough may be gone.
        let _ = sender.send(ended);
    }
}

impl Wire for FakeWire {
    fn send(&mut self, _: &[Tensor]) -> Result<(), Error> {
        self.n_sent.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn complete(&mut self, _: &[Tensor], times: Times) {
        let (scheduled, computed) = (times.scheduled_ns, times.computed_ns);
        assert!(scheduled.is_some() && scheduled <= computed, "{times:?}");
        self.end(Ended::Complete);
    }

    fn fail(&mut self, error: &Error, _: Times) {
        self.end(failed(error.code, &error.message));
    }
}

impl Drop for FakeWire {
    fn drop(&mut self) {
        if self.ended.is_some() {
            self.end(failed(Code::Internal, "dropped"));
        }
    }
}

/// What the runner does with a plan.
pub(super) enum Do {
    Sample,
    Fail,
    Panic,
    /// Samples for all but this sequence.
    Skip(SequenceId),
}

/// A runner that asks the test what to do at every step.
struct FakeRunner<F> {
    script: F,
    open: Arc<Mutex<BTreeSet<SequenceId>>>,
    failures: Vec<(SequenceId, String)>,
}

impl<F: FnMut(&Plan) -> Do> StepRunner for FakeRunner<F> {
    fn open(&mut self, id: SequenceId, _: Sampler) {
        self.open.lock().expect("no test panics with it").insert(id);
    }

    fn close(&mut self, id: SequenceId) {
        self.open.lock().expect("as above").remove(&id);
    }

    fn run(&mut self, plan: &Plan) -> Result<Vec<Sampled>, String> {
        self.failures.clear();
        // A real step takes some time, too.
        thread::sleep(Duration::from_micros(50));
        let mut skipped = None;
        match (self.script)(plan) {
            Do::Sample => {}
            Do::Fail => return Err("the step failed".to_owned()),
            Do::Panic => panic!("the test asked for it"),
            Do::Skip(id) => skipped = Some(id),
        }
        let mut out = Vec::new();
        for row in plan.rows.iter().filter(|row| row.output) {
            if skipped == Some(row.sequence) {
                let reason = "no token could be chosen".to_owned();
                self.failures.push((row.sequence, reason));
            } else {
                out.push(Sampled {
                    sequence: row.sequence,
                    token: Token(7),
                    piece: b"x".to_vec(),
                    end: false,
                });
            }
        }
        Ok(out)
    }

    fn failures(&self) -> Vec<(SequenceId, String)> {
        self.failures.clone()
    }
}

/// A worker on its thread, and what a test holds of it.
pub(super) struct Bench {
    delivery: Delivery,
    jobs: Option<Sender<Job>>,
    /// Says whether the worker panicked.
    pub(super) worker: JoinHandle<bool>,
    pub(super) open: Arc<Mutex<BTreeSet<SequenceId>>>,
    /// What was reported last.
    pub(super) stats: Arc<Mutex<Stats>>,
    pub(super) n_in_flight: Arc<AtomicUsize>,
    n_jobs: u64,
    /// Of the requests to come.
    pub(super) timeout: Option<Duration>,
}

/// A request and the record of its wire.
pub(super) struct Stream {
    pub(super) id: SequenceId,
    ended: mpsc::Receiver<Ended>,
    pub(super) n_sent: Arc<AtomicUsize>,
    pub(super) is_cancelled: Arc<AtomicBool>,
}

impl Stream {
    pub(super) fn end(&self) -> Ended {
        self.ended.recv_timeout(PATIENCE).expect("the stream ends")
    }

    pub(super) fn wait_for_text(&self) {
        wait_until(|| self.n_sent.load(Ordering::Acquire) > 0);
    }

    pub(super) fn is_running(&self) -> bool {
        self.ended.try_recv() == Err(mpsc::TryRecvError::Empty)
    }
}

pub(super) fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come");
        thread::sleep(Duration::from_millis(1));
    }
}

impl Bench {
    pub(super) fn start(script: impl FnMut(&Plan) -> Do + Send + 'static) -> Self {
        Self::watched(script, || true)
    }

    pub(super) fn watched(
        script: impl FnMut(&Plan) -> Do + Send + 'static,
        is_serving: impl Fn() -> bool + Send + 'static,
    ) -> Self {
        let limits = Limits {
            n_slots: 4,
            n_cells: 4_000_000,
            n_ctx: 1_000_000,
            ..Limits::default()
        };
        let (jobs, inbox) = bounded(8);
        let open = Arc::default();
        let runner = FakeRunner {
            script,
            open: Arc::clone(&open),
            failures: Vec::new(),
        };
        let scheduler = Scheduler::new(limits);
        let stats = Arc::<Mutex<Stats>>::default();
        let latest = Arc::clone(&stats);
        let report = Box::new(move |stats: &Stats| *latest.lock().expect("no panic") = *stats);
        let is_serving = Box::new(is_serving);
        let worker = Worker::new(inbox, scheduler, runner, None, is_serving, report);
        let worker = thread::spawn(move || {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run())).is_err()
        });
        Self {
            delivery: Delivery::start(|| false).expect("a thread"),
            jobs: Some(jobs),
            worker,
            open,
            stats,
            n_in_flight: Arc::default(),
            n_jobs: 0,
            timeout: None,
        }
    }

    /// Gives the worker a request; an error if it takes none any more.
    pub(super) fn try_submit(
        &mut self,
        prompt: &[i32],
        max_tokens: Option<u32>,
    ) -> Result<Stream, ()> {
        self.try_submit_answers(prompt, &[max_tokens])
    }

    /// The same for a request with several answers, each of that many tokens at most.
    pub(super) fn try_submit_answers(
        &mut self,
        prompt: &[i32],
        max_tokens: &[Option<u32>],
    ) -> Result<Stream, ()> {
        let id = SequenceId(self.n_jobs);
        let (sender, ended) = mpsc::channel();
        let n_sent = Arc::<AtomicUsize>::default();
        let is_cancelled = Arc::<AtomicBool>::default();
        let wire = FakeWire {
            ended: Some(sender),
            n_sent: Arc::clone(&n_sent),
        };
        let cancelled = Arc::clone(&is_cancelled);
        let outbox = self.delivery.open(NewRequest {
            wire: Box::new(wire),
            writer: Box::new(FakeWriter),
            is_cancelled: Box::new(move || cancelled.load(Ordering::Acquire)),
            n_answers: max_tokens.len(),
            stream: Some(1),
            arrival: Arrival {
                at: Instant::now(),
                timeout: self.timeout,
            },
            label: format!("request {}", id.0),
            permit: Permit::take(&self.n_in_flight, 100).expect("few requests"),
        });
        let prompt: Vec<Token> = prompt.iter().copied().map(Token).collect();
        let sequences = max_tokens.iter().map(|&max_tokens| {
            let id = SequenceId(self.n_jobs);
            self.n_jobs += 1;
            let sequence = NewSequence {
                max_tokens,
                ..NewSequence::new(id, prompt.clone())
            };
            let sampler = Sampler::new(&SamplingParams::default(), Vec::new(), 0);
            (sequence, sampler)
        });
        let job = Job {
            sequences: sequences.collect(),
            outbox,
        };
        let jobs = self.jobs.as_ref().expect("the inbox is open");
        jobs.send(job).map_err(|_| ())?;
        Ok(Stream {
            id,
            ended,
            n_sent,
            is_cancelled,
        })
    }

    pub(super) fn submit(&mut self, max_tokens: Option<u32>) -> Stream {
        self.try_submit(&[1, 2, 3], max_tokens)
            .expect("the worker takes it")
    }

    /// Closes the inbox and waits for the worker, which must have forgotten everything.
    pub(super) fn stop(mut self) {
        self.jobs = None;
        let panicked = self.worker.join().expect("panics are caught");
        assert!(!panicked);
        assert_eq!(*self.open.lock().expect("no panic"), BTreeSet::new());
        // Sends what is pending.
        drop(self.delivery);
        assert_eq!(self.n_in_flight.load(Ordering::Acquire), 0);
    }
}
