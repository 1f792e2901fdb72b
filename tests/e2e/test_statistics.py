"""Triton's statistics are true: they agree with what the clients measured."""

import json
import time
from collections import Counter

import pytest
from repository import config
from server import MODEL
from streams import GrpcStreams


@pytest.fixture
def server(start):
    return start(config())


def wait_for_count(server, name, value, timeout=10):
    """The figures are written after the last response: wait for them."""
    end = time.monotonic() + timeout
    while True:
        metrics = Counter({n: v for (n, model), v in server.metrics().items() if model == MODEL})
        if metrics[name] >= value:
            return metrics
        assert time.monotonic() < end, metrics
        time.sleep(0.05)


def statistics(server):
    return json.loads(server.get(f"/v2/models/{MODEL}/stats")[1])["model_stats"][0]


@pytest.mark.parametrize("transport", ["http", "grpc"])
def test_duration_of_streams(server, transport):
    """The sum of the durations is what the client waited, within 5 % and 20 ms."""
    measured = 0.0
    n = 5
    server.good_answer()
    before = wait_for_count(server, "nv_inference_request_success", 1)
    for _ in range(n):
        if transport == "http":
            answer = server.stream("Tell me a long story", max_tokens=400, ignore_eos=True)
        else:
            with GrpcStreams(server.grpc) as streams:
                streams.send("Tell me a long story", max_tokens=400, ignore_eos=True)
                answer = streams.read()["1"]
        answer.whole()
        measured += answer.times[-1] - answer.sent
    after = wait_for_count(server, "nv_inference_request_success", n + 1)
    grown = {name: after[name] - before[name] for name in after}
    assert grown["nv_inference_count"] == n
    duration = grown["nv_inference_request_duration_us"] / 1e6
    assert abs(duration - measured) < 0.05 * measured + 0.02, (duration, measured)


def test_queue_and_compute_make_up_the_duration(server):
    server.stream("Tell me a long story", max_tokens=400, ignore_eos=True).whole()
    metrics = wait_for_count(server, "nv_inference_request_success", 1)
    parts = [
        "nv_inference_queue_duration_us",
        "nv_inference_compute_input_duration_us",
        "nv_inference_compute_infer_duration_us",
        "nv_inference_compute_output_duration_us",
    ]
    total = metrics["nv_inference_request_duration_us"]
    assert all(metrics[part] >= 0 for part in parts)
    assert abs(sum(metrics[part] for part in parts) - total) < 0.05 * total + 5000, metrics


def test_waiting_for_a_slot_is_queue_time(start):
    """With one slot, the second request's wait shows as queue, not as compute."""
    server = start(config(n_parallel=1))
    first = server.open_stream("Tell me a long story", max_tokens=1000, ignore_eos=True)
    assert first.next()["type"] == "chunk"
    sent = time.monotonic()
    second = server.open_stream("Say hello", max_tokens=20)
    assert second.next()["type"] == "chunk"
    waited = second.answer.times[0] - sent
    for stream in (first, second):
        stream.read().whole()
        stream.close()
    metrics = wait_for_count(server, "nv_inference_request_success", 2)
    queued = metrics["nv_inference_queue_duration_us"] / 1e6
    assert abs(queued - waited) < 0.1 * waited + 0.05, (queued, waited)


def test_counts(server):
    """Successes and failures by number, none left pending."""
    for _ in range(3):
        server.good_answer()
    for _ in range(2):
        assert server.stream("x", temperature=-1).status == 400
    metrics = wait_for_count(server, "nv_inference_request_success", 3)
    assert metrics["nv_inference_request_success"] == 3
    assert metrics["nv_inference_request_failure"] == 2
    stats = statistics(server)["inference_stats"]
    assert int(stats["success"]["count"]) == 3
    assert int(stats["fail"]["count"]) == 2
    assert metrics["nv_inference_pending_request_count"] == 0


def test_concurrent_durations(server):
    """Overlapping requests each count with their own duration."""
    with GrpcStreams(server.grpc) as streams:
        for n in range(8):
            # One response each: this client reads a few thousand a second, which is less than come.
            parameters = {"max_tokens": 300, "ignore_eos": True, "streaming": False}
            streams.send("Tell me a long story", request_id=str(n), **parameters)
        answers = streams.read()
    measured = sum(a.times[-1] - a.sent for a in answers.values())
    metrics = wait_for_count(server, "nv_inference_request_success", 8)
    duration = metrics["nv_inference_request_duration_us"] / 1e6
    assert abs(duration - measured) < 0.08 * measured + 0.05, (duration, measured)


def test_execution_count(server):
    """Each answered request is one execution, whether it shared the batch or not."""
    server.good_answer()
    streams = [server.open_stream("Tell me a long story", max_tokens=300, ignore_eos=True) for _ in range(3)]
    for stream in streams:
        stream.read().whole()
        stream.close()
    metrics = wait_for_count(server, "nv_inference_request_success", 4)
    assert metrics["nv_inference_exec_count"] == 4
    assert metrics["nv_inference_count"] == 4
