//! How many threads to compute with while others want the cores too.
//!
//! At each node of a graph all threads wait for the last one. One that gets half a core halves what all
//! of them do, so it is better left out. Linux counts for each thread how long it was ready to run and
//! got no core; from time to time that is looked at. Where much was missing, as many threads fewer
//! compute; later more are tried, after longer and longer pauses where there is no room for them.
//! Several engines, and other copies of this library, find their parts so without knowing of each other.
//!
//! Pure: times are given. Used by a pool on the thread that has its graphs computed.

use std::time::{Duration, Instant};

/// Time computed between two looks.
const WINDOW: Duration = Duration::from_millis(100);

/// Until more threads are tried: at first, and at most.
const MIN_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(8);

/// Cores missing from which on fewer threads compute: this, or half a core shared out among the threads
/// where they are few.
const MIN_MISSING: f64 = 0.1;

#[derive(Debug)]
pub(super) struct Crowding {
    n_most: u32,
    n_now: u32,
    computed: Duration,
    /// What all threads had waited at the last look.
    waited: Option<Duration>,
    pause: Duration,
    next_try: Instant,
    /// What a try that has not succeeded yet came from.
    before: Option<u32>,
}

impl Crowding {
    /// Begins with all `n_most` threads.
    pub(super) fn new(n_most: u32, now: Instant) -> Self {
        Self {
            n_most,
            n_now: n_most,
            computed: Duration::ZERO,
            waited: None,
            pause: MIN_PAUSE,
            next_try: now,
            before: None,
        }
    }

    /// How many threads are to compute.
    pub(super) fn n_threads(&self) -> u32 {
        self.n_now
    }

    /// Notes what was computed, and where it is time looks at `waited`: how long all threads have been
    /// ready without a core, ever; `None` where the system does not say.
    pub(super) fn note(
        &mut self,
        computed: Duration,
        now: Instant,
        waited: impl FnOnce() -> Option<Duration>,
    ) {
        self.computed += computed;
        if self.n_most == 1 || self.computed < WINDOW {
            return;
        }
        let Some(waited) = waited() else { return };
        if let Some(before) = self.waited.replace(waited) {
            let missing = waited.saturating_sub(before).as_secs_f64() / self.computed.as_secs_f64();
            self.look(missing, now);
        }
        self.computed = Duration::ZERO;
    }

    /// `missing` is in cores.
    fn look(&mut self, missing: f64, now: Instant) {
        if self.n_now > 1 && missing >= MIN_MISSING.max(0.5 / f64::from(self.n_now)) {
            let n_fewer = (missing.round() as u32).max(1);
            let n_fitting = self.n_now.saturating_sub(n_fewer).max(1);
            self.pause = match self.before.take() {
                Some(before) => {
                    self.n_now = n_fitting.min(before);
                    (self.pause * 2).min(MAX_PAUSE)
                }
                None => {
                    self.n_now = n_fitting;
                    MIN_PAUSE
                }
            };
            self.next_try = now + self.pause;
        } else if self.before.take().is_some() {
            self.pause = MIN_PAUSE;
            self.next_try = now + self.pause;
        } else if self.n_now < self.n_most && now >= self.next_try {
            self.before = Some(self.n_now);
            self.n_now = (self.n_now + (self.n_now / 4).max(1)).min(self.n_most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Cores that engines of this many threads and this many busy programs have among them.
    struct Machine {
        n_cores: f64,
        now: Instant,
        waited: Vec<Duration>,
        engines: Vec<Crowding>,
    }

    impl Machine {
        fn new(n_cores: u32, engines: &[u32]) -> Self {
            let now = Instant::now();
            Self {
                n_cores: f64::from(n_cores),
                now,
                waited: vec![Duration::ZERO; engines.len()],
                engines: engines.iter().map(|&n| Crowding::new(n, now)).collect(),
            }
        }

        /// All compute for so long, each thread with as much of a core as there is for each.
        fn run(&mut self, seconds: f64, n_busy: u32) {
            const STEP: Duration = Duration::from_millis(20);
            for _ in 0..(seconds / STEP.as_secs_f64()) as u32 {
                self.now += STEP;
                let n_threads: u32 = self.engines.iter().map(Crowding::n_threads).sum();
                let n_all = f64::from(n_threads + n_busy);
                let missing = (1.0 - self.n_cores / n_all).max(0.0);
                for (engine, waited) in self.engines.iter_mut().zip(&mut self.waited) {
                    *waited += STEP.mul_f64(missing * f64::from(engine.n_threads()));
                    engine.note(STEP, self.now, || Some(*waited));
                }
            }
        }

        fn threads(&self) -> Vec<u32> {
            self.engines.iter().map(Crowding::n_threads).collect()
        }

        /// How many threads the first engine has on average over so long.
        fn average(&mut self, seconds: u32, n_busy: u32) -> f64 {
            let samples = (0..seconds * 10).map(|_| {
                self.run(0.1, n_busy);
                f64::from(self.engines[0].n_threads())
            });
            samples.sum::<f64>() / f64::from(seconds * 10)
        }
    }

    #[test]
    fn alone_all_compute() {
        for n_cores in [1, 2, 15, 64] {
            let mut machine = Machine::new(n_cores, &[n_cores]);
            machine.run(10.0, 0);
            assert_eq!(machine.threads(), [n_cores]);
        }
    }

    #[test]
    fn beside_busy_programs_those_compute_that_have_cores() {
        for (n_cores, n_busy, expected) in [(2, 1, 1), (2, 2, 1), (16, 1, 15), (16, 8, 8)] {
            let mut machine = Machine::new(n_cores, &[n_cores]);
            machine.run(10.0, n_busy);
            let average = machine.average(20, n_busy);
            let expected = f64::from(expected);
            let is_near = (0.75 * expected..1.15 * expected).contains(&average);
            assert!(is_near, "{n_cores} {n_busy}: {average}");
            machine.run(20.0, 0);
            assert_eq!(machine.threads(), [n_cores], "once they are gone");
        }
    }

    #[test]
    fn engines_share_the_cores() {
        for (n_cores, engines) in [(2, vec![2, 2]), (16, vec![15, 15]), (16, vec![16, 4])] {
            let mut machine = Machine::new(n_cores, &engines);
            machine.run(10.0, 0);
            let n_all: u32 = machine.threads().iter().sum();
            let share = n_cores / 2;
            assert!(
                (n_cores * 3 / 4..=n_cores + 2).contains(&n_all),
                "{engines:?}: {:?}",
                machine.threads()
            );
            for (n, n_most) in machine.threads().into_iter().zip(&engines) {
                let at_least = share.min(*n_most) / 2;
                assert!(n >= at_least, "{engines:?}: {:?}", machine.threads());
            }
        }
    }

    #[test]
    fn nothing_changes_where_the_system_does_not_say() {
        let now = Instant::now();
        let mut crowding = Crowding::new(4, now);
        (0..100).for_each(|_| crowding.note(WINDOW, now, || None));
        assert_eq!(crowding.n_threads(), 4);
    }

    #[test]
    fn tries_without_room_become_rare() {
        let mut machine = Machine::new(2, &[2]);
        machine.run(60.0, 1);
        let average = machine.average(60, 1);
        assert!(average < 1.03, "{average}");
    }
}
