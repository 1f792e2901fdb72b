"""Clients that leave: the sequence ends at the next step, its slot is free, its neighbours notice nothing."""

import json
import signal
import socket
import subprocess
import sys
import time

import pytest
from repository import config
from server import MODEL
from streams import GrpcStreams

#: A minute's work for the demo model.
LONG = {"ignore_eos": True, "temperature": 0, "max_tokens": 12000}
#: The same for gRPC, whose client sends no floating-point numbers.
LONG_GRPC = {**LONG, "temperature": "0"}
NEIGHBOUR = "Tell me a long story"
#: Far less than LONG takes, far more than a step.
PROMPTLY = 5


@pytest.fixture
def server(start):
    """One slot for a request to hold and one for a neighbour."""
    return start(config(n_parallel=2, n_ctx=16384))


def wait_for_failures(server, n, timeout=PROMPTLY):
    """Waits until n requests have been counted as failed: those that left, as what ends by itself is a success."""
    end = time.monotonic() + timeout
    while True:
        metrics = server.metrics()
        failed = metrics["nv_inference_request_failure", MODEL]
        pending = metrics["nv_inference_pending_request_count", MODEL]
        assert failed <= n, metrics
        if failed == n:
            return pending
        assert time.monotonic() < end, f"{failed} of {n} have ended as cancelled after {timeout} s"
        time.sleep(0.02)


def wait_for_free_slots(server, n=2, timeout=PROMPTLY):
    """Waits until n requests can run at the same time, which shows that their slots are free."""
    end = time.monotonic() + timeout
    streams = [server.open_stream(NEIGHBOUR, temperature=0, max_tokens=100) for _ in range(n)]
    try:
        for stream in streams:
            assert stream.next()["type"] == "chunk"
            assert time.monotonic() < end, f"no slot is free after {timeout} s"
        for stream in streams:
            assert stream.read().whole()
    finally:
        for stream in streams:
            stream.close()


def with_neighbour(server, leave):
    """Runs `leave` while a neighbour streams, and compares the neighbour's text."""
    alone = server.stream(NEIGHBOUR, temperature=0).whole()
    neighbour = server.open_stream(NEIGHBOUR, temperature=0)
    assert neighbour.next()["type"] == "chunk"
    leave()
    wait_for_failures(server, 1)
    assert neighbour.read().whole() == alone
    neighbour.close()
    wait_for_free_slots(server)


def grpc_cancel_in_decode(server):
    streams = GrpcStreams(server.grpc)
    streams.send("Count to 200", **LONG_GRPC)
    assert streams.next()[1]["type"] == "chunk"
    streams.close()


def grpc_cancel_in_prefill(server):
    streams = GrpcStreams(server.grpc)
    # A second and a half to read, in a dozen steps.
    streams.send("word " * 3000, **LONG_GRPC | {"max_tokens": 100})
    time.sleep(0.1)
    streams.close()


def http_close_in_decode(server):
    stream = server.open_stream("Count to 200", **LONG)
    assert stream.next()["type"] == "chunk"
    stream.close()


def http_close_in_prefill(server):
    stream = server.open_stream("word " * 500, **LONG)
    time.sleep(0.02)
    stream.close()


def http_reset(server):
    """The client's kernel answers our data with a reset."""
    stream = server.open_stream("Count to 200", **LONG)
    assert stream.next()["type"] == "chunk"
    stream.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    stream.close()


def killed_client(server):
    """A client process that dies with its streams open."""
    program = f"""
import sys
sys.path[:0] = {sys.path!r}
from http_stream import HttpStream
from streams import GrpcStreams
stream = HttpStream({server.http_port}, "/v2/models/{MODEL}/generate_stream",
                    {{"text_input": "Count to 200", "parameters": {LONG!r}}})
stream.next()
print("started", flush=True)
while True:
    stream.next()
"""
    client = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout.readline() == "started\n"
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait(10)
        client.stdout.close()


WAYS = [
    grpc_cancel_in_decode,
    grpc_cancel_in_prefill,
    http_close_in_decode,
    http_close_in_prefill,
    http_reset,
    killed_client,
]


def statistics(server):
    return json.loads(server.get(f"/v2/models/{MODEL}/stats")[1])["model_stats"][0]["inference_stats"]


@pytest.mark.parametrize("leave", WAYS, ids=lambda way: way.__name__)
def test_leaving(server, leave):
    with_neighbour(server, lambda: leave(server))


def test_grpc_cancel_while_queued(start):
    """A request that waits for the one slot is taken back and never runs."""
    server = start(config(n_parallel=1, n_ctx=16384))
    holder = server.open_stream("Count to 200", **LONG)
    assert holder.next()["type"] == "chunk"
    queued = GrpcStreams(server.grpc)
    queued.send("Count to 200", **LONG_GRPC)
    time.sleep(0.1)
    queued.close()
    wait_for_failures(server, 1)
    # The holder has run all the while.
    assert holder.next()["type"] == "chunk"
    assert server.metrics()["nv_inference_request_success", MODEL] == 0
    holder.close()
    wait_for_failures(server, 2)
    wait_for_free_slots(server, n=1)


def test_a_client_that_leaves_during_a_long_prompt(start):
    """Over HTTP too it is noticed while the prompt is read, and nobody else sees anything of it."""
    server = start(config(n_parallel=2, n_ctx=65536, target_itl_ms=200))
    words = 4000
    with server.open_stream("other " * words, timeout=200, **LONG) as stream:
        assert stream.next()["content"]
        whole = stream.answer.times[0] - stream.answer.sent
    wait_for_failures(server, 1)
    left = server.open_stream("word " * words, **LONG)
    time.sleep(0.3)
    # Its prompt is read all the while, too.
    patient = server.open_stream("thing " * words, timeout=200, temperature=0, max_tokens=5)
    time.sleep(2)
    closed = time.monotonic()
    left.close()
    wait_for_failures(server, 2, timeout=whole)
    noticed = time.monotonic() - closed
    assert noticed < whole / 2 and noticed < 2, f"after {noticed} s; a prompt takes {whole} s"
    answer = patient.read()
    patient.close()
    assert answer.whole(), "its own chunks, and no empty one"


def test_request_timeout(start):
    """A request ends when its time is over, streaming or not, and whether its client is there or not."""
    server = start(config(n_parallel=1, n_ctx=16384, request_timeout_ms=700))
    reason = "the request took longer than 'request_timeout_ms' = 700"
    answer = server.stream("Count to 200", **LONG)
    assert reason in answer.error and answer.chunks and answer.messages[-1] == {"type": "error", "content": reason}
    status, reply = server.generate("Count to 200", **LONG)
    assert status >= 400 and reply == {"error": reason}
    left = server.open_stream("Count to 200", **LONG, streaming=False)
    time.sleep(0.1)
    left.close()
    wait_for_failures(server, 3)
    assert server.good_answer()


def test_many_leavers(server):
    """No slot, queue place or memory is lost over many departures."""
    ways = [http_close_in_decode, grpc_cancel_in_decode, http_close_in_prefill]
    for index in range(48):
        ways[index % 3](server)
    wait_for_free_slots(server, timeout=4 * PROMPTLY)
    # A second time over: what memory it takes is taken by now.
    before = server.resident_bytes()
    for index in range(48):
        ways[index % 3](server)
    wait_for_free_slots(server, timeout=4 * PROMPTLY)
    assert server.resident_bytes() - before < 16 * 2**20
    wait_for_failures(server, 96)


def test_cancelled_counts_as_failure(start):
    """Triton's statistics show a cancelled request as failed, and none as pending."""
    server = start(config(n_ctx=16384))
    grpc_cancel_in_decode(server)
    assert wait_for_failures(server, 1) == 0
    wait_for_free_slots(server)
    counts = {way: int(counts["count"]) for way, counts in statistics(server).items() if way in ("success", "fail")}
    assert counts == {"success": 2, "fail": 1}, counts
