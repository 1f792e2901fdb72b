//! What each slot holds in llama.cpp's memory and what lies in host memory, and the changes to it.
//!
//! The runner owns it, on the worker thread. Each change is checked against what there is, because
//! llama.cpp answers a wrong one with an assertion or by corrupting another sequence.

use std::collections::HashMap;

use super::attention::{Attention, Print};
use super::context::{Context, State};
use crate::engine::{BlockId, CacheOp, MAX_SLOTS, Sharing, SlotId};

const NO_SUCH_SLOT: &str = "there is no such slot";
const NO_SUCH_BLOCK: &str = "there is no such block";
const TOO_FEW_TOKENS: &str = "the slot holds fewer tokens";
const NOTHING_SHARED: &str = "nothing is shared in this context";
const NOTHING_SAVED: &str = "nothing is saved in this context";
const NOT_COPIED: &str = "llama.cpp has not copied it";
const UNCUT: &str = "the memory of this model cannot be cut there";

/// What a memory of llama.cpp can do.
#[derive(Clone, Copy)]
pub(super) struct Memory {
    /// What its sequences may share.
    pub(super) sharing: Sharing,
    /// Whether a sequence can be cut back to any beginning.
    pub(super) can_be_cut: bool,
    /// Whether each sequence has memory of its own.
    pub(super) has_states: bool,
}

impl Memory {
    /// Sequences that batches must be able to name, for this many slots that run.
    ///
    /// One more where blocks are saved: llama.cpp saves only sequences that a batch may name.
    pub(super) fn n_sequences(self, n_slots: usize) -> usize {
        n_slots + usize::from(self.sharing == Sharing::Prefix && n_slots < MAX_SLOTS)
    }

    /// Slots beyond those that run: llama.cpp has 256 sequences share cells, however few a batch may
    /// name.
    fn n_kept(self, n_slots: usize) -> usize {
        match self.sharing == Sharing::None || self.has_states {
            true => 0,
            false => MAX_SLOTS - self.n_sequences(n_slots),
        }
    }
}

/// What the cache holds of a slot.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotState {
    /// Tokens, at positions from 0.
    Tokens(u32),
    /// Nobody knows, since a step failed.
    Lost,
}

/// Keys and values of some tokens, in host memory.
struct Saved {
    start: u32,
    end: u32,
    state: State,
    prints: Vec<Print>,
}

/// The slots of one context.
pub(super) struct Slots {
    memory: Memory,
    n_slots: usize,
    held: Vec<SlotState>,
    /// What the cells of each slot are known by, from position 0 on; longer than what is held where it was cut.
    prints: Vec<Vec<Print>>,
    saved: HashMap<BlockId, Saved>,
    /// llama.cpp's sequence to copy by way of; those of the slots that never run come after it.
    copying: Option<u16>,
}

impl Slots {
    /// `n_slots` that run, and those that only keep what others have computed.
    pub(super) fn new(memory: Memory, n_slots: usize) -> Self {
        let n_all = n_slots + memory.n_kept(n_slots);
        Self {
            memory,
            n_slots,
            held: vec![SlotState::Tokens(0); n_all],
            prints: vec![Vec::new(); n_all],
            saved: HashMap::new(),
            copying: (memory.n_sequences(n_slots) > n_slots).then_some(n_slots as u16),
        }
    }

    pub(super) fn sharing(&self) -> Sharing {
        self.memory.sharing
    }

    pub(super) fn n_kept(&self) -> usize {
        self.held.len() - self.n_slots
    }

    /// What a slot that may have rows holds.
    pub(super) fn running(&self, slot: SlotId) -> Option<SlotState> {
        self.held[..self.n_slots].get(usize::from(slot.0)).copied()
    }

    /// Notes that rows have run.
    pub(super) fn hold(&mut self, slot: SlotId, n_tokens: u32) {
        self.set(slot, SlotState::Tokens(n_tokens));
    }

    /// Notes that rows have failed.
    pub(super) fn lose(&mut self, slot: SlotId) {
        self.set(slot, SlotState::Lost);
    }

    /// Notes what the cell of a row that has run is known by.
    pub(super) fn know(&mut self, slot: SlotId, position: u32, print: Print) {
        if self.memory.sharing != Sharing::Prefix {
            return;
        }
        if let Some(prints) = self.prints.get_mut(usize::from(slot.0)) {
            prints.resize(position as usize, Print::default());
            prints.push(print);
        }
    }

    fn prints_between(&self, slot: SlotId, start: u32, end: u32) -> Vec<Print> {
        let prints = &self.prints[usize::from(slot.0)];
        let n = prints.len();
        prints[n.min(start as usize)..n.min(end as usize)].to_vec()
    }

    pub(super) fn change(
        &mut self,
        context: &mut Context,
        attention: Option<&Attention>,
        op: CacheOp,
    ) -> Result<(), &'static str> {
        match op {
            CacheOp::Keep { slot, n_tokens } => self.keep(context, slot, n_tokens),
            CacheOp::Share { from, to, n_tokens } => self.share(context, from, to, n_tokens),
            CacheOp::Save {
                slot,
                start,
                end,
                block,
            } => {
                let state = self.save(context, slot, start, end)?;
                let saved = Saved {
                    start,
                    end,
                    state,
                    prints: self.prints_between(slot, start, end),
                };
                self.saved.insert(block, saved);
                Ok(())
            }
            CacheOp::Load { slot, block } => self.load(context, attention, slot, block),
            CacheOp::Drop { block } => self
                .saved
                .remove(&block)
                .map_or(Err(NO_SUCH_BLOCK), |_| Ok(())),
        }
    }

    fn keep(
        &mut self,
        context: &mut Context,
        slot: SlotId,
        n_tokens: u32,
    ) -> Result<(), &'static str> {
        let kept = SlotState::Tokens(n_tokens);
        match self.held(slot)? {
            SlotState::Tokens(n_held) if n_held < n_tokens => return Err(TOO_FEW_TOKENS),
            SlotState::Lost if n_tokens > 0 => return Err(TOO_FEW_TOKENS),
            held if held == kept => return Ok(()),
            _ if n_tokens > 0 && !self.memory.can_be_cut => return Err(UNCUT),
            _ => self.set(slot, kept),
        }
        self.prints[usize::from(slot.0)].truncate(n_tokens as usize);
        let start = (n_tokens > 0).then_some(n_tokens);
        if !context.clear(self.sequence_of(slot), start) {
            self.lose(slot);
            return Err(UNCUT);
        }
        Ok(())
    }

    fn share(
        &mut self,
        context: &mut Context,
        from: SlotId,
        to: SlotId,
        n_tokens: u32,
    ) -> Result<(), &'static str> {
        match (self.held(from)?, self.held(to)?) {
            (SlotState::Tokens(n_held), SlotState::Tokens(0)) if n_held >= n_tokens => {
                match self.memory.sharing {
                    Sharing::None => return Err(NOTHING_SHARED),
                    Sharing::Whole if n_held > n_tokens => return Err(UNCUT),
                    _ => self.hold(to, n_tokens),
                }
            }
            (_, SlotState::Tokens(0)) => return Err(TOO_FEW_TOKENS),
            _ => return Err("the slot is not empty"),
        }
        self.prints[usize::from(to.0)] = self.prints_between(from, 0, n_tokens);
        let (from, to) = (self.sequence_of(from), self.sequence_of(to));
        context.share(from, to, None, Some(n_tokens));
        Ok(())
    }

    /// Copies by way of a sequence that has only these tokens: llama.cpp saves all that one has.
    fn save(
        &self,
        context: &mut Context,
        slot: SlotId,
        start: u32,
        end: u32,
    ) -> Result<State, &'static str> {
        match self.held(slot)? {
            SlotState::Tokens(n_held) if start < end && end <= n_held => {}
            _ => return Err(TOO_FEW_TOKENS),
        }
        let by = i32::from(self.copying.ok_or(NOTHING_SAVED)?);
        context.share(self.sequence_of(slot), by, Some(start), Some(end));
        let state = context.save(by);
        match context.clear(by, None) {
            true => state.ok_or(NOT_COPIED),
            false => Err(NOT_COPIED),
        }
    }

    /// The way back of [`Slots::save`].
    fn load(
        &mut self,
        context: &mut Context,
        attention: Option<&Attention>,
        slot: SlotId,
        block: BlockId,
    ) -> Result<(), &'static str> {
        let saved = self.saved.remove(&block).ok_or(NO_SUCH_BLOCK)?;
        let by = i32::from(self.copying.ok_or(NOTHING_SAVED)?);
        if self.held(slot)? != SlotState::Tokens(saved.start) {
            return Err("the slot does not end where the block begins");
        }
        let is_loaded = context.load(&saved.state, by);
        context.share(by, self.sequence_of(slot), None, None);
        let is_cleared = context.clear(by, None);
        if !is_loaded || !is_cleared {
            self.lose(slot);
            return Err(NOT_COPIED);
        }
        if let Some(attention) = attention {
            attention.recognize(saved.start, &saved.prints);
        }
        let prints = &mut self.prints[usize::from(slot.0)];
        prints.resize(saved.start as usize, Print::default());
        prints.extend(saved.prints);
        self.hold(slot, saved.end);
        Ok(())
    }

    fn held(&self, slot: SlotId) -> Result<SlotState, &'static str> {
        let held = self.held.get(usize::from(slot.0)).copied();
        held.ok_or(NO_SUCH_SLOT)
    }

    fn set(&mut self, slot: SlotId, now: SlotState) {
        if let Some(held) = self.held.get_mut(usize::from(slot.0)) {
            *held = now;
        }
    }

    /// llama.cpp's number of a slot's sequence.
    fn sequence_of(&self, slot: SlotId) -> i32 {
        let is_after = self.copying.is_some_and(|copying| slot.0 >= copying);
        i32::from(slot.0) + i32::from(is_after)
    }
}
