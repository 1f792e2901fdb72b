//! The child's side of a trial: our library started as a program, by the loader.
//!
//! The parent reads what is printed: a line for each stage, and the verdict. Whatever kills this
//! process would have killed the server.

use std::ffi::{CStr, c_char, c_int};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::exchange::{ARGUMENT, PASSED, REFUSED, STAGE, Subject, Trial};
use super::probe;
use crate::llama::{ContextParams, LoadParams, Model, Runner};

/// Bytes of memory that a trial may take for itself, files that it maps aside.
const MAX_BYTES: libc::rlim_t = 4 << 30;

// Where the loader enters the library, as build.rs tells the linker: with the arguments on the stack,
// as for any program.
#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".globl triton_llm_start",
    ".hidden triton_llm_start",
    ".type triton_llm_start, @function",
    "triton_llm_start:",
    "xor ebp, ebp",
    "mov r9, rdx",
    "pop rsi",
    "mov rdx, rsp",
    "and rsp, -16",
    "push rax",
    "push rsp",
    "xor r8d, r8d",
    "xor ecx, ecx",
    "mov rdi, qword ptr [rip + {main}@GOTPCREL]",
    "call qword ptr [rip + __libc_start_main@GOTPCREL]",
    "hlt",
    main = sym main,
);
#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".globl triton_llm_start",
    ".hidden triton_llm_start",
    ".type triton_llm_start, %function",
    "triton_llm_start:",
    "mov x29, #0",
    "mov x30, #0",
    "mov x5, x0",
    "ldr x1, [sp]",
    "add x2, sp, #8",
    "mov x6, sp",
    "mov x3, #0",
    "mov x4, #0",
    "adrp x0, :got:{main}",
    "ldr x0, [x0, :got_lo12:{main}]",
    "bl __libc_start_main",
    "brk #0",
    main = sym main,
);

/// # Safety
///
/// `arguments` are `n_arguments` C strings that live as long as the process.
unsafe extern "C" fn main(n_arguments: c_int, arguments: *const *const c_char) -> c_int {
    let n_arguments = usize::try_from(n_arguments).unwrap_or(0);
    // SAFETY: the index is below `n_arguments`, so it is that of a C string that lives, says the caller.
    let arguments = (0..n_arguments).map(|index| unsafe { CStr::from_ptr(*arguments.add(index)) });
    let arguments: Vec<_> = arguments.map(CStr::to_string_lossy).collect();
    let trial = match &arguments[..] {
        [_, argument, trial] if argument == ARGUMENT => serde_json::from_str::<Trial>(trial).ok(),
        _ => None,
    };
    let Some(trial) = trial else {
        eprintln!("this is a backend for Triton Inference Server: it is no program");
        return 2;
    };
    restrict();
    if log::set_logger(&Stderr).is_ok() {
        log::set_max_level(LevelFilter::Warn);
    }
    match run(&trial) {
        Ok(()) => say(PASSED),
        Err(error) => {
            log::warn!("{error}");
            say(REFUSED);
        }
    }
    // SAFETY: ends the process. The destructors that `exit` would run are not part of what is tried.
    unsafe { libc::_exit(0) }
}

fn say(line: &str) {
    // Where nobody hears it, nothing depends on it.
    let _ = writeln!(std::io::stdout(), "{line}");
    let _ = std::io::stdout().flush();
}

fn stage(what: &str) {
    say(&format!("{STAGE}{what}"));
}

/// Sees to it that a trial harms nobody else: it ends with the server, is killed first where memory
/// is short, leaves no core file, and holds nothing of what the server has open.
fn restrict() {
    let no_core = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let memory = libc::rlimit {
        rlim_cur: MAX_BYTES,
        rlim_max: MAX_BYTES,
    };
    // SAFETY: the calls take numbers, and structures that are valid for the calls; nothing here has
    // opened a file above the standard ones.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::setrlimit(libc::RLIMIT_CORE, &no_core);
        libc::setrlimit(libc::RLIMIT_DATA, &memory);
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0);
    }
    // Without it the kernel chooses by size, and that is right, too.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
}

fn run(trial: &Trial) -> Result<(), String> {
    let mut params = LoadParams {
        // No longer than this process lives.
        use_mmap: Some(true),
        repack: trial.repack,
        ..LoadParams::default()
    };
    let path = match &trial.subject {
        Subject::Code { kinds, has_experts } => {
            let kinds = kinds.iter().copied().collect::<Vec<_>>();
            stage(&format!(
                "it computed {} with weights in {}",
                rows(&trial.context),
                probe::names(&kinds)
            ));
            probe::write(&kinds, *has_experts).map_err(|error| error.to_string())?
        }
        Subject::File { path, vocab_only } => {
            stage("it loaded the file");
            params.vocab_only = *vocab_only;
            path.clone()
        }
    };
    let model = load(&path, &params)?;
    if params.vocab_only {
        return Ok(());
    }
    if let Subject::File { .. } = trial.subject {
        stage(&format!("it computed {}", rows(&trial.context)));
    }
    let runner = Runner::new(Arc::new(model), &trial.context);
    runner.map(drop).map_err(|error| error.to_string())
}

/// What is computed when a runner begins.
fn rows(context: &ContextParams) -> String {
    match context.full_warm_up {
        true => format!("one row and {} together", context.n_ubatch),
        false => "one row".to_owned(),
    }
}

fn load(path: &Path, params: &LoadParams) -> Result<Model, String> {
    Model::load(path, params).map_err(|error| error.to_string())
}

/// Writes warnings and errors, llama.cpp's among them, to where the parent reads its last words.
struct Stderr;

impl Log for Stderr {
    fn enabled(&self, metadata: &Metadata) -> bool {
        metadata.level() <= Level::Warn
    }

    fn log(&self, record: &Record) {
        if self.enabled(record.metadata()) {
            eprintln!("{}", record.args());
        }
    }

    fn flush(&self) {}
}
