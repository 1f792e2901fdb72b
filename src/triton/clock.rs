//! The clock that Triton's statistics are kept in.

/// Returns nanoseconds of the steady clock, never zero.
pub(crate) fn now_ns() -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writing; CLOCK_MONOTONIC exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    let ns = u128::from(time.tv_sec.unsigned_abs()) * 1_000_000_000
        + u128::from(time.tv_nsec.unsigned_abs());
    u64::try_from(ns).unwrap_or(u64::MAX).max(1)
}
