"""Model configurations: the smallest that works, everything that may stand in one, every fault by name."""

import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from http_stream import HttpStream
from repository import DEMO, add_keys, config, make_model, split
from server import BACKENDS, LIBRARY, MODEL, ROOT, Server
from streams import GrpcStreams, bytes_input, grpc_answer
from tritonclient.grpc.model_config_pb2 import ModelConfig

SAY_HELLO = "Say hello"


def parameter(key, value):
    return f"parameters {{ key: {json.dumps(key)} value: {{ string_value: {json.dumps(value)} }} }}"


@pytest.fixture(scope="module")
def loader(tmp_path_factory):
    """A server in which one model after another is loaded."""
    repository = tmp_path_factory.mktemp("loader")
    with Server(repository, "--model-control-mode=explicit") as server:
        server.repository = repository
        yield server


@pytest.fixture
def load(loader):
    """load(config text, ...) loads a model and returns (status, reply); it is gone after the test."""

    def load_model(text=None, **options):
        make_model(loader.repository, text, **options)
        return loader.load(options.get("name", MODEL))

    yield load_model
    for folder in loader.repository.iterdir():
        loader.unload(folder.name)
        loader.wait_unloaded(folder.name)
        shutil.rmtree(folder)
    assert loader.process.poll() is None, "the server died"


def loads(load, *arguments, **options):
    status, reply = load(*arguments, **options)
    assert status == 200, reply


def declared(name='name: "text_input"', kind="TYPE_STRING", dims="1", more="", direction="input"):
    return f"{direction} [ {{ {name} data_type: {kind} dims: [ {dims} ] {more} }} ]"


#: What is added to the smallest config.pbtxt, and what the load error must name.
BAD_CONFIGS = {
    "unknown parameter": (parameter("n_contex", "512"), ["n_contex", "n_ctx"]),
    "nothing like it": (parameter("colour", "blue"), ["colour"]),
    "n_ctx is no number": (parameter("n_ctx", "big"), ["n_ctx", "big"]),
    "n_ctx is negative": (parameter("n_ctx", "-1"), ["n_ctx", "-1"]),
    "n_ctx is huge": (parameter("n_ctx", "99999999999"), ["n_ctx", "99999999999"]),
    "n_ctx is empty": (parameter("n_ctx", ""), ["n_ctx"]),
    "n_parallel is negative": (parameter("n_parallel", "-1"), ["n_parallel", "-1", "256"]),
    "n_parallel 257": (parameter("n_parallel", "257"), ["n_parallel", "257", "256"]),
    "n_ctx below n_parallel": (
        parameter("n_ctx", "15") + parameter("n_parallel", "16"),
        ["n_ctx", "15", "at least 16", "n_parallel = 16"],
    ),
    "n_batch 0": (parameter("n_batch", "0"), ["n_batch"]),
    "n_batch below n_parallel": (parameter("n_batch", "8"), ["n_batch", "8", "16"]),
    "n_ubatch above n_batch": (
        parameter("n_batch", "64") + parameter("n_ubatch", "128"),
        ["n_ubatch", "128", "n_batch", "64"],
    ),
    "n_threads": (parameter("n_threads", "100000"), ["n_threads", "100000", "512"]),
    "cache type": (parameter("cache_type_k", "f17"), ["cache_type_k", "f17", "f16"]),
    "quantised cache without flash attention": (
        parameter("cache_type_v", "q8_0") + parameter("flash_attn", "off"),
        ["cache_type_v", "q8_0", "flash_attn"],
    ),
    "flash_attn": (parameter("flash_attn", "yes please"), ["flash_attn", "auto"]),
    "speculative_method": (parameter("speculative_method", "eagle"), ["speculative_method", "eagle", "ngram"]),
    "draft_model without its file": (parameter("speculative_method", "draft_model"), ["speculative_model"]),
    "speculative_model is missing": (
        parameter("speculative_method", "draft_model") + parameter("speculative_model", "no.gguf"),
        ["speculative_model", "no.gguf"],
    ),
    "more layers than the model has": (parameter("n_gpu_layers", "6"), ["n_gpu_layers", "6", "at most 5"]),
    "more layers with experts than the model has": (parameter("n_cpu_moe", "5"), ["n_cpu_moe", "5", "at most 4"]),
    "an unknown device": (
        parameter("devices", "CUDA99") + "instance_group [ { kind: KIND_MODEL } ]",
        ["devices", "CUDA99", "there is "],
    ),
    "a device twice": (parameter("devices", "CUDA0,CUDA0"), ["devices", "CUDA0,CUDA0", "once"]),
    "devices of KIND_CPU": (
        parameter("devices", "CUDA0") + "instance_group [ { kind: KIND_CPU } ]",
        ["devices", "KIND_MODEL", "KIND_CPU"],
    ),
    "tensor_split below 0": (parameter("tensor_split", "1,-1"), ["tensor_split", "1,-1"]),
    "tensor_split of 0": (parameter("tensor_split", "0,0"), ["tensor_split", "0,0"]),
    "split_mode": (parameter("split_mode", "rows"), ["split_mode", "rows", "none, layer, row"]),
    "override_tensor without a buffer": (parameter("override_tensor", "ffn"), ["override_tensor", "ffn"]),
    "override_tensor with an unknown buffer": (
        parameter("override_tensor", "ffn=CUDA99"),
        ["override_tensor", "CUDA99", "CPU"],
    ),
    "override_tensor with a broken pattern": (parameter("override_tensor", "(=CPU"), ["override_tensor", "(=CPU"]),
    "use_mmap": (parameter("use_mmap", "perhaps"), ["use_mmap", "perhaps"]),
    "max_queue_size": (parameter("max_queue_size", "-1"), ["max_queue_size", "-1"]),
    "max_prompt_bytes": (parameter("max_prompt_bytes", "0"), ["max_prompt_bytes", "0"]),
    "sampling_parameters is no JSON": (parameter("sampling_parameters", "{temperature: 0}"), ["sampling_parameters"]),
    "sampling_parameters out of range": (
        parameter("sampling_parameters", '{"temperature": -1}'),
        ["sampling_parameters", "temperature", "-1"],
    ),
    "sampling_parameters unknown": (
        parameter("sampling_parameters", '{"temprature": 1}'),
        ["sampling_parameters", "temprature", "temperature"],
    ),
    "chat_template is no Jinja": (parameter("chat_template", "{% for %}"), ["template"]),
    "chat_template_file is missing": (parameter("chat_template_file", "no.jinja"), ["no.jinja"]),
    "two templates": (
        parameter("chat_template", "x") + parameter("chat_template_file", "y"),
        ["chat_template", "chat_template_file"],
    ),
    "model_path is missing": (parameter("model_path", "no.gguf"), ["no.gguf"]),
    "default_model_filename is missing": ('default_model_filename: "no.gguf"', ["default_model_filename", "no.gguf"]),
    "two names for the file": (
        'default_model_filename: "a.gguf"\n' + parameter("model_path", "b.gguf"),
        ["default_model_filename", "model_path"],
    ),
    "cc_model_filenames": ('cc_model_filenames [ { key: "7.5" value: "a.gguf" } ]', ["cc_model_filenames"]),
    "batch_input": (
        'batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: "x" data_type: TYPE_INT32 source_input: "text_input" } ]',
        ["batch_input"],
    ),
    "model_operations": ('model_operations { op_library_filename: "a.so" }', ["model_operations"]),
    "model_path is a folder": (parameter("model_path", "/"), ["/"]),
    "unknown input": (declared('name: "prompt"'), ["prompt", "text_input"]),
    "input type": (declared(kind="TYPE_INT32"), ["text_input", "TYPE_INT32", "TYPE_STRING"]),
    "input dims": (declared(dims="1, 2"), ["text_input", "[1, 2]"]),
    "unknown output": (declared('name: "logits"', direction="output"), ["logits", "text_output"]),
    "output type": (declared('name: "text_output"', "TYPE_FP32", direction="output"), ["text_output", "TYPE_FP32"]),
    "sequence batching": ("sequence_batching { }", ["sequence_batching"]),
    "passive instances alone": ("instance_group [ { kind: KIND_CPU passive: true } ]", ["instance_group", "passive"]),
    "too many instances": ("instance_group [ { count: 100 kind: KIND_CPU } ]", ["100", "256"]),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_config(load, loader, case):
    extra, parts = BAD_CONFIGS[case]
    status, reply = load(f'backend: "llm"\n{extra}\n')
    assert status >= 400, reply
    for part in parts:
        assert part in reply, reply


#: How Triton says that it sees no GPU, and how we say it where Triton sees one.
NO_GPU = r"no GPUs are available|invalid or unsupported gpu id 0|this build has no CUDA"


@pytest.mark.parametrize("group", ["kind: KIND_GPU", "kind: KIND_GPU count: 1 gpus: [ 0 ]"])
def test_no_gpu(load, group):
    """KIND_GPU on a machine or build without a GPU is a load error that says so."""
    status, reply = load(f'backend: "llm"\ninstance_group [ {{ {group} }} ]\n')
    assert status >= 400 and re.search(NO_GPU, reply), reply


#: What may be added to the smallest config.pbtxt.
GOOD_CONFIGS = {
    "nothing": "",
    "n_ctx": parameter("n_ctx", "1024"),
    "n_parallel 1": parameter("n_parallel", "1"),
    "n_parallel 256": parameter("n_parallel", "256"),
    "small batches": parameter("n_batch", "16") + parameter("n_ubatch", "16"),
    "threads": parameter("n_threads", "1") + parameter("n_threads_batch", "2"),
    "quantised cache": parameter("cache_type_k", "q8_0") + parameter("cache_type_v", "q8_0"),
    "no flash attention": parameter("flash_attn", "off"),
    "n-gram drafts": parameter("speculative_method", "ngram") + parameter("num_speculative_tokens", "4"),
    "the model drafts for itself": parameter("speculative_method", "draft_model")
    + parameter("speculative_model", str(DEMO)),
    "no mmap": parameter("use_mmap", "false"),
    "llama.cpp's option names": parameter("ctx_size", "1024") + parameter("parallel", "2"),
    "everything declared": declared()
    + declared('name: "sampling_parameters"', more="optional: true")
    + declared('name: "stop"', dims="-1", more="optional: true")
    + declared('name: "text_output"', direction="output")
    + "model_transaction_policy { decoupled: true }",
    "decoupled false is healed": "model_transaction_policy { decoupled: false }",
    "dynamic batching": "dynamic_batching { }",
    "max_batch_size 4": "max_batch_size: 4",
    "count 4": "instance_group [ { count: 4 } ]",
    "KIND_CPU": "instance_group [ { kind: KIND_CPU } ]",
    "KIND_AUTO": "instance_group [ { kind: KIND_AUTO } ]",
    "KIND_MODEL": "instance_group [ { kind: KIND_MODEL } ]",
    "KIND_MODEL on the CPU, in llama.cpp's words": "instance_group [ { kind: KIND_MODEL } ]"
    + parameter("device", "none")
    + parameter("split_mode", "none")
    + parameter("gpu_layers", "all")
    + parameter("n_cpu_moe", "4")
    + parameter("override_tensor", "ffn_(up|down)=CPU"),
    "a passive group beside another": "instance_group [ { kind: KIND_CPU passive: true }, { kind: KIND_CPU } ]",
    "n_ctx 200": parameter("n_ctx", "200"),
    "two groups": "instance_group [ { kind: KIND_CPU count: 2 }, { kind: KIND_CPU count: 1 } ]",
    "warm-up with zeros": 'model_warmup [ { name: "zero" batch_size: 0 inputs { key: "text_input"'
    " value: { data_type: TYPE_STRING dims: [ 1 ] zero_data: true } } } ]",
    "warm-up twice": 'model_warmup [ { name: "zero" batch_size: 0 count: 2 inputs { key: "text_input"'
    " value: { data_type: TYPE_STRING dims: [ 1 ] zero_data: true } } } ]",
}


@pytest.mark.parametrize("case", GOOD_CONFIGS)
def test_good_config(load, loader, case):
    loads(load, f'backend: "llm"\n{GOOD_CONFIGS[case]}\n')
    assert loader.good_answer()


def test_smallest_config(load, loader):
    """backend: "llm" is enough; everything else is filled in."""
    loads(load, 'backend: "llm"')
    full = json.loads(loader.get(f"/v2/models/{MODEL}/config")[1])
    assert [i["name"] for i in full["input"]] == ["text_input", "sampling_parameters", "stop"]
    assert [i.get("optional", False) for i in full["input"]] == [False, True, True]
    assert [(o["name"], o["data_type"]) for o in full["output"]] == [("text_output", "TYPE_STRING")]
    assert full["model_transaction_policy"]["decoupled"] is True
    assert full["max_batch_size"] == 0


def test_no_config_at_all(load, loader):
    """A model called x.llm needs no config.pbtxt."""
    loads(load, "", name="tiny.llm")
    assert loader.good_answer("tiny.llm")


def test_disabled_auto_complete(repository):
    """What is missing is named together with what to write; a whole config works."""
    make_model(repository, config(name="bare"), name="bare")
    whole = declared() + declared('name: "text_output"', direction="output") + "max_batch_size: 0\n"
    make_model(repository, config(name="held", extra=whole), name="held")
    make_model(
        repository, config(name="whole", extra=whole + "model_transaction_policy { decoupled: true }"), name="whole"
    )
    arguments = ("--disable-auto-complete-config", "--model-control-mode=explicit")
    with Server(repository, *arguments) as server:
        status, reply = server.load("bare")
        assert status >= 400
        assert "text_input" in reply and "TYPE_STRING" in reply and "auto-complete" in reply, reply
        status, reply = server.load("held")
        assert status >= 400 and "decoupled: true" in reply, reply
        assert server.load("whole")[0] == 200
        assert server.good_answer("whole")


def test_batched_shapes(load, loader):
    """max_batch_size above 0 takes [1,1]; two texts in one request are refused by name."""
    loads(load, 'backend: "llm"\nmax_batch_size: 4')
    alone = loader.good_answer()
    answer = grpc_answer(loader.grpc, SAY_HELLO, shape=(1, 1), temperature="0", max_tokens=64)
    assert answer.whole() == alone
    with GrpcStreams(loader.grpc) as streams:
        answer = streams.send_tensors([bytes_input("text_input", ["a", "b"], (2, 1))])
        streams.read()
    assert answer.messages == []
    assert "text_input" in answer.error and "2" in answer.error, answer.error


def test_count_adds_concurrency_not_weights(repository):
    """Four instances share one copy of the model, and run four requests at the same time."""
    make_model(repository, config(name="one", n_ctx=512, n_parallel=1), name="one")
    four = config(name="four", n_ctx=8192, n_parallel=1, extra="instance_group [ { count: 4 } ]")
    make_model(repository, four, name="four")
    with Server(repository, "--model-control-mode=explicit") as server:
        assert server.load("one")[0] == 200
        assert server.load("four")[0] == 200
        log = server.log()
        loaded = [line for line in log.splitlines() if "llama_model_loader: loaded meta data" in line]
        assert len(loaded) == 2, "the weights are loaded once for each model"
        # Each has its first chunk before any has ended.
        streams = [server.open_stream("Count to 200", "four", max_tokens=1000, ignore_eos=True) for _ in range(4)]
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(HttpStream.read, streams))
        for stream, answer in zip(streams, answers):
            answer.whole()
            stream.close()
        assert max(a.times[0] for a in answers) < min(a.times[-1] for a in answers), "they ran one after another"


def test_two_models_at_once(repository):
    make_model(repository, config(name="a"), name="a")
    make_model(repository, config(name="b"), name="b")
    with Server(repository) as server:
        streams = {m: server.open_stream("Count to 20", m) for m in ("a", "b")}
        texts = {m: stream.read().whole() for m, stream in streams.items()}
        for stream in streams.values():
            stream.close()
        assert texts["a"] == texts["b"]


# Defaults of requests.


def test_sampling_of_the_model_file(load, loader):
    """What the file says of sampling holds for requests and configurations that do not; the log says which it is."""
    keys = {"temp": 5.0, "top_k": 1, "penalty_repeat": 1.0, "penalty_last_n": 64}
    gguf = add_keys(DEMO.read_bytes(), {f"general.sampling.{key}": value for key, value in keys.items()})
    loads(load, config(sampling_parameters=None), gguf=gguf)
    texts = {loader.stream("Tell me a story", max_tokens=30).whole() for _ in range(5)}
    assert len(texts) == 1, "top_k 1 should make temperature 5 greedy"
    unfiltered = {"top_k": 0, "top_p": 1, "min_p": 0}
    assert len({loader.stream("Tell me a story", max_tokens=30, **unfiltered).whole() for _ in range(5)}) > 1
    loader.wait_for_log(r"temperature = 5.0 \(model file\), top_k = 1 \(model file\)")
    loader.wait_for_log("general.sampling.penalty_last_n is not used")


def test_defaults_of_the_configuration_win(load, loader):
    gguf = add_keys(DEMO.read_bytes(), {"general.sampling.temp": 5.0})
    loads(load, config(sampling_parameters='{"temperature": 0}'), gguf=gguf)
    assert len({loader.stream("Tell me a story", max_tokens=30).whole() for _ in range(5)}) == 1
    loader.wait_for_log(r"defaults of requests: temperature = 0 \(config\)")


# Where the model file may lie.


def test_model_path_absolute(load, loader, tmp_path):
    path = tmp_path / "elsewhere.gguf"
    shutil.copy(DEMO, path)
    loads(load, config(model_path=str(path)), gguf=None)
    assert loader.good_answer()


def test_model_path_relative(load, loader):
    version = make_model(loader.repository, config(model_path="weights/tiny.gguf"), gguf=None)
    (version / "weights").mkdir()
    shutil.copy(DEMO, version / "weights" / "tiny.gguf")
    status, reply = loader.load()
    assert status == 200, reply
    assert loader.good_answer()


def test_default_model_filename(load, loader):
    """Triton's own field names the file too: of several that one is served."""
    version = make_model(loader.repository, config(extra='default_model_filename: "second.gguf"'), gguf=b"GGUF")
    os.symlink(DEMO, version / "second.gguf")
    status, reply = loader.load()
    assert status == 200, reply
    assert loader.good_answer()


def test_every_field_of_the_configuration_is_documented():
    """docs/parameters.md says of each field of Triton's message what becomes of it."""
    page = (ROOT / "docs" / "parameters.md").read_text()
    for field in ModelConfig.DESCRIPTOR.fields:
        assert re.search(rf"^\| `{field.name}` \| (the backend|Triton|nobody|refused) \|", page, re.MULTILINE), field.name


def test_no_model_file(load):
    status, reply = load(config(), gguf=None)
    assert status >= 400 and "gguf" in reply and "model_path" in reply, reply


def test_two_model_files(load, loader):
    version = make_model(loader.repository, config())
    os.symlink(DEMO, version / "second.gguf")
    status, reply = loader.load()
    assert status >= 400 and "2 *.gguf" in reply and "model_path" in reply, reply


def test_split_model(load, loader):
    """The parts of a split model lie in the version folder; the first is taken and the others follow."""
    version = make_model(loader.repository, config(), gguf=None)
    parts = split(DEMO.read_bytes(), 2)
    for number, part in enumerate(parts, 1):
        (version / f"demo-{number:05}-of-00002.gguf").write_bytes(part)
    assert min(map(len, parts)) > DEMO.stat().st_size / 4, "each part should hold a good part of the weights"
    status, reply = loader.load()
    assert status == 200, reply
    split_answer = loader.good_answer()
    loads(load, config(name="whole"), name="whole")
    assert split_answer == loader.good_answer("whole")


def test_split_model_with_a_part_missing(load, loader):
    version = make_model(loader.repository, config(), gguf=None)
    (version / "demo-00001-of-00002.gguf").write_bytes(split(DEMO.read_bytes(), 2)[0])
    status, reply = loader.load()
    assert status >= 400 and "demo-00002-of-00002.gguf" in reply, reply


def test_chat_template_file(load, loader):
    """A template of the user's, relative to the version folder, takes the model's place."""
    version = make_model(loader.repository, config(chat_template_file="my.jinja"))
    (version / "my.jinja").write_text("{{ messages[0]['content'] }}")
    status, reply = loader.load()
    assert status == 200, reply
    own = loader.stream(SAY_HELLO, max_tokens=4).usage["prompt_tokens"]
    loader.unload()
    loader.wait_unloaded()
    (loader.repository / MODEL / "config.pbtxt").write_text(config())
    assert loader.load()[0] == 200
    models = loader.stream(SAY_HELLO, max_tokens=4).usage["prompt_tokens"]
    assert own < models, "the model's own template adds tokens that this one does not"


# Model files that are not what they should be.

MODEL_BYTES = {
    "empty": lambda demo: b"",
    "no GGUF": lambda demo: b"this is no model" * 100,
    "header only": lambda demo: demo[:16],
    "cut in the metadata": lambda demo: demo[:5000],
    "cut in the weights": lambda demo: demo[:-1000],
    "half": lambda demo: demo[: len(demo) // 2],
    "wrong version": lambda demo: demo[:4] + b"\x63" + demo[5:],
    "absurd counts": lambda demo: demo[:8] + b"\xff" * 16 + demo[24:],
    "absurd string": lambda demo: demo[:24] + b"\xff" * 7 + b"\x7f" + demo[32:],
    "zeros in the metadata": lambda demo: demo[:64] + bytes(4000) + demo[4064:],
    "no architecture": lambda demo: demo.replace(b"general.architecture", b"general.architecturX", 1),
    "unknown architecture": lambda demo: demo.replace(b"llama", b"lla?a"),
    "no tokens": lambda demo: demo.replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenX"),
}


@pytest.mark.parametrize("case", MODEL_BYTES)
def test_damaged_model(load, loader, case):
    """Refused with the file's name; the server lives and loads the next model."""
    damaged = MODEL_BYTES[case](DEMO.read_bytes())
    assert damaged != DEMO.read_bytes()
    status, reply = load(gguf=damaged)
    assert status >= 400, reply
    assert "model.gguf" in reply, reply
    assert loader.process.poll() is None
    make_model(loader.repository, name="next")
    assert loader.load("next")[0] == 200
    assert loader.good_answer("next")


def test_model_without_chat_template(load, loader):
    """ChatML stands in, with a warning."""
    bare = DEMO.read_bytes().replace(b"tokenizer.chat_template", b"tokenizer.chat_templatX")
    loads(load, gguf=bare)
    loader.wait_for_log(r"\nW.*(?i:chatml)")
    assert loader.good_answer()


# The three places where the library may lie.


def test_library_in_the_model_folder(repository, tmp_path):
    make_model(repository)
    shutil.copy(LIBRARY, repository / MODEL / "libtriton_llm.so")
    (tmp_path / "none").mkdir()
    with Server(repository, backends=tmp_path / "none") as server:
        assert server.good_answer()


def test_library_in_the_version_folder(repository, tmp_path):
    make_model(repository, library=LIBRARY)
    (tmp_path / "none").mkdir()
    with Server(repository, backends=tmp_path / "none") as server:
        assert server.good_answer()


def test_library_in_the_backend_directory(repository):
    make_model(repository)
    assert LIBRARY.parent.parent == BACKENDS
    with Server(repository) as server:
        assert server.good_answer()
