"""Does it do what it should: one server, the demo model on this device and beside it on the CPU."""

import json
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from harness import ROOT, workloads
from harness.client import drive
from harness.servers import Endpoint
from http_stream import HttpStream
from repository import config, make_model
from server import Server

import random_model
from steps import nvidia_smi

DEMO = ROOT / "triton_repo" / "llm_decoupled" / "1" / "demo.gguf"
GOLDEN = ROOT / "tests" / "e2e" / "demo_greedy.json"
#: The curl command of the project's guide.
GUIDE = ROOT / "tests" / "e2e" / "seed" / "stream.sh"
LONG = {"max_tokens": 2000, "temperature": 0, "ignore_eos": True}
N_LOADS = 20
#: What the driver may keep for itself between two loads.
MEMORY_SLACK_MIB = 64


def run(report):
    with tempfile.TemporaryDirectory(prefix="gpu-check-models-") as folder, ExitStack() as started:
        checks = Checks(report, Path(folder), started)
        if not report.step("the server starts", checks.start):
            return
        report.step("the server finds the device", checks.device)
        report.step("health and ready endpoints", checks.health)
        report.step("greedy texts are those of the CPU, and those expected", checks.texts)
        report.step("the same texts when they share the batch", checks.batch)
        report.step("the request of the guide is answered as a stream", checks.guide)
        report.step("a stream over gRPC", checks.grpc)
        report.step("one response on /generate, and an error for a bad request", checks.generate)
        report.step("a cancelled stream gives its place back", checks.cancel)
        report.step(f"{N_LOADS} loads and unloads give all memory back", checks.load_often)
        report.step("a model that does not fit is a load error, and the server lives", checks.too_large)
        report.step("a GPU that is not there is a load error, and the server lives", checks.unknown_gpus)
        report.step("KIND_MODEL on one GPU", checks.kind_model, needs_gpu=True)
        report.step("two instances share the batch", checks.two_instances)


class Checks:
    """The server, what is expected of it, and the steps, each of which takes the list of its notes."""

    def __init__(self, report, repository, started):
        self.report = report
        self.repository = repository
        #: What is started here ends with it.
        self.started = started
        self.server = None
        self.memory_before = None
        self.cases = json.loads(GOLDEN.read_text())
        self.expected = [case["text"] for case in self.cases]

    def start(self, _notes):
        self.add("demo", self.report.instances())
        self.add("on_cpu", "instance_group [ { kind: KIND_CPU } ]")
        arguments = ("--model-control-mode=explicit", "--load-model=on_cpu")
        self.server = self.started.enter_context(Server(self.repository, *arguments, timeout=120))

    def device(self, notes):
        modules = self.server.wait_for_log(r"llama\.cpp's modules: [^\"]*")[0]
        notes.append(modules)
        assert not self.report.on_gpu or "cuda: CUDA0" in modules, "CUDA's module has no device"
        self.memory_before = self.memory_mib()
        self.load("demo")

    def health(self, _notes):
        for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/demo/ready"):
            status, body = self.server.get(path)
            assert status == 200, f"{path}: {status} {body}"
        assert not self.server.is_ready("not_there"), "a model that is not there is ready"

    def texts(self, notes):
        here, there = ([self.text(model, case) for case in self.cases] for model in ("demo", "on_cpu"))
        notes.append(f"{len(self.cases)} texts")
        check_texts(there, self.expected)
        check_texts(here, there)

    def batch(self, _notes):
        check_texts(self.at_once("demo", self.cases * 2), self.expected * 2)

    def guide(self, notes):
        """As curl sends it: no parameter but `streaming`."""
        body = json.loads(re.search(r"-d '(.*)'", GUIDE.read_text(), re.DOTALL)[1])
        with HttpStream(self.server.http_port, "/v2/models/demo/generate_stream", body) as stream:
            answer = stream.read()
        notes.append(f"{len(answer.messages)} responses: {answer.whole()}")
        assert answer.text == self.expected[0] and len(answer.chunks) > 1, answer.messages

    def grpc(self, notes):
        """The load client ends no answer before its last token, so it gets the beginning of a long one."""
        n_tokens = 64
        case = max(self.cases, key=lambda case: len(case["text"]))
        (message,) = case["messages"]
        workload = workloads.workload([workloads.session(workloads.turn(message["content"], n_tokens))])
        endpoint = Endpoint("triton-grpc", self.server.grpc_port, self.server.process.pid, 0, "demo")
        record = drive(endpoint, workload).whole().record(0)
        notes.append(f"{len(record['arrivals_ms'])} responses")
        assert record["completion_tokens"] == n_tokens and len(record["arrivals_ms"]) > 1, record
        assert case["text"].startswith(record["text"]), f"{record['text']!r} does not begin {case['text']!r}"

    def generate(self, notes):
        status, reply = self.server.generate(self.cases[0]["messages"], "demo", temperature=0)
        answer = json.loads(reply["text_output"])
        assert status == 200 and answer["content"] == self.expected[0], (status, reply)
        status, reply = self.server.generate("Say hello", "demo", temperature=-1)
        notes.append(f"{status}: {reply['error']}")
        assert status == 400 and "temperature" in reply["error"], (status, reply)

    def cancel(self, notes):
        """More streams than there are slots are given up: whoever comes after them is served at once."""
        for _ in range(3):
            streams = [self.server.open_stream("Count to 200", "demo", **LONG) for _ in range(16)]
            for stream in streams:
                stream.next()
            for stream in streams:
                stream.close()
        begin = time.monotonic()
        self.server.good_answer("demo")
        seconds = time.monotonic() - begin
        notes.append(f"the next answer took {seconds:.2f} s")
        assert seconds < 10

    def load_often(self, notes):
        used = []
        for _ in range(N_LOADS + 1):
            self.load("demo")
            self.server.good_answer("demo")
            peak = self.memory_mib()
            self.unload("demo")
            used.append(self.memory_mib())
        # The first load leaves what llama.cpp and the driver keep for ever.
        notes.append(
            f"MiB: {self.memory_before} before the first load, {used[0]} after the first unload, {used[-1]} after the "
            f"last, {peak} while loaded"
        )
        assert used[-1] - used[0] <= MEMORY_SLACK_MIB, used
        self.load("demo")

    def too_large(self, notes):
        """A KV cache of half as much again as there is memory, and no layer that may stay in the host's."""
        shape = random_model.SHAPES["small"]
        path = ROOT / "build" / "bench" / "models" / "too-large.gguf"
        path.parent.mkdir(parents=True, exist_ok=True)
        random_model.write(path, "Q4_0", shape)
        memory = int(nvidia_smi("memory.total")) << 20 if self.report.on_gpu else physical_bytes()
        # The parameter's largest value is enough for a machine with 260 GB.
        n_ctx = min(memory * 3 // 2 // (4 * shape.n_layers * shape.n_kv_heads * shape.n_head_embd), 1 << 24)
        self.add("too_large", self.report.instances(), path, n_ctx=n_ctx, n_gpu_layers="all")
        status, body = self.server.load("too_large", timeout=120)
        notes.append(f"{status}: {body}")
        free = "bytes are free" if self.report.on_gpu else "bytes of memory are available"
        reason = rf"n_ctx = \d+ .* need \d+ bytes.*: \d+ {free}"
        assert status == 400 and re.search(reason, body), "it must be refused, with the bytes that it needs"
        self.check_alive()

    def unknown_gpus(self, notes):
        cases = {
            "gpu_99": ("instance_group [ { kind: KIND_GPU gpus: [ 99 ] } ]", {}, r"(?i)\bGPU (id )?99\b"),
            "cuda_99": ("instance_group [ { kind: KIND_MODEL } ]", {"devices": "CUDA99"}, "'devices' names .*CUDA99"),
        }
        for name, (group, parameters, reason) in cases.items():
            self.add(name, group, **parameters)
            status, body = self.server.load(name)
            notes.append(f"{status}: {body}")
            assert status >= 400 and re.search(reason, body), "it must be refused, with the GPU's name"
        self.check_alive()

    def kind_model(self, _notes):
        self.add("kind_model", "instance_group [ { kind: KIND_MODEL } ]", devices="CUDA0")
        self.check_model("kind_model")
        # Said only where a model is on a GPU.
        self.server.wait_for_log("model 'kind_model' fits")

    def two_instances(self, _notes):
        self.add("two_instances", self.report.instances(2))
        self.check_model("two_instances")

    # What the steps are made of

    def add(self, name, group, gguf=DEMO, **parameters):
        """Adds a model to the repository."""
        make_model(self.repository, config(name, extra=group, **parameters), name=name, gguf=gguf)

    def load(self, model):
        status, body = self.server.load(model, timeout=120)
        assert status == 200, body

    def unload(self, model):
        assert self.server.unload(model)[0] == 200
        self.server.wait_unloaded(model)

    def text(self, model, case):
        return self.server.stream(case["messages"], model, temperature=0, max_tokens=case["max_tokens"]).whole()

    def at_once(self, model, cases):
        pool = ThreadPoolExecutor(16)
        try:
            return list(pool.map(lambda case: self.text(model, case), cases))
        finally:
            # Whoever is cut off does not wait for these: they end with the server.
            pool.shutdown(wait=False, cancel_futures=True)

    def check_model(self, model):
        """Loads a model, which must say what is expected, and unloads it."""
        self.load(model)
        check_texts(self.at_once(model, self.cases), self.expected)
        self.unload(model)

    def check_alive(self):
        """The other models still answer, and as before."""
        for model in ("demo", "on_cpu"):
            self.load(model)
            check_texts([self.text(model, self.cases[0])], self.expected[:1])

    def memory_mib(self):
        if self.report.on_gpu:
            return int(nvidia_smi("memory.used"))
        return self.server.resident_bytes() >> 20


def check_texts(found, expected):
    differences = [f"{one!r} is not {other!r}" for one, other in zip(found, expected) if one != other]
    assert not differences, differences[0]


def physical_bytes():
    return int(re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]) * 1024
