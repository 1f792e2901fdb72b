//! Tests of the engine's loop with a runner that follows a script and wires that keep a record.

mod bench;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use bench::{Bench, Do, ENDLESS, Ended, Stream, failed, wait_until};

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

#[test]
fn a_request_with_several_answers_ends_with_the_last_of_them() {
    let mut bench = Bench::start(|_| Do::Sample);
    let submitted = bench.try_submit_answers(&[1, 2, 3], &[Some(2), ENDLESS, Some(3)]);
    let stream = submitted.expect("the worker takes it");
    stream.wait_for_text();
    wait_until(|| bench.open.lock().expect("no panic").len() == 1);
    assert!(stream.is_running());
    stream.is_cancelled.store(true, Ordering::Release);
    assert_eq!(
        stream.end(),
        failed(Code::Cancelled, "the request was cancelled")
    );
    let submitted = bench.try_submit_answers(&[1, 2, 3], &[Some(2), Some(5)]);
    assert_eq!(submitted.expect("as above").end(), Ended::Complete);
    bench.stop();
}

#[test]
fn one_failed_answer_ends_the_whole_request() {
    let mut bench = Bench::start(|plan| match plan.rows.len() {
        // The second of the two, once both decode.
        2 => Do::Skip(SequenceId(1)),
        _ => Do::Sample,
    });
    let submitted = bench.try_submit_answers(&[1, 2, 3], &[ENDLESS, ENDLESS]);
    let stream = submitted.expect("the worker takes it");
    assert_eq!(
        stream.end(),
        failed(Code::Internal, "no token could be chosen")
    );
    wait_until(|| bench.open.lock().expect("no panic").is_empty());
    bench.stop();
}

#[test]
fn how_things_stand_is_reported() {
    let mut bench = Bench::start(|_| Do::Sample);
    let streams: Vec<_> = (0..6).map(|_| bench.submit(ENDLESS)).collect();
    let stats = |bench: &Bench| {
        let stats = bench.stats.lock().expect("no panic");
        (stats.n_running, stats.n_waiting)
    };
    wait_until(|| stats(&bench) == (4, 2));
    for stream in &streams {
        stream.is_cancelled.store(true, Ordering::Release);
    }
    wait_until(|| stats(&bench) == (0, 0));
    bench.stop();
}
