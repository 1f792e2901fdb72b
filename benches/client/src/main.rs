//! The load client of the benchmarks: drives a server with a workload and writes what came back.
//!
//! `bench-client PROTOCOL PORT MODEL < workload.json > report.json`, called by `benches/harness`.
//! Each running session has a thread, which blocks on its own connection. Answers are read only
//! after the clock has stopped, unless a further turn needs them, so that the client takes as little
//! as it can of the cores that it shares with the server.

mod grpc;
mod http;
mod target;
mod workload;

use std::io::{Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use target::{Protocol, Target};
use workload::{Message, Record, Report, Session, Workload};

/// How often a session that may not start yet looks whether it may.
const POLL: Duration = Duration::from_millis(1);

/// The events of an answer as they came, each with its arrival.
#[derive(Clone, Debug, Default)]
pub struct Events {
    pub list: Vec<(Instant, String)>,
    /// Whether the client gave up before the end.
    pub cancelled: bool,
}

/// Told how many events have come; true if the rest is not wanted.
pub type Stop<'a> = dyn Fn(usize) -> bool + 'a;

/// A turn that was sent, and the events that it brought.
struct Exchange {
    session: usize,
    turn: usize,
    sent: Instant,
    ended: Instant,
    events: Result<Events, String>,
}

/// One run of a workload.
struct Run<'a> {
    target: &'a Target,
    workload: &'a Workload,
    start: Instant,
    /// The next session to start.
    next: AtomicUsize,
    /// Sessions not in the background that have not ended.
    n_open: AtomicUsize,
    /// Of each session, whether a response has come.
    has_answered: Vec<AtomicBool>,
    exchanges: Mutex<Vec<Exchange>>,
}

/// A session on its way: what was said so far.
struct Talk<'a> {
    index: usize,
    session: &'a Session,
    messages: Vec<Message>,
    n_turns: usize,
}

impl<'a> Run<'a> {
    fn talk(&self, index: usize) -> Talk<'a> {
        let session = &self.workload.sessions[index];
        Talk {
            index,
            session,
            messages: session.opening(),
            n_turns: 0,
        }
    }

    /// One of the clients of a closed loop: takes the next session until there is none.
    fn client(&self) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.workload.sessions.len() {
                return;
            }
            let mut talk = self.talk(index);
            while self.turn(&mut talk) {}
        }
    }

    /// The one client that takes a turn of each session after the other.
    fn interleaved_client(&self) {
        let mut talks: Vec<_> = (0..self.workload.sessions.len())
            .map(|index| self.talk(index))
            .collect();
        while !talks.is_empty() {
            talks.retain_mut(|talk| self.turn(talk));
        }
    }

    fn may_start(&self, session: &Session) -> bool {
        let is_time = self.start.elapsed() >= Duration::from_millis(session.start_ms);
        let after = session.after.map(|index| &self.has_answered[index]);
        is_time && after.is_none_or(|has_answered| has_answered.load(Ordering::Relaxed))
    }

    fn is_cut(&self, session: &Session) -> bool {
        session.background && self.n_open.load(Ordering::Relaxed) == 0
    }

    /// Runs the next turn of a session; false once there is no further one.
    fn turn(&self, talk: &mut Talk) -> bool {
        let turns = &talk.session.turns;
        let Some(turn) = turns.get(talk.n_turns) else {
            return false;
        };
        while !self.may_start(talk.session) {
            if self.is_cut(talk.session) {
                return false;
            }
            std::thread::sleep(POLL);
        }
        talk.messages.push(Message {
            role: "user",
            content: turn.user.clone(),
        });
        let sent = Instant::now();
        let stop = |n_events| {
            if n_events > 0 {
                self.has_answered[talk.index].store(true, Ordering::Relaxed);
            }
            self.is_cut(talk.session)
        };
        let events = self.target.ask(&talk.messages, turn, &stop);
        let ended = Instant::now();
        let is_last = talk.n_turns + 1 == turns.len();
        if let (false, Ok(events)) = (is_last, &events) {
            let (answer, _) = self.target.read(events);
            talk.messages.push(Message {
                role: "assistant",
                content: answer.text,
            });
        }
        let exchange = Exchange {
            session: talk.index,
            turn: talk.n_turns,
            sent,
            ended,
            events,
        };
        self.exchanges
            .lock()
            .expect("no client panics with it")
            .push(exchange);
        talk.n_turns += 1;
        if is_last && !talk.session.background {
            self.n_open.fetch_sub(1, Ordering::Relaxed);
        }
        !is_last
    }

    fn record(&self, exchange: &Exchange) -> Record {
        let ms = |at: Instant| at.duration_since(self.start).as_secs_f64() * 1000.0;
        let mut record = Record {
            session: exchange.session,
            turn: exchange.turn,
            sent_ms: ms(exchange.sent),
            ended_ms: ms(exchange.ended),
            ..Record::default()
        };
        match &exchange.events {
            Ok(events) => {
                let (answer, arrivals) = self.target.read(events);
                record.answer = answer;
                record.arrivals_ms = arrivals.into_iter().map(ms).collect();
            }
            Err(error) => record.answer.error = Some(error.clone()),
        }
        record
    }
}

fn run(target: &Target, workload: &Workload) -> Report {
    let foreground = workload.sessions.iter().filter(|one| !one.background);
    let run = Run {
        target,
        workload,
        start: Instant::now(),
        next: AtomicUsize::new(0),
        n_open: AtomicUsize::new(foreground.count()),
        has_answered: workload
            .sessions
            .iter()
            .map(|_| AtomicBool::new(false))
            .collect(),
        exchanges: Mutex::new(Vec::new()),
    };
    let cpu_start = cpu_ms();
    std::thread::scope(|scope| {
        if workload.interleaved {
            scope.spawn(|| run.interleaved_client());
        } else {
            for _ in 0..workload.concurrency {
                scope.spawn(|| run.client());
            }
        }
    });
    let wall_ms = run.start.elapsed().as_secs_f64() * 1000.0;
    let cpu_ms = cpu_ms() - cpu_start;
    let exchanges = run.exchanges.lock().expect("no client panicked with it");
    let mut records: Vec<_> = exchanges.iter().map(|one| run.record(one)).collect();
    records.sort_by_key(|record| (record.session, record.turn));
    Report {
        wall_ms,
        cpu_ms,
        records,
    }
}

/// The processor time that this process has used so far.
fn cpu_ms() -> f64 {
    // SAFETY: an all-zero `rusage` is a valid value of this plain struct.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live `rusage`, which the call fills.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    let ms = |time: libc::timeval| time.tv_sec as f64 * 1e3 + time.tv_usec as f64 / 1e3;
    ms(usage.ru_utime) + ms(usage.ru_stime)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [protocol, port, model] = arguments.as_slice() else {
        return Err("usage: bench-client PROTOCOL PORT MODEL < workload > report".into());
    };
    let protocol = Protocol::from_name(protocol)
        .ok_or("the protocols are triton-http, triton-grpc, llama-server")?;
    let target = Target {
        protocol,
        port: port.parse()?,
        model: model.clone(),
    };
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    let workload: Workload = serde_json::from_str(&text)?;
    let report = run(&target, &workload);
    std::io::stdout().write_all(serde_json::to_string(&report)?.as_bytes())?;
    Ok(())
}
