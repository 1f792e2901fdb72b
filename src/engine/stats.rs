//! What the scheduler has in hand, counted; the worker thread asks around each step and hands it on.

/// How many sequences there are, and how full the KV cache is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Sequences that hold a slot.
    pub n_running: usize,
    /// Sequences that wait for a slot, new and preempted ones.
    pub n_waiting: usize,
    /// Cells of the KV cache that hold nothing and are not reserved.
    pub n_free_cells: usize,
    /// Cells that running sequences use or have reserved.
    pub n_used_cells: usize,
    /// Cells that hold only tokens of ended sequences; with the free and the used ones: `n_cells`.
    pub n_cached_cells: usize,
    /// Tokens of ended sequences that lie in host memory.
    pub n_host_tokens: usize,
}
