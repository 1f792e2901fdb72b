//! What this process has mapped of a file, as Linux lists it.
//!
//! Used by `lease` alone, on the threads that load models and on its own. It only reads.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

/// A range of addresses that are a range of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mapping {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Of the start, in the file.
    pub(super) offset: u64,
}

impl Mapping {
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether the other is a part of this.
    pub(super) fn holds(&self, other: &Mapping) -> bool {
        let start = other.start.wrapping_sub(self.start);
        self.start <= other.start
            && other.end <= self.end
            && other.offset == self.offset + start as u64
    }
}

/// How the list calls a file: it is mapped to find out, as some file systems have it say another device
/// than the file itself.
pub(super) fn key_of(file: &File) -> io::Result<String> {
    // SAFETY: a new mapping of one byte, wherever there is room; nobody reads it.
    let page = unsafe {
        libc::mmap(
            ptr::null_mut(),
            1,
            libc::PROT_READ,
            libc::MAP_PRIVATE,
            file.as_raw_fd(),
            0,
        )
    };
    if page == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let maps = fs::read_to_string("/proc/self/maps");
    // SAFETY: the page is this function's own.
    unsafe { libc::munmap(page, 1) };
    let maps = maps?;
    let mut lines = maps.lines().filter_map(read);
    let found = lines.find(|(mapping, _)| mapping.start == page as usize);
    let found = found.map(|(_, key)| key.to_owned());
    found.ok_or_else(|| io::Error::other("its mapping is not listed"))
}

/// All that is mapped of a file.
pub(super) fn of_file(key: &str) -> io::Result<Vec<Mapping>> {
    let maps = fs::read_to_string("/proc/self/maps")?;
    let lines = maps.lines().filter_map(read);
    let of_file = lines.filter(|(_, found)| *found == key);
    Ok(of_file.map(|(mapping, _)| mapping).collect())
}

/// Reads a line: addresses, rights, offset, device, inode, path.
fn read(line: &str) -> Option<(Mapping, &str)> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let (_, rest) = rest.split_once(' ')?;
    let (offset, rest) = rest.split_once(' ')?;
    // Device and inode, up to the blanks before the path.
    let inode = rest.find(' ')? + 1;
    let key_end = rest[inode..].find(' ').map_or(rest.len(), |at| inode + at);
    let address = |text| usize::from_str_radix(text, 16).ok();
    let mapping = Mapping {
        start: address(start)?,
        end: address(end)?,
        offset: u64::from_str_radix(offset, 16).ok()?,
    };
    Some((mapping, &rest[..key_end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let line = "7f10-7f30 r--s 00002000 fd:00 1234          /m/a b.gguf";
        let (mapping, key) = read(line).expect("a line");
        let expected = Mapping {
            start: 0x7f10,
            end: 0x7f30,
            offset: 0x2000,
        };
        assert_eq!((mapping, key), (expected, "fd:00 1234"));
        assert_eq!(
            read("7f10-7f30 rw-p 00000000 00:00 0").map(|(_, key)| key),
            Some("00:00 0")
        );
        assert_eq!(read("what is this"), None);
    }

    #[test]
    fn a_mapping_holds_its_parts() {
        let mapping = |start, end, offset| Mapping { start, end, offset };
        let whole = mapping(0x1000, 0x4000, 0x100);
        for (part, expected) in [
            (whole.clone(), true),
            (mapping(0x2000, 0x4000, 0x1100), true),
            (mapping(0x2000, 0x4000, 0x1000), false),
            (mapping(0, 0x4000, 0x100), false),
            (mapping(0x1000, 0x5000, 0x100), false),
        ] {
            assert_eq!(whole.holds(&part), expected, "{part:?}");
        }
    }
}
