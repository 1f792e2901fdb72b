//! The delivery thread's inbox.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ptr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

/// Outboxes, ordered by when an outbox may send next.
///
/// An outbox is in it at most once, so it never holds more than there are
/// requests in flight. Also knows all that are open, by their addresses.
pub(super) struct Queue<Outbox> {
    state: Mutex<QueueState<Outbox>>,
    changed: Condvar,
}

struct QueueState<Outbox> {
    heap: BinaryHeap<Reverse<Entry<Outbox>>>,
    open: HashMap<usize, Weak<Outbox>>,
    n_pushed: u64,
    is_closed: bool,
}

/// What the delivery thread does next.
pub(super) enum Next<Outbox> {
    Send(Arc<Outbox>),
    /// See whether one of these is cancelled.
    Look(Vec<Arc<Outbox>>),
}

struct Entry<Outbox> {
    due: Instant,
    order: u64,
    outbox: Arc<Outbox>,
}

impl<Outbox> PartialEq for Entry<Outbox> {
    fn eq(&self, other: &Self) -> bool {
        (self.due, self.order) == (other.due, other.order)
    }
}

impl<Outbox> Eq for Entry<Outbox> {}

impl<Outbox> PartialOrd for Entry<Outbox> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<Outbox> Ord for Entry<Outbox> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.order).cmp(&(other.due, other.order))
    }
}

impl<Outbox> Queue<Outbox> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(QueueState {
                heap: BinaryHeap::new(),
                open: HashMap::new(),
                n_pushed: 0,
                is_closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    pub(super) fn push(&self, due: Instant, outbox: Arc<Outbox>) {
        let mut state = self.lock();
        state.n_pushed += 1;
        let order = state.n_pushed;
        state.heap.push(Reverse(Entry { due, order, outbox }));
        drop(state);
        self.changed.notify_one();
    }

    /// Adds an outbox to those that are open.
    pub(super) fn open(&self, outbox: &Arc<Outbox>) {
        let address = Arc::as_ptr(outbox).addr();
        self.lock().open.insert(address, Arc::downgrade(outbox));
        // The thread looks at them from now on.
        self.changed.notify_one();
    }

    pub(super) fn close_one(&self, outbox: &Outbox) {
        self.lock().open.remove(&ptr::from_ref(outbox).addr());
    }

    /// Waits for the next outbox that may send, until `look` at the latest; `None` once closed
    /// and empty.
    pub(super) fn pop(&self, look: Instant) -> Option<Next<Outbox>> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            if now >= look && !state.open.is_empty() {
                let open = state.open.values().filter_map(Weak::upgrade).collect();
                return Some(Next::Look(open));
            }
            let due = match state.heap.peek() {
                Some(Reverse(entry)) if entry.due <= now => {
                    return state
                        .heap
                        .pop()
                        .map(|Reverse(entry)| Next::Send(entry.outbox));
                }
                Some(Reverse(entry)) => Some(entry.due),
                None if state.is_closed => return None,
                None => None,
            };
            let look = (!state.open.is_empty()).then_some(look);
            state = match due.into_iter().chain(look).min() {
                Some(until) => {
                    let waited = self.changed.wait_timeout(state, until - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<Outbox>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
