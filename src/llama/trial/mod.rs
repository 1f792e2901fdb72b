//! A trial of a model in a process of its own, before the server's process does the same.
//!
//! llama.cpp answers what it cannot do with the end of the process, and code that was compiled for a
//! processor may not work on it. So a load first runs, in a process that may die, what it is about to
//! run: the code that this processor is given, on a tiny model with the same kinds of weights, and
//! then the file itself. Called where a model is loaded, on any thread; nothing of the model stays.
//! What has passed in this process is not tried again.

mod child;
mod exchange;
mod probe;
mod process;

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::process::Program;

use self::exchange::{Subject, Trial};
use self::process::{Ending, Outcome};
use super::backend;
use super::context::ContextParams;
use super::gguf::ModelFile;
use super::{objects, threads};

/// Rows of the tiny model at most: all that llama.cpp's own default computes together.
const MAX_ROWS: usize = 512;
/// Files up to this size compute a row and [`FILE_ROWS`]; larger ones a row alone, as a second step would
/// take longer than a tenth of the load.
const MAX_BYTES_FOR_MANY_ROWS: u64 = 256 << 20;
/// Rows that a file's graph is made for.
const FILE_ROWS: usize = 32;

/// How long a trial may take, and the bytes of a file that make it a second longer: what a slow disk
/// or a busy machine needs, with a wide margin.
const PATIENCE: Duration = Duration::from_secs(60);
const BYTES_PER_SECOND: u64 = 10 << 20;

/// What passed in this process.
static PASSED: Mutex<Option<HashSet<String>>> = Mutex::new(None);

/// Why a model is not loaded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TrialError {
    /// The tiny model that has nothing of the file but the kinds of its weights.
    #[error(
        "a trial in a process of its own {ended} while {stage}, so llama.cpp's code for this \
         processor ({variant}) does not work on it: {advice}. Its last words: {last_words}"
    )]
    Code {
        ended: Ending,
        stage: String,
        variant: String,
        advice: String,
        last_words: String,
    },
    #[error(
        "model file '{}': a trial in a process of its own {ended} while {stage}, as the server \
         would have. llama.cpp's last words: {last_words}", file.display()
    )]
    File {
        file: PathBuf,
        ended: Ending,
        stage: String,
        last_words: String,
    },
}

/// Tries what loading this file would run.
///
/// `context` is as it will be, as far as it is known before the weights are loaded; of GPUs nothing
/// is tried. `available` are the bytes of memory that are free, if that is known.
///
/// # Errors
///
/// [`TrialError`] where the trial's process died or did not end. Where none can be started, a warning
/// says so, and where the trial was refused in an orderly way, so will the load be.
pub fn try_first(
    program: &Program,
    file: &ModelFile,
    context: &ContextParams,
    repack: bool,
    available: Option<u64>,
) -> Result<(), TrialError> {
    let n_threads = threads::count(context.n_threads, file.n_bytes);
    let context = ContextParams {
        n_slots: 1,
        n_draft_rows: 0,
        kv_unified: true,
        n_threads,
        n_threads_batch: match context.n_threads_batch {
            0 => n_threads,
            wish => threads::count(wish, file.n_bytes),
        },
        full_warm_up: true,
        ..context.clone()
    };
    let code = Trial {
        subject: Subject::Code {
            kinds: file.tensors.iter().filter_map(probe::kind_of).collect(),
            has_experts: file.n_experts_used > 0,
        },
        repack,
        context: with_rows(&context, context.n_ubatch.min(MAX_ROWS)),
    };
    code.pass(program, PATIENCE)?;
    let context = ContextParams {
        full_warm_up: file.n_bytes <= MAX_BYTES_FOR_MANY_ROWS,
        ..context
    };
    let whole = Trial {
        subject: Subject::File {
            path: file.path().to_owned(),
            vocab_only: available.is_some_and(|available| file.n_bytes > available / 2),
        },
        // The code has passed: a copy of the weights would take as long as the load itself.
        repack: false,
        context: with_rows(&context, FILE_ROWS),
    };
    let patience = PATIENCE + Duration::from_secs(file.n_bytes / BYTES_PER_SECOND);
    whole.pass(program, patience)
}

fn with_rows(context: &ContextParams, n_rows: usize) -> ContextParams {
    ContextParams {
        n_cells: n_rows + 1,
        n_batch: n_rows + 1,
        n_ubatch: n_rows,
        ..context.clone()
    }
}

impl Trial {
    fn pass(&self, program: &Program, patience: Duration) -> Result<(), TrialError> {
        let key = self.key();
        let has_passed = |passed: &HashSet<String>| passed.contains(&key);
        if passed().as_ref().is_some_and(has_passed) {
            return Ok(());
        }
        match program.run(self, patience) {
            Outcome::Passed => {
                passed().get_or_insert_default().insert(key);
            }
            // The load will say why.
            Outcome::Refused => {}
            Outcome::NotStarted(error) => {
                log::warn!("loading without a trial before, as no process can be started: {error}");
            }
            Outcome::Died {
                ended,
                stage,
                last_words,
            } => return Err(self.failure(program, ended, stage, last_words)),
        }
        Ok(())
    }

    /// What it is known by: the file as it is now, and all that it is tried with.
    fn key(&self) -> String {
        let mut key = serde_json::to_string(self).unwrap_or_default();
        if let Subject::File { path, .. } = &self.subject
            && let Ok(found) = std::fs::metadata(path)
        {
            let (of, at) = (
                (found.dev(), found.ino()),
                (found.mtime(), found.mtime_nsec()),
            );
            key += &format!(" {of:?} {at:?} {}", found.size());
        }
        key
    }

    fn failure(
        &self,
        program: &Program,
        ended: Ending,
        stage: String,
        last_words: String,
    ) -> TrialError {
        match &self.subject {
            Subject::Code { .. } => TrialError::Code {
                ended,
                stage,
                variant: backend::variant(),
                advice: self.advice(program),
                last_words,
            },
            Subject::File { path, .. } => TrialError::File {
                file: path.clone(),
                ended,
                stage,
                last_words,
            },
        }
    }

    /// What to do where the code itself does not work: found out by one more trial.
    fn advice(&self, program: &Program) -> String {
        let plain = Self {
            repack: false,
            ..self.clone()
        };
        if self.repack && matches!(program.run(&plain, PATIENCE), Outcome::Passed) {
            return "set the parameter 'repack' to \"false\", with which it passes".to_owned();
        }
        match backend::cpu_module() {
            Some(module) => format!(
                "take the file '{}' away, and the next best one is used",
                module.display()
            ),
            None => {
                "build with PORTABLE=1, or use the folder that `make modules` builds".to_owned()
            }
        }
    }
}

fn passed() -> MutexGuard<'static, Option<HashSet<String>>> {
    PASSED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file of our library, where it is one that a process can be started from: not in a program that
/// it is linked into.
pub fn own_program() -> Option<Program> {
    let own = objects::own_file()?;
    let is_program = own.canonicalize().ok() == std::env::current_exe().ok();
    (!is_program).then(|| Program::new(Path::new(&own)))
}

#[cfg(test)]
mod tests;
