//! The library under a host that keeps count and misbehaves on demand.
//!
//! Each scenario is a whole life: Initialize, load, Execute, unload, Finalize.
//! Whatever happens in between, every request that can be answered ends with
//! one FINAL and is released after it, and nothing is alive at the end. See
//! `host` for how; `FAKE_HOST_VERBOSE=1` shows the library's log.

#[path = "../host/mod.rs"]
mod host;
#[expect(dead_code, reason = "tests/llama_model uses all of it")]
#[path = "../llama_model/kinds.rs"]
mod kinds;
mod loads;
mod requests;
#[expect(dead_code, reason = "tests/llama_model uses all of it")]
#[path = "../llama_model/writer.rs"]
mod writer;

use host::{Ask, Config, Given, Served, Server};

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
