//! Generates the tables of Triton functions from `include/triton_abi.h`.
//!
//! They are filled at run time (see `src/triton/api.rs`), so the library
//! neither links against libtritonserver nor leaves symbols undefined. In the
//! shape of a folder, the library finds llama.cpp's beside itself, and knows
//! which GPUs that has code for.

use std::path::{Path, PathBuf};
use std::{env, fs};

const OUR_HEADER: &str = "include/triton_abi.h";

/// How the functions begin that a host may lack: those of metrics.
const IS_OPTIONAL: [&str; 2] = ["TRITONSERVER_Metric", "TRITONSERVER_Parameter"];

/// CMake's list of the GPUs that CUDA's module has code for.
const CUDA_ARCHITECTURES: &str = "CMAKE_CUDA_ARCHITECTURES";

fn main() {
    println!("cargo:rerun-if-env-changed=TRITON_INCLUDE_DIR");
    println!("cargo:rerun-if-changed={OUR_HEADER}");
    println!("cargo:rerun-if-env-changed={CUDA_ARCHITECTURES}");
    let architectures = match env::var_os("CARGO_FEATURE_CUDA") {
        Some(_) => env::var(CUDA_ARCHITECTURES).unwrap_or_default(),
        None => String::new(),
    };
    println!("cargo:rustc-env=TRITON_LLM_CUDA_ARCHITECTURES={architectures}");
    // Where the library begins as a program, see src/llama/trial/child.rs.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-e,triton_llm_start");
    if env::var_os("CARGO_FEATURE_DYNAMIC_BACKENDS").is_some() {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-rpath,$ORIGIN");
    }
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let our_header = fs::read_to_string(OUR_HEADER).expect("the crate carries its header");

    let include_dir = env::var("TRITON_INCLUDE_DIR").unwrap_or_default();
    let header = if include_dir.is_empty() {
        bindgen::builder().header(OUR_HEADER)
    } else {
        println!("cargo:rerun-if-changed={include_dir}/triton/core");
        bindgen::builder()
            .header(format!("{include_dir}/triton/core/tritonbackend.h"))
            // NVIDIA's headers name structs without `struct`.
            .clang_args(["-x", "c++", &format!("-I{include_dir}")])
    };
    let (metrics, needed): (Vec<&str>, Vec<&str>) = declared_functions(&our_header)
        .into_iter()
        .partition(|name| IS_OPTIONAL.iter().any(|start| name.starts_with(start)));
    let api = header
        .clone()
        .allowlist_type("TRITONSERVER_(RequestReleaseFlag|ResponseCompleteFlag)");
    write_table(api, "Api", &needed, &out_dir.join("triton_api.rs"));
    // An error is the same in both tables.
    let metrics_api = header.blocklist_type("TRITONSERVER_Error");
    let file = out_dir.join("triton_metrics_api.rs");
    write_table(metrics_api, "MetricsApi", &metrics, &file);
}

/// Writes a table of these functions, which is loaded whole or not at all.
fn write_table(mut builder: bindgen::Builder, name: &str, functions: &[&str], file: &Path) {
    for function in functions {
        builder = builder.allowlist_function(function);
    }
    builder
        .dynamic_library_name(name)
        .dynamic_link_require_all(true)
        .prepend_enum_name(false)
        .layout_tests(false)
        .generate()
        .expect("bindgen reads the Triton header")
        .write_to_file(file)
        .expect("OUT_DIR is writable");
}

/// Names the functions that our header declares: every `TRITON...(` in it.
fn declared_functions(header: &str) -> Vec<&str> {
    header
        .match_indices('(')
        .filter_map(|(end, _)| {
            let start = header[..end].rfind(|c: char| !c.is_ascii_alphanumeric() && c != '_')? + 1;
            let name = &header[start..end];
            name.starts_with("TRITON").then_some(name)
        })
        .collect()
}
