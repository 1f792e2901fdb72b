//! What llama.cpp wants set once per process: its initialisation, with its modules and callbacks.
//!
//! [`init`] may be called from any thread, any number of times.

use std::ffi::CStr;
use std::path::PathBuf;
use std::sync::OnceLock;

use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_sys_2 as sys;

use super::error::NoModule;
#[cfg(feature = "dynamic-backends")]
use super::modules;
use super::{lines, objects};

/// Kept for ever: freeing it would take llama.cpp away from models still loaded.
static BACKEND: OnceLock<Result<LlamaBackend, NoModule>> = OnceLock::new();

/// Initialises llama.cpp on the first call and sends its log to the `log` crate.
///
/// # Errors
///
/// [`NoModule`], only where llama.cpp is built in modules.
pub fn init() -> Result<(), NoModule> {
    backend().map(|_| ())
}

/// Whether this build and machine have a GPU that llama.cpp can use.
pub fn has_gpu() -> bool {
    let kinds = [
        sys::GGML_BACKEND_DEVICE_TYPE_GPU,
        sys::GGML_BACKEND_DEVICE_TYPE_IGPU,
    ];
    // SAFETY: llama.cpp is initialised, and its table of devices is not changed afterwards.
    let is_there = |kind| unsafe { !sys::ggml_backend_dev_by_type(kind).is_null() };
    init().is_ok() && kinds.into_iter().any(is_there)
}

/// The instructions that llama.cpp's code for this processor uses, by its own names.
pub(super) fn variant() -> String {
    // SAFETY: the text is llama.cpp's, which writes it anew at each call; nobody else calls this.
    let text = unsafe { CStr::from_ptr(sys::llama_print_system_info()) };
    let text = text.to_string_lossy();
    let used = text
        .split('|')
        .filter_map(|part| part.trim().strip_suffix(" = 1"));
    used.collect::<Vec<_>>().join(" ")
}

/// Says what llama.cpp computes with, and where it leaves out the most of what the processor has.
fn log_variant() {
    let variant = variant();
    log::info!("llama.cpp computes with {variant}");
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has_amx = flags.split_whitespace().any(|flag| flag == "amx_int8");
    if has_amx && !variant.split(' ').any(|used| used == "AMX_INT8") {
        log::warn!(
            "this processor has AMX, which this build does not use, so prompts and many streams take \
             about twice as long: build on this machine with GCC from 11 on, or use the folder that \
             `make modules` builds"
        );
    }
}

/// The file of the module that computes on this processor, where llama.cpp is built in modules.
pub(super) fn cpu_module() -> Option<PathBuf> {
    // SAFETY: llama.cpp is initialised; a device's registry lives as long as the process.
    let registry = unsafe {
        let device = sys::ggml_backend_dev_by_type(sys::GGML_BACKEND_DEVICE_TYPE_CPU);
        (!device.is_null()).then(|| sys::ggml_backend_dev_backend_reg(device))
    };
    let file = objects::file_of(registry?.cast_const().cast())?;
    (objects::own_file()? != file).then_some(file)
}

pub(super) fn backend() -> Result<&'static LlamaBackend, NoModule> {
    let backend = BACKEND.get_or_init(|| {
        #[cfg(feature = "dynamic-backends")]
        modules::load()?;
        // SAFETY: the callbacks are functions, valid for ever, that ignore the user data.
        unsafe {
            sys::llama_log_set(Some(lines::on_log), std::ptr::null_mut());
            sys::ggml_set_abort_callback(Some(lines::on_abort));
        }
        let backend = LlamaBackend::init().expect("the OnceLock lets one initialisation through");
        log_variant();
        Ok(backend)
    });
    backend.as_ref().map_err(NoModule::clone)
}
