"""The servers that are measured, each a context manager that gives an Endpoint.

One runs at a time, all on the same cores, and none outlives its `with` block.
"""

import http.client
import os
import shutil
import subprocess
import sysconfig
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from . import ROOT
from .settings import BENCH, LLAMA_SERVER, N_THREADS
from repository import config, make_model
from server import MODEL, Server, find_tritonserver, free_ports


@dataclass(frozen=True)
class Endpoint:
    """Where a server listens and how it is spoken to."""

    protocol: str
    port: int
    pid: int
    #: From the start of the process until it was ready.
    ready_seconds: float
    model: str = MODEL


def repository_in(folder, gguf, parameters):
    make_model(folder, config(**{"n_threads": N_THREADS, **parameters}), gguf=gguf)
    return folder


@contextmanager
def ours(gguf, protocol="triton-http", **parameters):
    """tritonserver with our backend and these parameters of the model's configuration."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        repository = repository_in(Path(folder), gguf, parameters)
        with Server(repository, timeout=120) as server:
            ready = time.monotonic() - server.started
            port = server.grpc_port if protocol == "triton-grpc" else server.http_port
            yield Endpoint(protocol, port, server.process.pid, ready)


@contextmanager
def ours_twice(gguf, **parameters):
    """The same with two models, which are copies of each other: two endpoints."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        names = [MODEL, f"{MODEL}_2"]
        for name in names:
            make_model(Path(folder), config(name, **{"n_threads": N_THREADS, **parameters}), name, gguf)
        with Server(folder, timeout=120) as server:
            ready = time.monotonic() - server.started
            yield [Endpoint("triton-http", server.http_port, server.process.pid, ready, name) for name in names]


@contextmanager
def llama_server(gguf, *arguments):
    """llama-server with these arguments."""
    (port,) = free_ports(1)
    command = [
        "setpriv", "--pdeathsig", "KILL",
        str(LLAMA_SERVER), "-m", str(gguf), "--host", "127.0.0.1", "--port", str(port),
        "--threads", str(N_THREADS), *arguments,
    ]  # fmt: skip
    log = BENCH / "llama-server.log"
    with log.open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            wait_until_healthy(process, port, log)
            yield Endpoint("llama-server", port, process.pid, time.monotonic() - started)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)


def wait_until_healthy(process, port, log, timeout=120):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"llama-server ended with {process.returncode}; its log is {log}")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.02)
    raise RuntimeError(f"llama-server is not ready after {timeout} s; its log is {log}")


# Triton's Python backend


def python_backends():
    """A backend directory with Triton's own Python backend, whose stub fits this Python."""
    program = find_tritonserver()
    root = program.parent.parent
    stub = root / "python_backend_stubs" / sysconfig.get_python_version() / "triton_python_backend_stub"
    if not stub.exists():
        # NVIDIA's images have a stub for their own Python beside the backend.
        return root / "backends"
    folder = BENCH / "backends"
    shutil.copytree(root / "backends" / "python", folder / "python", dirs_exist_ok=True)
    shutil.copy(stub, folder / "python")
    (folder / "python" / stub.name).chmod(0o755)
    return folder


@contextmanager
def python_backend(gguf, n_ctx, flash_attn):
    """tritonserver with its Python backend and llama-cpp-python."""
    values = {"model_path": gguf, "n_ctx": n_ctx, "n_threads": N_THREADS, "flash_attn": flash_attn}
    lines = [f'name: "{MODEL}"', 'backend: "python"', "model_transaction_policy { decoupled: true }"]
    for kind, name in (("input", "text_input"), ("output", "text_output")):
        lines.append(f'{kind} [ {{ name: "{name}" data_type: TYPE_STRING dims: [ 1 ] }} ]')
    lines.append("instance_group [ { kind: KIND_CPU count: 1 } ]")
    for name, value in values.items():
        lines.append(f'parameters {{ key: "{name}" value: {{ string_value: "{value}" }} }}')
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        version = make_model(Path(folder), "\n".join(lines) + "\n", gguf=None)
        shutil.copy(ROOT / "benches" / "peers" / "model.py", version)
        # The stub needs Python's own library, and those that a wheel keeps beside its packages.
        wheels = sorted(Path(sysconfig.get_path("purelib")).glob("*.libs"))
        folders = [sysconfig.get_config_var("LIBDIR"), *map(str, wheels), os.environ.get("LD_LIBRARY_PATH", "")]
        # Its Python looks for its environment where `python3` is found.
        path = f"{BENCH / 'venv' / 'bin'}:{os.environ['PATH']}"
        environment = {"LD_LIBRARY_PATH": ":".join(folders), "PATH": path}
        with Server(folder, backends=python_backends(), env=environment, timeout=120) as server:
            ready = time.monotonic() - server.started
            yield Endpoint("triton-http", server.http_port, server.process.pid, ready)


def resident_bytes(endpoint):
    """Resident memory of a server, with the processes that it started."""
    pages = 0
    for pid in [endpoint.pid, *children(endpoint.pid)]:
        pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def children(pid):
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]
