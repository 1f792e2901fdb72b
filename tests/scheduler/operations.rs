//! Operations on a scheduler at random, and the limits that they meet.

use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use triton_llm::engine::{Limits, Scope, Sharing};

#[derive(Clone, Debug)]
pub enum Op {
    Submit {
        scope: Scope,
        prompt: Prompt,
        max_tokens: Option<u32>,
        stop: Vec<String>,
    },
    Steps(usize),
    Cancel(Index),
    /// A cancellation after the plan and before its samples.
    CancelInFlight(Index),
    /// A step that fails after some of its rows; a sequence may have been cancelled meanwhile.
    Fail {
        n_rows: Index,
        cancel: Option<Index>,
    },
    /// A step that loses one of its samples.
    Lose(Index),
}

/// Some tokens that other prompts begin with too, then some of its own; or what a finished sequence
/// had, its answer included, as the next turn of a chat.
#[derive(Clone, Debug)]
pub enum Prompt {
    Fresh { n_common: usize, n_own: usize },
    Goes { on_from: Index, n_own: usize },
}

fn prompt() -> impl Strategy<Value = Prompt> {
    prop_oneof![
        (0..40_usize, 1..12_usize).prop_map(|(n_common, n_own)| Prompt::Fresh { n_common, n_own }),
        (any::<Index>(), 0..6_usize).prop_map(|(on_from, n_own)| Prompt::Goes { on_from, n_own }),
    ]
}

fn sharing() -> impl Strategy<Value = Sharing> {
    prop_oneof![
        1 => Just(Sharing::None),
        1 => Just(Sharing::Whole),
        3 => Just(Sharing::Prefix)
    ]
}

fn scope() -> impl Strategy<Value = Scope> {
    prop_oneof![2 => Just(Scope::default()), 1 => (1..3_u64).prop_map(Scope)]
}

pub fn op() -> impl Strategy<Value = Op> {
    let max_tokens = prop_oneof![Just(None), (1..20_u32).prop_map(Some)];
    let stop = prop_oneof!["stop", "ab?a", "\u{20AC}", "c s", "b\u{FFFD}"];
    let submit = (scope(), prompt(), max_tokens, vec(stop, 0..3));
    let submit = submit.prop_map(|(scope, prompt, max_tokens, stop)| Op::Submit {
        scope,
        prompt,
        max_tokens,
        stop,
    });
    prop_oneof![
        8 => submit,
        8 => (1..12_usize).prop_map(Op::Steps),
        2 => any::<Index>().prop_map(Op::Cancel),
        2 => any::<Index>().prop_map(Op::CancelInFlight),
        1 => any::<(Index, Option<Index>)>()
            .prop_map(|(n_rows, cancel)| Op::Fail { n_rows, cancel }),
        1 => any::<Index>().prop_map(Op::Lose),
    ]
}

pub fn limits() -> impl Strategy<Value = Limits> {
    let slots = (1..7_usize, 0..6_usize);
    let n_cells = prop_oneof![2..64_usize, 64..256_usize];
    let drafts = prop_oneof![Just((0, 0)), (1..6_usize, 1..12_usize)];
    let rest = (any::<Index>(), 1..24_usize, sharing(), drafts);
    let host = prop_oneof![Just((0, 0)), (16..400_usize, 0..80_usize)];
    (slots, n_cells, rest, host).prop_map(
        |((n_slots, n_kept), n_cells, (n_ctx, n_batch, sharing, drafts), host)| Limits {
            n_slots,
            n_kept,
            n_cells,
            sharing,
            n_host: host.0,
            n_rows_to_park: host.1,
            n_ctx: 2 + n_ctx.index(n_cells - 1),
            n_batch,
            max_draft: if sharing == Sharing::Whole {
                0
            } else {
                drafts.0
            },
            n_draft_rows: drafts.1,
            target_itl: Duration::from_millis(20),
        },
    )
}
