//! llama.cpp's modules: one for each kind of CPU, and CUDA's, as files beside our library.
//!
//! With the feature `dynamic-backends` they are loaded once per process, on the thread that
//! initialises llama.cpp and before it. llama.cpp takes the CPU module that fits the machine best and
//! passes over those that cannot be loaded, such as CUDA's where there is no driver; one line of the
//! log says what came of it.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_void};
use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use llama_cpp_sys_2 as sys;

use super::error::NoModule;
use super::lines::TARGET;
use super::objects::{file_of, own_file};

/// The files of modules are called `libggml-<name>.so`, one for a kind of CPU `libggml-cpu-<kind>.so`.
const PREFIX: &str = "libggml-";
const CPU: &str = "cpu-";

/// A module of the folder, and what became of it.
#[derive(PartialEq, Eq, Debug)]
struct Module {
    name: String,
    devices: Vec<String>,
    /// Why it has no devices, as far as that is known.
    reason: String,
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.devices.is_empty() {
            true => write!(f, "{}: no device, {}", self.name, self.reason),
            false => write!(f, "{}: {}", self.name, self.devices.join(", ")),
        }
    }
}

/// Loads the modules that this machine can use, and logs which.
///
/// # Errors
///
/// [`NoModule`] where none is for its CPU. llama.cpp must not be initialised then: it would look for
/// modules itself, in the working directory too.
pub(super) fn load() -> Result<(), NoModule> {
    let folder = folder();
    let Ok(path) = CString::new(folder.as_os_str().as_bytes()) else {
        return Err(NoModule(folder));
    };
    let first_error = Mutex::new(String::new());
    // SAFETY: the path is a C string. The callback is a function that matches its type and does not
    // unwind; its data outlives its use, as it is taken back here.
    unsafe {
        sys::llama_log_set(Some(on_log), (&raw const first_error).cast_mut().cast());
        sys::ggml_backend_load_all_from_path(path.as_ptr());
        sys::llama_log_set(None, std::ptr::null_mut());
    }
    let first_error = first_error.into_inner();
    let mut modules = loaded(&first_error.unwrap_or_else(PoisonError::into_inner));
    let has_cpu = modules.iter().any(|module| module.name.starts_with(CPU));
    modules.extend(left_out(&folder, &modules));
    let lines: Vec<_> = modules.iter().map(Module::to_string).collect();
    log::info!("llama.cpp's modules: {}", lines.join("; "));
    match has_cpu {
        true => Ok(()),
        false => Err(NoModule(folder)),
    }
}

/// The folder of our library. A program that we are linked into, as cargo's tests are, has none: its
/// modules are where they were built.
fn folder() -> PathBuf {
    let own = own_file().unwrap_or_default();
    let is_program = own.canonicalize().ok() == std::env::current_exe().ok();
    match sys::BACKENDS_DIR {
        Some(built) if is_program => PathBuf::from(built),
        _ => own.parent().map(Path::to_owned).unwrap_or_default(),
    }
}

/// `cpu-zen4` of `libggml-cpu-zen4.so`.
fn module_name(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_prefix(PREFIX)?.strip_suffix(".so")?;
    (name != "base").then_some(name)
}

fn file_names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| module_name(&entry.path()).map(str::to_owned))
        .collect()
}

/// The modules that llama.cpp has loaded, in its order.
fn loaded(reason: &str) -> Vec<Module> {
    // SAFETY: every index is below the count, and what is registered stays so for ever. A name or a
    // description is a C string that lives as long.
    unsafe {
        let registries = (0..sys::ggml_backend_reg_count()).map(|i| sys::ggml_backend_reg_get(i));
        let modules = registries.map(|registry| Module {
            name: file_of(registry.cast_const().cast())
                .and_then(|path| module_name(&path).map(str::to_owned))
                .unwrap_or_else(|| text(sys::ggml_backend_reg_name(registry))),
            devices: (0..sys::ggml_backend_reg_dev_count(registry))
                .map(|i| sys::ggml_backend_reg_dev_get(registry, i))
                .map(|device| {
                    let name = text(sys::ggml_backend_dev_name(device));
                    let description = text(sys::ggml_backend_dev_description(device));
                    format!("{name} ({description})")
                })
                .collect(),
            reason: reason.to_owned(),
        });
        modules.collect()
    }
}

/// The modules in the folder that could not be loaded; of those for CPUs, one is enough.
fn left_out(folder: &Path, loaded: &[Module]) -> Vec<Module> {
    let names = file_names(folder).into_iter();
    let names = names.filter(|name| !name.starts_with(CPU));
    names
        .filter(|name| loaded.iter().all(|module| module.name != *name))
        .map(|name| Module {
            reason: why_not(&folder.join(format!("{PREFIX}{name}.so"))),
            name,
            devices: Vec::new(),
        })
        .collect()
}

/// Why the loader refuses this file: llama.cpp keeps it to itself.
fn why_not(path: &Path) -> String {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return String::new();
    };
    // SAFETY: the path is a C string, and loading runs the code of a file that llama.cpp has just
    // tried to load. dlerror's text is a C string, read before the next call.
    unsafe {
        let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        if handle.is_null() {
            return text(libc::dlerror());
        }
        libc::dlclose(handle);
    }
    "llama.cpp refuses it".to_owned()
}

/// # Safety
///
/// `text` is null or a C string.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: it is a C string, says the caller.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// Keeps the first error for our own line, and shows what modules say while they load as details.
unsafe extern "C" fn on_log(level: sys::ggml_log_level, line: *const c_char, data: *mut c_void) {
    // A logger that panics loses the line; that is all that can be done here.
    let _ = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: ggml passes a C string that lives for the duration of the call.
        let line = unsafe { text(line) };
        let line = line.trim_end();
        log::debug!(target: TARGET, "{line}");
        if level == sys::GGML_LOG_LEVEL_ERROR {
            // SAFETY: `load` passes this mutex, and takes the callback back before it ends.
            let first = unsafe { &*data.cast::<Mutex<String>>() };
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            if first.is_empty() {
                line.clone_into(&mut first);
            }
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_is_named_after_its_file() {
        for (path, expected) in [
            ("/x/libggml-cpu-zen4.so", Some("cpu-zen4")),
            ("libggml-cuda.so", Some("cuda")),
            ("/x/libggml-base.so", None),
            ("/x/libggml-base.so.0", None),
            ("/x/libggml.so", None),
            ("/x/libtriton_llm.so", None),
        ] {
            assert_eq!(module_name(Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn a_module_says_what_became_of_it() {
        for (devices, reason, expected) in [
            (
                &["CUDA0 (A)", "CUDA1 (B)"][..],
                "",
                "cuda: CUDA0 (A), CUDA1 (B)",
            ),
            (&[], "no driver", "cuda: no device, no driver"),
        ] {
            let module = Module {
                name: "cuda".to_owned(),
                devices: devices.iter().map(|&device| device.to_owned()).collect(),
                reason: reason.to_owned(),
            };
            assert_eq!(module.to_string(), expected);
        }
    }

    #[test]
    fn a_file_that_is_no_module_is_left_out_with_the_reason() {
        let folder =
            std::env::temp_dir().join(format!("triton-llm-modules-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder of our own");
        for name in ["libggml-cuda.so", "libggml-cpu-zen4.so", "libggml-base.so"] {
            fs::write(folder.join(name), "no library").expect("a folder of our own");
        }
        let modules = left_out(&folder, &[]);
        fs::remove_dir_all(&folder).expect("a folder of our own");
        assert_eq!(modules.len(), 1);
        assert_eq!(modules[0].name, "cuda");
        assert!(modules[0].reason.contains("libggml-cuda.so"), "{modules:?}");
    }
}
