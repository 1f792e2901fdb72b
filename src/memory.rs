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
    let read = |file: &str| -> Option<u64> {
        fs::read_to_string(format!("/sys/fs/cgroup/{file}"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    Some(read("memory.max")?.saturating_sub(read("memory.current")?))
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
}
