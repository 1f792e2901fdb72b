//! Chat templates: from messages to the prompt text, as Hugging Face renders them.
//!
//! Made once at load, used by an intake thread for each request. A template is Jinja that came
//! with the model, or with a request to load it, and is not trusted. It reaches nothing outside; its
//! instructions, its recursion, its output, its time and the bytes that it works on are bounded: see `budget`.
//! Messages come from clients and are only data to it. Tokens are no concern here.

mod budget;
mod conversation;
mod expressions;
mod filters;
mod format;
mod json;
mod methods;
mod operators;
mod probe;
mod python;
mod rewrite;
#[cfg(test)]
mod tests;
mod tuple;
mod unguarded;
mod words;
mod writer;

use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use minijinja::value::Value;
use minijinja::{Environment, Error, ErrorKind};
use serde_json::Map;

use self::conversation::Wants;
pub use self::probe::Finding;
use self::writer::Names;
use crate::protocol::Message;

/// What a model without a template of its own gets whose vocabulary has the marks of this one.
pub const CHATML: &str = "{% for message in messages %}<|im_start|>{{ message.role }}\n\
    {{ message.content }}<|im_end|>\n{% endfor %}\
    {% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// What any other model without one gets: the texts of the messages, a line each.
pub const RAW: &str = "{{ messages | map(attribute='content') | join('\n') }}";

/// The mark that ends a turn in [`CHATML`].
pub const CHATML_END: &str = "<|im_end|>";

/// Bytes that the source of a template may have.
const MAX_SOURCE_BYTES: usize = 1024 * 1024;

/// Instructions that one rendering may take: some 50 for each of 4096 messages of real templates,
/// with a wide margin.
const FUEL: u64 = 5_000_000;

/// Bytes that one rendering may make and work on, and this many times the messages' own on top.
const MAX_WORK_BYTES: u64 = 256 << 20;
const MAX_WORK_TIMES: u64 = 64;

/// How long one rendering may take: real templates take milliseconds, and whoever waits behind it waits as long.
const MAX_TIME: Duration = Duration::from_secs(5);

/// Depth of nested macro calls and loops.
const MAX_RECURSION: usize = 200;

/// Bytes that a rendering may add to twice the messages' own.
const MAX_EXTRA_BYTES: usize = 1024 * 1024;

const NAME: &str = "chat";

/// Why a template cannot be used, or not for these messages.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TemplateError {
    #[error("the chat template has {n_bytes} bytes, the limit is {MAX_SOURCE_BYTES}")]
    TooLarge { n_bytes: usize },
    #[error("the chat template is no valid Jinja: {detail}")]
    Syntax { detail: String },
    /// The template itself refuses the messages.
    #[error("the chat template rejects these messages: {message}")]
    Rejected { message: String },
    #[error(
        "the chat template loses the user's text: its prompts for some conversations are without it"
    )]
    LosesText,
    /// What the template calls is not there.
    #[error("the chat template cannot render these messages: {what}")]
    Missing { what: String },
    #[error("the chat template cannot render these messages: {detail}")]
    Render { detail: String },
    #[error("the chat template takes more than {FUEL} instructions for these messages")]
    TooSlow,
    #[error("the chat template makes more than {max_bytes} bytes of these messages")]
    OutputTooLong { max_bytes: usize },
    #[error(
        "the chat template makes values of or works on more than {max_bytes} bytes for these messages"
    )]
    TooMuchWork { max_bytes: u64 },
    #[error("the chat template takes more than {} ms for these messages", limit.as_millis())]
    TooLate { limit: Duration },
}

/// A model's chat template, checked and compiled.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
    names: Names,
    wants: Wants,
}

impl ChatTemplate {
    /// Compiles a template; `bos` and `eos` are the texts of the model's tokens, or empty.
    ///
    /// What it wants of a conversation, [`ChatTemplate::probed`] finds out.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE_BYTES {
            return Err(TemplateError::TooLarge {
                n_bytes: source.len(),
            });
        }
        let mut environment = environment();
        filters::guard(&mut environment);
        let bad = |error: Error| TemplateError::Syntax {
            detail: describe(&error),
        };
        let (source, names) = rewrite::rewritten(&normalised(source)).map_err(bad)?;
        environment.add_template_owned(NAME, source).map_err(bad)?;
        Ok(Self {
            environment,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            names,
            wants: Wants::default(),
        })
    }

    /// The prompt for an answer to these messages.
    pub fn render(&self, messages: &[Message]) -> Result<String, TemplateError> {
        self.render_with(messages, &Map::new())
    }

    /// The same with more variables, which win over all but the messages.
    pub fn render_with(
        &self,
        messages: &[Message],
        kwargs: &Map<String, serde_json::Value>,
    ) -> Result<String, TemplateError> {
        self.render_as(self.wants, messages, kwargs, MAX_TIME)
    }

    /// Renders with these variables as they are, and the model's own tokens.
    pub fn render_variables(
        &self,
        variables: &Map<String, serde_json::Value>,
    ) -> Result<String, TemplateError> {
        let given = variables.iter();
        let given = given.map(|(name, value)| (name.as_str(), Value::from_serialize(value)));
        self.render_values(
            self.tokens().into_iter().chain(given).collect(),
            0,
            MAX_TIME,
        )
    }

    fn tokens(&self) -> [(&str, Value); 2] {
        [
            ("bos_token", self.bos.as_str().into()),
            ("eos_token", self.eos.as_str().into()),
        ]
    }

    fn render_as(
        &self,
        wants: Wants,
        messages: &[Message],
        kwargs: &Map<String, serde_json::Value>,
        limit: Duration,
    ) -> Result<String, TemplateError> {
        let n_bytes = messages.iter().map(Message::n_bytes).sum();
        // Hugging Face passes both always, as none where there are none.
        let mut variables = vec![
            ("tools", wants.tools()),
            ("documents", Value::from(())),
            ("add_generation_prompt", true.into()),
        ];
        variables.extend(self.tokens());
        let more = kwargs.iter();
        variables.extend(more.map(|(name, value)| (name.as_str(), Value::from_serialize(value))));
        variables.push(("messages", wants.messages(messages)));
        self.render_values(variables.into_iter().collect(), n_bytes, limit)
    }

    fn render_values(
        &self,
        variables: Value,
        n_bytes: usize,
        limit: Duration,
    ) -> Result<String, TemplateError> {
        let max_bytes = n_bytes.saturating_mul(2).saturating_add(MAX_EXTRA_BYTES);
        let max_work = (n_bytes as u64).saturating_mul(MAX_WORK_TIMES);
        let max_work = max_work.saturating_add(MAX_WORK_BYTES);
        budget::fill(max_work, Some(Instant::now() + limit));
        let mut output = Bounded {
            bytes: Vec::with_capacity(n_bytes + 1024),
            max_bytes,
        };
        let template = self.environment.get_template(NAME);
        let template = template.expect("`new` added the template");
        match template.render_captured_to(variables, &mut output) {
            Ok(_) => Ok(String::from_utf8_lossy(&output.bytes).into_owned()),
            Err(error) => Err(render_error(&error, max_bytes, max_work, limit)),
        }
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").finish_non_exhaustive()
    }
}

/// What every template finds, unguarded.
fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // White space is dealt with where the template is rewritten.
    environment.set_keep_trailing_newline(true);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_RECURSION);
    // Prompts are plain text: nothing is escaped.
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", strftime_now);
    environment
}

/// What Hugging Face's Jinja reads as plain Jinja does: line ends of every kind are one `\n`, and
/// `{% generation %}`, which marks text to train on, changes nothing.
fn normalised(source: &str) -> String {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut text = String::with_capacity(source.len());
    let mut rest = source.as_str();
    while let Some(start) = rest.find("{%") {
        // Behind the opening, as `{%}` opens and closes nothing.
        let Some(length) = rest[start + 2..].find("%}") else {
            break;
        };
        let end = start + 2 + length + 2;
        let inner = rest[start + 2..end - 2].trim_matches(['-', '+', ' ', '\n', '\t', '\r']);
        let statement = match inner {
            "generation" => "if true",
            "endgeneration" => "endif",
            _ => inner,
        };
        let tag = &rest[start..end];
        text.push_str(&rest[..start]);
        if statement == inner {
            text.push_str(tag);
        } else {
            text.push_str(&tag.replace(inner, statement));
        }
        rest = &rest[end..];
    }
    text.push_str(rest);
    text
}

/// What `raise_exception` was given, found again behind minijinja's error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// Marks an output that grew too long behind the I/O error that stops the rendering.
#[derive(Debug, thiserror::Error)]
#[error("the output is too long")]
struct TooLong;

fn raise_exception(message: String) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Raised(message)))
}

/// The local time, as Python's `datetime.now().strftime(format)`.
fn strftime_now(format: &str) -> Result<String, Error> {
    const MAX_FORMAT_BYTES: usize = 128;
    let invalid = || Error::new(ErrorKind::InvalidOperation, "strftime_now: bad format");
    if format.len() > MAX_FORMAT_BYTES {
        return Err(invalid());
    }
    let format = std::ffi::CString::new(format).map_err(|_| invalid())?;
    let mut buffer = [0u8; 1024];
    // SAFETY: `time` accepts null; `localtime_r` and `strftime` get pointers to live values of
    // their own, `strftime` with the buffer's true size, and it writes no more than that.
    let n_bytes = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut parts: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const now, &raw mut parts);
        libc::strftime(
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            format.as_ptr(),
            &raw const parts,
        )
    };
    Ok(String::from_utf8_lossy(&buffer[..n_bytes]).into_owned())
}

/// An output that refuses to grow past its limit.
struct Bounded {
    bytes: Vec<u8>,
    max_bytes: usize,
}

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > self.max_bytes - self.bytes.len() {
            return Err(io::Error::other(TooLong));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn render_error(error: &Error, max_bytes: usize, max_work: u64, limit: Duration) -> TemplateError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(raised) = cause.downcast_ref::<Raised>() {
            return TemplateError::Rejected {
                message: raised.0.clone(),
            };
        }
        if let Some(spent) = cause.downcast_ref::<budget::Spent>() {
            return match spent {
                budget::Spent::Bytes => TemplateError::TooMuchWork {
                    max_bytes: max_work,
                },
                budget::Spent::Time => TemplateError::TooLate { limit },
            };
        }
        match cause.downcast_ref::<Error>().map(Error::kind) {
            Some(ErrorKind::OutOfFuel) => return TemplateError::TooSlow,
            Some(
                ErrorKind::UnknownMethod
                | ErrorKind::UnknownFilter
                | ErrorKind::UnknownTest
                | ErrorKind::UnknownFunction,
            ) => {
                let what = describe(error);
                return TemplateError::Missing { what };
            }
            _ => {}
        }
        if let Some(io) = cause.downcast_ref::<io::Error>()
            && io.get_ref().is_some_and(|inner| inner.is::<TooLong>())
        {
            return TemplateError::OutputTooLong { max_bytes };
        }
        source = cause.source();
    }
    TemplateError::Render {
        detail: describe(error),
    }
}

/// One line: what is wrong and where in the template.
fn describe(error: &Error) -> String {
    let detail = error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned);
    match error.line() {
        Some(line) => format!("{detail} (line {line})"),
        None => detail,
    }
}
