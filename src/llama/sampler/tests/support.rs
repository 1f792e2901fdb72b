//! What the tests of the sampler are given: logits, vocabularies, and samplers over them.

use std::path::Path;
use std::sync::OnceLock;

use llama_cpp_2::model::LlamaModel;

use crate::engine::Token;
use crate::llama::sampler::{Sampler, SamplerFactory, Vocabulary};
use crate::llama::{LoadParams, Model, load};
use crate::protocol::SamplingParams;

pub(super) fn params(change: impl FnOnce(&mut SamplingParams)) -> SamplingParams {
    let mut params = SamplingParams::default();
    change(&mut params);
    params
}

/// A vocabulary whose tokens have no text.
pub(super) struct Mute;

impl Vocabulary for Mute {
    fn text(&self, _: Token) -> Vec<u8> {
        Vec::new()
    }

    fn tokens(&self, _: &[u8]) -> Vec<Token> {
        Vec::new()
    }
}

/// A sampler of a sequence with this prompt, of a model of so many tokens without text.
pub(super) fn sampler_of(
    factory: &SamplerFactory,
    params: &SamplingParams,
    prompt: &[i32],
) -> Sampler {
    let prompt: Vec<_> = prompt.iter().copied().map(Token).collect();
    let made = factory.sampler(&Mute, params, &prompt);
    made.expect("every rule can be made")
}

/// The same where no token ends an answer or is suppressed.
pub(super) fn sampler(params: &SamplingParams, prompt: &[i32], n_vocab: usize) -> Sampler {
    let factory = SamplerFactory::new(n_vocab, Vec::new(), Vec::new());
    sampler_of(&factory, params, prompt)
}

/// Even numbers from 0 to 1, the same for the same seed.
pub(super) fn even_numbers(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    }
}

/// Logits as a model has them: spread like a bell's curve, and a few far above.
pub(super) fn model_logits(n_vocab: usize, spread: f32, seed: u64) -> Vec<f32> {
    let mut even = even_numbers(seed);
    let mut logit = |_| {
        let bell = ((0..6).map(|_| even()).sum::<f32>() - 3.0) * 2.0_f32.sqrt();
        let peak = if even() < 0.002 { 6.0 * even() } else { 0.0 };
        (bell + peak) * spread
    };
    (0..n_vocab).map(&mut logit).collect()
}

const DEMO: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/triton_repo/llm_decoupled/1/demo.gguf"
);

fn vocabulary_alone() -> LoadParams {
    LoadParams {
        vocab_only: true,
        ..LoadParams::default()
    }
}

/// The demo model's vocabulary.
pub(super) fn demo() -> &'static Model {
    static MODEL: OnceLock<Model> = OnceLock::new();
    MODEL.get_or_init(|| {
        let loaded = Model::load(Path::new(DEMO), &vocabulary_alone());
        loaded.expect("the demo model is there")
    })
}

/// The same as llama.cpp's samplers take it.
pub(super) fn demo_of_llama() -> &'static LlamaModel {
    static MODEL: OnceLock<LlamaModel> = OnceLock::new();
    MODEL.get_or_init(|| {
        let loaded = load::load(Path::new(DEMO), &vocabulary_alone(), false);
        loaded.expect("the demo model is there")
    })
}
