"""Nothing is lost on the wire: bursts of short responses while the machine is busy.

WIRE_ROUNDS sets how often each case is repeated: 1, or 10 for a full run.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from http_stream import HttpStream
from repository import config
from server import MODEL
from streams import GrpcStreams

ROUNDS = int(os.environ.get("WIRE_ROUNDS", "1"))
N_STREAMS = 64
N_TOKENS = 500
# The model is sure of each token of this text, whatever shares its batch.
PROMPT = "Tell me a long story"
PARAMETERS = {"ignore_eos": True, "max_tokens": N_TOKENS}


@pytest.fixture
def busy_cores():
    """Keeps two cores busy."""
    hog = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", "while True: pass"]
    hogs = [subprocess.Popen(hog) for _ in range(2)]
    yield
    for process in hogs:
        process.kill()
        process.wait(10)


def http_answers(server):
    body = {"text_input": PROMPT, "parameters": PARAMETERS}
    streams = [HttpStream(server.http_port, f"/v2/models/{MODEL}/generate_stream", body, 290) for _ in range(N_STREAMS)]
    try:
        with ThreadPoolExecutor(N_STREAMS) as pool:
            return list(pool.map(HttpStream.read, streams))
    finally:
        for stream in streams:
            stream.close()


def grpc_answers(server):
    with GrpcStreams(server.grpc) as streams:
        for index in range(N_STREAMS):
            streams.send(PROMPT, request_id=str(index), **PARAMETERS)
        return list(streams.read(timeout=290).values())


@pytest.mark.timeout(60 + 300 * ROUNDS)
@pytest.mark.parametrize(
    "transport,arguments",
    [(http_answers, ()), (http_answers, ("--http-thread-count=1",)), (grpc_answers, ())],
    ids=["http", "one-http-thread", "grpc"],
)
@pytest.mark.parametrize("n_parallel", [16, 64])
def test_burst(start, busy_cores, transport, arguments, n_parallel):
    """64 streams of 500 tokens, 16 or all of them in the batch: every text whole, every stream ended once."""
    server = start(config(n_parallel=n_parallel, n_ctx=65536 if n_parallel == 64 else 16384), *arguments)
    alone = server.stream(PROMPT, **PARAMETERS).whole()
    for _ in range(ROUNDS):
        answers = transport(server)
        assert len(answers) == N_STREAMS
        for answer in answers:
            assert answer.whole() == alone
            assert answer.usage["completion_tokens"] == N_TOKENS
            assert answer.finish_reason == "length"


def test_at_most_one_response_a_millisecond(start):
    """However fast the model is, a stream gets no more than 1,000 responses a second."""
    server = start(config())
    answer = server.stream(PROMPT, **PARAMETERS)
    answer.whole()
    assert len(answer.times) <= (answer.times[-1] - answer.times[0]) * 1000 * 1.1 + 5


def test_one_token_a_response_at_ordinary_speed(start):
    """Where a token takes longer than the pace allows, each is a response of its own."""
    server = start(config(n_ctx=12288, flash_attn="off"))
    # Behind a prompt of 8,000 tokens this model then needs several milliseconds for the next one.
    system = {"role": "system", "content": "You are a helpful assistant. " * 650}
    # A hiccup of the machine may join a few, and a long one more: then it is asked again.
    for _ in range(3):
        answer = server.stream([system, {"role": "user", "content": PROMPT}], max_tokens=100, ignore_eos=True)
        text = answer.whole()
        assert answer.usage["prompt_tokens"] > 8000 and answer.usage["completion_tokens"] == 100
        assert text.isascii(), "each token should be text of its own"
        assert answer.times[-1] - answer.times[0] > 100 * 0.002, "too fast to be an ordinary speed"
        if len(answer.chunks) >= 95:
            return
    pytest.fail(f"{len(answer.chunks)} responses for 100 tokens")
