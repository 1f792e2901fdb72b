//! Speculative decoding on the demo model: the text stays the same, whoever drafts.

use std::sync::Arc;

use triton_llm::engine::{Draft, Drafter, Drafting, PromptLookup, SequenceId, Token};
use triton_llm::llama::{ContextParams, DraftModel, Runner};
use triton_llm::protocol::SamplingParams;

use crate::demo::{demo_model, known_answers};
use crate::running::{N_DRAFT_ROWS, Request, generate, generate_with, model};

const MAX_DRAFT: usize = 5;

fn params(kv_unified: bool) -> ContextParams {
    ContextParams {
        n_slots: 4,
        n_cells: 8192,
        n_draft_rows: N_DRAFT_ROWS,
        kv_unified,
        ..ContextParams::default()
    }
}

/// Knows nothing: all its guesses are one token.
struct Fool;

impl Drafter for Fool {
    fn draft(&mut self, wanted: &[Drafting]) -> Vec<Draft> {
        let drafts = wanted.iter().map(|drafting| Draft {
            sequence: drafting.sequence,
            tokens: vec![Token(5); drafting.max_tokens],
        });
        drafts.collect()
    }

    fn close(&mut self, _: SequenceId) {}
}

fn sampled(requests: Vec<Request>) -> Vec<Request> {
    let seeded = |((prompt, _, max_tokens), seed)| {
        let params = SamplingParams {
            seed: Some(seed),
            ..SamplingParams::default()
        };
        (prompt, params, max_tokens)
    };
    requests.into_iter().zip(1..).map(seeded).collect()
}

#[test]
fn drafts_save_steps_and_change_no_text() {
    let demo = demo_model();
    let (requests, expected) = known_answers(&demo);
    let cases = requests.into_iter().zip(expected);
    let short = cases.filter(|((prompt, ..), _)| prompt.len() < 400);
    let (requests, expected): (Vec<_>, Vec<_>) = short.unzip();
    for kv_unified in [true, false] {
        let params = params(kv_unified);
        let runner = Runner::new(Arc::clone(&demo), &params);
        let mut runner = runner.unwrap_or_else(|error| panic!("{error}"));
        let (texts, n_steps) = generate_with(&mut runner, 4, &requests, None);
        assert_eq!(texts, expected);
        let seeded = sampled(requests.clone());
        let expected_seeded = generate(&mut runner, &demo, 4, &seeded);

        let mut itself = DraftModel::new(Arc::clone(&demo), &runner, &params)
            .unwrap_or_else(|error| panic!("{error}"));
        let mut lookup = PromptLookup { n_gram: 2..=5 };
        let drafters: [(&mut dyn Drafter, f64); 3] =
            [(&mut Fool, 1.0), (&mut lookup, 0.9), (&mut itself, 0.5)];
        for (drafter, most_steps) in drafters {
            let (texts, n_drafted) =
                generate_with(&mut runner, 4, &requests, Some((drafter, MAX_DRAFT)));
            assert_eq!(texts, expected);
            assert!(
                n_drafted as f64 <= n_steps as f64 * most_steps,
                "{n_drafted} of {n_steps} steps"
            );
            let (texts, _) = generate_with(&mut runner, 4, &seeded, Some((drafter, MAX_DRAFT)));
            assert_eq!(texts, expected_seeded);
        }
    }
}

#[test]
fn a_draft_model_has_the_vocabulary_of_the_model() {
    let params = params(true);
    let target = Runner::new(demo_model(), &params).unwrap_or_else(|error| panic!("{error}"));
    let made = DraftModel::new(model(), &target, &params);
    let error = made.err().map(|error| error.to_string());
    let error = error.expect("another vocabulary");
    assert!(
        error.contains("tokens, the model that it is to draft for"),
        "{error}"
    );
}

/// Where there is no room for a sequence, or it has a token that the draft model lacks, only it goes without.
#[test]
fn who_cannot_be_drafted_for_keeps_nobody_else_from_it() {
    let demo = demo_model();
    let params = ContextParams {
        n_slots: 2,
        n_cells: 256,
        ..ContextParams::default()
    };
    let target = Runner::new(Arc::clone(&demo), &params).unwrap_or_else(|error| panic!("{error}"));
    let drafter = DraftModel::new(Arc::clone(&demo), &target, &params);
    let mut drafter = drafter.unwrap_or_else(|error| panic!("{error}"));
    let texts = [
        vec![Token(40); 300],
        vec![Token(40), Token(demo.n_vocab() as i32), Token(40)],
        vec![Token(-1); 4],
        vec![Token(40); 150],
        vec![Token(41); 150],
        vec![Token(42); 50],
        vec![Token(43); 5],
    ];
    let drafting = texts.iter().zip(0..).map(|(tokens, id)| Drafting {
        sequence: SequenceId(id),
        tokens,
        max_tokens: 4,
    });
    let drafts = drafter.draft(&drafting.collect::<Vec<_>>());
    let mut served: Vec<u64> = drafts.iter().map(|draft| draft.sequence.0).collect();
    served.sort_unstable();
    // The fifth finds no cells beside the fourth, the seventh no slot.
    assert_eq!(served, [3, 5]);
}
