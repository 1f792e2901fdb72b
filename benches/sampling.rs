//! What sampling one token costs at a vocabulary of 128,256, on one core.
//!
//! Prints a line of JSON for each case: microseconds per token, the median and the lowest, over many
//! rounds. A round goes over 32 rows, as a step may: of logits as a model has them, mostly far below
//! the few that matter, and of flat ones. `llama.cpp` is its own chain for the same parameters,
//! `a step` is 32 sequences on some threads.

use std::hint::black_box;
use std::time::Instant;

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use triton_llm::engine::Token;
use triton_llm::llama::{Buffers, Sampler, SamplerFactory, SamplingThreads, Vocabulary};
use triton_llm::protocol::SamplingParams;

const N_VOCAB: usize = 128_256;
const N_ROWS: usize = 32;
const N_ROUNDS: usize = 40;

type Change = fn(&mut SamplingParams);

const CASES: [(&str, Change); 10] = [
    ("greedy", |p| p.temperature = 0.0),
    ("greedy, ignore_eos", |p| {
        (p.temperature, p.ignore_eos) = (0.0, true);
    }),
    ("top_k 40, top_p 0.95, temperature 0.7", common),
    ("the same, ignore_eos", |p| {
        common(p);
        p.ignore_eos = true;
    }),
    ("the same, penalties over 4,000 tokens", |p| {
        common(p);
        (p.repetition_penalty, p.presence_penalty) = (1.1, 0.1);
    }),
    ("top_k 40, min_p 0.05", |p| (p.top_k, p.min_p) = (40, 0.05)),
    ("min_p 0.05", |p| p.min_p = 0.05),
    ("temperature 0.7", |p| p.temperature = 0.7),
    ("top_p 0.95, temperature 0.7", |p| {
        (p.top_p, p.temperature) = (0.95, 0.7);
    }),
    ("typical_p 0.9", |p| p.typical_p = 0.9),
];

fn common(params: &mut SamplingParams) {
    (params.top_k, params.top_p, params.temperature) = (40, 0.95, 0.7);
}

fn main() {
    for (shape, spread, peaks) in [("a model's logits", 2.5, 15.0), ("flat logits", 0.5, 0.0)] {
        let rows: Vec<_> = (0..N_ROWS as u64)
            .map(|seed| row(seed, spread, peaks))
            .collect();
        for (name, change) in CASES {
            let mut params = SamplingParams {
                seed: Some(1),
                ..SamplingParams::default()
            };
            change(&mut params);
            report(&format!("{name}; {shape}"), || ours(&params, &rows));
        }
        report(&format!("llama.cpp, greedy; {shape}"), || {
            greedy_of_llama(&rows)
        });
        report(&format!("llama.cpp, top_k 40, ..; {shape}"), || {
            common_of_llama(&rows)
        });
    }
    for n_threads in 1..=2 {
        report(&format!("a step, greedy, {n_threads} threads"), || {
            step(|p| p.temperature = 0.0, n_threads)
        });
        report(
            &format!("a step, top_k 40, .., {n_threads} threads"),
            || step(common, n_threads),
        );
    }
}

/// A vocabulary whose tokens have no text, which no case looks at.
struct Mute;

impl Vocabulary for Mute {
    fn text(&self, _: Token) -> Vec<u8> {
        Vec::new()
    }

    fn tokens(&self, _: &[u8]) -> Vec<Token> {
        Vec::new()
    }
}

/// A sampler of a model with some tokens that end an answer.
fn sampler(params: &SamplingParams, prompt: &[Token]) -> Sampler {
    let ends = vec![Token(128_001), Token(128_008), Token(128_009)];
    let factory = SamplerFactory::new(N_VOCAB, ends, Vec::new());
    let made = factory.sampler(&Mute, params, prompt);
    made.expect("every rule can be made")
}

/// A step's time by its number of tokens.
fn step(change: Change, n_threads: usize) -> [f64; 2] {
    let rows: Vec<_> = (0..N_ROWS as u64)
        .map(|seed| row(seed, 2.5, 15.0))
        .collect();
    let mut params = SamplingParams::default();
    change(&mut params);
    let mut samplers: Vec<_> = (0..N_ROWS).map(|_| sampler(&params, &[])).collect();
    let mut threads = SamplingThreads::new(n_threads);
    let step = [()];
    let per_step = measure(&step, |()| {
        let mut jobs: Vec<_> = samplers.iter_mut().zip(&rows).collect();
        threads.for_each(&mut jobs, N_ROWS * N_VOCAB, |(sampler, row), buffers| {
            let token = sampler.sample(row, buffers);
            black_box(token).expect("the logits are good");
        });
    });
    per_step.map(|us| us / rows.len() as f64)
}

/// Logits that are spread like a bell's curve, the sum of a few even numbers, and peaks above.
fn row(seed: u64, spread: f32, peaks: f32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut even = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut logit = |_| {
        let bell = ((0..6).map(|_| even()).sum::<f32>() - 3.0) * 2.0_f32.sqrt();
        let peak = if even() < 0.002 { peaks * even() } else { 0.0 };
        bell * spread + peak
    };
    (0..N_VOCAB).map(&mut logit).collect()
}

fn ours(params: &SamplingParams, rows: &[Vec<f32>]) -> [f64; 2] {
    let prompt: Vec<_> = (0..4000).map(|index| Token(index * 31)).collect();
    let mut sampler = sampler(params, &prompt);
    let mut buffers = Buffers::default();
    measure(rows, |row| {
        let token = sampler.sample(row, &mut buffers);
        black_box(token).expect("the logits are good");
    })
}

fn greedy_of_llama(rows: &[Vec<f32>]) -> [f64; 2] {
    let mut chain = LlamaSampler::chain_simple([LlamaSampler::greedy()]);
    measure(rows, |row| sample_with(&mut chain, row))
}

fn common_of_llama(rows: &[Vec<f32>]) -> [f64; 2] {
    let mut chain = LlamaSampler::chain_simple([
        LlamaSampler::top_k(40),
        LlamaSampler::top_p(0.95, 1),
        LlamaSampler::temp(0.7),
        LlamaSampler::dist(1),
    ]);
    measure(rows, |row| sample_with(&mut chain, row))
}

fn sample_with(chain: &mut LlamaSampler, row: &[f32]) {
    let candidates = (0..)
        .zip(row)
        .map(|(id, &logit)| LlamaTokenData::new(LlamaToken(id), logit, 0.0));
    let mut array = LlamaTokenDataArray::from_iter(candidates, false);
    array.apply_sampler(chain);
    black_box(array.selected_token());
}

/// The median and the lowest time of one call, in microseconds.
fn measure<R>(rows: &[R], mut sample: impl FnMut(&R)) -> [f64; 2] {
    let mut times = Vec::with_capacity(N_ROUNDS * rows.len());
    for row in (0..N_ROUNDS).flat_map(|_| rows) {
        let start = Instant::now();
        sample(row);
        times.push(start.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    [times[times.len() / 2], times[0]]
}

/// Measures and prints a case, if the command line names a part of its name, or nothing.
fn report(name: &str, measure: impl FnOnce() -> [f64; 2]) {
    let mut parts = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with("--"));
    if parts.all(|part| name.contains(&part)) {
        let [median, lowest] = measure();
        println!(r#"{{"name": "{name}", "us_per_token": {median:.1}, "lowest": {lowest:.1}}}"#);
    }
}
