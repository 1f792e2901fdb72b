//! Drives the real library through its exports, with a fake libtritonserver as the host.
//!
//! Used by `tests/fake_host` and others. Compiles the fake, opens it and then
//! the library RTLD_LOCAL, as in-process hosts do, and wraps both in types that
//! hold what every scenario must: one FINAL, one release before it, statistics
//! before it, and nothing alive at the end. Both keep process-wide state, so
//! one [`Server`] exists at a time and the objects are never closed.

mod config;
mod request;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock};

pub use config::Config;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
pub use request::{Ask, Given, Outcome, Running};

pub const INTERNAL: i32 = 1;
pub const NOT_FOUND: i32 = 2;
pub const INVALID_ARG: i32 = 3;
pub const UNAVAILABLE: i32 = 4;
pub const UNSUPPORTED: i32 = 5;
pub const CANCELLED: i32 = 7;

pub const BYTES: c_int = 13;
pub const CPU: c_int = 0;
pub const GPU: c_int = 2;
const FINAL: u32 = 1;
pub const KIND_CPU: c_int = 1;
pub const KIND_GPU: c_int = 2;
pub const KIND_MODEL: c_int = 3;

/// Whether the host has metrics, which it may lack: in `tests/fake_metrics.rs` alone.
const HAS_METRICS: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"fake_metrics");

/// The files of the fake.
const FILES: [&str; 5] = [
    "fake.c",
    "fake_triton.c",
    "fake_requests.c",
    "fake_metrics.c",
    "fake_control.c",
];

/// What a parameter of an unknown kind points to.
static ZERO: i64 = 0;

/// Longer than any scenario takes on a busy machine.
const PATIENCE_MS: u64 = 60_000;

type Ptr = *mut c_void;

/// Declares a table of C functions that is filled from a library.
macro_rules! functions {
    ($table:ident { $($name:ident($($type:ty),*) $(-> $result:ty)?;)* }) => {
        #[expect(non_snake_case, reason = "the names are Triton's")]
        struct $table { $($name: unsafe extern "C" fn($($type),*) $(-> $result)?,)* }

        impl $table {
            fn of(library: &Library) -> Self {
                // SAFETY: the types are those of the definitions in C and in exports.rs.
                unsafe {
                    Self { $($name: *library.get(concat!(stringify!($name), "\0").as_bytes()).expect(stringify!($name)),)* }
                }
            }
        }
    };
}

functions!(Fake {
    fake_fail(*const c_char, c_int, bool);
    fake_no_faults();
    fake_gpu_outputs(bool);
    fake_verbose(bool);
    fake_live(c_int) -> c_int;
    fake_misuse() -> *const c_char;
    fake_batch_reports() -> u64;
    fake_series() -> *const c_char;
    fake_backend() -> Ptr;
    fake_model(Ptr, *const c_char, *const c_char, *const c_char, bool) -> Ptr;
    fake_model_ready(Ptr, bool);
    fake_model_was_set(Ptr) -> bool;
    fake_model_memory(Ptr) -> *const c_char;
    fake_instance(Ptr, c_int, c_int, bool) -> Ptr;
    fake_end(Ptr);
    fake_request(*const c_char) -> Ptr;
    fake_input(Ptr, *const c_char, c_int, c_int, u64, *const c_char, u64);
    fake_parameter(Ptr, *const c_char, c_int, *const c_void);
    fake_cancel(Ptr);
    fake_wait(Ptr, u32, u64) -> bool;
    fake_events(Ptr) -> *const c_char;
    fake_response(Ptr, u32, *mut *const c_char, *mut u64, *mut u32, *mut u32, *mut c_int, *mut *const c_char);
    fake_n_responses(Ptr) -> u32;
    fake_reset();
    TRITONSERVER_ErrorCode(Ptr) -> c_int;
    TRITONSERVER_ErrorMessage(Ptr) -> *const c_char;
    TRITONSERVER_ErrorDelete(Ptr);
});

functions!(Exports {
    TRITONBACKEND_Initialize(Ptr) -> Ptr;
    TRITONBACKEND_Finalize(Ptr) -> Ptr;
    TRITONBACKEND_GetBackendAttribute(Ptr, Ptr) -> Ptr;
    TRITONBACKEND_ModelInitialize(Ptr) -> Ptr;
    TRITONBACKEND_ModelFinalize(Ptr) -> Ptr;
    TRITONBACKEND_ModelInstanceInitialize(Ptr) -> Ptr;
    TRITONBACKEND_ModelInstanceFinalize(Ptr) -> Ptr;
    TRITONBACKEND_ModelInstanceExecute(Ptr, *mut Ptr, u32) -> Ptr;
});

struct Host {
    fake: Fake,
    exports: Exports,
}

fn host() -> &'static Mutex<Host> {
    static HOST: OnceLock<Mutex<Host>> = OnceLock::new();
    HOST.get_or_init(|| {
        let fake = open(&compile_fake());
        let library = open(&library_path());
        let host = Host {
            fake: Fake::of(&fake),
            exports: Exports::of(&library),
        };
        // Threads of the library may run until the process ends.
        std::mem::forget((fake, library));
        Mutex::new(host)
    })
}

fn open(path: &Path) -> Library {
    // SAFETY: neither object has initialisers that depend on anything.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    library.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compiles the fake, under a name that says nothing of Triton. Put in its place whole, as several
/// processes may do it at once.
fn compile_fake() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let name = concat!(env!("CARGO_CRATE_NAME"), ".so");
    let object = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let new = object.with_extension(std::process::id().to_string());
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let compiler = cc::Build::new()
        .target(&triple)
        .host(&triple)
        .opt_level(1)
        .debug(true)
        .pic(true)
        .warnings(true)
        .extra_warnings(true)
        .warnings_into_errors(true)
        .cargo_metadata(false)
        .get_compiler();
    let mut command: Command = compiler.to_command();
    command
        .args([
            "-std=gnu11",
            "-shared",
            "-pthread",
            "-fvisibility=hidden",
            "-I",
        ])
        .arg(root.join("include"))
        .arg(format!("-DHAS_METRICS={}", i32::from(HAS_METRICS)))
        .args(FILES.map(|file| root.join("tests/host").join(file)))
        .arg("-o")
        .arg(&new);
    let status = command.status().expect("a C compiler can be started");
    assert!(status.success(), "{command:?}");
    std::fs::rename(new, &object).expect("the folder is writable");
    object
}

/// The library of this very build: cargo writes it beside the test programs.
fn library_path() -> PathBuf {
    let test = std::env::current_exe().expect("the test's own path");
    let deps = test.parent().expect("it lies in a folder");
    let library = deps.join("libtriton_llm.so");
    assert!(library.exists(), "{} is not built", library.display());
    library
}

fn c_string(text: &str) -> CString {
    CString::new(text).expect("tests use no NUL")
}

/// Copies a C string; null is `None`.
fn text(pointer: *const c_char) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    // SAFETY: the fake's strings end with NUL and live until fake_reset.
    let text = unsafe { CStr::from_ptr(pointer) };
    Some(text.to_string_lossy().into_owned())
}

/// An error of Triton's: its code and message.
pub type Failure = (i32, String);

/// The process as a server with this one backend.
pub struct Server {
    host: MutexGuard<'static, Host>,
    backend: Ptr,
}

impl Server {
    /// Initialises the backend.
    pub fn start() -> Self {
        let host = host().lock().expect("no earlier scenario failed");
        // SAFETY: plain calls into the fake.
        let backend = unsafe {
            (host.fake.fake_verbose)(std::env::var_os("FAKE_HOST_VERBOSE").is_some());
            (host.fake.fake_backend)()
        };
        let server = Self { host, backend };
        // SAFETY: the backend is live.
        let started = unsafe { (server.host.exports.TRITONBACKEND_Initialize)(backend) };
        server.take(started).expect("the backend starts");
        server
    }

    /// Finalises the backend; nothing may be left and nothing misused.
    pub fn stop(self) {
        let fake = &self.host.fake;
        // SAFETY: the backend is live, and no model is left.
        unsafe {
            self.take((self.host.exports.TRITONBACKEND_Finalize)(self.backend))
                .expect("the backend ends");
            (fake.fake_end)(self.backend);
            let kinds = [
                "errors",
                "messages",
                "requests",
                "factories",
                "responses",
                "models",
                "instances",
                "backends",
                "attributes",
                "labels",
                "metrics",
                "series",
            ];
            for (kind, name) in kinds.into_iter().enumerate() {
                assert_eq!((fake.fake_live)(kind as c_int), 0, "{name} left alive");
            }
            assert_eq!(text((fake.fake_misuse)()), None);
            (fake.fake_reset)();
        }
    }

    /// Takes over what an export returned.
    fn take(&self, error: Ptr) -> Result<(), Failure> {
        if error.is_null() {
            return Ok(());
        }
        let fake = &self.host.fake;
        // SAFETY: the error is ours.
        unsafe {
            let failure = (
                (fake.TRITONSERVER_ErrorCode)(error),
                text((fake.TRITONSERVER_ErrorMessage)(error)),
            );
            (fake.TRITONSERVER_ErrorDelete)(error);
            Err((failure.0, failure.1.unwrap_or_default()))
        }
    }

    /// Makes the `nth` call of a function fail, and all later ones unless `once`.
    pub fn fail(&self, function: &str, nth: i32, once: bool) {
        // SAFETY: a plain call into the fake, which copies the name.
        unsafe { (self.host.fake.fake_fail)(c_string(function).as_ptr(), nth, once) };
    }

    pub fn no_faults(&self) {
        // SAFETY: a plain call into the fake.
        unsafe { (self.host.fake.fake_no_faults)() };
    }

    pub fn gpu_outputs(&self) {
        // SAFETY: a plain call into the fake.
        unsafe { (self.host.fake.fake_gpu_outputs)(true) };
    }

    pub fn n_batch_reports(&self) -> u64 {
        // SAFETY: a plain call into the fake.
        unsafe { (self.host.fake.fake_batch_reports)() }
    }

    /// What is shown as metrics: each series and its value.
    pub fn series(&self) -> Vec<String> {
        // SAFETY: a plain call into the fake.
        let shown = text(unsafe { (self.host.fake.fake_series)() }).unwrap_or_default();
        let mut shown: Vec<String> = shown.lines().map(str::to_owned).collect();
        shown.sort();
        shown
    }

    /// What the backend prefers where a configuration names no instance group: kind and count.
    pub fn preferred_group(&self) -> (c_int, c_int) {
        let mut attributes: [c_int; 2] = [-1, -1];
        // SAFETY: the fake takes two integers as the attributes.
        let asked = unsafe {
            (self.host.exports.TRITONBACKEND_GetBackendAttribute)(
                self.backend,
                attributes.as_mut_ptr().cast(),
            )
        };
        self.take(asked).expect("attributes are given");
        (attributes[0], attributes[1])
    }

    /// Passes null where the exports want objects.
    pub fn nulls(&self) -> Vec<Failure> {
        let exports = &self.host.exports;
        let null = std::ptr::null_mut();
        // SAFETY: null is what is tested.
        let errors = unsafe {
            [
                (exports.TRITONBACKEND_Initialize)(null),
                (exports.TRITONBACKEND_Finalize)(null),
                (exports.TRITONBACKEND_ModelInitialize)(null),
                (exports.TRITONBACKEND_ModelFinalize)(null),
                (exports.TRITONBACKEND_ModelInstanceInitialize)(null),
                (exports.TRITONBACKEND_ModelInstanceFinalize)(null),
                (exports.TRITONBACKEND_ModelInstanceExecute)(null, std::ptr::null_mut(), 0),
            ]
        };
        errors
            .into_iter()
            .map(|error| self.take(error).expect_err("null is refused"))
            .collect()
    }

    /// Loads the demo model with one instance, as Triton does.
    pub fn load(&self, config: &Config) -> Result<Served<'_>, Failure> {
        let (fake, exports) = (&self.host.fake, &self.host.exports);
        let location = concat!(env!("CARGO_MANIFEST_DIR"), "/triton_repo/llm_decoupled");
        let (name, location, json) = (
            c_string(config.name),
            c_string(location),
            c_string(&config.json()),
        );
        // SAFETY: the fake copies the strings; the objects live until their end.
        unsafe {
            let model = (fake.fake_model)(
                self.backend,
                name.as_ptr(),
                location.as_ptr(),
                json.as_ptr(),
                config.auto_complete,
            );
            let instance = (fake.fake_instance)(model, config.kind, 0, config.is_passive);
            let served = Served {
                server: self,
                model,
                instance,
            };
            let loaded = self
                .take((exports.TRITONBACKEND_ModelInitialize)(model))
                .and_then(|()| {
                    self.take((exports.TRITONBACKEND_ModelInstanceInitialize)(instance))
                });
            match loaded {
                Ok(()) => {
                    (fake.fake_model_ready)(model, true);
                    Ok(served)
                }
                Err(failure) => {
                    // Triton finalises what failed to initialise, too.
                    self.no_faults();
                    served.unload();
                    Err(failure)
                }
            }
        }
    }
}

/// A loaded model with its one instance.
pub struct Served<'a> {
    server: &'a Server,
    model: Ptr,
    instance: Ptr,
}

impl<'a> Served<'a> {
    /// Finalises instance and model; returns when the library has let go of them.
    pub fn unload(self) {
        let (fake, exports) = (&self.server.host.fake, &self.server.host.exports);
        // SAFETY: both are live; Triton finalises in this order, with no request left.
        unsafe {
            (fake.fake_model_ready)(self.model, false);
            let ended = (exports.TRITONBACKEND_ModelInstanceFinalize)(self.instance);
            self.server.take(ended).expect("the instance ends");
            let ended = (exports.TRITONBACKEND_ModelFinalize)(self.model);
            self.server.take(ended).expect("the model ends");
            (fake.fake_end)(self.instance);
            (fake.fake_end)(self.model);
        }
    }

    /// Finalises the instance and makes another, as where only `instance_group` has changed.
    pub fn replace_instance(&mut self) {
        let (fake, exports) = (&self.server.host.fake, &self.server.host.exports);
        // SAFETY: the old instance is live until it is ended, and not used afterwards.
        unsafe {
            let ended = (exports.TRITONBACKEND_ModelInstanceFinalize)(self.instance);
            self.server.take(ended).expect("the instance ends");
            (fake.fake_end)(self.instance);
            self.instance = (fake.fake_instance)(self.model, KIND_CPU, 0, false);
            let made = (exports.TRITONBACKEND_ModelInstanceInitialize)(self.instance);
            self.server.take(made).expect("the instance starts");
        }
    }

    pub fn set_ready(&self, ready: bool) {
        // SAFETY: the model is live.
        unsafe { (self.server.host.fake.fake_model_ready)(self.model, ready) };
    }

    /// What was reported of memory: type, id and bytes of each kind.
    pub fn memory(&self) -> String {
        // SAFETY: the model is live.
        let memory = text(unsafe { (self.server.host.fake.fake_model_memory)(self.model) });
        memory.unwrap_or_default()
    }

    pub fn config_was_set(&self) -> bool {
        // SAFETY: the model is live.
        unsafe { (self.server.host.fake.fake_model_was_set)(self.model) }
    }

    /// Hands requests over in one Execute; `Err` gives them back.
    pub fn execute(&self, running: &[Running]) -> Result<(), Failure> {
        let mut requests: Vec<Ptr> = running.iter().map(|running| running.request).collect();
        let n_requests = u32::try_from(requests.len()).expect("few requests");
        // SAFETY: instance and requests are live; the array is the call's only.
        let executed = unsafe {
            (self.server.host.exports.TRITONBACKEND_ModelInstanceExecute)(
                self.instance,
                requests.as_mut_ptr(),
                n_requests,
            )
        };
        // The array dies with the call in Triton, too.
        requests.fill(std::ptr::dangling_mut());
        self.server.take(executed)
    }

    /// Makes a request without handing it over.
    pub fn request(&self, ask: &Ask) -> Running<'a> {
        let fake = &self.server.host.fake;
        // SAFETY: the fake copies everything.
        unsafe {
            let request = (fake.fake_request)(c_string(ask.id).as_ptr());
            for input in &ask.inputs {
                (fake.fake_input)(
                    request,
                    c_string(input.name).as_ptr(),
                    input.datatype,
                    input.memory,
                    input.bytes_a_buffer,
                    input.bytes.as_ptr().cast(),
                    input.bytes.len() as u64,
                );
            }
            for (key, given) in &ask.parameters {
                let key = c_string(key);
                let add = |kind, value| (fake.fake_parameter)(request, key.as_ptr(), kind, value);
                match given {
                    Given::Text(value) => add(0, c_string(value).as_ptr().cast()),
                    Given::Int(value) => add(1, (&raw const *value).cast()),
                    Given::Bool(value) => add(2, (&raw const *value).cast()),
                    Given::Double(value) => add(3, (&raw const *value).cast()),
                    Given::Kind(kind) => add(*kind, (&raw const ZERO).cast()),
                    Given::Null(kind) => add(*kind, std::ptr::null()),
                }
            }
            Running { fake, request }
        }
    }

    /// Hands over one request.
    pub fn ask(&self, ask: &Ask) -> Running<'a> {
        let running = [self.request(ask)];
        self.execute(&running).expect("the request is taken over");
        let [running] = running;
        running
    }

    /// Hands over one request and waits for its end.
    pub fn answer(&self, ask: &Ask) -> Outcome {
        self.ask(ask).end()
    }
}
