"""One request, many responses: the cases of Triton's qa/L0_decoupled over HTTP and gRPC."""

import json
import math

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from streams import GrpcStreams, bytes_input, grpc_answer

COUNT = "Count to 20"


def answer_over(transport, server, text, **parameters):
    if transport == "http":
        return server.stream(text, **parameters)
    return grpc_answer(server.grpc, text, **parameters)


transports = pytest.mark.parametrize("transport", ["http", "grpc"])


@transports
def test_one_to_none(demo, transport):
    """A request that is refused gets its error and no response beside it."""
    answer = answer_over(transport, demo, COUNT, temperature=-1)
    assert answer.messages == []
    assert "temperature" in answer.error


@transports
def test_one_to_one(demo, transport):
    """Without streaming there is one response, which is the final one."""
    answer = answer_over(transport, demo, COUNT, streaming=False)
    assert answer.ended and not answer.error
    (message,) = answer.messages
    assert message["type"] == "complete"
    assert message["content"] == demo.stream(COUNT).whole()


@transports
def test_one_to_many(demo, transport):
    """Text comes in many responses as it is made, and the last one carries the end."""
    # So long that a hiccup of the machine, which joins responses, is over before it ends.
    answer = answer_over(transport, demo, "Tell me a long story")
    assert answer.whole()
    assert answer.finish_reason == "stop"
    usage = answer.usage
    # The end-of-text token counts and has no chunk. The demo model makes tokens faster than one a
    # millisecond, the rate of responses: where the stream lags far behind, some share one.
    assert 3 <= len(answer.chunks) < usage["completion_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 0
    # They came as they were made, not all at the end.
    assert len(set(answer.times)) > len(answer.times) / 2


def test_one_to_multi_many(demo):
    """Several requests on one gRPC stream, each with all of its responses."""
    alone = {n: grpc_answer(demo.grpc, f"Count to {n}").whole() for n in (5, 9, 14, 20)}
    with GrpcStreams(demo.grpc) as streams:
        for n in alone:
            streams.send(f"Count to {n}", request_id=str(n))
        answers = streams.read()
    assert {n: answers[str(n)].whole() for n in alone} == alone


def test_response_order(demo):
    """Responses of one request come in order, those of others in between."""
    alone = demo.stream(COUNT).whole()
    seen = []
    with GrpcStreams(demo.grpc) as streams:
        for name in "abcd":
            streams.send(COUNT, request_id=name)
        while not all(a.ended for a in streams.answers.values()):
            seen.append(streams.next()[0])
        assert {a.whole() for a in streams.answers.values()} == {alone}
    assert seen != sorted(seen), "the requests ran one after another"


def test_final_response_is_the_complete_message(demo):
    """FINAL rides on the last data response: no empty one follows it."""
    finals = []
    with GrpcStreams(demo.grpc) as streams:
        streams.send(COUNT)
        while not streams.answers["1"].ended:
            _, message = streams.next()
            finals.append(message)
    assert finals[-1]["type"] == "complete"


def test_no_streaming(demo):
    """The one-answer endpoints refuse a decoupled model, with a reason."""
    text = np.array([b"hi"], dtype=np.object_)
    http_input = httpclient.InferInput("text_input", [1], "BYTES")
    http_input.set_data_from_numpy(text)
    with httpclient.InferenceServerClient(demo.http) as client:
        with pytest.raises(Exception, match="decoupled"):
            client.infer("llm_decoupled", [http_input])
    with grpcclient.InferenceServerClient(demo.grpc) as client:
        with pytest.raises(Exception, match="decoupled"):
            client.infer("llm_decoupled", [bytes_input("text_input", [b"hi"])])
    assert demo.good_answer()


@pytest.mark.parametrize("shape", [(2,), (1, 1), (0,)], ids=str)
def test_wrong_shape(demo, shape):
    """A tensor of another shape is refused and nothing else is disturbed."""
    with GrpcStreams(demo.grpc) as streams:
        answer = streams.send_tensors([bytes_input("text_input", [b"hi"] * math.prod(shape), shape)])
        streams.read()
    assert answer.messages == []
    assert "text_input" in answer.error
    assert demo.good_answer()


def test_wrong_type(demo):
    """A tensor of another type is refused."""
    tensor = grpcclient.InferInput("text_input", [1], "INT32")
    tensor.set_data_from_numpy(np.array([1], dtype=np.int32))
    with GrpcStreams(demo.grpc) as streams:
        answer = streams.send_tensors([tensor])
        streams.read()
    assert "text_input" in answer.error
    assert demo.good_answer()


def test_generate(demo):
    """The plain generate endpoint answers in one body."""
    status, body = demo.generate(COUNT)
    assert status == 200
    message = json.loads(body["text_output"])
    assert message["type"] == "complete" and message["content"] == demo.stream(COUNT).whole()


def test_request_id(demo):
    """The id in a body of the HTTP extension is Triton's."""
    answer = demo.stream("Count to 5", inputs={"id": "my request"}, max_tokens=5)
    assert answer.whole()


def test_generate_refuses_a_stream(demo):
    """The generate endpoint cannot carry several responses and says so."""
    status, body = demo.generate(COUNT, streaming=True)
    assert "error" in body, (status, body)
    assert demo.good_answer()


def test_stream_parameter_names(demo):
    """`streaming` and `stream` mean the same."""
    for name in ("streaming", "stream"):
        assert len(demo.stream(COUNT, **{name: False}).messages) == 1
        assert len(demo.stream(COUNT, **{name: True}).messages) > 1
