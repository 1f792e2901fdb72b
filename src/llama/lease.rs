//! Keeps the mapped files of models as they were when they were mapped.
//!
//! llama.cpp computes with the pages of the file itself: who writes into it changes the weights, and who
//! cuts it short ends the process with SIGBUS. So each file is leased: the kernel holds who opens it for
//! writing and tells us, we put a copy of our own in place of every mapping, and let go. [`Leases`] are
//! taken on the thread that loads a model and end with it; one thread of this library, `llm-lease`,
//! waits for the kernel's word. It alone has the signal that brings it blocked: no handler is set.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use libc::{c_int, c_void};

use super::maps::{self, Mapping};
use crate::machine::memory;

// What `libc` leaves out of Linux's <fcntl.h>.
const F_SETSIG: c_int = 10;
const F_SETOWN_EX: c_int = 15;
const F_OWNER_TID: c_int = 0;

#[repr(C)]
struct OwnerEx {
    kind: c_int,
    id: libc::pid_t,
}

/// How long the kernel holds a writer where it does not say.
const BREAK_TIME: Duration = Duration::from_secs(45);
/// Bytes that are copied before they take the place of what is mapped.
const PIECE: usize = 64 << 20;
/// Bytes of memory that a copy leaves free.
const MARGIN: u64 = 64 << 20;
/// Between two tries where memory is short.
const RETRY: Duration = Duration::from_millis(500);

/// Why a file cannot be held.
#[derive(Debug, thiserror::Error)]
#[error("model file '{}': the kernel gives no lease on it ({reason})", file.display())]
pub(super) struct NoLease {
    file: PathBuf,
    reason: io::Error,
}

/// Why the copy of a file is not made.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error("the copy needs {needed} bytes: {available} bytes of memory are available")]
    Memory { needed: u64, available: u64 },
    #[error("the kernel holds who changes it no longer")]
    Late,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The leases on a model's files; they end when this is dropped.
#[derive(Debug)]
pub(super) struct Leases {
    ids: Vec<u64>,
    is_lost: Arc<AtomicBool>,
}

/// A file that is leased, and what is mapped of it.
struct LeasedFile {
    file: File,
    path: PathBuf,
    n_bytes: u64,
    /// What `/proc/self/maps` calls it: device and inode.
    key: String,
    /// What was mapped of it before this model.
    others: Vec<Mapping>,
    /// What this model has mapped and still is the file; `None` while it loads.
    mapped: Option<Vec<Mapping>>,
    broken: Option<Instant>,
    is_lost: Arc<AtomicBool>,
}

/// The thread, and all that it watches over.
struct Keeper {
    tid: libc::pid_t,
    held: Mutex<HashMap<u64, LeasedFile>>,
}

fn keeper() -> io::Result<&'static Keeper> {
    static KEEPER: OnceLock<Result<Keeper, io::ErrorKind>> = OnceLock::new();
    let keeper = KEEPER.get_or_init(|| Keeper::start().map_err(|error| error.kind()));
    keeper.as_ref().map_err(|&kind| kind.into())
}

/// A signal of its own queues, where SIGIO, the default, may say only once that two files change.
fn signal() -> c_int {
    libc::SIGRTMIN() + 7
}

impl Leases {
    /// Holds the files, before llama.cpp maps them.
    pub(super) fn take(files: &[PathBuf]) -> Result<Self, NoLease> {
        let mut leases = Self {
            ids: Vec::new(),
            is_lost: Arc::default(),
        };
        for path in files {
            let taken = keeper().and_then(|keeper| leases.take_one(keeper, path));
            taken.map_err(|reason| NoLease {
                file: path.clone(),
                reason,
            })?;
        }
        Ok(leases)
    }

    fn take_one(&mut self, keeper: &'static Keeper, path: &Path) -> io::Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let file = File::open(path)?;
        let n_bytes = file.metadata()?.len();
        let key = maps::key_of(&file)?;
        let others = maps::of_file(&key)?;
        let mut held = keeper.held();
        lease(&file, keeper.tid)?;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let one = LeasedFile {
            file,
            path: path.to_owned(),
            n_bytes,
            key,
            others,
            mapped: None,
            broken: None,
            is_lost: Arc::clone(&self.is_lost),
        };
        held.insert(id, one);
        self.ids.push(id);
        Ok(())
    }

    /// Notes what llama.cpp has mapped. Until this is called, who changes a file is held.
    pub(super) fn loaded(&self) -> io::Result<()> {
        let keeper = keeper()?;
        let mut held = keeper.held();
        let mut is_broken = false;
        for id in &self.ids {
            let Some(one) = held.get_mut(id) else {
                continue;
            };
            let mut mapped = maps::of_file(&one.key)?;
            mapped.retain(|mapping| !one.others.contains(mapping));
            one.mapped = Some(mapped);
            is_broken |= one.broken.is_some();
        }
        if is_broken {
            keeper.wake();
        }
        Ok(())
    }

    /// Whether a file was changed and could not be copied before, so that the weights are lost.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        if let Ok(keeper) = keeper() {
            let mut held = keeper.held();
            // A lease ends with its file.
            self.ids.iter().for_each(|id| drop(held.remove(id)));
        }
    }
}

/// Has the kernel hold who opens a file for writing or cuts it, and tell the thread of this number.
fn lease(file: &File, tid: libc::pid_t) -> io::Result<()> {
    let fd = file.as_raw_fd();
    let owner = OwnerEx {
        kind: F_OWNER_TID,
        id: tid,
    };
    // Whom to tell and how comes first: by default the kernel would end the process.
    // SAFETY: the descriptor is open, and F_SETOWN_EX reads such a struct.
    done(unsafe { libc::fcntl(fd, F_SETOWN_EX, &raw const owner) })?;
    // SAFETY: the descriptor is open.
    done(unsafe { libc::fcntl(fd, F_SETSIG, signal()) })?;
    // SAFETY: the descriptor is open.
    done(unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_RDLCK) })
}

fn done(result: c_int) -> io::Result<()> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

impl Keeper {
    /// Starts the thread, and waits until it can be told.
    fn start() -> io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let body = move || {
            let signals = blocked_signals();
            // SAFETY: the call only returns a number.
            let tid = unsafe { libc::gettid() };
            if sender
                .send(signals.as_ref().map(|_| tid).map_err(io::Error::kind))
                .is_err()
            {
                return;
            }
            let (Ok(signals), Ok(keeper)) = (signals, keeper()) else {
                return;
            };
            loop {
                // SAFETY: the set is initialised, and nobody asks for more about the signal.
                unsafe { libc::sigwaitinfo(&raw const signals, ptr::null_mut()) };
                keeper.release_broken();
            }
        };
        thread::Builder::new()
            .name("llm-lease".to_owned())
            .spawn(body)?;
        let tid = receiver.recv().map_err(|_| io::ErrorKind::BrokenPipe)??;
        Ok(Self {
            tid,
            held: Mutex::default(),
        })
    }

    fn held(&self) -> MutexGuard<'_, HashMap<u64, LeasedFile>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the thread to look again.
    fn wake(&self) {
        // SAFETY: the thread lives as long as the process and has the signal blocked.
        unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), self.tid, signal()) };
    }

    /// Copies what is about to be changed, then lets go on those who want to change it.
    fn release_broken(&self) {
        let mut broken = Vec::new();
        for (id, one) in self.held().iter_mut() {
            if one.is_broken() {
                one.broken.get_or_insert_with(Instant::now);
                broken.push(*id);
            }
        }
        let patience = patience();
        broken.into_iter().for_each(|id| self.release(id, patience));
    }

    fn release(&self, id: u64, patience: Duration) {
        loop {
            let mut held = self.held();
            // Unloaded, or not loaded yet: then it is woken again.
            let Some(one) = held.get_mut(&id) else { return };
            let (Some(mapped), Some(since)) = (one.mapped.take(), one.broken) else {
                return;
            };
            let mut left = mapped;
            let copied = one.copy(&mut left, since + patience);
            let is_late = since.elapsed() >= patience;
            match copied {
                Ok(n_bytes) => log::warn!(
                    "model file '{}' is opened for writing: {n_bytes} bytes of it were copied into \
                     memory, the model stays as it was loaded",
                    one.path.display()
                ),
                Err(CopyError::Memory { .. }) if !is_late => {
                    one.mapped = Some(left);
                    drop(held);
                    thread::sleep(RETRY);
                    continue;
                }
                Err(error) => {
                    log::error!(
                        "model file '{}' is opened for writing: {error}; the model can no longer be used, \
                         load it again",
                        one.path.display()
                    );
                    one.lose(&left);
                }
            }
            // SAFETY: the descriptor is open. There may be no lease left to end.
            unsafe { libc::fcntl(one.file.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
            held.remove(&id);
            return;
        }
    }
}

impl LeasedFile {
    /// Whether somebody waits to change the file, or no longer does as he waited for too long.
    fn is_broken(&self) -> bool {
        // SAFETY: the descriptor is open.
        let kind = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETLEASE) };
        kind != libc::F_RDLCK
    }

    /// Puts copies in place of what is mapped, and returns their bytes; what is not done yet stays in
    /// `left`.
    fn copy(&self, left: &mut Vec<Mapping>, deadline: Instant) -> Result<u64, CopyError> {
        let there = maps::of_file(&self.key)?;
        left.retain(|mapping| there.iter().any(|other| other.holds(mapping)));
        let needed: u64 = left.iter().map(|mapping| mapping.len() as u64).sum();
        if let Some(available) = memory::available_bytes()
            && needed > 0
            && needed.saturating_add(MARGIN) > available
        {
            return Err(CopyError::Memory { needed, available });
        }
        while let Some(mapping) = left.last_mut() {
            if Instant::now() >= deadline {
                return Err(CopyError::Late);
            }
            let n_bytes = mapping.len().min(PIECE);
            let copy = Pages::new(n_bytes)?;
            // What lies behind the end of the file in its last page is zero.
            let in_file = self
                .n_bytes
                .saturating_sub(mapping.offset)
                .min(n_bytes as u64);
            copy.fill(&self.file, mapping.offset, in_file as usize)?;
            // SAFETY: the mapping is this model's, which is not unloaded while `held` is locked, and the
            // copy says the same.
            unsafe { copy.replace(mapping.start)? };
            mapping.start += n_bytes;
            mapping.offset += n_bytes as u64;
            if mapping.len() == 0 {
                left.pop();
            }
        }
        Ok(needed)
    }

    /// Has the model never be used again, and nothing of the file be touched.
    fn lose(&self, left: &[Mapping]) {
        self.is_lost.store(true, Ordering::Release);
        for mapping in left {
            // SAFETY: as in `copy`, but for what it says: the flag keeps what is computed with it from
            // being used. Pages that nobody writes take no memory.
            let replaced =
                Pages::new(mapping.len()).and_then(|zeros| unsafe { zeros.replace(mapping.start) });
            if let Err(error) = replaced {
                log::error!("model file '{}' stays mapped: {error}", self.path.display());
            }
        }
    }
}

/// Pages that belong to nobody else yet.
struct Pages {
    start: *mut c_void,
    n_bytes: usize,
}

impl Pages {
    fn new(n_bytes: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping wherever there is room.
        let start = unsafe { libc::mmap(ptr::null_mut(), n_bytes, protection, flags, -1, 0) };
        match start == libc::MAP_FAILED {
            true => Err(io::Error::last_os_error()),
            false => Ok(Self { start, n_bytes }),
        }
    }

    /// Reads bytes of a file, from `offset` on, into the first of them.
    fn fill(&self, file: &File, offset: u64, n_bytes: usize) -> io::Result<()> {
        let n_bytes = n_bytes.min(self.n_bytes);
        // SAFETY: the pages are mapped, zeroed, writable and nobody else's.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.start.cast::<u8>(), n_bytes) };
        file.read_exact_at(bytes, offset)
    }

    /// Moves them, read-only, to where others are: whoever reads there sees the ones or the others.
    ///
    /// # Safety
    ///
    /// As many bytes from `start` on are mapped, and nobody unmaps or writes them meanwhile.
    unsafe fn replace(self, start: usize) -> io::Result<()> {
        // SAFETY: the pages are ours.
        done(unsafe { libc::mprotect(self.start, self.n_bytes, libc::PROT_READ) })?;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let to = start as *mut c_void;
        // SAFETY: by the caller's promise nothing else is lost at `start`. The kernel holds page faults
        // back until it is done.
        let moved = unsafe { libc::mremap(self.start, self.n_bytes, self.n_bytes, flags, to) };
        match moved == libc::MAP_FAILED {
            true => Err(io::Error::last_os_error()),
            false => {
                std::mem::forget(self);
                Ok(())
            }
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the pages are ours and were not moved.
        unsafe { libc::munmap(self.start, self.n_bytes) };
    }
}

/// How long a writer is held so that it is certain: the kernel's time, less some for its clock and ours.
fn patience() -> Duration {
    let text = fs::read_to_string("/proc/sys/fs/lease-break-time").ok();
    let seconds = text.and_then(|text| text.trim().parse().ok());
    seconds.map_or(BREAK_TIME, Duration::from_secs).mul_f32(0.8)
}

/// Blocks, on this thread, the signal of leases and the one that comes in its place when too many wait.
fn blocked_signals() -> io::Result<libc::sigset_t> {
    // SAFETY: all zeros is a valid set.
    let mut signals: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is initialised first, and then only read.
    unsafe {
        libc::sigemptyset(&raw mut signals);
        libc::sigaddset(&raw mut signals, signal());
        libc::sigaddset(&raw mut signals, libc::SIGIO);
        match libc::pthread_sigmask(libc::SIG_BLOCK, &raw const signals, ptr::null_mut()) {
            0 => Ok(signals),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }
}
