//! How much memory the process may still take.
//!
//! Asked once per load, on Triton's thread; reads files that Linux keeps.

use std::fs;

/// Returns the bytes that can be allocated without swapping, as far as known.
pub(crate) fn available_bytes() -> Option<u64> {
    let machine = mem_available(&fs::read_to_string("/proc/meminfo").ok()?)?;
    Some(container_bytes().map_or(machine, |container| machine.min(container)))
}

/// Reads `MemAvailable`, which is given in kB.
fn mem_available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// What the container's limit (cgroup v2) leaves; `None` where there is none.
fn container_bytes() -> Option<u64> {
    let read = |file: &str| fs::read_to_string(format!("/sys/fs/cgroup/{file}")).ok();
    let number = |file: &str| read(file)?.trim().parse().ok();
    let (limit, used): (u64, u64) = (number("memory.max")?, number("memory.current")?);
    let cached = read("memory.stat").map_or(0, |stat| file_cache(&stat));
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

/// Bytes of files in `memory.stat`, which the kernel gives up when memory is short.
fn file_cache(stat: &str) -> u64 {
    let bytes = |key: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|bytes| bytes.trim().parse().ok())
            .unwrap_or(0_u64)
    };
    bytes("active_file ").saturating_add(bytes("inactive_file "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let check = |meminfo: &str, expected: Option<u64>| {
            assert_eq!(mem_available(meminfo), expected, "{meminfo:?}");
        };
        check("MemTotal: 9 kB\nMemAvailable:    2 kB\n", Some(2048));
        check("MemTotal: 9 kB\n", None);
        check("MemAvailable: many kB\n", None);
        check("MemAvailable: 2 MB\n", None);
    }

    #[test]
    fn cached_files_are_no_use_of_memory() {
        let stat = "anon 5\nfile 9\ninactive_file 3\nactive_file 4\nworkingset 8\n";
        assert_eq!(file_cache(stat), 7);
        assert_eq!(file_cache("anon 5\n"), 0);
    }
}
