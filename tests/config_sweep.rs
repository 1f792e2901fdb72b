//! Model configurations without end, in the fake host: none of them ends the server.
//!
//! Every config parameter at its limits, alone and in pairs, and fields beside the parameters. Each
//! configuration loads, and then a short request is answered, or what is wrong is named. What would end
//! the server ends a child of this test instead, which loads a part of them and says which is next.

#[expect(dead_code, reason = "tests/fake_host uses all of it")]
mod host;

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use host::{Ask, Config, Given, Outcome, Served, Server};
use serde_json::{Value, json};
use triton_llm::config::table::{TABLE, Written};
use triton_llm::table::{Kind, Limit, Parameter};

/// Configurations: each setting alone, the rest two or three together.
const N_CASES: usize = 2000;
/// Configurations of a child.
const N_A_CHILD: usize = 250;
/// Children at a time.
const N_CHILDREN: usize = 2;
/// Faults that are looked for before the test gives up.
const MAX_FAULTS: usize = 20;
/// What a child may map, in KiB: there a context of millions of tokens must be refused.
const MAX_CHILD_KIB: u64 = 3 << 20;
/// How long a child may take over a configuration.
const PATIENCE: Duration = Duration::from_secs(60);

/// Names the configurations of a child, as `start..end`.
const PART: &str = "CONFIG_SWEEP_PART";

/// A setting: its name, and what it is set to.
#[derive(Clone)]
enum Setting {
    Parameter(&'static str, String),
    Field(&'static str, Value),
}

impl Setting {
    fn name(&self) -> &'static str {
        match self {
            Setting::Parameter(name, _) | Setting::Field(name, _) => name,
        }
    }

    /// Whether an error says that it is this that is wrong.
    fn is_named_in(&self, message: &str) -> bool {
        let name = self.name();
        let words: &[&str] = match name {
            "model_path" => &["model file"],
            "instance_group" => &[
                "instances",
                "the model configuration is not JSON that we read",
            ],
            "max_batch_size" => &["the model configuration is not JSON that we read"],
            "max_prompt_bytes" => &["input 'text_input' has"],
            "chat_template" => &["the chat template", "n_ctx"],
            "chat_template_file" => &["the chat template"],
            _ => &[],
        };
        [name, &name.replace('_', " ")]
            .iter()
            .chain(words)
            .any(|word| message.contains(word))
    }

    fn show(&self) -> String {
        match self {
            Setting::Parameter(name, value) => {
                format!("{name} = {:?}", value.chars().take(60).collect::<String>())
            }
            Setting::Field(name, value) => format!("{name}: {value}"),
        }
    }
}

fn whole_numbers(min: i128, max: i128) -> Vec<String> {
    let ends = [min - 1, min, min + 1, max - 1, max, max + 1];
    let others = [
        -1,
        0,
        1,
        2,
        3,
        10,
        16,
        100,
        255,
        256,
        257,
        1000,
        1 << 31,
        1 << 63,
    ];
    let numbers = ends.into_iter().chain(others);
    let mut texts: Vec<String> = numbers.map(|number| number.to_string()).collect();
    texts.extend(["", "many", "1.5", "0x10", " 7", "1e3", "true"].map(str::to_owned));
    texts.push("9".repeat(60));
    texts
}

/// Texts that a parameter of that name may be set to, by its meaning.
fn texts(name: &str) -> &'static [&'static str] {
    match name {
        "model_path" => &[
            "demo.gguf",
            "no.gguf",
            "/",
            "/dev/zero",
            "/proc/self/mem",
            "../1/demo.gguf",
            ".",
        ],
        "speculative_model" => &["demo.gguf", "no.gguf", "/dev/null"],
        "chat_template_file" => &["no.jinja", "/", "demo.gguf", "/dev/zero", "/proc/self/maps"],
        "chat_template" => &[
            "{% for %}",
            "{{ 1 / 0 }}",
            "x",
            "{{ messages[9].content }}",
            "{% for m in messages %}{{ m.content }}{% endfor %}",
        ],
        "override_tensor" => &["ffn=CPU", "ffn", "(=CPU", ".*=CPU", "ffn=CUDA0", "=", ","],
        "devices" => &["none", "CUDA0", "CPU", ",", "CUDA0,CUDA0"],
        "tensor_split" => &["1", "1,1", "0,0", "-1", "nan", "1/0", "x"],
        "sampling_parameters" => &[
            "{}",
            "{",
            "[]",
            r#"{"max_tokens": 0}"#,
            r#"{"max_tokens": 16777217}"#,
            r#"{"temperature": 3e38}"#,
            r#"{"top_k": 0, "temperature": 0.5}"#,
            r#"{"n_ctx": 5}"#,
            r#"{"repeat_last_n": -1, "repeat_penalty": 1.5}"#,
            r#"{"dry_multiplier": 1, "dry_penalty_last_n": -1}"#,
        ],
        _ => panic!("what may '{name}' be?"),
    }
}

fn values(parameter: &Parameter<Written>) -> Vec<String> {
    let own = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    match &parameter.kind {
        Kind::Whole {
            min,
            max: Limit::At(max),
            ..
        } => whole_numbers(*min, *max),
        Kind::WholeOrWord { max, words, .. } => {
            let mut values = whole_numbers(0, *max);
            values.extend(words.iter().map(|(word, _)| (*word).to_owned()));
            values
        }
        Kind::Flag { .. } => own(&["true", "false", "1", "no", ""]),
        Kind::Choice { names, .. } => [own(names), own(&["", "NONE", "q9_9"])].concat(),
        Kind::Text { max_bytes, .. } => {
            let mut values = own(texts(parameter.name));
            values.extend([
                String::new(),
                "x".repeat(*max_bytes),
                "x".repeat(max_bytes + 1),
            ]);
            values
        }
        _ => panic!("what may '{}' be?", parameter.name),
    }
}

fn fields() -> Vec<Setting> {
    let groups = [
        json!([]),
        json!([{"kind": "KIND_CPU", "count": 0}]),
        json!([{"kind": "KIND_CPU", "count": 2}]),
        json!([{"kind": "KIND_CPU", "count": 16}]),
        json!([{"kind": "KIND_CPU", "count": 17}]),
        json!([{"kind": "KIND_CPU", "count": 256}]),
        json!([{"kind": "KIND_CPU", "count": 257}]),
        json!([{"kind": "KIND_CPU", "count": -1}]),
        json!([{"kind": "KIND_CPU", "count": "99999999999999999999"}]),
        json!([{"kind": "KIND_CPU", "count": 200}, {"kind": "KIND_CPU", "count": 57}]),
        json!([{"kind": "KIND_CPU", "passive": true}]),
        json!([{"kind": "KIND_CPU", "passive": true, "count": 256}, {"kind": "KIND_CPU"}]),
        json!([{"kind": "KIND_MODEL"}]),
        json!([{"kind": "KIND_AUTO", "count": 3}]),
        json!([{"kind": "KIND_GPU", "gpus": [0]}]),
        json!([{"kind": "KIND_GPU", "gpus": [-1]}]),
        json!([{"kind": "KIND_GPU", "passive": true, "gpus": [7]}, {"kind": "KIND_CPU"}]),
        json!([{"kind": "KIND_NONE"}]),
        json!([7]),
    ];
    let sizes = [-1, 0, 1, 2, 64, 1 << 31, i64::MAX];
    let groups = groups.map(|group| Setting::Field("instance_group", group));
    let sizes = sizes.map(|size| Setting::Field("max_batch_size", json!(size)));
    let others = [
        ("dynamic_batching", json!({})),
        (
            "dynamic_batching",
            json!({"preferred_batch_size": [4], "max_queue_delay_microseconds": 100}),
        ),
        ("sequence_batching", json!({})),
        ("ensemble_scheduling", json!({"step": []})),
        ("model_transaction_policy", json!({"decoupled": false})),
        ("max_batch_size", json!("many")),
        ("default_model_filename", json!("no.gguf")),
        ("cc_model_filenames", json!({"9.0": "a.gguf"})),
        ("batch_input", json!([{}])),
        ("model_operations", json!({})),
        ("optimization", json!({"priority": "PRIORITY_MAX"})),
        ("a_field_of_tomorrow", json!([1])),
    ];
    let others = others.map(|(name, value)| Setting::Field(name, value));
    groups.into_iter().chain(sizes).chain(others).collect()
}

/// Numbers that are the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((mixed >> 33) % n as u64) as usize
    }
}

/// All configurations, the same in every process.
fn cases() -> Vec<Vec<Setting>> {
    let of_row = |row: &Parameter<Written>| {
        let name = row.name;
        let values = values(row).into_iter();
        values
            .map(|value| Setting::Parameter(name, value))
            .collect::<Vec<_>>()
    };
    let mut by_name: Vec<Vec<Setting>> = TABLE.rows.iter().map(of_row).collect();
    let fields = fields();
    let alone = by_name.iter().flatten().chain(&fields);
    let mut cases: Vec<Vec<Setting>> = alone.map(|setting| vec![setting.clone()]).collect();
    by_name.push(fields);
    // Those that sizes hang on meet one another more often.
    let sizes = [
        "n_ctx",
        "n_parallel",
        "n_batch",
        "n_ubatch",
        "kv_unified",
        "flash_attn",
        "speculative_method",
    ];
    let is_size = |settings: &&Vec<Setting>| sizes.contains(&settings[0].name());
    let of_sizes: Vec<Vec<Setting>> = by_name.iter().filter(is_size).cloned().collect();
    let mut random = Random(1);
    while cases.len() < N_CASES {
        let among = if random.below(2) == 0 {
            &by_name
        } else {
            &of_sizes
        };
        let n_settings = 2 + random.below(2);
        let mut case: Vec<Setting> = Vec::new();
        for _ in 0..n_settings {
            let settings = &among[random.below(among.len())];
            if case.iter().all(|set| set.name() != settings[0].name()) {
                case.push(settings[random.below(settings.len())].clone());
            }
        }
        cases.push(case);
    }
    cases
}

fn config(case: &[Setting]) -> Config {
    let mut config = Config::default();
    config.parameters.retain(|(name, _)| *name == "n_threads");
    for setting in case {
        config = match setting {
            Setting::Parameter(name, value) => config.with(name, value.clone()),
            Setting::Field(name, value) => config.field(name, value.clone()),
        };
    }
    config
}

/// Says what is wrong with how a configuration was taken; `None` where nothing is.
fn fault(server: &Server, case: &[Setting]) -> Option<String> {
    let names = |message: &str| case.iter().any(|setting| setting.is_named_in(message));
    match server.load(&config(case)) {
        Err((_, message)) if names(&message) => None,
        Err((code, message)) => Some(format!("refused with code {code}: {message}")),
        Ok(served) => {
            let outcome = answer(&served);
            served.unload();
            match &outcome.error {
                Some((_, message)) if !names(message) => Some(format!("answered with: {message}")),
                None if outcome.replies.is_empty() => Some("answered with nothing".to_owned()),
                _ => None,
            }
        }
    }
}

fn answer(served: &Served) -> Outcome {
    let ask = Ask::text("Hi").with("max_tokens", Given::Int(2));
    served.answer(&ask).in_order()
}

/// Loads a part of the configurations, saying which before each, and what was wrong after it.
fn be_child(part: &str) {
    let (start, end) = part.split_once("..").expect("a range");
    let (start, end): (usize, usize) = (
        start.parse().expect("a start"),
        end.parse().expect("an end"),
    );
    let begun = Arc::new(Mutex::new(Instant::now()));
    let watched = Arc::clone(&begun);
    std::thread::spawn(move || {
        while watched.lock().expect("nobody panics with it").elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(100));
        }
        eprintln!("it takes longer than {PATIENCE:?}");
        std::process::abort();
    });
    let server = Server::start();
    for (index, case) in cases().iter().enumerate().take(end).skip(start) {
        *begun.lock().expect("nobody panics with it") = Instant::now();
        println!("\ncase {index}");
        if let Some(fault) = fault(&server, case) {
            println!("\nfault {}", fault.replace('\n', " "));
        }
    }
    server.stop();
    println!("\nend");
}

/// What a child has said of its part.
struct Report {
    faults: Vec<(usize, String)>,
    /// Where it ended before its time.
    ended_at: Option<usize>,
}

fn run_child(start: usize, end: usize) -> Report {
    let program = std::env::current_exe().expect("the test's own path");
    let mut child = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -v {MAX_CHILD_KIB} && exec \"$0\" \"$@\""))
        .arg(program)
        .args([
            "no_configuration_ends_the_server",
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(PART, format!("{start}..{end}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child can be started");
    let mut stderr = child.stderr.take().expect("it is piped");
    let words = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stderr.read_to_end(&mut bytes).expect("a pipe can be read");
        String::from_utf8_lossy(&bytes).into_owned()
    });
    let (mut at, mut faults, mut is_done) = (start, Vec::new(), false);
    for line in BufReader::new(child.stdout.take().expect("it is piped")).lines() {
        let line = line.expect("a child writes UTF-8");
        if let Some(index) = line.strip_prefix("case ") {
            at = index.parse().expect("an index");
        } else if let Some(fault) = line.strip_prefix("fault ") {
            faults.push((at, fault.to_owned()));
        } else if line == "end" {
            is_done = true;
        }
    }
    let status = child.wait().expect("a child can be waited for");
    let words = words.join().expect("the reader does not panic");
    if !is_done || !status.success() {
        let last: Vec<&str> = words.lines().rev().take(12).collect();
        let last: Vec<&str> = last.into_iter().rev().collect();
        faults.push((
            at,
            format!("the process ended with {status}: {}", last.join("\n    ")),
        ));
    }
    Report {
        faults,
        ended_at: (!is_done).then_some(at),
    }
}

/// Runs a part to its end, whoever ends on the way.
fn sweep(start: usize, end: usize) -> Vec<(usize, String)> {
    let (mut start, mut faults) = (start, Vec::new());
    while start < end && faults.len() < MAX_FAULTS {
        let report = run_child(start, end);
        faults.extend(report.faults);
        start = report.ended_at.map_or(end, |at| at + 1);
    }
    faults
}

#[test]
fn no_configuration_ends_the_server() {
    if let Ok(part) = std::env::var(PART) {
        return be_child(&part);
    }
    let cases = cases();
    let next = AtomicUsize::new(0);
    let faults = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..N_CHILDREN {
            scope.spawn(|| {
                loop {
                    let start = next.fetch_add(N_A_CHILD, Ordering::Relaxed);
                    if start >= cases.len() || faults.lock().expect("no panic").len() >= MAX_FAULTS
                    {
                        return;
                    }
                    let found = sweep(start, cases.len().min(start + N_A_CHILD));
                    faults.lock().expect("no panic").extend(found);
                }
            });
        }
    });
    let faults = faults.into_inner().expect("no panic");
    let show = |(index, fault): &(usize, String)| {
        let settings: Vec<String> = cases[*index].iter().map(Setting::show).collect();
        format!("{}\n    {fault}\n", settings.join(", "))
    };
    let shown: Vec<String> = faults.iter().map(show).collect();
    assert!(
        shown.is_empty(),
        "of {} configurations:\n{}",
        cases.len(),
        shown.join("\n")
    );
}
