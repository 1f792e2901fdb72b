//! How an engine is made: weights, chat template, context and sizes, as configured.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::LoadError;
use crate::config::{self, Device, MAX_TEMPLATE_BYTES, ModelConfig, Parameters, SpeculativeMethod};
use crate::delivery::Delivery;
use crate::engine::{Drafter, Limits, PromptLookup, Sharing};
use crate::intake::{Intake, Reading};
use crate::llama::{self, CacheType, ChatTemplate, ContextParams, FlashAttention, LoadParams};
use crate::memory;
use crate::protocol::RequestLimits;

/// Tokens of KV cache where the configuration leaves it to us and memory allows.
const MAX_AUTOMATIC_N_CTX: u32 = 32_768;
/// KV caches are made of multiples of this many cells.
const N_CTX_STEP: u32 = 256;
/// Numbers of a head from which the fused attention kernel of CPUs is the faster one.
const MIN_FUSED_HEAD: u32 = 64;

/// Rows that drafts fill a step up to. On CPUs, more rows take as much longer as they are more, and so
/// a wrong guess costs what a right one saves: see docs/performance.md.
const DRAFTED_ROWS: usize = 16;

/// Of the memory that is free at load, one in so many bytes may hold what has left the KV cache.
const HOST_PART: u64 = 4;
/// Rows that others run until what an ended sequence held leaves the cache: see docs/performance.md.
const N_ROWS_TO_PARK: usize = 64;

/// What an engine is started from.
pub(super) struct EnginePlan<'a> {
    pub(super) config: &'a ModelConfig,
    pub(super) folder: &'a Path,
    pub(super) path: &'a Path,
    pub(super) n_slots: usize,
}

impl EnginePlan<'_> {
    pub(super) fn start(
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
        let draft_weights = self.draft_weights(device)?;
        let template = self.template(&weights)?;
        let n_parts = self.n_parts();
        let n_cells = self.n_cells(&weights, draft_weights.as_ref(), device)?;
        // A part is rounded up to the cache's step, so that it holds two tokens at least.
        let n_ctx = (n_cells / n_parts).max(2);
        parameters.sampling_parameters.check(n_ctx)?;
        let flash_attention = flash_attention(parameters, device, weights.file());
        let max_draft = max_draft(parameters);
        if max_draft > 0 && !weights.can_be_cut() {
            return Err(LoadError::Uncut);
        }
        let context = context_params(parameters, device, flash_attention, self.n_slots, n_cells);
        let n_host = n_host(parameters, weights.file(), memory::available_bytes());
        let runner = llama::Runner::new(Arc::clone(&weights), &context)?;
        let drafter: Option<Box<dyn Drafter>> = match draft_weights {
            Some(model) => {
                let model = llama::DraftModel::new(Arc::new(model), &weights, &context)?;
                Some(Box::new(model))
            }
            None if max_draft > 0 => Some(Box::new(PromptLookup {
                n_gram: parameters.prompt_lookup_min as usize
                    ..=parameters.prompt_lookup_max as usize,
            })),
            None => None,
        };
        let sharing = match parameters.enable_prefix_caching {
            true => runner.sharing(),
            false => Sharing::None,
        };
        let limits = Limits {
            n_slots: self.n_slots,
            n_kept: match sharing {
                Sharing::None => 0,
                _ => runner.n_kept(),
            },
            n_cells: runner.n_cells(),
            sharing,
            n_host,
            n_rows_to_park: N_ROWS_TO_PARK,
            n_ctx: n_ctx as usize,
            n_batch: runner.n_batch(),
            n_tile_rows: match (device, flash_attention) {
                (Device::Cpu, FlashAttention::On) => llama::FUSED_TILE_ROWS,
                _ => 1,
            },
            max_draft,
            n_draft_rows: context.n_draft_rows,
            max_queue: parameters.max_queue_size as usize,
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
            reading, limits, runner, drafter, is_serving, delivery,
        )?)
    }

    /// The draft model, where one is configured.
    fn draft_weights(&self, device: Device) -> Result<Option<llama::Model>, LoadError> {
        let parameters = &self.config.parameters;
        let Some(path) = &parameters.speculative_model else {
            return Ok(None);
        };
        let path = self.folder.join(path);
        let model = llama::Model::load(&path, &load_params(parameters, device));
        model.map(Some).map_err(LoadError::DraftModelFile)
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
    fn n_cells(
        &self,
        weights: &llama::Model,
        draft_weights: Option<&llama::Model>,
        device: Device,
    ) -> Result<u32, LoadError> {
        let parameters = &self.config.parameters;
        let file = weights.file();
        let type_k = cache_type(parameters.cache_type_k);
        let type_v = cache_type(parameters.cache_type_v);
        let files = draft_weights.map(llama::Model::file).into_iter();
        let files = files.chain([file]);
        let mut cell_bytes: u64 = files
            .map(|file| file.kv_bytes_per_cell(type_k, type_v))
            .sum();
        let n_parts = self.n_parts();
        if flash_attention(parameters, device, file) == FlashAttention::Off {
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

/// Tokens for which there is host memory once they have left the KV cache.
fn n_host(parameters: &Parameters, file: &llama::ModelFile, available: Option<u64>) -> usize {
    let type_k = cache_type(parameters.cache_type_k);
    let type_v = cache_type(parameters.cache_type_v);
    let token_bytes = file.kv_bytes_per_cell(type_k, type_v).max(1);
    let wanted = parameters
        .cache_ram_mib
        .map_or(u64::MAX, |mib| u64::from(mib) << 20);
    let n_bytes = available.map_or(wanted, |available| wanted.min(available / HOST_PART));
    usize::try_from(n_bytes / token_bytes).unwrap_or(usize::MAX)
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
    if metadata.len() > MAX_TEMPLATE_BYTES as u64 {
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

/// On a CPU the fused kernel is worth it for heads of some size only, see docs/performance.md, and it
/// sums in f16 in the order of the cells, which other requests decide.
fn flash_attention(
    parameters: &Parameters,
    device: Device,
    file: &llama::ModelFile,
) -> FlashAttention {
    let is_needed = parameters.cache_type_v.is_quantized();
    match parameters.flash_attn {
        config::FlashAttn::On => FlashAttention::On,
        config::FlashAttn::Off => FlashAttention::Off,
        config::FlashAttn::Auto if device != Device::Cpu => FlashAttention::Auto,
        config::FlashAttn::Auto if is_needed || file.key_length >= MIN_FUSED_HEAD => {
            FlashAttention::On
        }
        config::FlashAttn::Auto => FlashAttention::Off,
    }
}

fn context_params(
    parameters: &Parameters,
    device: Device,
    flash_attention: FlashAttention,
    n_slots: usize,
    n_cells: u32,
) -> ContextParams {
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
        type_k: cache_type(parameters.cache_type_k),
        type_v: cache_type(parameters.cache_type_v),
        flash_attention,
        offload_kqv: true,
        decode_apart: device == Device::Cpu
            && parameters.kv_unified
            && flash_attention == FlashAttention::On,
    }
}

/// Tokens of a draft; 0 where nobody drafts.
fn max_draft(parameters: &Parameters) -> usize {
    match parameters.speculative_method {
        SpeculativeMethod::None => 0,
        _ => parameters.num_speculative_tokens as usize,
    }
}

fn cache_type(configured: config::CacheType) -> CacheType {
    CacheType::from_name(configured.as_str()).expect("both tables have llama.cpp's names")
}

#[cfg(test)]
mod tests {
    use super::*;

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
