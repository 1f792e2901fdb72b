//! Plans, seeds and neighbours.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use triton_llm::engine::{
    CacheOp, Drafter, Drafting, Limits, NewSequence, Plan, Row, Sampled, Scheduler, SequenceId,
    SlotId, Token,
};
use triton_llm::llama::{
    CacheType, ContextParams, LoadParams, Model, RowProblem, RunError, Runner,
};
use triton_llm::protocol::SamplingParams;

use crate::writer::{Folder, tiny_model};

/// Rows that drafts fill a step up to in these tests.
pub const N_DRAFT_ROWS: usize = 24;

/// The tiny model, loaded once.
pub fn model() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let load = || {
        let folder = Folder::new("shared");
        let path = folder.write("tiny.gguf", &tiny_model().bytes());
        let params = LoadParams {
            use_mmap: Some(false),
            ..LoadParams::default()
        };
        Arc::new(Model::load(&path, &params).unwrap_or_else(|error| panic!("{error}")))
    };
    MODEL.get_or_init(load).clone()
}

pub fn runner(model: Arc<Model>, n_slots: usize) -> Runner {
    let params = ContextParams {
        n_slots,
        n_cells: 2048,
        n_batch: 64,
        ..ContextParams::default()
    };
    Runner::new(model, &params).unwrap_or_else(|error| panic!("{error}"))
}

/// A prompt, how to answer it, and with how many tokens at most.
pub type Request = (Vec<Token>, SamplingParams, u32);

/// Runs prompts together to their ends through scheduler and runner.
pub fn generate(
    runner: &mut Runner,
    model: &Model,
    n_slots: usize,
    requests: &[Request],
) -> Vec<String> {
    assert!(model.n_vocab() > 0);
    generate_with(runner, n_slots, requests, None).0
}

/// As `generate`, with somebody who drafts `max_draft` tokens at a time; also returns the steps.
pub fn generate_with(
    runner: &mut Runner,
    n_slots: usize,
    requests: &[Request],
    mut drafter: Option<(&mut dyn Drafter, usize)>,
) -> (Vec<String>, usize) {
    let max_draft = drafter.as_ref().map_or(0, |(_, max_draft)| *max_draft);
    let mut scheduler = Scheduler::new(Limits {
        n_slots,
        n_cells: runner.n_cells(),
        n_batch: runner.n_batch(),
        max_draft,
        n_draft_rows: N_DRAFT_ROWS,
        ..Limits::default()
    });
    let mut texts: HashMap<SequenceId, String> = HashMap::new();
    let now = Instant::now();
    for ((prompt, params, max_tokens), id) in requests.iter().zip(0..) {
        let id = SequenceId(id);
        let sampler = runner.model().sampler(params, prompt);
        runner.open(id, sampler.expect("every rule can be made"));
        let new = NewSequence {
            max_tokens: Some(*max_tokens),
            ..NewSequence::new(id, prompt.clone())
        };
        scheduler
            .submit(new)
            .unwrap_or_else(|error| panic!("{error}"));
    }
    let mut n_steps = 0;
    while !scheduler.is_idle() {
        if let Some((drafter, _)) = &mut drafter {
            let wanted: Vec<Drafting> = scheduler.drafting().collect();
            let drafts = drafter.draft(&wanted);
            scheduler.draft(drafts);
        }
        let plan = scheduler.schedule(now);
        let out = runner.run(&plan).unwrap_or_else(|error| panic!("{error}"));
        assert!(runner.failures().is_empty());
        n_steps += 1;
        for event in scheduler.apply(&out, now) {
            let text = texts.entry(event.sequence).or_default();
            text.extend(event.chosen.into_iter().map(|chosen| chosen.text));
            if event.end.is_some() {
                runner.close(event.sequence);
                if let Some((drafter, _)) = &mut drafter {
                    drafter.close(event.sequence);
                }
            }
        }
    }
    let mut take = |id| texts.remove(&SequenceId(id)).unwrap_or_default();
    let texts = (0..requests.len() as u64).map(&mut take).collect();
    (texts, n_steps)
}

pub fn greedy() -> SamplingParams {
    SamplingParams {
        temperature: 0.0,
        ..SamplingParams::default()
    }
}

fn prompts(model: &Model, n: usize) -> Vec<Vec<Token>> {
    (0..n)
        .map(|i| {
            let text = "the quick brown fox ".repeat(1 + i % 5) + &"abcdefgh"[..1 + i % 8];
            model.tokenize_prompt(&text).expect("short")
        })
        .collect()
}

#[test]
fn neighbours_do_not_change_a_text() {
    let model = model();
    let requests: Vec<_> = prompts(&model, 12)
        .into_iter()
        .enumerate()
        .map(|(i, prompt)| {
            let mut params = greedy();
            if i % 3 > 0 {
                params = SamplingParams {
                    seed: Some(i as u64),
                    temperature: 0.8,
                    ..params
                };
            }
            (
                prompt,
                SamplingParams {
                    ignore_eos: true,
                    ..params
                },
                24,
            )
        })
        .collect();
    let mut runner = runner(model.clone(), 5);
    let alone: Vec<_> = requests
        .iter()
        .map(|request| generate(&mut runner, &model, 1, std::slice::from_ref(request)).remove(0))
        .collect();
    let together = generate(&mut runner, &model, 5, &requests);
    assert_eq!(together, alone);
    let distinct: std::collections::HashSet<_> = alone.iter().collect();
    assert!(distinct.len() > 6, "{alone:?}");
}

#[test]
fn a_seed_is_a_text() {
    let model = model();
    let prompt = prompts(&model, 1).remove(0);
    let mut runner = runner(model.clone(), 4);
    let mut text = |seed: Option<u64>| {
        let params = SamplingParams {
            seed,
            ignore_eos: true,
            ..SamplingParams::default()
        };
        generate(&mut runner, &model, 4, &[(prompt.clone(), params, 32)]).remove(0)
    };
    for seed in [0, 1, u64::from(u32::MAX), u64::MAX] {
        assert_eq!(text(Some(seed)), text(Some(seed)), "{seed}");
    }
    assert_ne!(text(Some(1)), text(Some(2)));
    assert_ne!(text(Some(1)), text(Some(1 << 33)));
    assert_ne!(text(None), text(None));
}

#[test]
fn steady_steps_reuse_their_graph() {
    const N_SLOTS: usize = 8;
    let model = model();
    // So short that all are read in the first step, of which nobody knows how long it takes.
    let prompt = vec![Token(5), Token(6), Token(7)];
    let params = SamplingParams {
        ignore_eos: true,
        ..greedy()
    };
    let requests = vec![(prompt, params, 64); N_SLOTS];
    for (kv_unified, own_attention) in [(true, true), (true, false), (false, true)] {
        let params = ContextParams {
            n_slots: N_SLOTS,
            n_cells: 2048,
            n_batch: 256,
            kv_unified,
            own_attention,
            ..ContextParams::default()
        };
        let mut runner = Runner::new(model.clone(), &params).expect("good parameters");
        let n_before = runner.n_reused_graphs();
        let (_, n_steps) = generate_with(&mut runner, N_SLOTS, &requests, None);
        let n_built = n_steps - (runner.n_reused_graphs() - n_before);
        // One for the prompts, one for the answers, one for each further 256 cells in use.
        assert!(
            n_steps >= 64 && n_built <= 6,
            "{n_built} of {n_steps} steps built a graph (kv_unified {kv_unified}, own attention {own_attention})"
        );
    }
}

pub fn row(sequence: u64, slot: u16, token: i32, pos: u32, output: bool) -> Row {
    let (sequence, slot, token) = (SequenceId(sequence), SlotId(slot), Token(token));
    Row {
        sequence,
        slot,
        token,
        pos,
        output,
    }
}

pub fn plan(emptied: &[u16], rows: &[Row]) -> Plan {
    let emptied = emptied.iter().map(|&slot| CacheOp::Keep {
        slot: SlotId(slot),
        n_tokens: 0,
    });
    Plan {
        cache: emptied.collect(),
        rows: rows.to_vec(),
    }
}

#[test]
fn bad_plans_are_refused_and_cost_only_their_slots() {
    let model = model();
    let mut runner = runner(model, 2);
    let id = SequenceId(1);
    let sampler = runner.model().sampler(&greedy(), &[Token(5)]);
    runner.open(id, sampler.expect("every rule can be made"));
    let refused = |problem| RunError::Row { row: 0, problem };
    let too_many: Vec<_> = (0..65).map(|pos| row(1, 0, 5, pos, false)).collect();
    let three = [
        row(1, 0, 5, 0, true),
        row(1, 0, 5, 1, true),
        row(1, 0, 5, 2, true),
    ];
    for (bad, expected) in [
        (
            row(1, 0, -1, 0, true),
            refused(RowProblem::Token {
                token: -1,
                n_vocab: 286,
            }),
        ),
        (
            row(1, 0, 286, 0, true),
            refused(RowProblem::Token {
                token: 286,
                n_vocab: 286,
            }),
        ),
        (
            row(1, 0, 5, 1, true),
            refused(RowProblem::Position {
                slot: 0,
                found: 1,
                expected: 0,
            }),
        ),
        (
            row(1, 2, 5, 0, true),
            refused(RowProblem::Slot { slot: 2, max: 1 }),
        ),
        (
            row(9, 0, 5, 0, true),
            refused(RowProblem::NotOpen {
                sequence: SequenceId(9),
            }),
        ),
    ] {
        assert_eq!(runner.run(&plan(&[], &[bad])), Err(expected));
        if bad.slot.0 == 0 {
            let lost = runner.run(&plan(&[], &[row(1, 0, 5, 0, true)]));
            assert_eq!(lost, Err(refused(RowProblem::Lost { slot: 0 })));
        }
        let recovered = runner.run(&plan(&[0], &[row(1, 0, 5, 0, true)]));
        assert_eq!(recovered.map(|out| out.len()), Ok(1));
        assert_eq!(runner.run(&plan(&[0], &[])), Ok(Vec::new()));
    }
    for (rows, what, found, limit) in [
        (too_many.as_slice(), "rows", 65, 64),
        (three.as_slice(), "output rows", 3, 2),
    ] {
        let expected = RunError::TooMany { what, found, limit };
        assert_eq!(runner.run(&plan(&[0], rows)), Err(expected));
    }
    let no_slot = runner.run(&plan(&[256], &[]));
    assert!(
        matches!(no_slot, Err(RunError::Cache { .. })),
        "{no_slot:?}"
    );
    let out = runner
        .run(&plan(&[0], &[row(1, 0, 5, 0, true)]))
        .expect("recovered");
    assert!(matches!(out.as_slice(), [Sampled { sequence, .. }] if *sequence == id));
}

#[test]
fn a_full_cache_is_an_error_and_no_end() {
    let model = model();
    let params = ContextParams {
        n_slots: 2,
        n_cells: 256,
        n_batch: 256,
        ..ContextParams::default()
    };
    let mut runner = Runner::new(model, &params).unwrap_or_else(|error| panic!("{error}"));
    let rows: Vec<_> = (0..256).map(|pos| row(1, 0, 5, pos, false)).collect();
    assert_eq!(runner.run(&plan(&[], &rows)), Ok(Vec::new()));
    let full = runner.run(&plan(&[], &[row(2, 1, 5, 0, false)]));
    assert!(
        matches!(
            full,
            Err(RunError::Decode {
                code: 1,
                n_rows: 1,
                ..
            })
        ),
        "{full:?}"
    );
    assert_eq!(runner.run(&plan(&[0, 1], &rows)), Ok(Vec::new()));
}

#[test]
fn a_full_warm_up_leaves_nothing_behind() {
    let model = model();
    let request = (prompts(&model, 1).remove(0), greedy(), 24);
    for (kv_unified, n_ubatch, n_draft_rows) in [
        (true, 512, 0),
        (false, 512, 0),
        (true, 16, 24),
        (true, 1, 0),
    ] {
        let params = ContextParams {
            n_slots: 4,
            n_cells: 1024,
            n_batch: 64,
            kv_unified,
            n_ubatch,
            n_draft_rows,
            ..ContextParams::default()
        };
        let [cold, warm] = [false, true].map(|full_warm_up| {
            let params = ContextParams {
                full_warm_up,
                ..params.clone()
            };
            let mut runner = Runner::new(model.clone(), &params).expect("good parameters");
            generate(&mut runner, &model, 4, &vec![request.clone(); 6])
        });
        assert_eq!(warm, cold);
    }
}

#[test]
fn bad_context_parameters_are_errors() {
    let model = model();
    let good = ContextParams::default();
    for (params, expected) in [
        (
            ContextParams {
                n_slots: 0,
                ..good.clone()
            },
            "n_parallel = 0: must be between 1 and 256",
        ),
        (
            ContextParams {
                n_slots: 257,
                ..good.clone()
            },
            "n_parallel = 257",
        ),
        (
            ContextParams {
                n_cells: 0,
                ..good.clone()
            },
            "n_ctx = 0",
        ),
        (
            ContextParams {
                n_batch: 0,
                ..good.clone()
            },
            "n_batch = 0",
        ),
        // A head of 16 numbers is no whole block of 32.
        (
            ContextParams {
                type_k: CacheType::Q8_0,
                ..good.clone()
            },
            "block size 32 does not divide",
        ),
    ] {
        let error = Runner::new(model.clone(), &params)
            .err()
            .expect(expected)
            .to_string();
        assert!(error.contains(expected), "{error} lacks {expected}");
    }
}
