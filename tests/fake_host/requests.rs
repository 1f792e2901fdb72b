//! Requests: whatever the client, Triton and the end of the model do to them.

use super::host::{
    Ask, CANCELLED, Config, GPU, Given, INTERNAL, INVALID_ARG, Outcome, Running, Server,
    UNAVAILABLE, UNSUPPORTED,
};
use super::{hello, unstreamed, with_model};

#[test]
fn a_stream() {
    with_model(&Config::default(), |server, served| {
        assert!(served.config_was_set(), "inputs and outputs are completed");
        let outcome = served.answer(&hello()).in_order();
        let (complete, chunks) = outcome.replies.split_last().expect("replies");
        assert!(!chunks.is_empty(), "{complete}");
        assert!(
            chunks.iter().all(|chunk| chunk["type"] == "chunk"),
            "{chunks:?}"
        );
        assert_eq!(complete["finish_reason"], "stop");
        let usage = &complete["usage"];
        assert!(
            usage["completion_tokens"].as_u64() >= Some(chunks.len() as u64),
            "{usage}"
        );
        assert!(outcome.n_dims.iter().all(|&n_dims| n_dims == 1));
        assert_eq!(server.n_batch_reports(), 1);

        let whole = served.answer(&unstreamed(hello())).in_order();
        assert_eq!(whole.events, "SRFD", "one response only");
        assert_eq!(whole.text(), outcome.text());
    });
}

#[test]
fn a_batched_model_answers_with_a_batch_dimension() {
    let config = Config {
        max_batch_size: 4,
        ..Config::default()
    };
    with_model(&config, |_, served| {
        let outcome = served.answer(&hello());
        assert!(
            outcome.n_dims.iter().all(|&n_dims| n_dims == 2),
            "{outcome:?}"
        );
        outcome.text();
    });
}

#[test]
fn inputs_may_lie_in_several_buffers() {
    with_model(&Config::default(), |_, served| {
        let ask = hello().input("sampling_parameters", &[r#"{"max_tokens": 5}"#]);
        let expected = served.answer(&ask).text();
        for bytes_a_buffer in [1, 3, 4, 5, 7] {
            let mut ask = ask.clone();
            for input in &mut ask.inputs {
                input.bytes_a_buffer = bytes_a_buffer;
            }
            assert_eq!(
                served.answer(&ask).text(),
                expected,
                "{bytes_a_buffer} bytes a buffer"
            );
        }
    });
}

#[test]
fn parameters_of_every_kind() {
    with_model(&Config::default(), |_, served| {
        let check = |key, given: Given, n_tokens: u64| {
            let outcome = served.answer(&hello().with(key, given.clone())).in_order();
            let usage = &outcome.replies.last().expect("a reply")["usage"];
            assert_eq!(usage["completion_tokens"], n_tokens, "{key} = {given:?}");
        };
        check("max_tokens", Given::Int(3), 3);
        check("max_tokens", Given::Double(3.0), 3);
        check("max_tokens", Given::Text("3"), 3);
        check("stop", Given::Text("H"), 1);
    });
}

#[test]
fn bad_requests_get_one_error_each() {
    let invalid = |ask: Ask, part: &'static str| (ask, INVALID_ARG, part);
    let cases = [
        invalid(Ask::empty(), "'text_input'"),
        invalid(Ask::empty().input("stop", &["x"]), "'text_input'"),
        invalid(
            hello().but(|input| input.datatype = 8),
            "input 'text_input' must be of type BYTES",
        ),
        invalid(
            hello().but(|input| input.memory = GPU),
            "lies in GPU memory",
        ),
        invalid(
            hello().but(|input| input.bytes.truncate(6)),
            "ends within element 0",
        ),
        invalid(
            hello().but(|input| input.bytes.truncate(2)),
            "ends within element 0",
        ),
        invalid(hello().but(|input| input.bytes.clear()), "text_input"),
        invalid(hello().but(|input| input.bytes[5] = 0xff), "UTF-8"),
        invalid(Ask::empty().input("text_input", &["one", "two"]), "2"),
        invalid(
            hello().with("max_tokens", Given::Null(1)),
            "parameter 'max_tokens' has no value",
        ),
        invalid(
            hello().with("stop", Given::Null(0)),
            "parameter 'stop' has no value",
        ),
        invalid(hello().with("max_tokens", Given::Kind(4)), "is of kind 4"),
        invalid(hello().with("seed", Given::Kind(99)), "is of kind 99"),
        invalid(
            hello().with("temprature", Given::Double(1.0)),
            "did you mean 'temperature'",
        ),
        invalid(hello().with("max_tokens", Given::Int(0)), "max_tokens"),
        invalid(
            hello().input("sampling_parameters", &["{"]),
            "sampling_parameters",
        ),
        invalid(Ask::text(&"word ".repeat(9_000)), "8192"),
    ];
    with_model(&Config::default(), |_, served| {
        for (ask, code, part) in cases {
            let outcome = served.answer(&ask).failed(code, part);
            assert_eq!(outcome.replies.len(), 0, "{outcome:?}");
        }
        served.answer(&hello()).text();
    });
}

#[test]
fn a_request_may_bring_an_input_that_is_not_ours() {
    with_model(&Config::default(), |_, served| {
        served.answer(&hello().input("another", &["x"])).text();
    });
}

#[test]
fn outputs_in_gpu_memory_end_the_stream_with_an_error() {
    with_model(&Config::default(), |server, served| {
        for ask in [hello(), unstreamed(hello())] {
            server.gpu_outputs();
            served
                .answer(&ask)
                .failed(UNSUPPORTED, "must be in CPU memory");
            server.no_faults();
        }
        served.answer(&hello()).text();
    });
}

#[test]
fn no_response_in_the_middle_of_a_stream() {
    with_model(&Config::default(), |server, served| {
        // One fails: what follows still tells the client, in its protocol and Triton's.
        server.fail("TRITONBACKEND_ResponseNewFromFactory", 3, true);
        let outcome = served
            .answer(&Ask::long("Say hello", 2_000))
            .failed(INTERNAL, "a fault");
        assert_eq!(outcome.events, "cccsRFD");
        assert_eq!(outcome.replies[2]["type"], "error");

        // None works any more: all that is left is an empty FINAL.
        server.fail("TRITONBACKEND_ResponseNewFromFactory", 3, false);
        let outcome = served.answer(&Ask::long("Say hello", 2_000)).in_order();
        assert_eq!((outcome.events.as_str(), outcome.error), ("ccsRFD", None));
        server.no_faults();
        served.answer(&hello()).text();
    });
}

#[test]
fn a_response_that_is_lost_on_its_way() {
    with_model(&Config::default(), |server, served| {
        server.fail("TRITONBACKEND_ResponseSend", 2, true);
        let outcome = served.answer(&Ask::long("Say hello", 2_000));
        assert_eq!(outcome.failed(INTERNAL, "a fault").events, "ccsRFD");

        // The final one: the answer counts as given, and what says otherwise is the only FINAL.
        server.fail("TRITONBACKEND_ResponseSend", 1, true);
        let outcome = served.answer(&unstreamed(hello()));
        assert_eq!(outcome.events, "SRFD", "{outcome:?}");
        assert!(outcome.error.is_some(), "{outcome:?}");
        served.answer(&hello()).text();
    });
}

#[test]
fn no_response_factory() {
    with_model(&Config::default(), |server, served| {
        server.fail("TRITONBACKEND_ResponseFactoryNew", 2, true);
        let running = [hello(), hello(), hello()].map(|ask| served.request(&ask));
        served
            .execute(&running)
            .expect("the requests are taken over");
        let [first, second, third] = running.map(Running::end);
        assert_eq!(second.events, "R", "released, there being no way to answer");
        assert_eq!(first.text(), third.text());
    });
}

/// Whatever call of Triton's fails on a request's way, and when: it ends, once.
#[test]
fn every_call_on_the_way_of_a_request_may_fail() {
    let functions = [
        "TRITONBACKEND_RequestId",
        "TRITONBACKEND_RequestParameterCount",
        "TRITONBACKEND_RequestParameter",
        "TRITONBACKEND_RequestInputCount",
        "TRITONBACKEND_RequestInputByIndex",
        "TRITONBACKEND_InputProperties",
        "TRITONBACKEND_InputBuffer",
        "TRITONBACKEND_ResponseFactoryIsCancelled",
        "TRITONBACKEND_ResponseNewFromFactory",
        "TRITONBACKEND_ResponseOutput",
        "TRITONBACKEND_OutputBuffer",
        "TRITONBACKEND_ModelInstanceReportBatchStatistics",
        "TRITONSERVER_ServerModelIsReady",
    ];
    with_model(&Config::default(), |server, served| {
        let ask = hello().with("max_tokens", Given::Int(6));
        let expected = served.answer(&ask).text();
        for function in functions {
            for (nth, once) in [(1, true), (1, false), (2, true), (2, false), (5, true)] {
                server.fail(function, nth, once);
                let running = [served.request(&ask), served.request(&ask)];
                served
                    .execute(&running)
                    .expect("the requests are taken over");
                let outcomes = running.map(Running::end);
                server.no_faults();
                let what = format!("{function}, call {nth}, once {once}");
                let n_complete = outcomes
                    .into_iter()
                    .filter(|outcome| check_end(outcome, &what))
                    .count();
                assert!(
                    !once || n_complete >= 1,
                    "{what}: one fault fails one request at most"
                );
                assert_eq!(served.answer(&ask).text(), expected, "after {what}");
            }
        }
    });
}

/// Holds that a request came to its end in order, and says whether it completed.
fn check_end(outcome: &Outcome, what: &str) -> bool {
    let rest = outcome.events.trim_start_matches('c');
    assert!(rest == "SRFD" || rest == "sRFD", "{what}: {outcome:?}");
    rest == "SRFD"
}

/// Execute may refuse requests only as long as it has touched none.
#[test]
fn an_execute_that_fails_leaves_its_requests_alone() {
    with_model(&Config::default(), |server, served| {
        for function in [
            "TRITONBACKEND_ModelInstanceModel",
            "TRITONBACKEND_ModelInstanceKind",
            "TRITONBACKEND_ModelState",
        ] {
            server.fail(function, 1, true);
            let running = [served.request(&hello()), served.request(&hello())];
            let (code, message) = served.execute(&running).expect_err(function);
            assert_eq!(
                (code, message.contains("a fault")),
                (INTERNAL, true),
                "{message}"
            );
            running.into_iter().for_each(Running::take_back);
        }
        served.answer(&hello()).text();
    });
}

#[test]
fn cancelled_before_it_starts() {
    with_model(&Config::default(), |_, served| {
        let request = served.request(&hello());
        request.cancel();
        served
            .execute(std::slice::from_ref(&request))
            .expect("the request is taken over");
        let outcome = request.end().failed(CANCELLED, "cancelled");
        assert_eq!(outcome.events, "sRFD");
    });
}

#[test]
fn cancelled_in_the_middle_of_a_stream() {
    with_model(&Config::default(), |_, served| {
        let neighbour = Ask::long("Count to ten", 200);
        let expected = served.answer(&neighbour).text();
        let beside = served.ask(&neighbour);
        let stream = served.ask(&Ask::long("Say hello", 7_000));
        stream.wait_for(3);
        stream.cancel();
        stream.end().failed(CANCELLED, "cancelled");
        assert_eq!(beside.end().text(), expected);
    });
}

#[test]
fn execute_with_any_number_of_requests() {
    with_model(&Config::default(), |server, served| {
        let expected = served.answer(&hello()).text();
        for n_requests in [0, 1, 64] {
            let before = server.n_batch_reports();
            let running: Vec<_> = (0..n_requests).map(|_| served.request(&hello())).collect();
            served
                .execute(&running)
                .expect("the requests are taken over");
            for running in running {
                assert_eq!(running.end().text(), expected);
            }
            assert_eq!(server.n_batch_reports() - before, n_requests);
        }
    });
}

/// Good, bad and cancelled requests at once, more than fit: the good ones are not disturbed.
#[test]
fn a_crowd() {
    with_model(&Config::default(), |server, served| {
        let ask = Ask::long("Tell me a long story", 40);
        let expected = served.answer(&ask).text();
        let kinds = [
            ask.clone(),
            unstreamed(ask.clone()),
            Ask::empty(),
            Ask::long("Count to ten", 4_000),
        ];
        let crowd: Vec<_> = kinds
            .iter()
            .cycle()
            .take(200)
            .map(|ask| served.ask(ask))
            .collect();
        for stream in crowd.iter().skip(3).step_by(kinds.len()) {
            stream.cancel();
        }
        for (index, stream) in crowd.into_iter().enumerate() {
            let outcome = stream.end();
            match index % kinds.len() {
                0 | 1 => assert_eq!(outcome.text(), expected, "request {index}"),
                2 => drop(outcome.failed(INVALID_ARG, "'text_input'")),
                _ => drop(outcome.failed(CANCELLED, "cancelled")),
            }
        }
        assert_eq!(server.n_batch_reports(), 101);
    });
}

#[test]
fn a_full_queue_refuses_at_once() {
    let config = Config::default()
        .with("n_parallel", "1")
        .with("max_queue_size", "1");
    with_model(&config, |_, served| {
        let running = served.ask(&Ask::long("Say hello", 7_000));
        running.wait_for(1);
        let waiting = served.ask(&hello());
        let refused = served
            .answer(&hello())
            .failed(UNAVAILABLE, "the queue is full");
        assert_eq!(refused.events, "sRFD");
        running.cancel();
        running.end().failed(CANCELLED, "cancelled");
        waiting.end().text();
        served.answer(&hello()).text();
    });
}

#[test]
fn a_model_that_is_no_longer_served_ends_its_streams() {
    let config = Config::default().with("n_parallel", "2");
    with_model(&config, |_, served| {
        let streams: Vec<_> = (0..4)
            .map(|_| served.ask(&Ask::long("Say hello", 4_000)))
            .collect();
        streams[0].wait_for(1);
        served.set_ready(false);
        let n_started = streams
            .iter()
            .filter(|stream| stream.n_responses() > 0)
            .count();
        for stream in streams {
            let outcome = stream.end().failed(UNAVAILABLE, "unloaded");
            if let Some(last) = outcome.replies.last() {
                assert_eq!(last["type"], "error", "{last}");
            }
        }
        assert!(n_started >= 1);
    });
}

#[test]
fn an_instance_may_end_before_its_requests() {
    let server = Server::start();
    let mut served = server.load(&Config::default()).expect("the model loads");
    let running = served.ask(&Ask::long("Say hello", 2_000));
    running.wait_for(1);
    served.replace_instance();
    let events = running.end().events;
    let end = events.trim_start_matches('c');
    assert_eq!(end, "RFD", "no statistics for an instance that is gone");
    served.answer(&hello()).text();
    served.unload();
    server.stop();
}

/// Before the server says for the first time that it serves the model, as in warm-up.
#[test]
fn a_model_that_is_not_served_yet_works() {
    with_model(&Config::default(), |_, served| {
        served.set_ready(false);
        served.answer(&Ask::long("", 300)).text();
    });
}
