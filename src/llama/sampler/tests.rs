//! Tests of the sampler: what it chooses, and that it chooses what llama.cpp would.

use proptest::prelude::*;

use super::*;

const LOGITS: [f32; 6] = [1.0, 3.0, 2.0, -1.0, 3.0, 0.5];

fn params(change: impl FnOnce(&mut SamplingParams)) -> SamplingParams {
    let mut params = SamplingParams::default();
    change(&mut params);
    params
}

fn sampler(params: &SamplingParams, prompt: &[i32]) -> Sampler {
    let prompt: Vec<_> = prompt.iter().copied().map(Token).collect();
    Sampler::new(params, &prompt, LOGITS.len())
}

fn tokens(sampler: &mut Sampler, ends: &[Token], n: usize) -> Vec<i32> {
    let mut buffers = Buffers::default();
    let sample = |_| {
        sampler
            .sample(&LOGITS, ends, &[], &mut buffers)
            .map(|token| token.0)
    };
    (0..n)
        .map(sample)
        .collect::<Result<_, _>>()
        .expect("the logits are good")
}

#[test]
fn greedy_takes_the_lowest_of_the_highest_and_obeys_penalties_and_bans() {
    type Change = fn(&mut SamplingParams);
    let cases: [(Change, &[i32], &[i32]); 6] = [
        (|_| {}, &[], &[1, 1, 1, 1]),
        (|p| p.presence_penalty = 0.4, &[], &[1, 4, 1, 1]),
        (|p| p.frequency_penalty = 0.6, &[], &[1, 4, 1, 4]),
        // Only the prompt's tokens are penalised from the start, and only by repetition.
        (|p| p.repetition_penalty = 2.0, &[1, 4], &[2, 1, 1, 1]),
        (|p| p.presence_penalty = 2.0, &[1, 4], &[1, 4, 2, 0]),
        (|p| p.repetition_penalty = 0.5, &[3], &[1, 1, 1, 1]),
    ];
    for (index, (change, prompt, expected)) in cases.into_iter().enumerate() {
        let mut params = params(change);
        params.temperature = 0.0;
        let got = tokens(&mut sampler(&params, prompt), &[], 4);
        assert_eq!(got, expected, "case {index}");
    }
    let ends = [Token(1), Token(4), Token(99)];
    let banned = params(|p| (p.temperature, p.ignore_eos) = (0.0, true));
    assert_eq!(tokens(&mut sampler(&banned, &[]), &ends, 2), [2, 2]);
    let late = params(|p| (p.temperature, p.min_tokens) = (0.0, 2));
    assert_eq!(tokens(&mut sampler(&late, &[]), &ends, 3), [2, 2, 1]);
}

#[test]
fn bad_logits_are_errors() {
    use SampleError::{NoCandidates, NotANumber};
    for temperature in [0.0, 1.0] {
        let params = params(|p| p.temperature = temperature);
        for (logits, expected) in [
            (vec![f32::NAN; 6], NotANumber),
            (vec![1.0, f32::NAN, 2.0], NotANumber),
            (vec![1.0, f32::INFINITY], NotANumber),
            (vec![f32::NEG_INFINITY; 40], NoCandidates),
            (Vec::new(), NoCandidates),
        ] {
            let mut sampler = sampler(&params, &[]);
            let got = sampler.sample(&logits, &[], &[], &mut Buffers::default());
            assert_eq!(got, Err(expected), "{logits:?}");
        }
        let mut sampler = sampler(&params, &[]);
        let all: Vec<_> = (0..6).map(Token).collect();
        let got = sampler.sample(&LOGITS, &[], &all, &mut Buffers::default());
        assert_eq!(got, Err(NoCandidates));
    }
}

/// How often each token comes in `n` draws.
fn frequencies(params: &SamplingParams, n: usize) -> [f32; 6] {
    let mut counts = [0.0; 6];
    let mut sampler = sampler(params, &[]);
    for token in tokens(&mut sampler, &[], n) {
        counts[token as usize] += 1.0 / n as f32;
    }
    counts
}

/// The softmax of the logits at a temperature over the tokens that `keep` names.
fn softmax(temperature: f32, keep: &[usize]) -> [f32; 6] {
    let weight = |i: usize| (LOGITS[i] / temperature).exp();
    let sum: f32 = keep.iter().copied().map(weight).sum();
    std::array::from_fn(|i| {
        if keep.contains(&i) {
            weight(i) / sum
        } else {
            0.0
        }
    })
}

#[test]
fn draws_follow_the_distribution() {
    type Change = fn(&mut SamplingParams);
    let cases: [(Change, f32, &[usize]); 8] = [
        (|_| {}, 1.0, &[0, 1, 2, 3, 4, 5]),
        (|p| p.temperature = 2.0, 2.0, &[0, 1, 2, 3, 4, 5]),
        (|p| p.temperature = 0.3, 0.3, &[0, 1, 2, 3, 4, 5]),
        (|p| p.top_k = 3, 1.0, &[1, 2, 4]),
        (|p| p.top_k = u32::MAX, 1.0, &[0, 1, 2, 3, 4, 5]),
        (|p| p.top_p = 0.7, 1.0, &[1, 4]),
        (|p| p.min_p = 0.3, 1.0, &[1, 2, 4]),
        (|p| p.typical_p = 0.2, 1.0, &[1]),
    ];
    for (index, (change, temperature, keep)) in cases.into_iter().enumerate() {
        let mut params = params(change);
        params.seed = Some(7);
        let got = frequencies(&params, 20_000);
        let mut expected = softmax(temperature, keep);
        if index == 7 {
            // Tokens 1 and 4 are equally typical: either may be the one that is kept.
            assert!(got.contains(&1.0) || got[1] + got[4] > 0.999, "{got:?}");
            expected = got;
        }
        for (got, expected) in got.iter().zip(expected) {
            assert!(
                (got - expected).abs() < 0.015,
                "case {index}: {got} is not {expected}"
            );
        }
    }
}

#[test]
fn typical_p_survives_hopeless_tokens() {
    let mut logits = vec![-500.0; 1000];
    (logits[10], logits[20]) = (2.0, 2.0);
    let params = params(|p| (p.typical_p, p.seed) = (0.5, Some(1)));
    let mut sampler = sampler(&params, &[]);
    for _ in 0..100 {
        let token = sampler.sample(&logits, &[], &[], &mut Buffers::default());
        assert!(matches!(token, Ok(Token(10 | 20))), "{token:?}");
    }
}

#[test]
fn seeds_are_folded() {
    for (seed, expected) in [
        (0, 0),
        (42, 42),
        (u64::from(u32::MAX), u32::MAX / 2),
        (1 << 32, 1),
        (u64::MAX, 0),
    ] {
        assert_eq!(seed32(Some(seed)), expected);
    }
    assert_ne!(seed32(None), seed32(None));
}

/// Even numbers from 0 to 1, the same for the same seed.
fn even_numbers(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed;
    move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32
    }
}

/// Logits as a model has them: spread like a bell's curve, and a few far above.
fn model_logits(n_vocab: usize, spread: f32, seed: u64) -> Vec<f32> {
    let mut even = even_numbers(seed);
    let mut logit = |_| {
        let bell = ((0..6).map(|_| even()).sum::<f32>() - 3.0) * 2.0_f32.sqrt();
        let peak = if even() < 0.002 { 6.0 * even() } else { 0.0 };
        (bell + peak) * spread
    };
    (0..n_vocab).map(&mut logit).collect()
}

/// Draws by nothing but llama.cpp's samplers.
struct Reference {
    chain: LlamaSampler,
    typical: bool,
}

impl Reference {
    fn new(params: &SamplingParams, n_vocab: usize) -> Self {
        let draw = Draw::new(params, n_vocab);
        let temperature = LlamaSampler::temp(params.temperature);
        let dist = LlamaSampler::dist(seed32(params.seed));
        Self {
            chain: LlamaSampler::chain_simple([draw.llama, temperature, dist]),
            typical: params.typical_p < 1.0,
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
        Token(array.selected_token().expect("a token is drawn").0)
    }
}

fn any_params() -> impl Strategy<Value = SamplingParams> {
    let temperature = prop_oneof![Just(1.0_f32), 0.2_f32..2.0, Just(0.001), Just(100.0)];
    let top_k = prop_oneof![Just(0_u32), Just(1), Just(40), 1_u32..150, Just(1_000_000)];
    let top_p = prop_oneof![Just(1.0_f32), 0.001_f32..1.0, 0.9_f32..1.0];
    let min_p = prop_oneof![Just(0.0_f32), 0.0001_f32..1.0, Just(1.0)];
    let typical_p = prop_oneof![9 => Just(1.0_f32), 1 => 0.1_f32..1.0];
    let seed = any::<u64>();
    (temperature, top_k, top_p, min_p, typical_p, seed).prop_map(
        |(temperature, top_k, top_p, min_p, typical_p, seed)| SamplingParams {
            temperature,
            top_k,
            top_p,
            min_p,
            typical_p,
            seed: Some(seed),
            ..SamplingParams::default()
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn every_token_is_llama_cpps(params in any_params(), logits in any_logits()) {
        let mut sampler = Sampler::new(&params, &[], logits.len());
        let mut reference = Reference::new(&params, logits.len());
        let mut buffers = Buffers::default();
        for index in 0..10 {
            let token = sampler.sample(&logits, &[], &[], &mut buffers);
            prop_assert_eq!(token, Ok(reference.sample(&logits)), "draw {}", index);
        }
    }

    #[test]
    fn changed_logits_are_as_good_as_others(
        logits in any_logits(),
        changes in prop::collection::vec((0_i32..5200, -9.0_f32..9.0), 0..40),
    ) {
        let mut blocks = Blocks::default();
        let mut changed = logits.clone();
        let mut view = Logits::new(&logits, &mut blocks);
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
        let read: Vec<f32> = scanned.blocks().flatten().copied().collect();
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
        let mut sampler = Sampler::new(&params, &[], N_VOCAB);
        let mut reference = Reference::new(&params, N_VOCAB);
        for row in &rows {
            let token = sampler.sample(row, &[], &[], &mut buffers);
            assert_eq!(token, Ok(reference.sample(row)), "case {index}");
        }
        assert_eq!(buffers.llama.is_empty(), is_fast, "case {index}");
    }
}

#[test]
fn threads_change_no_token() {
    const N_VOCAB: usize = 3000;
    let rows: Vec<_> = (0..24)
        .map(|seed| model_logits(N_VOCAB, 2.0, seed))
        .collect();
    let sample = |n_threads| {
        let sampler = |seed| {
            let params = params(|p| (p.top_k, p.seed) = (50, Some(seed)));
            (Sampler::new(&params, &[], N_VOCAB), Vec::new())
        };
        let mut jobs: Vec<_> = (0..24).map(sampler).zip(&rows).collect();
        let mut threads = SamplingThreads::new(n_threads);
        for _ in 0..20 {
            threads.for_each(
                &mut jobs,
                usize::MAX,
                |((sampler, tokens), row), buffers| {
                    tokens.push(sampler.sample(row, &[], &[], buffers));
                },
            );
        }
        let tokens = jobs.into_iter().map(|((_, tokens), _)| tokens);
        tokens.collect::<Vec<_>>()
    };
    assert_eq!(sample(1), sample(4));
}
