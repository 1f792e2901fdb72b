//! A model from load to unload: what Triton's Initialize, Execute and Finalize do.
//!
//! Called by the exports, on Triton's threads. Reads the configuration and the
//! files it names, starts one engine per device, and hands requests to it.

mod demand;
mod error;
mod fit;
mod sizes;
mod start;
mod template;
mod threads;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::config::{self, ModelConfig, ModelFileName, Place};
use crate::delivery::Delivery;
use crate::engine::Stats;
use crate::llama;
use crate::machine::{
    self,
    device::{Device, UnusableDevice},
};
use crate::metrics;
use crate::triton::{
    self, Attached, Backend, Code, Error, Instance, InstanceKind, Request, Responder, is_signalled,
    listen_to_signals, panic_text, stop_at_exit,
};

use error::LoadError;
use start::Launch;
use threads::EngineThreads;

/// Held while a model takes memory of GPUs.
static ON_GPUS: Mutex<()> = Mutex::new(());

/// Starts what all models share.
pub(crate) fn initialize(backend: Backend) -> Result<(), Error> {
    llama::init().map_err(|error| Error::new(Code::Unavailable, error.to_string()))?;
    listen_to_signals();
    let delivery = Delivery::start(is_signalled).map_err(|error| {
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
    match usable_gpus().as_deref() {
        None => {}
        Some([]) => log::info!("there is no GPU that can be used: models run on the CPU"),
        Some(gpus) => gpus.iter().for_each(log_gpu),
    }
    backend.set_state(delivery)
}

fn log_gpu(gpu: &Device) {
    let capability = gpu.compute_capability;
    let capability =
        capability.map(|(major, minor)| format!(", compute capability {major}.{minor}"));
    log::info!(
        "{}: {}{}, {} of {} MiB free",
        gpu.name,
        gpu.description,
        capability.unwrap_or_default(),
        gpu.free_bytes >> 20,
        gpu.total_bytes >> 20
    );
}

/// Stops what [`initialize`] started.
pub(crate) fn finalize(backend: Backend) -> Result<(), Error> {
    backend.drop_state()
}

/// Whether instances belong on GPUs where a configuration does not say.
pub(crate) fn prefers_gpus() -> bool {
    llama::has_gpu()
}

/// A loaded model: the state that hangs on Triton's.
struct ServedModel {
    name: String,
    engines: HashMap<Place, EngineThreads>,
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
    if instance.is_passive()? {
        return Ok(());
    }
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
        let folder = model.version_folder()?;
        let path = find_model_file(&folder, config.model_file.as_ref())?;
        let mut engines = HashMap::new();
        let mut memory = BTreeMap::new();
        // What one model finds free, another that loads at the same time must not take.
        let _one_at_a_time =
            llama::has_gpu().then(|| ON_GPUS.lock().unwrap_or_else(PoisonError::into_inner));
        for mut placement in config::placement(&config, usable_gpus().as_deref())? {
            update_free_bytes(&mut placement.devices);
            let launch = Launch {
                config: &config,
                folder: &folder,
                path: &path,
                placement: &placement,
            };
            let is_serving = Box::new(model.serving_probe()?);
            let report = Box::new(reporter(model)?);
            let engine = launch.start(is_serving, report, &delivery)?;
            for (gpu, n_bytes) in engine.memory {
                *memory.entry(gpu).or_default() += n_bytes;
            }
            engines.insert(placement.place, engine.threads);
        }
        if let Err(error) = model.report_memory(&memory) {
            log::warn!(
                "model '{}': its memory is not reported: {error}",
                config.name
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

    fn engine(&self, kind: InstanceKind) -> Result<&EngineThreads, Error> {
        let engine = match kind {
            InstanceKind::Cpu => self.engines.get(&Place::Cpu),
            InstanceKind::Gpu(index) => self.engines.get(&Place::Gpu(index)),
            // Where there is no GPU to choose, the CPU is left.
            InstanceKind::Model => {
                let chosen = self.engines.get(&Place::Model);
                chosen.or_else(|| self.engines.get(&Place::Cpu))
            }
        };
        engine.ok_or_else(|| {
            Error::new(
                Code::Internal,
                format!("no engine for an instance of kind {kind:?}"),
            )
        })
    }
}

/// Makes what shows an engine's figures in the series of its model.
fn reporter(model: triton::Model) -> Result<impl FnMut(&Stats) + Send + 'static, Error> {
    let (name, version) = (model.name()?, model.version()?.to_string());
    let labels = [("model", name.as_str()), ("version", version.as_str())];
    let mut series = triton::Series::new(metrics::GAUGES, &labels);
    Ok(move |stats: &Stats| series.write(metrics::values(stats)))
}

/// Finds out what is left by the engines that were started since the GPUs were listed.
fn update_free_bytes(gpus: &mut [Device]) {
    let now: Vec<Device> = listed_gpus().into_iter().flatten().flatten().collect();
    for gpu in gpus {
        if let Some(now) = now.iter().find(|now| now.name == gpu.name) {
            gpu.free_bytes = now.free_bytes;
        }
    }
}

/// The GPUs that can be used, a warning for each that cannot; `None` in a build without CUDA.
fn usable_gpus() -> Option<Vec<Device>> {
    listed_gpus().map(usable)
}

fn usable(listed: Vec<Result<Device, UnusableDevice>>) -> Vec<Device> {
    let warned = |gpu: Result<Device, UnusableDevice>| {
        gpu.inspect_err(|error| log::warn!("{error}: models are placed without it"))
            .ok()
    };
    listed.into_iter().filter_map(warned).collect()
}

/// The GPUs that both CUDA and llama.cpp find; `None` in a build without CUDA.
fn listed_gpus() -> Option<Vec<Result<Device, UnusableDevice>>> {
    // Where llama.cpp has no GPU, the driver is missing, a stub, or of no use: it is not asked.
    cfg!(feature = "cuda").then(|| match llama::has_gpu() {
        true => machine::devices(),
        false => Vec::new(),
    })
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
fn find_model_file(folder: &Path, named: Option<&ModelFileName>) -> Result<PathBuf, LoadError> {
    if let Some(named) = named {
        let path = folder.join(&named.path);
        return match fs::metadata(&path) {
            Ok(_) => Ok(path),
            Err(source) => Err(LoadError::File {
                field: Some(named.field),
                path,
                source,
            }),
        };
    }
    let unreadable = |source| LoadError::File {
        field: None,
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
    fn a_gpu_that_cannot_be_used_leaves_the_others() {
        let gpu = |index| Device {
            name: format!("CUDA{index}"),
            kind: machine::device::DeviceKind::Gpu,
            description: "H200".to_owned(),
            free_bytes: 1 << 37,
            total_bytes: 1 << 37,
            cuda_index: Some(index),
            compute_capability: Some((9, 0)),
        };
        let full = |index: u32| UnusableDevice {
            name: format!("CUDA{index}"),
            reason: "out of memory".to_owned(),
        };
        for (listed, expected) in [
            (vec![Ok(gpu(0)), Err(full(1)), Ok(gpu(2))], vec![0_u32, 2]),
            (vec![Err(full(0))], vec![]),
            (vec![], vec![]),
        ] {
            let indices: Vec<u32> = usable(listed)
                .iter()
                .filter_map(|gpu| gpu.cuda_index)
                .collect();
            assert_eq!(indices, expected);
        }
        assert_eq!(full(1).to_string(), "CUDA1 cannot be used: out of memory");
    }
}
