//! Tests that every token is the one that llama.cpp's samplers come to.

use llama_cpp_2::sampling::LlamaSampler;
use llama_cpp_2::token::LlamaToken;
use llama_cpp_2::token::data::LlamaTokenData;
use llama_cpp_2::token::data_array::LlamaTokenDataArray;
use proptest::prelude::*;

use super::support::{demo, demo_of_llama, even_numbers, model_logits, params, sampler};
use crate::engine::Token;
use crate::llama::sampler::draw::{MirostatDraw, TYPICAL_DEPTH, seed32};
use crate::llama::sampler::logits::{Logits, Segments};
use crate::llama::sampler::{Buffers, Sampler, mirostat};
use crate::protocol::{DryParams, Mirostat, SamplingParams};

/// Draws by nothing but llama.cpp's samplers, over all of the vocabulary.
struct Reference {
    chain: LlamaSampler,
    typical: bool,
}

impl Reference {
    fn new(params: &SamplingParams, n_vocab: usize) -> Self {
        Self::after(Vec::new(), params, n_vocab)
    }

    /// All samplers in the order of llama.cpp's own programs, those that are off as well.
    fn after(mut samplers: Vec<LlamaSampler>, params: &SamplingParams, n_vocab: usize) -> Self {
        let (seed, temperature) = (seed32(params.seed), LlamaSampler::temp(params.temperature));
        let (tau, eta) = (params.mirostat_tau, params.mirostat_eta);
        if params.temperature == 0.0 {
            samplers.push(LlamaSampler::greedy());
        } else if params.mirostat == Mirostat::V1 {
            let draw = LlamaSampler::mirostat(n_vocab as i32, seed, tau, eta, 100);
            samplers.extend([temperature, draw]);
        } else if params.mirostat == Mirostat::V2 {
            samplers.extend([temperature, LlamaSampler::mirostat_v2(seed, tau, eta)]);
        } else {
            // As many as there are is off here: llama.cpp would sort them, and draw others of the same.
            let top_k = match (params.top_k as usize) < n_vocab {
                true => params.top_k as i32,
                false => 0,
            };
            samplers.extend([
                LlamaSampler::top_k(top_k),
                LlamaSampler::typical(params.typical_p, 1),
                LlamaSampler::top_p(params.top_p, 1),
                LlamaSampler::min_p(params.min_p, 1),
                LlamaSampler::xtc(params.xtc_probability, params.xtc_threshold, 1, seed),
                temperature,
                LlamaSampler::dist(seed),
            ]);
        }
        Self {
            chain: LlamaSampler::chain_simple(samplers),
            typical: params.typical_p < 1.0 && params.mirostat == Mirostat::Off,
        }
    }

    fn sample(&mut self, logits: &[f32]) -> Token {
        let max = logits.iter().copied().fold(f32::MIN, f32::max);
        let floor = if self.typical {
            max - TYPICAL_DEPTH
        } else {
            f32::MIN
        };
        let data = (0..).zip(logits).filter(|(_, logit)| **logit >= floor);
        let data = data.map(|(id, logit)| LlamaTokenData::new(LlamaToken(id), *logit, 0.0));
        let mut array = LlamaTokenDataArray::from_iter(data, false);
        array.apply_sampler(&mut self.chain);
        let token = array.selected_token().expect("a token is drawn");
        self.chain.accept(token);
        Token(token.0)
    }
}

/// Which mirostat, with tau and eta.
fn any_mirostat() -> impl Strategy<Value = (Mirostat, f32, f32)> {
    let version = prop_oneof![
        6 => Just(Mirostat::Off),
        1 => Just(Mirostat::V1),
        1 => Just(Mirostat::V2),
    ];
    let tau = prop_oneof![4 => 0.0_f32..12.0, 1 => 12.0_f32..100.0];
    (version, tau, 0.0_f32..1.0)
}

/// Probability and threshold of XTC.
fn any_xtc() -> impl Strategy<Value = (f32, f32)> {
    prop_oneof![
        4 => Just((0.0, 0.1)),
        1 => (0.0_f32..1.0, 0.0_f32..0.6),
    ]
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![
        Just(0.0_f32),
        Just(1.0),
        0.2_f32..2.0,
        Just(0.001),
        Just(100.0)
    ];
    let top_k = prop_oneof![Just(0_u32), Just(1), Just(40), 1_u32..150, Just(1_000_000)];
    let top_p = prop_oneof![Just(1.0_f32), 0.001_f32..1.0, 0.9_f32..1.0];
    let min_p = prop_oneof![Just(0.0_f32), 0.0001_f32..1.0, Just(1.0)];
    let typical_p = prop_oneof![9 => Just(1.0_f32), 1 => 0.1_f32..1.0];
    let filters = (top_k, top_p, min_p, typical_p, any_xtc());
    (temperature, filters, any_mirostat(), any::<u64>()).prop_map(
        |(temperature, filters, mirostat, seed)| {
            let (top_k, top_p, min_p, typical_p, xtc) = filters;
            let (mirostat, mirostat_tau, mirostat_eta) = mirostat;
            SamplingParams {
                temperature,
                top_k,
                top_p,
                min_p,
                typical_p,
                xtc_probability: xtc.0,
                xtc_threshold: xtc.1,
                mirostat,
                mirostat_tau,
                mirostat_eta,
                seed: Some(seed),
                ..SamplingParams::default()
            }
        },
    )
}

fn any_dry() -> impl Strategy<Value = DryParams> {
    let breakers = prop_oneof![
        Just(DryParams::default().sequence_breakers),
        Just(Vec::new()),
        Just(vec![" the".to_owned(), "e".to_owned(), "日本".to_owned()]),
    ];
    let multiplier = prop_oneof![0.01_f32..3.0, Just(100.0)];
    let base = prop_oneof![Just(1.0_f32), 1.0_f32..3.0, Just(100.0)];
    (multiplier, base, 1_u32..5, 0_u32..100, breakers).prop_map(
        |(multiplier, base, allowed_length, penalty_last_n, sequence_breakers)| DryParams {
            multiplier,
            base,
            allowed_length,
            penalty_last_n,
            sequence_breakers,
        },
    )
}

fn any_logits() -> impl Strategy<Value = Vec<f32>> {
    let n_vocab = prop_oneof![1_usize..130, 1_usize..5000];
    let spread = prop_oneof![Just(0.0_f32), 0.1_f32..5.0, Just(40.0)];
    // Nothing; equal logits; tokens ruled out; both.
    (n_vocab, spread, any::<u64>(), any::<bool>(), any::<bool>()).prop_map(
        |(n_vocab, spread, seed, ties, holes)| {
            let mut even = even_numbers(!seed);
            let mut logits = model_logits(n_vocab, spread, seed);
            for logit in &mut logits {
                if ties {
                    *logit = (*logit * 4.0).round() / 4.0;
                }
                if holes && even() < 0.3 {
                    *logit = f32::NEG_INFINITY;
                }
            }
            logits[n_vocab / 2] = spread;
            logits
        },
    )
}

/// Whether mirostat's first version wants more tokens than llama.cpp's integers can say.
fn is_beyond_llama_cpp(sampler: &Sampler, logits: &[f32]) -> bool {
    let Some(draw) = &sampler.draw else {
        return false;
    };
    let Some(MirostatDraw::V1(mirostat)) = &draw.mirostat else {
        return false;
    };
    let scale = |logit: &f32| logit / draw.temperature;
    let mut sorted: Vec<f32> = logits
        .iter()
        .map(scale)
        .filter(|logit| logit.is_finite())
        .collect();
    sorted.sort_by(|one, other| other.total_cmp(one));
    let wanted = mirostat.wanted(&mirostat::softmax(&sorted));
    wanted >= i32::MAX as f32
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn every_token_is_llama_cpps(params in any_params(), logits in any_logits()) {
        let mut sampler = sampler(&params, &[], logits.len());
        let mut reference = Reference::new(&params, logits.len());
        let mut buffers = Buffers::default();
        for index in 0..10 {
            if is_beyond_llama_cpp(&sampler, &logits) {
                break;
            }
            let token = sampler.sample(&logits, &mut buffers);
            prop_assert_eq!(token, Ok(reference.sample(&logits)), "draw {}", index);
        }
    }

    #[test]
    fn every_token_after_dry_is_llama_cpps(
        params in any_params(),
        dry in any_dry(),
        // A few tokens, so that they repeat themselves.
        prompt in prop::collection::vec(300_i32..306, 0..80),
        seed in any::<u64>(),
    ) {
        let model = demo();
        // The reference leaves hopeless tokens out for typical_p, and does so before DRY.
        let mut params = SamplingParams { dry: dry.clone(), typical_p: 1.0, ..params };
        if params.mirostat == Mirostat::V1 {
            // Flat rows may want more tokens than llama.cpp can say.
            params.mirostat = Mirostat::V2;
        }
        let prompt: Vec<_> = prompt.into_iter().map(Token).collect();
        let mut sampler = model.sampler(&params, &prompt).expect("every rule can be made");
        let mut llama = LlamaSampler::dry(
            demo_of_llama(),
            dry.multiplier,
            dry.base,
            dry.allowed_length as i32,
            dry.penalty_last_n as i32,
            &dry.sequence_breakers,
        );
        llama.accept_many(prompt.iter().map(|token| LlamaToken(token.0)));
        let mut reference = Reference::after(vec![llama], &params, model.n_vocab());
        let mut buffers = Buffers::default();
        let mut logits = model_logits(model.n_vocab(), 0.5, seed);
        logits[300..306].fill(6.0);
        for index in 0..20 {
            let token = sampler.sample(&logits, &mut buffers);
            prop_assert_eq!(token, Ok(reference.sample(&logits)), "draw {}", index);
        }
    }

    #[test]
    fn changed_logits_are_as_good_as_others(
        logits in any_logits(),
        changes in prop::collection::vec((0_i32..5200, -9.0_f32..9.0), 0..40),
    ) {
        let mut segments = Segments::default();
        let mut changed = logits.clone();
        let mut view = Logits::new(&logits, &mut segments);
        for (id, value) in changes {
            let there = changed.get_mut(id as usize).map(|logit| *logit = value);
            let here = view.get_mut(Token(id)).map(|logit| *logit = value);
            prop_assert_eq!(here, there);
        }
        let scanned = view.scan().expect("one logit is finite");
        let max = changed.iter().copied().fold(f32::MIN, f32::max);
        let best = changed.iter().position(|&logit| logit == max);
        prop_assert_eq!(scanned.max(), max);
        prop_assert_eq!(Some(scanned.best().0 as usize), best);
        let read: Vec<f32> = scanned.segments().flatten().copied().collect();
        prop_assert_eq!(read, changed.clone());
        let high: Vec<_> = scanned.at_least(1.0).map(|c| (c.token.0, c.logit)).collect();
        let expected = (0..).zip(changed).filter(|(_, logit)| *logit >= 1.0);
        prop_assert_eq!(high, expected.collect::<Vec<_>>());
    }
}

#[test]
fn a_large_vocabulary_needs_no_array_of_it_and_gets_the_same_tokens() {
    const N_VOCAB: usize = 128_256;
    type Change = fn(&mut SamplingParams);
    let cases: [(Change, bool); 8] = [
        (
            |p| (p.top_k, p.top_p, p.temperature) = (40, 0.95, 0.7),
            true,
        ),
        (|p| (p.top_k, p.min_p) = (128, 0.02), true),
        (|p| p.min_p = 0.01, true),
        (|p| p.temperature = 0.7, true),
        (|p| (p.top_p, p.temperature) = (0.95, 0.7), true),
        (|p| (p.top_p, p.min_p) = (0.8, 0.05), true),
        (|p| p.top_k = 129, false),
        (|p| p.typical_p = 0.9, false),
    ];
    let rows: Vec<_> = (0..12)
        .map(|seed| model_logits(N_VOCAB, 2.5, seed))
        .collect();
    for (index, (change, is_fast)) in cases.into_iter().enumerate() {
        let params = params(|p| {
            p.seed = Some(3);
            change(p);
        });
        let mut buffers = Buffers::default();
        let mut sampler = sampler(&params, &[], N_VOCAB);
        let mut reference = Reference::new(&params, N_VOCAB);
        for row in &rows {
            let token = sampler.sample(row, &mut buffers);
            assert_eq!(token, Ok(reference.sample(row)), "case {index}");
        }
        assert_eq!(buffers.scratch.llama.is_empty(), is_fast, "case {index}");
    }
}
