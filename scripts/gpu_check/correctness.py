"""Does it do what it should: one server, the demo model on this device and beside it on the CPU."""

import json
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import ROOT
from repository import config, make_model
from server import Server

import random_model
from steps import nvidia_smi

DEMO = ROOT / "triton_repo" / "llm_decoupled" / "1" / "demo.gguf"
GOLDEN = ROOT / "tests" / "e2e" / "demo_greedy.json"
LONG = {"max_tokens": 2000, "temperature": 0, "ignore_eos": True}
N_LOADS = 20
#: What the driver may keep for itself between two loads.
MEMORY_SLACK_MIB = 64


def run(report):
    with tempfile.TemporaryDirectory(prefix="gpu-check-models-") as folder:
        repository = Path(folder)
        for name, extra in (("demo", report.instances), ("on_cpu", "instance_group [ { kind: KIND_CPU } ]")):
            make_model(repository, config(name, extra=extra), name=name, gguf=DEMO)
        too_large(repository, report)
        with Server(repository, "--model-control-mode=explicit", "--load-model=on_cpu", timeout=120) as server:
            check(report, server)


def check(report, server):
    cases = json.loads(GOLDEN.read_text())
    expected = [case["text"] for case in cases]
    with report.step("the server finds the device") as notes:
        modules = server.wait_for_log(r"llama\.cpp's modules: [^\"]*")[0]
        notes.append(modules)
        assert not report.on_gpu or "cuda: CUDA0" in modules, "CUDA's module has no device"
        loaded(server, "demo")
    with report.step("greedy texts are those of the CPU, and those expected") as notes:
        here, there = texts(server, "demo", cases), texts(server, "on_cpu", cases)
        notes.append(f"{len(cases)} texts")
        assert there == expected, first_difference(there, expected)
        assert here == there, first_difference(here, there)
    with report.step("the same texts when they share the batch") as notes:
        with ThreadPoolExecutor(16) as pool:
            found = list(pool.map(lambda case: text(server, "demo", case), cases * 2))
        assert found == expected * 2, first_difference(found, expected * 2)
    with report.step("one response on /generate, and an error for a bad request") as notes:
        status, reply = server.generate(cases[0]["messages"], "demo", temperature=0)
        answer = json.loads(reply["text_output"])
        assert status == 200 and answer["content"] == expected[0], (status, reply)
        status, reply = server.generate("Say hello", "demo", temperature=-1)
        notes.append(f"{status}: {reply['error']}")
        assert status == 400 and "temperature" in reply["error"], (status, reply)
    with report.step("a cancelled stream gives its place back") as notes:
        cancel(server, notes)
    with report.step(f"{N_LOADS} loads and unloads give all memory back") as notes:
        load_often(report, server, notes)
    with report.step("a model that does not fit is a load error, and the server lives") as notes:
        status, body = server.load("too_large", timeout=120)
        notes.append(f"{status}: {body}")
        assert status == 400 and "n_ctx" in body, "it must be refused, with the reason"
        loaded(server, "demo")
        assert text(server, "demo", cases[0]) == expected[0]


def loaded(server, model):
    status, body = server.load(model, timeout=120)
    assert status == 200, body


def text(server, model, case):
    return server.stream(case["messages"], model, temperature=0, max_tokens=case["max_tokens"]).whole()


def texts(server, model, cases):
    return [text(server, model, case) for case in cases]


def first_difference(found, expected):
    return next(f"{one!r} is not {other!r}" for one, other in zip(found, expected) if one != other)


def cancel(server, notes):
    """More streams than there are slots are given up: whoever comes after them is served at once."""
    for _ in range(3):
        streams = [server.open_stream("Count to 200", "demo", **LONG) for _ in range(16)]
        for stream in streams:
            stream.next()
        for stream in streams:
            stream.close()
    begin = time.monotonic()
    server.good_answer("demo")
    seconds = time.monotonic() - begin
    notes.append(f"the next answer took {seconds:.2f} s")
    assert seconds < 10


def memory_mib(report, server):
    if report.on_gpu:
        return int(nvidia_smi("memory.used"))
    return server.resident_bytes() >> 20


def load_often(report, server, notes):
    used = []
    for _ in range(N_LOADS + 1):
        loaded(server, "demo")
        server.good_answer("demo")
        peak = memory_mib(report, server)
        assert server.unload("demo")[0] == 200
        server.wait_unloaded("demo")
        used.append(memory_mib(report, server))
    # The first load leaves what llama.cpp and the driver keep for ever.
    notes.append(f"MiB: {used[0]} after the first unload, {used[-1]} after the last, {peak} while loaded")
    assert used[-1] - used[0] <= MEMORY_SLACK_MIB, used
    loaded(server, "demo")


def too_large(repository, report):
    """A model whose KV cache is half as much again as there is memory."""
    shape = random_model.SHAPES["small"]
    path = ROOT / "build" / "bench" / "models" / "too-large.gguf"
    path.parent.mkdir(parents=True, exist_ok=True)
    random_model.write(path, "Q4_0", shape)
    memory = int(nvidia_smi("memory.total")) << 20 if report.on_gpu else physical_bytes()
    n_ctx = min(memory * 3 // 2 // (4 * shape.n_layers * shape.n_kv_heads * shape.n_head_embd), 1 << 24)
    # Enough for a machine with 260 GB.
    make_model(repository, config("too_large", extra=report.instances, n_ctx=n_ctx), name="too_large", gguf=path)


def physical_bytes():
    return int(re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]) * 1024
