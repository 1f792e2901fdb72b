//! The part of the tree that lies in host memory: nodes without cells, in blocks.
//!
//! A node has cells as long as a slot that is not parked holds it. So what is parked lies below what is
//! not, and a parked slot holds no cells: what is left on its path is another one's, too.

use std::ops::Range;

use super::super::ids::{BlockId, SlotId};
use super::super::plan::Block;
use super::{Match, PrefixTree, ROOT};

impl PrefixTree {
    /// Tokens that lie in blocks.
    pub(in super::super) fn n_parked(&self) -> usize {
        self.n_parked
    }

    /// Whether a slot holds no cells of its own, as what it held lies in blocks.
    pub(in super::super) fn is_parked(&self, slot: SlotId) -> bool {
        self.held(slot).is_some_and(|held| held.is_parked)
    }

    /// Tokens with cells that no slot holds but this one and parked ones.
    pub(in super::super) fn n_alone(&self, slot: SlotId) -> usize {
        let alone = self.alone(slot).into_iter();
        alone.map(|(_, tokens)| tokens.len()).sum()
    }

    /// Parks an ended slot, and returns what must go to host memory for it, last tokens first.
    ///
    /// Of a parked slot: what on its path has cells that nobody holds any more.
    pub(in super::super) fn park(&mut self, slot: SlotId) -> Vec<Block> {
        let mut blocks = Vec::new();
        for (node_idx, tokens) in self.alone(slot) {
            self.n_blocks += 1;
            let id = BlockId(self.n_blocks);
            self.nodes[node_idx].block = Some(id);
            self.n_cells -= tokens.len();
            self.n_parked += tokens.len();
            blocks.push(Block { id, tokens });
        }
        if let Some(held) = &mut self.slots[usize::from(slot.0)] {
            held.is_parked = true;
        }
        blocks
    }

    /// Cells that it takes to have a match's tokens in cells: blocks come whole.
    pub(in super::super) fn n_to_load(&self, found: Match) -> usize {
        let parked = self.parked_in(found).into_iter();
        parked
            .map(|(node_idx, _)| self.nodes[node_idx].tokens.len())
            .sum()
    }

    /// The tokens of the last block that a match has some of.
    pub(in super::super) fn last_block_in(&self, found: Match) -> Option<Range<usize>> {
        let (_, tokens) = self.parked_in(found).pop()?;
        Some(tokens)
    }

    /// What of a match has cells, and a slot that holds them; `None` if nothing has.
    pub(in super::super) fn with_cells(&self, found: Match) -> Option<Match> {
        let path = self.path(found.slot).into_iter().rev();
        let mut with_cells = None;
        for (node_idx, tokens) in path.take_while(|(_, tokens)| tokens.start < found.n_tokens) {
            let Some(slot) = self.holder_below(node_idx) else {
                break;
            };
            let n_tokens = tokens.end.min(found.n_tokens);
            with_cells = Some(Match { slot, n_tokens });
        }
        with_cells
    }

    /// Has a match's tokens in cells again: the blocks that come for it, first tokens first, and where
    /// the last one ends.
    pub(in super::super) fn unpark(&mut self, found: Match) -> (Vec<BlockId>, usize) {
        let mut blocks = Vec::new();
        let mut end = found.n_tokens;
        for (node_idx, tokens) in self.parked_in(found) {
            blocks.extend(self.nodes[node_idx].block.take());
            self.n_cells += tokens.len();
            self.n_parked -= tokens.len();
            end = tokens.end;
        }
        (blocks, end)
    }

    /// Blocks that nobody needs any more, since the last call.
    pub(in super::super) fn take_dropped(&mut self) -> Vec<BlockId> {
        std::mem::take(&mut self.dropped)
    }

    /// The parked slots below those nodes with cells that only this slot holds.
    pub(super) fn parked_on(&self, slot: SlotId) -> Vec<SlotId> {
        let highest = self.alone(slot).pop();
        let mut slots = Vec::new();
        if let Some((node_idx, _)) = highest {
            self.collect_below(node_idx, &mut slots);
            slots.retain(|&other| other != slot);
        }
        slots
    }

    /// A slot that holds a node's cells.
    pub(super) fn holder_below(&self, node_idx: usize) -> Option<SlotId> {
        let node = &self.nodes[node_idx];
        if node.block.is_some() {
            return None;
        }
        let mut ends = node.ends.iter().copied();
        let holder = ends.find(|&slot| !self.is_parked(slot));
        let mut below = node.children.iter();
        holder.or_else(|| below.find_map(|&child| self.holder_below(child)))
    }

    /// The nodes with cells that no slot holds but this one and parked ones, from its last one up.
    fn alone(&self, slot: SlotId) -> Vec<(usize, Range<usize>)> {
        let mut alone = self.path(slot);
        alone.retain(|&(node_idx, _)| self.nodes[node_idx].block.is_none());
        let n_alone = alone.iter().take_while(|&&(node_idx, _)| {
            let mut slots = Vec::new();
            self.collect_below(node_idx, &mut slots);
            let mut others = slots.into_iter().filter(|&other| other != slot);
            others.all(|other| self.is_parked(other))
        });
        alone.truncate(n_alone.count());
        alone
    }

    /// The nodes of a match that lie in blocks, first tokens first.
    fn parked_in(&self, found: Match) -> Vec<(usize, Range<usize>)> {
        let mut nodes = self.path(found.slot);
        nodes.retain(|(node_idx, tokens)| {
            self.nodes[*node_idx].block.is_some() && tokens.start < found.n_tokens
        });
        nodes.reverse();
        nodes
    }

    /// A slot's nodes and their tokens, the last ones first.
    fn path(&self, slot: SlotId) -> Vec<(usize, Range<usize>)> {
        let mut path = Vec::new();
        let Some(held) = self.held(slot) else {
            return path;
        };
        let (mut node_idx, mut end) = (held.node_idx, held.n_tokens);
        while node_idx != ROOT {
            let start = end - self.nodes[node_idx].tokens.len();
            path.push((node_idx, start..end));
            (node_idx, end) = (self.nodes[node_idx].parent, start);
        }
        path
    }

    fn collect_below(&self, node_idx: usize, slots: &mut Vec<SlotId>) {
        let node = &self.nodes[node_idx];
        slots.extend(&node.ends);
        for &child in &node.children {
            self.collect_below(child, slots);
        }
    }
}
