//! Which layers go to which GPU, and how long a context and how many slots they leave room for.
//!
//! Called before anything of a model is loaded; pure: sizes come in, what was chosen or what is missing goes out.
//! What is set is kept, and an error where it does not fit. Of what is left to us, the context gives
//! way first, down to [`MIN_AUTOMATIC_N_CTX`], then the slots where each has cells of its own, then the
//! experts, of which a token uses few, and at last the layers, as with llama.cpp's `--fit`.

use std::fmt::{self, Write};
use std::ops::RangeInclusive;

use super::demand::Demand;
use crate::config::GpuLayers;
use crate::machine::device::Device;

/// Tokens of context that layers do not stay in host memory for; llama.cpp's `--fit-ctx`.
pub(super) const MIN_AUTOMATIC_N_CTX: u32 = 4096;
/// KV caches are made of multiples of this many cells.
pub(super) const N_CTX_STEP: u32 = 256;

const MIB: u64 = 1 << 20;

/// What may be chosen, and what there is room in.
pub(super) struct Fit<'a> {
    pub(super) demand: &'a Demand,
    /// In the order in which the layers go to them; at least one.
    pub(super) gpus: &'a [Device],
    /// Bytes of each GPU that stay free.
    pub(super) margin: u64,
    /// Bytes of host memory that are free, for the cache of layers that stay there.
    pub(super) host: u64,
    /// Bytes of it that stay free.
    pub(super) host_margin: u64,
    pub(super) n_gpu_layers: GpuLayers,
    /// Layers whose experts stay in host memory; `None` leaves it open.
    pub(super) n_cpu_moe: Option<u32>,
    /// A proportion for each GPU; empty leaves it open.
    pub(super) ratios: &'a [f32],
    /// Whether each matrix is split over the GPUs, in place of the layers.
    pub(super) split_rows: bool,
    /// Tokens of a sequence: what is set, or the least and the most.
    pub(super) n_ctx: RangeInclusive<u32>,
    /// Slots: what is set, or the least and the most.
    pub(super) n_slots: RangeInclusive<u32>,
    /// Slots are given up this many at a time, one for each instance.
    pub(super) n_instances: u32,
    /// Whether all slots share the cells; else each has `n_ctx` of them.
    pub(super) kv_unified: bool,
}

/// What was chosen, and what it takes.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Fitted {
    pub(super) n_gpu_layers: u32,
    pub(super) n_cpu_moe: u32,
    /// A proportion for each GPU, as llama.cpp takes it.
    pub(super) tensor_split: Vec<f32>,
    pub(super) n_ctx: u32,
    pub(super) n_slots: u32,
    /// For each GPU.
    pub(super) shares: Vec<Share>,
    /// Bytes of the cache of layers that stay in host memory.
    pub(super) host_cache: u64,
}

/// What a GPU holds, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Share {
    pub(super) n_layers: u32,
    pub(super) weights: u64,
    pub(super) cache: u64,
    pub(super) step: u64,
}

impl Share {
    pub(super) fn n_bytes(&self) -> u64 {
        self.weights
            .saturating_add(self.cache)
            .saturating_add(self.step)
    }
}

/// What does not fit.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "{tried} need {needed} bytes of {memory}: {free} bytes are free, {margin} of them are kept free"
)]
pub(super) struct Short {
    tried: Choice,
    memory: String,
    needed: u64,
    free: u64,
    margin: u64,
}

/// What is chosen between.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Choice {
    n_gpu_layers: u32,
    n_cpu_moe: u32,
    n_ctx: u32,
    n_slots: u32,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} layers on GPUs", self.n_gpu_layers)?;
        if self.n_cpu_moe > 0 {
            write!(f, " but for the experts of the first {}", self.n_cpu_moe)?;
        }
        write!(f, ", n_ctx = {} and {} slots", self.n_ctx, self.n_slots)
    }
}

impl Fit<'_> {
    /// Chooses what is left open.
    pub(super) fn choose(&self) -> Result<Fitted, Short> {
        let all = self.demand.layers.len() as u32;
        let layers = match self.n_gpu_layers {
            GpuLayers::Auto => 1..=all,
            GpuLayers::All => all..=all,
            GpuLayers::Count(count) => count..=count,
        };
        let with_experts = self.demand.n_with_experts();
        let experts = match self.n_cpu_moe.map(|count| count.min(with_experts)) {
            None => 0..=with_experts,
            Some(count) => count..=count,
        };
        let best = Choice {
            n_gpu_layers: *layers.end(),
            n_cpu_moe: *experts.start(),
            n_ctx: *self.n_ctx.start(),
            n_slots: *self.n_slots.end(),
        };
        if self.at(best).is_ok() {
            return self.longest(best);
        }
        // Slots that share their cells take none of their own.
        let n_slots = match self.kv_unified {
            true => best.n_slots,
            false => *self.n_slots.start(),
        };
        let fewer_slots = (n_slots..best.n_slots)
            .rev()
            .filter(|n_slots| n_slots % self.n_instances == 0)
            .map(|n_slots| Choice { n_slots, ..best });
        let n_all_experts = *experts.end();
        let fewer_experts = experts.map(|n_cpu_moe| Choice {
            n_cpu_moe,
            n_slots,
            ..best
        });
        let fewer_layers = layers.rev().map(|n_gpu_layers| Choice {
            n_gpu_layers,
            n_cpu_moe: n_all_experts,
            n_slots,
            ..best
        });
        let mut short = None;
        for choice in fewer_slots.chain(fewer_experts).chain(fewer_layers) {
            match self.at(choice) {
                Ok(fitted) => return Ok(fitted),
                Err(error) => short = Some(error),
            }
        }
        Err(short.expect("at least one number of layers was tried"))
    }

    /// The longest context for such a choice; the shortest is known to fit.
    fn longest(&self, choice: Choice) -> Result<Fitted, Short> {
        let at = |n_ctx| self.at(Choice { n_ctx, ..choice });
        let (mut fits, mut fails) = (*self.n_ctx.start(), *self.n_ctx.end());
        if let Ok(fitted) = at(fails) {
            return Ok(fitted);
        }
        while fails - fits > N_CTX_STEP {
            let middle = (fits + (fails - fits) / 2).next_multiple_of(N_CTX_STEP);
            let middle = if middle < fails {
                middle
            } else {
                middle - N_CTX_STEP
            };
            if middle <= fits {
                break;
            }
            match at(middle) {
                Ok(_) => fits = middle,
                Err(_) => fails = middle,
            }
        }
        at(fits)
    }

    /// Spreads the layers of a choice.
    fn at(&self, tried: Choice) -> Result<Fitted, Short> {
        let Choice {
            n_gpu_layers,
            n_cpu_moe,
            n_ctx,
            n_slots,
        } = tried;
        let short = |memory: String, needed, free, margin| Short {
            tried,
            memory,
            needed,
            free,
            margin,
        };
        let n_part_cells = u64::from(n_ctx).next_multiple_of(u64::from(N_CTX_STEP));
        let n_cells = match self.kv_unified {
            true => n_part_cells,
            false => n_part_cells.saturating_mul(u64::from(n_slots)),
        };
        let layers = &self.demand.layers;
        let first = layers.len() - n_gpu_layers as usize;
        let host_cell: u64 = layers[..first].iter().map(|layer| layer.cell).sum();
        let host_cache = host_cell.saturating_mul(n_cells);
        if host_cache > self.host.saturating_sub(self.host_margin) {
            let memory = "host memory".to_owned();
            return Err(short(memory, host_cache, self.host, self.host_margin));
        }
        let size = Size {
            first,
            n_cpu_moe: n_cpu_moe as usize,
            n_cells,
            n_part_cells,
        };
        let budgets: Vec<u64> = self
            .gpus
            .iter()
            .map(|gpu| gpu.free_bytes.saturating_sub(self.margin))
            .collect();
        let by_budget: Vec<f32> = budgets.iter().map(|&budget| budget as f32).collect();
        let ratios = match self.ratios {
            [] => &by_budget,
            ratios => ratios,
        };
        let mut counts = spread(ratios, n_gpu_layers);
        let mut shares = self.shares(&counts, ratios, &size);
        let fit = |shares: &[Share]| {
            let mut pairs = shares.iter().zip(&budgets);
            pairs.all(|(share, &budget)| share.n_bytes() <= budget)
        };
        // The last GPU has the output as well, so that a fair part may be too much for it.
        if !fit(&shares) && self.ratios.is_empty() && !self.split_rows {
            let packed = self.pack(&budgets, n_gpu_layers, &size);
            let other = self.shares(&packed, ratios, &size);
            if fit(&other) {
                (counts, shares) = (packed, other);
            }
        }
        let missing = |(at, share): &(usize, &Share)| share.n_bytes().saturating_sub(budgets[*at]);
        let worst = shares.iter().enumerate().max_by_key(missing);
        if let Some((at, share)) = worst.filter(|pair| missing(pair) > 0) {
            let gpu = &self.gpus[at];
            let name = gpu.to_string();
            return Err(short(name, share.n_bytes(), gpu.free_bytes, self.margin));
        }
        let tensor_split = match self.split_rows {
            true => ratios.to_vec(),
            false => counts.iter().map(|&count| count as f32).collect(),
        };
        Ok(Fitted {
            n_gpu_layers,
            n_cpu_moe,
            tensor_split,
            n_ctx,
            n_slots,
            shares,
            host_cache,
        })
    }

    /// What each GPU holds where it has as many layers as `counts` says.
    fn shares(&self, counts: &[u32], ratios: &[f32], size: &Size) -> Vec<Share> {
        let mut start = size.first;
        let mut shares = Vec::new();
        for (gpu, &count) in counts.iter().enumerate() {
            let end = start + count as usize;
            shares.push(self.share(gpu, start..end, size));
            start = end;
        }
        if self.split_rows {
            let whole: Vec<u64> = (0..shares.len()).map(|gpu| self.whole(gpu)).collect();
            let weights: u64 = shares.iter().map(|share| share.weights).sum();
            let total = weights.saturating_sub(whole.iter().sum());
            let sum: f64 = ratios.iter().map(|&ratio| f64::from(ratio)).sum();
            for ((share, &ratio), whole) in shares.iter_mut().zip(ratios).zip(whole) {
                // Norms and biases are not split, and rows are rounded: one part in 64 more.
                let part = total as f64 * f64::from(ratio) / sum;
                share.weights = ((part * (1.0 + 1.0 / 64.0)) as u64).saturating_add(whole);
            }
        }
        shares
    }

    /// What a GPU holds of these layers.
    fn share(&self, gpu: usize, layers: std::ops::Range<usize>, size: &Size) -> Share {
        let demand = self.demand;
        let n_layers = layers.len() as u32;
        let has_output = layers.contains(&(demand.layers.len() - 1));
        let without_experts = layers.start.max(size.n_cpu_moe).min(layers.end);
        let in_host = &demand.layers[layers.start..without_experts];
        let in_host: u64 = in_host.iter().map(|layer| layer.experts).sum();
        let layers = &demand.layers[layers];
        let weights: u64 = layers.iter().map(|layer| layer.weights).sum();
        let mut share = Share {
            n_layers,
            weights: (weights - in_host).saturating_add(self.whole(gpu)),
            cache: layers
                .iter()
                .map(|layer| layer.cell.saturating_mul(size.n_cells))
                .fold(0, u64::saturating_add),
            step: 0,
        };
        // The first GPU computes for layers in host memory, even where it has none of its own, and
        // any GPU with the weights that were put there.
        if n_layers > 0 || gpu == 0 || demand.placed_on(gpu) > 0 {
            let reads_host = size.first > 0 || size.n_cpu_moe > 0 || demand.keeps_in_host;
            let copies = if reads_host { demand.copies } else { 0 };
            let logits = if has_output { demand.logits } else { 0 };
            let by_cells = demand.step_cell.saturating_mul(size.n_part_cells);
            share.step = [demand.step, by_cells, logits, copies]
                .into_iter()
                .fold(0, u64::saturating_add);
        }
        if gpu == 0 {
            let cache = demand.draft.cell.saturating_mul(size.n_cells);
            share.cache = share.cache.saturating_add(cache);
        }
        share
    }

    /// The weights that a GPU has whichever layers and rows are there.
    fn whole(&self, gpu: usize) -> u64 {
        let draft = match gpu {
            0 => self.demand.draft.weights,
            _ => 0,
        };
        self.demand.placed_on(gpu).saturating_add(draft)
    }

    /// Gives each GPU, from the last, as many layers as fit; those that fit nowhere go to the first.
    fn pack(&self, budgets: &[u64], n_gpu_layers: u32, size: &Size) -> Vec<u32> {
        let mut counts = vec![0; budgets.len()];
        let mut end = size.first + n_gpu_layers as usize;
        for gpu in (0..budgets.len()).rev() {
            let mut start = end;
            while start > size.first {
                let share = self.share(gpu, start - 1..end, size);
                if share.n_bytes() > budgets[gpu] {
                    break;
                }
                start -= 1;
            }
            if gpu == 0 {
                start = size.first;
            }
            counts[gpu] = (end - start) as u32;
            end = start;
        }
        counts
    }

    /// The table for the log: what was chosen, why, and what it takes.
    pub(super) fn table(&self, fitted: &Fitted) -> String {
        Table { fit: self, fitted }.to_string()
    }
}

/// What the bytes of a layer depend on.
struct Size {
    /// The first layer that is not in host memory.
    first: usize,
    /// Before this one, experts are in host memory, too.
    n_cpu_moe: usize,
    n_cells: u64,
    /// Cells that one sequence can see.
    n_part_cells: u64,
}

/// The layers of each GPU, as llama.cpp finds them from the proportions.
fn spread(ratios: &[f32], n_layers: u32) -> Vec<u32> {
    let mut sum = 0.0;
    let ends: Vec<f32> = ratios
        .iter()
        .map(|ratio| {
            sum += ratio;
            sum
        })
        .collect();
    let mut counts = vec![0; ratios.len()];
    for layer in 0..n_layers {
        let at = layer as f32 / n_layers as f32;
        let gpu = ends.iter().position(|end| end / sum > at);
        counts[gpu.unwrap_or(0)] += 1;
    }
    counts
}

struct Table<'a> {
    fit: &'a Fit<'a>,
    fitted: &'a Fitted,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (fit, fitted) = (self.fit, self.fitted);
        let all = fit.demand.layers.len() as u32;
        let why = |is_set: bool, is_most: bool| match (is_set, is_most) {
            (true, _) => "as configured",
            (false, true) => "automatic",
            (false, false) => "automatic, no more fits",
        };
        let with_experts = fit.demand.n_with_experts();
        let rows = [
            (
                "n_gpu_layers",
                format!("{} of {all}", fitted.n_gpu_layers),
                why(
                    fit.n_gpu_layers != GpuLayers::Auto,
                    fitted.n_gpu_layers == all,
                ),
            ),
            (
                "n_cpu_moe",
                format!("{} of {with_experts}", fitted.n_cpu_moe),
                why(fit.n_cpu_moe.is_some(), fitted.n_cpu_moe == 0),
            ),
            (
                "n_ctx",
                fitted.n_ctx.to_string(),
                why(
                    fit.n_ctx.start() == fit.n_ctx.end(),
                    fitted.n_ctx == *fit.n_ctx.end(),
                ),
            ),
            (
                "slots",
                fitted.n_slots.to_string(),
                why(
                    fit.n_slots.start() == fit.n_slots.end(),
                    fitted.n_slots == *fit.n_slots.end(),
                ),
            ),
        ];
        let is_shown = |name| name != "n_cpu_moe" || with_experts > 0;
        for (name, value, why) in rows.into_iter().filter(|(name, ..)| is_shown(*name)) {
            writeln!(f, "  {name:<14}{value:>12}  {why}")?;
        }
        let columns = [
            "MiB", "layers", "weights", "KV cache", "step", "kept", "left", "free",
        ];
        write_row(f, columns.map(str::to_owned))?;
        for (share, gpu) in fitted.shares.iter().zip(fit.gpus) {
            let left = gpu.free_bytes.saturating_sub(share.n_bytes() + fit.margin);
            let bytes = [
                share.weights,
                share.cache,
                share.step,
                fit.margin,
                left,
                gpu.free_bytes,
            ];
            let [weights, cache, step, kept, left, free] = bytes.map(|n| (n / MIB).to_string());
            let (name, layers) = (gpu.name.clone(), share.n_layers.to_string());
            write_row(f, [name, layers, weights, cache, step, kept, left, free])?;
        }
        write!(f, "  {:<10}{:>27}", "host", fitted.host_cache / MIB)
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, cells: [String; 8]) -> fmt::Result {
    let [name, rest @ ..] = cells;
    write!(f, "  {name:<10}")?;
    for cell in rest {
        write!(f, "{cell:>9}")?;
    }
    f.write_char('\n')
}

#[cfg(test)]
mod tests;
