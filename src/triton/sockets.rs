//! The sockets of this process, whoever opened them: what they are and how they stand.
//!
//! Triton's front ends do not tell a backend of their connections, but share the process with it. Used by the
//! delivery thread. Only reads: nothing of another's socket is changed.

use std::fs;
use std::io;
use std::mem::size_of;

/// The numbers of all open files.
pub(super) fn open_files() -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        found.extend(name.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    Ok(found)
}

/// Whether a file is a stream socket of an address family.
pub(super) fn is_stream_of(fd: i32, family: libc::c_int) -> bool {
    let number = |name| option::<libc::c_int>(fd, libc::SOL_SOCKET, name, 0);
    number(libc::SO_DOMAIN) == Some(family) && number(libc::SO_TYPE) == Some(libc::SOCK_STREAM)
}

/// Bytes that were sent into a socket and not read yet, with what the kernel needs beside them.
pub(super) fn queued(fd: i32) -> Option<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the call writes one int, to a live one; where `fd` is closed or no socket, it fails.
    let status = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    (status == 0).then(|| u32::try_from(bytes).unwrap_or(0))
}

/// An option of a socket, whose type takes any bytes; `None` where `fd` is no socket or has no such option.
pub(super) fn option<T: Copy>(
    fd: i32,
    level: libc::c_int,
    name: libc::c_int,
    mut value: T,
) -> Option<T> {
    let mut size = libc::socklen_t::try_from(size_of::<T>()).ok()?;
    // SAFETY: the call writes at most `size` bytes, the size of `value`, which may hold any.
    let status =
        unsafe { libc::getsockopt(fd, level, name, (&raw mut value).cast(), &raw mut size) };
    (status == 0).then_some(value)
}
