//! One request's tokens, its progress through the KV cache, and its text.
//!
//! The scheduler owns every sequence, on the worker thread. A sequence knows nothing of the others,
//! and decides nothing about slots and cells.

use super::cache::Admitted;
use super::event::{Chosen, Ended, Event, FinishReason, Usage};
use super::ids::{Scope, SequenceId, SlotId, Token};
use super::limits::NewSequence;
use super::plan::{Row, Sampled, count};
use super::prefix::Prefix;
use super::rank::Rank;
use super::stop::{Filtered, StopFilter};
use super::text::TextDecoder;

/// How many tokens more a draft may have than were right of the one before.
const DRAFT_GROWTH: usize = 2;

/// A sequence from its submission to its end.
///
/// # Invariants
/// - `n_committed <= n_computed <= tokens.len()`, and both are 0 without a slot.
/// - `draft` is empty but from the plan that has its rows to the end of that step, and `chosen` and
///   `finish` while what the step sampled is applied.
/// - While `n_computed < n_prefill` it prefills, with cells for `n_prefill` tokens; afterwards it
///   decodes, with cells for `n_computed`.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) id: SequenceId,
    /// Its place in the order of sequences.
    pub(super) rank: Rank,
    scope: Scope,
    /// The prompt that it waits for, and how much of it: see `Scheduler::waits_to_share`.
    pub(super) leader: Option<Leader>,
    /// Where its KV is; `None` while it waits.
    slot: Option<SlotId>,
    /// The prompt, then every token sampled. A sampled token gets its row in the next step.
    tokens: Vec<Token>,
    n_prompt: usize,
    /// Tokens whose rows are in the KV, once the plan handed out last has run.
    n_computed: usize,
    /// Tokens whose rows have run.
    n_committed: usize,
    /// Tokens known when it got its slot: those that run in chunks, with cells reserved.
    n_prefill: usize,
    /// Tokens of the prompt that it shared when its first rows were planned.
    n_cached: Option<usize>,
    /// Guesses at the tokens that follow, whose rows are in the plan handed out last.
    draft: Vec<Token>,
    /// The first of them that were right.
    n_right: usize,
    /// Tokens that its next draft may have: more after right guesses, few after wrong ones.
    max_draft: usize,
    /// Whether the plan handed out last has an output row of this sequence.
    awaits_sample: bool,
    /// Whether an event has told that it runs.
    is_started: bool,
    /// What the step's event will tell: the tokens chosen, and why they are the last.
    chosen: Vec<Chosen>,
    finish: Option<FinishReason>,
    max_tokens: usize,
    decoder: TextDecoder,
    stop: StopFilter,
}

/// A running prompt whose beginning another sequence waits to share.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Leader {
    pub(super) id: SequenceId,
    /// Tokens that the two have in common.
    pub(super) n_tokens: usize,
}

impl Sequence {
    pub(super) fn new(new: NewSequence, rank: Rank, max_draft: usize) -> Self {
        let max_tokens = new.max_tokens.map(usize::try_from);
        Self {
            id: new.id,
            rank,
            scope: new.scope,
            leader: None,
            slot: None,
            n_prompt: new.prompt.len(),
            tokens: new.prompt,
            n_computed: 0,
            n_committed: 0,
            n_prefill: 0,
            n_cached: None,
            draft: Vec::new(),
            n_right: 0,
            max_draft,
            awaits_sample: false,
            is_started: false,
            chosen: Vec::new(),
            finish: None,
            max_tokens: max_tokens.and_then(Result::ok).unwrap_or(usize::MAX),
            decoder: TextDecoder::default(),
            stop: StopFilter::new(&new.stop),
        }
    }

    /// Where its KV is; `None` while it waits.
    pub(super) fn slot(&self) -> Option<SlotId> {
        self.slot
    }

    /// The prompt's tokens and those sampled so far.
    pub(super) fn tokens(&self) -> &[Token] {
        &self.tokens
    }

    /// All its tokens so far, as others may share them.
    pub(super) fn prefix(&self) -> Prefix<'_> {
        Prefix {
            scope: self.scope,
            tokens: &self.tokens,
        }
    }

    /// The tokens that run in chunks, or did.
    pub(super) fn prefill(&self) -> Prefix<'_> {
        Prefix {
            scope: self.scope,
            tokens: &self.tokens[..self.n_prefill],
        }
    }

    /// Tokens whose rows have run or are planned.
    pub(super) fn n_computed(&self) -> usize {
        self.n_computed
    }

    /// Tokens still to run in chunks.
    pub(super) fn n_prefill_left(&self) -> usize {
        self.n_prefill.saturating_sub(self.n_computed)
    }

    /// Whether its next row is a decode row: one that needs a further cell.
    pub(super) fn is_ready_to_decode(&self) -> bool {
        self.slot.is_some()
            && self.n_computed >= self.n_prefill
            && self.n_computed < self.tokens.len()
    }

    /// Begins to prefill in `slot`, which holds the first `n_shared` tokens and has cells for all.
    pub(super) fn enter(&mut self, admitted: Admitted) {
        self.slot = Some(admitted.slot);
        self.n_computed = admitted.n_shared;
        self.n_committed = admitted.n_shared;
        self.n_prefill = self.tokens.len();
    }

    /// Gives up its slot, if it has one, with everything that was computed. Tokens and text stay.
    pub(super) fn leave(&mut self) -> Option<SlotId> {
        self.n_computed = 0;
        self.n_committed = 0;
        self.n_prefill = 0;
        self.slot.take()
    }

    /// The tokens that have run since the last call: those of the plan handed out last.
    pub(super) fn commit(&mut self) -> &[Token] {
        let start = std::mem::replace(&mut self.n_committed, self.n_computed);
        &self.tokens[start..self.n_computed]
    }

    /// Whether rows are planned that have not run.
    pub(super) fn is_in_flight(&self) -> bool {
        self.n_committed < self.n_computed
    }

    /// Adds the rows of its next tokens, at most `max_rows`.
    pub(super) fn plan_rows(&mut self, max_rows: usize, rows: &mut Vec<Row>) {
        let Some(slot) = self.slot else { return };
        let n_tokens = self.tokens.len();
        let end = n_tokens.min(self.n_computed.saturating_add(max_rows));
        self.n_cached.get_or_insert(self.n_computed);
        rows.extend((self.n_computed..end).map(|idx| Row {
            sequence: self.id,
            slot,
            token: self.tokens[idx],
            pos: count(idx),
            output: idx + 1 == n_tokens,
        }));
        self.awaits_sample = self.n_computed < end && end == n_tokens;
        self.n_computed = end;
    }

    /// Tokens that a draft may have to be of use now, in a context of `n_ctx`.
    pub(super) fn max_draft(&self, n_ctx: usize) -> usize {
        let n_left = self.max_tokens.saturating_sub(self.n_completion());
        let n_left = n_left.min(n_ctx.saturating_sub(self.tokens.len()));
        self.max_draft.min(n_left.saturating_sub(1))
    }

    /// Adds rows of guesses at what comes after the output row, which was planned last.
    pub(super) fn plan_draft(&mut self, draft: Vec<Token>, rows: &mut Vec<Row>) {
        let Some(slot) = self.slot else { return };
        rows.extend(
            draft
                .iter()
                .zip(self.tokens.len()..)
                .map(|(&token, idx)| Row {
                    sequence: self.id,
                    slot,
                    token,
                    pos: count(idx),
                    output: true,
                }),
        );
        self.draft = draft;
        self.n_right = 0;
    }

    /// Whether the token sampled last was guessed, so that its row has run and one more sample is due.
    pub(super) fn confirm_draft(&mut self) -> bool {
        let is_right = self
            .draft
            .get(self.n_right)
            .is_some_and(|guess| self.tokens.last() == Some(guess));
        if is_right {
            self.n_right += 1;
            self.n_computed += 1;
            self.awaits_sample = true;
        }
        is_right
    }

    /// Ends the step's draft: how many of its rows are of no use.
    pub(super) fn end_draft(&mut self, max_draft: usize) -> usize {
        if !self.draft.is_empty() {
            self.max_draft = max_draft.min(self.n_right + DRAFT_GROWTH);
        }
        let n_rows = std::mem::take(&mut self.draft).len();
        n_rows - std::mem::take(&mut self.n_right)
    }

    /// Whether a token must be sampled for it; a second call says no.
    pub(super) fn take_awaited(&mut self) -> bool {
        std::mem::take(&mut self.awaits_sample)
    }

    /// Takes the token sampled after its output row; false if that was its last.
    pub(super) fn accept(&mut self, sampled: &Sampled, n_ctx: usize) -> bool {
        self.tokens.push(sampled.token);
        let is_full = self.n_completion() >= self.max_tokens || self.tokens.len() >= n_ctx;
        let text = self.accept_text(sampled, is_full);
        if self.chosen.is_empty() {
            self.chosen.reserve_exact(1 + self.draft.len());
        }
        let token = sampled.token;
        self.chosen.push(Chosen { token, text });
        self.finish.is_none()
    }

    /// The text that is complete with a token, the last one if `is_full`; notes whether it has ended.
    fn accept_text(&mut self, sampled: &Sampled, is_full: bool) -> String {
        if sampled.end {
            self.finish = Some(FinishReason::Stop);
            return self.rest_of_text().text;
        }
        let decoded = self.decoder.push(&sampled.piece);
        let mut filtered = self.stop.push(decoded);
        if is_full && !filtered.stopped {
            let rest = self.rest_of_text();
            filtered.text.push_str(&rest.text);
            filtered.stopped = rest.stopped;
        }
        self.finish = match filtered.stopped {
            true => Some(FinishReason::Stop),
            false => is_full.then_some(FinishReason::Length),
        };
        filtered.text
    }

    /// What decoder and filter kept back, as no more text will come.
    fn rest_of_text(&mut self) -> Filtered {
        let mut filtered = self.stop.push(self.decoder.finish().to_owned());
        if !filtered.stopped {
            filtered.text.push_str(&self.stop.finish());
        }
        filtered
    }

    /// What the step did to it, once it has run; `None` where it read more of the prompt and no more.
    pub(super) fn take_event(&mut self) -> Option<Event> {
        let started = !std::mem::replace(&mut self.is_started, true);
        let chosen = std::mem::take(&mut self.chosen);
        let end = self.finish.map(|reason| Ended {
            reason,
            usage: self.usage(),
        });
        (started || !chosen.is_empty()).then_some(Event {
            sequence: self.id,
            started,
            chosen,
            end,
        })
    }

    /// What the sequence has cost so far.
    fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: count(self.n_prompt),
            completion_tokens: count(self.n_completion()),
            cached_tokens: count(self.n_cached.unwrap_or(0)),
        }
    }

    fn n_completion(&self) -> usize {
        self.tokens.len() - self.n_prompt
    }
}
