//! A small model that guesses what a large one will say.
//!
//! Called by the worker thread before each step. It has a context of its own, of the same size, and
//! shares nothing between sequences. What it does not know of a sequence yet it reads a part at a
//! time, so that no step waits long for it, and drafts nothing for it meanwhile. An error costs the
//! drafts and nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use super::context::ContextParams;
use super::error::{DraftModelError, RunError};
use super::model::Model;
use super::runner::Runner;
use crate::engine::{CacheOp, Draft, Drafter, Drafting, Plan, Row, SequenceId, SlotId, Token};
use crate::protocol::SamplingParams;

/// Rows read of prompts before one step, of all sequences together.
const MAX_ROWS_READ: usize = 256;

/// Tokens by which two vocabularies may differ: some files pad theirs. As in llama.cpp.
const MAX_PADDING: usize = 128;

/// The model, its context, and what that holds.
pub struct DraftModel {
    runner: Runner,
    held: HashMap<SequenceId, Followed>,
    n_slots: usize,
    /// Tokens that both vocabularies have.
    n_vocab: usize,
    /// Tokens of a sequence that the model has positions for.
    n_ctx: usize,
}

/// A sequence that it follows: what the context holds of it.
struct Followed {
    slot: SlotId,
    tokens: Vec<Token>,
}

impl DraftModel {
    /// Makes a context for `model`, to draft for that of `target`, whose threads it computes with.
    pub fn new(
        model: Arc<Model>,
        target: &Runner,
        params: &ContextParams,
    ) -> Result<Self, DraftModelError> {
        let target_model = target.model();
        let (found, expected) = (model.n_vocab(), target_model.n_vocab());
        if found.abs_diff(expected) > MAX_PADDING {
            return Err(DraftModelError::VocabularySize { found, expected });
        }
        let n_vocab = found.min(expected);
        for token in 0..n_vocab {
            let id = Token(token as i32);
            let (found, expected) = (model.piece(id), target_model.piece(id));
            if found != expected {
                return Err(DraftModelError::Vocabulary {
                    token,
                    found: String::from_utf8_lossy(&found).into_owned(),
                    expected: String::from_utf8_lossy(&expected).into_owned(),
                });
            }
        }
        if !model.can_be_cut() {
            return Err(DraftModelError::Uncut);
        }
        let params = ContextParams {
            kv_unified: true,
            n_draft_rows: 0,
            ..params.clone()
        };
        let max_positions = model.file().max_positions;
        let runner = Runner::beside(target, model, &params)?;
        Ok(Self {
            n_ctx: max_positions.map_or(runner.n_cells(), |n| n as usize),
            runner,
            held: HashMap::new(),
            n_slots: params.n_slots,
            n_vocab,
        })
    }

    /// Reads what is new of the sequences, and goes on from where it is at their end.
    fn guess(&mut self, wanted: &[Drafting]) -> Result<Vec<Draft>, RunError> {
        let mut plan = Plan::default();
        let mut drafts: HashMap<SequenceId, (usize, Draft)> = HashMap::new();
        let mut n_rows_left = MAX_ROWS_READ.min(self.runner.n_batch());
        for drafting in wanted {
            let Some(held) = self.hold(drafting, wanted, &mut plan.cache) else {
                continue;
            };
            let n_tokens = drafting.tokens.len();
            let start = held.tokens.len();
            let end = n_tokens.min(start + n_rows_left);
            n_rows_left -= end - start;
            plan.rows.extend((start..end).map(|idx| Row {
                sequence: drafting.sequence,
                slot: held.slot,
                token: drafting.tokens[idx],
                pos: idx as u32,
                output: idx + 1 == n_tokens,
            }));
            held.tokens.extend_from_slice(&drafting.tokens[start..end]);
            let draft = Draft {
                sequence: drafting.sequence,
                tokens: Vec::new(),
            };
            drafts.insert(drafting.sequence, (drafting.max_tokens, draft));
        }
        while !plan.is_empty() {
            let out = self.runner.run(&plan)?;
            plan = Plan::default();
            for sampled in out {
                let (Some((max_tokens, draft)), Some(held)) = (
                    drafts.get_mut(&sampled.sequence),
                    self.held.get_mut(&sampled.sequence),
                ) else {
                    continue;
                };
                if !is_common(self.n_vocab, sampled.token) {
                    continue;
                }
                draft.tokens.push(sampled.token);
                if sampled.end || draft.tokens.len() >= *max_tokens {
                    continue;
                }
                plan.rows.push(Row {
                    sequence: sampled.sequence,
                    slot: held.slot,
                    token: sampled.token,
                    pos: held.tokens.len() as u32,
                    output: true,
                });
                held.tokens.push(sampled.token);
            }
        }
        let drafts = drafts.into_values().map(|(_, draft)| draft);
        Ok(drafts.filter(|draft| !draft.tokens.is_empty()).collect())
    }

    /// What the context holds of a sequence, cut to where its text goes on otherwise; `None` where
    /// there is no room for it.
    fn hold(
        &mut self,
        drafting: &Drafting,
        wanted: &[Drafting],
        ops: &mut Vec<CacheOp>,
    ) -> Option<&mut Followed> {
        let id = drafting.sequence;
        let n_held = match self.held.get_mut(&id) {
            Some(held) => {
                // The last token runs in any case: its row has the first guess.
                let pairs = held.tokens.iter().zip(drafting.tokens);
                let n_common = pairs.take_while(|(a, b)| a == b).count();
                let n_kept = n_common.min(drafting.tokens.len() - 1);
                if n_kept < held.tokens.len() {
                    held.tokens.truncate(n_kept);
                    ops.push(CacheOp::Keep {
                        slot: held.slot,
                        n_tokens: n_kept as u32,
                    });
                }
                n_kept
            }
            None => 0,
        };
        let new = &drafting.tokens[n_held..];
        let n_tokens = drafting.tokens.len() + drafting.max_tokens;
        if n_tokens > self.n_ctx || !new.iter().all(|token| is_common(self.n_vocab, *token)) {
            return None;
        }
        let n_cells = new.len() + drafting.max_tokens;
        if !self.has_room(id, n_cells) {
            let waiting = |id: &SequenceId| wanted.iter().all(|drafting| drafting.sequence != *id);
            let waiting: Vec<_> = self.held.keys().copied().filter(waiting).collect();
            for id in waiting {
                ops.extend(self.drop(id));
            }
            if !self.has_room(id, n_cells) {
                return None;
            }
        }
        if !self.held.contains_key(&id) {
            let slots = (0..self.n_slots as u16).map(SlotId);
            let is_free = |slot: &SlotId| self.held.values().all(|held| held.slot != *slot);
            let slot = slots.into_iter().find(is_free)?;
            let greedy = SamplingParams {
                temperature: 0.0,
                ..SamplingParams::default()
            };
            let sampler = self.runner.model().sampler(&greedy, &[]).ok()?;
            self.runner.open(id, sampler);
            let tokens = Vec::new();
            self.held.insert(id, Followed { slot, tokens });
        }
        self.held.get_mut(&id)
    }

    /// Whether a sequence may have this many cells more, and a slot.
    fn has_room(&self, id: SequenceId, n_cells: usize) -> bool {
        let n_held: usize = self.held.values().map(|held| held.tokens.len()).sum();
        let has_slot = self.held.len() < self.n_slots || self.held.contains_key(&id);
        has_slot && n_held + n_cells <= self.runner.n_cells()
    }

    fn drop(&mut self, id: SequenceId) -> Option<CacheOp> {
        self.runner.close(id);
        let held = self.held.remove(&id)?;
        let (slot, n_tokens) = (held.slot, 0);
        Some(CacheOp::Keep { slot, n_tokens })
    }

    /// Has the context hold nothing of some sequences; where even that fails, drafts will.
    fn empty(&mut self, ids: Vec<SequenceId>) {
        let cache = ids.into_iter().filter_map(|id| self.drop(id)).collect();
        let plan = Plan {
            cache,
            ..Plan::default()
        };
        if let Err(error) = self.runner.run(&plan) {
            log::warn!("the draft model: {error}");
        }
    }
}

/// Whether a token is among the first `n_vocab`.
fn is_common(n_vocab: usize, token: Token) -> bool {
    usize::try_from(token.0).is_ok_and(|id| id < n_vocab)
}

impl Drafter for DraftModel {
    fn draft(&mut self, wanted: &[Drafting]) -> Vec<Draft> {
        self.guess(wanted).unwrap_or_else(|error| {
            log::warn!("the draft model drafts nothing in this step: {error}");
            self.empty(self.held.keys().copied().collect());
            Vec::new()
        })
    }

    fn close(&mut self, sequence: SequenceId) {
        if self.held.contains_key(&sequence) {
            self.empty(vec![sequence]);
        }
    }
}
