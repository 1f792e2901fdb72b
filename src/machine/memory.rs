//! How much memory the process may still take.
//!
//! Asked once per load, on Triton's thread; reads files that Linux keeps.

use std::fs;
use std::path::Path;

use super::cgroup;

/// Returns the bytes that can be allocated without swapping, as far as known.
pub(crate) fn available_bytes() -> Option<u64> {
    let read = |file: &str| fs::read_to_string(Path::new("/proc").join(file)).ok();
    let machine = kilobytes(&read("meminfo")?, "MemAvailable:")?;
    let limits = [
        cgroup::memory_left(Path::new("/")),
        read("self/limits").and_then(|limits| address_space_left(&limits, &read("self/status")?)),
    ];
    Some(limits.into_iter().flatten().fold(machine, u64::min))
}

/// Reads the bytes of a line that gives kB.
fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// What a limit of the address space (`ulimit -v`) leaves; `None` where there is none.
fn address_space_left(limits: &str, status: &str) -> Option<u64> {
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"))?;
    let limit: u64 = limit.split_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(kilobytes(status, "VmSize:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        let check = |meminfo: &str, expected: Option<u64>| {
            assert_eq!(kilobytes(meminfo, "MemAvailable:"), expected, "{meminfo:?}");
        };
        check("MemTotal: 9 kB\nMemAvailable:    2 kB\n", Some(2048));
        check("MemTotal: 9 kB\n", None);
        check("MemAvailable: many kB\n", None);
        check("MemAvailable: 2 MB\n", None);
    }

    #[test]
    fn an_address_space_may_have_a_limit() {
        let check = |limit: &str, expected| {
            let limits =
                format!("Max stack size  8 unlimited bytes\nMax address space  {limit}  bytes\n");
            let left = address_space_left(&limits, "VmPeak: 9 kB\nVmSize:\t 3 kB\n");
            assert_eq!(left, expected, "{limit}");
        };
        check("unlimited unlimited", None);
        check("4096 unlimited", Some(1024));
        check("1024 unlimited", Some(0));
    }
}
