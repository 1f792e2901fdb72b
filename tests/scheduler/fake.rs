//! A runner without a model: it keeps a KV cache as lists of tokens and checks every plan against
//! it, and "samples" a token that depends on nothing but the sequence's own history.

use std::collections::{BTreeMap, BTreeSet};

use triton_llm::engine::{
    BlockId, CacheOp, FinishReason, Limits, NewSequence, Plan, Row, Sampled, Scope, SequenceId,
    Sharing, SlotId, Token, Usage,
};

/// What is sampled after `history`, the tokens of one sequence.
pub type Sample = fn(SequenceId, &[Token]) -> Sampled;

pub struct FakeRunner {
    limits: Limits,
    sample: Sample,
    /// Those of sequences that are not of the model alone.
    scopes: BTreeMap<SequenceId, Scope>,
    pub slots: Vec<FakeSlot>,
    /// What lies in host memory.
    blocks: BTreeMap<BlockId, FakeBlock>,
    n_made: usize,
    pub n_loaded: usize,
}

#[derive(Clone, Default)]
pub struct FakeSlot {
    /// Whose row ran here last.
    pub owner: Option<SequenceId>,
    pub tokens: Vec<Token>,
    /// What they were computed in.
    scope: Scope,
    /// The cell of each token: another slot that shares it names the same.
    cells: Vec<usize>,
}

#[derive(PartialEq, Debug)]
struct FakeBlock {
    /// The position of the first token.
    start: usize,
    tokens: Vec<Token>,
    scope: Scope,
}

impl FakeRunner {
    pub fn new(limits: &Limits, sample: Sample) -> Self {
        Self {
            limits: *limits,
            sample,
            scopes: BTreeMap::new(),
            slots: vec![FakeSlot::default(); limits.n_slots + limits.n_kept],
            blocks: BTreeMap::new(),
            n_made: 0,
            n_loaded: 0,
        }
    }

    /// Is told what a sequence is computed in.
    pub fn open(&mut self, sequence: SequenceId, scope: Scope) {
        self.scopes.insert(sequence, scope);
    }

    pub fn run(&mut self, plan: &Plan) -> Vec<Sampled> {
        self.run_part(plan, plan.rows.len())
    }

    /// Changes the cache, then runs only the first `n_rows` rows, as a run that fails half-way does.
    pub fn run_part(&mut self, plan: &Plan, n_rows: usize) -> Vec<Sampled> {
        assert!(
            plan.rows.len() <= self.limits.n_batch,
            "more rows than n_batch: {plan:?}"
        );
        for &op in &plan.cache {
            self.change_cache(op);
            let n_held = self.n_held_cells();
            assert!(n_held <= self.limits.n_cells, "{n_held} cells: {plan:?}");
        }
        assert!(self.n_host_tokens() <= self.limits.n_host, "{plan:?}");
        let mut out: Vec<Sampled> = Vec::new();
        // What was sampled after each sequence's last row; `None` after a wrong guess.
        let mut last: BTreeMap<SequenceId, Option<Token>> = BTreeMap::new();
        for row in plan.rows.iter().take(n_rows) {
            let slot = &mut self.slots[..self.limits.n_slots][usize::from(row.slot.0)];
            assert_eq!(
                slot.tokens.len(),
                row.pos as usize,
                "hole or double: {row:?}"
            );
            let scope = self.scopes.get(&row.sequence).copied();
            slot.compute_in(scope.unwrap_or_default());
            slot.owner = Some(row.sequence);
            slot.tokens.push(row.token);
            slot.cells.push(self.n_made);
            self.n_made += 1;
            let before = last.get(&row.sequence);
            assert!(before.is_none() || row.output, "row after output: {row:?}");
            if row.output {
                let is_wrong = before.is_some_and(|&sampled| sampled != Some(row.token));
                let sampled = (!is_wrong).then(|| (self.sample)(row.sequence, &slot.tokens));
                last.insert(row.sequence, sampled.as_ref().map(|sampled| sampled.token));
                out.extend(sampled);
            }
        }
        let n_held = self.n_held_cells();
        assert!(
            n_held <= self.limits.n_cells,
            "{n_held} cells used: {plan:?}"
        );
        let owners: BTreeMap<_, _> = plan.rows.iter().map(|r| (r.slot, r.sequence)).collect();
        let is_owned = |row: &Row| owners[&row.slot] == row.sequence;
        assert!(plan.rows.iter().all(is_owned), "shared slot: {plan:?}");
        out
    }

    /// Cells that hold a token, each counted once.
    pub fn n_held_cells(&self) -> usize {
        let cells = self.slots.iter().flat_map(|slot| &slot.cells);
        cells.collect::<BTreeSet<_>>().len()
    }

    /// Tokens in host memory.
    pub fn n_host_tokens(&self) -> usize {
        self.blocks.values().map(|block| block.tokens.len()).sum()
    }

    fn change_cache(&mut self, op: CacheOp) {
        let idx = |slot: SlotId| usize::from(slot.0);
        match op {
            CacheOp::Keep { slot, n_tokens } => {
                let slot = &mut self.slots[idx(slot)];
                let n_tokens = n_tokens as usize;
                assert!(n_tokens <= slot.tokens.len(), "too few to keep: {op:?}");
                let may_cut = self.limits.sharing == Sharing::Prefix || self.limits.max_draft > 0;
                assert!(
                    may_cut || n_tokens == 0 || n_tokens == slot.tokens.len(),
                    "cannot be cut: {op:?}"
                );
                slot.tokens.truncate(n_tokens);
                slot.cells.truncate(n_tokens);
                slot.owner = slot.owner.filter(|_| n_tokens > 0);
            }
            CacheOp::Share { from, to, n_tokens } => {
                let n_tokens = n_tokens as usize;
                let from = &self.slots[idx(from)];
                assert!(n_tokens > 0 && n_tokens <= from.tokens.len(), "{op:?}");
                let is_whole = n_tokens == from.tokens.len();
                assert!(match self.limits.sharing {
                    Sharing::None => false,
                    Sharing::Whole => is_whole,
                    Sharing::Prefix => true,
                });
                let shared = FakeSlot {
                    owner: None,
                    tokens: from.tokens[..n_tokens].to_vec(),
                    scope: from.scope,
                    cells: from.cells[..n_tokens].to_vec(),
                };
                let to = &mut self.slots[idx(to)];
                assert!(to.tokens.is_empty(), "not empty: {op:?}");
                *to = shared;
            }
            CacheOp::Save {
                slot,
                start,
                end,
                block,
            } => {
                assert_eq!(self.limits.sharing, Sharing::Prefix);
                let (start, end) = (start as usize, end as usize);
                let slot = &self.slots[idx(slot)];
                let saved = FakeBlock {
                    start,
                    tokens: slot.tokens[start..end].to_vec(),
                    scope: slot.scope,
                };
                assert!(!saved.tokens.is_empty(), "{op:?}");
                let before = self.blocks.insert(block, saved);
                assert_eq!(before, None, "{op:?}");
            }
            CacheOp::Load { slot, block } => {
                let block = self.blocks.remove(&block).expect("saved before");
                let slot = &mut self.slots[idx(slot)];
                assert_eq!(slot.tokens.len(), block.start, "{op:?}");
                slot.compute_in(block.scope);
                let n_tokens = block.tokens.len();
                slot.cells.extend(self.n_made..self.n_made + n_tokens);
                self.n_made += n_tokens;
                self.n_loaded += n_tokens;
                slot.tokens.extend(block.tokens);
            }
            CacheOp::Drop { block } => {
                assert!(self.blocks.remove(&block).is_some(), "{op:?}");
            }
        }
    }
}

impl FakeSlot {
    /// What is added goes on from what is there, if anything is, and so is of the same scope.
    fn compute_in(&mut self, scope: Scope) {
        if self.tokens.is_empty() {
            self.scope = scope;
        }
        assert_eq!(self.scope, scope, "tokens of another scope");
    }
}

/// Pieces whose joins make and break characters and the stop strings of the random tests.
const PIECES: [&[u8]; 16] = [
    b"",
    b"a",
    b"b",
    b"ab",
    b"aab",
    b"c ",
    b"stop",
    b"st",
    b"op",
    b"\xE2",
    b"\x82\xAC",
    b"\xE2\x82",
    b"\xAC",
    "\u{20AC}".as_bytes(),
    b"\xFF",
    b"xyz",
];

/// One of 16 pieces or, one time in 24, the end: chosen by a hash of all of `history`.
pub fn sample_by_history(sequence: SequenceId, history: &[Token]) -> Sampled {
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for token in history {
        hash = (hash ^ u64::from(token.0.cast_unsigned())).wrapping_mul(0x0100_0000_01B3);
        hash ^= hash >> 29;
    }
    let choice = (hash % 24) as usize;
    Sampled {
        sequence,
        token: Token((hash >> 40) as i32),
        piece: PIECES[choice % PIECES.len()].to_vec(),
        end: choice == 23,
    }
}

/// A token that never ends anything: the text is one `x` per token.
pub fn sample_x(sequence: SequenceId, history: &[Token]) -> Sampled {
    Sampled {
        sequence,
        token: Token(history.len() as i32),
        piece: b"x".to_vec(),
        end: false,
    }
}

/// What a sequence must give, whatever runs beside it.
#[derive(Debug, PartialEq)]
pub struct Answer {
    pub text: String,
    pub reason: FinishReason,
    pub usage: Usage,
}

/// Generates without scheduler, cache or streaming: from whole history and whole text. Returns all
/// the tokens as well.
pub fn generate_alone(new: &NewSequence, n_ctx: usize, sample: Sample) -> (Answer, Vec<Token>) {
    let mut history = new.prompt.clone();
    let mut bytes = Vec::new();
    let (text, reason) = loop {
        let sampled = sample(new.id, &history);
        history.push(sampled.token);
        if sampled.end {
            let text = String::from_utf8_lossy(&bytes);
            let cut = find_first_stop(&text, &new.stop).unwrap_or(text.len());
            break (text[..cut].to_owned(), FinishReason::Stop);
        }
        bytes.extend(sampled.piece);
        let n_completion = history.len() - new.prompt.len();
        let is_last = history.len() >= n_ctx
            || new
                .max_tokens
                .is_some_and(|max| n_completion >= max as usize);
        let text = if is_last {
            String::from_utf8_lossy(&bytes)
        } else {
            String::from_utf8_lossy(&bytes[..n_whole_bytes(&bytes)])
        };
        if let Some(cut) = find_first_stop(&text, &new.stop) {
            break (text[..cut].to_owned(), FinishReason::Stop);
        }
        if is_last {
            break (text.into_owned(), FinishReason::Length);
        }
    };
    let usage = Usage {
        prompt_tokens: new.prompt.len() as u32,
        completion_tokens: (history.len() - new.prompt.len()) as u32,
        cached_tokens: 0,
    };
    let answer = Answer {
        text,
        reason,
        usage,
    };
    (answer, history)
}

/// Where the stop string that is complete first begins; of several at one place, the longest.
pub fn find_first_stop(text: &str, stops: &[String]) -> Option<usize> {
    (0..=text.len()).find_map(|end| {
        let complete = stops
            .iter()
            .filter(|stop| !stop.is_empty() && text.as_bytes()[..end].ends_with(stop.as_bytes()));
        complete.map(String::len).max().map(|n_bytes| end - n_bytes)
    })
}

/// Bytes before a character at the end that may still be completed.
pub fn n_whole_bytes(bytes: &[u8]) -> usize {
    let is_cut_short = |start: &usize| {
        let end = std::str::from_utf8(&bytes[*start..]);
        end.is_err_and(|error| error.valid_up_to() == 0 && error.error_len().is_none())
    };
    let mut starts = bytes.len().saturating_sub(3)..bytes.len();
    starts.find(is_cut_short).unwrap_or(bytes.len())
}
