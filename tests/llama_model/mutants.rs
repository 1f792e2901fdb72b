//! Thousands of damaged model files: each is refused with a reason, or loads and computes.
//!
//! llama.cpp may end the process or hang, so the files are tried in children, which are this program again. A
//! file that kills one is kept and named; `mutate` makes the same file of the same number.

use std::env;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use triton_llm::engine::SequenceId;
use triton_llm::llama::{ChatTemplate, ContextParams, FlashAttention, LoadParams, Model, Runner};
use triton_llm::protocol::{Message, Role};

use crate::mutate::mutant;
use crate::running::{greedy, plan, row};
use crate::writer::Folder;

const N_MUTANTS: u64 = 5000;
const N_CHILDREN: u64 = 2;

/// For one file, on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(20);

/// What a child is to try: the first number, the one after the last, and its folder.
const CHILD: &str = "LLAMA_MODEL_MUTANTS";

/// Memory in KiB that a child may take: a file that makes it take more has killed it.
const MAX_KIB: u64 = 16 << 20;

#[test]
fn no_mutant_ends_the_process() {
    if let Ok(work) = env::var(CHILD) {
        return try_all(&work);
    }
    let n_each = N_MUTANTS.div_ceil(N_CHILDREN);
    let threads: Vec<_> = (0..N_CHILDREN)
        .map(|n| {
            let numbers = n * n_each..N_MUTANTS.min((n + 1) * n_each);
            thread::spawn(move || supervise(numbers.start, numbers.end))
        })
        .collect();
    let mut deaths = Vec::new();
    let mut n_accepted = 0;
    for thread in threads {
        let (some, n) = thread.join().expect("it only waits for children");
        deaths.extend(some);
        n_accepted += n;
    }
    assert!(
        deaths.is_empty(),
        "{}:\n{}",
        deaths.len(),
        deaths.join("\n")
    );
    // Else the files are so damaged that nothing is tried.
    assert!(n_accepted > N_MUTANTS / 50, "{n_accepted} were accepted");
}

/// Has children try the numbers, a new one after each death; returns what they died of and how many
/// files they accepted.
fn supervise(first: u64, end: u64) -> (Vec<String>, u64) {
    let folder = Folder::new(&format!("mutants-{first}"));
    let mut deaths = Vec::new();
    let mut n_accepted = 0;
    let mut next = first;
    while next < end {
        let outcome = wait(&mut spawn(next, end, &folder.0), &folder.0);
        n_accepted += accepted(&folder.0);
        let Err(death) = outcome else {
            break;
        };
        let number = progress(&folder.0).unwrap_or(next);
        let (what, bytes) = mutant(number);
        let kept = env::temp_dir().join(format!("llama-mutant-{number}.gguf"));
        fs::write(&kept, bytes).expect("writable");
        deaths.push(format!("{number}, {what}, {}: {death}", kept.display()));
        next = number + 1;
    }
    (deaths, n_accepted)
}

fn spawn(next: u64, end: u64, folder: &Path) -> Child {
    let program = env::current_exe().expect("it runs");
    let said = File::create(folder.join("said")).expect("writable");
    let errors = said.try_clone().expect("an open file");
    let limits = format!("ulimit -c 0; ulimit -v {MAX_KIB}; exec \"$0\" \"$@\"");
    Command::new("sh")
        .args(["-c", &limits])
        .arg(program)
        .args([
            "--exact",
            "mutants::no_mutant_ends_the_process",
            "--nocapture",
        ])
        .env(CHILD, format!("{next} {end} {}", folder.display()))
        .stdout(said)
        .stderr(errors)
        .spawn()
        .expect("there is a shell")
}

/// Waits until the child has tried all; an error is why it has not.
fn wait(child: &mut Child, folder: &Path) -> Result<(), String> {
    let mut last = (None, Instant::now());
    loop {
        if let Some(status) = child.try_wait().expect("it was started") {
            return match status.success() {
                true => Ok(()),
                false => Err(format!("{status}: {}", last_words(folder))),
            };
        }
        let now = progress(folder);
        if now != last.0 {
            last = (now, Instant::now());
        }
        if last.1.elapsed() > TIME_LIMIT {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("hung: {}", last_words(folder)));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn number_in(path: PathBuf) -> Option<u64> {
    fs::read_to_string(path).ok()?.parse().ok()
}

/// The number that the child is at.
fn progress(folder: &Path) -> Option<u64> {
    number_in(folder.join("at"))
}

fn accepted(folder: &Path) -> u64 {
    number_in(folder.join("accepted")).unwrap_or(0)
}

fn last_words(folder: &Path) -> String {
    let mut said = Vec::new();
    if let Ok(mut file) = File::open(folder.join("said")) {
        let _ = file.read_to_end(&mut said);
    }
    let said = String::from_utf8_lossy(&said);
    let telling = |line: &&str| line.contains("GGML_") || line.contains("panicked");
    let line = said.lines().rfind(telling).or(said.lines().next_back());
    line.unwrap_or_default().to_owned()
}

/// A child's part.
fn try_all(work: &str) {
    let parts: Vec<_> = work.splitn(3, ' ').collect();
    let [first, end, folder] = parts[..] else {
        panic!("bad work {work:?}");
    };
    let number = |text: &str| text.parse::<u64>().expect("a number");
    let (numbers, folder) = (number(first)..number(end), PathBuf::from(folder));
    let try_them = move || {
        let mut n_accepted = 0;
        for number in numbers {
            fs::write(folder.join("at"), number.to_string()).expect("writable");
            let path = folder.join("mutant.gguf");
            fs::write(&path, mutant(number).1).expect("writable");
            if try_one(&path, number.is_multiple_of(2)) {
                n_accepted += 1;
                let text = n_accepted.to_string();
                fs::write(folder.join("accepted"), text).expect("writable");
            }
        }
    };
    // Tokenizing needs a large stack.
    let thread = thread::Builder::new().stack_size(64 << 20).spawn(try_them);
    assert!(thread.expect("a thread starts").join().is_ok());
}

/// Whether the file is accepted; then one row and several are computed with it.
pub fn try_one(path: &Path, use_mmap: bool) -> bool {
    let params = LoadParams {
        use_mmap: Some(use_mmap),
        ..LoadParams::default()
    };
    let model = match Model::load(path, &params) {
        Ok(model) => Arc::new(model),
        Err(error) => {
            assert!(error.to_string().contains("model file"), "{error}");
            return false;
        }
    };
    if let Some(source) = model.chat_template()
        && let Ok(template) = ChatTemplate::new(source, model.bos_text(), model.eos_text())
    {
        let _ = template.render(&[Message::new(Role::User, "Hello")]);
    }
    let tokens = model.tokenize_prompt("the quick, 12 \u{e9}<s>\n b");
    let tokens = tokens.unwrap_or_default();
    let params = ContextParams {
        n_slots: 2,
        n_cells: 256,
        n_batch: 16,
        n_ubatch: 16,
        n_threads: 1,
        flash_attention: match use_mmap {
            true => FlashAttention::Auto,
            false => FlashAttention::Off,
        },
        ..ContextParams::default()
    };
    let Ok(mut runner) = Runner::new(model.clone(), &params) else {
        return false;
    };
    let token = |at: usize| tokens.get(at).map_or(0, |token| token.0);
    for sequence in [1, 2] {
        let sampler = model
            .sampler(&greedy(), &tokens)
            .expect("every rule can be made");
        runner.open(SequenceId(sequence), sampler);
    }
    // Errors are answers.
    let _ = runner.run(&plan(&[0], &[row(1, 0, token(0), 0, true)]));
    let rows: Vec<_> = (0..5)
        .map(|pos| row(2, 1, token(pos), pos as u32, pos == 4))
        .chain([row(1, 0, token(1), 1, true)])
        .collect();
    let _ = runner.run(&plan(&[1], &rows));
    true
}
