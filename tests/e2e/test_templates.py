"""Chat templates: what is found out of one at load, and what of a request reaches it. The answers show the prompts."""

import json
import shutil
import struct

import pytest
from repository import DEMO, config, make_model
from server import MODEL, Server

#: ChatML as the demo model knows it, around what stands for a message's text.
TURNS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "CONTENT<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = TURNS.replace("CONTENT", "{{ m.content }}")


@pytest.fixture(scope="module")
def loader(tmp_path_factory):
    repository = tmp_path_factory.mktemp("templates")
    with Server(repository, "--model-control-mode=explicit") as server:
        server.repository = repository
        make_model(repository, config(name="plain", chat_template=TEXT), name="plain")
        assert server.load("plain")[0] == 200
        yield server


@pytest.fixture
def load(loader):
    """load(template, ...) loads a model with it, and returns (status, reply)."""

    def load_model(template=None, gguf=DEMO, **parameters):
        make_model(loader.repository, config(chat_template=template, **parameters), gguf=gguf)
        return loader.load()

    yield load_model
    loader.unload()
    loader.wait_unloaded()
    shutil.rmtree(loader.repository / MODEL)
    assert loader.process.poll() is None, "the server died"


def told(answer):
    return answer.whole(), answer.usage["prompt_tokens"]


def user(content):
    return [{"role": "user", "content": content}]


def test_a_template_that_wants_parts_gets_parts(load, loader):
    parts = "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
    assert load(TURNS.replace("CONTENT", parts))[0] == 200
    for text in ["Say hello", "Count to 9"]:
        expected = told(loader.stream(text, model="plain"))
        for content in [text, [{"type": "text", "text": text}], [{"type": "text", "text": t} for t in (text[:5], text[5:])]]:
            assert told(loader.stream(user(content))) == expected


def test_a_template_that_loses_the_text_does_not_load(load):
    status, reply = load(TURNS.replace("CONTENT", "{{ m.contents }}"))
    assert status >= 400 and "loses the user's text" in reply, reply


def test_what_a_template_lacks_is_in_the_log(load, loader):
    lacking = TURNS.replace("CONTENT", "{% if m.role == 'tool' %}{{ m.content | sparkle }}{% endif %}{{ m.content }}")
    assert load(lacking)[0] == 200
    loader.wait_for_log(r"\nW.*calls what is not there.*filter sparkle")
    assert loader.good_answer()
    answer = loader.stream([{"role": "tool", "content": "x"}])
    assert answer.status == 400 and "sparkle" in answer.error, answer


def test_pythons_methods_and_formatting(load, loader):
    python = "{{ '%s' % m.content.removeprefix('x').rsplit('|', 1)[0] }}"
    assert load(TURNS.replace("CONTENT", python))[0] == 200
    assert told(loader.stream("xCount to 9|y")) == told(loader.stream("Count to 9", model="plain"))


def test_system_messages_where_the_template_refuses_them(load, loader):
    """As Gemma 2 does."""
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + TEXT
    assert load(refusing)[0] == 200
    loader.wait_for_log(r"\nI.*takes no system messages")
    for role in ["system", "developer"]:
        answer = loader.stream([{"role": role, "content": "Be kind."}, *user("Say hello")])
        assert told(answer) == told(loader.stream("Be kind.\nSay hello", model="plain"))


def test_variables_reach_the_template(load, loader):
    asking = TURNS.replace("CONTENT", "{% if enable_thinking %}Count to {{ n }}{% else %}{{ m.content }}{% endif %}")
    defaults = json.dumps({"temperature": 0, "chat_template_kwargs": {"n": 5}})
    assert load(asking, sampling_parameters=defaults)[0] == 200
    expected = {text: told(loader.stream(text, model="plain")) for text in ["Say hello", "Count to 5", "Count to 9"]}
    hello = "Say hello"
    assert told(loader.stream(hello)) == expected[hello]
    assert told(loader.stream(hello, enable_thinking=True)) == expected["Count to 5"]
    both = {"enable_thinking": True, "n": 9}
    assert told(loader.stream(hello, chat_template_kwargs=json.dumps(both))) == expected["Count to 9"]
    in_json = json.dumps({"chat_template_kwargs": both})
    assert told(loader.stream(hello, inputs={"sampling_parameters": in_json})) == expected["Count to 9"]
    stronger = loader.stream(hello, inputs={"sampling_parameters": in_json}, enable_thinking=False)
    assert told(stronger) == expected[hello]


def test_calls_of_earlier_turns_reach_the_template(load, loader):
    calls = "{% for c in m.tool_calls %}{{ c.function.arguments.text }}{% endfor %}{{ m.content }}{{ m.reasoning_content }}"
    assert load(TURNS.replace("CONTENT", calls).replace("{{ m.role }}", "user"))[0] == 200
    expected = told(loader.stream("Count to 9", model="plain"))
    for arguments in ['{"text": "Count to "}', {"text": "Count to "}]:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        message = {"role": "assistant", "content": None, "reasoning": "9", "tool_calls": [call]}
        assert told(loader.stream([message])) == expected


def without_template(gguf):
    return gguf.replace(b"tokenizer.chat_template", b"tokenizer.chat_templatX")


def test_a_base_model_gets_plain_text(load, loader):
    """Where the vocabulary lacks ChatML's marks, no prompt has them."""
    base = without_template(DEMO.read_bytes()).replace(b"<|im_end|>", b"<|im_enX|>")
    assert load(gguf=base)[0] == 200
    loader.wait_for_log(r"\nW.*no chat template, its prompts are the plain texts")
    words = loader.stream("Count to 9", max_tokens=1).usage["prompt_tokens"]
    assert words < loader.stream("Count to 9", model="plain", max_tokens=1).usage["prompt_tokens"]
    turns = [{"role": "system", "content": "Count"}, *user(" to 9")]
    assert loader.stream(turns, max_tokens=1).usage["prompt_tokens"] == words + 1


def test_an_empty_template_is_none(load, loader):
    gguf = DEMO.read_bytes()
    at = gguf.index(b"tokenizer.chat_template") + len(b"tokenizer.chat_template") + 4
    (n,) = struct.unpack_from("<Q", gguf, at)
    # A key more takes up the bytes, so that all else stays where it is.
    filler = struct.pack("<Q1sIQ", 1, b"x", 8, n - 21).ljust(n, b"x")
    emptied = gguf[:at] + struct.pack("<Q", 0) + filler + gguf[at + 8 + n :]
    (n_keys,) = struct.unpack_from("<Q", emptied, 16)
    emptied = emptied[:16] + struct.pack("<Q", n_keys + 1) + emptied[24:]
    assert load(gguf=emptied)[0] == 200
    loader.wait_for_log(r"\nW.*no chat template, ChatML is used")
    assert loader.good_answer()
