//! Tests of the delivery with wires that only keep a record.

mod answers;
mod front_end;
mod pieces;

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};

use super::outbox::{GIVEN_UP, GONE, STREAM_GAP};
use super::pacer::{BURST, RATE};
use super::*;
use crate::contract::{AnswerPart, Writer};
use crate::engine::{Chosen, Ended, FinishReason, Token, Usage};
use crate::permit::Permit;
use crate::tensor::Tensor;
use crate::triton::{Code, Error, Times};

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
    fn send(&mut self, tensors: &[Tensor]) -> Result<(), Error> {
        let text = text_of(tensors);
        self.n_sent += 1;
        match self.fault {
            Fault::Refuse(n) if self.n_sent == n => {
                return Err(Error::new(Code::Unavailable, "refused"));
            }
            Fault::Panic(n) if self.n_sent == n => panic!("the test asked for it"),
            _ => match text.strip_prefix(FakeWriter::ERROR) {
                Some(message) => self.note(Sent::ErrorChunk(message.to_owned())),
                None => self.note(Sent::Chunk(text)),
            },
        }
        Ok(())
    }

    fn complete(&mut self, tensors: &[Tensor], _: Times) {
        self.is_finished = true;
        self.note(Sent::Complete(text_of(tensors)));
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

/// Writes the texts of answers one behind the other, those after the first with their number in front.
struct FakeWriter;

impl FakeWriter {
    const ERROR: &str = "error: ";

    fn write(parts: &[AnswerPart]) -> Vec<Tensor> {
        let texts = parts.iter().map(|part| match part.index {
            0 => part.text(),
            index => format!("{index}:{}", part.text()),
        });
        vec![Tensor::text("text", texts.collect())]
    }
}

impl Writer for FakeWriter {
    fn chunk(&mut self, parts: &[AnswerPart]) -> Vec<Tensor> {
        Self::write(parts)
    }

    fn complete(&mut self, parts: &[AnswerPart], _: &[Ended]) -> Vec<Tensor> {
        Self::write(parts)
    }

    fn error(&mut self, message: &str) -> Vec<Tensor> {
        vec![Tensor::text("text", format!("{}{message}", Self::ERROR))]
    }
}

fn text_of(tensors: &[Tensor]) -> String {
    match tensors {
        [tensor] => tensor.clone().into_text().expect("one text"),
        _ => panic!("{tensors:?}"),
    }
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
        Self::through(delivery, (stream, 1), is_gone, |mut wire| {
            wire.fault = fault;
            Box::new(wire)
        })
    }

    fn of_answers(delivery: &Delivery, stream: Option<usize>, n_answers: usize) -> Self {
        Self::through(delivery, (stream, n_answers), false, |wire| Box::new(wire))
    }

    fn through(
        delivery: &Delivery,
        (stream, n_answers): (Option<usize>, usize),
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
        let outbox = delivery.open(NewRequest {
            wire: wire_of(wire),
            writer: Box::new(FakeWriter),
            is_cancelled: Box::new(move || is_gone),
            n_answers,
            stream,
            arrival: Arrival {
                at: Instant::now(),
                timeout: None,
            },
            label: "a test".to_owned(),
            permit: Permit::take(&Arc::default(), 1).expect("a free place"),
        });
        Self { outbox, record }
    }

    fn push(&self, text: &str) {
        self.push_to(0, text);
    }

    fn push_to(&self, index: usize, text: &str) {
        let chosen = Chosen {
            token: Token(0),
            text: text.to_owned(),
        };
        self.outbox.push(index, vec![chosen], None);
    }

    fn complete(&self) {
        self.end_answer(0);
    }

    fn end_answer(&self, index: usize) {
        let end = Ended {
            reason: FinishReason::Stop,
            usage: Usage::default(),
        };
        self.outbox.push(index, Vec::new(), Some(end));
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
        stream.push(&piece);
        expected.push_str(&piece);
    }
    stream.complete();
    let sent = stream.end();
    assert_eq!(text_in_order(&sent), expected);
    assert!(sent.len() < 2_000, "{} responses", sent.len());
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
            stream.push("x");
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
        stream.push(piece);
        thread::sleep(STREAM_GAP * 2);
    }
    stream.complete();
    assert_eq!(stream.sent(), [complete("one response")]);
}

#[test]
fn text_that_comes_with_the_end_is_a_chunk_of_its_own() {
    let delivery = start();
    let stream = Stream::new(&delivery, true, Fault::None);
    stream.push("all at once");
    stream.complete();
    assert_eq!(stream.sent(), [chunk("all at once"), complete("")]);
}

#[test]
fn only_the_first_end_counts() {
    let delivery = start();
    let stream = Stream::new(&delivery, true, Fault::None);
    stream.complete();
    let late = Error::new(Code::Cancelled, "late");
    stream.outbox.fail(late);
    stream.push("later still");
    assert_eq!(stream.sent(), [complete("")]);
}

#[test]
fn an_error_follows_the_text_before_it() {
    let delivery = start();
    let stream = Stream::new(&delivery, true, Fault::None);
    stream.push("so far");
    let error = Error::new(Code::Internal, "broken");
    stream.outbox.fail(error);
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
        stream.push("a");
        assert_eq!(stream.next(), chunk("a"));
        assert!(stream.outbox.given_up().is_none());
        // The engine knows nothing of it yet and goes on for a while.
        let end = loop {
            stream.push("b");
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
    stream.push("a");
    assert_eq!(stream.next(), failed(Code::Internal, "dropped"));
    let deadline = Instant::now() + PATIENCE;
    while stream.outbox.given_up().is_none() {
        assert!(Instant::now() < deadline, "the engine is not told");
        thread::sleep(STREAM_GAP);
    }
    stream.push("b");
    stream.complete();
    assert_eq!(stream.sent(), []);
    neighbour.push("a");
    neighbour.complete();
    assert_eq!(neighbour.sent(), [chunk("a"), complete("")]);
}

#[test]
fn a_request_given_up_without_an_end_is_failed() {
    let delivery = start();
    let stream = Stream::new(&delivery, true, Fault::None);
    stream.push("a");
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
        stream.push(&number.to_string());
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
        stream.push("a");
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
        stream.push("b");
        stream.complete();
        let n_more = if is_gone && is_stopping { 0 } else { 2 };
        assert_eq!(stream.end().len(), n_more, "{case}");
    };
    let failed = Sent::Failed(Code::Cancelled, GONE.to_owned());
    check(true, true, Some(failed));
    check(true, false, None);
    check(false, true, None);
}
