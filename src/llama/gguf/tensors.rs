//! The table of tensors: each of a type that ggml knows, one behind the other, within the file.
//!
//! Used by the header's reader alone.

use super::error::{Problem, value};
use super::source::Source;

const MAX_NAME_BYTES: u64 = 63;
const MAX_DIMENSIONS: u64 = 4;

/// The tensor with a row for each position, where positions are learned.
pub(super) const POSITIONS: &str = "tensor 'position_embd.weight'";

/// Reads the table, which `source` stands before; checks it against the size of the file.
///
/// Returns the rows of [`POSITIONS`], if it is there: ggml asserts that a position has one.
pub(super) fn check(
    source: &mut Source,
    n_tensors: u64,
    alignment: u64,
) -> Result<Option<u64>, Problem> {
    if !alignment.is_power_of_two() || alignment > 1 << 20 {
        return Err(value(
            "general.alignment",
            alignment,
            "a power of 2, at most 1048576",
        ));
    }
    let mut tensors = Vec::new();
    let mut end = 0u64;
    let mut n_positions = None;
    for _ in 0..n_tensors {
        let Tensor {
            what,
            n_rows,
            n_bytes,
            offset,
        } = read_tensor(source)?;
        if what == POSITIONS {
            n_positions = Some(n_rows);
        }
        if offset != end {
            let what = format!("offset of {what}");
            return Err(value(&what, offset, "the padded end of the tensor before"));
        }
        end = offset
            .checked_add(n_bytes)
            .and_then(|end| end.checked_next_multiple_of(alignment))
            .filter(|&end| i64::try_from(end).is_ok())
            .ok_or_else(|| value(&what, n_bytes, "of a size that 63 bits can hold"))?;
        tensors.push((what, n_bytes, offset));
    }
    // Only the padding behind the last tensor may be missing.
    let data = source.offset().next_multiple_of(alignment);
    let n_data = source.n_bytes().saturating_sub(data);
    for (what, n_bytes, offset) in tensors {
        let n_left = n_data.saturating_sub(offset);
        if n_bytes > n_left {
            return Err(Problem::Truncated {
                what,
                offset: data + offset,
                n_bytes,
                n_left,
            });
        }
    }
    Ok(n_positions)
}

/// An entry of the tensor table.
struct Tensor {
    what: String,
    n_rows: u64,
    n_bytes: u64,
    /// In the data.
    offset: u64,
}

fn read_tensor(source: &mut Source) -> Result<Tensor, Problem> {
    let name = source.text("a tensor's name")?;
    let what = format!("tensor '{name}'");
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
    let offset = source.u64(&what)?;
    Ok(Tensor {
        what,
        n_rows: shape.get(1).copied().unwrap_or(1),
        n_bytes,
        offset,
    })
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
