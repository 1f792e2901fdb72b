"""The backend's own metrics say what runs and what waits while it does, model by model."""

import contextlib
import re
import shutil
import time

import pytest
from repository import config, make_model
from server import LIBRARY, MODEL, Server
from servers import SERVERS
from streams import GrpcStreams

RUNNING, WAITING = "vllm:num_requests_running", "vllm:num_requests_waiting"
#: A minute's work for the demo model.
LONG = {"ignore_eos": True, "temperature": "0", "max_tokens": 12000}
EXPLICIT = "--model-control-mode=explicit"
#: Of a model that runs one request at a time.
NARROW = {"n_parallel": 1, "n_ctx": 16384}


def series(server):
    """Our series: {(name, labels as they are written): value}."""
    text = server.request("GET", "/metrics", port=server.metrics_port)[1]
    return {(name, labels): float(value) for name, labels, value in re.findall(r"^(vllm:\w+)\{(.*)\} (\S+)$", text, re.M)}


def of(model, running, waiting, version=1):
    labels = f'model="{model}",version="{version}"'
    return {(RUNNING, labels): running, (WAITING, labels): waiting}


def wait_for(server, expected, timeout=20):
    """Waits until these and no other series are there: a step may be under way."""
    end = time.monotonic() + timeout
    found = None
    while found != expected:
        assert time.monotonic() < end, found
        time.sleep(0.02)
        # The port of the metrics opens a moment after the others.
        with contextlib.suppress(ConnectionRefusedError):
            found = series(server)


def send(streams, n):
    for number in range(n):
        streams.send("Count to 200", request_id=str(number), **LONG)


@pytest.mark.parametrize("version", SERVERS)
def test_one_runs_and_the_others_wait(repository, version):
    """On the oldest server, too; what ends and what its client cancels counts no more."""
    make_model(repository, config(**NARROW))
    with Server(repository, program=SERVERS[version]) as server:
        wait_for(server, of(MODEL, 0, 0))
        with GrpcStreams(server.grpc) as streams:
            send(streams, 4)
            wait_for(server, of(MODEL, 1, 3))
        wait_for(server, of(MODEL, 0, 0))
        for _ in range(20):
            assert server.good_answer()
            assert series(server) == of(MODEL, 0, 0), "whoever has the answer finds it counted no more"
        text = server.request("GET", "/metrics", port=server.metrics_port)[1]
        for name in (RUNNING, WAITING):
            assert text.count(f"# TYPE {name} gauge\n") == 1 and text.count(f"# HELP {name} ") == 1
        assert server.stop() == 0


def test_each_model_has_its_own(repository):
    for name, slots in (("one", 1), ("two", 2)):
        make_model(repository, config(name, n_parallel=slots, n_ctx=16384 * slots), name=name)
    with Server(repository) as server:
        wait_for(server, of("one", 0, 0) | of("two", 0, 0))
        with GrpcStreams(server.grpc, "one") as one, GrpcStreams(server.grpc, "two") as two:
            send(one, 3)
            send(two, 3)
            wait_for(server, of("one", 1, 2) | of("two", 2, 1))
            one.close()
            wait_for(server, of("one", 0, 0) | of("two", 2, 1))
        wait_for(server, of("one", 0, 0) | of("two", 0, 0))


def test_they_come_and_go_with_the_model(repository):
    for name in ("stays", "goes"):
        make_model(repository, config(name, **NARROW), name=name)
    with Server(repository, EXPLICIT, "--load-model=*") as server:
        for _ in range(3):
            with GrpcStreams(server.grpc, "goes") as streams:
                send(streams, 3)
                wait_for(server, of("stays", 0, 0) | of("goes", 1, 2))
                assert server.unload("goes")[0] == 200
                streams.read()
            # Not before: the gRPC front end keeps the model of a stream that is open.
            wait_for(server, of("stays", 0, 0))
            server.wait_unloaded("goes")
            assert server.load("goes")[0] == 200
            wait_for(server, of("stays", 0, 0) | of("goes", 0, 0))
        assert server.good_answer("goes")


@pytest.fixture
def two_copies(tmp_path):
    """A backend directory with the library under two names."""
    for name in ("llm", "vllm"):
        (tmp_path / "backends" / name).mkdir(parents=True)
        shutil.copy(LIBRARY, tmp_path / "backends" / name / f"libtriton_{name}.so")
    return tmp_path / "backends"


@pytest.mark.skipif(len(list(LIBRARY.parent.iterdir())) > 1, reason="a library with modules finds them in its own folder")
def test_a_model_is_loaded_anew_by_another_copy(repository, two_copies):
    """The new copy's series begin before the old one's end, and are the same ones."""
    make_model(repository, config(**NARROW))
    text = repository / MODEL / "config.pbtxt"
    with Server(repository, EXPLICIT, f"--load-model={MODEL}", backends=two_copies) as server:
        for old, new in [("llm", "vllm"), ("vllm", "llm")] * 2:
            with GrpcStreams(server.grpc) as before, GrpcStreams(server.grpc) as after:
                send(before, 2)
                wait_for(server, of(MODEL, 1, 1))
                text.write_text(text.read_text().replace(f'backend: "{old}"', f'backend: "{new}"'))
                assert server.load()[0] == 200
                send(after, 3)
                before.close()
                wait_for(server, of(MODEL, 1, 2))
            wait_for(server, of(MODEL, 0, 0))
        assert server.unload()[0] == 200
        server.wait_unloaded()
        wait_for(server, {})


def test_without_metrics(start):
    server = start(config(), "--allow-metrics=false")
    assert server.good_answer()
    assert "Metrics Service" not in server.log()
    with pytest.raises(ConnectionRefusedError):
        series(server)
    assert server.stop() == 0
