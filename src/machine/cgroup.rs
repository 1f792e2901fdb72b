//! What the control groups of this process leave it: memory and CPU time.
//!
//! Asked once per load, on Triton's thread, by `memory` and by `llama`. Reads files that Linux keeps,
//! of both versions of control groups, below a root that tests make up; changes nothing.

use std::fs;
use std::path::{Path, PathBuf};

/// A hierarchy of groups where it is mounted.
struct Mount {
    /// Version 1 has hierarchies for single controllers; version 2 one for all, which is `None`.
    controllers: Option<String>,
    /// The group that the mount point is.
    group: PathBuf,
    point: PathBuf,
}

/// The bytes that the tightest group around this process leaves it; `None` where none has a limit.
///
/// `root` is `/`, but for tests.
pub(crate) fn memory_left(root: &Path) -> Option<u64> {
    let folders = folders(root, "memory").into_iter();
    folders
        .filter_map(|folder| folder_memory_left(&folder))
        .min()
}

/// The whole CPUs whose time the tightest group around this process leaves it, at least one.
///
/// `root` is `/`, but for tests.
pub(crate) fn cpus(root: &Path) -> Option<usize> {
    let folders = folders(root, "cpu").into_iter();
    folders.filter_map(|folder| folder_cpus(&folder)).min()
}

/// The folders of this process's group and of those around it, in each hierarchy that may limit
/// what the controller counts.
fn folders(root: &Path, controller: &str) -> Vec<PathBuf> {
    let read = |name: &str| fs::read_to_string(root.join("proc/self").join(name));
    let (Ok(mounts), Ok(groups)) = (read("mountinfo"), read("cgroup")) else {
        return Vec::new();
    };
    let mounts: Vec<Mount> = mounts.lines().filter_map(mount).collect();
    let mut folders = Vec::new();
    for line in groups.lines() {
        // The number of the hierarchy, its controllers, the group.
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let is_v2 = controllers.is_empty();
        if !is_v2 && !has(controllers, controller) {
            continue;
        }
        let is_its = |mount: &&Mount| match &mount.controllers {
            None => is_v2,
            Some(mounted) => !is_v2 && has(mounted, controller),
        };
        if let Some(mount) = mounts.iter().find(is_its) {
            folders.extend(mount.folders(root, Path::new(group)));
        }
    }
    folders
}

impl Mount {
    /// The folders from that of `group` up to the mount point.
    fn folders(&self, root: &Path, group: &Path) -> Vec<PathBuf> {
        let point = root.join(self.point.strip_prefix("/").unwrap_or(&self.point));
        // A group that the mount does not show, as in some containers: its point is all there is.
        let below = group.strip_prefix(&self.group).unwrap_or(Path::new(""));
        let is_plain = below.components().all(|part| part.as_os_str() != "..");
        let below = if is_plain { below } else { Path::new("") };
        below.ancestors().map(|below| point.join(below)).collect()
    }
}

/// Reads a line of `mountinfo`; `None` for what is no hierarchy of groups.
fn mount(line: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (group, point) = (unescaped(place.next()?), unescaped(place.next()?));
    let mut kind = kind.split(' ');
    let controllers = match kind.next()? {
        "cgroup2" => None,
        "cgroup" => Some(kind.nth(1)?.to_owned()),
        _ => return None,
    };
    Some(Mount {
        controllers,
        group: PathBuf::from(group),
        point: PathBuf::from(point),
    })
}

/// Spaces and the like stand in `mountinfo` as a backslash and three octal digits.
fn unescaped(text: &str) -> String {
    let escapes = [
        (r"\040", " "),
        (r"\011", "\t"),
        (r"\012", "\n"),
        (r"\134", "\\"),
    ];
    escapes
        .iter()
        .fold(text.to_owned(), |text, (code, character)| {
            text.replace(code, character)
        })
}

fn has(controllers: &str, controller: &str) -> bool {
    controllers.split(',').any(|one| one == controller)
}

/// What a group's own limit leaves of memory.
fn folder_memory_left(folder: &Path) -> Option<u64> {
    let number = |file: &str| -> Option<u64> {
        fs::read_to_string(folder.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    // Beyond `memory.high` a process is not ended, but held up.
    let limits = ["memory.max", "memory.high", "memory.limit_in_bytes"];
    let limit = limits.into_iter().filter_map(number).min()?;
    let used = number("memory.current").or_else(|| number("memory.usage_in_bytes"))?;
    let cached = fs::read_to_string(folder.join("memory.stat"));
    let cached = cached.map_or(0, |stat| file_cache(&stat));
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

/// Bytes of files in `memory.stat`, which the kernel gives up when memory is short.
///
/// Version 1 counts a group alone, and with those within as `total_`.
fn file_cache(stat: &str) -> u64 {
    let bytes = |key: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|bytes| bytes.trim().parse::<u64>().ok())
    };
    let either = |total: &str, own: &str| bytes(total).or_else(|| bytes(own)).unwrap_or(0);
    either("total_active_file ", "active_file ")
        .saturating_add(either("total_inactive_file ", "inactive_file "))
}

/// The whole CPUs of a group's own quota.
fn folder_cpus(folder: &Path) -> Option<usize> {
    let read = |file: &str| fs::read_to_string(folder.join(file)).ok();
    let (quota, period) = match read("cpu.max") {
        Some(text) => {
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.to_owned(), period.to_owned())
        }
        None => (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?),
    };
    // No quota is `max` or -1.
    let (quota, period): (usize, usize) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
    Some((quota / period.max(1)).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &str = "\
        31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
        32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
    const V2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

    /// Asks for memory and CPUs in a tree of such files.
    fn check(files: &[(&str, &str)], expected: (Option<u64>, Option<usize>)) {
        static N: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = N.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("cgroup-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        fs::create_dir_all(&root).expect("can be made");
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("is in a folder")).expect("can be made");
            fs::write(path, text).expect("can be written");
        }
        let found = (memory_left(&root), cpus(&root));
        fs::remove_dir_all(&root).expect("can be removed");
        assert_eq!(found, expected, "{files:?}");
    }

    #[test]
    fn the_tightest_group_counts_in_both_versions() {
        check(&[], (None, None));
        let v2 = |group| [("proc/self/mountinfo", V2), ("proc/self/cgroup", group)];
        check(&v2("0::/\n"), (None, None));
        let root_of_a_container = [
            ("sys/fs/cgroup/memory.max", "1000\n"),
            ("sys/fs/cgroup/memory.high", "max\n"),
            ("sys/fs/cgroup/memory.current", "700\n"),
            (
                "sys/fs/cgroup/memory.stat",
                "anon 5\ninactive_file 100\nactive_file 50\n",
            ),
            ("sys/fs/cgroup/cpu.max", "250000 100000\n"),
        ];
        let here = (Some(450), Some(2));
        check(&[&v2("0::/\n")[..], &root_of_a_container].concat(), here);
        // A group of another namespace is shown as being above.
        check(
            &[&v2("0::/../x\n")[..], &root_of_a_container].concat(),
            here,
        );
        let nested = [
            ("sys/fs/cgroup/a/memory.max", "400\n"),
            ("sys/fs/cgroup/a/memory.current", "100\n"),
            ("sys/fs/cgroup/a/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "90\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "50000 100000\n"),
        ];
        let files = [&v2("0::/a/b\n")[..], &root_of_a_container, &nested].concat();
        check(&files, (Some(300), Some(1)));
        let files = [&v2("0::/a\n")[..], &root_of_a_container, &nested].concat();
        check(&files, (Some(300), Some(2)));
    }

    #[test]
    fn version_1_has_a_hierarchy_for_each_controller() {
        let groups = "4:memory:/docker/x\n1:cpu,cpuacct:/docker\n0::/\n";
        let memory = [
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "5000\n"),
            (
                "sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes",
                "1000\n",
            ),
            (
                "sys/fs/cgroup/memory/docker/x/memory.usage_in_bytes",
                "900\n",
            ),
            (
                "sys/fs/cgroup/memory/docker/x/memory.stat",
                "inactive_file 7\nactive_file 7\ntotal_inactive_file 300\ntotal_active_file 30\n",
            ),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            (
                "sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us",
                "300000\n",
            ),
            (
                "sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us",
                "100000\n",
            ),
        ];
        let of = |mounts, groups| {
            [
                ("proc/self/mountinfo", mounts),
                ("proc/self/cgroup", groups),
            ]
        };
        let files = [&of(V1, groups)[..], &memory].concat();
        check(&files, (Some(430), Some(3)));
        // In a container the mount point is the container's group.
        let mounts =
            "35 31 0:32 /docker/x /sys/fs/cgroup/memory/docker/x ro - cgroup cgroup rw,memory\n";
        let files = [&of(mounts, groups)[..], &memory].concat();
        check(&files, (Some(430), None));
    }

    #[test]
    fn mount_points_may_hold_spaces() {
        let files = [
            (
                "proc/self/mountinfo",
                "30 23 0:26 / /a\\040b rw - cgroup2 cgroup2 rw\n",
            ),
            ("proc/self/cgroup", "0::/\n"),
            ("a b/cpu.max", "100000 100000\n"),
        ];
        check(&files, (None, Some(1)));
    }
}
