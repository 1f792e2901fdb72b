//! The trial that a load begins with, by the library itself.

use std::path::{Path, PathBuf};

use triton_llm::llama::trial::{Program, TrialError, try_first};
use triton_llm::llama::{ContextParams, FlashAttention, ModelFile};

use crate::writer::{Folder, tiny_model};

fn program() -> Program {
    let test = std::env::current_exe().expect("the test's own path");
    Program::new(&test.with_file_name("libtriton_llm.so"))
}

fn tried(path: &Path, repack: bool) -> Result<(), TrialError> {
    let file = ModelFile::read(path).expect("the file is good");
    let context = ContextParams {
        flash_attention: FlashAttention::On,
        n_threads: 2,
        ..ContextParams::default()
    };
    try_first(&program(), &file, &context, repack, None)
}

#[test]
fn good_models_pass() {
    let folder = Folder::new("trial");
    let demo =
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("triton_repo/llm_decoupled/1/demo.gguf");
    let tiny = folder.write("tiny.gguf", &tiny_model().bytes());
    for path in [demo, tiny] {
        for repack in [true, false] {
            assert_eq!(tried(&path, repack), Ok(()), "{}", path.display());
        }
    }
}

/// Every type that `llama-quantize` writes, dense and in experts: the tiny model that has nothing but
/// them loads and computes.
#[test]
fn every_kind_of_weight_can_be_tried() {
    let folder = Folder::new("trial-kinds");
    for (n_experts, kinds) in [(0, KINDS), (2, KINDS)] {
        let path = folder.write("tiny.gguf", &tiny_model().bytes());
        let mut file = ModelFile::read(&path).expect("the file is good");
        file.n_experts_used = n_experts;
        let matrix = file
            .tensors
            .iter()
            .find(|tensor| tensor.name == "output.weight");
        let matrix = matrix.expect("it has an output").clone();
        file.tensors = kinds
            .iter()
            .map(|&kind| triton_llm::llama::TensorInfo {
                kind,
                ..matrix.clone()
            })
            .collect();
        let context = ContextParams::default();
        let tried = try_first(&program(), &file, &context, true, None);
        assert_eq!(tried, Ok(()));
    }
}

/// ggml's numbers of F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, the IQ types, BF16, TQ1_0,
/// TQ2_0 and MXFP4.
const KINDS: &[u32] = &[
    0, 1, 2, 3, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 18, 19, 20, 21, 22, 23, 29, 30, 34, 35, 39,
];
