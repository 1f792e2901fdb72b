//! Models and instances: what loads, what does not, and what is left of them.

use triton_llm::engine::Sharing;
use triton_llm::llama::{CacheType, ModelFile};

use super::host::{Ask, Config, INTERNAL, INVALID_ARG, KIND_GPU, KIND_MODEL, NOT_FOUND, Server};
use super::{hello, kinds, with_model};

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

/// `tests/fake_metrics.rs` has a host with metrics.
#[test]
fn a_host_may_lack_metrics() {
    with_model(&Config::default(), |server, served| {
        served.answer(&hello()).in_order();
        assert_eq!(server.series(), Vec::<String>::new());
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
