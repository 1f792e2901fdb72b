"""Models and servers that come and go, with streams running."""

import os
import queue
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import tritonclient.grpc as grpcclient
from repository import config, make_model
from server import MODEL, Server
from streams import GrpcStreams, bytes_input
from tritonclient.utils import shared_memory

#: A minute's work for the demo model.
LONG = {"ignore_eos": True, "temperature": 0, "max_tokens": 12000}
LONG_CONTEXT = {"n_ctx": 65536}
EXPLICIT = "--model-control-mode=explicit"


def open_streams(server, n=4):
    streams = [server.open_stream("Count to 200", **LONG) for _ in range(n)]
    for stream in streams:
        assert stream.next()["type"] == "chunk"
    return streams


def assert_ended_with_an_error(streams):
    """Every stream was ended before its time, with an error that the client can see."""
    for stream in streams:
        try:
            answer = stream.read()
        except (ConnectionError, OSError) as error:
            pytest.fail(f"the stream was cut without a word: {error}")
        assert answer.ended and not answer.complete, answer.messages[-1:]
        assert answer.error, answer.messages[-1:]
        # After the first chunk the message says so too.
        if answer.messages:
            assert answer.messages[-1]["type"] == "error", answer.messages[-1:]
        stream.close()


def test_unload_with_streams_running(repository):
    make_model(repository, config(**LONG_CONTEXT))
    with Server(repository, EXPLICIT, f"--load-model={MODEL}") as server:
        streams = open_streams(server)
        grpc = GrpcStreams(server.grpc)
        grpc.send("Count to 200", **LONG | {"temperature": "0"})
        assert grpc.next()[1]["type"] == "chunk"
        begin = time.monotonic()
        assert server.unload()[0] == 200
        assert_ended_with_an_error(streams)
        answer = grpc.read(timeout=30)["1"]
        assert answer.error and not answer.complete, answer.messages[-1:]
        grpc.close()
        server.wait_unloaded(timeout=30)
        assert time.monotonic() - begin < 20
        # And it can come back.
        assert server.load()[0] == 200
        assert server.good_answer()


def test_unload_with_requests_queued(repository):
    make_model(repository, config(n_parallel=1, **LONG_CONTEXT))
    with Server(repository, EXPLICIT, f"--load-model={MODEL}") as server:
        streams = open_streams(server, 1)
        streams += [server.open_stream("Say hello", **LONG) for _ in range(5)]
        time.sleep(0.2)
        assert server.unload()[0] == 200
        assert_ended_with_an_error(streams)
        server.wait_unloaded(timeout=30)


@pytest.mark.parametrize("n_bytes", [8, 40])
def test_an_output_that_does_not_fit_its_region(repository, n_bytes):
    """A client's shared memory too small for the first response, or a later one: the stream ends, the model goes."""
    make_model(repository, config())
    with Server(repository, EXPLICIT, f"--load-model={MODEL}") as server:
        events = queue.Queue()
        region = shared_memory.create_shared_memory_region("small", f"/small-{os.getpid()}", n_bytes)
        client = grpcclient.InferenceServerClient(server.grpc)
        try:
            client.register_system_shared_memory("small", f"/small-{os.getpid()}", n_bytes)
            output = grpcclient.InferRequestedOutput("text_output")
            output.set_shared_memory("small", n_bytes)
            client.start_stream(callback=lambda result, error: events.put((result, error)))
            client.async_stream_infer(MODEL, [bytes_input("text_input", ["Say hello"])], outputs=[output])
            error = None
            while error is None:
                error = events.get(timeout=30)[1]
            assert "40" in str(error) or "shared memory" in str(error), error
            client.stop_stream()
        finally:
            client.close()
            shared_memory.destroy_shared_memory_region(region)
        assert server.unload()[0] == 200
        server.wait_unloaded(timeout=30)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_shutdown_with_streams_running(repository, signal_number):
    """Streams that end within the exit timeout end whole, then the server exits with 0."""
    make_model(repository)
    with Server(repository, "--exit-timeout-secs=20") as server:
        with GrpcStreams(server.grpc) as streams:
            streams.send("Tell me a long story", temperature=0, max_tokens=400)
            streams.next()
            server.process.send_signal(signal_number)
            assert streams.read()["1"].whole()
        assert server.process.wait(25) == 0, server.log()[-2000:]
    with Server(repository, "--exit-timeout-secs=20") as server:
        streams = [server.open_stream("Tell me a long story", temperature=0) for _ in range(4)]
        for stream in streams:
            assert stream.next()["type"] == "chunk"
        server.process.send_signal(signal_number)
        for stream in streams:
            assert stream.read().whole()
            stream.close()
        assert server.process.wait(25) == 0, server.log()[-2000:]


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_shutdown_with_streams_beyond_the_exit_timeout(repository, transport):
    """Streams that would outlast the exit timeout end with an error shortly before it."""
    make_model(repository, config(**LONG_CONTEXT))
    with Server(repository, "--exit-timeout-secs=6") as server:
        if transport == "http":
            streams = open_streams(server, 4)
            server.process.send_signal(signal.SIGTERM)
            begin = time.monotonic()
            assert_ended_with_an_error(streams)
        else:
            with GrpcStreams(server.grpc) as streams:
                for number in range(4):
                    streams.send("Say hello", request_id=str(number), **LONG)
                # Triton refuses by itself what has not reached the model yet.
                while not all(answer.messages for answer in streams.answers.values()):
                    streams.next()
                server.process.send_signal(signal.SIGTERM)
                begin = time.monotonic()
                streams.read(20)
            assert all("shutting down" in answer.error for answer in streams.answers.values())
        assert 2.5 < time.monotonic() - begin < 5
        assert server.process.wait(10) == 0, server.log()[-2000:]


def test_an_idle_server_leaves_the_processor_alone(start):
    """Neither the engine nor llama.cpp's threads wait busily once an answer is there: under 1 % of a core."""
    server = start(config(n_threads=2))
    server.good_answer()
    time.sleep(1)
    spent = server.cpu_seconds()
    time.sleep(10)
    assert server.cpu_seconds() - spent < 0.1


def test_shutdown_when_idle(start):
    server = start()
    assert server.good_answer()
    begin = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begin < 5


@pytest.mark.timeout(600)
def test_load_unload_rounds_do_not_grow(repository):
    """With one thread of each kind: of several, each that loads for the first time adds memory of its own."""
    make_model(repository)
    with Server(repository, EXPLICIT, "--http-thread-count=1", "--model-load-thread-count=1") as server:
        resident = {}
        for number in range(1, 151):
            assert server.load()[0] == 200
            assert server.good_answer()
            assert server.unload()[0] == 200
            server.wait_unloaded()
            resident[number] = server.resident_bytes()
        growth = resident[150] - resident[50]
        assert growth < 4 * 2**20, {n: f"{r / 2**20:.1f} MiB" for n, r in resident.items() if n in (1, 10, 50, 100, 150)}
        assert n_threads(server) < 100


def n_threads(server):
    return len(os.listdir(f"/proc/{server.process.pid}/task"))


def test_threads_end_with_their_model(repository):
    """A model's threads are gone after its unload."""
    make_model(repository)
    with Server(repository, EXPLICIT) as server:
        counts = []
        for _ in range(5):
            assert server.load()[0] == 200
            assert server.good_answer()
            assert server.unload()[0] == 200
            server.wait_unloaded()
            time.sleep(0.5)
            counts.append(n_threads(server))
        assert counts[-1] <= counts[0], counts


def test_concurrent_load_unload(repository):
    """Models that come and go beside one that serves."""
    names = ["a", "b", "c"]
    make_model(repository)
    for name in names:
        make_model(repository, config(name=name, n_ctx=1024), name=name)
    with Server(repository, EXPLICIT, f"--load-model={MODEL}") as server:
        expected = server.good_answer()
        stop = threading.Event()

        def serve():
            n = 0
            while not stop.is_set():
                assert server.good_answer() == expected
                n += 1
            return n

        def come_and_go(name):
            for _ in range(5):
                status, reply = server.load(name)
                assert status == 200, reply
                assert server.good_answer(name) == expected
                assert server.unload(name)[0] == 200
                server.wait_unloaded(name)

        with ThreadPoolExecutor() as pool:
            serving = pool.submit(serve)
            try:
                for task in [pool.submit(come_and_go, name) for name in names]:
                    task.result(120)
            finally:
                stop.set()
            assert serving.result(60) > 0


def test_reload_with_another_config(repository):
    """A load over a loaded model takes the new configuration and loses no running stream."""
    make_model(repository)
    with Server(repository, EXPLICIT, f"--load-model={MODEL}") as server:
        expected = server.good_answer()
        whole = server.stream("Tell me a long story", temperature=0).whole()
        streams = [server.open_stream("Tell me a long story", temperature=0) for _ in range(3)]
        for stream in streams:
            assert stream.next()["type"] == "chunk"
        (repository / MODEL / "config.pbtxt").write_text(config(n_ctx=2048))
        assert server.load()[0] == 200
        assert server.good_answer() == expected
        assert "2048" in server.stream("Say hello", max_tokens=5000).error
        for stream in streams:
            assert stream.read().whole() == whole
            stream.close()


def test_a_model_that_failed_to_load_can_be_repaired(repository):
    make_model(repository, config(n_ctx="many"))
    with Server(repository, EXPLICIT) as server:
        status, reply = server.load()
        assert status >= 400 and "n_ctx" in reply
        (repository / MODEL / "config.pbtxt").write_text(config())
        assert server.load()[0] == 200
        assert server.good_answer()


def test_fifty_failed_loads_do_not_grow(repository):
    make_model(repository, config(chat_template="{% bad %}"))
    with Server(repository, EXPLICIT) as server:
        resident = {}
        for number in range(1, 51):
            assert server.load()[0] >= 400
            resident[number] = server.resident_bytes()
        assert resident[50] - resident[10] < 12 * 2**20, resident


def test_reload_with_another_count(repository):
    """Where only instance_group changes, Triton swaps instances under running streams."""
    count = "instance_group [ {{ kind: KIND_CPU count: {} }} ]".format
    make_model(repository, config(extra=count(4)))
    with Server(repository, EXPLICIT, f"--load-model={MODEL}") as server:
        expected = server.good_answer()
        whole = server.stream("Tell me a long story", temperature=0).whole()
        for n in [1, 8]:
            streams = [server.open_stream("Tell me a long story", temperature=0) for _ in range(6)]
            for stream in streams:
                assert stream.next()["type"] == "chunk"
            (repository / MODEL / "config.pbtxt").write_text(config(extra=count(n)))
            status, reply = server.load()
            assert status == 200, reply
            for stream in streams:
                assert stream.read().whole() == whole
                stream.close()
            assert server.good_answer() == expected
        # The slots are those of the first load, which the log says.
        assert "shares the slots" in server.log()
        assert server.stop() == 0
