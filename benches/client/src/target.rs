//! Whom the client talks to: how a question is put, and how an answer's events are read.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::grpc::{self, ParameterChoice};
use crate::workload::{Answer, Message, Turn, chatml};
use crate::{Events, Stop, http};

/// A server on this machine and the protocol to use.
#[derive(Clone, Debug)]
pub struct Target {
    pub protocol: Protocol,
    pub port: u16,
    /// The name of the model; llama-server has no use for it.
    pub model: String,
}

/// How a server is spoken to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// Triton's `generate_stream`.
    TritonHttp,
    /// Triton's `ModelStreamInfer`.
    TritonGrpc,
    /// llama-server's `/completion`; the client applies the chat template.
    LlamaServer,
}

impl Protocol {
    /// The protocol of this name on the command line.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "triton-http" => Some(Self::TritonHttp),
            "triton-grpc" => Some(Self::TritonGrpc),
            "llama-server" => Some(Self::LlamaServer),
            _ => None,
        }
    }
}

impl Target {
    /// Puts a question and waits for the end of the answer, which is not read yet.
    pub fn ask(&self, messages: &[Message], turn: &Turn, stop: &Stop) -> Result<Events, String> {
        let limit = turn.cancel_after_ms.map(Duration::from_millis);
        let deadline = limit.map(|limit| Instant::now() + limit);
        match self.protocol {
            Protocol::TritonHttp => {
                let body = json!({
                    "text_input": json!(messages).to_string(),
                    "parameters": {
                        "streaming": true,
                        "max_tokens": turn.max_tokens,
                        "temperature": turn.temperature,
                        "ignore_eos": true,
                    },
                });
                let path = format!("/v2/models/{}/generate_stream", self.model);
                http::post(self.port, &path, &body.to_string(), deadline, stop)
                    .map_err(|error| error.to_string())
            }
            Protocol::LlamaServer => {
                let body = json!({
                    "prompt": chatml(messages),
                    "stream": true,
                    "n_predict": turn.max_tokens,
                    "temperature": turn.temperature,
                    "ignore_eos": true,
                });
                http::post(self.port, "/completion", &body.to_string(), deadline, stop)
                    .map_err(|error| error.to_string())
            }
            Protocol::TritonGrpc => {
                let parameters = vec![
                    ("max_tokens", ParameterChoice::Int(turn.max_tokens.into())),
                    ("temperature", ParameterChoice::Double(turn.temperature)),
                    ("ignore_eos", ParameterChoice::Bool(true)),
                ];
                let request = grpc::request(&self.model, &json!(messages).to_string(), parameters);
                grpc::stream_infer(self.port, request, deadline, stop)
                    .map_err(|error| error.to_string())
            }
        }
    }

    /// Reads the events of an answer, and which of them carried text.
    pub fn read(&self, events: &Events) -> (Answer, Vec<Instant>) {
        let mut answer = Answer::default();
        let mut arrivals = Vec::new();
        if events.cancelled {
            answer.error = Some("cancelled".to_owned());
        }
        for (arrived, data) in &events.list {
            let Ok(event) = serde_json::from_str::<Value>(data) else {
                answer.error = Some(format!("not JSON: {data}"));
                continue;
            };
            let has_text = match self.protocol {
                Protocol::LlamaServer => read_llama_server(&event, &mut answer),
                Protocol::TritonGrpc => read_message(&event, &mut answer),
                Protocol::TritonHttp => match event["text_output"].as_str() {
                    Some(text) => {
                        let message = serde_json::from_str(text).unwrap_or_default();
                        read_message(&message, &mut answer)
                    }
                    None => {
                        answer.error = Some(data.clone());
                        false
                    }
                },
            };
            if has_text {
                arrivals.push(*arrived);
            }
        }
        (answer, arrivals)
    }
}

/// A message of triton-llm's protocol; true if it carries text.
fn read_message(message: &Value, answer: &mut Answer) -> bool {
    match message["type"].as_str() {
        Some("chunk") => {
            answer.text += message["content"].as_str().unwrap_or_default();
            return true;
        }
        Some("complete") => {
            let usage = &message["usage"];
            answer.prompt_tokens = count(&usage["prompt_tokens"]);
            answer.completion_tokens = count(&usage["completion_tokens"]);
            answer.cached_tokens = count(&usage["prompt_tokens_details"]["cached_tokens"]);
        }
        _ => answer.error = Some(message.to_string()),
    }
    false
}

/// An event of llama-server's `/completion`; true if it carries text.
fn read_llama_server(event: &Value, answer: &mut Answer) -> bool {
    if let Some(error) = event.get("error") {
        answer.error = Some(error.to_string());
        return false;
    }
    if event["stop"] == true {
        let timings = &event["timings"];
        answer.cached_tokens = count(&timings["cache_n"]);
        answer.prompt_tokens = count(&timings["prompt_n"]) + answer.cached_tokens;
        answer.completion_tokens = count(&timings["predicted_n"]);
    }
    let text = event["content"].as_str().unwrap_or_default();
    answer.text += text;
    !text.is_empty()
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}
