//! llama.cpp's filters for the common parameters, on what little of a row can pass them.
//!
//! Called by the sampler, on any thread. Each gives exactly the candidates that llama.cpp's sampler
//! of the same name gives, in the same order, equal logits included; one that cannot be sure says
//! so, and the sampler asks llama.cpp.

use std::cmp::Ordering;

use super::candidates::Candidate;
use super::exp;
use super::logits::Scanned;

/// The most candidates that llama.cpp selects with a heap, whose order of equal logits is known.
pub(super) const MAX_TOP_K: usize = 128;

/// The most candidates that [`top_k`] sorts rather than keep a heap.
const N_SORTED: usize = 512;

/// Candidates that [`nucleus`] looks at first, at least; there are seldom more that matter.
const N_FIRST: usize = 256;

/// The most candidates that [`nucleus`] looks at.
const MAX_NUCLEUS: usize = 32_768;

/// How near to top_p a sum of probabilities may come before rounding could decide, relative to it.
const NUCLEUS_ERROR: f32 = 1.0 / (1 << 19) as f32;

/// The `k` highest logits, highest first.
pub(super) fn top_k(logits: &Scanned, k: usize, best: &mut Vec<Candidate>) {
    let floor = logits.reached_by(k);
    if floor > f32::NEG_INFINITY {
        best.clear();
        best.extend(logits.at_least(floor).take(N_SORTED));
        if best.len() < N_SORTED {
            best.sort_unstable_by(higher_first);
            if !has_equals(best, k + 1) {
                best.truncate(k);
                return;
            }
        }
    }
    top_k_by_heap(logits, k, best);
}

/// The same where some are equal: which of them come first, or at all, llama.cpp's heap decides.
fn top_k_by_heap(logits: &Scanned, k: usize, heap: &mut Vec<Candidate>) {
    heap.clear();
    logits.visit_above(f32::NEG_INFINITY, |candidate| {
        if heap.len() < k {
            heap.push(candidate);
            if heap.len() < k {
                return f32::NEG_INFINITY;
            }
            make_heap(heap);
        } else {
            sift(heap, 0, candidate);
        }
        heap[0].logit
    });
    if heap.len() < k {
        make_heap(heap);
    }
    for n in (1..heap.len()).rev() {
        let last = heap[n];
        heap[n] = heap[0];
        sift(&mut heap[..n], 0, last);
    }
}

fn higher_first(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit)
}

/// Whether two of the first `n` sorted candidates have the same logit.
fn has_equals(sorted: &[Candidate], n: usize) -> bool {
    let first = &sorted[..n.min(sorted.len())];
    first.windows(2).any(|pair| pair[0].logit == pair[1].logit)
}

/// Makes a heap with the lowest logit on top.
fn make_heap(heap: &mut [Candidate]) {
    for top in (0..heap.len() / 2).rev() {
        sift(heap, top, heap[top]);
    }
}

/// Puts a candidate into the heap below `top`, whose place is free.
///
/// As C++'s standard library does it: the free place sinks to the bottom first, and the candidate
/// rises from there. Another heap would put equal logits into another order.
#[inline]
fn sift(heap: &mut [Candidate], top: usize, candidate: Candidate) {
    let mut free = top;
    while 2 * free + 2 < heap.len() {
        let (left, right) = (2 * free + 1, 2 * free + 2);
        let next = if heap[right].logit > heap[left].logit {
            left
        } else {
            right
        };
        heap[free] = heap[next];
        free = next;
    }
    if 2 * free + 2 == heap.len() {
        heap[free] = heap[2 * free + 1];
        free = 2 * free + 1;
    }
    while free > top {
        let parent = (free - 1) / 2;
        if heap[parent].logit <= candidate.logit {
            break;
        }
        heap[free] = heap[parent];
        free = parent;
    }
    heap[free] = candidate;
}

/// Cuts sorted candidates off where their probabilities reach `p` together.
pub(super) fn top_p(sorted: &mut Vec<Candidate>, p: f32) {
    let Some(max) = sorted.first().map(|best| best.logit) else {
        return;
    };
    let weights = sorted.iter().map(|candidate| (candidate.logit - max).exp());
    let sum = weights.fold(0.0, |sum, weight| sum + weight);
    if let Some(n_kept) = n_until(sorted, sum, p, 0.0) {
        sorted.truncate(n_kept);
    }
}

/// How many of the sorted candidates it takes until their shares of `sum` reach `p`.
///
/// None if they never do, or if they come nearer to it than `error`, relative to it.
fn n_until(sorted: &[Candidate], sum: f32, p: f32, error: f32) -> Option<usize> {
    let max = sorted.first()?.logit;
    let mut reached = 0.0;
    let last = sorted.iter().position(|candidate| {
        reached += (candidate.logit - max).exp() / sum;
        reached >= p * (1.0 - error)
    });
    last.filter(|_| reached >= p * (1.0 + error))
        .map(|index| index + 1)
}

/// The fewest tokens of all that reach the probability `p` together, highest first.
///
/// False if there are too many, or if it is not sure which: where two logits are equal, or where
/// the sum comes so near to `p` that the error of the exponentials could matter.
pub(super) fn nucleus(logits: &Scanned, p: f32, kept: &mut Vec<Candidate>) -> bool {
    let max = logits.max();
    let (mut sum, mut n_logits) = (0.0, 0);
    for segment in logits.segments() {
        sum = exp::add_weights(sum, segment, max);
        n_logits += segment.len();
    }
    // All tokens below this have less than half of what the nucleus may leave out.
    let lowest = max + ((1.0 - p) * sum / n_logits as f32 * 0.5).ln();
    for floor in [logits.reached_by(N_FIRST).max(lowest), lowest] {
        kept.clear();
        kept.extend(logits.at_least(floor.max(f32::MIN)).take(MAX_NUCLEUS + 1));
        if kept.len() > MAX_NUCLEUS {
            return false;
        }
        kept.sort_unstable_by(higher_first);
        if let Some(n_kept) = n_until(kept, sum, p, NUCLEUS_ERROR) {
            let is_sure = !has_equals(kept, n_kept + 1);
            kept.truncate(n_kept);
            return is_sure;
        }
    }
    false
}

/// Cuts sorted candidates off where their probability falls below `p` times the best one's.
pub(super) fn min_p(sorted: &mut Vec<Candidate>, p: f32) {
    let Some(max) = sorted.first().map(|best| best.logit) else {
        return;
    };
    let floor = max + p.ln();
    let n_kept = sorted.iter().take_while(|c| c.logit >= floor).count();
    sorted.truncate(n_kept.max(1));
}

/// The tokens of all that have at least `p` times the best one's probability, in their order.
pub(super) fn min_p_of_all(logits: &Scanned, p: f32, kept: &mut Vec<Candidate>) {
    let floor = logits.max() + p.ln();
    kept.clear();
    kept.extend(logits.at_least(floor.max(f32::MIN)));
}
