//! The threads that graphs are computed with.
//!
//! A runner makes them when it begins, and a draft model shares those of the model that it drafts for.
//! They sleep between two graphs, and end with the last context that they are attached to. Without them
//! ggml makes its threads anew for each graph. They compute one graph at a time: whoever shares them
//! lives on one thread.
//!
//! Where cores are short, a thread that waits for another within a graph gives its core away, see
//! `include/compiler/stdatomic.h`, and fewer compute, see `crowding`.

use std::fs;
use std::mem;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use llama_cpp_sys_2 as sys;

use super::crowding::Crowding;
use super::error::NoThreads;

/// The name of the threads, in `top -H` and the like.
const NAME: &str = "llm-compute";

/// Some threads, for whoever holds a clone.
#[derive(Clone)]
pub(super) struct ComputeThreads(Arc<Pool>);

impl ComputeThreads {
    /// `n_threads` count whoever has a graph computed: one fewer are made.
    pub(super) fn new(n_threads: u32) -> Result<Self, NoThreads> {
        let functions = Functions::of_cpu().ok_or(NoThreads::Module)?;
        let start = move || {
            // SAFETY: the call only returns a value.
            let mut params = unsafe { sys::ggml_threadpool_params_default(n_threads as i32) };
            // Sleep at once, not only after a while.
            params.poll = 0;
            let name = set_name_of_maker();
            // SAFETY: the parameters are valid for the call, which copies what it needs later.
            NonNull::new(unsafe { (functions.new)(&raw mut params) }).map(|raw| Pool {
                raw,
                n_threads,
                free: functions.free,
                tasks: name.map(|name| rename_threads(&name)).unwrap_or_default(),
                crowding: Mutex::new(Crowding::new(n_threads, Instant::now())),
            })
        };
        let maker = thread::Builder::new().name(NAME.to_owned()).spawn(start);
        let made = maker.map_err(|error| NoThreads::Start {
            n_threads,
            reason: error.to_string(),
        })?;
        let pool = made.join().ok().flatten().ok_or(NoThreads::Module)?;
        Ok(Self(Arc::new(pool)))
    }

    /// These if they are enough for `n_threads`, or else others.
    pub(super) fn at_least(self, n_threads: u32) -> Result<Self, NoThreads> {
        match self.0.n_threads >= n_threads {
            true => Ok(self),
            false => Self::new(n_threads),
        }
    }

    pub(super) fn raw(&self) -> sys::ggml_threadpool_t {
        self.0.raw.as_ptr()
    }

    /// How many of them there are cores for; whoever has a graph computed is one.
    pub(super) fn n_fitting(&self) -> u32 {
        self.0.crowding().n_threads()
    }

    /// Notes that this thread had graphs computed for so long.
    pub(super) fn computed(&self, took: Duration) {
        let tasks = &self.0.tasks;
        self.0
            .crowding()
            .note(took, Instant::now(), || waited(tasks));
    }
}

/// Gives this thread a name that no other thread of the process has, for those that it makes; `None` where
/// it cannot be given.
fn set_name_of_maker() -> Option<String> {
    // SAFETY: the call only returns a number.
    let name = format!("llm-{}", unsafe { libc::gettid() });
    fs::write("/proc/thread-self/comm", &name).ok()?;
    Some(name)
}

/// Gives the threads of this name, without this one, theirs, and returns where Linux tells of them.
fn rename_threads(name: &str) -> Vec<PathBuf> {
    // SAFETY: as above.
    let maker = unsafe { libc::gettid() }.to_string();
    let tasks = fs::read_dir("/proc/self/task").into_iter().flatten();
    let made = tasks.flatten().filter_map(|task| {
        let comm = task.path().join("comm");
        let is_made = task.file_name().to_str() != Some(&maker)
            && fs::read_to_string(&comm).ok()?.trim_end() == name;
        (is_made && fs::write(&comm, NAME).is_ok()).then(|| task.path())
    });
    made.collect()
}

/// How long these threads and this one have been ready to run without a core, ever; `None` where
/// Linux does not count it.
fn waited(tasks: &[PathBuf]) -> Option<Duration> {
    let of_task = |path: PathBuf| {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        let nanoseconds = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some(Duration::from_nanos(nanoseconds))
    };
    let this = of_task(PathBuf::from("/proc/thread-self"))?;
    tasks
        .iter()
        .cloned()
        .map(of_task)
        .try_fold(this, |sum, one| Some(sum + one?))
}

/// # Invariants
/// `raw` was made by the module that `free` is of, and is owned here.
struct Pool {
    raw: NonNull<sys::ggml_threadpool>,
    n_threads: u32,
    free: Free,
    /// Where Linux tells of the threads.
    tasks: Vec<PathBuf>,
    crowding: Mutex<Crowding>,
}

impl Pool {
    fn crowding(&self) -> MutexGuard<'_, Crowding> {
        self.crowding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: ggml's threads belong to no thread, and are made to be used and ended by any, one at a time.
unsafe impl Send for Pool {}
// SAFETY: what is shared is only the address. llama.cpp computes with it within a context, and those
// that share it live on one thread.
unsafe impl Sync for Pool {}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: each context that it was attached to held a clone, so none is left. The call joins the threads.
        unsafe { (self.free)(self.raw.as_ptr()) };
    }
}

type New = unsafe extern "C" fn(*mut sys::ggml_threadpool_params) -> sys::ggml_threadpool_t;
type Free = unsafe extern "C" fn(sys::ggml_threadpool_t);

/// How threads are made and ended.
#[derive(Clone, Copy)]
struct Functions {
    new: New,
    free: Free,
}

impl Functions {
    /// Those of the CPU's module, which nothing is linked with where llama.cpp is built in modules. Where it
    /// is not, they are found in the same way.
    fn of_cpu() -> Option<Self> {
        // SAFETY: llama.cpp is initialised, as a model is loaded, and its devices live as long as the
        // process. The names are C strings. What the module has by these names are functions of these types.
        unsafe {
            let device = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
            if device.is_null() {
                return None;
            }
            let registry = sys::ggml_backend_dev_backend_reg(device);
            let find = |name: &std::ffi::CStr| {
                let found = sys::ggml_backend_reg_get_proc_address(registry, name.as_ptr());
                (!found.is_null()).then_some(found)
            };
            let (new, free) = (
                find(c"ggml_threadpool_new")?,
                find(c"ggml_threadpool_free")?,
            );
            Some(Self {
                new: mem::transmute::<*mut std::ffi::c_void, New>(new),
                free: mem::transmute::<*mut std::ffi::c_void, Free>(free),
            })
        }
    }
}
