//! Keeps our threads still once the process exits around them.
//!
//! Where streams outlast `--exit-timeout-secs`, tritonserver leaves `main` with
//! the model loaded; the destructors that then run take llama.cpp's and
//! Triton's static objects away from threads that still use them.

use std::sync::{Once, PoisonError, RwLock, RwLockReadGuard, TryLockError};
use std::time::{Duration, Instant};
use std::{mem, thread};

/// How long the end of the process waits for a step to end.
///
/// Not for ever: a host may call `exit` in a callback of ours, within such a step.
const PATIENCE: Duration = Duration::from_secs(5);

static RUNNING: RwLock<()> = RwLock::new(());

/// Waits for what is running, and lets nothing run any more.
extern "C" fn stop() {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match RUNNING.try_write() {
            Ok(stopped) => return mem::forget(stopped),
            Err(TryLockError::Poisoned(stopped)) => return mem::forget(stopped.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() > deadline => return,
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
        }
    }
}

/// Arranges that [`while_running`] stops at exit.
///
/// What is registered last is called first, so this is for after a first step:
/// the static objects whose destructors must not come before have been made by then.
pub(crate) fn stop_at_exit() {
    static ONCE: Once = Once::new();
    // SAFETY: `stop` takes no arguments and does not unwind. It is the
    // library's, which stays loaded until the process ends.
    ONCE.call_once(|| unsafe {
        if libc::atexit(stop) != 0 {
            log::warn!("triton-llm: no exit handler could be set");
        }
    });
}

/// Holds off the end of the process for one step of a thread of ours.
///
/// Once the process exits this never returns.
pub(crate) fn while_running() -> RwLockReadGuard<'static, ()> {
    RUNNING.read().unwrap_or_else(PoisonError::into_inner)
}
