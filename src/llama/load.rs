//! What a model is loaded with, and the call that loads it.
//!
//! Used by [`super::Model`] alone, on the thread that loads the Triton model. Files are checked before.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use llama_cpp_2::model::LlamaModel;
use llama_cpp_sys_2 as sys;

use super::error::LoadError;
use super::gguf::ModelFile;
use super::lease::Leases;
use super::{backend, lines};
use crate::machine::memory;

/// How to load a model.
#[derive(Clone, PartialEq, Debug)]
pub struct LoadParams {
    /// Map the file instead of reading it into memory; `None` where nobody can change it meanwhile.
    pub use_mmap: Option<bool>,
    /// Keep the weights from being swapped out.
    pub use_mlock: bool,
    /// Copy weights into a form that is multiplied faster, where llama.cpp has one for this processor.
    pub repack: bool,
    /// Load no weights, for tokenising only.
    pub vocab_only: bool,
    /// llama.cpp's names of the GPUs to use; none is the CPU alone.
    pub gpus: Vec<String>,
    /// Layers, from the last, that go to the GPUs; the output is one of them.
    pub n_gpu_layers: u32,
    /// Split each matrix over the GPUs instead of the layers.
    pub split_rows: bool,
    /// A proportion for each GPU; empty lets llama.cpp go by the memory that is free.
    pub tensor_split: Vec<f32>,
    /// Patterns of tensor names, and the buffer type of what matches; the first match counts.
    pub overrides: Vec<(String, String)>,
}

impl Default for LoadParams {
    fn default() -> Self {
        Self {
            use_mmap: None,
            use_mlock: false,
            repack: true,
            vocab_only: false,
            gpus: Vec::new(),
            n_gpu_layers: 0,
            split_rows: false,
            tensor_split: Vec::new(),
            overrides: Vec::new(),
        }
    }
}

/// Says whether to map the files of a model, and holds them if so.
///
/// # Errors
///
/// Where they are to be read, and memory does not hold them.
pub(super) fn hold(
    file: &ModelFile,
    params: &LoadParams,
) -> Result<(bool, Option<Leases>), LoadError> {
    if params.vocab_only {
        return Ok((false, None));
    }
    // What goes to GPUs does not stay in memory.
    let available = memory::available_bytes().filter(|_| params.gpus.is_empty());
    let short = available.filter(|&available| available < file.n_bytes);
    match (params.use_mmap, short) {
        (Some(false), None) => return Ok((false, None)),
        (Some(false), Some(available)) => {
            return Err(LoadError::Memory {
                file: file.path().to_owned(),
                needed: file.n_bytes,
                available,
            });
        }
        _ => {}
    }
    let error = match Leases::take(&file.shards) {
        Ok(leases) => return Ok((true, Some(leases))),
        Err(error) => error,
    };
    let reason = match (params.use_mmap, short) {
        (Some(true), _) => "'use_mmap' is true".to_owned(),
        _ if file.shards.iter().all(|shard| is_read_only(shard)) => return Ok((true, None)),
        (_, Some(available)) => format!(
            "it has {} bytes and {available} bytes of memory are available",
            file.n_bytes
        ),
        (_, None) => {
            log::info!("{error}: it is read into memory, not mapped");
            return Ok((false, None));
        }
    };
    log::warn!(
        "{error}: it is mapped all the same, as {reason}; who changes it in place ends the server"
    );
    Ok((true, None))
}

/// Whether the file system of a file is mounted read-only.
fn is_read_only(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: all zeros is a valid value of a struct of numbers.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string, and the struct may be written.
    let asked = unsafe { libc::statvfs(path.as_ptr(), &raw mut found) };
    asked == 0 && found.f_flag & libc::ST_RDONLY != 0
}

/// Loads the model of a file that was checked.
pub(super) fn load(
    path: &Path,
    params: &LoadParams,
    use_mmap: bool,
) -> Result<LlamaModel, LoadError> {
    backend::init()?;
    let file = path.to_str().and_then(|text| CString::new(text).ok());
    let file = file.ok_or_else(|| LoadError::Path(path.to_owned()))?;
    let mut devices = params
        .gpus
        .iter()
        .map(|name| device(name))
        .collect::<Result<Vec<_>, _>>()?;
    devices.push(ptr::null_mut());
    let mut tensor_split = params.tensor_split.clone();
    // SAFETY: the call only returns a number.
    tensor_split.resize(unsafe { sys::llama_max_devices() }, 0.0);
    let patterns = params
        .overrides
        .iter()
        .map(|(pattern, _)| CString::new(pattern.as_str()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| LoadError::Pattern)?;
    let mut overrides = patterns
        .iter()
        .zip(&params.overrides)
        .map(|(pattern, (_, buffer))| {
            Ok(sys::llama_model_tensor_buft_override {
                pattern: pattern.as_ptr(),
                buft: buffer_type(buffer)?,
            })
        })
        .collect::<Result<Vec<_>, LoadError>>()?;
    overrides.push(sys::llama_model_tensor_buft_override {
        pattern: ptr::null(),
        buft: ptr::null_mut(),
    });

    // SAFETY: the call only returns a value.
    let mut raw = unsafe { sys::llama_model_default_params() };
    raw.devices = devices.as_mut_ptr();
    raw.n_gpu_layers = i32::try_from(params.n_gpu_layers).unwrap_or(i32::MAX);
    raw.split_mode = match params.split_rows {
        true => sys::LLAMA_SPLIT_MODE_ROW,
        false => sys::LLAMA_SPLIT_MODE_LAYER,
    };
    raw.tensor_split = tensor_split.as_ptr();
    raw.tensor_buft_overrides = overrides.as_ptr();
    raw.vocab_only = params.vocab_only;
    raw.use_extra_bufts = params.repack;
    raw.load_mode = match (use_mmap, params.use_mlock) {
        (false, false) => sys::LLAMA_LOAD_MODE_NONE,
        (true, false) => sys::LLAMA_LOAD_MODE_MMAP,
        (false, true) => sys::LLAMA_LOAD_MODE_MLOCK,
        (true, true) => sys::LLAMA_LOAD_MODE_MMAP_MLOCK,
    };
    lines::take_error();
    // SAFETY: the path is a C string. The arrays end as llama.cpp expects, with a null or at its
    // largest number of devices, and live until the call returns; what it needs later it copies. It
    // catches its exceptions.
    let model = unsafe { sys::llama_model_load_from_file(file.as_ptr(), raw) };
    if model.is_null() {
        let logged = lines::take_error();
        return Err(LoadError::Llama {
            file: path.to_owned(),
            reason: match logged.is_empty() {
                true => "it does not say why".to_owned(),
                false => logged,
            },
        });
    }
    // SAFETY: in the version pinned, `LlamaModel` is a transparent wrapper around a non-null pointer to
    // a model that it owns.
    Ok(unsafe { std::mem::transmute::<*mut sys::llama_model, LlamaModel>(model) })
}

fn device(name: &str) -> Result<sys::ggml_backend_dev_t, LoadError> {
    let unknown = || LoadError::Device(name.to_owned());
    let c_name = CString::new(name).map_err(|_| unknown())?;
    // SAFETY: the name is a C string; the devices live as long as the process.
    let device = unsafe { sys::ggml_backend_dev_by_name(c_name.as_ptr()) };
    match device.is_null() {
        true => Err(unknown()),
        false => Ok(device),
    }
}

fn buffer_type(name: &str) -> Result<sys::ggml_backend_buffer_type_t, LoadError> {
    // SAFETY: the indices are below the count; devices, their buffer types and the names of these live
    // as long as the process.
    let found = unsafe {
        (0..sys::ggml_backend_dev_count())
            .map(|index| sys::ggml_backend_dev_buffer_type(sys::ggml_backend_dev_get(index)))
            .filter(|kind| !kind.is_null())
            .find(|&kind| {
                CStr::from_ptr(sys::ggml_backend_buft_name(kind)).to_bytes() == name.as_bytes()
            })
    };
    found.ok_or_else(|| LoadError::Buffer(name.to_owned()))
}
