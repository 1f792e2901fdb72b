//! Tests of the engine's loop with a runner that follows a script and wires that keep a record.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, bounded};

use super::*;
use crate::delivery::{Arrival, Delivery, Wire};
use crate::engine::{Limits, Token};
use crate::permit::Permit;
use crate::protocol::SamplingParams;
use crate::triton::Times;

/// Longer than any test waits on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
const ENDLESS: Option<u32> = None;

#[derive(PartialEq, Eq, Debug)]
enum Ended {
    Complete,
    Failed(Code, String),
}

fn failed(code: Code, message: &str) -> Ended {
    Ended::Failed(code, message.to_owned())
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
    fn send(&mut self, _: &str) -> Result<(), Error> {
        self.n_sent.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    fn complete(&mut self, _: &str, times: Times) {
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
enum Do {
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
struct Bench {
    delivery: Delivery,
    jobs: Option<Sender<Job>>,
    /// Says whether the worker panicked.
    worker: JoinHandle<bool>,
    open: Arc<Mutex<BTreeSet<SequenceId>>>,
    n_in_flight: Arc<AtomicUsize>,
    n_jobs: u64,
    /// Of the requests to come.
    timeout: Option<Duration>,
}

/// A request and the record of its wire.
struct Stream {
    id: SequenceId,
    ended: mpsc::Receiver<Ended>,
    n_sent: Arc<AtomicUsize>,
    is_cancelled: Arc<AtomicBool>,
}

impl Stream {
    fn end(&self) -> Ended {
        self.ended.recv_timeout(PATIENCE).expect("the stream ends")
    }

    fn wait_for_text(&self) {
        wait_until(|| self.n_sent.load(Ordering::Acquire) > 0);
    }

    fn is_running(&self) -> bool {
        self.ended.try_recv() == Err(mpsc::TryRecvError::Empty)
    }
}

fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "it does not come");
        thread::sleep(Duration::from_millis(1));
    }
}

impl Bench {
    fn start(script: impl FnMut(&Plan) -> Do + Send + 'static) -> Self {
        Self::watched(script, || true)
    }

    fn watched(
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
        let worker = Worker::new(inbox, scheduler, runner, None, Box::new(is_serving));
        let worker = thread::spawn(move || {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run())).is_err()
        });
        Self {
            delivery: Delivery::start(|| false).expect("a thread"),
            jobs: Some(jobs),
            worker,
            open,
            n_in_flight: Arc::default(),
            n_jobs: 0,
            timeout: None,
        }
    }

    /// Gives the worker a request; an error if it takes none any more.
    fn try_submit(&mut self, prompt: &[i32], max_tokens: Option<u32>) -> Result<Stream, ()> {
        let id = SequenceId(self.n_jobs);
        self.n_jobs += 1;
        let (sender, ended) = mpsc::channel();
        let n_sent = Arc::<AtomicUsize>::default();
        let is_cancelled = Arc::<AtomicBool>::default();
        let wire = FakeWire {
            ended: Some(sender),
            n_sent: Arc::clone(&n_sent),
        };
        let cancelled = Arc::clone(&is_cancelled);
        let outbox = Outbox::new(
            &self.delivery,
            Box::new(wire),
            Box::new(move || cancelled.load(Ordering::Acquire)),
            Some(1),
            Arrival {
                at: Instant::now(),
                timeout: self.timeout,
            },
            format!("request {}", id.0),
            Permit::take(&self.n_in_flight, 100).expect("few requests"),
        );
        let job = Job {
            sequence: NewSequence {
                max_tokens,
                ..NewSequence::new(id, prompt.iter().copied().map(Token).collect())
            },
            sampler: Sampler::new(&SamplingParams::default(), &[], 0),
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

    fn submit(&mut self, max_tokens: Option<u32>) -> Stream {
        self.try_submit(&[1, 2, 3], max_tokens)
            .expect("the worker takes it")
    }

    /// Closes the inbox and waits for the worker, which must have forgotten everything.
    fn stop(mut self) {
        self.jobs = None;
        let panicked = self.worker.join().expect("panics are caught");
        assert!(!panicked);
        assert_eq!(*self.open.lock().expect("no panic"), BTreeSet::new());
        // Sends what is pending.
        drop(self.delivery);
        assert_eq!(self.n_in_flight.load(Ordering::Acquire), 0);
    }
}

#[test]
fn streams_complete_beside_each_other() {
    let mut bench = Bench::start(|_| Do::Sample);
    let streams: Vec<_> = [1, 2, 5, 100]
        .map(|n| bench.submit(Some(n)))
        .into_iter()
        .collect();
    for stream in &streams {
        assert_eq!(stream.end(), Ended::Complete);
        assert!(stream.n_sent.load(Ordering::Acquire) > 0);
    }
    bench.stop();
}

#[test]
fn a_runner_that_panics_fails_every_stream_and_refuses_later_ones() {
    let panics = Arc::<AtomicBool>::default();
    let now = Arc::clone(&panics);
    let mut bench = Bench::start(move |_| match now.load(Ordering::Acquire) {
        true => Do::Panic,
        false => Do::Sample,
    });
    // More than slots, so that some wait.
    let streams: Vec<_> = (0..6).map(|_| bench.submit(ENDLESS)).collect();
    streams[0].wait_for_text();
    panics.store(true, Ordering::Release);
    for stream in &streams {
        let given_up = "the engine gave this request up: see the server's log";
        assert_eq!(stream.end(), failed(Code::Internal, given_up));
    }
    wait_until(|| bench.n_in_flight.load(Ordering::Acquire) == 0);
    assert!(bench.try_submit(&[1], ENDLESS).is_err());
    assert!(bench.worker.join().expect("panics are caught"));
}

#[test]
fn a_failed_step_fails_the_sequences_of_that_step_only() {
    let fails = Arc::<AtomicBool>::default();
    let now = Arc::clone(&fails);
    let mut bench = Bench::start(move |_| match now.swap(false, Ordering::AcqRel) {
        true => Do::Fail,
        false => Do::Sample,
    });
    let running: Vec<_> = (0..4).map(|_| bench.submit(ENDLESS)).collect();
    running.iter().for_each(Stream::wait_for_text);
    // All slots are taken: this one is in no plan.
    let waiting = bench.submit(Some(3));
    assert!(waiting.is_running());
    fails.store(true, Ordering::Release);
    for stream in &running {
        assert_eq!(stream.end(), failed(Code::Internal, "the step failed"));
    }
    assert_eq!(waiting.end(), Ended::Complete);
    bench.stop();
}

#[test]
fn a_sequence_without_a_sample_fails_alone() {
    let victim = Arc::new(Mutex::new(None));
    let chosen = Arc::clone(&victim);
    let mut bench = Bench::start(move |_| match *chosen.lock().expect("no panic") {
        Some(id) => Do::Skip(id),
        None => Do::Sample,
    });
    let [first, second, third] = [ENDLESS, Some(400), ENDLESS].map(|n| bench.submit(n));
    first.wait_for_text();
    *victim.lock().expect("no panic") = Some(first.id);
    let reason = "no token could be chosen";
    assert_eq!(first.end(), failed(Code::Internal, reason));
    assert_eq!(second.end(), Ended::Complete);
    assert!(third.is_running());
    third.is_cancelled.store(true, Ordering::Release);
    assert!(matches!(third.end(), Ended::Failed(Code::Cancelled, _)));
    bench.stop();
}

#[test]
fn cancelled_requests_leave_whether_they_run_or_wait() {
    let mut bench = Bench::start(|_| Do::Sample);
    let running: Vec<_> = (0..4).map(|_| bench.submit(ENDLESS)).collect();
    running.iter().for_each(Stream::wait_for_text);
    let waiting = [bench.submit(ENDLESS), bench.submit(Some(2))];
    for stream in [&waiting[0], &running[1]] {
        stream.is_cancelled.store(true, Ordering::Release);
        let cancelled = failed(Code::Cancelled, "the request was cancelled");
        assert_eq!(stream.end(), cancelled);
    }
    // The slot that became free goes to the one that still waits.
    assert_eq!(waiting[1].end(), Ended::Complete);
    assert!(running[0].is_running() && running[2].is_running());
    wait_until(|| bench.n_in_flight.load(Ordering::Acquire) == 3);
    for stream in [&running[0], &running[2], &running[3]] {
        stream.is_cancelled.store(true, Ordering::Release);
    }
    bench.stop();
}

#[test]
fn a_request_that_takes_too_long_ends_whether_it_runs_or_waits() {
    let mut bench = Bench::start(|_| Do::Sample);
    let patient: Vec<_> = (0..3).map(|_| bench.submit(ENDLESS)).collect();
    bench.timeout = Some(Duration::from_millis(50));
    let hasty = [bench.submit(ENDLESS), bench.submit(ENDLESS)];
    let text = "the request took longer than 'request_timeout_ms' = 50";
    for stream in &hasty {
        assert_eq!(stream.end(), failed(Code::Unavailable, text));
    }
    for stream in &patient {
        assert!(stream.is_running());
        stream.is_cancelled.store(true, Ordering::Release);
    }
    bench.stop();
}

#[test]
fn a_closed_inbox_ends_what_runs() {
    let mut bench = Bench::start(|_| Do::Sample);
    let streams: Vec<_> = (0..6).map(|_| bench.submit(ENDLESS)).collect();
    streams[0].wait_for_text();
    bench.stop();
    let expected = failed(Code::Unavailable, "the model was unloaded");
    for stream in streams {
        assert_eq!(stream.end(), expected);
    }
}

#[test]
fn a_prompt_that_cannot_run_is_refused_alone() {
    let mut bench = Bench::start(|_| Do::Sample);
    let empty = bench.try_submit(&[], ENDLESS).expect("the worker takes it");
    let too_long = bench
        .try_submit(&vec![1; 1_000_000], ENDLESS)
        .expect("the worker takes it");
    let good = bench.submit(Some(2));
    for stream in [empty, too_long] {
        assert!(matches!(stream.end(), Ended::Failed(Code::InvalidArg, _)));
    }
    assert_eq!(good.end(), Ended::Complete);
    bench.stop();
}

#[test]
fn not_serving_counts_only_after_serving() {
    let serves = Arc::<AtomicBool>::default();
    let now = Arc::clone(&serves);
    let n_asked = Arc::<AtomicUsize>::default();
    let asked = Arc::clone(&n_asked);
    let mut bench = Bench::watched(
        |_| Do::Sample,
        move || {
            asked.fetch_add(1, Ordering::AcqRel);
            now.load(Ordering::Acquire)
        },
    );
    let asked_again = || {
        let before = n_asked.load(Ordering::Acquire);
        wait_until(|| n_asked.load(Ordering::Acquire) >= before + 2);
    };
    let streams = [bench.submit(ENDLESS), bench.submit(ENDLESS)];
    asked_again();
    assert!(streams.iter().all(Stream::is_running), "as in warm-up");
    serves.store(true, Ordering::Release);
    asked_again();
    assert!(streams.iter().all(Stream::is_running));
    serves.store(false, Ordering::Release);
    for stream in &streams {
        let expected = failed(
            Code::Unavailable,
            "the model is being unloaded or the server is shutting down",
        );
        assert_eq!(stream.end(), expected);
    }
    bench.stop();
}
