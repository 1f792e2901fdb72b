//! What runners do to the slots of each kind of memory, without a scheduler.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use triton_llm::engine::{BlockId, CacheOp, Plan, Row, SequenceId, Sharing, SlotId, Token};
use triton_llm::llama::{ContextParams, Model, RunError, Runner};
use triton_llm::protocol::SamplingParams;

use crate::kinds::{KINDS, Random, runner, tokens};

/// Slots of a runner and the tokens that they hold.
struct Slots {
    runner: Runner,
    held: Vec<Vec<Token>>,
    blocks: HashMap<BlockId, Vec<Token>>,
}

impl Slots {
    /// Slots that llama.cpp computes a few rows at a time of, so that most plans take it several.
    fn new(model: &Arc<Model>, n_slots: usize) -> Self {
        Self::of(runner(model, n_slots, 256, 8), n_slots)
    }

    fn alone(model: &Arc<Model>) -> Self {
        Self::of(runner(model, 1, 256, 128), 1)
    }

    fn of(mut runner: Runner, n_slots: usize) -> Self {
        let greedy = SamplingParams {
            temperature: 0.0,
            ignore_eos: true,
            ..SamplingParams::default()
        };
        for slot in 0..n_slots {
            let sampler = runner
                .model()
                .sampler(&greedy, &[])
                .expect("every rule can be made");
            runner.open(SequenceId(slot as u64), sampler);
        }
        let held = vec![Vec::new(); n_slots + runner.n_kept()];
        let blocks = HashMap::new();
        Self {
            runner,
            held,
            blocks,
        }
    }

    /// Adds tokens to slots, all in one plan, and returns what each goes on with.
    fn extend(&mut self, more: &[(u16, Vec<Token>)]) -> Vec<Token> {
        let mut rows = Vec::new();
        for (slot, tokens) in more {
            let held = &mut self.held[usize::from(*slot)];
            let start = held.len();
            held.extend(tokens);
            rows.extend((start..held.len()).map(|pos| Row {
                sequence: SequenceId(u64::from(*slot)),
                slot: SlotId(*slot),
                token: held[pos],
                pos: pos as u32,
                output: pos + 1 == held.len(),
            }));
        }
        let out = self.runner.run(&Plan {
            rows,
            ..Plan::default()
        });
        let out = out.unwrap_or_else(|error| panic!("{error}"));
        out.iter().map(|sampled| sampled.token).collect()
    }

    fn change(&mut self, op: CacheOp) -> Result<(), RunError> {
        self.runner.run(&Plan {
            cache: vec![op],
            ..Plan::default()
        })?;
        match op {
            CacheOp::Keep { slot, n_tokens } => {
                self.held[usize::from(slot.0)].truncate(n_tokens as usize);
            }
            CacheOp::Share { from, to, n_tokens } => {
                let shared = self.held[usize::from(from.0)][..n_tokens as usize].to_vec();
                self.held[usize::from(to.0)] = shared;
            }
            CacheOp::Save {
                slot,
                start,
                end,
                block,
            } => {
                let held = &self.held[usize::from(slot.0)];
                let saved = held[start as usize..end as usize].to_vec();
                self.blocks.insert(block, saved);
            }
            CacheOp::Load { slot, block } => {
                let loaded = self.blocks.remove(&block).unwrap_or_default();
                self.held[usize::from(slot.0)].extend(loaded);
            }
            CacheOp::Drop { block } => {
                self.blocks.remove(&block);
            }
        }
        Ok(())
    }

    /// What comes after `tokens` where there is nothing else.
    fn next_alone(&mut self, tokens: &[Token]) -> Token {
        self.held.iter_mut().for_each(Vec::clear);
        let done = self.change(keep(0, 0));
        done.unwrap_or_else(|error| panic!("{error}"));
        self.extend(&[(0, tokens.to_vec())])[0]
    }
}

fn keep(slot: u16, n_tokens: u32) -> CacheOp {
    let slot = SlotId(slot);
    CacheOp::Keep { slot, n_tokens }
}

fn share(from: u16, to: u16, n_tokens: u32) -> CacheOp {
    let (from, to) = (SlotId(from), SlotId(to));
    CacheOp::Share { from, to, n_tokens }
}

fn save(slot: u16, start: u32, end: u32, block: u64) -> CacheOp {
    CacheOp::Save {
        slot: SlotId(slot),
        start,
        end,
        block: BlockId(block),
    }
}

fn load(slot: u16, block: u64) -> CacheOp {
    let (slot, block) = (SlotId(slot), BlockId(block));
    CacheOp::Load { slot, block }
}

fn drop_block(block: u64) -> CacheOp {
    let block = BlockId(block);
    CacheOp::Drop { block }
}

/// What is wrong with a change, and the message that says so.
type Wrong = (CacheOp, &'static str);

const UNCUT: &str = "the memory of this model cannot be cut there";

/// Where slot 0 holds 20 tokens and slot 1 holds 5, and `n` slots there are.
fn wrong_changes(n: u16) -> [Wrong; 14] {
    [
        (save(n, 0, 5, 1), "there is no such slot"),
        (save(0, 0, 21, 1), "the slot holds fewer tokens"),
        (save(0, 5, 5, 1), "the slot holds fewer tokens"),
        (save(2, 0, 1, 1), "the slot holds fewer tokens"),
        (load(1, 1), "there is no such block"),
        (drop_block(1), "there is no such block"),
        (keep(n, 0), "there is no such slot"),
        (share(n, 2, 5), "there is no such slot"),
        (share(0, n, 20), "there is no such slot"),
        (keep(0, 21), "the slot holds fewer tokens"),
        (keep(2, 1), "the slot holds fewer tokens"),
        (share(0, 2, 21), "the slot holds fewer tokens"),
        (share(0, 1, 20), "the slot is not empty"),
        (share(0, 0, 20), "the slot is not empty"),
    ]
}

#[test]
fn wrong_changes_are_refused_and_cost_nobody_anything() {
    for kind in &KINDS {
        let model = kind.model();
        let mut slots = Slots::new(&model, 3);
        let mut alone = Slots::alone(&model);
        let n = slots.held.len() as u16;
        let n_expected = match (kind.has_states, kind.sharing) {
            (true, _) => 3,
            // One of llama.cpp's sequences is for saving.
            (false, Sharing::Prefix) => 255,
            _ => 256,
        };
        assert_eq!(n, n_expected, "{}", kind.name);
        assert_eq!(slots.runner.sharing(), kind.sharing, "{}", kind.name);
        let can_be_cut = kind.sharing == Sharing::Prefix;
        assert_eq!(model.can_be_cut(), can_be_cut, "{}", kind.name);
        slots.extend(&[(0, tokens(1, 20)), (1, tokens(2, 5))]);
        let mut wrong = wrong_changes(n).to_vec();
        if kind.sharing == Sharing::Whole {
            wrong.extend([(keep(0, 10), UNCUT), (share(0, 2, 10), UNCUT)]);
            wrong.push((save(0, 0, 20, 1), "nothing is saved in this context"));
        }
        for (op, problem) in wrong {
            let refused = Err(RunError::Cache { op, problem });
            assert_eq!(slots.change(op), refused, "{}", kind.name);
        }
        let next = slots.extend(&[(0, tokens(3, 3)), (1, tokens(4, 3)), (2, tokens(5, 3))]);
        let expected = [0, 1, 2].map(|slot| alone.next_alone(&slots.held[slot].clone()));
        assert_eq!(next, expected, "{}", kind.name);
    }
}

#[test]
fn nothing_is_shared_where_each_slot_has_its_own_cells() {
    for kind in &KINDS {
        let params = ContextParams {
            n_slots: 2,
            n_cells: 512,
            kv_unified: false,
            ..ContextParams::default()
        };
        let runner = Runner::new(kind.model(), &params);
        let mut slots = Slots::of(runner.unwrap_or_else(|error| panic!("{error}")), 2);
        assert_eq!(slots.runner.sharing(), Sharing::None, "{}", kind.name);
        assert_eq!(slots.held.len(), 2, "{}", kind.name);
        slots.extend(&[(0, tokens(1, 20))]);
        let op = share(0, 1, 20);
        let problem = "nothing is shared in this context";
        let refused = Err(RunError::Cache { op, problem });
        assert_eq!(slots.change(op), refused, "{}", kind.name);
    }
}

#[test]
fn a_wrong_change_does_not_keep_the_others_from_being_made() {
    let mut slots = Slots::new(&KINDS[0].model(), 2);
    slots.extend(&[(0, tokens(1, 20))]);
    let plan = Plan {
        cache: vec![keep(0, 21), keep(0, 0)],
        ..Plan::default()
    };
    let refused = slots.runner.run(&plan);
    assert!(matches!(refused, Err(RunError::Cache { op, .. }) if op == plan.cache[0]));
    slots.held[0].clear();
    slots.extend(&[(0, tokens(2, 20))]);
}

#[test]
fn what_is_shared_outlives_its_source_also_where_no_rows_may_be() {
    for kind in &KINDS {
        let model = kind.model();
        let mut slots = Slots::new(&model, 3);
        let mut alone = Slots::alone(&model);
        let highest = slots.held.len() as u16 - 1;
        slots.extend(&[(0, tokens(1, 40))]);
        for op in [share(0, highest, 40), keep(0, 0)] {
            slots.change(op).unwrap_or_else(|error| panic!("{error}"));
        }
        // Whoever came to the slot meanwhile changes nothing.
        slots.extend(&[(0, tokens(2, 30))]);
        if highest > 2 {
            for op in [share(highest, 2, 40), keep(highest, 0)] {
                slots.change(op).unwrap_or_else(|error| panic!("{error}"));
            }
        }
        let next = slots.extend(&[(0, tokens(3, 30)), (2, tokens(3, 2))]);
        let expected = [0, 2].map(|slot| alone.next_alone(&slots.held[slot].clone()));
        assert_eq!(next, expected, "{}", kind.name);
    }
}

#[test]
fn a_block_goes_on_only_where_it_began() {
    let mut slots = Slots::new(&KINDS[0].model(), 2);
    slots.extend(&[(0, tokens(1, 20)), (1, tokens(2, 5))]);
    for (op, expected) in [
        (save(0, 10, 20, 1), Ok(())),
        (
            load(1, 1),
            Err("the slot does not end where the block begins"),
        ),
        (load(0, 1), Err("there is no such block")),
        (save(0, 10, 20, 2), Ok(())),
        (drop_block(2), Ok(())),
        (load(0, 2), Err("there is no such block")),
    ] {
        let expected = expected.map_err(|problem| RunError::Cache { op, problem });
        assert_eq!(slots.change(op), expected);
    }
}

/// Any order of sharing, going on and ending, in slots that are all taken, against a lone sequence.
#[test]
fn whatever_is_shared_goes_on_as_if_alone() {
    for kind in &KINDS {
        let model = kind.model();
        let mut slots = Slots::new(&model, 4);
        let mut alone = Slots::alone(&model);
        let used: [u16; 4] = [0, 1, 2, 3];
        let mut random = Random(1);
        let (mut n_shared, mut n_saved, mut answers) = (0, 0, HashSet::new());
        for round in 0..150_u64 {
            n_shared += usize::from(share_some(&mut slots, kind.sharing, used, &mut random));
            cut_long_ones(&mut slots, kind.sharing, used, &mut random);
            n_saved += usize::from(save_and_load(&mut slots, kind.sharing, round, &mut random));
            let more = used.map(|slot| (slot, random.below(7) as usize));
            let more = more.into_iter().filter(|&(_, n_tokens)| n_tokens > 0);
            let more: Vec<_> = more
                .map(|(slot, n_tokens)| (slot, tokens(random.below(1000), n_tokens)))
                .collect();
            let next = slots.extend(&more);
            for ((slot, _), next) in more.iter().zip(next) {
                let held = slots.held[usize::from(*slot)].clone();
                assert_eq!(next, alone.next_alone(&held), "{}, {round}", kind.name);
                answers.insert(next.0);
            }
        }
        assert!(n_shared > 90 && answers.len() > 50, "{}", kind.name);
        assert_eq!(
            n_saved > 90,
            kind.sharing == Sharing::Prefix,
            "{}",
            kind.name
        );
    }
}

/// Has a slot hold what another one does, as much as may be shared; false where they are the same.
fn share_some(slots: &mut Slots, sharing: Sharing, used: [u16; 4], random: &mut Random) -> bool {
    let [from, to] = [(); 2].map(|()| used[random.below(4) as usize]);
    let n_held = slots.held[usize::from(from)].len() as u32;
    if from == to || n_held == 0 {
        return false;
    }
    let n_tokens = match sharing {
        Sharing::Prefix => random.below(u64::from(n_held) + 1) as u32,
        _ => n_held,
    };
    // By way of a slot that may have no rows, if there is one.
    let by = slots.held.len() as u16 - 1;
    let ops = match by > 3 {
        true => vec![
            share(from, by, n_tokens),
            keep(to, 0),
            share(by, to, n_tokens),
            keep(by, 0),
        ],
        false => vec![keep(to, 0), share(from, to, n_tokens)],
    };
    for op in ops.into_iter().filter(|_| n_tokens > 0) {
        slots.change(op).unwrap_or_else(|error| panic!("{error}"));
    }
    n_tokens > 0
}

/// Has a slot's last tokens go to host memory and come back, in two blocks; false where nothing may.
fn save_and_load(slots: &mut Slots, sharing: Sharing, round: u64, random: &mut Random) -> bool {
    let slot = random.below(4) as u16;
    let n_held = slots.held[usize::from(slot)].len() as u32;
    if sharing != Sharing::Prefix || n_held < 3 {
        return false;
    }
    let start = random.below(u64::from(n_held) - 1) as u32;
    let middle = start + 1 + random.below(u64::from(n_held - start) - 1) as u32;
    let [lower, upper] = [2 * round, 2 * round + 1];
    for op in [
        save(slot, middle, n_held, upper),
        save(slot, start, middle, lower),
        keep(slot, start),
        load(slot, lower),
        load(slot, upper),
    ] {
        slots.change(op).unwrap_or_else(|error| panic!("{error}"));
    }
    true
}

/// Empties the slots that hold much, or cuts them where that can be done.
fn cut_long_ones(slots: &mut Slots, sharing: Sharing, used: [u16; 4], random: &mut Random) {
    for slot in used {
        if slots.held[usize::from(slot)].len() > 40 {
            let n_kept = match sharing {
                Sharing::Prefix => random.below(40) as u32,
                _ => 0,
            };
            let done = slots.change(keep(slot, n_kept));
            done.unwrap_or_else(|error| panic!("{error}"));
        }
    }
}
