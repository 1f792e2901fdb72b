//! Model files that somebody changes while a model is mapped from them.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{self, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use triton_llm::engine::SequenceId;
use triton_llm::llama::{ContextParams, LoadParams, Model, RunError, Runner};

use crate::demo::known_answers;
use crate::running::{generate, greedy, plan, row};
use crate::writer::Folder;

/// The demo model in a file of its own.
fn copy(folder: &Folder) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("triton_repo/llm_decoupled/1/demo.gguf");
    folder.write(
        "model.gguf",
        &fs::read(path).expect("the demo model can be read"),
    )
}

fn load(path: &Path, use_mmap: Option<bool>) -> Arc<Model> {
    let params = LoadParams {
        use_mmap,
        ..LoadParams::default()
    };
    Arc::new(Model::load(path, &params).unwrap_or_else(|error| panic!("{error}")))
}

fn is_mapped(path: &Path) -> bool {
    let maps = fs::read_to_string("/proc/self/maps").expect("Linux lists what is mapped");
    maps.contains(path.to_str().expect("is ASCII"))
}

/// Whether the file system of temporary files has leases, as those of disks do.
fn has_leases(folder: &Folder) -> bool {
    let path = copy(folder);
    let model = load(&path, None);
    let mapped = is_mapped(&path);
    drop(model);
    mapped
}

/// Answers the first known prompt.
fn check_answer(model: &Arc<Model>, when: &str) {
    let params = ContextParams {
        n_slots: 1,
        n_cells: 1024,
        n_threads: 1,
        ..ContextParams::default()
    };
    let (requests, expected) = known_answers(model);
    let runner = Runner::new(model.clone(), &params);
    let mut runner = runner.unwrap_or_else(|error| panic!("{when}: {error}"));
    let answer = generate(&mut runner, model, 1, &requests[..1]);
    assert_eq!(answer, expected[..1], "{when}");
}

#[test]
fn a_file_may_be_changed_under_its_models() {
    let folder = Folder::new("leases");
    if !has_leases(&folder) {
        let path = copy(&folder);
        return check_answer(&load(&path, None), "read");
    }
    type Change = fn(&Path);
    let changes: [(&str, Change); 4] = [
        ("overwritten", |path| {
            fs::write(path, vec![b'x'; 2_000_000]).expect("can be written")
        }),
        ("cut", |path| drop(File::create(path).expect("can be cut"))),
        ("appended to", |path| {
            let file = OpenOptions::new().append(true).open(path);
            file.and_then(|mut file| file.write_all(b"x"))
                .expect("can be written");
        }),
        ("cut by its name", |path| {
            let file = OpenOptions::new().write(true).open(path);
            file.and_then(|file| file.set_len(100)).expect("can be cut");
        }),
    ];
    for (what, change) in changes {
        let path = copy(&folder);
        // Two have it mapped.
        let models = [load(&path, None), load(&path, None)];
        assert!(is_mapped(&path), "{what}");
        let begin = Instant::now();
        change(&path);
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "{what}: held for too long"
        );
        assert!(!is_mapped(&path), "{what}");
        models.iter().for_each(|model| check_answer(model, what));
        let [one, other] = models;
        drop(one);
        check_answer(&other, what);
    }
}

/// Who has it open for writing already keeps the lease away.
#[test]
fn a_file_that_cannot_be_held_is_read() {
    let folder = Folder::new("no-leases");
    let path = copy(&folder);
    let writer = OpenOptions::new()
        .append(true)
        .open(&path)
        .expect("can be opened");
    let model = load(&path, None);
    assert!(!is_mapped(&path), "it is read");
    check_answer(&model, "read");
    let mapped = load(&path, Some(true));
    assert!(is_mapped(&path), "as it was asked for");
    check_answer(&mapped, "mapped");
    drop((mapped, writer));
    fs::write(&path, "x").expect("can be written");
    check_answer(&model, "read, then overwritten");
}

/// Without memory for a copy the model is lost, and says so; the process goes on.
#[test]
fn a_model_that_cannot_be_kept_answers_with_an_error() {
    const CHILD: &str = "LLAMA_MODEL_LOST";
    if env::var_os(CHILD).is_some() {
        return lose();
    }
    // A process of its own, as what takes its memory is a limit of all of it.
    let child = Command::new(env::current_exe().expect("it runs"))
        .args([
            "--exact",
            "leases::a_model_that_cannot_be_kept_answers_with_an_error",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{}: {said}", child.status);
}

fn lose() {
    let folder = Folder::new("lost");
    if !has_leases(&folder) {
        return;
    }
    let path = copy(&folder);
    let model = load(&path, None);
    assert!(is_mapped(&path));
    let params = ContextParams {
        n_slots: 1,
        n_cells: 64,
        n_threads: 1,
        ..ContextParams::default()
    };
    let runner = Runner::new(model.clone(), &params);
    let mut runner = runner.unwrap_or_else(|error| panic!("{error}"));
    let sampler = model.sampler(&greedy(), &[]);
    runner.open(SequenceId(1), sampler.expect("every rule can be made"));
    let computed = runner.run(&plan(&[0], &[row(1, 0, 5, 0, true)]));
    assert!(computed.is_ok(), "{computed:?}");

    let status = fs::read_to_string("/proc/self/status").expect("Linux says what it takes");
    let n_kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmSize:"))
        .and_then(|text| text.trim().trim_end_matches(" kB").parse().ok())
        .expect("a number of kB");
    // Less than is left free beside a copy.
    let limit = (n_kib << 10) + (32 << 20);
    let limited = Command::new("prlimit")
        .args([format!("--pid={}", process::id()), format!("--as={limit}")])
        .status();
    assert!(limited.is_ok_and(|status| status.success()));
    // Held for most of the time that the kernel allows, as memory may come free.
    fs::write(&path, vec![b'x'; 2_000_000]).expect("can be written");
    assert!(!is_mapped(&path));
    let computed = runner.run(&plan(&[], &[row(1, 0, 5, 1, true)]));
    assert_eq!(computed, Err(RunError::Lost));
}
