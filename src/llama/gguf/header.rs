//! The header of one file: its keys and its table of tensors, as they were read.
//!
//! Used while a model file is read. What is out of range here would make llama.cpp assert, or fail without a
//! reason; what a model must say in its keys is not known here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::error::{Problem, value};
use super::source::{ARRAY, INT32, Metadata, STRING, Source};
use super::tensors::{self, TensorInfo};
use super::vocabulary::{self, Tokens};
use crate::table::Given;

/// The limits: far above any real model, far below what would exhaust memory.
const MAX_KEYS: u64 = 65_536;
const MAX_TENSORS: u64 = 262_144;
const MAX_ARRAY_ELEMENTS: u64 = 1 << 27;
const MAX_SHARDS: u64 = 4_096;

/// How the keys begin that say how to sample where a request does not.
const SAMPLING: &str = "general.sampling.";

const DEFAULT_ALIGNMENT: u64 = 32;

/// A header as it was read, before it is known to be of a model.
pub(super) struct Header {
    pub(super) n_bytes: u64,
    pub(super) tensors: Vec<TensorInfo>,
    values: HashMap<String, Metadata>,
    pub(super) tokens: Tokens,
}

impl Header {
    /// Reads all of it; `with_vocabulary` also checks the tokens, which only the first shard has.
    pub(super) fn read(path: &Path, with_vocabulary: bool) -> Result<Self, Problem> {
        let mut source = Source::open(path)?;
        let magic = source.bytes("the magic", 4)?;
        if magic != b"GGUF" {
            let found = String::from_utf8_lossy(&magic).into_owned();
            return Err(Problem::Magic { found });
        }
        let version = source.u32("the version")?;
        if !matches!(version, 2 | 3) {
            return Err(Problem::Version { found: version });
        }
        let n_tensors = source.count("the number of tensors", MAX_TENSORS)?;
        let n_keys = source.count("the number of keys", MAX_KEYS)?;
        let mut header = Self {
            n_bytes: source.n_bytes(),
            tensors: Vec::new(),
            values: HashMap::new(),
            tokens: Tokens::default(),
        };
        for _ in 0..n_keys {
            header.read_key(&mut source, with_vocabulary)?;
        }
        let alignment = header.unsigned("general.alignment")?;
        header.tensors = tensors::read(
            &mut source,
            n_tensors,
            alignment.unwrap_or(DEFAULT_ALIGNMENT),
        )?;
        Ok(header)
    }

    fn read_key(&mut self, source: &mut Source, with_vocabulary: bool) -> Result<(), Problem> {
        let key = source.text("a key")?;
        if key.is_empty() {
            return Err(value("a key", "\"\"", "at least one character"));
        }
        let kind = source.u32(&key)?;
        let metadata = match kind {
            STRING => Metadata::Text(source.text(&key)?),
            ARRAY => {
                let kind = source.u32(&key)?;
                let n_elements = source.count(&key, MAX_ARRAY_ELEMENTS)?;
                if with_vocabulary && kind == STRING && key == vocabulary::TOKENS {
                    self.tokens.read(&source.texts(&key, n_elements)?);
                    Metadata::OtherArray
                } else if with_vocabulary && kind == INT32 && key == vocabulary::TYPES {
                    self.tokens.read_types(&source.int32s(&key, n_elements)?);
                    Metadata::OtherArray
                } else {
                    source.array(&key, kind, n_elements)?
                }
            }
            kind => source.scalar(&key, kind)?,
        };
        // ggml asserts that what a norm adds to a square is not negative.
        if let Metadata::Float(number) = metadata
            && key.ends_with("epsilon")
            && !(0.0..=1.0).contains(&number)
        {
            return Err(value(&key, number, "from 0 to 1"));
        }
        if self.values.insert(key.clone(), metadata).is_some() {
            return Err(Problem::DuplicateKey { key });
        }
        Ok(())
    }

    /// The paths of all shards, of which `path` must be the first.
    pub(super) fn shards(&self, path: &Path) -> Result<Vec<PathBuf>, Problem> {
        let n_shards = self.unsigned("split.count")?.unwrap_or(1);
        if n_shards <= 1 {
            return Ok(vec![path.to_owned()]);
        }
        if n_shards > MAX_SHARDS {
            let what = "split.count".to_owned();
            return Err(Problem::TooMany {
                what,
                found: n_shards,
                limit: MAX_SHARDS,
            });
        }
        let number = self.unsigned("split.no")?.unwrap_or(0);
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        if number >= n_shards {
            let expected = format!("less than split.count = {n_shards}");
            return Err(value("split.no", number, expected));
        }
        let suffix = |index: u64| format!("-{:05}-of-{n_shards:05}.gguf", index + 1);
        let Some(stem) = name.strip_suffix(&suffix(number)) else {
            return Err(Problem::ShardName {
                n_shards,
                suffix: suffix(number),
            });
        };
        let sibling = |index| path.with_file_name(format!("{stem}{}", suffix(index)));
        if number != 0 {
            let first = sibling(0).display().to_string();
            return Err(Problem::NotFirstShard {
                found: number + 1,
                first,
            });
        }
        let shards: Vec<_> = (0..n_shards).map(sibling).collect();
        match shards.iter().zip(1..).find(|(shard, _)| !shard.is_file()) {
            Some((shard, number)) => Err(Problem::MissingShard {
                number,
                n_shards,
                path: shard.clone(),
            }),
            None => Ok(shards),
        }
    }

    /// What the file says of sampling, in the order of the names.
    pub(super) fn sampling(&self) -> Vec<(String, Given)> {
        let named = |(key, value): (&String, &Metadata)| {
            let name = key.strip_prefix(SAMPLING)?;
            Some((name.to_owned(), given(value)))
        };
        let mut found: Vec<_> = self.values.iter().filter_map(named).collect();
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        found
    }

    pub(super) fn text(&self, key: &str) -> Result<String, Problem> {
        match self.values.get(key) {
            Some(Metadata::Text(text)) => Ok(text.clone()),
            Some(other) => Err(value(key, format!("{other:?}"), "a string")),
            None => Err(Problem::MissingKey {
                key: key.to_owned(),
            }),
        }
    }

    /// A number from 0, if the key is there.
    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>, Problem> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Metadata::Unsigned(number)) => Ok(Some(*number)),
            Some(Metadata::Signed(number)) if *number >= 0 => Ok(Some(number.unsigned_abs())),
            Some(other) => Err(value(key, format!("{other:?}"), "a number from 0")),
        }
    }

    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        match self.values.get(key) {
            Some(Metadata::Bool(flag)) => Some(*flag),
            _ => None,
        }
    }

    pub(super) fn u32(&self, key: &str) -> Result<Option<u32>, Problem> {
        let Some(number) = self.unsigned(key)? else {
            return Ok(None);
        };
        let narrow = u32::try_from(number)
            .ok()
            .filter(|&number| number <= i32::MAX as u32);
        narrow
            .map(Some)
            .ok_or_else(|| value(key, number, "at most 2147483647"))
    }

    /// Integers, one of them or an array, if the key is there; of a long array the first.
    pub(super) fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, Problem> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Metadata::Integers(numbers)) => Ok(Some(numbers.clone())),
            Some(Metadata::Signed(number)) => Ok(Some(vec![*number])),
            Some(Metadata::Unsigned(number)) => {
                Ok(Some(vec![i64::try_from(*number).unwrap_or(i64::MAX)]))
            }
            Some(other) => Err(value(key, format!("{other:?}"), "numbers")),
        }
    }

    /// A number for each layer, written as one number or as an array.
    pub(super) fn per_layer(&self, key: &str, n_layers: u32) -> Result<Option<Vec<u32>>, Problem> {
        if let Some(Metadata::Integers(numbers)) = self.values.get(key) {
            let numbers: Option<Vec<_>> = numbers
                .iter()
                .map(|&number| u32::try_from(number).ok())
                .collect();
            return match numbers {
                Some(numbers) if numbers.len() >= n_layers as usize => {
                    Ok(Some(numbers[..n_layers as usize].to_vec()))
                }
                _ => Err(value(
                    key,
                    "a bad array",
                    "one number from 0 for each layer",
                )),
            };
        }
        Ok(self.u32(key)?.map(|number| vec![number; n_layers as usize]))
    }
}

/// A value as a request would have it.
fn given(value: &Metadata) -> Given {
    match value {
        Metadata::Unsigned(number) => Given::Whole((*number).into()),
        Metadata::Signed(number) => Given::Whole((*number).into()),
        Metadata::Float(number) => Given::Number(*number),
        Metadata::Bool(flag) => Given::Flag(*flag),
        Metadata::Text(text) => Given::Text(text.clone()),
        Metadata::Integers(_) | Metadata::OtherArray => Given::Other("a list"),
    }
}
