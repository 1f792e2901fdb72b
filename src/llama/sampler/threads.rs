//! The sampling threads: the rows of one step sampled several at a time.
//!
//! Owned by the runner; the engine thread takes its share of the work and waits for the rest, so
//! nothing is sampled between steps, and the threads sleep. They end with the runner. A panic on one
//! goes on on the engine thread.

use std::sync::{Mutex, PoisonError};

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::buffers::Buffers;

/// Logits for which waking one more thread pays: some 50 µs of work.
///
/// On a busy machine the thread may come late, and then the engine thread has done its part, too;
/// one that is interrupted within a row holds the step up.
const MIN_LOGITS_PER_THREAD: usize = 400_000;

/// Threads to sample with, and each one's memory.
pub struct SamplingThreads {
    /// `None` leaves it all to the engine thread.
    pool: Option<ThreadPool>,
    /// The engine thread's first.
    buffers: Vec<Buffers>,
}

impl SamplingThreads {
    /// `n_threads` with the engine thread; fewer if the system has no more.
    pub fn new(n_threads: usize) -> Self {
        let n_more = n_threads.saturating_sub(1);
        let pool = ThreadPoolBuilder::new()
            .num_threads(n_more)
            .thread_name(|index| format!("llm-sampling-{index}"));
        let pool = match n_more {
            0 => None,
            _ => pool
                .build()
                .inspect_err(|error| log::warn!("sampling on one thread only: {error}"))
                .ok(),
        };
        let n_buffers = pool.as_ref().map_or(0, ThreadPool::current_num_threads) + 1;
        Self {
            pool,
            buffers: std::iter::repeat_with(Buffers::default)
                .take(n_buffers)
                .collect(),
        }
    }

    /// Does `work` to every job, on as many threads as `n_logits` in all are worth.
    pub fn for_each<J: Send>(
        &mut self,
        jobs: &mut [J],
        n_logits: usize,
        work: impl Fn(&mut J, &mut Buffers) + Sync,
    ) {
        let n_threads = (n_logits / MIN_LOGITS_PER_THREAD).clamp(1, jobs.len().max(1));
        let (own, others) = self.buffers.split_at_mut(1);
        let n_others = others.len().min(n_threads - 1);
        let queue = Mutex::new(jobs.iter_mut());
        let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
        let run = |buffers: &mut Buffers| {
            while let Some(job) = next() {
                work(job, buffers);
            }
        };
        match &self.pool {
            Some(pool) if n_others > 0 => pool.in_place_scope(|scope| {
                for buffers in &mut others[..n_others] {
                    scope.spawn(|_| run(buffers));
                }
                run(&mut own[0]);
            }),
            _ => run(&mut own[0]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    fn name(job: &mut String) {
        *job = thread::current().name().unwrap_or_default().to_owned();
    }

    #[test]
    fn much_work_is_shared_and_little_is_not() {
        let mut threads = SamplingThreads::new(3);
        let mut jobs = vec![String::new(); 3];
        let all_at_once = Barrier::new(3);
        threads.for_each(&mut jobs, 3 * MIN_LOGITS_PER_THREAD, |job, _| {
            all_at_once.wait();
            name(job);
        });
        let engine = thread::current().name().unwrap_or_default().to_owned();
        let found: HashSet<_> = jobs.iter().map(String::as_str).collect();
        let expected = HashSet::from([engine.as_str(), "llm-sampling-0", "llm-sampling-1"]);
        assert_eq!(found, expected);

        let mut jobs = vec![String::new(); 8];
        threads.for_each(&mut jobs, 2 * MIN_LOGITS_PER_THREAD - 1, |job, _| name(job));
        assert_eq!(jobs, vec![engine; 8]);
        threads.for_each(&mut Vec::<String>::new(), usize::MAX, |job, _| name(job));
    }

    #[test]
    fn a_panic_reaches_the_caller_and_leaves_the_threads_alive() {
        let mut threads = SamplingThreads::new(2);
        let together = Barrier::new(2);
        let mut jobs = vec![String::new(); 2];
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            threads.for_each(&mut jobs, usize::MAX, |job, _| {
                together.wait();
                name(job);
                assert_ne!(job, "llm-sampling-0", "on purpose");
            });
        }));
        let panic = panicked.expect_err("the sampling thread's panic");
        let text = panic.downcast_ref::<String>().map_or("", |text| text);
        assert!(text.contains("on purpose"), "{text}");
        threads.for_each(&mut jobs, usize::MAX, |job, _| {
            together.wait();
            name(job);
        });
        assert!(jobs.contains(&"llm-sampling-0".to_owned()));
    }
}
