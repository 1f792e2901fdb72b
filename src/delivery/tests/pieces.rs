//! Tests of which pieces of a text share a response.

use super::*;

/// Texts of a stream whose pieces all come at once.
fn burst(stream: Stream, n_pieces: usize) -> Vec<String> {
    for number in 0..n_pieces {
        stream.push(&number.to_string());
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
    stream.push("a");
    assert_eq!(stream.next(), chunk("a"));
    stream.push("b");
    stream.push("c");
    let more = stream.record.recv_timeout(STREAM_GAP * 20);
    assert_eq!(more.err(), Some(RecvTimeoutError::Timeout));
    stream.push("d");
    assert_eq!(stream.next(), chunk("bcd"));
    stream.complete();
    assert_eq!(stream.sent(), [complete("")]);
}
