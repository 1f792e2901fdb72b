//! Which number formats a tensor may have: that ggml knows a type is not that it computes with it.
//!
//! Used by the reader of the table of tensors alone; pure. Derived from ggml's `binary-ops.cpp` and `ops.cpp`
//! and from the operation that llama.cpp's `llama-arch.cpp` names for each tensor.

use std::ffi::CStr;

use super::error::{Problem, value};

/// What is added to activations or multiplied with them number by number, or read by an operation that
/// takes plain floats alone, whatever its shape; without the layer, and without `.weight`.
const BY_ELEMENTS: &[&str] = &[
    "attn_sinks",
    "exp_probs_b",
    "ffn.act",
    "hc_attn_base",
    "hc_ffn_base",
    "output_hc_base",
    "ple_conv1d",
    "rope_factors_long",
    "rope_factors_short",
    "rope_freqs",
    "shortconv.conv",
    "ssm_a",
    "ssm_conv1d",
    "ssm_conv1d_k",
    "ssm_conv1d_q",
    "ssm_conv1d_v",
    "ssm_d",
    "time_mix_a0",
    "time_mix_decay",
    "time_mix_first",
    "time_mix_k_a",
    "time_mix_k_k",
    "time_mix_ln",
    "time_mix_r_k",
    "time_mix_v0",
    "time_mix_w0",
];

/// Vectors that are matrices of one row.
const ONE_ROW: &[&str] = &["ffn_gate_inp", "ffn_gate_inp_shexp"];

/// Numbers of experts, looked up by token.
const INDICES: &str = "ffn_gate_tid2eid";

/// Refuses a type that cannot be computed with where this tensor is used.
pub(super) fn check(name: &str, kind: u32, n_dimensions: usize) -> Result<(), Problem> {
    let (fits, expected) = match stem(name) {
        INDICES => (
            kind == llama_cpp_sys_2::GGML_TYPE_I32,
            "i32, as it holds numbers of experts",
        ),
        stem if is_by_elements(name, stem, n_dimensions) => (
            kind == llama_cpp_sys_2::GGML_TYPE_F32,
            "f32, as it is computed with number by number",
        ),
        _ => (
            is_multiplied(kind),
            "one that matrices are multiplied in: f32, f16, bf16 or a quantised one",
        ),
    };
    if fits {
        return Ok(());
    }
    Err(value(
        &format!("type of tensor '{name}'"),
        type_name(kind),
        expected,
    ))
}

/// The name without the number of its layer and without `.weight`.
fn stem(name: &str) -> &str {
    let within = name.strip_prefix("blk.").and_then(|rest| {
        let (layer, within) = rest.split_once('.')?;
        layer.parse::<u32>().ok().map(|_| within)
    });
    let within = within.unwrap_or(name);
    within.strip_suffix(".weight").unwrap_or(within)
}

fn is_by_elements(name: &str, stem: &str, n_dimensions: usize) -> bool {
    let is_vector = n_dimensions <= 1 && !ONE_ROW.contains(&stem);
    is_vector
        || name.ends_with(".bias")
        || stem.ends_with("scale")
        || stem.contains("norm")
        || stem.contains("_mix_lerp_")
        || BY_ELEMENTS.contains(&stem)
}

/// Whether ggml multiplies matrices of this type, and looks up their rows.
fn is_multiplied(kind: u32) -> bool {
    // Plain integers and doubles, and the formats that activations alone are put into.
    !matches!(
        kind,
        llama_cpp_sys_2::GGML_TYPE_I8
            | llama_cpp_sys_2::GGML_TYPE_I16
            | llama_cpp_sys_2::GGML_TYPE_I32
            | llama_cpp_sys_2::GGML_TYPE_I64
            | llama_cpp_sys_2::GGML_TYPE_F64
            | llama_cpp_sys_2::GGML_TYPE_Q8_1
            | llama_cpp_sys_2::GGML_TYPE_Q8_K
    )
}

fn type_name(kind: u32) -> String {
    // SAFETY: the caller has found `kind` in ggml's table, whose names are constant C strings.
    let name = unsafe { CStr::from_ptr(llama_cpp_sys_2::ggml_type_name(kind)) };
    name.to_string_lossy().into_owned()
}
