//! One seed, one text: to the bit, so at temperatures at which the last one decides.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use triton_llm::engine::{CacheOp, Limits, NewSequence, Scheduler, SequenceId, Sharing, Token};
use triton_llm::llama::{ContextParams, FlashAttention, Model, Runner};
use triton_llm::protocol::SamplingParams;

use crate::demo::demo_model;
use crate::kinds::{KINDS, tokens};

const N_SLOTS: usize = 8;
const N_ANSWER: u32 = 64;

/// The answer to each prompt, by its own seed, and how many blocks came back from host memory.
fn answers(
    runner: &mut Runner,
    prompts: &[Vec<Token>],
    first_seed: u64,
    scheduler: &mut Scheduler,
) -> (Vec<Vec<Token>>, usize) {
    for (prompt, seed) in prompts.iter().zip(first_seed..) {
        let params = SamplingParams {
            seed: Some(seed),
            temperature: 5.0,
            ignore_eos: true,
            ..SamplingParams::default()
        };
        let sampler = runner
            .model()
            .sampler(&params, prompt)
            .expect("every rule can be made");
        runner.open(SequenceId(seed), sampler);
        let new = NewSequence {
            max_tokens: Some(N_ANSWER),
            ..NewSequence::new(SequenceId(seed), prompt.clone())
        };
        let submitted = scheduler.submit(new);
        submitted.unwrap_or_else(|error| panic!("{error}"));
    }
    let (mut answers, mut n_loads) = (HashMap::<_, Vec<Token>>::new(), 0);
    let now = Instant::now();
    while !scheduler.is_idle() {
        let plan = scheduler.schedule(now);
        let loads = plan.cache.iter();
        n_loads += loads
            .filter(|op| matches!(op, CacheOp::Load { .. }))
            .count();
        let out = runner.run(&plan).unwrap_or_else(|error| panic!("{error}"));
        for sampled in &out {
            answers
                .entry(sampled.sequence.0)
                .or_default()
                .push(sampled.token);
        }
        scheduler.apply(&out, now);
    }
    let seeds = (first_seed..).take(prompts.len());
    let answers = seeds.map(|seed| answers.remove(&seed).unwrap_or_default());
    (answers.collect(), n_loads)
}

fn scheduler(runner: &Runner, sharing: Sharing) -> Scheduler {
    Scheduler::new(Limits {
        n_slots: N_SLOTS,
        n_kept: runner.n_kept(),
        n_cells: runner.n_cells(),
        sharing,
        n_host: 1 << 20,
        n_batch: runner.n_batch(),
        ..Limits::default()
    })
}

fn runner(model: &Arc<Model>, params: ContextParams) -> Runner {
    Runner::new(Arc::clone(model), &params).unwrap_or_else(|error| panic!("{error}"))
}

/// Chats of two turns: each turn alone says what it says beside all others, which take more cells than
/// there are.
fn check(
    model: &Arc<Model>,
    mut prompts: Vec<Vec<Token>>,
    params: ContextParams,
    sharing: Sharing,
) {
    let mut crowded = runner(model, params.clone());
    let mut crowd = scheduler(&crowded, sharing);
    let mut n_loads = 0;
    for first_seed in [0, 100] {
        let (together, n) = answers(&mut crowded, &prompts, first_seed, &mut crowd);
        n_loads += n;
        let mut quiet = runner(model, params.clone());
        for ((prompt, answer), seed) in prompts.iter_mut().zip(&together).zip(first_seed..) {
            let mut nobody = scheduler(&quiet, Sharing::None);
            let (alone, _) = answers(&mut quiet, std::slice::from_ref(prompt), seed, &mut nobody);
            assert_eq!(alone, std::slice::from_ref(answer), "seed {seed}");
            prompt.extend(answer);
            prompt.extend_from_slice(&answer[..seed as usize % 7]);
        }
    }
    assert_eq!(
        n_loads > 0,
        sharing == Sharing::Prefix,
        "{n_loads} blocks came back"
    );
}

fn prompts(model: &Model) -> Vec<Vec<Token>> {
    let words = "the quick brown fox jumps over the lazy dog ".repeat(3);
    let texts = (0..24).map(|n| format!("{}Tell me about the number {n}", &words[..n % 5 * 20]));
    texts
        .map(|text| {
            model
                .tokenize_prompt(&text)
                .unwrap_or_else(|error| panic!("{error}"))
        })
        .collect()
}

#[test]
fn in_a_shared_cache_wherever_the_cells_are() {
    let params = ContextParams {
        n_slots: N_SLOTS,
        n_cells: 2048,
        flash_attention: FlashAttention::On,
        ..ContextParams::default()
    };
    let model = demo_model();
    check(&model, prompts(&model), params.clone(), Sharing::Prefix);
    for kind in &KINDS {
        let prompts = (0..24).map(|n| tokens(n % 5, 20 + n as usize)).collect();
        check(&kind.model(), prompts, params.clone(), kind.sharing);
    }
}

#[test]
fn where_each_slot_has_its_own_cells() {
    let model = demo_model();
    for flash_attention in [FlashAttention::On, FlashAttention::Off] {
        let params = ContextParams {
            n_slots: N_SLOTS,
            n_cells: N_SLOTS * 512,
            kv_unified: false,
            flash_attention,
            ..ContextParams::default()
        };
        check(&model, prompts(&model), params, Sharing::None);
    }
}

#[test]
fn however_many_threads_compute() {
    let demo = demo_model();
    let models = KINDS.iter().map(|kind| {
        let prompts = (0..8).map(|n| tokens(n % 5, 20 + n as usize)).collect();
        (kind.model(), prompts)
    });
    for (model, prompts) in models.chain([(demo.clone(), prompts(&demo))]) {
        for flash_attention in [FlashAttention::On, FlashAttention::Off] {
            let answers = [(1, 1), (2, 1), (1, 2)].map(|(n_threads, n_threads_batch)| {
                let params = ContextParams {
                    n_slots: N_SLOTS,
                    n_cells: 2048,
                    n_threads,
                    n_threads_batch,
                    flash_attention,
                    ..ContextParams::default()
                };
                let mut runner = runner(&model, params);
                let mut scheduler = scheduler(&runner, Sharing::None);
                answers(&mut runner, &prompts, 0, &mut scheduler).0
            });
            assert!(answers.iter().all(|some| *some == answers[0]));
        }
    }
}
