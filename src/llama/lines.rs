//! What llama.cpp says: its log, line by line to the `log` crate, and its last words.
//!
//! The callbacks run on whatever thread llama.cpp logs or aborts on. They must not unwind: above them is C.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use llama_cpp_sys_2 as sys;
use log::Level;

/// The name under which llama.cpp's lines reach the `log` crate.
pub(super) const TARGET: &str = "llama.cpp";

/// Bytes of a line after which it is logged although its end has not come.
const MAX_LINE_BYTES: usize = 16 * 1024;

static LINE: Mutex<Line> = Mutex::new(Line {
    level: Level::Info,
    text: String::new(),
});

thread_local! {
    static FIRST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Takes the first line that llama.cpp logged as an error on this thread since the last call.
///
/// Its C interface returns null without a reason. The reason is in the log, in the first of
/// several lines; empty if there is none.
pub(super) fn take_error() -> String {
    FIRST_ERROR.with_borrow_mut(std::mem::take)
}

/// Logs what llama.cpp says, line by line.
///
/// # Safety
/// `text` is null or a C string.
pub(super) unsafe extern "C" fn on_log(
    level: sys::ggml_log_level,
    text: *const c_char,
    _: *mut c_void,
) {
    if text.is_null() {
        return;
    }
    // SAFETY: it is not null, so it is a C string, says the caller, and lives for the duration of the call.
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

/// Logs why llama.cpp ends the process, which it does once this returns.
///
/// # Safety
/// `message` is null or a C string.
pub(super) unsafe extern "C" fn on_abort(message: *const c_char) {
    if message.is_null() {
        return;
    }
    // SAFETY: as in `on_log`.
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
