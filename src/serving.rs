//! A model from load to unload: what Triton's Initialize, Execute and Finalize do.
//!
//! Called by the exports, on Triton's threads. Reads the configuration and the
//! files it names, starts one engine per device, and hands requests to it.

use std::collections::HashMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::{self, Device, ModelConfig, Parameters};
use crate::delivery::Delivery;
use crate::engine::Limits;
use crate::intake::{Intake, Reading};
use crate::llama::{self, CacheType, ChatTemplate, ContextParams, FlashAttention, LoadParams};
use crate::memory;
use crate::protocol::{RequestError, RequestLimits};
use crate::triton::{
    self, Attached, Backend, Code, Error, Instance, InstanceKind, Request, Responder, panic_text,
    stop_at_exit,
};

/// Tokens of KV cache where the configuration leaves it to us and memory allows.
const MAX_AUTOMATIC_N_CTX: u32 = 32_768;
/// KV caches are made of multiples of this many cells.
const N_CTX_STEP: u32 = 256;
/// Bytes of a chat template's file.
const MAX_TEMPLATE_BYTES: u64 = 1024 * 1024;

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Triton(#[from] Error),
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error("'{}' cannot be read: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("no *.gguf file in '{}': put one there or set the parameter 'model_path'", .0.display())]
    NoModelFile(PathBuf),
    #[error("{} *.gguf files in '{}': keep one or set the parameter 'model_path'", files.len(), folder.display())]
    ManyModelFiles {
        folder: PathBuf,
        files: Vec<PathBuf>,
    },
    #[error("chat template file '{}' has {n_bytes} bytes: at most {MAX_TEMPLATE_BYTES} are allowed", path.display())]
    TemplateTooLong { path: PathBuf, n_bytes: u64 },
    #[error(transparent)]
    Template(#[from] llama::TemplateError),
    #[error(transparent)]
    Weights(#[from] llama::LoadError),
    #[error(transparent)]
    Context(#[from] llama::ContextError),
    #[error(transparent)]
    Defaults(#[from] RequestError),
    #[error(
        "config parameter 'n_ctx' = {n_ctx}: must be at most {max_positions}, the positions that \
         this model has learned"
    )]
    Positions { n_ctx: u32, max_positions: u32 },
    #[error(
        "n_ctx = {n_ctx} tokens of KV cache and attention need {needed} bytes: {available} bytes of memory are available"
    )]
    KvCache {
        n_ctx: u32,
        needed: u64,
        available: u64,
    },
}

impl From<LoadError> for Error {
    fn from(error: LoadError) -> Self {
        let code = match &error {
            LoadError::Triton(error) => error.code,
            LoadError::NoModelFile(_) => Code::NotFound,
            LoadError::File { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                Code::NotFound
            }
            LoadError::Context(llama::ContextError::OutOfRange { .. }) => Code::InvalidArg,
            LoadError::Context(_) => Code::Internal,
            LoadError::KvCache { .. } => Code::Unavailable,
            _ => Code::InvalidArg,
        };
        Error::new(code, error.to_string())
    }
}

/// Starts what all models share.
pub(crate) fn initialize(backend: Backend) -> Result<(), Error> {
    llama::init();
    let delivery = Delivery::start().map_err(|error| {
        Error::new(
            Code::Internal,
            format!("no thread for the delivery: {error}"),
        )
    })?;
    log::info!(
        "backend '{}' is triton-llm {}",
        backend.name()?,
        env!("CARGO_PKG_VERSION")
    );
    backend.set_state(delivery)
}

/// Stops what [`initialize`] started.
pub(crate) fn finalize(backend: Backend) -> Result<(), Error> {
    backend.drop_state()
}

/// A loaded model: the state that hangs on Triton's.
struct ServedModel {
    name: String,
    engines: HashMap<Device, Intake>,
    /// Instances that the slots were counted for.
    n_instances: usize,
    n_attached: AtomicUsize,
    /// Whether requests have a batch dimension.
    batched: bool,
}

/// Completes and checks the configuration, then loads the model.
pub(crate) fn load(model: triton::Model) -> Result<(), Error> {
    let served = ServedModel::load(model)?;
    stop_at_exit();
    model.set_state(served)
}

/// Ends the engines of a model that has no requests left.
pub(crate) fn unload(model: triton::Model) -> Result<(), Error> {
    model.drop_state()
}

/// Checks that an instance has an engine to send its requests to.
pub(crate) fn attach(instance: Instance) -> Result<(), Error> {
    let served = instance.model()?.state::<ServedModel>()?;
    served.engine(instance.kind()?)?;
    instance.set_state(Attached::new(instance))?;
    // Triton adds instances to a loaded model where only `instance_group` has changed.
    let n_attached = served.n_attached.fetch_add(1, Ordering::Relaxed) + 1;
    if n_attached > served.n_instances {
        log::warn!(
            "model '{}': instance {n_attached} shares the slots of the {} that it was loaded \
             with: unload and load the model to have more",
            served.name,
            served.n_instances
        );
    }
    Ok(())
}

/// Lets go of an instance; requests that it was given may still run.
pub(crate) fn detach(instance: Instance) -> Result<(), Error> {
    if let Ok(attached) = instance.state::<Attached>() {
        attached.detach();
        let served = instance.model()?.state::<ServedModel>()?;
        served.n_attached.fetch_sub(1, Ordering::Relaxed);
    }
    instance.drop_state()
}

/// Takes over the requests of one Execute; each is answered, now or later.
///
/// # Errors
///
/// Only before the first request is taken over: Triton then keeps them all.
pub(crate) fn execute(
    instance: Instance,
    requests: impl Iterator<Item = Option<Request>>,
) -> Result<(), Error> {
    let served = instance.model()?.state::<ServedModel>()?;
    let engine = served.engine(instance.kind()?)?;
    let attached = instance.state::<Attached>()?;
    for request in requests.flatten() {
        // A panic must not become an error: Triton would take back requests that are ours.
        let taken = catch_unwind(AssertUnwindSafe(|| {
            match Responder::new(request, Arc::clone(&attached), served.batched) {
                Ok(responder) => engine.accept(responder),
                Err(error) => {
                    log::error!(
                        "model '{}': a request cannot be answered: {error}",
                        served.name
                    );
                }
            }
        }));
        if let Err(panic) = taken {
            log::error!(
                "model '{}': taking over a request panicked: {}",
                served.name,
                panic_text(panic.as_ref())
            );
        }
    }
    Ok(())
}

impl ServedModel {
    fn load(model: triton::Model) -> Result<Self, LoadError> {
        let delivery = model.backend()?.state::<Delivery>()?;
        let config = read_config(model)?;
        let placements = config::placement(&config.instance_groups, llama::has_gpu())?;
        let folder = model.version_folder()?;
        let path = find_model_file(&folder, config.parameters.model_path.as_deref())?;
        let mut engines = HashMap::new();
        for placement in placements {
            let n_slots = config.parameters.n_parallel as usize * placement.n_instances;
            let plan = EnginePlan {
                config: &config,
                folder: &folder,
                path: &path,
                n_slots,
            };
            let is_serving = Box::new(model.serving_probe()?);
            engines.insert(
                placement.device,
                plan.start(placement.device, is_serving, &delivery)?,
            );
        }
        Ok(Self {
            engines,
            n_instances: config.n_instances,
            n_attached: AtomicUsize::new(0),
            name: config.name,
            batched: config.max_batch_size > 0,
        })
    }

    fn engine(&self, kind: InstanceKind) -> Result<&Intake, Error> {
        let mut engines = self.engines.iter();
        let engine = match kind {
            InstanceKind::Cpu => engines.find(|(device, _)| **device == Device::Cpu),
            InstanceKind::Gpu | InstanceKind::Model => engines.next(),
        };
        engine.map(|(_, engine)| engine).ok_or_else(|| {
            Error::new(
                Code::Internal,
                format!("no engine for an instance of kind {kind:?}"),
            )
        })
    }
}

/// Reads the configuration, completed where Triton allows it.
fn read_config(model: triton::Model) -> Result<ModelConfig, LoadError> {
    let name = model.name()?;
    let auto_complete = model.auto_complete()?;
    let mut json = model.config_json()?;
    let mut notes = Vec::new();
    if auto_complete {
        let completed = config::autocomplete(&json)?;
        notes = completed.notes;
        if let Some(completed) = completed.json {
            model.set_config(&completed)?;
            json = completed;
        }
    }
    let (config, more_notes) = config::parse(&json, auto_complete)?;
    for note in notes.iter().chain(&more_notes) {
        log::warn!("model '{name}': {note}");
    }
    Ok(config)
}

/// Finds the model's file: the one named, else the only one in the version folder.
fn find_model_file(folder: &Path, model_path: Option<&str>) -> Result<PathBuf, LoadError> {
    if let Some(path) = model_path {
        let path = folder.join(path);
        return match fs::metadata(&path) {
            Ok(_) => Ok(path),
            Err(source) => Err(LoadError::File { path, source }),
        };
    }
    let unreadable = |source| LoadError::File {
        path: folder.to_owned(),
        source,
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "gguf")
            && !is_later_shard(&path)
        {
            files.push(path);
        }
    }
    files.sort();
    match files.len() {
        0 => Err(LoadError::NoModelFile(folder.to_owned())),
        1 => Ok(files.remove(0)),
        _ => Err(LoadError::ManyModelFiles {
            folder: folder.to_owned(),
            files,
        }),
    }
}

/// Says whether a file is a shard of a split model other than its first:
/// `name-00002-of-00003.gguf`.
fn is_later_shard(path: &Path) -> bool {
    let parts = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .and_then(|stem| {
            let (rest, count) = stem.rsplit_once("-of-")?;
            let (_, number) = rest.rsplit_once('-')?;
            Some((number, count))
        });
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    parts.is_some_and(|(number, count)| is_number(number) && is_number(count) && number != "00001")
}

/// What an engine is started from.
struct EnginePlan<'a> {
    config: &'a ModelConfig,
    folder: &'a Path,
    path: &'a Path,
    n_slots: usize,
}

impl EnginePlan<'_> {
    fn start(
        &self,
        device: Device,
        is_serving: Box<dyn Fn() -> bool + Send>,
        delivery: &Arc<Delivery>,
    ) -> Result<Intake, LoadError> {
        let parameters = &self.config.parameters;
        let weights = Arc::new(llama::Model::load(
            self.path,
            &load_params(parameters, device),
        )?);
        let template = self.template(&weights)?;
        let n_parts = self.n_parts();
        let n_cells = self.n_cells(&weights, device)?;
        // A part is rounded up to the cache's step, so that it holds two tokens at least.
        let n_ctx = (n_cells / n_parts).max(2);
        parameters.sampling_parameters.check(n_ctx)?;
        let context = context_params(parameters, device, self.n_slots, n_cells);
        let runner = llama::Runner::new(Arc::clone(&weights), &context)?;
        let limits = Limits {
            n_slots: self.n_slots,
            n_cells: runner.n_cells(),
            n_ctx: n_ctx as usize,
            n_batch: runner.n_batch(),
            max_queue: parameters.max_queue_size as usize,
        };
        log::info!(
            "model '{}': n_ctx = {n_ctx} tokens {} {} slots, n_batch = {}, {} threads",
            self.config.name,
            if parameters.kv_unified {
                "shared by"
            } else {
                "for each of"
            },
            limits.n_slots,
            limits.n_batch,
            runner.n_threads(),
        );
        let reading = Reading {
            model_name: self.config.name.clone(),
            defaults: parameters.sampling_parameters.clone(),
            limits: RequestLimits {
                n_ctx,
                max_prompt_bytes: parameters.max_prompt_bytes,
            },
            strict: parameters.strict_parameters,
            template,
            weights,
        };
        Ok(Intake::start(
            reading, limits, runner, is_serving, delivery,
        )?)
    }

    /// The chat template: the configuration's, else the model's own, else ChatML.
    fn template(&self, weights: &llama::Model) -> Result<ChatTemplate, LoadError> {
        let parameters = &self.config.parameters;
        let from_file;
        let source = if let Some(path) = &parameters.chat_template_file {
            from_file = read_template(&self.folder.join(path))?;
            &from_file
        } else if let Some(source) = &parameters.chat_template {
            source
        } else if let Some(source) = weights.chat_template() {
            source
        } else {
            log::warn!(
                "model '{}': the file has no chat template, ChatML is used: \
                 set 'chat_template' or 'chat_template_file' to change that",
                self.config.name
            );
            llama::CHATML
        };
        Ok(ChatTemplate::new(
            source,
            weights.bos_text(),
            weights.eos_text(),
        )?)
    }

    /// The equal parts that the KV cache is made of.
    fn n_parts(&self) -> u32 {
        match self.config.parameters.kv_unified {
            true => 1,
            false => self.n_slots as u32,
        }
    }

    /// The tokens of the KV cache: as configured, else what model and memory allow.
    fn n_cells(&self, weights: &llama::Model, device: Device) -> Result<u32, LoadError> {
        let parameters = &self.config.parameters;
        let file = weights.file();
        let mut cell_bytes = file.kv_bytes_per_cell(
            cache_type(parameters.cache_type_k),
            cache_type(parameters.cache_type_v),
        );
        let n_parts = self.n_parts();
        if flash_attention(parameters, device) == FlashAttention::Off {
            // A step computes the scores of one part's cells.
            cell_bytes += file.score_bytes_per_cell(parameters.n_ubatch.div_ceil(n_parts));
        }
        let available = memory::available_bytes();
        let max_positions = weights.file().max_positions;
        if parameters.n_ctx == 0 {
            // Half of what is free: the rest is for computing, and for other models.
            let affordable = available.map_or(u64::MAX, |bytes| {
                bytes / 2 / cell_bytes.max(1) / u64::from(n_parts)
            });
            let n_ctx = automatic_n_ctx(weights.n_ctx_train(), affordable, max_positions);
            if u64::from(n_ctx) > affordable.saturating_sub(u64::from(N_CTX_STEP)) {
                log::warn!(
                    "model '{}': n_ctx = {n_ctx} is all that half of the free memory allows",
                    self.config.name
                );
            }
            return Ok(n_ctx.saturating_mul(n_parts));
        }
        check_positions(parameters.n_ctx / n_parts, max_positions)?;
        let needed = cell_bytes.saturating_mul(u64::from(parameters.n_ctx));
        match available {
            Some(available) if needed > available => Err(LoadError::KvCache {
                n_ctx: parameters.n_ctx,
                needed,
                available,
            }),
            _ => Ok(parameters.n_ctx),
        }
    }
}

fn automatic_n_ctx(trained: u32, affordable: u64, max_positions: Option<u32>) -> u32 {
    let trained = trained.clamp(N_CTX_STEP, MAX_AUTOMATIC_N_CTX);
    let n_ctx = u64::from(trained)
        .min(affordable)
        .max(u64::from(N_CTX_STEP));
    let n_ctx = u32::try_from(n_ctx).unwrap_or(trained) / N_CTX_STEP * N_CTX_STEP;
    max_positions.map_or(n_ctx, |limit| n_ctx.min(limit))
}

/// ggml asserts that a position has its row in the table of learned ones.
fn check_positions(n_ctx: u32, max_positions: Option<u32>) -> Result<(), LoadError> {
    match max_positions {
        Some(max_positions) if n_ctx > max_positions => Err(LoadError::Positions {
            n_ctx,
            max_positions,
        }),
        _ => Ok(()),
    }
}

fn read_template(path: &Path) -> Result<String, LoadError> {
    let unreadable = |source| LoadError::File {
        path: path.to_owned(),
        source,
    };
    // Opening a pipe would wait for its writer.
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(unreadable(std::io::Error::other("it is no regular file")));
    }
    if metadata.len() > MAX_TEMPLATE_BYTES {
        return Err(LoadError::TemplateTooLong {
            path: path.to_owned(),
            n_bytes: metadata.len(),
        });
    }
    fs::read_to_string(path).map_err(unreadable)
}

fn load_params(parameters: &Parameters, device: Device) -> LoadParams {
    let (n_gpu_layers, main_gpu) = match device {
        Device::Cpu => (Some(0), None),
        Device::Gpu(index) => (parameters.n_gpu_layers, Some(index)),
    };
    LoadParams {
        use_mmap: parameters.use_mmap,
        use_mlock: parameters.use_mlock,
        n_gpu_layers,
        main_gpu,
        vocab_only: false,
    }
}

/// On a CPU the fused kernel is the slower one, and it sums in f16 in the order of
/// the cells, which other requests decide: auto leaves it out where it can.
fn flash_attention(parameters: &Parameters, device: Device) -> FlashAttention {
    match parameters.flash_attn {
        config::FlashAttn::On => FlashAttention::On,
        config::FlashAttn::Off => FlashAttention::Off,
        config::FlashAttn::Auto if device == Device::Cpu => {
            match parameters.cache_type_v.is_quantized() {
                true => FlashAttention::On,
                false => FlashAttention::Off,
            }
        }
        config::FlashAttn::Auto => FlashAttention::Auto,
    }
}

fn context_params(
    parameters: &Parameters,
    device: Device,
    n_slots: usize,
    n_cells: u32,
) -> ContextParams {
    ContextParams {
        n_slots,
        n_cells: n_cells as usize,
        kv_unified: parameters.kv_unified,
        n_batch: parameters.n_batch as usize,
        n_ubatch: parameters.n_ubatch as usize,
        n_threads: parameters.n_threads,
        n_threads_batch: parameters.n_threads_batch,
        type_k: cache_type(parameters.cache_type_k),
        type_v: cache_type(parameters.cache_type_v),
        flash_attention: flash_attention(parameters, device),
        offload_kqv: true,
    }
}

fn cache_type(configured: config::CacheType) -> CacheType {
    CacheType::from_name(configured.as_str()).expect("both tables have llama.cpp's names")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_after_the_first_are_no_models_of_their_own() {
        let check = |name: &str, expected: bool| {
            assert_eq!(is_later_shard(Path::new(name)), expected, "{name}");
        };
        check("/m/1/model.gguf", false);
        check("/m/1/model-00001-of-00002.gguf", false);
        check("/m/1/model-00002-of-00002.gguf", true);
        check("/m/1/best-of-3.gguf", false);
        check("/m/1/2-of-3.gguf", false);
    }

    #[test]
    fn a_context_is_no_longer_than_the_positions_learned() {
        assert!(check_positions(1 << 24, None).is_ok());
        assert!(check_positions(1024, Some(1024)).is_ok());
        let error = check_positions(1025, Some(1024)).map_err(|error| error.to_string());
        let text = "config parameter 'n_ctx' = 1025: must be at most 1024, the positions that this \
                    model has learned";
        assert_eq!(error, Err(text.to_owned()));
        for (trained, affordable, max_positions, expected) in [
            (1 << 20, u64::MAX, None, MAX_AUTOMATIC_N_CTX),
            (1000, u64::MAX, None, 768),
            (4096, 1000, None, 768),
            (4096, 0, None, N_CTX_STEP),
            (1000, u64::MAX, Some(1000), 768),
            (100, u64::MAX, Some(100), 100),
        ] {
            let n_ctx = automatic_n_ctx(trained, affordable, max_positions);
            assert_eq!(n_ctx, expected, "{trained} {affordable} {max_positions:?}");
        }
    }

    #[test]
    fn every_configured_cache_type_is_known() {
        for configured in config::CacheType::ALL {
            let name = configured.as_str();
            assert!(CacheType::from_name(name).is_some(), "{name}");
        }
    }
}
