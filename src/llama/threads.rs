//! How many threads llama.cpp should compute with on this machine.
//!
//! Called where a context is made, on any thread; reads the process's CPU mask, /sys and the
//! control group, and changes nothing.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use crate::machine::cgroup;

/// Bytes of weights for which one more thread is worth its barriers.
///
/// A step has some 30 barriers a layer. On a busy machine a thread that has lost its CPU holds the
/// others up at each: steps of a 1 MiB model, 0.2 ms alone, were measured at up to 700 ms so.
const MIN_BYTES_PER_THREAD: u64 = 16 << 20;

/// The number of compute threads for a wish, 0 meaning automatic: one per physical core that this
/// process may use, less room for the server, and fewer for a small model.
///
/// More threads than CPUs can hang llama.cpp at its barriers, so a wish above is cut, with a warning
/// that names the parameter.
pub(super) fn for_model(parameter: &str, wish: u32, n_model_bytes: u64) -> u32 {
    let n_threads = count(wish, n_model_bytes);
    if let Some(warning) = excess(parameter, wish, n_threads) {
        log::warn!("{warning}");
    }
    n_threads
}

/// The same without a word.
pub(super) fn count(wish: u32, n_model_bytes: u64) -> u32 {
    match wish {
        0 => automatic(n_model_bytes),
        wish => wish.min(available_cpus().len().max(1) as u32),
    }
}

/// What is said of a wish for more threads than CPUs.
fn excess(parameter: &str, wish: u32, n_cpus: u32) -> Option<String> {
    (wish > n_cpus).then(|| {
        format!("{parameter} = {wish}: this process may use {n_cpus} CPUs; using {n_cpus}")
    })
}

fn automatic(n_model_bytes: u64) -> u32 {
    let cpus = available_cpus();
    let cores: HashSet<String> = cpus.iter().map(|&cpu| core_of(cpu)).collect();
    let quota = cgroup::cpus(Path::new("/"));
    choose(cpus.len(), cores.len(), quota, n_model_bytes)
}

/// llama.cpp's threads spin at barriers: the server's own threads need somewhere else to run.
///
/// They have it on the cores' second hardware threads, or on a CPU left free when there are more
/// than two. On one or two CPUs nothing can be spared.
fn choose(n_cpus: usize, n_cores: usize, quota: Option<usize>, n_model_bytes: u64) -> u32 {
    let n_cores = n_cores.max(1);
    let spare = n_cores == n_cpus && n_cores > 2;
    let n_threads = if spare { n_cores - 1 } else { n_cores };
    let n_threads = quota.map_or(n_threads, |quota| n_threads.min(quota)) as u64;
    let n_useful = n_model_bytes / MIN_BYTES_PER_THREAD;
    n_threads.min(n_useful).clamp(1, 512) as u32
}

fn available_cpus() -> Vec<usize> {
    // SAFETY: all zeros is a valid, empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer and the size describe `set`; 0 is the calling thread.
    let failed = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } != 0;
    if failed {
        let n_cpus = std::thread::available_parallelism().map_or(1, usize::from);
        return (0..n_cpus).collect();
    }
    (0..libc::CPU_SETSIZE as usize)
        // SAFETY: the index is below CPU_SETSIZE.
        .filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) })
        .collect()
}

/// Names the physical core of a CPU by the list of its hardware threads.
fn core_of(cpu: usize) -> String {
    let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
    fs::read_to_string(path).unwrap_or_else(|_| cpu.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_left_for_the_server_and_small_models_get_few() {
        const LARGE: u64 = 4 << 30;
        for (n_cpus, n_cores, quota, n_bytes, expected) in [
            (1, 1, None, LARGE, 1),
            (2, 1, None, LARGE, 1),
            (2, 2, None, LARGE, 2),
            (4, 4, None, LARGE, 3),
            (8, 4, None, LARGE, 4),
            (64, 64, None, LARGE, 63),
            (64, 32, Some(4), LARGE, 4),
            (0, 0, None, LARGE, 1),
            (64, 32, None, 1 << 20, 1),
            (64, 32, None, 40 << 20, 2),
        ] {
            let got = choose(n_cpus, n_cores, quota, n_bytes);
            assert_eq!(got, expected, "{n_cpus} {n_cores} {quota:?} {n_bytes}");
        }
    }

    #[test]
    fn wishes_are_cut_to_the_cpus() {
        let n_cpus = available_cpus().len() as u32;
        assert_eq!(for_model("n_threads", 1, 0), 1);
        assert_eq!(for_model("n_threads", n_cpus + 1, 0), n_cpus);
        assert!((1..=n_cpus).contains(&for_model("n_threads", 0, 4 << 30)));
        assert_eq!(excess("n_threads_batch", 4, 4), None);
        assert_eq!(
            excess("n_threads_batch", 5, 4).as_deref(),
            Some("n_threads_batch = 5: this process may use 4 CPUs; using 4")
        );
    }
}
