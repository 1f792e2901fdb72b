//! The library under a host that keeps count and misbehaves on demand.
//!
//! Each scenario is a whole life: Initialize, load, Execute, unload, Finalize.
//! Whatever happens in between, every request that can be answered ends with
//! one FINAL and is released after it, and nothing is alive at the end. See
//! `host` for how; `FAKE_HOST_VERBOSE=1` shows the library's log.

mod host;
#[expect(dead_code, reason = "tests/llama_model uses all of it")]
#[path = "llama_model/kinds.rs"]
mod kinds;
#[expect(dead_code, reason = "tests/llama_model uses all of it")]
#[path = "llama_model/writer.rs"]
mod writer;

use host::{
    Ask, CANCELLED, Config, GPU, Given, INTERNAL, INVALID_ARG, KIND_GPU, KIND_MODEL, NOT_FOUND,
    Outcome, Running, Served, Server, UNAVAILABLE, UNSUPPORTED,
};
use triton_llm::engine::Sharing;
use triton_llm::llama::{CacheType, ModelFile};

/// Runs a scenario on a freshly loaded demo model and ends everything after it.
fn with_model(config: &Config, scenario: impl FnOnce(&Server, &Served)) {
    let server = Server::start();
    let served = server.load(config).expect("the demo model loads");
    scenario(&server, &served);
    served.unload();
    server.stop();
}

fn hello() -> Ask {
    Ask::text("Say hello")
}

fn unstreamed(ask: Ask) -> Ask {
    ask.with("streaming", Given::Bool(false))
}

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

#[test]
fn two_models() {
    let server = Server::start();
    let first = server
        .load(&Config::default())
        .expect("the first model loads");
    let second = server
        .load(&Config {
            name: "other",
            ..Config::default()
        })
        .expect("the second, too");
    let expected = first.answer(&hello()).text();
    assert_eq!(second.answer(&hello()).text(), expected);
    let stream = second.ask(&Ask::long("Say hello", 500));
    stream.wait_for(1);
    first.unload();
    stream.end().text();
    second.unload();
    server.stop();
}

/// Whatever fails while a model loads: an error, and nothing left of it.
#[test]
fn every_call_on_the_way_of_a_load_may_fail() {
    let server = Server::start();
    for function in [
        "TRITONBACKEND_ModelName",
        "TRITONBACKEND_ModelVersion",
        "TRITONBACKEND_ModelBackend",
        "TRITONBACKEND_BackendState",
        "TRITONBACKEND_ModelRepository",
        "TRITONBACKEND_ModelConfig",
        "TRITONSERVER_MessageSerializeToJson",
        "TRITONBACKEND_ModelAutoCompleteConfig",
        "TRITONSERVER_MessageNewFromSerializedJson",
        "TRITONBACKEND_ModelSetConfig",
        "TRITONBACKEND_ModelServer",
        "TRITONBACKEND_ModelSetState",
        "TRITONBACKEND_ModelInstanceModel",
        "TRITONBACKEND_ModelInstanceIsPassive",
        "TRITONBACKEND_ModelInstanceKind",
        "TRITONBACKEND_ModelInstanceSetState",
    ] {
        server.fail(function, 1, true);
        let loaded = server.load(&Config::default());
        let (code, message) = loaded
            .err()
            .unwrap_or_else(|| panic!("{function} is called"));
        assert_eq!(
            (code, message.contains("a fault")),
            (INTERNAL, true),
            "{function}: {message}"
        );
    }
    server
        .load(&Config::default())
        .expect("the model loads")
        .unload();
    server.stop();
}

#[test]
fn bad_configurations_do_not_load() {
    let config = Config::default;
    let server = Server::start();
    for (config, code, part) in [
        (config().with("n_ctx", "many"), INVALID_ARG, "n_ctx"),
        (config().with("n_paralel", "2"), INVALID_ARG, "n_parallel"),
        (
            config().with("model_path", "none.gguf"),
            NOT_FOUND,
            "none.gguf",
        ),
        (
            config().with("chat_template", "{% if %}"),
            INVALID_ARG,
            "chat template",
        ),
        (
            Config {
                auto_complete: false,
                ..config()
            },
            INVALID_ARG,
            "text_input",
        ),
        (
            config().with("n_gpu_layers", "999"),
            INVALID_ARG,
            "'n_gpu_layers' = 999: must be at most",
        ),
        (
            config().with("n_cpu_moe", "998"),
            INVALID_ARG,
            "'n_cpu_moe' = 998: must be at most",
        ),
        (
            config().with("override_tensor", "(=CPU"),
            INVALID_ARG,
            "override_tensor",
        ),
        (
            config().with("devices", "CUDA0"),
            INVALID_ARG,
            "'devices' is set: it is for KIND_MODEL",
        ),
        (
            config().on(KIND_MODEL).with("devices", "CUDA99"),
            INVALID_ARG,
            "'devices' names \"CUDA99\": there is ",
        ),
    ] {
        let (found, message) = server.load(&config).err().expect("it does not load");
        assert!(message.contains(part), "{message}");
        assert_eq!(found, code, "{message}");
    }
    server.stop();
}

/// A wrong guess could not be taken back.
#[test]
fn drafts_need_a_memory_that_can_be_cut() {
    let server = Server::start();
    for kind in &kinds::KINDS {
        let (_folder, path) = kind.file();
        let path = path.to_str().expect("is ASCII");
        let config = Config::default().with("model_path", path);
        let loaded = server.load(&config.with("speculative_method", "ngram"));
        match (kind.sharing, loaded) {
            (Sharing::Prefix, Ok(served)) => served.unload(),
            (Sharing::Whole, Err((code, message))) => {
                assert_eq!(code, INVALID_ARG, "{}", kind.name);
                let field = "config parameter 'speculative_method': must be \"none\"";
                assert!(message.starts_with(field), "{}: {message}", kind.name);
            }
            (_, loaded) => panic!("{}: {:?}", kind.name, loaded.err()),
        }
    }
    server.stop();
}

/// Triton makes it and gives it no requests; it needs no engine.
#[test]
fn a_passive_instance_is_made() {
    let groups = serde_json::json!([
        { "kind": "KIND_GPU", "gpus": [7], "passive": true },
        { "kind": "KIND_CPU" },
    ]);
    let config = Config {
        is_passive: true,
        ..Config::default().on(KIND_GPU)
    };
    with_model(&config.field("instance_group", groups), |_, served| {
        assert!(served.config_was_set());
    });
}

/// Asks for a GPU where no test has one; Triton itself would not, on such a machine.
#[test]
fn an_instance_on_a_gpu_needs_one() {
    let server = Server::start();
    let loaded = server.load(&Config::default().on(KIND_GPU));
    let (code, message) = loaded.err().expect("it does not load");
    assert_eq!(code, INVALID_ARG, "{message}");
    assert!(
        message.starts_with("instance_group asks for KIND_GPU"),
        "{message}"
    );
    server.stop();
}

#[test]
fn an_instance_that_leaves_the_choice_runs_on_the_cpu_where_there_is_no_gpu() {
    let config = Config::default()
        .on(KIND_MODEL)
        .with("devices", "none")
        .with("n_cpu_moe", "1")
        .with("override_tensor", r"blk\.[0-9]+\.ffn_(up|down)=CPU");
    with_model(&config, |_, served| {
        served.answer(&hello()).in_order();
    });
}

#[test]
fn memory_is_reported() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/triton_repo/llm_decoupled/1/demo.gguf"
    );
    let file = ModelFile::read(path.as_ref()).expect("the demo model can be read");
    let cache = 8192 * file.kv_bytes_per_cell(CacheType::F16, CacheType::F16);
    let expected = format!("0 0 {};", file.n_bytes + cache);
    with_model(&Config::default(), |_, served| {
        assert_eq!(served.memory(), expected);
    });
    let server = Server::start();
    for function in [
        "TRITONSERVER_BufferAttributesNew",
        "TRITONSERVER_BufferAttributesSetMemoryType",
        "TRITONSERVER_BufferAttributesSetMemoryTypeId",
        "TRITONSERVER_BufferAttributesSetByteSize",
        "TRITONBACKEND_ModelReportMemoryUsage",
    ] {
        server.fail(function, 1, true);
        let served = server.load(&Config::default());
        let served = served.unwrap_or_else(|(_, message)| panic!("{function}: {message}"));
        assert_eq!(served.memory(), "", "{function}");
        served.answer(&hello()).in_order();
        served.unload();
    }
    server.stop();
}

/// Threads that all models of a library share.
const OF_THE_LIBRARY: [&str; 2] = ["llm-delivery", "llm-lease"];

/// The names of the threads of all engines.
fn threads_of_engines() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("the list of threads");
    let names = tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    let names = names.map(|name| name.trim_end().to_owned());
    names
        .filter(|name| name.starts_with("llm-") && !OF_THE_LIBRARY.contains(&name.as_str()))
        .collect()
}

#[test]
fn an_unloaded_model_leaves_no_thread() {
    let server = Server::start();
    let config = Config::default().with("n_threads", "2");
    for _ in 0..3 {
        let served = server.load(&config).expect("the demo model loads");
        served.answer(&hello()).in_order();
        assert!(threads_of_engines().len() >= 2);
        served.unload();
        // Those that sample are told to end, and not waited for.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while !threads_of_engines().is_empty() && std::time::Instant::now() < end {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!(threads_of_engines(), Vec::<String>::new());
    }
    server.stop();
}

#[test]
fn the_exports_refuse_null_and_prefer_the_cpu() {
    let server = Server::start();
    for (code, message) in server.nulls() {
        assert_eq!(
            (code, message.starts_with("Triton passed no ")),
            (INTERNAL, true),
            "{message}"
        );
    }
    assert_eq!(server.preferred_group(), (1, 1));
    server.stop();
}
