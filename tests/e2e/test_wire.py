"""Nothing is lost on the wire: bursts of short responses while the machine is busy.

WIRE_ROUNDS sets how often each case is repeated: 1, or 10 for a full run.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from http_stream import HttpStream
from repository import config, make_model
from server import MODEL, ROOT, Server
from servers import SERVERS
from streams import GrpcStreams, grpc_answer

ROUNDS = int(os.environ.get("WIRE_ROUNDS", "1"))
N_STREAMS = 64
N_TOKENS = 500
# The model is sure of each token of this text, whatever shares its batch.
PROMPT = "Tell me a long story"
#: Bytes of a body that take a thread of the front end some tenths of a second.
LARGE_BODY = 20_000_000
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


def http_answers(server, n_streams=N_STREAMS, n_tokens=N_TOKENS):
    body = {"text_input": PROMPT, "parameters": {"ignore_eos": True, "max_tokens": n_tokens}}
    streams = [HttpStream(server.http_port, f"/v2/models/{MODEL}/generate_stream", body, 290) for _ in range(n_streams)]
    try:
        with ThreadPoolExecutor(n_streams) as pool:
            return list(pool.map(HttpStream.read, streams))
    finally:
        for stream in streams:
            stream.close()


def grpc_answers(server, n_streams=N_STREAMS, n_tokens=N_TOKENS):
    with GrpcStreams(server.grpc) as streams:
        for index in range(n_streams):
            streams.send(PROMPT, request_id=str(index), ignore_eos=True, max_tokens=n_tokens)
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


class Busy:
    """Keeps threads of the HTTP front end from writing: a model is loaded again and again, large bodies are read."""

    def __init__(self, server, n_posters=1):
        self.server = server
        self.is_over = threading.Event()
        self.n_loads, self.n_bodies = 0, 0
        body = {"text_input": "x" * LARGE_BODY, "parameters": {"streaming": False}}
        self.body = json.dumps(body).encode()
        self.threads = [threading.Thread(target=self.load)]
        self.threads += [threading.Thread(target=self.post) for _ in range(n_posters)]

    def load(self):
        while not self.is_over.is_set():
            assert self.server.load("slow")[0] == 200
            assert self.server.unload("slow")[0] == 200
            self.n_loads += 1

    def post(self):
        while not self.is_over.is_set():
            status, reply = self.server.post_stream(self.body)
            assert status == 400 and "text_input" in reply
            self.n_bodies += 1

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        self.is_over.set()
        for thread in self.threads:
            thread.join(120)


@pytest.fixture(scope="module")
def slow_load(tmp_path_factory):
    """A backend whose models take longer to load than the sockets of the front end take to fill."""
    library = tmp_path_factory.mktemp("slow") / "libtriton_slow.so"
    source = ROOT / "tests" / "e2e" / "slow_load.c"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source)], check=True, timeout=60)
    return library


@pytest.mark.timeout(60 + 300 * ROUNDS)
@pytest.mark.parametrize(
    "version,transport,arguments,n_streams,n_tokens",
    [
        # Few streams fill the socket of a thread soonest: each sends as fast as one may.
        *((version, http_answers, (), 8, 1000) for version in SERVERS),
        ("2.51.0", http_answers, ("--http-thread-count=1",), N_STREAMS, N_TOKENS),
        ("2.51.0", grpc_answers, (), 8, 1000),
    ],
    ids=[*SERVERS, "one-http-thread", "grpc"],
)
def test_busy_http_threads(repository, slow_load, version, transport, arguments, n_streams, n_tokens):
    """Streams lose nothing while threads that write them load a model or read large bodies."""
    make_model(repository, config(n_parallel=64, n_ctx=65536))
    slow = make_model(repository, 'backend: "slow"\ninput []\n', "slow", None)
    shutil.copy(slow_load, slow)
    explicit = ("--model-control-mode=explicit", f"--load-model={MODEL}")
    with Server(repository, *explicit, *arguments, program=SERVERS[version]) as server:
        alone = server.stream(PROMPT, ignore_eos=True, max_tokens=n_tokens).whole()
        for _ in range(ROUNDS):
            with Busy(server) as busy:
                answers = transport(server, n_streams, n_tokens)
            assert busy.n_loads > 0 and busy.n_bodies > 0, "the threads had nothing else to do"
            assert len(answers) == n_streams
            for answer in answers:
                assert answer.whole() == alone
                assert answer.usage["completion_tokens"] == n_tokens


def test_at_most_one_response_a_millisecond(start):
    """However fast the model is, a stream gets no more than 1,000 responses a second."""
    server = start(config())
    answer = server.stream(PROMPT, **PARAMETERS)
    answer.whole()
    assert len(answer.times) <= (answer.times[-1] - answer.times[0]) * 1000 * 1.1 + 5


def one_response_each(answer, **parameters):
    """Asks until each token is a response, as a hiccup of the machine lets a stream lag and its tokens share some."""
    for _ in range(5):
        answers = answer(**parameters)
        text = answers.whole()
        assert text.isascii(), "each token should be text of its own"
        # The end of text is a token without a text.
        n_texts = answers.usage["completion_tokens"] - (answers.finish_reason == "stop")
        if len(answers.chunks) == n_texts:
            return answers
        assert len(answers.chunks) < n_texts
    pytest.fail(f"{len(answers.chunks)} responses for {n_texts} tokens")


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_one_token_a_response(demo, transport):
    """Each token is a response, also where the model makes them faster than one a millisecond."""

    def answer(**parameters):
        if transport == "http":
            return demo.stream("Count to 7", **parameters)
        return grpc_answer(demo.grpc, "Count to 7", **parameters)

    answers = one_response_each(answer)
    assert answers.finish_reason == "stop" and len(answers.chunks) > 10
    assert len(one_response_each(answer, max_tokens=5).chunks) == 5
    assert len(one_response_each(answer, max_tokens=30, ignore_eos=True).chunks) == 30


def test_stream_interval(demo):
    """`stream_interval` joins tokens, but for the first; what is left at the end goes with it."""
    each = one_response_each(lambda: demo.stream("Count to 20", max_tokens=20)).chunks
    for _ in range(5):
        texts = demo.stream("Count to 20", max_tokens=20, stream_interval=6).chunks
        if len(texts) == 5:
            break
    assert texts == [each[0], "".join(each[1:7]), "".join(each[7:13]), "".join(each[13:19]), each[19]]
    assert "stream_interval" in demo.stream("x", stream_interval=0).error


def test_one_token_a_response_at_ordinary_speed(start):
    """The same where a token takes longer than the pace allows."""
    server = start(config(n_ctx=12288, flash_attn="off"))
    # Behind a prompt of 8,000 tokens this model then needs several milliseconds for the next one.
    system = {"role": "system", "content": "You are a helpful assistant. " * 650}
    prompt = [system, {"role": "user", "content": PROMPT}]
    answer = one_response_each(lambda: server.stream(prompt, max_tokens=100, ignore_eos=True))
    assert answer.usage["prompt_tokens"] > 8000 and answer.usage["completion_tokens"] == 100
    assert answer.times[-1] - answer.times[0] > 100 * 0.002, "too fast to be an ordinary speed"


def test_a_long_prompt_keeps_no_short_one_waiting(start):
    """While a prompt of 3 MB is read, which takes seconds, short requests are answered as ever."""
    server = start(config(n_ctx=1 << 18, n_parallel=4))
    text = ("The quick brown fox jumps over the lazy dog. " * 70_000)[:3_000_000]
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(server.generate, text, max_tokens=1)
        n_answered = 0
        while not long.done():
            server.stream("Say hello", max_tokens=2).whole()
            n_answered += 1
    status, body = long.result()
    assert status == 400 and "tokens: must be fewer than n_ctx = 262144" in str(body)
    assert n_answered >= 20
