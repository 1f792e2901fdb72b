//! The table of tensors: each of a type that ggml knows, one behind the other, within the file.
//!
//! Used by the header's reader alone.

use super::error::{Problem, value};
use super::source::Source;
use super::types;

const MAX_NAME_BYTES: u64 = 63;
const MAX_DIMENSIONS: u64 = 4;

/// ggml asserts that what it computes with lies on such a border.
const MIN_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;

/// A tensor of a model file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TensorInfo {
    pub name: String,
    /// ggml's number of the type.
    pub kind: u32,
    /// Of a matrix, the numbers that it makes of a column; of a vector 1.
    pub n_rows: u64,
    /// Matrices, where there are several, as those of experts.
    pub n_matrices: u64,
    pub n_bytes: u64,
}

/// Reads the table, which `source` stands before; checks it against the size of the file.
pub(super) fn read(
    source: &mut Source,
    n_tensors: u64,
    alignment: u64,
) -> Result<Vec<TensorInfo>, Problem> {
    if !alignment.is_power_of_two() || !(MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&alignment) {
        let expected = format!("a power of 2 from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}");
        return Err(value("general.alignment", alignment, expected));
    }
    let mut tensors = Vec::new();
    let mut end = 0u64;
    for _ in 0..n_tensors {
        let (tensor, offset) = read_tensor(source)?;
        let what = called(&tensor.name);
        if offset != end {
            let what = format!("offset of {what}");
            return Err(value(&what, offset, "the padded end of the tensor before"));
        }
        let n_bytes = tensor.n_bytes;
        end = offset
            .checked_add(n_bytes)
            .and_then(|end| end.checked_next_multiple_of(alignment))
            .filter(|&end| i64::try_from(end).is_ok())
            .ok_or_else(|| value(&what, n_bytes, "of a size that 63 bits can hold"))?;
        tensors.push((tensor, offset));
    }
    // Only the padding behind the last tensor may be missing.
    let data = source.offset().next_multiple_of(alignment);
    let n_data = source.n_bytes().saturating_sub(data);
    for (tensor, offset) in &tensors {
        let n_left = n_data.saturating_sub(*offset);
        if tensor.n_bytes > n_left {
            return Err(Problem::Truncated {
                what: called(&tensor.name),
                offset: data + offset,
                n_bytes: tensor.n_bytes,
                n_left,
            });
        }
    }
    Ok(tensors.into_iter().map(|(tensor, _)| tensor).collect())
}

/// What errors call a tensor.
pub(super) fn called(name: &str) -> String {
    format!("tensor '{name}'")
}

/// Reads an entry of the table: the tensor, and its offset in the data.
fn read_tensor(source: &mut Source) -> Result<(TensorInfo, u64), Problem> {
    let name = source.text("a tensor's name")?;
    let what = called(&name);
    if name.len() as u64 > MAX_NAME_BYTES {
        let found = name.len() as u64;
        let what = "the bytes of a tensor's name".to_owned();
        return Err(Problem::TooMany {
            what,
            found,
            limit: MAX_NAME_BYTES,
        });
    }
    let n_dimensions = u64::from(source.u32(&what)?);
    if n_dimensions > MAX_DIMENSIONS {
        let what = format!("dimensions of {what}");
        return Err(Problem::TooMany {
            what,
            found: n_dimensions,
            limit: MAX_DIMENSIONS,
        });
    }
    let mut shape = Vec::with_capacity(4);
    for _ in 0..n_dimensions {
        shape.push(source.u64(&what)?);
    }
    let kind = source.u32(&what)?;
    let n_bytes = tensor_bytes(&what, kind, &shape)?;
    if shape.contains(&0) {
        let found = format!("{shape:?}");
        return Err(value(&format!("shape of {what}"), found, "without a 0"));
    }
    types::check(&name, kind, shape.len())?;
    let offset = source.u64(&what)?;
    let tensor = TensorInfo {
        name,
        kind,
        n_rows: shape.get(1).copied().unwrap_or(1),
        n_matrices: shape.get(2).copied().unwrap_or(1),
        n_bytes,
    };
    Ok((tensor, offset))
}

/// The bytes of a tensor, by ggml's table of types.
fn tensor_bytes(what: &str, kind: u32, shape: &[u64]) -> Result<u64, Problem> {
    let (block, n_block_bytes) = if kind < llama_cpp_sys_2::GGML_TYPE_COUNT {
        // SAFETY: `kind` is an index of the constant tables that both read.
        unsafe {
            (
                llama_cpp_sys_2::ggml_blck_size(kind).unsigned_abs(),
                llama_cpp_sys_2::ggml_type_size(kind) as u64,
            )
        }
    } else {
        (0, 0)
    };
    if block == 0 || n_block_bytes == 0 {
        return Err(value(
            &format!("type of {what}"),
            kind,
            "a type that this llama.cpp knows",
        ));
    }
    let row = shape.first().copied().unwrap_or(1);
    if row % block != 0 {
        return Err(value(
            &format!("row of {what}"),
            row,
            "whole blocks of the tensor's type",
        ));
    }
    shape
        .iter()
        .try_fold(1u64, |product, &n| product.checked_mul(n))
        .filter(|&n_elements| i64::try_from(n_elements).is_ok())
        .and_then(|n_elements| (n_elements / block).checked_mul(n_block_bytes))
        .ok_or_else(|| {
            value(
                &format!("shape of {what}"),
                format!("{shape:?}"),
                "countable",
            )
        })
}
