"""The backend as a folder of modules: it serves on every processor, with a driver and without.

`make test` builds the folder for CPUs first. The one with CUDA takes an hour and is tested where
`make cuda` has built it.
"""

import json
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from repository import config, make_model
from server import FOLDERS, MODEL, ROOT, Server, llama_source
from servers import library_of

CUDA = ROOT / "build" / "cuda" / "backends"
LINE = r"llama\.cpp's modules: (.*)"
needs_cuda = pytest.mark.skipif(not CUDA.exists(), reason="make cuda has not run here")


def name_of(folder):
    return folder.parent.name


@pytest.fixture(params=FOLDERS, ids=name_of)
def folder(request):
    return request.param


def modules(server):
    """What the log says became of each module, in one line."""
    assert len(re.findall(LINE, server.log())) == 1
    parts = server.wait_for_log(LINE)[1].split("; ")
    return dict(part.split(": ", 1) for part in parts)


def check_texts(server, golden):
    for case in golden[:6]:
        answer = server.stream(case["messages"], temperature=0, max_tokens=case["max_tokens"])
        assert answer.whole() == case["text"]


def with_files(tmp_path, folder, keep):
    """A backend directory with those files of a folder whose names `keep` is true of."""
    target = tmp_path / "backends" / "llm"
    target.mkdir(parents=True)
    for file in (folder / "llm").iterdir():
        if keep(file.name):
            shutil.copy(file, target)
    return target.parent


def test_folders_are_built():
    assert FOLDERS, "build them first: scripts/modules.sh"


def test_serves(folder, start, golden):
    """With the module that fits this processor, wherever the server's working directory is."""
    server = start(backends=folder)
    cpu = [name for name in modules(server) if name.startswith("cpu-")]
    assert len(cpu) == 1
    check_texts(server, golden)


def test_serves_from_a_model_folder(folder, repository, golden):
    """Triton also looks for a backend beside the model, and takes it with all of its files."""
    version = make_model(repository)
    shutil.copytree(folder / "llm", version.parent, dirs_exist_ok=True)
    with Server(repository, backends="/nowhere") as server:
        check_texts(server, golden)


def kinds_that_run_here():
    """The CPU modules of the first folder that this processor can run, by what llama.cpp itself says."""
    if not FOLDERS:
        return []
    program = "import ctypes, sys; print(ctypes.CDLL(sys.argv[1]).ggml_backend_score())"
    kinds = []
    for file in sorted((FOLDERS[0] / "llm").glob("libggml-cpu-*.so")):
        environment = {**os.environ, "LD_LIBRARY_PATH": str(file.parent)}
        score = subprocess.run(["python3", "-c", program, file], capture_output=True, text=True, env=environment, timeout=60)
        if score.stdout.strip() not in ("", "0"):
            kinds.append(file.name)
    return kinds


@pytest.mark.parametrize("kind", kinds_that_run_here())
def test_every_kind_of_processor_says_the_same(kind, start, tmp_path, golden):
    backends = with_files(tmp_path, FOLDERS[0], lambda name: not name.startswith("libggml-cpu-") or name == kind)
    server = start(backends=backends)
    assert kind.removeprefix("libggml-").removesuffix(".so") in modules(server)
    check_texts(server, golden)


def test_no_module_for_this_processor(start, tmp_path):
    """A load error that says where a module was looked for: there, and nowhere else."""
    backends = with_files(tmp_path, FOLDERS[0], lambda name: not name.startswith("libggml-cpu-"))
    server = start(None, "--exit-on-error=false", backends=backends, wait="live")
    server.wait_for_log(rf"failed to load '{MODEL}'.*no module for this machine's CPU in {backends}")
    assert "load_backend: loaded" not in server.log()


def test_a_module_that_cannot_be_loaded_is_left_out(start, tmp_path, golden):
    """As CUDA's without a driver: here one that needs a library which is nowhere."""
    backends = with_files(tmp_path, FOLDERS[0], lambda name: name != "libggml-cuda.so")
    for name, needs in (("libnowhere.so", []), ("libggml-cuda.so", ["-Wl,--no-as-needed", "libnowhere.so"])):
        command = ["cc", "-shared", "-x", "c", "/dev/null", "-x", "none", *needs, "-o", name]
        subprocess.run(command, check=True, cwd=backends / "llm", timeout=60)
    (backends / "llm" / "libnowhere.so").unlink()
    server = start(backends=backends)
    assert modules(server)["cuda"].startswith("no device, libnowhere.so: cannot open shared object file")
    check_texts(server, golden)


def test_code_that_does_not_work_on_this_processor(start, tmp_path, golden):
    """It ends a trial, and not the server; what the error says to do helps."""
    backends = with_files(tmp_path, FOLDERS[0], lambda name: True)
    good, broken = kinds_that_run_here()[0], backends / "llm" / "libggml-cpu-broken.so"
    llama = llama_source()
    command = ["c++", "-shared", "-fPIC", f'-DGOOD="{backends}/llm/{good}"', f"-I{llama}/ggml/include", f"-I{llama}/ggml/src"]
    subprocess.run([*command, ROOT / "tests" / "e2e" / "broken_module.cpp", "-o", broken], check=True, timeout=120)
    server = start(None, "--exit-on-error=false", backends=backends, wait="live")
    said = server.wait_for_log(rf"failed to load '{MODEL}'.*")[0]
    for part in (
        r"a trial in a process of its own ended with signal 4 .* while it computed one row and \d+ together with weights in q8_0",
        r"llama\.cpp's code for this processor \(.*SSE3.*\) does not work on it",
        rf"take the file '{broken}' away, and the next best one is used",
    ):
        assert re.search(part, said), said
    assert server.get("/v2/health/live")[0] == 200
    server.stop()
    broken.unlink()
    check_texts(start(backends=backends), golden)


# Older processors


@pytest.mark.skipif(platform.machine() != "x86_64", reason="processors of x86-64")
@pytest.mark.parametrize("processor, kind", [("Haswell", "haswell"), ("SandyBridge", "sandybridge"), ("Nehalem", "sse42")])
def test_a_processor_without_avx512(processor, kind, folder, repository, golden, tmp_path):
    """Emulated: its module is taken, no file of ours has an instruction that it lacks, the text is the same."""
    host = tmp_path / "host"
    source = ROOT / "tests" / "e2e" / "in_process_host.c"
    subprocess.run(["cc", "-O1", "-o", host, source, "-ldl"], check=True, timeout=60)
    make_model(repository)
    library, case = library_of("2.51.0"), golden[0]
    command = ["qemu-x86_64", "-cpu", processor, host, library, repository, folder, MODEL, json.dumps(case["messages"])]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library.parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"cpu-{kind}: CPU" in done.stderr
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert "".join(m.get("content", "") for m in messages) == case["text"]


# CUDA


@pytest.fixture
def toolkit():
    """The libraries of the CUDA toolkit that `make cuda` would build with."""
    command = ["bash", "-c", 'source "$0" && find_cuda', ROOT / "scripts" / "common.sh"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    libraries = Path(found.stdout.strip()) / "lib64"
    if found.returncode != 0 or not (libraries / "stubs" / "libcuda.so").exists():
        pytest.skip("no CUDA toolkit with a stub of the driver")
    return libraries


@needs_cuda
@pytest.mark.parametrize("group", ["", "instance_group [ { kind: KIND_CPU } ]"], ids=["no group", "KIND_CPU"])
def test_cuda_without_a_driver(group, start, golden):
    server = start(config(extra=group), backends=CUDA)
    assert modules(server)["cuda"].startswith("no device, ")
    check_texts(server, golden)
    # Of ours: Triton has its own to say, and llama.cpp names files.
    lines = re.findall(r'\.rs:\d+\] "(?!llama).*(?:driver|GPU).*', server.log())
    assert len(lines) == 1, lines


@needs_cuda
def test_cuda_with_a_driver_that_finds_nothing(start, tmp_path, golden, toolkit):
    """CUDA's real libraries on a driver with every function, each of which answers that there is no device."""
    stub = subprocess.run(["nm", "-D", "--defined-only", toolkit / "stubs" / "libcuda.so"], capture_output=True, text=True)
    names = re.findall(r" T (cu\w+)", stub.stdout)
    assert "cuInit" in names and len(names) > 300
    source = "".join(f"int {name}(void) {{ return 100; }}\n" for name in names)
    command = ["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-x", "c", "-", "-o", "libcuda.so.1"]
    subprocess.run(command, input=source, text=True, check=True, cwd=tmp_path, timeout=60)
    server = start(backends=CUDA, env={"LD_LIBRARY_PATH": f"{tmp_path}:{toolkit}"})
    found = modules(server)["cuda"]
    assert found.startswith("no device, ") and "failed to initialize CUDA" in found
    check_texts(server, golden)
