//! A GGUF file as a stream of typed values: read forwards, and never past its end or a limit.
//!
//! Used by the header's reader alone; knows no keys.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::error::{Problem, value};

/// The limits: far above any real model, far below what would exhaust memory.
const MAX_STRING_BYTES: u64 = 64 << 20;

/// Integers of an array that are kept.
pub(super) const MAX_KEPT: u64 = 512;

/// A value of the header, as far as anybody asks for it.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Metadata {
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Bool(bool),
    Text(String),
    /// An array of integers, cut after [`MAX_KEPT`].
    Integers(Vec<i64>),
    OtherArray,
}

/// GGUF's numbers for the types of values.
pub(super) const INT32: u32 = 5;
pub(super) const STRING: u32 = 8;
pub(super) const ARRAY: u32 = 9;

/// Bytes of a value of a fixed size.
fn scalar_bytes(kind: u32) -> Option<u64> {
    match kind {
        0 | 1 | 7 => Some(1),
        2 | 3 => Some(2),
        4..=6 => Some(4),
        10..=12 => Some(8),
        _ => None,
    }
}

/// The file, read forwards and never past its end.
pub(super) struct Source {
    file: BufReader<File>,
    offset: u64,
    n_bytes: u64,
}

impl Source {
    /// Opens a regular file that is not empty.
    pub(super) fn open(path: &Path) -> Result<Self, Problem> {
        // Asked before it is opened: opening a pipe would wait for its other end.
        let metadata = std::fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(Problem::NotAFile);
        }
        if metadata.len() == 0 {
            return Err(Problem::Empty);
        }
        let file = BufReader::with_capacity(1 << 18, File::open(path)?);
        Ok(Self {
            file,
            offset: 0,
            n_bytes: metadata.len(),
        })
    }

    /// Bytes of the whole file.
    pub(super) fn n_bytes(&self) -> u64 {
        self.n_bytes
    }

    /// Where the next value starts.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    fn need(&self, what: &str, n_bytes: u64) -> Result<(), Problem> {
        let n_left = self.n_bytes - self.offset;
        if n_bytes <= n_left {
            return Ok(());
        }
        Err(Problem::Truncated {
            what: what.to_owned(),
            offset: self.offset,
            n_bytes,
            n_left,
        })
    }

    pub(super) fn bytes(&mut self, what: &str, n_bytes: u64) -> Result<Vec<u8>, Problem> {
        self.need(what, n_bytes)?;
        let mut bytes = vec![0; n_bytes as usize];
        self.file.read_exact(&mut bytes)?;
        self.offset += n_bytes;
        Ok(bytes)
    }

    fn fixed<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Problem> {
        self.need(what, N as u64)?;
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        self.offset += N as u64;
        Ok(bytes)
    }

    fn skip(&mut self, what: &str, n_bytes: u64) -> Result<(), Problem> {
        self.need(what, n_bytes)?;
        self.file.seek_relative(n_bytes as i64)?;
        self.offset += n_bytes;
        Ok(())
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, Problem> {
        self.fixed(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, Problem> {
        self.fixed(what).map(u64::from_le_bytes)
    }

    pub(super) fn count(&mut self, what: &str, limit: u64) -> Result<u64, Problem> {
        let found = self.u64(what)?;
        if found <= limit {
            return Ok(found);
        }
        Err(Problem::TooMany {
            what: what.to_owned(),
            found,
            limit,
        })
    }

    fn raw_text(&mut self, what: &str) -> Result<Vec<u8>, Problem> {
        let n_bytes = self.count(&format!("the length of {what}"), MAX_STRING_BYTES)?;
        self.bytes(what, n_bytes)
    }

    pub(super) fn text(&mut self, what: &str) -> Result<String, Problem> {
        Ok(String::from_utf8_lossy(&self.raw_text(what)?).into_owned())
    }

    pub(super) fn texts(&mut self, what: &str, n_elements: u64) -> Result<Vec<Vec<u8>>, Problem> {
        // Each takes 8 bytes at least, so the file bounds what is reserved.
        self.need(what, n_elements.saturating_mul(8))?;
        let mut texts = Vec::with_capacity(n_elements as usize);
        for _ in 0..n_elements {
            texts.push(self.raw_text(what)?);
        }
        Ok(texts)
    }

    pub(super) fn int32s(&mut self, what: &str, n_elements: u64) -> Result<Vec<i32>, Problem> {
        let bytes = self.bytes(what, n_elements.saturating_mul(4))?;
        let (numbers, _) = bytes.as_chunks::<4>();
        Ok(numbers.iter().map(|&n| i32::from_le_bytes(n)).collect())
    }

    pub(super) fn scalar(&mut self, what: &str, kind: u32) -> Result<Metadata, Problem> {
        Ok(match kind {
            0 => Metadata::Unsigned(self.fixed::<1>(what)?[0].into()),
            1 => Metadata::Signed(i8::from_le_bytes(self.fixed(what)?).into()),
            2 => Metadata::Unsigned(u16::from_le_bytes(self.fixed(what)?).into()),
            3 => Metadata::Signed(i16::from_le_bytes(self.fixed(what)?).into()),
            4 => Metadata::Unsigned(self.u32(what)?.into()),
            5 => Metadata::Signed(i32::from_le_bytes(self.fixed(what)?).into()),
            7 => Metadata::Bool(self.fixed::<1>(what)?[0] != 0),
            10 => Metadata::Unsigned(self.u64(what)?),
            11 => Metadata::Signed(i64::from_le_bytes(self.fixed(what)?)),
            6 => Metadata::Float(f32::from_le_bytes(self.fixed(what)?).into()),
            12 => Metadata::Float(f64::from_le_bytes(self.fixed(what)?)),
            _ => {
                return Err(value(
                    &format!("the type of '{what}'"),
                    kind,
                    "from 0 to 12",
                ));
            }
        })
    }

    pub(super) fn array(
        &mut self,
        what: &str,
        kind: u32,
        n_elements: u64,
    ) -> Result<Metadata, Problem> {
        if kind == STRING {
            for _ in 0..n_elements {
                let n_bytes = self.count(&format!("the length of {what}"), MAX_STRING_BYTES)?;
                self.skip(what, n_bytes)?;
            }
            return Ok(Metadata::OtherArray);
        }
        let Some(n_bytes) = scalar_bytes(kind) else {
            return Err(value(
                &format!("the type of elements of '{what}'"),
                kind,
                "from 0 to 12, but 9",
            ));
        };
        self.need(what, n_elements.saturating_mul(n_bytes))?;
        let n_kept = n_elements.min(MAX_KEPT);
        let mut numbers = Vec::new();
        for _ in 0..n_kept {
            match self.scalar(what, kind)? {
                Metadata::Unsigned(number) => {
                    numbers.push(i64::try_from(number).unwrap_or(i64::MAX))
                }
                Metadata::Signed(number) => numbers.push(number),
                _ => {}
            }
        }
        self.skip(what, (n_elements - n_kept) * n_bytes)?;
        Ok(Metadata::Integers(numbers))
    }
}
