//! Server-sent events over HTTP/1.1: one connection for each request, read on the caller's thread.
//!
//! The little of HTTP that a load client needs, so that the client's own work stays small and known.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::{Events, Stop};

/// A deadline that no run reaches, for requests without one.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

/// Posts `body` and collects the events of the reply until its end, `deadline`, or `stop` says so.
pub fn post(
    port: u16,
    path: &str,
    body: &str,
    deadline: Option<Instant>,
    stop: &Stop,
) -> Result<Events> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n\
         Accept: text/event-stream\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
    let mut reader = Reader {
        inner: BufReader::new(stream),
        deadline,
    };
    let head = reader.head()?;
    if head.status != 200 {
        let text = reader.rest(head.n_bytes)?;
        return Err(Error::other(format!("status {}: {text}", head.status)));
    }
    reader.events(stop)
}

/// What the client needs of a reply's head.
struct Head {
    status: u16,
    /// The length of the body, where it is known.
    n_bytes: Option<u64>,
}

struct Reader {
    inner: BufReader<TcpStream>,
    deadline: Option<Instant>,
}

impl Reader {
    fn head(&mut self) -> Result<Head> {
        let status = self.line()?;
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| Error::other("no HTTP status"))?;
        let mut n_bytes = None;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                return Ok(Head { status, n_bytes });
            }
            if let Some(length) = line.strip_prefix("content-length:") {
                n_bytes = length.trim().parse().ok();
            }
        }
    }

    /// The events of a chunked body, each with its arrival; an event ends with an empty line.
    fn events(&mut self, stop: &Stop) -> Result<Events> {
        let mut events = Events::default();
        let mut pending = Vec::new();
        while !stop(events.list.len()) {
            let n_bytes = match self.line() {
                Ok(line) => usize::from_str_radix(&line, 16).map_err(Error::other)?,
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    events.cancelled = true;
                    break;
                }
                Err(error) => return Err(error),
            };
            if n_bytes == 0 {
                return Ok(events);
            }
            let start = pending.len();
            pending.resize(start + n_bytes + 2, 0);
            self.inner.read_exact(&mut pending[start..])?;
            pending.truncate(start + n_bytes);
            let now = Instant::now();
            while let Some(at) = pending.windows(2).position(|pair| pair == b"\n\n") {
                let event: Vec<u8> = pending.drain(..at + 2).collect();
                let text = String::from_utf8_lossy(&event);
                if let Some(data) = text.trim().strip_prefix("data: ") {
                    events.list.push((now, data.to_owned()));
                }
            }
        }
        Ok(events)
    }

    /// A line without its end; an error of kind `TimedOut` at the deadline.
    fn line(&mut self) -> Result<String> {
        let left = self.deadline.map_or(FOREVER, |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.inner.get_ref().set_read_timeout(Some(left))?;
        let mut line = String::new();
        match self.inner.read_line(&mut line) {
            Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(line.trim_end().to_owned()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
            Err(error) => Err(error),
        }
    }

    fn rest(&mut self, n_bytes: Option<u64>) -> Result<String> {
        let mut text = String::new();
        let limit = n_bytes.unwrap_or(1 << 16);
        self.inner.by_ref().take(limit).read_to_string(&mut text)?;
        Ok(text)
    }
}
