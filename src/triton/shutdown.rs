//! Notices that the `tritonserver` program has been told to stop, and has it wait a moment.
//!
//! It lets what runs go on for `--exit-timeout-secs`, and tells no backend. With
//! HTTP streams it tells not even its core, and takes the front end away as soon
//! as no client is connected, from under requests that still use it. So one
//! handler of ours stands before tritonserver's own in a process, however many
//! copies of this library it has. It calls nothing but tritonserver's, and that
//! only once no request is in flight, or after [`HOLD`]: until then clients that
//! are gone have their requests ended. Other hosts may mean something else by a
//! signal, and their handlers are left alone, as are those of other libraries.
//!
//! [`set_up`] runs in Initialize, [`InFlight`] on the threads that take requests
//! in and answer them, [`is_due`] and [`is_signalled`] on the engine and delivery
//! threads, `on_signal` anywhere: it may only read atomics and write to a pipe.

use std::env;
use std::ffi::{OsString, c_int, c_void};
use std::io::{PipeReader, PipeWriter, Read, pipe};
use std::mem;
use std::os::fd::AsRawFd;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::clock::now_ns;
use super::copies::{self, Shared};

/// What tritonserver ends upon.
const SIGNALS: [c_int; 2] = [libc::SIGINT, libc::SIGTERM];
/// tritonserver's default for `--exit-timeout-secs`.
const DEFAULT_EXIT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long before the exit timeout streams end, half of a shorter timeout: tritonserver counts
/// from when it is told, looks once a second, and has the models to unload.
const MARGIN: Duration = Duration::from_secs(3);
/// How long tritonserver waits for its signal while requests are in flight.
const HOLD: Duration = Duration::from_secs(1);
/// How often it is asked whether some are.
const POLL: Duration = Duration::from_millis(1);

/// What this copy knows of the stop; nothing in a host that is not the tritonserver program.
static STOP: OnceLock<Option<Stop>> = OnceLock::new();

struct Stop {
    shared: &'static Shared,
    exit_timeout: Duration,
    /// Wakes the thread that hands a signal on.
    wake: Option<PipeWriter>,
}

/// Prepares this copy for a signal; to be called in Initialize.
pub(crate) fn set_up() {
    let shared = copies::shared();
    STOP.get_or_init(|| {
        is_tritonserver().then(|| {
            let exit_timeout = exit_timeout(env::args_os());
            Stop {
                shared,
                exit_timeout,
                wake: start(shared, HOLD.min(exit_timeout / 4)),
            }
        })
    });
}

fn stop() -> Option<&'static Stop> {
    STOP.get()?.as_ref()
}

/// Says whether the server has been told to stop.
pub(crate) fn is_signalled() -> bool {
    stop().is_some_and(|stop| stop.shared.signalled_ns.load(Ordering::Acquire) > 0)
}

/// Says whether streams must end now, as the server is about to; `None` while it has not been
/// told to stop, as far as is known.
pub(super) fn is_due() -> Option<bool> {
    let stop = stop()?;
    let signalled_ns = stop.shared.signalled_ns.load(Ordering::Acquire);
    let passed = || Duration::from_nanos(now_ns().saturating_sub(signalled_ns));
    (signalled_ns > 0).then(|| passed() >= grace(stop.exit_timeout))
}

/// A request that Triton's front ends are used for, until this is dropped.
pub(super) struct InFlight(());

impl InFlight {
    /// Counts a request in.
    ///
    /// Also listens to signals from now on, if not yet: tritonserver sets its
    /// handlers when it has loaded its models, so at Initialize it is too early.
    pub(super) fn begin() -> Self {
        if let Some(stop) = stop() {
            stop.shared.n_in_flight.fetch_add(1, Ordering::AcqRel);
            for (signal, index) in SIGNALS.into_iter().zip(0..) {
                listen(stop, signal, index);
            }
        }
        Self(())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(stop) = stop() {
            stop.shared.n_in_flight.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn is_tritonserver() -> bool {
    env::current_exe().is_ok_and(|path| path.file_name().is_some_and(|name| name == "tritonserver"))
}

fn exit_timeout(arguments: impl Iterator<Item = OsString>) -> Duration {
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
    timeout
}

/// How long streams may go on after the signal.
fn grace(exit_timeout: Duration) -> Duration {
    exit_timeout - MARGIN.min(exit_timeout / 2)
}

/// Puts [`on_signal`] before tritonserver's own handler, wherever that is in place.
///
/// A handler of another copy, an older one even, is not tritonserver's: so ours
/// calls no other copy's, and no chain of handlers can close to a ring.
fn listen(stop: &Stop, signal: c_int, index: usize) {
    let ours: extern "C" fn(c_int) = on_signal;
    // SAFETY: both structures are valid for the calls. `on_signal` is safe in a
    // handler and lives as long as the process, as the library is not unloaded.
    unsafe {
        let mut action: libc::sigaction = mem::zeroed();
        if libc::sigaction(signal, ptr::null(), &mut action) != 0
            || matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)
            || action.sa_flags & libc::SA_SIGINFO != 0
            || action.sa_sigaction == ours as usize
            || !is_of_the_program(action.sa_sigaction)
        {
            return;
        }
        stop.shared.handlers[index].store(action.sa_sigaction, Ordering::Release);
        action.sa_sigaction = ours as usize;
        if libc::sigaction(signal, &action, ptr::null_mut()) != 0 {
            log::warn!("triton-llm: signal {signal} cannot be listened to");
        }
    }
}

/// Says whether an address lies in the program, not in one of its libraries.
fn is_of_the_program(address: usize) -> bool {
    let object = |address: usize| {
        // SAFETY: the structure may be written; any address may be asked for.
        unsafe {
            let mut found: libc::Dl_info = mem::zeroed();
            let address = ptr::without_provenance::<c_void>(address);
            (libc::dladdr(address, &mut found) != 0).then_some(found.dli_fbase)
        }
    };
    // SAFETY: only reads what the kernel told the program.
    let headers = unsafe { libc::getauxval(libc::AT_PHDR) };
    let program = usize::try_from(headers).ok().and_then(object);
    program.is_some() && program == object(address)
}

/// Notes the time and leaves the rest to a thread.
extern "C" fn on_signal(signal: c_int) {
    let Some(stop) = stop() else {
        return;
    };
    let first = &stop.shared.signalled_ns;
    let _ = first.compare_exchange(0, now_ns().max(1), Ordering::AcqRel, Ordering::Relaxed);
    let is_woken = stop.wake.as_ref().is_some_and(|wake| {
        let byte = signal as u8;
        // SAFETY: the pipe is open as long as the process runs, the byte is
        // there; what is interrupted finds its error number as it was.
        unsafe {
            let errno = *libc::__errno_location();
            let n_written = libc::write(wake.as_raw_fd(), (&raw const byte).cast(), 1);
            *libc::__errno_location() = errno;
            n_written == 1
        }
    });
    if !is_woken {
        hand_on(stop.shared, signal);
    }
}

/// Starts the thread that hands signals on; `None` where the system has none for us.
fn start(shared: &'static Shared, hold: Duration) -> Option<PipeWriter> {
    let started = pipe().and_then(|(reader, writer)| {
        thread::Builder::new()
            .name("llm-stop".to_owned())
            .spawn(move || hand_on_all(shared, hold, reader))
            .map(|_| writer)
    });
    started
        .inspect_err(|error| log::warn!("triton-llm: a stop cannot be held up: {error}"))
        .ok()
}

/// Hands each signal on once no request is in flight, or `hold` has passed.
fn hand_on_all(shared: &Shared, hold: Duration, mut signals: PipeReader) {
    let mut signal = [0];
    while signals.read_exact(&mut signal).is_ok() {
        let begin = Instant::now();
        while shared.n_in_flight.load(Ordering::Acquire) > 0 && begin.elapsed() < hold {
            thread::sleep(POLL);
        }
        hand_on(shared, c_int::from(signal[0]));
    }
}

/// Does what tritonserver does upon the signal.
fn hand_on(shared: &Shared, signal: c_int) {
    for (known, handler) in SIGNALS.into_iter().zip(&shared.handlers) {
        let handler = handler.load(Ordering::Acquire);
        if known == signal && handler != 0 {
            // SAFETY: it is the address of tritonserver's handler of one
            // argument, see `listen`, which may be called on any thread.
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
            let found = grace(exit_timeout(arguments.iter().map(OsString::from)));
            assert_eq!(found, Duration::from_millis(expected_ms), "{arguments:?}");
        };
        check(&["tritonserver"], 27_000);
        check(&["tritonserver", "--exit-timeout-secs=10", "--x"], 7_000);
        check(&["tritonserver", "--exit-timeout-secs", "3"], 1_500);
        check(&["tritonserver", "--exit-timeout-secs=0"], 0);
        check(&["tritonserver", "--exit-timeout-secs=soon"], 27_000);
        check(&["tritonserver", "--exit-timeout-secsx=1"], 27_000);
        check(&["tritonserver", "--exit-timeout-secs"], 27_000);
    }

    #[test]
    fn only_the_program_is_the_program() {
        // A test's own code is the program's, malloc is a library's, the stack is nobody's.
        assert!(is_of_the_program(
            on_signal as extern "C" fn(c_int) as usize
        ));
        let malloc: unsafe extern "C" fn(usize) -> *mut c_void = libc::malloc;
        assert!(!is_of_the_program(malloc as usize));
        let local = 0_u8;
        assert!(!is_of_the_program((&raw const local).addr()));
    }
}
