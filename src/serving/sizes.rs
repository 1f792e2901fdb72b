//! How many cells an engine gets, how long a context, and what they take of host memory.
//!
//! Called by `start`, on the thread that loads the model. Pure: what is free comes in. What is configured is
//! kept, and an error where it does not fit; what is chosen for GPUs is chosen in `fit`.

use std::ops::RangeInclusive;

use super::error::LoadError;
use super::fit::{Fitted, MIN_AUTOMATIC_N_CTX, N_CTX_STEP};
use crate::config::{FlashAttention, Parameters, Placement};
use crate::llama::{self, ModelFile};

/// Tokens of KV cache where the configuration leaves it to us and memory allows.
const MAX_AUTOMATIC_N_CTX: u32 = 32_768;

/// The equal parts that the KV cache is made of.
pub(super) fn n_parts(parameters: &Parameters, n_slots: usize) -> u32 {
    match parameters.kv_unified {
        true => 1,
        false => n_slots as u32,
    }
}

/// Tokens of a sequence on GPUs: what is configured, or the least and the most.
pub(super) fn n_ctx_on_gpus(
    parameters: &Parameters,
    file: &ModelFile,
    n_slots: usize,
) -> Result<RangeInclusive<u32>, LoadError> {
    if parameters.n_ctx == 0 {
        let most = automatic_n_ctx(file.n_ctx_train, u64::MAX, file.max_positions);
        return Ok(most.min(MIN_AUTOMATIC_N_CTX)..=most);
    }
    let n_ctx = (parameters.n_ctx / n_parts(parameters, n_slots)).max(2);
    check_positions(n_ctx, file.max_positions)?;
    Ok(n_ctx..=n_ctx)
}

/// A KV cache in host memory that is still to be sized.
pub(super) struct HostCache {
    /// Of one cell, with what it adds to the buffers of a step.
    cell_bytes: u64,
    n_parts: u32,
    /// Bytes that are free, as far as known.
    available: Option<u64>,
}

impl HostCache {
    /// That of a model and, where there is one, of the model that drafts for it.
    pub(super) fn new(
        file: &ModelFile,
        draft: Option<&ModelFile>,
        parameters: &Parameters,
        n_slots: usize,
        flash_attention: FlashAttention,
        available: Option<u64>,
    ) -> Self {
        let n_parts = n_parts(parameters, n_slots);
        let mut cell_bytes = cell_bytes(draft.into_iter().chain([file]), parameters);
        if flash_attention == FlashAttention::Off {
            // A step computes the scores of one part's cells.
            cell_bytes += file.score_bytes_per_cell(parameters.n_ubatch.div_ceil(n_parts));
        }
        Self {
            cell_bytes,
            n_parts,
            available,
        }
    }

    /// The cells that were configured.
    pub(super) fn configured(
        &self,
        n_cells: u32,
        max_positions: Option<u32>,
    ) -> Result<u32, LoadError> {
        check_positions(n_cells / self.n_parts, max_positions)?;
        self.checked(n_cells)
    }

    /// The tokens of a sequence that there are where nothing is configured, and whether more would not fit.
    pub(super) fn automatic(&self, n_ctx_train: u32, max_positions: Option<u32>) -> (u32, bool) {
        // Half of what is free: the rest is for computing, and for other models.
        let affordable = self.available.map_or(u64::MAX, |bytes| {
            bytes / 2 / self.cell_bytes.max(1) / u64::from(self.n_parts)
        });
        let n_ctx = automatic_n_ctx(n_ctx_train, affordable, max_positions);
        let is_all = u64::from(n_ctx) > affordable.saturating_sub(u64::from(N_CTX_STEP));
        (n_ctx, is_all)
    }

    /// The cells for `n_ctx` tokens of each part.
    pub(super) fn of_parts(&self, n_ctx: u32) -> Result<u32, LoadError> {
        self.checked(n_ctx.saturating_mul(self.n_parts))
    }

    /// Checks that there is memory for that many cells.
    fn checked(&self, n_ctx: u32) -> Result<u32, LoadError> {
        let n_cells = llama::cells_made(u64::from(n_ctx), u64::from(self.n_parts));
        let needed = self.cell_bytes.saturating_mul(n_cells);
        match self.available {
            Some(available) if needed > available => Err(LoadError::KvCache {
                n_ctx,
                n_cells,
                n_parts: self.n_parts,
                needed,
                available,
            }),
            _ => Ok(n_ctx),
        }
    }
}

/// The bytes of weights and caches, and of a step's buffers as far as they are estimated: of each GPU that
/// Triton has a number for, by that, and of host memory, which is `None`.
pub(super) fn memory(
    files: &[&ModelFile],
    parameters: &Parameters,
    placement: &Placement,
    fitted: Option<&Fitted>,
    n_cells: u32,
) -> Vec<(Option<u32>, u64)> {
    let in_files: u64 = files.iter().map(|file| file.n_bytes).sum();
    let Some(fitted) = fitted else {
        let n_parts = n_parts(parameters, placement.n_slots);
        let n_cells = llama::cells_made(n_cells.into(), n_parts.into());
        let cache = cell_bytes(files.iter().copied(), parameters) * n_cells;
        return vec![(None, in_files + cache)];
    };
    let on_gpus: u64 = fitted.shares.iter().map(|share| share.weights).sum();
    let host = in_files.saturating_sub(on_gpus) + fitted.host_cache;
    let devices = placement.devices.iter().zip(&fitted.shares);
    let known = devices.filter_map(|(device, share)| {
        let index = device.cuda_index?;
        Some((Some(index), share.n_bytes()))
    });
    known.chain([(None, host)]).collect()
}

/// Bytes that a token takes in the caches of these models.
fn cell_bytes<'a>(files: impl Iterator<Item = &'a ModelFile>, parameters: &Parameters) -> u64 {
    files
        .map(|file| file.kv_bytes_per_cell(parameters.cache_type_k, parameters.cache_type_v))
        .sum()
}

fn automatic_n_ctx(trained: u32, affordable: u64, max_positions: Option<u32>) -> u32 {
    let trained = trained.clamp(N_CTX_STEP, MAX_AUTOMATIC_N_CTX);
    let n_ctx = u64::from(trained)
        .min(affordable)
        .max(u64::from(N_CTX_STEP));
    let n_ctx = u32::try_from(n_ctx).unwrap_or(trained) / N_CTX_STEP * N_CTX_STEP;
    max_positions.map_or(n_ctx, |limit| n_ctx.min(limit))
}

/// Bytes of host memory that are free, and those of them that stay so.
pub(super) fn host_memory(available: Option<u64>, n_ctx: u32) -> (u64, u64) {
    match (available, n_ctx) {
        (None, _) => (u64::MAX, 0),
        // As on the CPU: what is left to us takes half of what is free.
        (Some(bytes), 0) => (bytes, bytes.div_ceil(2)),
        (Some(bytes), _) => (bytes, 0),
    }
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
    fn an_automatic_context_leaves_half_of_the_host_memory_free() {
        for (available, n_ctx, expected) in [
            (Some(1001), 0, (1001, 501)),
            (Some(1001), 4096, (1001, 0)),
            (None, 0, (u64::MAX, 0)),
            (None, 4096, (u64::MAX, 0)),
        ] {
            let found = host_memory(available, n_ctx);
            assert_eq!(found, expected, "{available:?} {n_ctx}");
        }
    }
}
