//! What all copies of this library in one process know in common.
//!
//! A model folder may have a copy of its own, of another version even. Copies
//! cannot see each other's symbols, so the first to come makes a page of memory
//! with a name, and the others find it in the process's list of mappings.
//! Called first in Initialize, which Triton calls for one library at a time; then when metrics are made and deleted.

use std::ffi::{CStr, c_int};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize};

/// The page's name; another number for another meaning of its fields.
const NAME: &CStr = c"triton-llm-stop-1";
const PAGE_BYTES: usize = 4096;

/// The page. Later versions may add to its end, and change nothing: a new page holds zeros.
#[repr(C)]
pub(super) struct Shared {
    /// When the first signal to stop came, on the steady clock; 0 before.
    pub(super) signalled_ns: AtomicU64,
    /// Requests of all copies that Triton waits for, or that use its front ends.
    pub(super) n_in_flight: AtomicU64,
    /// tritonserver's own handlers of SIGINT and SIGTERM, 0 where none was replaced.
    pub(super) handlers: [AtomicUsize; 2],
    /// Not 0 while a copy makes or deletes metrics: see `metrics.rs`.
    pub(super) metrics_lock: AtomicU64,
    /// The address of the list of metric families that all copies use; 0 while it is empty.
    pub(super) families: AtomicUsize,
}

impl Shared {
    pub(super) const fn new() -> Self {
        Self {
            signalled_ns: AtomicU64::new(0),
            n_in_flight: AtomicU64::new(0),
            handlers: [const { AtomicUsize::new(0) }; 2],
            metrics_lock: AtomicU64::new(0),
            families: AtomicUsize::new(0),
        }
    }
}

/// Returns the page; one of this copy's own where the system lends none.
///
/// To be called first in Initialize.
pub(super) fn shared() -> &'static Shared {
    static SHARED: OnceLock<&Shared> = OnceLock::new();
    static ALONE: Shared = Shared::new();
    SHARED.get_or_init(|| {
        page().unwrap_or_else(|error| {
            log::warn!("triton-llm: other copies of this library cannot be found: {error}");
            &ALONE
        })
    })
}

/// Returns the page that is there, or makes it.
///
/// # Errors
///
/// The system's, where it lists no mappings or has no page for us.
fn page() -> io::Result<&'static Shared> {
    let address = match find(&fs::read_to_string("/proc/self/maps")?) {
        Some(address) => address,
        None => make()?,
    };
    // SAFETY: a mapping of this name is a page that a copy of this library made
    // and that nobody ever unmaps or uses but through these atomics.
    Ok(unsafe { &*ptr::with_exposed_provenance(address) })
}

/// Finds the page's address in the text of /proc/self/maps.
fn find(maps: &str) -> Option<usize> {
    let path = format!("/memfd:{} (deleted)", NAME.to_string_lossy());
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let is_ours = rest.starts_with("rw-s 00000000 ") && rest.ends_with(&path);
        let (begin, end) = range.split_once('-')?;
        let begin = usize::from_str_radix(begin, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        (is_ours && end - begin >= PAGE_BYTES).then_some(begin)
    })
}

/// Makes the page and returns its address.
fn make() -> io::Result<usize> {
    // SAFETY: the name is a C string.
    let fd: c_int = unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and ours.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(PAGE_BYTES as u64)?;
    // SAFETY: a new mapping, wherever there is room; it outlives its descriptor.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            PAGE_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(page.expose_provenance())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn the_page_is_found_again() {
        let made = page().expect("a page");
        made.n_in_flight.fetch_add(3, Ordering::AcqRel);
        let found = page().expect("the page");
        assert_eq!(found.n_in_flight.load(Ordering::Acquire), 3);
        assert!(ptr::eq(made, found));
        assert_eq!(found.signalled_ns.load(Ordering::Acquire), 0);
    }

    #[test]
    fn only_the_page_is_taken_for_it() {
        let path = "/memfd:triton-llm-stop-1 (deleted)";
        let check = |line: &str, expected: Option<usize>| {
            let maps = format!("1000-2000 r-xp 00000000 08:01 7  /usr/bin/x\n{line}\n");
            assert_eq!(find(&maps), expected, "{line}");
        };
        let all = "rw-s 00000000 00:01 9   ";
        check(&format!("7f00-8f00 {all}{path}"), Some(0x7f00));
        check(&format!("7f00-7f80 {all}{path}"), None);
        check(&format!("7f00-8f00 rw-p 00000000 00:01 9   {path}"), None);
        check(
            &format!("7f00-8f00 {all}/memfd:triton-llm-stop-12 (deleted)"),
            None,
        );
        check(&format!("8f00-7f00 x {path}"), None);
        check("", None);
    }
}
