"""What the log says: llama.cpp's lines at their levels, ours with model and request id."""

import re

import pytest
from repository import DEMO, config, make_model
from server import MODEL, Server
from streams import grpc_answer


def lines(server, level, text):
    """The lines of this level that come from the library and match."""
    found = [line for line in server.log().splitlines() if re.match(rf"{level}\d{{4}} \S+ \d+ \w+\.rs:\d+\] ", line)]
    return [line for line in found if re.search(text, line)]


@pytest.fixture(params=["quiet", "verbose"])
def server(request, repository):
    """A context longer than the model's makes llama.cpp warn, a wrong size in a header makes it report an error."""
    make_model(repository, config(n_ctx=32768))
    size = b"llama.feed_forward_length" + (4).to_bytes(4, "little")
    value = DEMO.read_bytes().index(size) + len(size)
    damaged = bytearray(DEMO.read_bytes())
    damaged[value : value + 4] = (256).to_bytes(4, "little")
    make_model(repository, config(name="damaged"), name="damaged", gguf=bytes(damaged))
    arguments = ["--log-verbose=1"] if request.param == "verbose" else []
    with Server(repository, "--model-control-mode=explicit", f"--load-model={MODEL}", *arguments) as server:
        server.verbose = request.param == "verbose"
        yield server


def test_llama_cpp_at_its_levels(server):
    assert server.load("damaged")[0] >= 400
    for level, text in {
        "I": "llama_model_loader: loaded meta data",
        "W": "possible training context overflow",
        "E": "error loading model: check_tensor_dims",
    }.items():
        assert lines(server, level, text), (level, text)
        for other in {"I", "W", "E"} - {level}:
            assert not lines(server, other, text), (other, text)
    # llama.cpp's lines for debugging are Triton's verbose ones, which look like information.
    assert bool(lines(server, "I", "create_tensor: loading tensor")) == server.verbose


def test_a_request_is_named(server):
    """Lines about a request name the model and the request's id; most are verbose."""
    assert grpc_answer(server.grpc, "Say hello", request_id="my request 7").whole()
    refused = grpc_answer(server.grpc, "Say hello", request_id="bad request 8", temperature=-1)
    assert "temperature" in refused.error
    named = {
        f"model '{MODEL}', request 'my request 7': .* prompt tokens",
        f"model '{MODEL}', request 'bad request 8': .*temperature",
    }
    for text in named:
        assert bool(lines(server, "I", text)) == server.verbose, text
