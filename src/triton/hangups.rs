//! Clients over HTTP that hung up while they waited for an answer.
//!
//! Triton's HTTP front end does not look at a connection while its request runs: it notices at the next write that
//! a client is gone, and until then says nothing. The kernel knows, and can be asked for the process's own
//! connections. It cannot say which request a connection belongs to, but when its client last sent something. Used
//! by the delivery thread.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::sockets::{is_stream_of, open_files, option};

/// States of a connection in which the other side sends nothing more: closed by it, or reset.
const CLOSE_WAIT: u8 = 8;
const CLOSE: u8 = 7;

/// Looks for connections that were closed by their clients.
#[derive(Default)]
pub(crate) struct Hangups {
    /// Those seen before: an address of the kernel's that no other open file has.
    known: HashSet<u64>,
}

impl Hangups {
    /// When the clients that hung up since the last look had sent their last bytes.
    ///
    /// Nothing where the process cannot list its open files.
    pub(crate) fn look(&mut self) -> Vec<Instant> {
        let now = Instant::now();
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        for fd in open_files().unwrap_or_default() {
            if !is_stream_of(fd, libc::AF_INET) && !is_stream_of(fd, libc::AF_INET6) {
                continue;
            }
            if let (Some(silent), Some(id)) = (silence_of_closed(fd), inode(fd)) {
                if !self.known.contains(&id) {
                    found.extend(now.checked_sub(silent));
                }
                seen.insert(id);
            }
        }
        self.known = seen;
        found
    }
}

/// For how long nothing has come over a connection that its client closed before it was answered.
fn silence_of_closed(fd: i32) -> Option<Duration> {
    // SAFETY: it is a struct of numbers, for which zeros are values.
    let empty: libc::tcp_info = unsafe { std::mem::zeroed() };
    let info = option(fd, libc::IPPROTO_TCP, libc::TCP_INFO, empty)?;
    let is_closed = matches!(info.tcpi_state, CLOSE_WAIT | CLOSE);
    // Both are times that have passed since, in ms; a connection has sent its last as it was made.
    let is_answered = info.tcpi_last_data_sent < info.tcpi_last_data_recv;
    (is_closed && !is_answered).then(|| Duration::from_millis(info.tcpi_last_data_recv.into()))
}

fn inode(fd: i32) -> Option<u64> {
    // SAFETY: it is a struct of numbers, for which zeros are values; the call writes one, to a live one.
    unsafe {
        let mut status: libc::stat = std::mem::zeroed();
        (libc::fstat(fd, &raw mut status) == 0).then_some(status.st_ino)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    /// A client that asks something, and the server's end of its connection.
    fn ask(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let address = listener.local_addr().expect("a bound socket");
        let mut client = TcpStream::connect(address).expect("a listener");
        let (mut server, _) = listener.accept().expect("a client");
        client.write_all(b"x").expect("an open connection");
        server.read_exact(&mut [0]).expect("a byte");
        (client, server)
    }

    #[test]
    fn a_client_that_hangs_up_is_seen_once_with_the_time_of_its_request() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (mut served, mut connection) = ask(&listener);
        let served_at = Instant::now();
        thread::sleep(Duration::from_millis(300));
        connection.write_all(b"y").expect("an open connection");
        served.read_exact(&mut [0]).expect("an answer");
        let (client, _server) = ask(&listener);
        let asked = Instant::now();
        let (_patient, _other) = ask(&listener);
        let mut hangups = Hangups::default();
        hangups.look();
        thread::sleep(Duration::from_millis(300));
        drop(client);
        drop(served);
        let deadline = Instant::now() + Duration::from_secs(30);
        // Other tests have connections of their own.
        let is_of = |at: Instant| {
            move |found: &Instant| found.max(&at).duration_since(*found.min(&at)).as_millis() < 100
        };
        loop {
            let found = hangups.look();
            assert!(!found.iter().any(is_of(served_at)), "it has its answer");
            if found.iter().any(is_of(asked)) {
                break;
            }
            assert!(Instant::now() < deadline, "nobody hung up");
            thread::sleep(Duration::from_millis(5));
        }
        assert!(!hangups.look().iter().any(is_of(asked)));
    }
}
