//! Tensors as Triton carries them: a name, a type, a shape and bytes.
//!
//! `triton` reads those of a request and writes those of a response; only a contract knows what is in them.
//! Pure; called on any thread.

use std::borrow::Cow;

/// The type of a tensor's elements, in the order of Triton's numbers, which start at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataType {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    Bytes,
    Bf16,
}

impl DataType {
    /// In the order of Triton's numbers.
    pub const ALL: [DataType; 14] = [
        DataType::Bool,
        DataType::Uint8,
        DataType::Uint16,
        DataType::Uint32,
        DataType::Uint64,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::Fp16,
        DataType::Fp32,
        DataType::Fp64,
        DataType::Bytes,
        DataType::Bf16,
    ];

    /// The name in a model configuration.
    pub fn config_name(self) -> &'static str {
        match self {
            DataType::Bool => "TYPE_BOOL",
            DataType::Uint8 => "TYPE_UINT8",
            DataType::Uint16 => "TYPE_UINT16",
            DataType::Uint32 => "TYPE_UINT32",
            DataType::Uint64 => "TYPE_UINT64",
            DataType::Int8 => "TYPE_INT8",
            DataType::Int16 => "TYPE_INT16",
            DataType::Int32 => "TYPE_INT32",
            DataType::Int64 => "TYPE_INT64",
            DataType::Fp16 => "TYPE_FP16",
            DataType::Fp32 => "TYPE_FP32",
            DataType::Fp64 => "TYPE_FP64",
            DataType::Bytes => "TYPE_STRING",
            DataType::Bf16 => "TYPE_BF16",
        }
    }
}

/// Bytes of the length in front of each element of BYTES.
pub const LENGTH_BYTES: usize = 4;

/// A tensor of a request or of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    pub name: Cow<'static, str>,
    /// Of a request: as the client sent it. Of a response: without the dimension of batches.
    pub shape: Vec<i64>,
    pub data: Data,
}

/// What a tensor holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// The elements of BYTES, which need be no text.
    Bytes(Vec<Vec<u8>>),
    /// The elements of any other type, one behind the other in the machine's byte order.
    Numbers(DataType, Vec<u8>),
}

/// What is wrong with a tensor of a request.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorError {
    #[error("input '{name}' is missing")]
    Missing { name: &'static str },
    #[error("input '{name}' must be of type {expected}")]
    Type {
        name: String,
        expected: &'static str,
    },
    #[error("input '{name}' has {n_bytes} bytes: must have at most {max_bytes}")]
    TooLong {
        name: String,
        n_bytes: u64,
        max_bytes: usize,
    },
    #[error("input '{name}' ends within element {index}")]
    Cut { name: String, index: usize },
    #[error("input '{name}' has {n_elements} elements: must have 1, one text per request")]
    ElementCount { name: String, n_elements: usize },
    #[error("input '{name}' is not UTF-8: invalid byte at offset {offset}")]
    NotUtf8 { name: String, offset: usize },
}

/// Checks how long an input is, before anyone copies it.
pub fn check_length(name: &str, n_bytes: u64, max_bytes: usize) -> Result<(), TensorError> {
    match n_bytes > max_bytes as u64 {
        true => Err(TensorError::TooLong {
            name: name.to_owned(),
            n_bytes,
            max_bytes,
        }),
        false => Ok(()),
    }
}

impl Tensor {
    /// An output of one text.
    pub fn text(name: &'static str, text: String) -> Self {
        Self {
            name: name.into(),
            shape: vec![1],
            data: Data::Bytes(vec![text.into_bytes()]),
        }
    }

    pub fn datatype(&self) -> DataType {
        match &self.data {
            Data::Bytes(_) => DataType::Bytes,
            Data::Numbers(datatype, _) => *datatype,
        }
    }

    pub fn is_empty(&self) -> bool {
        match &self.data {
            Data::Bytes(elements) => elements.is_empty(),
            Data::Numbers(_, bytes) => bytes.is_empty(),
        }
    }

    /// The texts of an input.
    ///
    /// # Errors
    ///
    /// Where it is of another type, or not UTF-8.
    pub fn into_texts(self) -> Result<Vec<String>, TensorError> {
        let name = self.name;
        let Data::Bytes(elements) = self.data else {
            return Err(TensorError::Type {
                name: name.into_owned(),
                expected: "BYTES",
            });
        };
        let texts = elements.into_iter().map(String::from_utf8);
        texts
            .collect::<Result<_, _>>()
            .map_err(|error| TensorError::NotUtf8 {
                name: name.into_owned(),
                offset: error.utf8_error().valid_up_to(),
            })
    }

    /// The text of an input that has one.
    ///
    /// # Errors
    ///
    /// Where it has another number of elements, is of another type, or not UTF-8.
    pub fn into_text(self) -> Result<String, TensorError> {
        if let Data::Bytes(elements) = &self.data
            && elements.len() != 1
        {
            return Err(TensorError::ElementCount {
                n_elements: elements.len(),
                name: self.name.into_owned(),
            });
        }
        Ok(self.into_texts()?.concat())
    }
}

/// Splits the bytes of an input of type BYTES: each element is its length, little endian, and that many bytes.
pub fn split_elements(name: &str, mut bytes: &[u8]) -> Result<Vec<Vec<u8>>, TensorError> {
    let mut elements = Vec::new();
    while !bytes.is_empty() {
        let (element, rest) = bytes
            .split_first_chunk::<LENGTH_BYTES>()
            .and_then(|(length, rest)| {
                rest.split_at_checked(u32::from_le_bytes(*length).try_into().ok()?)
            })
            .ok_or_else(|| TensorError::Cut {
                name: name.to_owned(),
                index: elements.len(),
            })?;
        elements.push(element.to_vec());
        bytes = rest;
    }
    Ok(elements)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_of_a_bytes_tensor() {
        let check = |bytes: &[u8], expected: Result<&[&[u8]], &str>| {
            let found = split_elements("stop", bytes).map_err(|error| error.to_string());
            let expected = expected.map(|elements| elements.iter().map(|e| e.to_vec()).collect());
            assert_eq!(found, expected.map_err(str::to_owned), "{bytes:?}");
        };
        check(b"", Ok(&[]));
        check(b"\0\0\0\0", Ok(&[b""]));
        check(b"\x02\0\0\0hi", Ok(&[b"hi"]));
        check(b"\x02\0\0\0hi\0\0\0\0\x01\0\0\0!", Ok(&[b"hi", b"", b"!"]));
        check(b"\x02\0\0", Err("input 'stop' ends within element 0"));
        check(
            b"\x02\0\0\0hi\x02\0\0\0h",
            Err("input 'stop' ends within element 1"),
        );
        check(
            b"\xff\xff\xff\xffhi",
            Err("input 'stop' ends within element 0"),
        );
    }
}
