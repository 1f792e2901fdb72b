"""The text is right: byte for byte what the training script computed, alone and in company."""

import json
import sys

import pytest
from repository import SMOLLM2, config, make_model
from server import ROOT
from streams import GrpcStreams, grpc_answer

sys.path.append(str(ROOT / "benches"))
from random_model import SHAPES, write  # noqa: E402


#: Draws from the model's own distribution.
UNFILTERED = {"top_k": 0, "top_p": 1, "min_p": 0}


def name_of(case):
    return case["messages"][-1]["content"][:30]


def expected(case):
    return case["text"], case["finish_reason"]


def test_golden_over_http(demo, golden):
    """Every golden answer, alone."""
    assert golden
    for case in golden:
        answer = demo.stream(case["messages"], temperature=0, max_tokens=case["max_tokens"], timeout=60)
        assert (answer.whole(), answer.finish_reason) == expected(case), name_of(case)
        assert answer.usage["prompt_tokens"] == len(case["prompt_tokens"]), name_of(case)


def test_golden_over_grpc(demo, golden):
    for case in golden:
        answer = grpc_answer(demo.grpc, json.dumps(case["messages"]), temperature="0", max_tokens=case["max_tokens"])
        assert (answer.whole(), answer.finish_reason) == expected(case), name_of(case)


def test_golden_all_at_once(demo, golden):
    """The same answers when they share the batch, several times over."""
    for _ in range(3):
        with GrpcStreams(demo.grpc) as streams:
            for index, case in enumerate(golden):
                text = json.dumps(case["messages"])
                streams.send(text, request_id=str(index), temperature="0", max_tokens=case["max_tokens"])
            answers = streams.read()
        for index, case in enumerate(golden):
            assert answers[str(index)].whole() == case["text"], name_of(case)


def test_one_golden_sixteen_times_at_once(demo, golden):
    for case in golden:
        if len(case["prompt_tokens"]) > 1000:
            continue  # sixteen of these do not fit the cache at once: see the test below
        open_streams = [
            demo.open_stream(case["messages"], temperature=0, max_tokens=case["max_tokens"]) for _ in range(16)
        ]
        texts = {stream.read().whole() for stream in open_streams}
        for stream in open_streams:
            stream.close()
        assert texts == {case["text"]}, name_of(case)


def test_more_than_the_cache_holds(start, golden):
    """Long prompts that do not fit together wait for each other or start over, and lose nothing."""
    server = start(config(n_ctx=6144))
    long = [case for case in golden if len(case["prompt_tokens"]) > 1000][:3]
    assert len(long) == 3
    streams = [
        server.open_stream(c["messages"], temperature=0, max_tokens=c["max_tokens"], timeout=240) for c in long + long
    ]
    for case, stream in zip(long + long, streams):
        assert stream.read().whole() == case["text"], name_of(case)
        stream.close()


def test_what_left_the_cache_comes_back(start):
    """Long chats in turns, in a cache that holds one of them, find what they had in host memory."""
    server = start(config(n_ctx=2304, n_parallel=2))
    system = [f"{word} helper. " * 190 for word in ["First", "Second", "Third"]]
    chats = [[{"role": "system", "content": text}, {"role": "user", "content": "Say hello"}] for text in system]
    first, second = [[server.stream(chat, temperature=0, timeout=240) for chat in chats] for _ in range(2)]
    for before, after in zip(first, second):
        assert 1200 < before.usage["prompt_tokens"] < 2200
        assert before.usage["prompt_tokens_details"]["cached_tokens"] < 100
        assert after.usage["prompt_tokens_details"]["cached_tokens"] >= before.usage["prompt_tokens"] - 1
        assert after.whole() == before.whole()


def test_cached_tokens_are_exact(start):
    """All but the last token of a prompt that was there before, and all that was computed of a chat."""
    server = start(config())
    chat = [
        {"role": "system", "content": "You are a helpful assistant. " * 5},
        {"role": "user", "content": "Count to 20"},
    ]

    def ask():
        answer = server.stream(chat, temperature=0)
        assert answer.whole() and answer.finish_reason == "stop"
        usage = answer.usage
        return answer, usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]

    first, n_cached, n_prompt = ask()
    assert n_cached == 0
    assert ask()[1:] == (n_prompt - 1, n_prompt)
    chat += [{"role": "assistant", "content": first.whole()}, {"role": "user", "content": "Say hello"}]
    # The end of an answer is sampled and never computed.
    assert ask()[1] == n_prompt + first.usage["completion_tokens"] - 1


def test_not_streaming_is_the_same_text(demo, golden):
    for case in golden:
        status, body = demo.generate(case["messages"], temperature=0, max_tokens=case["max_tokens"])
        message = json.loads(body["text_output"])
        assert status == 200 and message["content"] == case["text"], name_of(case)


def test_characters_are_never_split(demo, golden):
    """Emoji, CJK and accents come whole, although each takes several tokens."""
    wide = [c for c in golden if any(ord(character) > 0x2FF for character in c["text"])]
    assert len(wide) >= 4, "the demo model's golden answers should include wide characters"
    for case in wide:
        answer = demo.stream(case["messages"], temperature=0, max_tokens=case["max_tokens"])
        assert answer.whole() == case["text"]
        for chunk in answer.chunks:
            assert "\ufffd" not in chunk, chunk
            chunk.encode()  # a lone half of a surrogate pair would raise
        # More tokens than characters, without the one that ends the answer: some took several.
        assert answer.usage["completion_tokens"] - 1 > len(case["text"])


def test_a_cut_character_becomes_one_replacement(demo):
    """A limit that falls inside a character leaves one mark at the end and no broken bytes."""
    prompt = "Send me emoji"
    whole = demo.stream(prompt, temperature=0).whole()
    n_cut = 0
    for max_tokens in range(1, 20):
        answer = demo.stream(prompt, temperature=0, max_tokens=max_tokens)
        text = answer.whole()
        assert answer.finish_reason == "length"
        assert answer.usage["completion_tokens"] == max_tokens
        assert whole.startswith(text.removesuffix("\ufffd")), text
        n_cut += text.endswith("\ufffd")
    assert 0 < n_cut < 19, "some limits should fall inside a character and some between two"


@pytest.mark.parametrize("transport", ["http", "grpc", "generate"])
def test_stop_string(demo, transport):
    """Found across token borders, and neither it nor what follows is sent."""
    prompt = "Count to 20"
    whole = demo.stream(prompt, temperature=0).whole()
    stop = whole[12:17]
    assert len(stop) == 5
    before = whole[: whole.index(stop)]
    if transport == "http":
        answer = demo.stream(prompt, temperature=0, stop=stop)
        text, reason = answer.whole(), answer.finish_reason
    elif transport == "grpc":
        answer = grpc_answer(demo.grpc, prompt, inputs={"stop": ["never", stop]}, temperature="0")
        text, reason = answer.whole(), answer.finish_reason
    else:
        message = json.loads(demo.generate(prompt, temperature=0, stop=json.dumps(["never", stop]))[1]["text_output"])
        text, reason = message["content"], message["finish_reason"]
    assert (text, reason) == (before, "stop")


def test_a_stop_string_that_never_comes_loses_nothing(demo):
    """Text held back because it might be one is released."""
    whole = demo.stream("Count to 20", temperature=0).whole()
    for stop in (whole[-1] + "x", whole[3:8] + "\x00", "never"):
        answer = demo.stream("Count to 20", temperature=0, stop=stop)
        assert (answer.whole(), answer.finish_reason) == (whole, "stop")


def test_stop_ways_agree(demo):
    """A parameter, an input and the sampling_parameters JSON mean the same."""
    whole = demo.stream("Count to 20", temperature=0).whole()
    stop = whole[7:10]
    answers = [
        demo.stream("Count to 20", temperature=0, stop=stop),
        demo.stream("Count to 20", temperature=0, inputs={"stop": [stop]}),
        demo.stream("Count to 20", temperature=0, stop=["never", stop]),
        demo.stream("Count to 20", inputs={"sampling_parameters": json.dumps({"temperature": 0, "stop": [stop]})}),
    ]
    assert {a.whole() for a in answers} == {whole[: whole.index(stop)]}


def seeds_that_differ(server, seeds, **options):
    """The seeds whose text in company is not their text alone."""
    options = {"max_tokens": 40, "ignore_eos": True, **UNFILTERED, **options}
    prompt = "Tell me a story"
    differ = []
    for seed in seeds:
        alone = server.stream(prompt, seed=seed, **options).whole()
        # Some leave early, so that their cells are used again.
        lengths = {"max_tokens": 10 + 10 * (seed % 4)}
        others = [server.open_stream(f"Count to {n}", seed=n, **{**options, **lengths}) for n in range(12)]
        if server.stream(prompt, seed=seed, **options).whole() != alone:
            differ.append(seed)
        for stream in others:
            stream.read().whole()
            stream.close()
    return differ


def test_one_seed_one_text(demo):
    """Random text repeats under its seed, alone and in company, to the least likely token, and differs without."""
    assert seeds_that_differ(demo, range(30), temperature=5.0) == []
    hot = {"temperature": 5.0, "max_tokens": 40, "ignore_eos": True, **UNFILTERED}
    assert len({demo.stream("Tell me a story", seed=seed, **hot).whole() for seed in range(5)}) > 1
    assert len({demo.stream("Tell me a story", **hot).whole() for _ in range(5)}) > 1


@pytest.mark.parametrize("flash_attn", ["on", "off"])
def test_one_seed_one_text_where_every_slot_has_its_own_cells(start, flash_attn):
    server = start(config(kv_unified="false", n_ctx=16 * 512, flash_attn=flash_attn))
    assert seeds_that_differ(server, range(15), temperature=5.0) == []


def test_one_seed_one_text_in_mixed_kinds_of_weights(start, repository, tmp_path):
    """As people's files are: most weights in Q4_K, some in Q6_K, computed for one row and for many in different code."""
    gguf = tmp_path / "random.gguf"
    write(gguf, "Q4_K_M", SHAPES["tiny"])
    make_model(repository, config(n_ctx=4096), gguf=gguf)
    server = start()
    assert seeds_that_differ(server, range(10), temperature=1.0) == []
    assert len({server.stream("Say", seed=seed, temperature=1.0, max_tokens=20, **UNFILTERED).whole() for seed in range(5)}) > 1


#: Questions of several lengths.
QUESTIONS = [
    "Hi",
    "Name a colour.",
    "What is the capital of the country of France?",
    "Write one sentence about the sea.",
    "Count from one to ten in words, please.",
    "Why do birds fly south in winter? Answer as you would to a child of six years.",
    "Translate to French: the cat sleeps on the chair, and the dog sleeps under the table by the window.",
    "What is two and two?",
]


@pytest.mark.parametrize("temperature", [0, 1])
def test_one_seed_one_text_of_a_real_model(start, repository, temperature):
    """A real model says the same to each of several clients as to one."""
    make_model(repository, config(n_ctx=4096, n_parallel=8), gguf=SMOLLM2)
    server = start()
    options = {"temperature": temperature, "seed": 7, "max_tokens": 24, **UNFILTERED}
    alone = [server.stream(question, **options).whole() for question in QUESTIONS]
    assert len(set(alone)) == len(QUESTIONS)
    streams = [server.open_stream(question, **options) for question in QUESTIONS]
    together = [stream.read().whole() for stream in streams]
    for stream in streams:
        stream.close()
    assert together == alone


def test_a_real_model_knows_something(start, repository):
    """The template of a real file gives answers that make sense."""
    make_model(repository, config(n_ctx=2048), gguf=SMOLLM2)
    answer = start().stream("What is the capital of the country of France?", max_tokens=40)
    assert "Paris" in answer.whole() and answer.finish_reason == "stop"


@pytest.mark.parametrize(
    "parameters",
    [
        {"xtc_probability": 1, "xtc_threshold": 0.0001},
        {"mirostat": 1, "mirostat_tau": 8},
        {"mirostat": 2, "mirostat_tau": 8},
    ],
    ids=lambda parameters: "-".join(map(str, list(parameters.items())[0])),
)
def test_one_seed_one_text_with_the_rarer_samplers(demo, parameters):
    def text(seed, **more):
        # The demo model is sure of what it says: less would hardly differ.
        parameters = {"temperature": 4, "max_tokens": 80, **UNFILTERED, **more}
        return demo.stream("Tell me a long story", seed=seed, **parameters).whole()

    assert text(1, **parameters) == text(1, **parameters)
    assert text(1, **parameters) != text(2, **parameters)
    assert text(1, **parameters) != text(1)


def test_dry_keeps_an_answer_from_repeating_itself(demo):
    """The long story, whose days all take the same course, no longer does."""

    def repeated(**parameters):
        story = demo.stream("Tell me a long story", temperature=0, max_tokens=300, ignore_eos=True, **parameters)
        words = story.whole().split()
        runs = [tuple(words[start : start + 5]) for start in range(len(words) - 4)]
        return len(runs) - len(set(runs))

    assert repeated() > 10
    assert repeated(dry_multiplier=10, dry_penalty_last_n=2000, dry_sequence_breakers="[]") < repeated() / 2


def test_text_input_and_messages_agree(demo):
    """Plain text is one user message, and parts join to a string."""
    messages = [
        [{"role": "user", "content": "Count to 9"}],
        [{"role": "user", "content": [{"type": "text", "text": "Count to 9"}]}],
    ]
    plain = demo.stream("Count to 9", temperature=0)
    for message in messages:
        answer = demo.stream(message, temperature=0)
        assert (answer.whole(), answer.usage) == (plain.whole(), plain.usage)


def test_prompts_matter(demo, golden):
    """What the model is told comes back."""
    repeats = [c for c in golden if c["messages"][-1]["content"].endswith(": " + c["text"])]
    assert len(repeats) >= 3, "the golden answers should include repeated phrases"
    for case in repeats:
        assert demo.stream(case["messages"], temperature=0).whole() == case["text"]


def test_min_tokens(demo):
    short = demo.stream("Say hello in one word", temperature=0)
    n = short.usage["completion_tokens"] + 10
    answer = demo.stream("Say hello in one word", temperature=0, min_tokens=n, max_tokens=n + 20)
    answer.whole()
    assert answer.usage["completion_tokens"] >= n
