//! The engine without a server: drives scheduler and runner as the worker thread does.
//!
//! `in_process run CONFIG < workload > report` plays a workload of single turns, on one thread and
//! with prompts that are tokens already: what it reaches is what the server can reach at best.
//! `in_process suffix CONFIG < texts` times the last tokens of a prompt alone, on top of what is
//! computed of it: what a perfect prefix cache would leave to do. Called by `benches/harness`, which
//! also writes CONFIG.

#[path = "client/src/workload.rs"]
mod workload;

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::json;
use triton_llm::engine::{
    Ended, Event, Limits, NewSequence, Plan, Row, Scheduler, SequenceId, SlotId, Token,
};
use triton_llm::llama::{ContextParams, FlashAttention, LoadParams, Model, Runner};
use triton_llm::protocol::SamplingParams;

use workload::{Message, Record, Report, Session, Workload, chatml};

/// llama.cpp's tokenizers recurse.
const STACK_BYTES: usize = 64 << 20;

/// The engine's settings, by the names of the model configuration.
#[derive(Deserialize)]
struct Config {
    model: PathBuf,
    n_parallel: usize,
    n_ctx: usize,
    n_batch: usize,
    n_ubatch: usize,
    n_threads: u32,
    kv_unified: bool,
    target_itl_ms: u64,
}

/// What a prompt is made of for `suffix`.
#[derive(Deserialize)]
struct Texts {
    /// Computed before the clock starts.
    history: String,
    /// Computed on the clock.
    suffix: String,
}

/// Where the engine's thread spent its time.
#[derive(Default, Serialize)]
struct Times {
    n_steps: usize,
    n_tokens: u64,
    schedule_and_apply_ms: f64,
    run_ms: f64,
    /// The part of `run_ms` that llama.cpp computed in.
    decode_ms: f64,
    longest_step_ms: f64,
}

fn load(config: &Config) -> Result<(Arc<Model>, Runner), Box<dyn Error + Send + Sync>> {
    triton_llm::llama::init()?;
    let model = Arc::new(Model::load(&config.model, &LoadParams::default())?);
    let params = ContextParams {
        n_slots: config.n_parallel,
        n_cells: config.n_ctx,
        kv_unified: config.kv_unified,
        n_batch: config.n_batch,
        n_ubatch: config.n_ubatch,
        n_threads: config.n_threads,
        flash_attention: FlashAttention::On,
        ..ContextParams::default()
    };
    let runner = Runner::new(Arc::clone(&model), &params)?;
    Ok((model, runner))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A run of a workload on the engine.
struct Driver {
    scheduler: Scheduler,
    runner: Runner,
    workload: Workload,
    /// Sessions that have not started, in order, with their prompts.
    waiting: VecDeque<(usize, Vec<Token>)>,
    running: HashMap<SequenceId, Record>,
    ended: Vec<Record>,
    times: Times,
    start: Instant,
}

impl Driver {
    fn new(config: &Config, workload: Workload) -> Result<Self, Box<dyn Error + Send + Sync>> {
        let (model, runner) = load(config)?;
        let mut waiting = VecDeque::new();
        for (index, session) in workload.sessions.iter().enumerate() {
            let [turn] = session.turns.as_slice() else {
                return Err("only sessions of one turn run without a server".into());
            };
            if workload.interleaved || turn.cancel_after_ms.is_some() {
                return Err("nothing is interleaved or cancelled without a server".into());
            }
            let mut messages = session.opening();
            messages.push(Message {
                role: "user",
                content: turn.user.clone(),
            });
            waiting.push_back((index, model.tokenize_prompt(&chatml(&messages))?));
        }
        let limits = Limits {
            n_slots: config.n_parallel,
            n_kept: runner.n_kept(),
            n_cells: runner.n_cells(),
            sharing: runner.sharing(),
            n_host: 1 << 20,
            n_batch: runner.n_batch(),
            target_itl: Duration::from_millis(config.target_itl_ms),
            ..Limits::default()
        };
        Ok(Self {
            scheduler: Scheduler::new(limits),
            runner,
            workload,
            waiting,
            running: HashMap::new(),
            ended: Vec::new(),
            times: Times::default(),
            start: Instant::now(),
        })
    }

    fn run(mut self) -> Result<serde_json::Value, Box<dyn Error + Send + Sync>> {
        self.start = Instant::now();
        let decoded = self.runner.decode_time();
        while self.has_foreground() {
            self.admit()?;
            if self.scheduler.is_idle() {
                std::thread::sleep(Duration::from_millis(1));
            } else {
                self.step()?;
            }
        }
        self.times.decode_ms = milliseconds(self.runner.decode_time() - decoded);
        let wall_ms = milliseconds(self.start.elapsed());
        // What ran in the background is cut here.
        self.ended.extend(self.running.into_values());
        self.ended.sort_by_key(|record| record.session);
        let report = Report {
            wall_ms,
            cpu_ms: 0.0,
            records: self.ended,
        };
        let mut value = serde_json::to_value(report)?;
        value["engine"] = serde_json::to_value(self.times)?;
        Ok(value)
    }

    fn has_foreground(&self) -> bool {
        let sessions = &self.workload.sessions;
        let waiting = self.waiting.iter().map(|(index, _)| *index);
        let running = self.running.values().map(|record| record.session);
        waiting
            .chain(running)
            .any(|index| !sessions[index].background)
    }

    /// Submits the sessions whose time has come, as far as the clients of the closed loop are free.
    fn admit(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        while self.running.len() < self.workload.concurrency
            && let Some(&(index, _)) = self.waiting.front()
            && self.may_start(&self.workload.sessions[index])
            && let Some((index, prompt)) = self.waiting.pop_front()
        {
            let turn = &self.workload.sessions[index].turns[0];
            let sampling = SamplingParams {
                temperature: turn.temperature as f32,
                ignore_eos: true,
                ..SamplingParams::default()
            };
            let id = SequenceId(index as u64);
            let sampler = self.runner.model().sampler(&sampling, &prompt)?;
            self.runner.open(id, sampler);
            self.scheduler.submit(NewSequence {
                max_tokens: Some(turn.max_tokens),
                ..NewSequence::new(id, prompt)
            })?;
            let record = Record {
                session: index,
                sent_ms: milliseconds(self.start.elapsed()),
                ..Record::default()
            };
            self.running.insert(id, record);
        }
        Ok(())
    }

    fn may_start(&self, session: &Session) -> bool {
        let is_time = self.start.elapsed() >= Duration::from_millis(session.start_ms);
        let mut records = self.running.values().chain(&self.ended);
        let has_answered =
            |index| records.any(|record| record.session == index && !record.arrivals_ms.is_empty());
        is_time && session.after.is_none_or(has_answered)
    }

    fn step(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        let begin = Instant::now();
        let plan = self.scheduler.schedule(begin);
        let planned = Instant::now();
        let out = self.runner.run(&plan)?;
        let ran = Instant::now();
        let events = self.scheduler.apply(&out, ran);
        let end = Instant::now();
        for event in events {
            self.handle(event);
        }
        let times = &mut self.times;
        times.n_steps += 1;
        times.n_tokens += out.len() as u64;
        times.schedule_and_apply_ms += milliseconds((planned - begin) + (end - ran));
        times.run_ms += milliseconds(ran - planned);
        times.longest_step_ms = times.longest_step_ms.max(milliseconds(end - begin));
        Ok(())
    }

    fn handle(&mut self, event: Event) {
        let now = milliseconds(self.start.elapsed());
        if let Some(record) = self.running.get_mut(&event.sequence) {
            let texts = event.chosen.iter().map(|chosen| &chosen.text);
            for text in texts.filter(|text| !text.is_empty()) {
                record.arrivals_ms.push(now);
                record.answer.text += text;
            }
        }
        if let Some(Ended { usage, .. }) = event.end {
            self.runner.close(event.sequence);
            if let Some(mut record) = self.running.remove(&event.sequence) {
                record.ended_ms = now;
                record.answer.prompt_tokens = usage.prompt_tokens.into();
                record.answer.cached_tokens = usage.cached_tokens.into();
                record.answer.completion_tokens = usage.completion_tokens.into();
                self.ended.push(record);
            }
        }
    }
}

/// Computes the history, then times the suffix up to the choice of a token.
fn suffix(
    config: &Config,
    texts: &Texts,
) -> Result<serde_json::Value, Box<dyn Error + Send + Sync>> {
    let (model, mut runner) = load(config)?;
    let history = model.tokenize_prompt(&texts.history)?;
    let all = model.tokenize_prompt(&[&*texts.history, &texts.suffix].concat())?;
    let sequence = SequenceId(0);
    runner.open(sequence, model.sampler(&SamplingParams::default(), &all)?);
    let rows: Vec<Row> = all
        .iter()
        .zip(0..)
        .map(|(&token, pos)| Row {
            sequence,
            slot: SlotId(0),
            token,
            pos,
            output: pos as usize + 1 == all.len(),
        })
        .collect();
    let (before, timed) = rows.split_at(history.len());
    compute(&mut runner, config.n_batch, before)?;
    let begin = Instant::now();
    compute(&mut runner, config.n_batch, timed)?;
    Ok(
        json!({"n_history": before.len(), "n_tokens": timed.len(), "ms": milliseconds(begin.elapsed())}),
    )
}

fn compute(
    runner: &mut Runner,
    n_batch: usize,
    rows: &[Row],
) -> Result<(), Box<dyn Error + Send + Sync>> {
    for rows in rows.chunks(n_batch) {
        let rows = rows.to_vec();
        runner.run(&Plan {
            rows,
            ..Plan::default()
        })?;
    }
    Ok(())
}

fn run() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [mode, config] = arguments.as_slice() else {
        return Err("usage: in_process run|suffix CONFIG < input; `make bench` calls it".into());
    };
    let config: Config = serde_json::from_str(config)?;
    let input = std::io::read_to_string(std::io::stdin())?;
    let report = match mode.as_str() {
        "run" => Driver::new(&config, serde_json::from_str(&input)?)?.run()?,
        "suffix" => suffix(&config, &serde_json::from_str(&input)?)?,
        _ => return Err("the modes are run and suffix".into()),
    };
    println!("{report}");
    Ok(())
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    thread
        .spawn(run)?
        .join()
        .map_err(|_| "the driver panicked")?
}
