//! Tests with sockets of this process, such as Triton's HTTP front end has: threads that are busy, clients that leave.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;

use super::*;

/// Hands responses to a thread that may be busy, as the HTTP front end does: what its socket has no room for is
/// lost.
struct SocketWire(UnixStream, FakeWire);

impl Wire for SocketWire {
    fn send(&mut self, tensors: &[Tensor]) -> Result<(), Error> {
        match matches!(self.0.write(&[0; 17]), Ok(17)) {
            true => self.1.send(tensors),
            false => Ok(()),
        }
    }

    fn complete(&mut self, tensors: &[Tensor], times: Times) {
        self.1.complete(tensors, times);
    }

    fn fail(&mut self, error: &Error, times: Times) {
        self.1.fail(error, times);
    }
}

#[test]
fn nothing_is_lost_by_a_thread_that_does_not_read_and_nobody_else_waits_for_it() {
    let (socket, mut thread) = UnixStream::pair().expect("a pair of sockets");
    socket.set_nonblocking(true).expect("an open socket");
    let delivery = start();
    let neighbour = Stream::new(&delivery, true, Fault::None);
    let stream = Stream::through(&delivery, (Some(1), 1), false, |wire| {
        Box::new(SocketWire(socket, wire))
    });
    let mut expected = String::new();
    // Longer than the socket has room for.
    let busy_until = Instant::now() + Duration::from_millis(600);
    while Instant::now() < busy_until {
        stream.push("x");
        expected.push('x');
        neighbour.push("y");
        thread::sleep(STREAM_GAP);
    }
    neighbour.complete();
    let n_of_neighbour = neighbour.end().len();
    stream.complete();
    let n_before: usize = stream.record.try_iter().count();
    assert!(n_before < 150, "{n_before} responses for a busy thread");
    assert!(
        n_of_neighbour > n_before,
        "{n_of_neighbour} of the neighbour's"
    );
    let reader = thread::spawn(move || while matches!(thread.read(&mut [0; 17]), Ok(1..)) {});
    let sent = stream.sent();
    reader.join().expect("no panic");
    let (last, chunks) = sent.split_last().expect("responses");
    assert_eq!(*last, complete(""));
    let n_after: usize = chunks
        .iter()
        .map(|sent| match sent {
            Sent::Chunk(text) => text.len(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert_eq!(n_before + n_after, expected.len());
}

#[test]
fn a_silent_stream_gets_a_response_without_a_text_where_its_client_may_be_gone() {
    let delivery = start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let earlier = Stream::new(&delivery, true, Fault::None);
    thread::sleep(ACCURACY * 5);
    let address = listener.local_addr().expect("a bound socket");
    let mut client = TcpStream::connect(address).expect("a listener");
    let (_connection, _) = listener.accept().expect("a client");
    client.write_all(b"x").expect("an open connection");
    let silent = Stream::new(&delivery, true, Fault::None);
    thread::sleep(ACCURACY * 5);
    let later = Stream::new(&delivery, true, Fault::None);
    let speaking = Stream::new(&delivery, true, Fault::None);
    let whole = Stream::new(&delivery, false, Fault::None);
    speaking.push("a");
    assert_eq!(speaking.next(), chunk("a"));
    let early = silent.record.recv_timeout(LOOK_FOR_HANGUPS * 2);
    assert_eq!(
        early.err(),
        Some(RecvTimeoutError::Timeout),
        "nobody is gone"
    );
    drop(client);
    assert_eq!(silent.next(), chunk(""));
    for stream in [earlier, silent, later, speaking, whole] {
        stream.complete();
        assert_eq!(stream.sent(), [complete("")], "once, and only that one");
    }
}
