//! What a run sends and what it brings back, as JSON.
//!
//! The load client reads and writes it, and so does the driver without a server,
//! `benches/in_process.rs`, which takes this file in by its path. It knows nothing of servers,
//! threads or clocks.

use serde::{Deserialize, Serialize};

/// Everything that one run sends.
#[derive(Clone, Debug, Deserialize)]
pub struct Workload {
    /// Sessions that run at the same time at most; the next one starts when one ends.
    pub concurrency: usize,
    /// One client takes a turn of each session after the other, instead.
    #[serde(default)]
    pub interleaved: bool,
    pub sessions: Vec<Session>,
}

/// One user's conversation: its turns run one after another, each with all that came before.
#[derive(Clone, Debug, Deserialize)]
pub struct Session {
    /// Not before this time after the start of the run.
    #[serde(default)]
    pub start_ms: u64,
    /// Not before the first response of the session of this index.
    #[serde(default)]
    pub after: Option<usize>,
    /// Cut off once all sessions that are not in the background have ended.
    #[serde(default)]
    pub background: bool,
    /// The system prompt, if any.
    #[serde(default)]
    pub system: Option<String>,
    pub turns: Vec<Turn>,
}

/// What a user says, and how it is to be answered.
#[derive(Clone, Debug, Deserialize)]
pub struct Turn {
    pub user: String,
    pub max_tokens: u32,
    /// 0 is greedy.
    #[serde(default)]
    pub temperature: f64,
    /// Give up this long after sending, if the answer has not ended by then.
    #[serde(default)]
    pub cancel_after_ms: Option<u64>,
}

/// One message of a conversation.
#[derive(Clone, Debug, Serialize)]
pub struct Message {
    pub role: &'static str,
    pub content: String,
}

impl Session {
    /// The messages that stand before the first turn.
    pub fn opening(&self) -> Vec<Message> {
        let system = self.system.iter().cloned();
        system
            .map(|content| Message {
                role: "system",
                content,
            })
            .collect()
    }
}

/// The prompt of a conversation in ChatML, which is the template of the random model.
pub fn chatml(messages: &[Message]) -> String {
    let mut prompt = String::new();
    for Message { role, content } in messages {
        prompt.extend(["<|im_start|>", role, "\n", content, "<|im_end|>\n"]);
    }
    prompt + "<|im_start|>assistant\n"
}

/// What came of one turn; times are milliseconds since the start of the run.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Record {
    pub session: usize,
    pub turn: usize,
    pub sent_ms: f64,
    /// When each response with text arrived.
    pub arrivals_ms: Vec<f64>,
    /// When the answer had ended, or was given up.
    pub ended_ms: f64,
    #[serde(flatten)]
    pub answer: Answer,
}

/// An answer as the server gave it, with the server's own counts of tokens.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Answer {
    pub text: String,
    pub prompt_tokens: u64,
    pub cached_tokens: u64,
    pub completion_tokens: u64,
    /// Why the answer is not whole, if it is not.
    pub error: Option<String>,
}

/// What a run writes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    pub wall_ms: f64,
    /// Processor time of the client alone, all of its threads.
    pub cpu_ms: f64,
    pub records: Vec<Record>,
}
