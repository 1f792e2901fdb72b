//! The threads that llama.cpp computes with: how many there are, when, and what they do while they wait.
//!
//! One scenario at a time, as they look at the threads of the whole process.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use triton_llm::engine::{CacheOp, Plan, Row, SequenceId, SlotId, Token};
use triton_llm::llama::{ContextParams, DraftModel, LoadParams, Model, Runner};
use triton_llm::protocol::SamplingParams;

const N_STEPS: u32 = 64;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn demo_model() -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("triton_repo/llm_decoupled/1/demo.gguf");
    let model = Model::load(&path, &LoadParams::default());
    Arc::new(model.unwrap_or_else(|error| panic!("{error}")))
}

fn params(n_threads: u32, n_threads_batch: u32) -> ContextParams {
    ContextParams {
        n_slots: 1,
        n_cells: 512,
        n_threads,
        n_threads_batch,
        ..ContextParams::default()
    }
}

fn runner(model: &Arc<Model>, params: &ContextParams) -> Runner {
    Runner::new(Arc::clone(model), params).unwrap_or_else(|error| panic!("{error}"))
}

/// CPUs that this process may use, two at most.
fn n_cpus() -> usize {
    thread::available_parallelism()
        .map_or(1, usize::from)
        .min(2)
}

/// Reads a short prompt, then computes token by token.
fn compute(runner: &mut Runner) {
    let (sequence, slot) = (SequenceId(1), SlotId(0));
    let sampler = runner
        .model()
        .sampler(&SamplingParams::default(), &[])
        .expect("every rule can be made");
    runner.open(sequence, sampler);
    let row = |pos, output| Row {
        sequence,
        slot,
        token: Token(300),
        pos,
        output,
    };
    let prompt = (0..40).map(|pos| row(pos, false)).collect();
    let steps = (40..40 + N_STEPS).map(|pos| vec![row(pos, true)]);
    let empty = CacheOp::Keep { slot, n_tokens: 0 };
    for (rows, cache) in
        std::iter::once((prompt, vec![empty])).chain(steps.map(|rows| (rows, Vec::new())))
    {
        let ran = runner.run(&Plan { rows, cache });
        ran.unwrap_or_else(|error| panic!("{error}"));
    }
    runner.close(sequence);
}

/// The threads of this process that have one of these names, by their numbers.
fn threads_called(names: &[&str]) -> BTreeSet<i32> {
    let tasks = fs::read_dir("/proc/self/task").expect("the list of threads");
    let numbers = tasks.flatten().filter_map(|task| {
        // A thread may end meanwhile.
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let number = task.file_name().to_str()?.parse().ok()?;
        names.contains(&name.trim_end()).then_some(number)
    });
    numbers.collect()
}

fn computing() -> BTreeSet<i32> {
    threads_called(&["llm-compute"])
}

/// The threads seen while `work` is done, of those that compute and those with the name of this one, which
/// those that it makes have too.
fn seen_during(work: impl FnOnce()) -> BTreeSet<i32> {
    let name = fs::read_to_string("/proc/thread-self/comm").expect("this thread has a name");
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = thread::Builder::new().name("watcher".to_owned());
        let look = || {
            let mut seen = BTreeSet::new();
            while !is_done.load(Ordering::Relaxed) {
                seen.append(&mut threads_called(&["llm-compute", name.trim_end()]));
            }
            seen
        };
        let watcher = watcher.spawn_scoped(scope, look).expect("a thread");
        work();
        is_done.store(true, Ordering::Relaxed);
        watcher.join().expect("it only reads")
    })
}

#[test]
fn they_are_made_once_and_end_with_their_last_context() {
    let _alone = alone();
    let model = demo_model();
    assert_eq!(computing().len(), 0);
    for (n_threads, n_threads_batch, n_made) in [(1, 0, 0), (2, 0, 1), (1, 2, 1), (2, 1, 1)] {
        let n_made = n_made.min(n_cpus() - 1);
        let params = params(n_threads, n_threads_batch);
        let mut runner = runner(&model, &params);
        assert_eq!(computing().len(), n_made, "{n_threads} {n_threads_batch}");
        let drafter = DraftModel::new(Arc::clone(&model), &runner, &params);
        let drafter = drafter.unwrap_or_else(|error| panic!("{error}"));
        let made = computing();
        assert_eq!(made.len(), n_made, "a draft model shares them");
        let seen = seen_during(|| (0..4).for_each(|_| compute(&mut runner)));
        assert_eq!(seen.len(), 1 + n_made, "{n_threads} {n_threads_batch}");
        assert!(seen.is_superset(&made));
        drop(runner);
        assert_eq!(computing(), made, "the draft model has them yet");
        drop(drafter);
        // A thread that was joined may stand in the kernel's list for a moment longer.
        let patience = Instant::now() + Duration::from_secs(5);
        while !computing().is_empty() {
            assert!(Instant::now() < patience, "{n_threads} {n_threads_batch}");
        }
    }
}

/// Lets some threads of this process run on one CPU only, the first that this thread may use.
fn crowd(threads: impl IntoIterator<Item = i32>) {
    // SAFETY: all zeros is a valid, empty set.
    let (mut usable, mut one): (libc::cpu_set_t, libc::cpu_set_t) = unsafe { std::mem::zeroed() };
    // SAFETY: the pointers and the sizes describe the sets, and the CPU's number is below CPU_SETSIZE.
    unsafe {
        assert_eq!(
            libc::sched_getaffinity(0, size_of_val(&usable), &raw mut usable),
            0
        );
        let cpu = (0..libc::CPU_SETSIZE as usize).find(|&cpu| libc::CPU_ISSET(cpu, &usable));
        libc::CPU_SET(cpu.expect("this thread runs"), &mut one);
        for thread in threads {
            assert_eq!(
                libc::sched_setaffinity(thread, size_of_val(&one), &raw const one),
                0
            );
        }
    }
}

/// Seconds that some threads of this process have had a CPU for.
fn cpu_seconds(threads: &BTreeSet<i32>) -> f64 {
    // SAFETY: the call only returns a number.
    let ticks_a_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    let ticks = |thread: &i32| -> f64 {
        let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat"));
        let stat = stat.expect("the thread is there");
        // The name ends the second field, which may hold anything.
        let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
        let fields = fields.split_whitespace().skip(11).take(2);
        fields
            .map(|ticks| ticks.parse::<f64>().expect("a number"))
            .sum()
    };
    threads.iter().map(ticks).sum::<f64>() / ticks_a_second
}

/// What threads on too few cores cost, in time that they had a core for: however busy the machine is.
///
/// A thread that waits for another without giving its core away has it for some milliseconds at each node
/// of each graph.
#[test]
fn a_thread_that_waits_for_another_gives_its_core_away() {
    let _alone = alone();
    let model = demo_model();
    let cost = |n_threads| {
        // On a thread of its own, as it stays on one CPU.
        thread::scope(|scope| {
            let measured = scope.spawn(|| {
                // With llama.cpp's own attention their number stays as it is.
                let params = ContextParams {
                    own_attention: false,
                    ..params(n_threads, 0)
                };
                let mut runner = runner(&model, &params);
                // SAFETY: the call only returns a number.
                let this = unsafe { libc::gettid() };
                let threads: BTreeSet<_> = computing().into_iter().chain([this]).collect();
                crowd(threads.iter().copied());
                let before = cpu_seconds(&threads);
                compute(&mut runner);
                cpu_seconds(&threads) - before
            });
            measured.join().expect("the steps run")
        })
    };
    let (one, two) = (cost(1), cost(2));
    assert!(
        two < 1.0 + one * 8.0,
        "one thread {one} s, two threads {two} s"
    );
}

#[test]
fn fewer_compute_where_there_are_no_cores_for_all() {
    let _alone = alone();
    if n_cpus() < 2 {
        return;
    }
    let model = demo_model();
    // On a thread of its own, as it stays on one CPU.
    let work = || {
        let mut runner = runner(&model, &params(2, 0));
        assert_eq!(runner.n_threads_now(), 2);
        // SAFETY: the call only returns a number.
        let this = unsafe { libc::gettid() };
        crowd(computing().into_iter().chain([this]));
        let begin = Instant::now();
        while runner.n_threads_now() > 1 {
            assert!(begin.elapsed() < Duration::from_secs(60));
            compute(&mut runner);
        }
    };
    thread::scope(|scope| scope.spawn(work).join().expect("the steps run"));
}
