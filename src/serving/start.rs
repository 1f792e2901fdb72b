//! How an engine is made: weights, chat template and context, as configured.
//!
//! Called while a model is loaded, on Triton's thread. How large all is to be is worked out in `fit` for GPUs and
//! in `sizes` for host memory; asks for free memory, and reads the model's files through `llama`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::demand::{Demand, n_host};
use super::error::LoadError;
use super::fit::{Fit, Fitted};
use super::sizes::{self, HostCache, host_memory, n_ctx_on_gpus, n_parts};
use super::threads::EngineThreads;
use crate::config::{
    FlashAttention, ModelConfig, Parameters, Placement, SpeculativeMethod, SplitMode,
};
use crate::delivery::Delivery;
use crate::engine::{Drafter, Limits, PromptLookup, Scheduler, Sharing, Stats};
use crate::intake::{Bound, Intake};
use crate::llama::{self, ContextParams, LoadParams, ModelFile, trial};
use crate::machine::memory;
use crate::protocol::{self, Reading, RequestLimits, Settings};
use crate::worker::Worker;

/// Numbers of a head from which llama.cpp's fused attention kernel of CPUs is the faster one.
const MIN_FUSED_HEAD: u32 = 64;

/// Rows that drafts fill a step up to. On CPUs, a step takes longer in proportion to its rows, and so
/// a wrong guess costs what a right one saves: see docs/performance.md.
const DRAFTED_ROWS: usize = 16;

/// Rows that others run until what an ended sequence held leaves the cache, where each row looks at all
/// cells: see docs/performance.md. On GPUs a cell is looked at far faster than it is copied; how much is
/// an estimate.
const N_ROWS_TO_PARK: usize = 64;
const N_ROWS_TO_PARK_ON_GPUS: usize = 4096;

/// What an engine is started from.
pub(super) struct Launch<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) folder: &'a Path,
    pub(super) path: &'a Path,
    pub(super) placement: &'a Placement,
}

/// An engine, and the memory that it takes.
pub(super) struct Engine {
    pub(super) threads: EngineThreads,
    /// Bytes of each GPU, by its number, and of host memory, which is `None`.
    pub(super) memory: Vec<(Option<u32>, u64)>,
}

/// What was chosen and loaded before a context is made.
struct Loaded {
    flash_attention: FlashAttention,
    /// What fits the GPUs; `None` without them.
    fitted: Option<Fitted>,
    weights: Arc<llama::Model>,
    draft_weights: Option<llama::Model>,
}

impl Launch<'_> {
    pub(super) fn start(
        &self,
        is_serving: Box<dyn Fn() -> bool + Send>,
        report: Box<dyn FnMut(&Stats) + Send>,
        delivery: &Arc<Delivery>,
    ) -> Result<Engine, LoadError> {
        let parameters = &self.config.parameters;
        let Loaded {
            flash_attention,
            fitted,
            weights,
            draft_weights,
        } = self.load()?;
        let template = self.template(&weights)?;
        let n_slots = match &fitted {
            Some(fitted) => fitted.n_slots as usize,
            None => self.placement.n_slots,
        };
        let n_parts = n_parts(parameters, n_slots);
        let n_cells = match &fitted {
            Some(fitted) => fitted.n_ctx * n_parts,
            None => self.n_cells(&weights, draft_weights.as_ref(), flash_attention)?,
        };
        // A part is rounded up to the cache's step, so that it holds two tokens at least.
        let n_ctx = (n_cells / n_parts).max(2);
        let defaults = self.defaults(weights.file(), n_ctx)?;
        let max_draft = max_draft(parameters);
        if max_draft > 0 && !weights.can_be_cut() {
            return Err(LoadError::Uncut);
        }
        let context = self.context_params(flash_attention, n_slots, n_cells);
        let drafting = draft_weights.iter().map(llama::Model::file);
        let files: Vec<_> = drafting.chain([weights.file()]).collect();
        let memory = sizes::memory(&files, parameters, self.placement, fitted.as_ref(), n_cells);
        let n_host = n_host(parameters, weights.file(), memory::available_bytes());
        let runner = llama::Runner::new(Arc::clone(&weights), &context)?;
        let drafter = self.drafter(draft_weights, &runner, &context)?;
        let sharing = match parameters.enable_prefix_caching {
            true => runner.sharing(),
            false => Sharing::None,
        };
        let limits = Limits {
            n_slots,
            n_kept: match sharing {
                Sharing::None => 0,
                _ => runner.n_kept(),
            },
            n_cells: runner.n_cells(),
            sharing,
            n_host,
            n_rows_to_park: match (runner.looks_at_all_cells(), self.is_cpu()) {
                (false, _) => usize::MAX,
                (true, true) => N_ROWS_TO_PARK,
                (true, false) => N_ROWS_TO_PARK_ON_GPUS,
            },
            n_ctx: n_ctx as usize,
            n_batch: runner.n_batch(),
            max_draft,
            n_draft_rows: context.n_draft_rows,
            target_itl: Duration::from_millis(u64::from(parameters.target_itl_ms)),
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
        let intake = Intake {
            model_name: self.config.name.clone(),
            contract: self.config.contract,
            reading: Reading {
                defaults,
                limits: RequestLimits {
                    n_ctx,
                    max_prompt_bytes: parameters.max_prompt_bytes,
                },
                strict: parameters.strict_parameters,
            },
            bound: Bound {
                n_slots,
                max_queue: parameters.max_queue_size as usize,
            },
            timeout: match parameters.request_timeout_ms {
                0 => None,
                ms => Some(Duration::from_millis(ms.into())),
            },
            template,
            weights,
        };
        let worker = |inbox| {
            let scheduler = Scheduler::new(limits);
            Worker::new(inbox, scheduler, runner, drafter, is_serving, report)
        };
        let threads = EngineThreads::start(intake, worker, delivery)?;
        Ok(Engine { threads, memory })
    }

    /// Chooses what is to be where, then loads the weights.
    fn load(&self) -> Result<Loaded, LoadError> {
        let parameters = &self.config.parameters;
        let file = ModelFile::read(self.path).map_err(llama::LoadError::from)?;
        parameters.check_layers(file.n_layers)?;
        let draft_file = self.draft_file()?;
        let flash_attention = flash_attention(parameters, self.is_cpu(), &file);
        let fitted = self.fitted(&file, draft_file.as_ref(), flash_attention)?;
        for file in draft_file.iter().chain([&file]) {
            self.try_first(file, flash_attention)?;
        }
        let weights = Arc::new(llama::Model::load_checked(
            file,
            &self.load_params(fitted.as_ref()),
        )?);
        let draft_weights = match draft_file {
            Some(file) => {
                let model = llama::Model::load_checked(file, &self.draft_load_params());
                Some(model.map_err(LoadError::DraftModelFile)?)
            }
            None => None,
        };
        Ok(Loaded {
            flash_attention,
            fitted,
            weights,
            draft_weights,
        })
    }

    /// Runs what the load will run in a process that may die.
    fn try_first(
        &self,
        file: &ModelFile,
        flash_attention: FlashAttention,
    ) -> Result<(), LoadError> {
        let parameters = &self.config.parameters;
        let Some(program) = trial::own_program().filter(|_| parameters.trial) else {
            return Ok(());
        };
        let context = self.context_params(flash_attention, self.placement.n_slots, 0);
        let available = memory::available_bytes();
        let tried = trial::try_first(&program, file, &context, parameters.repack, available);
        Ok(tried?)
    }

    fn device_names(&self) -> impl Iterator<Item = String> {
        let devices = self.placement.devices.iter();
        devices.map(|device| device.name.clone())
    }

    fn is_cpu(&self) -> bool {
        self.placement.devices.is_empty()
    }

    /// The draft model's file, where one is configured.
    fn draft_file(&self) -> Result<Option<ModelFile>, LoadError> {
        let Some(path) = &self.config.parameters.speculative_model else {
            return Ok(None);
        };
        let file = ModelFile::read(&self.folder.join(path));
        let file = file.map_err(|error| LoadError::DraftModelFile(error.into()))?;
        Ok(Some(file))
    }

    fn drafter(
        &self,
        draft_weights: Option<llama::Model>,
        runner: &llama::Runner,
        context: &ContextParams,
    ) -> Result<Option<Box<dyn Drafter>>, LoadError> {
        let parameters = &self.config.parameters;
        Ok(match draft_weights {
            Some(model) => {
                let model = llama::DraftModel::new(Arc::new(model), runner, context)?;
                Some(Box::new(model))
            }
            None if max_draft(parameters) > 0 => Some(Box::new(PromptLookup {
                n_gram: parameters.prompt_lookup_min as usize
                    ..=parameters.prompt_lookup_max as usize,
            })),
            None => None,
        })
    }

    /// What is chosen to fit the GPUs; `None` without them.
    fn fitted(
        &self,
        file: &ModelFile,
        draft: Option<&ModelFile>,
        flash_attention: FlashAttention,
    ) -> Result<Option<Fitted>, LoadError> {
        if self.is_cpu() {
            return Ok(None);
        }
        let parameters = &self.config.parameters;
        let n_slots = self.placement.n_slots as u32;
        let n_ctx = n_ctx_on_gpus(parameters, file, self.placement.n_slots)?;
        let n_instances = self.placement.n_instances as u32;
        let gpus = &self.placement.devices;
        let demand = Demand::new(file, draft, parameters, gpus, flash_attention);
        let (host, host_margin) = host_memory(memory::available_bytes(), parameters.n_ctx);
        let fit = Fit {
            demand: &demand,
            gpus,
            margin: u64::from(parameters.fit_margin_mib) << 20,
            host,
            host_margin,
            n_gpu_layers: parameters.n_gpu_layers,
            n_cpu_moe: parameters.n_cpu_moe,
            ratios: &self.placement.tensor_split,
            split_rows: self.placement.split_mode == SplitMode::Row,
            n_ctx,
            n_slots: match parameters.n_parallel {
                // A fixed number of cells has a fixed number of parts.
                0 if parameters.n_ctx == 0 => n_instances..=n_slots,
                _ => n_slots..=n_slots,
            },
            n_instances,
            kv_unified: parameters.kv_unified,
        };
        let fitted = fit.choose()?;
        log::info!("model '{}' fits:\n{}", self.config.name, fit.table(&fitted));
        Ok(Some(fitted))
    }

    fn load_params(&self, fitted: Option<&Fitted>) -> LoadParams {
        let parameters = &self.config.parameters;
        LoadParams {
            use_mmap: parameters.use_mmap,
            use_mlock: parameters.use_mlock,
            repack: parameters.repack,
            vocab_only: false,
            gpus: self.device_names().collect(),
            n_gpu_layers: fitted.map_or(0, |fitted| fitted.n_gpu_layers),
            split_rows: self.placement.split_mode == SplitMode::Row,
            tensor_split: fitted.map_or(Vec::new(), |fitted| fitted.tensor_split.clone()),
            overrides: parameters
                .overrides(fitted.map_or(0, |fitted| fitted.n_cpu_moe))
                .into_iter()
                .map(|place| (place.pattern, place.buffer))
                .collect(),
        }
    }

    /// The draft model is whole on the first GPU.
    fn draft_load_params(&self) -> LoadParams {
        LoadParams {
            use_mmap: self.config.parameters.use_mmap,
            use_mlock: self.config.parameters.use_mlock,
            repack: self.config.parameters.repack,
            gpus: self.device_names().take(1).collect(),
            n_gpu_layers: u32::MAX,
            ..LoadParams::default()
        }
    }

    /// The cells of a KV cache in host memory: as configured, else what model and memory allow.
    fn n_cells(
        &self,
        weights: &llama::Model,
        draft_weights: Option<&llama::Model>,
        flash_attention: FlashAttention,
    ) -> Result<u32, LoadError> {
        let parameters = &self.config.parameters;
        let file = weights.file();
        let cache = HostCache::new(
            file,
            draft_weights.map(llama::Model::file),
            parameters,
            self.placement.n_slots,
            flash_attention,
            memory::available_bytes(),
        );
        if parameters.n_ctx != 0 {
            return cache.configured(parameters.n_ctx, file.max_positions);
        }
        let (n_ctx, is_all) = cache.automatic(weights.n_ctx_train(), file.max_positions);
        if is_all {
            log::warn!(
                "model '{}': n_ctx = {n_ctx} is all that half of the free memory allows",
                self.config.name
            );
        }
        cache.of_parts(n_ctx)
    }

    /// What requests that do not say otherwise get, and a line in the log for it.
    fn defaults(&self, file: &ModelFile, n_ctx: u32) -> Result<Settings, LoadError> {
        let json = &self.config.parameters.sampling_parameters;
        let defaults = protocol::defaults((self.config.contract.defaults)(), &file.sampling, json)?;
        defaults.settings.check(n_ctx)?;
        let name = &self.config.name;
        for note in &defaults.notes {
            log::warn!("model '{name}': {note}");
        }
        let found = match defaults.found.as_str() {
            "" => "llama.cpp's",
            found => found,
        };
        log::info!("model '{name}': defaults of requests: {found}");
        Ok(defaults.settings)
    }

    fn context_params(
        &self,
        flash_attention: FlashAttention,
        n_slots: usize,
        n_cells: u32,
    ) -> ContextParams {
        let parameters = &self.config.parameters;
        ContextParams {
            n_slots,
            n_draft_rows: match max_draft(parameters) {
                0 => 0,
                max_draft => DRAFTED_ROWS.max(1 + max_draft),
            },
            n_cells: n_cells as usize,
            kv_unified: parameters.kv_unified,
            n_batch: parameters.n_batch as usize,
            n_ubatch: parameters.n_ubatch as usize,
            n_threads: parameters.n_threads,
            n_threads_batch: parameters.n_threads_batch,
            type_k: parameters.cache_type_k,
            type_v: parameters.cache_type_v,
            flash_attention,
            offload_kqv: true,
            own_attention: self.is_cpu(),
            full_warm_up: !self.is_cpu(),
        }
    }
}

/// On a CPU, where it is computed here, or llama.cpp's kernel is worth it: see docs/performance.md.
fn flash_attention(parameters: &Parameters, is_cpu: bool, file: &ModelFile) -> FlashAttention {
    let is_needed = parameters.cache_type_v.is_quantized();
    match parameters.flash_attn {
        FlashAttention::Auto if is_cpu => {
            let is_worth_it = file.key_length >= MIN_FUSED_HEAD
                || llama::computes_heads(file.key_length, file.value_length);
            match is_needed || is_worth_it {
                true => FlashAttention::On,
                false => FlashAttention::Off,
            }
        }
        chosen => chosen,
    }
}

/// Tokens of a draft; 0 where nobody drafts.
fn max_draft(parameters: &Parameters) -> usize {
    match parameters.speculative_method {
        SpeculativeMethod::None => 0,
        _ => parameters.num_speculative_tokens as usize,
    }
}
