//! The parent's side of a trial: starts the process, and waits for what comes of it.

use std::fmt;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use std::os::unix::process::ExitStatusExt as _;

use super::exchange::{ARGUMENT, PASSED, REFUSED, STAGE, Trial};
use crate::llama::objects;

/// How long it takes at most to hear out a process that was killed.
const PATIENCE_FOR_OUTPUT: Duration = Duration::from_secs(5);

/// Lines and characters that are kept of what the process said last.
const N_LAST_LINES: usize = 3;
const MAX_LAST_CHARS: usize = 1024;

/// Our library, run as a program.
#[derive(Clone, Debug)]
pub struct Program {
    library: PathBuf,
}

/// What became of a trial.
#[derive(Debug)]
pub(super) enum Outcome {
    Passed,
    Refused,
    NotStarted(io::Error),
    Died {
        ended: Ending,
        stage: String,
        last_words: String,
    },
}

/// How a process that was to say more ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ending {
    Signal(i32),
    Status(i32),
    /// Somebody else waited for it.
    Unknown,
    /// It was ended once this time was over.
    Late(Duration),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "ended with signal {signal} ({name})"),
                None => write!(f, "ended with signal {signal}"),
            },
            Self::Status(status) => write!(f, "ended with status {status}"),
            Self::Unknown => write!(f, "ended"),
            Self::Late(patience) => {
                write!(f, "had not ended after {} seconds", patience.as_secs())
            }
        }
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGILL => "an instruction that the processor does not have or take",
        libc::SIGABRT => "it gave up",
        libc::SIGBUS => "memory that is not there",
        libc::SIGFPE => "a division by zero",
        libc::SIGKILL => "killed, as where memory is short",
        libc::SIGSEGV => "memory that is not its own",
        _ => return None,
    })
}

impl From<ExitStatus> for Ending {
    fn from(status: ExitStatus) -> Self {
        match (status.signal(), status.code()) {
            (Some(signal), _) => Self::Signal(signal),
            (None, Some(code)) => Self::Status(code),
            (None, None) => Self::Unknown,
        }
    }
}

impl Program {
    /// A library of ours, as cargo or `make` built it.
    pub fn new(library: &Path) -> Self {
        Self {
            library: library.to_owned(),
        }
    }

    /// Runs a trial to its end, for `patience` at most.
    pub(super) fn run(&self, trial: &Trial, patience: Duration) -> Outcome {
        let mut child = match self.start(trial) {
            Ok(child) => child,
            Err(error) => return Outcome::NotStarted(error),
        };
        let heard = match hear(&mut child) {
            Ok(heard) => heard,
            Err(error) => {
                let _ = child.kill().and_then(|()| child.wait());
                return Outcome::NotStarted(error);
            }
        };
        let mut said = heard.recv_timeout(patience);
        let is_late = said.is_err();
        if is_late {
            // Whoever holds its output goes with it. Where it has just ended, this does nothing.
            let _ = child.kill();
            said = heard.recv_timeout(PATIENCE_FOR_OUTPUT);
        }
        let ended = match child.wait() {
            _ if is_late => Ending::Late(patience),
            Ok(status) => status.into(),
            Err(_) => Ending::Unknown,
        };
        let said = said.unwrap_or_default();
        let last = said.lines.last().map(String::as_str).unwrap_or_default();
        if last == PASSED {
            return Outcome::Passed;
        }
        if last == REFUSED {
            return Outcome::Refused;
        }
        let stage = last.strip_prefix(STAGE).unwrap_or("it started");
        Outcome::Died {
            ended,
            stage: stage.to_owned(),
            last_words: said.last_words,
        }
    }

    fn start(&self, trial: &Trial) -> io::Result<Child> {
        let loader = objects::loader().ok_or_else(|| io::Error::other("there is no loader"))?;
        Command::new(loader)
            .arg(&self.library)
            .arg(ARGUMENT)
            .arg(serde_json::to_string(trial)?)
            // Of GPUs nothing is tried, and a debugger would only take time.
            .env("CUDA_VISIBLE_DEVICES", "")
            .env("GGML_NO_BACKTRACE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }
}

/// What a process has said.
#[derive(Default)]
struct Said {
    lines: Vec<String>,
    last_words: String,
}

/// Hears a process to its end.
fn hear(child: &mut Child) -> io::Result<Receiver<Said>> {
    let (sender, receiver) = mpsc::channel();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    // Both at once, as either may be full first. Nobody listens any more where it is too late.
    let errors = thread::Builder::new().spawn(move || stderr.map(last_words))?;
    thread::Builder::new().spawn(move || {
        let lines = BufReader::new(stdout?).lines().map_while(Result::ok);
        let lines = lines.collect();
        let last_words = errors.join().ok()??;
        sender.send(Said { lines, last_words }).ok()
    })?;
    Ok(receiver)
}

/// The last lines of what can be read, as one.
fn last_words(mut from: impl io::Read) -> String {
    let mut text = Vec::new();
    let mut some = [0; 4096];
    while let Ok(n_bytes @ 1..) = from.read(&mut some) {
        text.extend_from_slice(&some[..n_bytes]);
        let n_old = text.len().saturating_sub(16 * MAX_LAST_CHARS);
        text.drain(..n_old);
    }
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let last = lines[lines.len().saturating_sub(N_LAST_LINES)..].join(" / ");
    match last.is_empty() {
        true => "none".to_owned(),
        false => last.chars().take(MAX_LAST_CHARS).collect(),
    }
}
