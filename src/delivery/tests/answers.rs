//! Tests of requests with several answers.

use super::*;

#[test]
fn answers_of_one_request_share_responses_and_one_end() {
    let delivery = start();
    let stream = Stream::of_answers(&delivery, Some(1), 2);
    stream.push_to(1, "b");
    assert_eq!(stream.next(), chunk("1:b"));
    stream.push_to(0, "a");
    assert_eq!(stream.next(), chunk("a"));
    stream.end_answer(1);
    // Its stream goes on for the other one, and takes nothing more of this one.
    stream.push_to(1, "late");
    stream.push_to(2, "of nobody");
    stream.push_to(0, "c");
    assert_eq!(stream.next(), chunk("c"));
    stream.complete();
    assert_eq!(stream.sent(), [complete("")]);

    let whole = Stream::of_answers(&delivery, None, 2);
    whole.push_to(1, "b");
    whole.push_to(0, "a");
    whole.end_answer(0);
    whole.end_answer(1);
    assert_eq!(whole.sent(), [complete("a1:b")]);
}
