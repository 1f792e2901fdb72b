//! What llama.cpp wants set once per process: its initialisation, its log, its last words.
//!
//! [`init`] may be called from any thread, any number of times; the callbacks run on whatever
//! thread llama.cpp logs or aborts on. They must not unwind: above them is C.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_sys_2 as sys;
use log::Level;

/// The name under which llama.cpp's lines reach the `log` crate.
pub(super) const TARGET: &str = "llama.cpp";

/// Bytes of a line after which it is logged although its end has not come.
const MAX_LINE_BYTES: usize = 16 * 1024;

/// Kept for ever: freeing it would take llama.cpp away from models still loaded.
static BACKEND: OnceLock<Result<LlamaBackend, NoModule>> = OnceLock::new();

static LINE: Mutex<Line> = Mutex::new(Line {
    level: Level::Info,
    text: String::new(),
});

thread_local! {
    static FIRST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Why llama.cpp cannot be used: it is built in modules, and none of them is for this CPU.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no module for this machine's CPU in {}", .0.display())]
pub struct NoModule(pub PathBuf);

/// Initialises llama.cpp on the first call and sends its log to the `log` crate.
///
/// # Errors
///
/// [`NoModule`], only where llama.cpp is built in modules.
pub fn init() -> Result<(), NoModule> {
    backend().map(|_| ())
}

/// Whether this build and machine have a GPU that llama.cpp can use.
pub fn has_gpu() -> bool {
    let kinds = [
        sys::GGML_BACKEND_DEVICE_TYPE_GPU,
        sys::GGML_BACKEND_DEVICE_TYPE_IGPU,
    ];
    // SAFETY: llama.cpp is initialised, and its table of devices is not changed afterwards.
    let is_there = |kind| unsafe { !sys::ggml_backend_dev_by_type(kind).is_null() };
    init().is_ok() && kinds.into_iter().any(is_there)
}

/// The instructions that llama.cpp's code for this processor uses, by its own names.
pub(super) fn variant() -> String {
    // SAFETY: the text is llama.cpp's, which writes it anew at each call; nobody else calls this.
    let text = unsafe { CStr::from_ptr(sys::llama_print_system_info()) };
    let text = text.to_string_lossy();
    let used = text
        .split('|')
        .filter_map(|part| part.trim().strip_suffix(" = 1"));
    used.collect::<Vec<_>>().join(" ")
}

/// Says what llama.cpp computes with, and where it leaves out the most of what the processor has.
fn log_variant() {
    let variant = variant();
    log::info!("llama.cpp computes with {variant}");
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has_amx = flags.split_whitespace().any(|flag| flag == "amx_int8");
    if has_amx && !variant.split(' ').any(|used| used == "AMX_INT8") {
        log::warn!(
            "this processor has AMX, which this build does not use, so prompts and many streams take \
             about twice as long: build on this machine with GCC from 11 on, or use the folder that \
             `make modules` builds"
        );
    }
}

/// The file of the module that computes on this processor, where llama.cpp is built in modules.
pub(super) fn cpu_module() -> Option<PathBuf> {
    // SAFETY: llama.cpp is initialised; a device's registry lives as long as the process.
    let registry = unsafe {
        let device = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
        (!device.is_null()).then(|| sys::ggml_backend_dev_backend_reg(device))
    };
    let file = super::objects::file_of(registry?.cast_const().cast())?;
    (super::objects::own_file()? != file).then_some(file)
}

pub(super) fn backend() -> Result<&'static LlamaBackend, NoModule> {
    let backend = BACKEND.get_or_init(|| {
        #[cfg(feature = "dynamic-backends")]
        super::modules::load()?;
        // SAFETY: the callbacks are functions, valid for ever, that ignore the user data.
        unsafe {
            sys::llama_log_set(Some(on_log), std::ptr::null_mut());
            sys::ggml_set_abort_callback(Some(on_abort));
        }
        let backend = LlamaBackend::init().expect("the OnceLock lets one initialisation through");
        log_variant();
        Ok(backend)
    });
    backend.as_ref().map_err(NoModule::clone)
}

/// Takes the first line that llama.cpp logged as an error on this thread since the last call.
///
/// Its C interface returns null without a reason. The reason is in the log, in the first of
/// several lines; empty if there is none.
pub(super) fn take_error() -> String {
    FIRST_ERROR.with_borrow_mut(std::mem::take)
}

unsafe extern "C" fn on_log(level: sys::ggml_log_level, text: *const c_char, _: *mut c_void) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a C string that lives for the duration of the call.
    let text = unsafe { CStr::from_ptr(text) };
    // A logger that panics loses the line; that is all that can be done here.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        let lines = LINE
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(level_of(level), &text.to_string_lossy());
        for (level, line) in lines {
            if level == Level::Error {
                FIRST_ERROR.with_borrow_mut(|first| {
                    if first.is_empty() {
                        line.clone_into(first);
                    }
                });
            }
            log::log!(target: TARGET, level, "{line}");
        }
    }));
}

unsafe extern "C" fn on_abort(message: *const c_char) {
    if message.is_null() {
        return;
    }
    // SAFETY: ggml passes a C string that lives for the duration of the call.
    let message = unsafe { CStr::from_ptr(message) };
    // The process ends when this returns, whatever happens here.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        log::error!(
            target: TARGET,
            "llama.cpp gives up and ends the process: {}",
            message.to_string_lossy()
        );
        log::logger().flush();
    }));
}

/// `None` for a continuation of the line before.
fn level_of(level: sys::ggml_log_level) -> Option<Level> {
    match level {
        sys::GGML_LOG_LEVEL_CONT => None,
        sys::GGML_LOG_LEVEL_ERROR => Some(Level::Error),
        sys::GGML_LOG_LEVEL_WARN => Some(Level::Warn),
        sys::GGML_LOG_LEVEL_DEBUG => Some(Level::Debug),
        _ => Some(Level::Info),
    }
}

/// A line that llama.cpp is still writing, piece by piece.
struct Line {
    level: Level,
    text: String,
}

impl Line {
    /// Adds a piece and returns the lines that are whole now.
    fn push(&mut self, level: Option<Level>, piece: &str) -> Vec<(Level, String)> {
        let mut whole = Vec::new();
        if let Some(level) = level {
            self.end(&mut whole);
            self.level = level;
        }
        let mut parts = piece.split('\n');
        self.text.push_str(parts.next().unwrap_or_default());
        for part in parts {
            self.end(&mut whole);
            self.text.push_str(part);
        }
        if self.text.len() > MAX_LINE_BYTES {
            self.end(&mut whole);
        }
        whole
    }

    fn end(&mut self, whole: &mut Vec<(Level, String)>) {
        let text = std::mem::take(&mut self.text);
        let line = text.trim_end();
        // Progress dots and blank lines say nothing in a server's log.
        if !line.trim_matches('.').is_empty() {
            whole.push((self.level, line.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_assembled() {
        use Level::{Error, Info, Warn};
        type Case = (
            &'static [(Option<Level>, &'static str)],
            &'static [(Level, &'static str)],
        );
        let cases: &[Case] = &[
            (&[(Some(Info), "one\n")], &[(Info, "one")]),
            (
                &[(Some(Warn), "a "), (None, "b"), (None, " c\n")],
                &[(Warn, "a b c")],
            ),
            (&[(Some(Info), "a\nb\n")], &[(Info, "a"), (Info, "b")]),
            (
                &[(Some(Info), "half"), (Some(Error), "new\n")],
                &[(Info, "half"), (Error, "new")],
            ),
            (&[(Some(Info), ".....\n"), (Some(Info), "\n")], &[]),
            (
                &[(Some(Info), "a\nb"), (None, "c\n")],
                &[(Info, "a"), (Info, "bc")],
            ),
        ];
        for (pieces, expected) in cases {
            let mut line = Line {
                level: Info,
                text: String::new(),
            };
            let got: Vec<_> = pieces
                .iter()
                .flat_map(|(level, piece)| line.push(*level, piece))
                .collect();
            let got: Vec<_> = got
                .iter()
                .map(|(level, text)| (*level, text.as_str()))
                .collect();
            assert_eq!(got, *expected, "{pieces:?}");
        }
    }

    #[test]
    fn a_line_without_end_is_bounded() {
        let mut line = Line {
            level: Level::Info,
            text: String::new(),
        };
        let n_lines: usize = (0..10_000)
            .map(|_| line.push(None, "0123456789").len())
            .sum();
        assert!(n_lines >= 5);
        assert!(line.text.len() <= MAX_LINE_BYTES);
    }
}
