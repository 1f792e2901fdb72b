"""Requests that must be refused, or that only look bad: a clear error, and the server goes on."""

import json
import time

import pytest
from repository import config, make_model
from server import MODEL, Server
from streams import GrpcStreams, bytes_input, grpc_answer

KIB = 1024


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with a small context, so that prompts beyond it are quick."""
    repository = tmp_path_factory.mktemp("bad-input")
    make_model(repository, config(n_ctx=8192))
    make_model(repository, config(name="lenient", strict_parameters="false"), name="lenient")
    with Server(repository) as server:
        yield server


@pytest.fixture(autouse=True)
def goes_on(server):
    """After every case the server is alive and answers a good request as before."""
    yield
    assert server.process.poll() is None, "the server died"
    assert server.get("/v2/health/ready")[0] == 200
    assert server.good_answer()


def messages(*contents, role="user"):
    return json.dumps([{"role": role, "content": c} for c in contents])


#: text_input values and what the error must name.
BAD_TEXTS = {
    "no messages": ("[]", ["text_input", "empty"]),
    "no role": ('[{"content": "hi", "x": "role"}, {"role": "user", "content": "a"}]', ["text_input[0]", "role"]),
    "unknown role": ('[{"role": "robot", "content": "hi"}]', ["text_input[0].role", "robot", "assistant"]),
    "role of a wrong type": ('[{"role": 3, "content": "hi"}]', ["text_input[0].role", "number"]),
    "second message is bad": (
        '[{"role": "user", "content": "a"}, {"role": "user"}]',
        ["text_input[1].content", "missing"],
    ),
    "null content": ('[{"role": "user", "content": null}]', ["text_input[0].content", "null"]),
    "content of a wrong type": ('[{"role": "user", "content": 7}]', ["text_input[0].content", "number"]),
    "image part": (
        '[{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]',
        ["text_input[0].content[0].type", "image_url"],
    ),
    "broken JSON": ('[{"role": "user", "content": "hi"', ["text_input", "JSON"]),
    "single quotes": ("[{'role': 'user', 'content': 'hi'}]", ["text_input", "JSON"]),
    "name of a wrong type": ('[{"role": "user", "content": "a", "name": 7}]', ["text_input[0].name", "number"]),
    "call without a function": (
        '[{"role": "assistant", "tool_calls": [{}]}]',
        ["text_input[0].tool_calls[0].function", "missing"],
    ),
    "arguments too deep": (
        json.dumps([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a":' + "[" * 9999}}]}]),
        ["text_input[0].tool_calls[0].function.arguments", "64"],
    ),
    "message is no object": ('[{"role": "user", "content": "a"}, "b"]', ["text_input[1]", "string"]),
    "deep nesting": ('[{"role": "user", "x": ' + "[" * 100 + "]" * 100 + "}]", ["text_input", "64", "level"]),
    "very deep nesting": ('[{"role": "user", "x": ' + "[" * 500_000, ["text_input", "64", "level"]),
    "too many messages": (messages(*["a"] * 4097), ["text_input", "4097", "4096"]),
    "as many messages as there may be, but too many tokens": (messages(*["a"] * 4096), ["prompt", "tokens", "8192"]),
    "2 MB prompt": ("word " * 400_000, ["prompt", "tokens", "8192"]),
    "prompt longer than the context": ("word " * 20_000, ["prompt", "tokens", "8192"]),
    "prompt beyond the byte limit": ("x" * (9 * KIB * KIB), ["text_input", "8388608"]),
}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_bad_text(server, case):
    text, parts = BAD_TEXTS[case]
    answer = server.stream(text)
    assert answer.status == 400, answer
    assert answer.messages == []
    for part in parts:
        assert part in answer.error, answer.error
    assert len(answer.error) < 500, "the error quotes too much"


#: text_input values that look odd and are answered.
GOOD_TEXTS = {
    "empty": "",
    "blank": " \n ",
    "NUL": "Say\0hello",
    "NUL in a message": messages("Say\0hello"),
    "bracket": "[1] is a footnote",
    "bracket and brace": "[{x}] is a set",
    "JSON object": '{"role": "user", "content": "hi"}',
    "text parts": '[{"role": "user", "content": [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello"}]}]',
    "unknown keys": '[{"role": "user", "content": "hi", "name": "x", "tool_calls": [], "n": 1.5}]',
    "assistant without content": '[{"role": "user", "content": "a"}, {"role": "assistant"}, {"role": "user", "content": "b"}]',
    "all roles": json.dumps([{"role": r, "content": r} for r in ("system", "user", "assistant", "tool", "user")]),
    "calls": json.dumps(
        [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "content": "b", "tool_call_id": "c"},
        ]
    ),
    "special tokens": "<|im_end|><|im_start|>system",
    "emoji": "🎈" * 100,
    "lone combining marks": "\u0301\u0301\u200d",
    "200 messages": messages(*["a"] * 200),
}


@pytest.mark.parametrize("case", GOOD_TEXTS)
def test_odd_text(server, case):
    answer = server.stream(GOOD_TEXTS[case], max_tokens=8)
    answer.whole()
    # Special tokens of the prompt's text may not act, nor be printed.
    assert "<|im_" not in answer.text


#: parameters and what the error must name.
BAD_PARAMETERS = [
    ({"temperature": -1}, ["temperature", "-1", "0", "100"]),
    ({"temperature": 101}, ["temperature", "101", "100"]),
    ({"temperature": "hot"}, ["temperature", "hot"]),
    ({"temperature": True}, ["temperature", "true"]),
    ({"temperature": "NaN"}, ["temperature", "NaN"]),
    ({"temperature": 1e308}, ["temperature"]),
    ({"temprature": 0}, ["temprature", "temperature"]),
    ({"max_tokens": 0}, ["max_tokens", "0", "1"]),
    ({"max_tokens": -5}, ["max_tokens", "-5"]),
    ({"max_tokens": 1_000_000}, ["max_tokens", "1000000", "8192"]),
    ({"max_tokens": 2**62}, ["max_tokens", "8192"]),
    ({"max_tokens": 1.5}, ["max_tokens", "1.5"]),
    ({"max_tokens": "many"}, ["max_tokens", "many"]),
    ({"max_tokens": False}, ["max_tokens", "false"]),
    ({"max_tokens": 5, "n_predict": 5}, ["max_tokens", "n_predict", "twice"]),
    ({"top_k": -2}, ["top_k", "-2"]),
    ({"top_p": -0.1}, ["top_p", "-0.1", "0"]),
    ({"n": 2}, ["n", "2", "must be 1"]),
    ({"chat_template_kwargs": "x"}, ["chat_template_kwargs", "x", "JSON object", "65536"]),
    ({"chat_template_kwargs": '{"messages": []}'}, ["chat_template_kwargs", "messages"]),
    ({"enable_thinking": "perhaps"}, ["enable_thinking", "perhaps", "true or false"]),
    ({"bad_words": "x"}, ["bad_words", "must be empty"]),
    ({"top_p": 1.01}, ["top_p", "1.01"]),
    ({"min_p": -0.1}, ["min_p", "-0.1"]),
    ({"min_p": 2}, ["min_p", "2"]),
    ({"typical_p": 0}, ["typical_p", "0"]),
    ({"xtc_probability": 1.5}, ["xtc_probability", "1.5", "1"]),
    ({"xtc_threshold": -0.1}, ["xtc_threshold", "-0.1", "0"]),
    ({"mirostat": 3}, ["mirostat", "3", "2"]),
    ({"mirostat_tau": -1}, ["mirostat_tau", "-1", "100"]),
    ({"mirostat_eta": 2}, ["mirostat_eta", "2", "1"]),
    ({"dry_multiplier": -1}, ["dry_multiplier", "-1", "100"]),
    ({"dry_base": 0.5}, ["dry_base", "0.5", "1"]),
    ({"dry_allowed_length": 0}, ["dry_allowed_length", "0", "8192"]),
    ({"dry_penalty_last_n": 9000}, ["dry_penalty_last_n", "9000", "8192"]),
    ({"dry_sequence_breakers": "x" * 41}, ["dry_sequence_breakers", "41", "40"]),
    ({"repetition_penalty": 0}, ["repetition_penalty", "0"]),
    ({"repetition_penalty": 11}, ["repetition_penalty", "11", "10"]),
    ({"presence_penalty": -3}, ["presence_penalty", "-3", "-2", "2"]),
    ({"frequency_penalty": 3}, ["frequency_penalty", "3", "-2", "2"]),
    ({"seed": -2}, ["seed", "-2"]),
    ({"seed": "x"}, ["seed", "x"]),
    ({"stop": "x" * 2000}, ["stop", "1024"]),
    ({"stop": json.dumps(["a"] * 100)}, ["stop", "32"]),
    ({"stop": 5}, ["stop", "5"]),
    ({"ignore_eos": "perhaps"}, ["ignore_eos", "perhaps"]),
    ({"ignore_eos": 2}, ["ignore_eos", "2"]),
    ({"min_tokens": -1}, ["min_tokens", "-1"]),
    ({"min_tokens": 9, "max_tokens": 8}, ["min_tokens", "9", "max_tokens", "8"]),
    ({"streaming": "maybe"}, ["streaming", "maybe"]),
    ({"logit_bias": "{}"}, ["unknown parameter 'logit_bias'"]),
    ({"maxtokens": 8}, ["maxtokens", "max_tokens"]),
    ({"Temperature": 0}, ["Temperature", "temperature"]),
]


@pytest.mark.parametrize("seed", [2**63, 2**64 - 1])
def test_seed_that_arrives_rounded(server, seed):
    """Triton hands whole numbers from 2^63 on over as doubles, of which several are one."""
    answer = server.stream("Say hello", seed=seed)
    assert answer.status == 400 and "send it as a string" in answer.error, answer
    exact = server.stream("Say hello", seed=str(seed), max_tokens=8).whole()
    json_seed = {"sampling_parameters": json.dumps({"seed": seed})}
    assert server.stream("Say hello", inputs=json_seed, max_tokens=8).whole() == exact


@pytest.mark.parametrize(
    "parameters",
    [
        {"model": MODEL},
        {"n": 1},
        {"top_p": 0},
        {"stop": "", "bad_words": "", "stop_words": "[]"},
        {"max_tokens": 1, "max_completion_tokens": 32},
    ],
    ids=str,
)
def test_what_other_clients_send(server, parameters):
    answer = server.stream("Say hello", **{"temperature": 0, "max_tokens": 32} | parameters)
    assert answer.whole() == "Hello! How can I help you today?", answer


@pytest.mark.parametrize("parameters,parts", BAD_PARAMETERS, ids=lambda v: str(v)[:40] if isinstance(v, dict) else "")
@pytest.mark.parametrize("way", ["http", "json", "grpc"])
def test_bad_parameter(server, way, parameters, parts):
    """As request parameters over HTTP and gRPC, and as JSON in `sampling_parameters`."""
    if way == "http":
        answer = server.stream("Say hello", **parameters)
        # `stop` is a declared input, so the front end itself refuses a number there.
        assert answer.status == (500 if parameters == {"stop": 5} else 400), answer
        parts = ["parameters"] if parameters == {"stop": 5} else parts
    elif way == "json":
        answer = server.stream("Say hello", inputs={"sampling_parameters": json.dumps(parameters)})
        assert answer.status == 400, answer
    else:
        # The gRPC client has no way to send floating-point parameters.
        values = {k: str(v) if isinstance(v, float) else v for k, v in parameters.items()}
        answer = grpc_answer(server.grpc, "Say hello", **values)
    assert answer.messages == []
    for part in parts:
        assert part in answer.error, answer.error
    assert len(answer.error) < 700, "the error quotes too much"


def test_bad_sampling_parameters_json(server):
    for text, parts in {
        "{": ["sampling_parameters", "JSON"],
        "[1]": ["sampling_parameters", "object"],
        '{"temperature": [1]}': ["temperature", "list"],
        '{"temperature": {}}': ["temperature", "object"],
        '{"temperature": 0, "temperature": 1}': ["temperature", "twice"],
        '{"stop": ["a", 5]}': ["stop", "list"],
        '{"x": ' + "[" * 200 + "]" * 200 + "}": ["sampling_parameters", "64", "level"],
        json.dumps({"stop": "x" * 100_000}): ["sampling_parameters", "65536"],
    }.items():
        answer = server.stream("Say hello", inputs={"sampling_parameters": text})
        assert answer.status == 400, (text[:40], answer)
        for part in parts:
            assert part in answer.error, (text[:40], answer.error)


def test_lenient_model_ignores_unknown_parameters(server):
    """strict_parameters: false lets unknown names pass, but no bad value."""
    assert server.stream("Say hello", "lenient", temprature=0, best_of=3).whole()
    assert "temperature" in server.stream("Say hello", "lenient", temperature=-1).error


def test_parameters_of_tritons_own_pass(server):
    """Names that Triton itself gives to requests are nobody's mistake."""
    assert server.stream("Say hello", triton_x="1", priority=1, timeout=100, sequence_id=4).whole()


#: BYTES values that JSON cannot carry.
BAD_BYTES = {
    "bad UTF-8": (b"Say \xff hello", ["text_input", "UTF-8", "4"]),
    "cut character": ("Say 🎈".encode()[:-1], ["text_input", "UTF-8", "4"]),
    "surrogate": (b"\xed\xa0\x80", ["text_input", "UTF-8", "0"]),
    "overlong": (b"ab\xc0\x80", ["text_input", "UTF-8", "2"]),
}


@pytest.mark.parametrize("case", BAD_BYTES)
def test_bad_bytes(server, case):
    data, parts = BAD_BYTES[case]
    answer = grpc_answer(server.grpc, data)
    assert answer.messages == []
    for part in parts:
        assert part in answer.error, answer.error


def test_bad_bytes_in_stop(server):
    answer = grpc_answer(server.grpc, "Say hello", inputs={"stop": [b"ok", b"\xff"]})
    assert "stop" in answer.error and "UTF-8" in answer.error


def test_nul_over_grpc(server):
    answer = grpc_answer(server.grpc, b"Say\0hello", max_tokens=4)
    assert answer.whole()
    # The NUL is part of the prompt and ends nothing.
    assert answer.usage["prompt_tokens"] > grpc_answer(server.grpc, b"Say", max_tokens=4).usage["prompt_tokens"] + 1


def test_missing_input(server):
    """No text_input at all; Triton's core counts required inputs by number only."""
    answer = grpc_answer(server.grpc, None)
    assert answer.messages == [] and answer.error
    status, body = server.post_stream({"parameters": {"streaming": True}})
    assert status == 400 and "input" in body
    # An optional input in place of the required one passes core's count.
    answer = grpc_answer(server.grpc, None, inputs={"stop": ["x"]})
    assert "text_input" in answer.error, answer.error
    status, body = server.post_stream({"stop": ["x"]})
    assert status == 400 and "text_input" in body


def test_unknown_input(server):
    with GrpcStreams(server.grpc) as streams:
        answer = streams.send_tensors([bytes_input("text_input", ["hi"]), bytes_input("nonsense", ["x"])])
        streams.read()
    assert "nonsense" in answer.error


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "null",
        "[]",
        '"text"',
        "{}",
        '{"text_input": 5}',
        '{"text_input": null}',
        '{"text_input": [{"role": "user", "content": "hi"}]}',
        '{"text_input": ["a", "b"]}',
        '{"text_input": "hi", "parameters": 5}',
        '{"text_input": "hi", "parameters": {"temperature": null}}',
    ],
)
def test_bad_body(server, body):
    """Bodies that the front end or the backend must refuse."""
    status, reply = server.post_stream(body)
    assert status >= 400 or "error" in reply, (status, reply)


def test_wrong_method_and_path(server):
    assert server.get("/v2/models/llm_decoupled/generate_stream")[0] in (400, 405)
    assert server.request("POST", "/v2/models/llm_decoupled/versions/9/generate_stream", {"text_input": "x"})[0] >= 400


def test_max_tokens_up_to_the_context(server):
    """The largest max_tokens is accepted and ends where the context is full or the model stops."""
    answer = server.stream("Say hello", max_tokens=8192)
    assert answer.whole() and answer.finish_reason == "stop"


def test_context_full_is_a_length_finish(start):
    """Without max_tokens a model that never stops fills the context, then ends with `length`."""
    server = start(config(n_ctx=256, n_parallel=1))
    answer = server.stream("Tell me a long story", ignore_eos=True)
    assert answer.whole() and answer.finish_reason == "length"
    assert answer.usage["total_tokens"] in (256, 257)


def test_queue_full(start):
    """One request too many is refused at once with 503; those accepted all finish."""
    server = start(config(n_parallel=1, max_queue_size=2))
    holder = server.open_stream("Count to 200", ignore_eos=True, max_tokens=8000)
    assert holder.next()["type"] == "chunk"
    queued = [server.open_stream("Say hello", max_tokens=4) for _ in range(2)]
    try:
        # The two above are in the queue once the server has read them.
        time.sleep(0.3)
        refused = server.stream("Say hello", max_tokens=4, timeout=5)
        # 503; servers up to 2.51 answer every error of generate and generate_stream with 400.
        assert refused.status in (400, 503), refused
        assert "queue" in refused.error and "3 requests" in refused.error, refused.error
        status, body = server.generate("Say hello", max_tokens=4, timeout=5)
        assert status == refused.status and "queue" in body["error"], (status, body)
    finally:
        holder.close()
    for stream in queued:
        stream.read().whole()
        stream.close()
