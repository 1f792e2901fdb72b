//! Notices that the `tritonserver` program has been told to stop.
//!
//! It lets what runs go on for `--exit-timeout-secs`, and tells no backend. With
//! HTTP streams it tells not even its core, and then takes the front end away
//! from under requests that still use it. So the engine thread asks here while
//! it is busy. Other hosts may mean something else by a signal, and their
//! handlers are left alone.

use std::env;
use std::ffi::{OsString, c_int, c_void};
use std::mem;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::Duration;

use super::clock::now_ns;

/// What tritonserver ends upon.
const SIGNALS: [c_int; 2] = [libc::SIGINT, libc::SIGTERM];
/// tritonserver's default for `--exit-timeout-secs`.
const DEFAULT_EXIT_TIMEOUT: Duration = Duration::from_secs(30);
/// What the front ends need to send the last responses; half of a shorter timeout.
const MARGIN: Duration = Duration::from_secs(2);

/// When the first signal came, on the steady clock; 0 before.
static SIGNALLED_NS: AtomicU64 = AtomicU64::new(0);
/// tritonserver's own handlers, in the order of [`SIGNALS`].
static HANDLERS: [AtomicPtr<c_void>; 2] = [const { AtomicPtr::new(ptr::null_mut()) }; 2];

/// Says whether streams must end now, as the server is about to; `None` while it has not been
/// told to stop.
///
/// For a thread of ours, a few times a second. The handlers are set when this is
/// first asked, as tritonserver sets its own after it has loaded its models.
pub(super) fn is_due() -> Option<bool> {
    static GRACE: OnceLock<Option<Duration>> = OnceLock::new();
    let grace = GRACE.get_or_init(|| is_tritonserver().then(|| grace(env::args_os())));
    let grace = (*grace)?;
    for (&signal, handler) in SIGNALS.iter().zip(&HANDLERS) {
        listen(signal, handler);
    }
    let signalled_ns = SIGNALLED_NS.load(Ordering::Acquire);
    (signalled_ns > 0).then(|| Duration::from_nanos(now_ns().saturating_sub(signalled_ns)) >= grace)
}

fn is_tritonserver() -> bool {
    env::current_exe().is_ok_and(|path| path.file_name().is_some_and(|name| name == "tritonserver"))
}

/// How long streams may go on after the signal.
fn grace(arguments: impl Iterator<Item = OsString>) -> Duration {
    let mut timeout = DEFAULT_EXIT_TIMEOUT;
    let mut arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    while let Some(argument) = arguments.next() {
        let value = match argument.strip_prefix("--exit-timeout-secs") {
            Some("") => arguments.next(),
            Some(rest) => rest.strip_prefix('=').map(str::to_owned),
            None => None,
        };
        if let Some(seconds) = value.and_then(|value| value.parse().ok()) {
            timeout = Duration::from_secs(seconds);
        }
    }
    timeout - MARGIN.min(timeout / 2)
}

/// Puts [`on_signal`] before a handler of tritonserver's, once there is one.
fn listen(signal: c_int, handler: &AtomicPtr<c_void>) {
    let ours: extern "C" fn(c_int) = on_signal;
    // SAFETY: both structures are valid for the calls. `on_signal` is safe in a
    // handler and lives as long as the process, as the library is not unloaded.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        if libc::sigaction(signal, ptr::null(), &mut action) != 0
            || action.sa_sigaction == ours as usize
            || matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)
            || action.sa_flags & libc::SA_SIGINFO != 0
        {
            return;
        }
        handler.store(action.sa_sigaction as *mut c_void, Ordering::Release);
        action.sa_sigaction = ours as usize;
        if libc::sigaction(signal, &action, ptr::null_mut()) != 0 {
            log::warn!("triton-llm: signal {signal} cannot be listened to");
        }
    }
}

/// Notes the time and does what tritonserver does.
extern "C" fn on_signal(signal: c_int) {
    let _ = SIGNALLED_NS.compare_exchange(0, now_ns(), Ordering::AcqRel, Ordering::Relaxed);
    for (&known, handler) in SIGNALS.iter().zip(&HANDLERS) {
        let handler = handler.load(Ordering::Acquire);
        if known == signal && !handler.is_null() {
            // SAFETY: the pointer is that of a handler of one argument, see `listen`.
            let handler: extern "C" fn(c_int) = unsafe { mem::transmute(handler) };
            handler(signal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_end_before_the_exit_timeout() {
        let check = |arguments: &[&str], expected_ms: u64| {
            let found = grace(arguments.iter().map(OsString::from));
            assert_eq!(found, Duration::from_millis(expected_ms), "{arguments:?}");
        };
        check(&["tritonserver"], 28_000);
        check(&["tritonserver", "--exit-timeout-secs=10", "--x"], 8_000);
        check(&["tritonserver", "--exit-timeout-secs", "3"], 1_500);
        check(&["tritonserver", "--exit-timeout-secs=0"], 0);
        check(&["tritonserver", "--exit-timeout-secs=soon"], 28_000);
        check(&["tritonserver", "--exit-timeout-secsx=1"], 28_000);
        check(&["tritonserver", "--exit-timeout-secs"], 28_000);
    }
}
