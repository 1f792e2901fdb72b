//! How much of what was sent still waits for the threads of Triton's HTTP front end.
//!
//! That front end hands each response to the thread of its connection over a socket of its own, some 277
//! responses long. While the thread does something else (a model loads on one, a large body is parsed), the
//! socket fills, and what does not fit is lost without a word. Nothing of Triton's API tells of it, but the
//! process can ask its own sockets: the one that grows as a response is sent is that stream's. Used by the
//! delivery thread alone.

use std::io;
use std::time::{Duration, Instant};

use super::sockets::{is_stream_of, open_files, option, queued};

/// The part of a socket's room that streams known to use it may fill.
const SHARE: f64 = 0.25;
/// The part from which streams that are not known to use it wait, too: gRPC's use none.
const SHARE_OF_UNKNOWN: f64 = 0.75;
/// How often such a stream is told to wait before it may try: then its socket is known, or is not this one.
const N_WAITS: u32 = 200;
/// Responses after which what is known of a stream is doubted, where its socket did not grow by them.
const N_DOUBTS: u32 = 8;
/// How often new sockets are looked for at most: the HTTP front end starts after the models.
const LOOK: Duration = Duration::from_secs(1);

/// Which socket a stream's responses go through, as far as that was seen.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Lane {
    fd: Option<i32>,
    /// Responses since the socket was last seen to grow.
    n_unseen: u32,
    /// How often it was told to wait without a known socket.
    n_waits: u32,
}

/// The sockets of this process whose two ends are both its own.
pub(crate) struct Backlog {
    sockets: Vec<Socket>,
    looked: Option<Instant>,
}

struct Socket {
    fd: i32,
    room: u32,
    /// Whether it was seen to grow by a response.
    is_used: bool,
    /// What lay in it before the response that is being sent.
    before: u32,
}

impl Socket {
    fn is_filled(&self, share: f64) -> bool {
        // One that is closed has nobody who could lose something.
        let queued = queued(self.fd).unwrap_or(0);
        f64::from(queued) >= share * f64::from(self.room)
    }
}

impl Backlog {
    pub(crate) fn new() -> Self {
        Self {
            sockets: Vec::new(),
            looked: None,
        }
    }

    /// Whether a response of this stream might be lost if it were sent now.
    pub(crate) fn is_full(&self, lane: &mut Lane) -> bool {
        let mut sockets = self.sockets.iter();
        if let Some(fd) = lane.fd {
            return sockets.any(|socket| socket.fd == fd && socket.is_filled(SHARE));
        }
        let waits = sockets.any(|socket| socket.is_used && socket.is_filled(SHARE_OF_UNKNOWN))
            && lane.n_waits < N_WAITS;
        lane.n_waits = if waits { lane.n_waits + 1 } else { 0 };
        waits
    }

    /// Sends a response, and learns which socket it went through.
    pub(crate) fn watch<R>(&mut self, lane: &mut Lane, send: impl FnOnce() -> R) -> R {
        if let Some(fd) = lane.fd {
            let before = queued(fd).unwrap_or(u32::MAX);
            let sent = send();
            match queued(fd) {
                Some(after) if after > before => lane.n_unseen = 0,
                _ => lane.n_unseen += 1,
            }
            // Its thread may have been quick each time; but then it is soon seen again.
            if lane.n_unseen >= N_DOUBTS {
                *lane = Lane::default();
            }
            return sent;
        }
        self.look_around();
        for socket in &mut self.sockets {
            socket.before = queued(socket.fd).unwrap_or(u32::MAX);
        }
        let sent = send();
        let mut grown = self.sockets.iter_mut().filter(|socket| {
            let after = queued(socket.fd);
            after.is_some_and(|after| after > socket.before)
        });
        // Two: somebody else was sending too.
        if let (Some(socket), None) = (grown.next(), grown.next()) {
            socket.is_used = true;
            lane.fd = Some(socket.fd);
        }
        sent
    }

    fn look_around(&mut self) {
        let now = Instant::now();
        if self.looked.is_some_and(|at| now - at < LOOK) {
            return;
        }
        let is_first = self.looked.is_none();
        self.looked = Some(now);
        let had = !self.sockets.is_empty();
        match inner_sockets() {
            Ok(mut sockets) => {
                for socket in &mut sockets {
                    let known = self.sockets.iter().find(|known| known.fd == socket.fd);
                    socket.is_used = known.is_some_and(|known| known.is_used);
                }
                self.sockets = sockets;
            }
            Err(error) if is_first => log::warn!(
                "the sockets of the HTTP front end cannot be found, so responses may be lost while it loads a \
                 model or reads a large body: /proc/self/fd: {error}"
            ),
            Err(_) => {}
        }
        if !self.sockets.is_empty() && !had {
            log::info!(
                "responses wait while one of the server's {} inner sockets is filling",
                self.sockets.len()
            );
        } else if is_first && self.sockets.is_empty() {
            log::info!(
                "the server has no inner sockets: a response goes out without looking whether its thread is busy"
            );
        }
    }
}

/// All stream sockets of the process that lead to itself.
fn inner_sockets() -> io::Result<Vec<Socket>> {
    let mut sockets = Vec::new();
    for fd in open_files()? {
        if !is_stream_of(fd, libc::AF_UNIX) || !leads_to_ourselves(fd) || queued(fd).is_none() {
            continue;
        }
        let room = option::<libc::c_int>(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, 0);
        let room = room.and_then(|bytes| u32::try_from(bytes).ok());
        sockets.extend(room.filter(|&room| room > 0).map(|room| Socket {
            fd,
            room,
            is_used: false,
            before: 0,
        }));
    }
    Ok(sockets)
}

fn leads_to_ourselves(fd: i32) -> bool {
    let nobody = libc::ucred {
        pid: 0,
        uid: 0,
        gid: 0,
    };
    let peer = option(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, nobody);
    peer.is_some_and(|peer| u32::try_from(peer.pid) == Ok(std::process::id()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// A pair like that which the HTTP front end has for each thread: where it is full, what is written is lost.
    fn pair() -> (UnixStream, UnixStream) {
        let (writer, reader) = UnixStream::pair().expect("a pair of sockets");
        writer.set_nonblocking(true).expect("an open socket");
        (writer, reader)
    }

    fn send(mut writer: &UnixStream) {
        // One that is full loses it, as the front end does.
        let _ = writer.write(&[0; 17]);
    }

    fn fd(socket: &UnixStream) -> Option<i32> {
        Some(socket.as_raw_fd())
    }

    /// One that knows these and looks for no others, as tests run beside it.
    fn backlog_of(sockets: &[&UnixStream]) -> Backlog {
        let found = inner_sockets().expect("a list of open files");
        let is_given = |known: &Socket| sockets.iter().any(|socket| fd(socket) == Some(known.fd));
        let sockets: Vec<_> = found.into_iter().filter(is_given).collect();
        Backlog {
            sockets,
            looked: Some(Instant::now() + Duration::from_secs(3600)),
        }
    }

    #[test]
    fn a_stream_waits_for_its_own_thread_only() {
        let (busy, mut busy_end) = pair();
        let (free, mut free_end) = pair();
        let mut backlog = backlog_of(&[&busy, &busy_end, &free, &free_end]);
        let (mut on_busy, mut on_free) = (Lane::default(), Lane::default());
        let mut message = [0; 17];
        let mut n_sent = 0;
        while !backlog.is_full(&mut on_busy) {
            backlog.watch(&mut on_busy, || send(&busy));
            assert_eq!(on_busy.fd, fd(&busy));
            n_sent += 1;
            assert!(!backlog.is_full(&mut on_free));
            backlog.watch(&mut on_free, || send(&free));
            assert_eq!(on_free.fd, fd(&free));
            free_end.read_exact(&mut message).expect("what was sent");
        }
        assert!(n_sent > 20, "{n_sent}");
        assert!(
            !backlog.is_full(&mut Lane::default()),
            "a new stream finds out"
        );
        for _ in 0..n_sent {
            busy_end.read_exact(&mut message).expect("nothing is lost");
        }
        assert!(!backlog.is_full(&mut on_busy));
    }

    #[test]
    fn a_stream_of_unknown_way_waits_for_none_to_be_nearly_full() {
        let (busy, _busy_end) = pair();
        let mut backlog = backlog_of(&[&busy]);
        let (mut n_sent, mut known) = (0, Lane::default());
        while !backlog.is_full(&mut Lane::default()) {
            backlog.watch(&mut known, || send(&busy));
            n_sent += 1;
        }
        for _ in 0..n_sent / 4 {
            let written = (&busy).write(&[0; 17]);
            assert_eq!(written.ok(), Some(17), "there was room to spare");
        }
        // Nor for ever for one that was taken for the front end's.
        let mut lane = Lane::default();
        let n_waits = (0..).take_while(|_| backlog.is_full(&mut lane)).count();
        assert_eq!(n_waits, N_WAITS as usize);
    }

    #[test]
    fn a_wrong_belief_is_given_up() {
        let (own, _own_end) = pair();
        let (other, _other_end) = pair();
        let mut backlog = backlog_of(&[&own, &other]);
        let mut lane = Lane::default();
        backlog.watch(&mut lane, || send(&other));
        assert_eq!(lane.fd, fd(&other));
        for _ in 0..=N_DOUBTS {
            backlog.watch(&mut lane, || send(&own));
        }
        assert_eq!(lane.fd, fd(&own));
    }

    #[test]
    fn a_response_that_no_socket_grew_by_teaches_nothing() {
        let (one, _one_end) = pair();
        let (two, _two_end) = pair();
        let mut backlog = backlog_of(&[&one, &two]);
        let mut lane = Lane::default();
        backlog.watch(&mut lane, || ());
        assert_eq!(lane.fd, None);
        backlog.watch(&mut lane, || {
            send(&one);
            send(&two);
        });
        assert_eq!(lane.fd, None);
    }

    #[test]
    fn sockets_to_others_are_none_of_the_front_ends() {
        let (one, end) = pair();
        let folder = std::env::temp_dir().join(format!("triton-llm-{}", std::process::id()));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound socket");
        let tcp = std::net::TcpStream::connect(address).expect("a listener");
        let file = fs::File::create(&folder).expect("a folder for what is temporary");
        let found = inner_sockets().expect("a list of open files");
        let is_found = |fd: i32| found.iter().any(|socket| socket.fd == fd);
        assert!(is_found(one.as_raw_fd()) && is_found(end.as_raw_fd()));
        assert!(!is_found(tcp.as_raw_fd()) && !is_found(file.as_raw_fd()));
        fs::remove_file(folder).expect("it is there");
    }

    #[test]
    fn a_closed_socket_holds_nobody() {
        let (busy, busy_end) = pair();
        let mut backlog = backlog_of(&[&busy]);
        let mut lane = Lane::default();
        while !backlog.is_full(&mut lane) {
            backlog.watch(&mut lane, || send(&busy));
        }
        drop(busy_end);
        drop(busy);
        assert!(!backlog.is_full(&mut lane));
    }
}
