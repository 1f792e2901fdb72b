//! Requests of a scenario: as asked, while they run, and what became of them.

use std::ffi::c_int;

use serde_json::Value;

use super::{BYTES, CPU, FINAL, Failure, Fake, PATIENCE_MS, Ptr, text};

/// The value of a request parameter.
#[derive(Clone, Debug)]
pub enum Given {
    Text(&'static str),
    Int(i64),
    Bool(bool),
    Double(f64),
    /// A kind that Triton may have one day.
    Kind(c_int),
    /// A kind and a null pointer.
    Null(c_int),
}

#[derive(Clone, Debug)]
pub struct Input {
    pub name: &'static str,
    pub datatype: c_int,
    pub memory: c_int,
    pub bytes_a_buffer: u64,
    pub bytes: Vec<u8>,
}

/// A request to be.
#[derive(Clone, Debug)]
pub struct Ask {
    pub id: &'static str,
    pub inputs: Vec<Input>,
    pub parameters: Vec<(&'static str, Given)>,
}

impl Ask {
    pub fn empty() -> Self {
        Self {
            id: "",
            inputs: Vec::new(),
            parameters: Vec::new(),
        }
    }

    pub fn text(text: &str) -> Self {
        Self::empty().input("text_input", &[text])
    }

    /// One that goes on for about `n_tokens`, whatever the model would like.
    pub fn long(text: &str, n_tokens: i64) -> Self {
        Self::text(text)
            .with("ignore_eos", Given::Bool(true))
            .with("max_tokens", Given::Int(n_tokens))
    }

    pub fn input(mut self, name: &'static str, elements: &[&str]) -> Self {
        let mut bytes = Vec::new();
        for element in elements {
            bytes.extend(u32::try_from(element.len()).expect("short").to_le_bytes());
            bytes.extend(element.as_bytes());
        }
        self.inputs.push(Input {
            name,
            datatype: BYTES,
            memory: CPU,
            bytes_a_buffer: u64::MAX / 2,
            bytes,
        });
        self
    }

    /// Changes the input added last.
    pub fn but(mut self, change: impl FnOnce(&mut Input)) -> Self {
        change(self.inputs.last_mut().expect("an input"));
        self
    }

    pub fn with(mut self, key: &'static str, value: Given) -> Self {
        self.parameters.push((key, value));
        self
    }
}

/// A request that may be with the library.
pub struct Running<'a> {
    pub(super) fake: &'a Fake,
    pub(super) request: Ptr,
}

impl Running<'_> {
    pub fn cancel(&self) {
        // SAFETY: requests keep their memory until the server stops.
        unsafe { (self.fake.fake_cancel)(self.request) };
    }

    /// Waits for the `n`th response.
    pub fn wait_for(&self, n: u32) {
        // SAFETY: as above.
        let came = unsafe { (self.fake.fake_wait)(self.request, n, PATIENCE_MS) };
        assert!(came, "no response {n}, events {}", self.events());
    }

    pub fn n_responses(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (self.fake.fake_n_responses)(self.request) }
    }

    fn events(&self) -> String {
        // SAFETY: as above.
        text(unsafe { (self.fake.fake_events)(self.request) }).unwrap_or_default()
    }

    /// Takes back a request that Execute refused.
    pub fn take_back(self) {
        assert_eq!(self.events(), "", "nothing was done with it");
        // SAFETY: the request is live and nobody else's.
        unsafe { (self.fake.fake_end)(self.request) };
    }

    /// Waits until nothing of the request is left with the library.
    pub fn end(self) -> Outcome {
        // SAFETY: as above.
        let ended = unsafe { (self.fake.fake_wait)(self.request, 0, PATIENCE_MS) };
        let events = self.events();
        assert!(ended, "the request does not end, events {events}");
        let mut outcome = Outcome {
            replies: Vec::new(),
            error: None,
            events,
            n_dims: Vec::new(),
        };
        let n_responses = self.n_responses();
        for index in 0..n_responses {
            outcome.add(self.response(index), index + 1 == n_responses);
        }
        outcome
    }

    fn response(&self, index: u32) -> Response {
        let (mut bytes, mut message) = (std::ptr::null(), std::ptr::null());
        let (mut n_bytes, mut n_dims, mut flags, mut code) = (0, 0, 0, 0);
        // SAFETY: the fake writes all of them; the bytes live until the server stops.
        unsafe {
            (self.fake.fake_response)(
                self.request,
                index,
                &mut bytes,
                &mut n_bytes,
                &mut n_dims,
                &mut flags,
                &mut code,
                &mut message,
            );
            let reply = (!bytes.is_null()).then(|| {
                let bytes = std::slice::from_raw_parts(bytes.cast::<u8>(), n_bytes as usize);
                serde_json::from_slice(bytes).expect("every reply is JSON")
            });
            let error = text(message).map(|message| (code, message));
            Response {
                reply,
                error,
                n_dims,
                is_final: flags & FINAL != 0,
            }
        }
    }
}

struct Response {
    reply: Option<Value>,
    error: Option<Failure>,
    n_dims: u32,
    is_final: bool,
}

/// What became of a request.
#[derive(Debug)]
pub struct Outcome {
    pub replies: Vec<Value>,
    pub error: Option<Failure>,
    /// c response, F final, S statistics, s statistics of a failure, R release, D factory's end.
    pub events: String,
    pub n_dims: Vec<u32>,
}

impl Outcome {
    fn add(&mut self, response: Response, is_last: bool) {
        let in_place = !response.is_final || is_last;
        assert!(in_place, "FINAL is the last response");
        if let Some(reply) = response.reply {
            self.replies.push(reply);
            self.n_dims.push(response.n_dims);
        }
        if let Some(error) = response.error {
            assert!(is_last, "an error is the last response");
            self.error = Some(error);
        }
    }

    /// Holds that the request ended in order: responses, statistics, release, one FINAL, factory's end.
    #[track_caller]
    pub fn in_order(self) -> Self {
        let rest = self.events.trim_start_matches('c');
        let expected = if self.is_complete() { "SRFD" } else { "sRFD" };
        assert_eq!(rest, expected, "{self:?}");
        self
    }

    fn is_complete(&self) -> bool {
        self.error.is_none()
            && self
                .replies
                .last()
                .is_some_and(|reply| reply["type"] == "complete")
    }

    /// The whole text of a request that completed, streamed or not.
    #[track_caller]
    pub fn text(self) -> String {
        let outcome = self.in_order();
        assert!(outcome.is_complete(), "{outcome:?}");
        let pieces = outcome
            .replies
            .iter()
            .map(|reply| match reply["type"].as_str() {
                Some("chunk" | "complete") => reply["content"].as_str().unwrap_or_default(),
                other => panic!("a reply of type {other:?}"),
            });
        pieces.collect()
    }

    /// The error of a request that failed in order, which must hold `part`.
    #[track_caller]
    pub fn failed(self, code: i32, part: &str) -> Self {
        let outcome = self.in_order();
        match &outcome.error {
            Some((found, message)) if *found == code && message.contains(part) => outcome,
            _ => panic!("expected error {code} with {part:?}: {outcome:?}"),
        }
    }
}
