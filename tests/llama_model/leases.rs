//! Model files that somebody changes while a model is mapped from them.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use triton_llm::llama::{ContextParams, LoadParams, Model, Runner};

use crate::demo::known_answers;
use crate::running::generate;
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
