//! Tests of the delivery with wires that only keep a record.

mod front_end;

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use super::pacer::{BURST, RATE};
use super::*;
use crate::triton::Code;

/// Longer than any test waits on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(PartialEq, Eq, Debug)]
enum Sent {
    Chunk(String),
    ErrorChunk(String),
    Complete(String),
    Failed(Code, String),
}

/// What a wire does at its `n`th response.
#[derive(Clone, Copy)]
enum Fault {
    None,
    Refuse(usize),
    Panic(usize),
}

struct FakeWire {
    record: Sender<(Instant, Sent)>,
    fault: Fault,
    n_sent: usize,
    is_finished: bool,
}

impl FakeWire {
    fn note(&self, sent: Sent) {
        // A test that has seen enough may be gone.
        let _ = self.record.send((Instant::now(), sent));
    }
}

impl Wire for FakeWire {
    fn send(&mut self, text: &str) -> Result<(), Error> {
        self.n_sent += 1;
        match self.fault {
            Fault::Refuse(n) if self.n_sent == n => {
                return Err(Error::new(Code::Unavailable, "refused"));
            }
            Fault::Panic(n) if self.n_sent == n => panic!("the test asked for it"),
            _ if text.starts_with(r#"{"type":"error""#) => {
                self.note(Sent::ErrorChunk(content(text)))
            }
            _ => self.note(Sent::Chunk(content(text))),
        }
        Ok(())
    }

    fn complete(&mut self, text: &str, _: Times) {
        self.is_finished = true;
        self.note(Sent::Complete(content(text)));
    }

    fn fail(&mut self, error: &Error, _: Times) {
        self.is_finished = true;
        self.note(Sent::Failed(error.code, error.message.clone()));
    }
}

impl Drop for FakeWire {
    fn drop(&mut self) {
        if !self.is_finished {
            self.fail(&Error::new(Code::Internal, "dropped"), Times::default());
        }
    }
}

/// The text that a reply carries.
fn content(reply: &str) -> String {
    let reply: serde_json::Value = serde_json::from_str(reply).expect("replies are JSON");
    reply["content"].as_str().unwrap_or_default().to_owned()
}

/// A request and the record of its wire.
struct Stream {
    outbox: Arc<Outbox>,
    record: Receiver<(Instant, Sent)>,
}

impl Stream {
    fn new(delivery: &Delivery, streaming: bool, fault: Fault) -> Self {
        Self::of_client(delivery, streaming, fault, false)
    }

    fn of_client(delivery: &Delivery, streaming: bool, fault: Fault, is_gone: bool) -> Self {
        Self::sharing(delivery, streaming.then_some(1), fault, is_gone)
    }

    fn sharing(delivery: &Delivery, stream: Option<usize>, fault: Fault, is_gone: bool) -> Self {
        Self::through(delivery, stream, is_gone, |mut wire| {
            wire.fault = fault;
            Box::new(wire)
        })
    }

    fn through(
        delivery: &Delivery,
        stream: Option<usize>,
        is_gone: bool,
        wire_of: impl FnOnce(FakeWire) -> Box<dyn Wire>,
    ) -> Self {
        let (sender, record) = channel();
        let wire = FakeWire {
            record: sender,
            fault: Fault::None,
            n_sent: 0,
            is_finished: false,
        };
        let outbox = Outbox::new(
            delivery,
            wire_of(wire),
            Box::new(move || is_gone),
            stream,
            Arrival {
                at: Instant::now(),
                timeout: None,
            },
            "a test".to_owned(),
            Permit::take(&Arc::default(), 1).expect("a free place"),
        );
        Self { outbox, record }
    }

    fn complete(&self) {
        let usage = Usage::default();
        self.outbox.finish(End::Complete {
            reason: FinishReason::Stop,
            usage,
        });
    }

    fn next(&self) -> Sent {
        self.record.recv_timeout(PATIENCE).expect("a response").1
    }

    /// Lets go of the request and returns all that was sent and is not read yet.
    fn end(self) -> Vec<(Instant, Sent)> {
        drop(self.outbox);
        let mut all = Vec::new();
        loop {
            match self.record.recv_timeout(PATIENCE) {
                Ok(sent) => all.push(sent),
                Err(RecvTimeoutError::Disconnected) => return all,
                Err(RecvTimeoutError::Timeout) => panic!("the wire was not dropped: {all:?}"),
            }
        }
    }

    fn sent(self) -> Vec<Sent> {
        self.end().into_iter().map(|(_, sent)| sent).collect()
    }
}

fn start() -> Delivery {
    Delivery::start(|| false).expect("a thread")
}

fn chunk(text: &str) -> Sent {
    Sent::Chunk(text.to_owned())
}

fn error_chunk(text: &str) -> Sent {
    Sent::ErrorChunk(text.to_owned())
}

fn complete(text: &str) -> Sent {
    Sent::Complete(text.to_owned())
}

fn failed(code: Code, message: &str) -> Sent {
    Sent::Failed(code, message.to_owned())
}

/// Holds that a stream kept its gaps, and returns its whole text.
fn text_in_order(sent: &[(Instant, Sent)]) -> String {
    for pair in sent.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= STREAM_GAP, "{pair:?}");
    }
    let (last, chunks) = sent.split_last().expect("responses");
    assert_eq!(last.1, complete(""));
    let pieces = chunks.iter().map(|(_, sent)| match sent {
        Sent::Chunk(text) => text.as_str(),
        other => panic!("{other:?} before the end"),
    });
    pieces.collect()
}

#[test]
fn text_faster_than_the_gap_shares_responses() {
    let delivery = start();
    let stream = Stream::new(&delivery, true, Fault::None);
    let mut expected = String::new();
    for number in 0..5_000 {
        let piece = format!("{number} ");
        stream.outbox.push(&piece);
        expected.push_str(&piece);
    }
    stream.complete();
    let sent = stream.end();
    assert_eq!(text_in_order(&sent), expected);
    assert!(sent.len() < 2_000, "{} responses", sent.len());
}

/// Texts of a stream whose pieces all come at once.
fn burst(stream: Stream, n_pieces: usize) -> Vec<String> {
    for number in 0..n_pieces {
        stream.outbox.push(&number.to_string());
    }
    stream.complete();
    let mut texts = stream.sent().into_iter().map(|sent| match sent {
        Sent::Chunk(text) => text,
        Sent::Complete(_) => String::new(),
        other => panic!("{other:?}"),
    });
    let texts: Vec<_> = texts.by_ref().collect();
    assert_eq!(texts.last().map(String::as_str), Some(""));
    texts[..texts.len() - 1].to_vec()
}

#[test]
fn each_piece_is_a_response_of_its_own() {
    // Where this thread is not run for longer than a stream may lag, it is asked again.
    let is_each = || {
        let delivery = start();
        let stream = Stream::new(&delivery, true, Fault::None);
        burst(stream, 20) == (0..20).map(|number| number.to_string()).collect::<Vec<_>>()
    };
    assert!((0..10).any(|_| is_each()));
}

#[test]
fn an_interval_joins_pieces() {
    let is_joined = || {
        let delivery = start();
        let stream = Stream::sharing(&delivery, Some(4), Fault::None, false);
        burst(stream, 10) == ["0", "1234", "5678", "9"]
    };
    assert!((0..10).any(|_| is_joined()));
    // What is not enough for a response waits for more.
    let delivery = start();
    let stream = Stream::sharing(&delivery, Some(3), Fault::None, false);
    stream.outbox.push("a");
    assert_eq!(stream.next(), chunk("a"));
    stream.outbox.push("b");
    stream.outbox.push("c");
    let more = stream.record.recv_timeout(STREAM_GAP * 20);
    assert_eq!(more.err(), Some(RecvTimeoutError::Timeout));
    stream.outbox.push("d");
    assert_eq!(stream.next(), chunk("bcd"));
    stream.complete();
    assert_eq!(stream.sent(), [complete("")]);
}

#[test]
fn many_streams_stay_within_the_rate_over_all() {
    const N_STREAMS: usize = 64;
    let delivery = start();
    let streams: Vec<_> = (0..N_STREAMS)
        .map(|_| Stream::new(&delivery, true, Fault::None))
        .collect();
    let before = Instant::now();
    while before.elapsed() < Duration::from_millis(200) {
        for stream in &streams {
            stream.outbox.push("x");
        }
        thread::sleep(Duration::from_micros(200));
    }
    streams.iter().for_each(Stream::complete);
    let mut times = Vec::new();
    for stream in streams {
        let sent = stream.end();
        text_in_order(&sent);
        times.extend(sent.into_iter().map(|(at, _)| at));
    }
    times.sort();
    assert!(times.len() > N_STREAMS * 2, "{} responses", times.len());
    // Any stretch of responses, not only the whole, takes the time it must.
    for n in [100, times.len() - 1] {
        for stretch in times.windows(n + 1) {
            let least = Duration::from_secs_f64((n as f64 - BURST - 1.0) / RATE);
            assert!(stretch[n] - stretch[0] >= least, "{n} responses too fast");
        }
    }
}

#[test]
fn a_request_that_does_not_stream_gets_one_response() {
    let delivery = start();
    let stream = Stream::new(&delivery, false, Fault::None);
    for piece in ["one", " ", "response"] {
        stream.outbox.push(piece);
        thread::sleep(STREAM_GAP * 2);
    }
    stream.complete();
    assert_eq!(stream.sent(), [complete("one response")]);
}

#[test]
fn text_that_comes_with_the_end_is_a_chunk_of_its_own() {
    let delivery = start();
    let stream = Stream::new(&delivery, true, Fault::None);
    stream.outbox.push("all at once");
    stream.complete();
    assert_eq!(stream.sent(), [chunk("all at once"), complete("")]);
}

#[test]
fn only_the_first_end_counts() {
    let delivery = start();
    let stream = Stream::new(&delivery, true, Fault::None);
    stream.complete();
    let late = Error::new(Code::Cancelled, "late");
    stream.outbox.finish(End::Fail(late));
    stream.outbox.push("later still");
    assert_eq!(stream.sent(), [complete("")]);
}

#[test]
fn an_error_follows_the_text_before_it() {
    let delivery = start();
    let stream = Stream::new(&delivery, true, Fault::None);
    stream.outbox.push("so far");
    let error = Error::new(Code::Internal, "broken");
    stream.outbox.finish(End::Fail(error));
    assert_eq!(
        stream.sent(),
        [
            chunk("so far"),
            error_chunk("broken"),
            failed(Code::Internal, "broken")
        ]
    );
}

#[test]
fn a_response_that_cannot_be_sent_ends_the_stream_without_a_hole() {
    let delivery = start();
    // Several, as it takes text between the failure and the end to make a hole.
    for _ in 0..20 {
        let stream = Stream::new(&delivery, true, Fault::Refuse(2));
        stream.outbox.push("a");
        assert_eq!(stream.next(), chunk("a"));
        assert!(stream.outbox.given_up().is_none());
        // The engine knows nothing of it yet and goes on for a while.
        let end = loop {
            stream.outbox.push("b");
            if let Ok((_, sent)) = stream.record.try_recv() {
                break sent;
            }
        };
        assert_eq!(end, error_chunk("refused"));
        assert_eq!(stream.next(), failed(Code::Unavailable, "refused"));
        assert!(stream.outbox.given_up().is_some());
        stream.complete();
        assert_eq!(stream.sent(), []);
    }
}

#[test]
fn a_wire_that_panics_fails_its_own_request_only() {
    let delivery = start();
    let neighbour = Stream::new(&delivery, true, Fault::None);
    let stream = Stream::new(&delivery, true, Fault::Panic(1));
    stream.outbox.push("a");
    assert_eq!(stream.next(), failed(Code::Internal, "dropped"));
    let deadline = Instant::now() + PATIENCE;
    while stream.outbox.given_up().is_none() {
        assert!(Instant::now() < deadline, "the engine is not told");
        thread::sleep(STREAM_GAP);
    }
    stream.outbox.push("b");
    stream.complete();
    assert_eq!(stream.sent(), []);
    neighbour.outbox.push("a");
    neighbour.complete();
    assert_eq!(neighbour.sent(), [chunk("a"), complete("")]);
}

#[test]
fn a_request_given_up_without_an_end_is_failed() {
    let delivery = start();
    let stream = Stream::new(&delivery, true, Fault::None);
    stream.outbox.push("a");
    assert_eq!(
        stream.sent(),
        [
            chunk("a"),
            error_chunk(GIVEN_UP),
            failed(Code::Internal, GIVEN_UP)
        ]
    );
}

#[test]
fn what_is_pending_goes_out_before_the_thread_ends() {
    let delivery = start();
    let stream = Stream::new(&delivery, true, Fault::None);
    for number in 0..10 {
        stream.outbox.push(&number.to_string());
    }
    stream.complete();
    drop(delivery);
    assert_eq!(text_in_order(&stream.end()), "0123456789");
}

#[test]
fn the_pacer_bounds_the_rate_and_does_not_catch_up() {
    let start = Instant::now();
    let mut pacer = Pacer::new(start);
    let mut now = start;
    for _ in 0..1_000 {
        now += pacer.take(now);
    }
    let elapsed = now - start;
    let expected = Duration::from_secs_f64((1_000.0 - BURST) / RATE);
    assert!(
        elapsed.abs_diff(expected) < Duration::from_millis(1),
        "{elapsed:?}"
    );

    // A second of sleep buys one burst, not 5,000 responses.
    now += Duration::from_secs(1);
    let mut n_at_once = 0;
    while pacer.take(now).is_zero() {
        n_at_once += 1;
    }
    assert_eq!(n_at_once, BURST as usize);
}

#[test]
fn while_the_server_stops_streams_of_clients_that_are_gone_end_without_the_engine() {
    let check = |is_stopping: bool, is_gone: bool, expected: Option<Sent>| {
        let delivery = Delivery::start(move || is_stopping).expect("a thread");
        let stream = Stream::of_client(&delivery, true, Fault::None, is_gone);
        stream.outbox.push("a");
        assert_eq!(stream.next(), Sent::Chunk("a".to_owned()));
        let case = format!("stopping: {is_stopping}, gone: {is_gone}");
        match expected {
            Some(failed) => {
                assert_eq!(stream.next(), Sent::ErrorChunk(GONE.to_owned()), "{case}");
                assert_eq!(stream.next(), failed, "{case}");
            }
            None => {
                let more = stream.record.recv_timeout(WATCH.0 * 5);
                assert_eq!(more.err(), Some(RecvTimeoutError::Timeout), "{case}");
            }
        }
        // What the engine says of it later changes nothing.
        stream.outbox.push("b");
        stream.complete();
        let n_more = if is_gone && is_stopping { 0 } else { 2 };
        assert_eq!(stream.end().len(), n_more, "{case}");
    };
    let failed = Sent::Failed(Code::Cancelled, GONE.to_owned());
    check(true, true, Some(failed));
    check(true, false, None);
    check(false, true, None);
}
