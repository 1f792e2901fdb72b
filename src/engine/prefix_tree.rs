//! Which tokens the KV cache holds, as a tree of shared beginnings.
//!
//! Only [`Cache`](super::cache::Cache) calls this, on the worker thread. A slot's tokens are the
//! path from the root to the slot's node, so a cell that several slots share is one token of one
//! node. Each path is of one scope, and only looked for within it. It knows neither what is reserved
//! nor how llama.cpp numbers its cells. What lies in host memory is in `parked`.

mod parked;

use std::ops::Range;

use super::ids::{BlockId, Scope, SlotId, Token};
use super::prefix::{Prefix, n_common};

/// The node without tokens from which every path starts.
const ROOT: usize = 0;

/// The tokens of all slots.
///
/// # Invariants
/// - Every node but the root has tokens, and has a slot whose path ends there, two children, or one
///   that was in a block. Siblings may start with the same token: two sequences that generated the same text.
/// - All nodes of a slot's path but the root have the slot's scope.
/// - A node lies in cells if and only if a slot that is not parked holds it, else in a block.
/// - `n_cells` counts the tokens of all nodes in cells, `n_parked` those in blocks; `n_used` those on
///   the path of a running slot.
#[derive(Debug)]
pub(super) struct PrefixTree {
    nodes: Vec<Node>,
    vacant: Vec<usize>,
    slots: Vec<Option<Held>>,
    n_cells: usize,
    n_used: usize,
    n_parked: usize,
    n_blocks: u64,
    dropped: Vec<BlockId>,
}

#[derive(Debug, Default)]
struct Node {
    parent: usize,
    children: Vec<usize>,
    scope: Scope,
    /// What this node adds to the path of its parent.
    tokens: Vec<Token>,
    /// The slots whose path ends here.
    ends: Vec<SlotId>,
    /// Running slots whose path leads through here.
    n_running: usize,
    /// Where its tokens lie that have no cells.
    block: Option<BlockId>,
}

/// What a slot holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    scope: Scope,
    node_idx: usize,
    n_tokens: usize,
    /// When its sequence ended; `None` while it runs.
    ended: Option<u64>,
    /// Whether another sequence has shared it.
    was_shared: bool,
    is_parked: bool,
}

/// The beginning of a prompt that a slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Match {
    pub(super) slot: SlotId,
    /// Tokens that the prompt and the slot have in common, from the first.
    pub(super) n_tokens: usize,
}

impl PrefixTree {
    /// Nothing is held by any of the `n_slots` slots.
    pub(super) fn new(n_slots: usize) -> Self {
        Self {
            nodes: vec![Node::default()],
            vacant: Vec::new(),
            slots: vec![None; n_slots],
            n_cells: 0,
            n_used: 0,
            n_parked: 0,
            n_blocks: 0,
            dropped: Vec::new(),
        }
    }

    /// Cells that hold tokens.
    pub(super) fn n_cells(&self) -> usize {
        self.n_cells
    }

    /// Cells that hold tokens of running slots.
    pub(super) fn n_used(&self) -> usize {
        self.n_used
    }

    /// The lowest slot of a range that holds nothing.
    pub(super) fn vacant_in(&self, slots: Range<usize>) -> Option<SlotId> {
        let start = slots.start;
        let slot_idx = self.slots[slots].iter().position(Option::is_none)?;
        Some(slot_id(start + slot_idx))
    }

    /// The slot with the longest beginning of `prefix`; of several, any.
    pub(super) fn longest_match(&self, prefix: Prefix) -> Option<Match> {
        let (n_tokens, node_idx) = self.descend(ROOT, prefix);
        self.match_below(node_idx, n_tokens)
    }

    /// The slot with the most tokens of those whose tokens are all a beginning of `prefix`.
    pub(super) fn longest_whole_match(&self, prefix: Prefix) -> Option<Match> {
        let (n_tokens, node_idx) = self.descend_whole(ROOT, prefix)?;
        self.match_below(node_idx, n_tokens)
    }

    /// Tokens that a slot holds.
    pub(super) fn n_tokens(&self, slot: SlotId) -> usize {
        self.held(slot).map_or(0, |held| held.n_tokens)
    }

    /// Cells of the match that no running slot uses.
    pub(super) fn n_unused_in(&self, found: Match) -> usize {
        let Some(held) = self.held(found.slot) else {
            return 0;
        };
        let (mut node_idx, mut end) = (held.node_idx, held.n_tokens);
        let mut n_unused = 0;
        while node_idx != ROOT {
            let node = &self.nodes[node_idx];
            let start = end - node.tokens.len();
            if node.n_running == 0 && node.block.is_none() {
                n_unused += found.n_tokens.clamp(start, end) - start;
            }
            (node_idx, end) = (node.parent, start);
        }
        n_unused
    }

    /// Has a vacant slot run from nothing, in a scope.
    pub(super) fn open_empty(&mut self, slot: SlotId, scope: Scope) {
        self.run(slot, scope, ROOT, 0);
    }

    /// Has a vacant slot run from what another slot holds, and so in its scope.
    pub(super) fn open(&mut self, slot: SlotId, found: Match) {
        let node_idx = self.node_at(found);
        self.run(slot, self.nodes[node_idx].scope, node_idx, found.n_tokens);
    }

    fn run(&mut self, slot: SlotId, scope: Scope, node_idx: usize, n_tokens: usize) {
        self.nodes[node_idx].ends.push(slot);
        self.slots[usize::from(slot.0)] = Some(Held {
            scope,
            node_idx,
            n_tokens,
            ended: None,
            was_shared: false,
            is_parked: false,
        });
        self.run_path(node_idx);
    }

    /// Has a slot whose sequence has ended run again.
    pub(super) fn reopen(&mut self, slot: SlotId) {
        if let Some(held) = &mut self.slots[usize::from(slot.0)]
            && held.ended.take().is_some()
        {
            let node_idx = held.node_idx;
            self.run_path(node_idx);
        }
    }

    /// Notes that a slot's sequence has ended, at the time `now` of the caller's counter.
    pub(super) fn end(&mut self, slot: SlotId, now: u64) {
        if let Some(held) = &mut self.slots[usize::from(slot.0)]
            && held.ended.replace(now).is_none()
        {
            let node_idx = held.node_idx;
            self.stop_path(node_idx);
        }
    }

    /// Notes that a slot was of use for another sequence at the time `now`.
    pub(super) fn touch(&mut self, slot: SlotId, now: u64) {
        if let Some(held) = &mut self.slots[usize::from(slot.0)] {
            held.was_shared = true;
            if let Some(ended) = &mut held.ended {
                *ended = now;
            }
        }
    }

    /// Adds tokens to a running slot.
    pub(super) fn push(&mut self, slot: SlotId, tokens: &[Token]) {
        let Some(held) = self.slots[usize::from(slot.0)].as_mut() else {
            return;
        };
        held.n_tokens += tokens.len();
        let (scope, parent) = (held.scope, held.node_idx);
        if tokens.is_empty() {
            return;
        }
        self.n_cells += tokens.len();
        self.n_used += tokens.len();
        let node = &mut self.nodes[parent];
        if parent != ROOT && node.children.is_empty() && node.ends.len() == 1 {
            node.tokens.extend_from_slice(tokens);
            return;
        }
        node.ends.retain(|&end| end != slot);
        let child = self.add_node(Node {
            parent,
            children: Vec::new(),
            scope,
            tokens: tokens.to_vec(),
            ends: vec![slot],
            n_running: 1,
            block: None,
        });
        self.nodes[parent].children.push(child);
        held_mut(&mut self.slots, slot).node_idx = child;
    }

    /// Has an ended slot keep its first `n_tokens` tokens only.
    pub(super) fn truncate(&mut self, slot: SlotId, n_tokens: usize) {
        let Some(held) = self.held(slot).filter(|held| n_tokens < held.n_tokens) else {
            return;
        };
        let node_idx = self.node_at(Match { slot, n_tokens });
        self.nodes[node_idx].ends.push(slot);
        self.slots[usize::from(slot.0)] = Some(Held {
            node_idx,
            n_tokens,
            ..held
        });
        // A split leaves the slot's old end where it was.
        self.leave(held.node_idx, slot);
    }

    /// Empties a slot, and with it the parked ones that go on from cells which only this one holds.
    pub(super) fn remove(&mut self, slot: SlotId) {
        if !self.is_parked(slot) {
            for parked in self.parked_on(slot) {
                self.remove(parked);
            }
        }
        if let Some(held) = self.slots[usize::from(slot.0)].take() {
            if held.ended.is_none() {
                self.stop_path(held.node_idx);
            }
            self.leave(held.node_idx, slot);
        }
    }

    /// Whether nothing is lost with this slot: others hold all that it holds, or it is parked and
    /// others go on from there.
    pub(super) fn is_redundant(&self, slot: SlotId) -> bool {
        self.held(slot).is_some_and(|held| {
            let node = &self.nodes[held.node_idx];
            if held.is_parked {
                return node.ends.len() > 1 || !node.children.is_empty();
            }
            let mut ends = node.ends.iter();
            let mut children = node.children.iter();
            ends.any(|&other| other != slot && !self.is_parked(other))
                || children.any(|&child| self.holder_below(child).is_some())
        })
    }

    /// The ended slot of a range whose last use is the longest ago.
    pub(super) fn least_recent_in(&self, slots: Range<usize>) -> Option<SlotId> {
        self.least_recent_of(slots, |_| true)
    }

    /// The ended slot whose last use is the longest ago, of the parked ones or of the others.
    pub(super) fn least_recent(&self, is_parked: bool) -> Option<SlotId> {
        self.least_recent_of(0..self.slots.len(), |held| held.is_parked == is_parked)
    }

    fn least_recent_of(
        &self,
        slots: Range<usize>,
        is_meant: impl Fn(&Held) -> bool,
    ) -> Option<SlotId> {
        let ended = slots.filter_map(|slot_idx| {
            let held = self.slots[slot_idx].as_ref()?;
            let ended = held.ended.filter(|_| is_meant(held));
            Some((ended?, slot_idx))
        });
        ended.min().map(|(_, slot_idx)| slot_id(slot_idx))
    }

    /// The ended slots that were never of use for another sequence, the oldest first.
    pub(super) fn unproven(&self) -> Vec<SlotId> {
        let slots = self.slots.iter().enumerate();
        let unproven = slots.filter_map(|(slot_idx, held)| {
            let held = held.as_ref().filter(|held| !held.was_shared)?;
            Some((held.ended?, slot_id(slot_idx)))
        });
        let mut unproven: Vec<_> = unproven.collect();
        unproven.sort_unstable();
        unproven.into_iter().map(|(_, slot)| slot).collect()
    }

    /// When an ended slot was last of use.
    pub(super) fn last_use(&self, slot: SlotId) -> Option<u64> {
        self.held(slot)?.ended
    }

    /// Cells that no other slot holds.
    pub(super) fn n_own(&self, slot: SlotId) -> usize {
        match self.held(slot) {
            Some(held) if !held.is_parked && !self.is_redundant(slot) => {
                self.nodes[held.node_idx].tokens.len()
            }
            _ => 0,
        }
    }

    /// Has a vacant slot hold what another one held, which is vacant then.
    pub(super) fn rename(&mut self, from: SlotId, to: SlotId) {
        if let Some(held) = self.slots[usize::from(from.0)].take() {
            self.slots[usize::from(to.0)] = Some(held);
            let ends = &mut self.nodes[held.node_idx].ends;
            ends.retain(|&end| end != from);
            ends.push(to);
        }
    }

    fn held(&self, slot: SlotId) -> Option<Held> {
        self.slots.get(usize::from(slot.0)).copied().flatten()
    }

    /// How much of `prefix` lies below a node, and the last node with some of it.
    fn descend(&self, node_idx: usize, prefix: Prefix) -> (usize, usize) {
        let mut best = (0, node_idx);
        for child in self.children_with(node_idx, prefix) {
            let n_common = n_common(&self.nodes[child].tokens, prefix.tokens);
            let (n_below, last) = if n_common == self.nodes[child].tokens.len() {
                self.descend(child, prefix.after(n_common))
            } else {
                (0, child)
            };
            if n_common + n_below > best.0 {
                best = (n_common + n_below, last);
            }
        }
        best
    }

    /// As `descend`, to the last node where a slot's path ends.
    fn descend_whole(&self, node_idx: usize, prefix: Prefix) -> Option<(usize, usize)> {
        let node = &self.nodes[node_idx];
        let mut best = (node_idx != ROOT && !node.ends.is_empty()).then_some((0, node_idx));
        for child in self.children_with(node_idx, prefix) {
            let n_node = self.nodes[child].tokens.len();
            if n_common(&self.nodes[child].tokens, prefix.tokens) == n_node
                && let Some((n_below, last)) = self.descend_whole(child, prefix.after(n_node))
                && best.is_none_or(|(n_best, _)| n_node + n_below > n_best)
            {
                best = Some((n_node + n_below, last));
            }
        }
        best
    }

    fn children_with(&self, node_idx: usize, prefix: Prefix) -> impl Iterator<Item = usize> {
        let children = self.nodes[node_idx].children.iter().copied();
        children.filter(move |&child| {
            let child = &self.nodes[child];
            child.scope == prefix.scope && child.tokens.first() == prefix.tokens.first()
        })
    }

    /// A slot whose path ends at or below a node, one that holds cells if there is one.
    fn match_below(&self, mut node_idx: usize, n_tokens: usize) -> Option<Match> {
        if n_tokens == 0 {
            return None;
        }
        if let Some(slot) = self.holder_below(node_idx) {
            return Some(Match { slot, n_tokens });
        }
        loop {
            let node = &self.nodes[node_idx];
            if let Some(&slot) = node.ends.first() {
                return Some(Match { slot, n_tokens });
            }
            node_idx = *node.children.first()?;
        }
    }

    /// The node that ends after the match's tokens, made by a split where there is none.
    fn node_at(&mut self, found: Match) -> usize {
        let Some(held) = self.held(found.slot) else {
            return ROOT;
        };
        let (mut node_idx, mut end) = (held.node_idx, held.n_tokens);
        loop {
            let start = end - self.nodes[node_idx].tokens.len();
            if found.n_tokens >= end {
                return node_idx;
            }
            if found.n_tokens > start {
                return self.split(node_idx, found.n_tokens - start);
            }
            (node_idx, end) = (self.nodes[node_idx].parent, start);
        }
    }

    /// Puts a node's first `n_tokens` tokens into a new parent, and names that.
    fn split(&mut self, node_idx: usize, n_tokens: usize) -> usize {
        let node = &mut self.nodes[node_idx];
        let rest = node.tokens.split_off(n_tokens);
        let upper = Node {
            parent: node.parent,
            children: vec![node_idx],
            scope: node.scope,
            tokens: std::mem::replace(&mut node.tokens, rest),
            ends: Vec::new(),
            n_running: node.n_running,
            block: None,
        };
        let parent = upper.parent;
        let upper = self.add_node(upper);
        self.nodes[node_idx].parent = upper;
        self.replace_child(parent, node_idx, Some(upper));
        upper
    }

    /// Takes a slot from the node where its path ended, and with it what nobody holds any more.
    fn leave(&mut self, node_idx: usize, slot: SlotId) {
        self.nodes[node_idx].ends.retain(|&end| end != slot);
        let mut node_idx = node_idx;
        while node_idx != ROOT {
            let node = &mut self.nodes[node_idx];
            if !node.ends.is_empty() || !node.children.is_empty() {
                break;
            }
            let node = std::mem::take(node);
            match node.block {
                Some(_) => self.n_parked -= node.tokens.len(),
                None => self.n_cells -= node.tokens.len(),
            }
            self.dropped.extend(node.block);
            self.replace_child(node.parent, node_idx, None);
            self.vacant.push(node_idx);
            node_idx = node.parent;
        }
        self.join(node_idx);
    }

    /// Joins a node with its only child, where no path ends between them and both have cells.
    fn join(&mut self, node_idx: usize) {
        let node = &self.nodes[node_idx];
        if node_idx == ROOT || !node.ends.is_empty() || node.children.len() != 1 {
            return;
        }
        let child = &self.nodes[node.children[0]];
        if node.block.is_some() || child.block.is_some() {
            return;
        }
        let mut node = std::mem::take(&mut self.nodes[node_idx]);
        let child_idx = node.children[0];
        let child = &mut self.nodes[child_idx];
        node.tokens.append(&mut child.tokens);
        child.tokens = node.tokens;
        child.parent = node.parent;
        self.replace_child(node.parent, node_idx, Some(child_idx));
        self.vacant.push(node_idx);
    }

    fn replace_child(&mut self, parent: usize, old: usize, new: Option<usize>) {
        let children = &mut self.nodes[parent].children;
        children.retain(|&child| child != old);
        children.extend(new);
    }

    fn add_node(&mut self, node: Node) -> usize {
        if let Some(node_idx) = self.vacant.pop() {
            self.nodes[node_idx] = node;
            return node_idx;
        }
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn run_path(&mut self, mut node_idx: usize) {
        while node_idx != ROOT {
            let node = &mut self.nodes[node_idx];
            if node.n_running == 0 {
                self.n_used += node.tokens.len();
            }
            node.n_running += 1;
            node_idx = node.parent;
        }
    }

    fn stop_path(&mut self, mut node_idx: usize) {
        while node_idx != ROOT {
            let node = &mut self.nodes[node_idx];
            node.n_running -= 1;
            if node.n_running == 0 {
                self.n_used -= node.tokens.len();
            }
            node_idx = node.parent;
        }
    }
}

fn held_mut(slots: &mut [Option<Held>], slot: SlotId) -> &mut Held {
    let held = slots[usize::from(slot.0)].as_mut();
    held.expect("the caller has just seen it")
}

fn slot_id(slot_idx: usize) -> SlotId {
    SlotId(u16::try_from(slot_idx).expect("the scheduler makes at most MAX_SLOTS slots"))
}
