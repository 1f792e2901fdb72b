"""SIGTERM at bad moments: the server ends within its exit timeout, with status 0.

Clients that vanish, that read nothing or that are just done, and copies of the library in one process.
STOP_ROUNDS sets how often every way of leaving is tried: 1, or 10 for a full run.
"""

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from repository import config, make_model
from server import LIBRARY, MODEL, Server
from streams import GrpcStreams

ROUNDS = int(os.environ.get("STOP_ROUNDS", "1"))
#: A minute's work for the demo model.
LONG = {"ignore_eos": True, "temperature": 0, "max_tokens": 12000}
LONG_CONTEXT = {"n_ctx": 65536, "n_parallel": 8}
EXIT_TIMEOUT = 6
N_STREAMS = 8
#: Seconds between a client's departure and the signal.
DELAYS = [0, 0.003, 0.1]
RESET = (socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


class Stream:
    """A socket with one request, without a client library that would close or read it by itself."""

    def __init__(self, server, **parameters):
        body = json.dumps({"text_input": "Count to 200", "parameters": {**LONG, **parameters}})
        lines = [
            f"POST /v2/models/{MODEL}/generate_stream HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        self.socket = socket.socket()
        # So little that a client that does not read holds the server's writes up.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(30)
        self.socket.connect(("127.0.0.1", server.http_port))
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
        self.received = b""

    def read_until(self, text):
        while text not in self.received:
            data = self.socket.recv(4096)
            assert data, self.received[-200:]
            self.received += data

    def close(self):
        self.socket.close()

    def reset(self):
        self.socket.setsockopt(*RESET)
        self.socket.close()


class Relay:
    """Carries one connection to the server, until it is cut."""

    def __init__(self, port):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:{}".format(self.listener.getsockname()[1])
        threading.Thread(target=self.carry, args=(port,), daemon=True).start()

    def carry(self, port):
        self.client = self.listener.accept()[0]
        self.server = socket.create_connection(("127.0.0.1", port))
        for ends in [(self.client, self.server), (self.server, self.client)]:
            threading.Thread(target=self.pump, args=ends, daemon=True).start()

    def pump(self, source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass

    def cut(self):
        for end in (self.listener, self.server, self.client):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            end.close()


def terminate(server):
    server.process.send_signal(signal.SIGTERM)


def status_of(server):
    """The exit status of a server that was told to stop."""
    try:
        return server.process.wait(EXIT_TIMEOUT + 10)
    except subprocess.TimeoutExpired:
        return "still running"


def running_streams(server):
    streams = [Stream(server) for _ in range(N_STREAMS)]
    for stream in streams:
        stream.read_until(b"data: ")
    return streams


def http_dead(server, delay):
    for stream in running_streams(server):
        stream.close()
    time.sleep(delay)
    terminate(server)


def http_reset(server, delay):
    for stream in running_streams(server):
        stream.reset()
    time.sleep(delay)
    terminate(server)


def http_dies_later(server, delay):
    streams = running_streams(server)
    terminate(server)
    # While the signal is held up: what comes later is Triton's own race, see docs/troubleshooting.md.
    time.sleep(0.5 + delay)
    for stream in streams:
        stream.close()


def http_dead_before_its_first_token(server, delay):
    for stream in [Stream(server) for _ in range(N_STREAMS)]:
        stream.close()
    time.sleep(delay)
    terminate(server)


def http_silent_then_dead(server, delay):
    streams = [Stream(server) for _ in range(N_STREAMS)]
    time.sleep(delay)
    terminate(server)
    time.sleep(random.uniform(0, 3))
    for stream in streams:
        stream.close()


def http_just_done(server, delay):
    streams = [Stream(server, max_tokens=random.randint(3, 30)) for _ in range(N_STREAMS)]
    for stream in streams:
        stream.read_until(b"\r\n0\r\n\r\n")
        stream.close()
    time.sleep(delay)
    terminate(server)


def http_done_later(server, delay):
    streams = [Stream(server, max_tokens=60) for _ in range(N_STREAMS)]
    for stream in streams:
        stream.read_until(b"data: ")
    terminate(server)
    for stream in streams:
        stream.read_until(b"\r\n0\r\n\r\n")
        stream.close()
        assert b'\\"complete\\"' in stream.received


def grpc_streams(server):
    relay = Relay(server.grpc_port)
    streams = GrpcStreams(relay.address)
    for number in range(N_STREAMS):
        streams.send("Count to 200", request_id=str(number), **LONG | {"temperature": "0"})
    while not all(answer.messages for answer in streams.answers.values()):
        streams.next()
    return relay, streams


def grpc_dead(server, delay):
    relay, streams = grpc_streams(server)
    relay.cut()
    time.sleep(delay)
    terminate(server)
    streams.close()


def grpc_dies_later(server, delay):
    relay, streams = grpc_streams(server)
    terminate(server)
    time.sleep(1 + delay)
    relay.cut()
    streams.close()


WAYS = [
    http_dead,
    http_reset,
    http_dies_later,
    http_dead_before_its_first_token,
    http_silent_then_dead,
    http_just_done,
    http_done_later,
    grpc_dead,
    grpc_dies_later,
]


@pytest.fixture
def demo_repository(repository):
    make_model(repository, config(**LONG_CONTEXT))
    return repository


def each(count, task, cases):
    """Runs a task for each case, some at a time, so that threads are held up at odd moments."""
    with ThreadPoolExecutor(count) as pool:
        failures = [future for future in [pool.submit(task, *case) for case in cases] if future.exception()]
    assert not failures, f"{len(failures)} of {len(cases)} failed, as: {failures[0].exception()}"


@pytest.mark.timeout(60 + 60 * ROUNDS)
def test_stop_while_clients_leave(demo_repository):
    """Every way of leaving at every delay."""

    def stop(leave, delay):
        with Server(demo_repository, f"--exit-timeout-secs={EXIT_TIMEOUT}") as server:
            leave(server, delay)
            status = status_of(server)
            assert status == 0, (leave.__name__, delay, status, server.log()[-2000:])

    cases = [(leave, delay) for delay in DELAYS for leave in WAYS] * ROUNDS
    random.shuffle(cases)
    each(6, stop, cases)


#: What is done before the signal: loads, questions and unloads of models with a library each.
ORDERS = [
    "load a, load b, ask a, ask b, ask a",
    "load a, ask a, unload a, load b, ask b, load a, ask a, ask b",
    "load b, load c, ask c, unload c, ask b, load c, load a, ask a, unload b, ask c",
    "load a, load b, ask b, unload b, unload a",
]


def carry_out(server, order):
    """Returns the models that are loaded after it."""
    loaded = []
    for command in order.split(", "):
        verb, model = command.split()
        if verb == "ask":
            assert server.good_answer(model)
            continue
        status, reply = getattr(server, verb)(model)
        assert status == 200, reply
        if verb == "load":
            loaded.append(model)
        else:
            server.wait_unloaded(model)
            loaded.remove(model)
    return loaded


def test_stop_with_copies_of_the_library(repository):
    """Each model has a library of its own, as docs/operation.md allows; idle, and with a stream on every model."""
    for name in "abc":
        make_model(repository, config(name=name, **LONG_CONTEXT), name=name, library=LIBRARY)

    def stop(order, is_idle):
        arguments = ["--model-control-mode=explicit", f"--exit-timeout-secs={EXIT_TIMEOUT}"]
        with Server(repository, *arguments) as server:
            loaded = carry_out(server, order)
            streams = [] if is_idle else [server.open_stream("Count to 200", model, **LONG) for model in loaded]
            for stream in streams:
                assert stream.next()["type"] == "chunk"
            terminate(server)
            for stream in streams:
                assert "shutting down" in stream.read().error
                stream.close()
            status = status_of(server)
            assert status == 0, (order, is_idle, status, server.log()[-2000:])

    each(4, stop, [(order, is_idle) for order in ORDERS for is_idle in (True, False)])
