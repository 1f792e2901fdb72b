//! Tests of the sampler: what it chooses, and that it chooses what llama.cpp would.

mod equal;
mod support;

use self::support::{demo, model_logits, params, sampler, sampler_of};
use super::draw::seed32;
use super::*;
use crate::protocol::{DryParams, Mirostat};

const LOGITS: [f32; 6] = [1.0, 3.0, 2.0, -1.0, 3.0, 0.5];

fn tokens(sampler: &mut Sampler, n: usize) -> Vec<i32> {
    let mut buffers = Buffers::default();
    let sample = |_| sampler.sample(&LOGITS, &mut buffers).map(|token| token.0);
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
        let got = tokens(&mut sampler(&params, prompt, LOGITS.len()), 4);
        assert_eq!(got, expected, "case {index}");
    }
    let ends = vec![Token(1), Token(4), Token(99)];
    let factory = SamplerFactory::new(LOGITS.len(), ends, Vec::new());
    let banned = params(|p| (p.temperature, p.ignore_eos) = (0.0, true));
    assert_eq!(tokens(&mut sampler_of(&factory, &banned, &[]), 2), [2, 2]);
    let late = params(|p| (p.temperature, p.min_tokens) = (0.0, 2));
    assert_eq!(tokens(&mut sampler_of(&factory, &late, &[]), 3), [2, 2, 1]);
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
            let mut sampler = sampler(&params, &[], LOGITS.len());
            let got = sampler.sample(&logits, &mut Buffers::default());
            assert_eq!(got, Err(expected), "{logits:?}");
        }
        let all: Vec<_> = (0..6).map(Token).collect();
        let factory = SamplerFactory::new(LOGITS.len(), Vec::new(), all);
        let mut sampler = sampler_of(&factory, &params, &[]);
        let got = sampler.sample(&LOGITS, &mut Buffers::default());
        assert_eq!(got, Err(NoCandidates));
    }
}

/// How often each token comes in `n` draws.
fn frequencies(params: &SamplingParams, n: usize) -> [f32; 6] {
    let mut counts = [0.0; 6];
    let mut sampler = sampler(params, &[], LOGITS.len());
    for token in tokens(&mut sampler, n) {
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
fn dry_stops_a_repetition() {
    let model = demo();
    let text = |token| String::from_utf8(model.piece(token)).unwrap_or_default();
    let is_word = |token: &Token| {
        let text = text(*token);
        text.len() > 3 && text.bytes().all(|byte| byte.is_ascii_lowercase())
    };
    let mut words = (0..model.n_vocab() as i32).map(Token).filter(is_word);
    let [one, two, three, next, other] = std::array::from_fn(|_| words.next().expect("enough"));
    let prompt = [one, two, three, next, other, one, two, three];
    let mut logits = vec![0.0; model.n_vocab()];
    (logits[next.0 as usize], logits[other.0 as usize]) = (2.0, 1.0);
    let token = |change: &dyn Fn(&mut DryParams)| {
        let params = params(|p| {
            p.temperature = 0.0;
            p.dry.multiplier = 1.5;
            change(&mut p.dry);
        });
        let sampler = model.sampler(&params, &prompt);
        let mut sampler = sampler.expect("every rule can be made");
        sampler.sample(&logits, &mut Buffers::default())
    };
    type Change<'a> = &'a dyn Fn(&mut DryParams);
    let cases: [(Change, Token); 6] = [
        (&|_| {}, other),
        (&|dry| dry.multiplier = 0.0, next),
        (&|dry| dry.multiplier = 0.01, next),
        (&|dry| dry.allowed_length = 60, next),
        (&|dry| dry.penalty_last_n = 0, next),
        (&|dry| dry.sequence_breakers = vec![text(three)], next),
    ];
    for (index, (change, expected)) in cases.into_iter().enumerate() {
        assert_eq!(token(change), Ok(expected), "case {index}");
    }
}

#[test]
fn typical_p_survives_hopeless_tokens() {
    let mut logits = vec![-500.0; 1000];
    (logits[10], logits[20]) = (2.0, 2.0);
    let params = params(|p| (p.typical_p, p.seed) = (0.5, Some(1)));
    let mut sampler = sampler(&params, &[], LOGITS.len());
    for _ in 0..100 {
        let token = sampler.sample(&logits, &mut Buffers::default());
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

#[test]
fn threads_change_no_token() {
    const N_VOCAB: usize = 3000;
    let rows: Vec<_> = (0..24)
        .map(|seed| model_logits(N_VOCAB, 2.0, seed))
        .collect();
    let sample = |n_threads| {
        let sampler = |seed| {
            let params = params(|p| (p.top_k, p.seed) = (50, Some(seed)));
            (sampler(&params, &[], N_VOCAB), Vec::new())
        };
        let mut jobs: Vec<_> = (0..24).map(sampler).zip(&rows).collect();
        let mut threads = SamplingThreads::new(n_threads);
        for _ in 0..20 {
            threads.for_each(
                &mut jobs,
                usize::MAX,
                |((sampler, tokens), row), buffers| {
                    tokens.push(sampler.sample(row, buffers));
                },
            );
        }
        let tokens = jobs.into_iter().map(|((_, tokens), _)| tokens);
        tokens.collect::<Vec<_>>()
    };
    assert_eq!(sample(1), sample(4));
}

#[test]
fn mirostat_of_a_high_target_draws_from_all_tokens() {
    let rows = [vec![0.0; 500], model_logits(500, 1.0, 7)];
    for (row, tau) in rows
        .iter()
        .flat_map(|row| [(row, 8.9), (row, 50.0), (row, 100.0)])
    {
        let params = params(|p| {
            (p.mirostat, p.mirostat_tau) = (Mirostat::V1, tau);
            p.seed = Some(1);
        });
        let mut sampler = sampler(&params, &[], row.len());
        let mut buffers = Buffers::default();
        let mut draw = || sampler.sample(row, &mut buffers).expect("good logits");
        let different: std::collections::HashSet<_> = (0..100).map(|_| draw()).collect();
        assert!(
            different.len() > 50,
            "tau {tau}: {} tokens",
            different.len()
        );
    }
}

#[test]
fn mirostat_of_a_low_target_takes_the_likeliest() {
    for row in [vec![1.0], vec![0.0, 90.0, -90.0, f32::NEG_INFINITY, -400.0]] {
        let params = params(|p| (p.mirostat, p.mirostat_tau) = (Mirostat::V1, 0.0));
        let mut sampler = sampler(&params, &[], row.len());
        let mut buffers = Buffers::default();
        for _ in 0..20 {
            let token = sampler.sample(&row, &mut buffers);
            assert_eq!(token, Ok(Token((row.len() > 1).into())));
        }
    }
}
