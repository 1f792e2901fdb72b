//! The library's metrics, in a host that has some and counts their misuse.
//!
//! `host` says how; `tests/fake_host` is all about a host that has none.

#[expect(dead_code, reason = "tests/fake_host uses all of it")]
mod host;

use std::time::{Duration, Instant};

use host::{Ask, CANCELLED, Config, Server};

/// The series of the demo model.
fn shown(n_running: u32, n_waiting: u32) -> Vec<String> {
    vec![
        format!("vllm:num_requests_running{{model=demo,version=1}} {n_running}"),
        format!("vllm:num_requests_waiting{{model=demo,version=1}} {n_waiting}"),
    ]
}

/// A step may be under way.
#[track_caller]
fn wait_for(server: &Server, expected: &[String]) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.series() != expected {
        assert!(Instant::now() < deadline, "{:?}", server.series());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// In this order, as a family is made once in a process.
#[test]
fn metrics_are_shown_where_the_host_takes_them() {
    every_call_may_fail();
    series_live_from_load_to_unload();
    two_loads_of_a_model_share_its_series();
}

/// Whatever call of metrics fails, the model loads and answers.
fn every_call_may_fail() {
    let server = Server::start();
    let config = Config::default();
    for (function, nth, expected) in [
        ("TRITONSERVER_MetricFamilyNew", 1, vec![]),
        ("TRITONSERVER_MetricFamilyNew", 2, vec![]),
        ("TRITONSERVER_MetricNew", 1, vec![]),
        ("TRITONSERVER_MetricNew", 2, vec![]),
        ("TRITONSERVER_MetricIncrement", 1, shown(0, 0)),
        ("TRITONSERVER_MetricIncrement", 2, shown(0, 0)),
    ] {
        server.fail(function, nth, true);
        let served = server.load(&config).expect("the model loads");
        assert_eq!(server.series(), expected, "{function}, call {nth}");
        // What fails with the first request is made up for with the second.
        for _ in 0..2 {
            served.answer(&Ask::text("Say hello")).in_order();
        }
        wait_for(&server, &expected);
        served.unload();
        assert_eq!(server.series(), Vec::<String>::new());
        server.no_faults();
    }
    server.stop();
}

fn series_live_from_load_to_unload() {
    let server = Server::start();
    let config = Config::default().with("n_parallel", "1");
    for _ in 0..2 {
        let served = server.load(&config).expect("the model loads");
        assert_eq!(server.series(), shown(0, 0));
        let streams = [(); 3].map(|()| served.ask(&Ask::long("Say hello", 7_000)));
        wait_for(&server, &shown(1, 2));
        for stream in streams {
            stream.cancel();
            stream.end().failed(CANCELLED, "cancelled");
        }
        wait_for(&server, &shown(0, 0));
        served.unload();
        assert_eq!(server.series(), Vec::<String>::new());
    }
    server.stop();
}

/// As where a model is loaded anew: the next load begins before the first one's end.
fn two_loads_of_a_model_share_its_series() {
    let server = Server::start();
    let config = Config::default().with("n_parallel", "1");
    let mut old = server.load(&config).expect("the model loads");
    for _ in 0..3 {
        let new = server.load(&config).expect("the model loads again");
        assert_eq!(server.series(), shown(0, 0));
        let old_stream = old.ask(&Ask::long("Say hello", 7_000));
        let new_streams = [(); 2].map(|()| new.ask(&Ask::long("Say hello", 7_000)));
        wait_for(&server, &shown(2, 1));
        old_stream.cancel();
        old_stream.end().failed(CANCELLED, "cancelled");
        old.unload();
        wait_for(&server, &shown(1, 1));
        for stream in new_streams {
            stream.cancel();
            stream.end().failed(CANCELLED, "cancelled");
        }
        wait_for(&server, &shown(0, 0));
        old = new;
    }
    old.unload();
    assert_eq!(server.series(), Vec::<String>::new());
    server.stop();
}
