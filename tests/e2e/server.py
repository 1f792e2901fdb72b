"""A real tritonserver, run for the tests, and its plain HTTP side.

Every wait has a timeout, every server is stopped at the latest when its
`with` block ends, and its log is kept in a file that conftest.py shows when a
test fails.
"""

import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from http_stream import Answer, HttpStream

ROOT = Path(__file__).resolve().parents[2]
#: TRITON_LLM_BACKENDS tests an installed library instead of the one just built.
BACKENDS = Path(os.environ.get("TRITON_LLM_BACKENDS", ROOT / "build" / "backends"))
LIBRARY = BACKENDS / "llm" / "libtriton_llm.so"
#: The backend directories of the other shape that are built: a folder of modules, and one with CUDA's.
FOLDERS = [folder for shape in ("modules", "cuda") if (folder := ROOT / "build" / shape / "backends").exists()]
MODEL = "llm_decoupled"

#: The servers of the test that runs now, for the logs of a failed test.
running = []


def find_tritonserver():
    """The same choice as find_tritonserver in scripts/common.sh."""
    wheels = sorted(ROOT.glob(".venv/lib/python3*/site-packages/pytriton/tritonserver/bin/tritonserver"))
    named = os.environ.get("TRITONSERVER")
    if named:
        if not (os.path.isfile(named) and os.access(named, os.X_OK)):
            raise FileNotFoundError(f"TRITONSERVER is '{named}': not a program that can be run")
        return Path(named).resolve()
    candidates = [Path("/opt/tritonserver/bin/tritonserver"), *wheels]
    for program in candidates:
        if os.access(program, os.X_OK):
            return program
    raise FileNotFoundError("no tritonserver: run `make setup`")


def llama_source():
    """The folder of the llama.cpp that the library is built from."""
    command = ["cargo", "metadata", "--format-version", "1", "--locked"]
    metadata = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=120)
    packages = json.loads(metadata.stdout)["packages"]
    crate = next(package for package in packages if package["name"] == "llama-cpp-sys-2")
    return Path(crate["manifest_path"]).parent / "llama.cpp"


#: Ports that were chosen before: a server takes its own only some time later, and several may start at once.
chosen = set()
choosing = threading.Lock()


def free_ports(count):
    """Ports below the range that the system hands out for connections."""
    ports = []
    while len(ports) < count:
        port = random.randrange(20000, 30000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        with choosing:
            if port not in chosen:
                chosen.add(port)
                ports.append(port)
    return ports


class Server:
    """One tritonserver process on free ports of this machine.

    `wait` names the state to wait for: "ready", "live" (for servers whose
    models fail to load) or None.
    """

    def __init__(self, repository, *arguments, program=None, backends=BACKENDS, wait="ready", timeout=60, env=None):
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        self.http = f"127.0.0.1:{self.http_port}"
        self.grpc = f"127.0.0.1:{self.grpc_port}"
        handle, name = tempfile.mkstemp(prefix="tritonserver-", suffix=".log")
        self.log_file = Path(name)
        command = [
            "setpriv", "--pdeathsig", "KILL",
            str(program or find_tritonserver()),
            f"--model-repository={repository}",
            f"--backend-directory={backends}",
            f"--http-port={self.http_port}", "--http-address=127.0.0.1",
            f"--grpc-port={self.grpc_port}", "--grpc-address=127.0.0.1",
            f"--metrics-port={self.metrics_port}",
            *arguments,
        ]  # fmt: skip
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=handle, stderr=handle, env={**os.environ, **(env or {})}
        )
        os.close(handle)
        running.append(self)
        if wait:
            try:
                self.wait_until(wait, timeout)
            except BaseException:
                self.close()
                raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Stops the server, by force if it does not end by itself."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(20)

    def stop(self, signal_number=signal.SIGTERM, timeout=60):
        """Stops the server as its owner would and returns its exit status."""
        self.process.send_signal(signal_number)
        return self.process.wait(timeout)

    def log(self):
        return self.log_file.read_text(errors="replace")

    def wait_for_log(self, pattern, timeout=10):
        """Waits until a line of the log matches and returns the match."""
        end = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.log())
            if found:
                return found
            assert time.monotonic() < end, f"{pattern!r} is not in the log after {timeout} s"
            time.sleep(0.05)

    def wait_until(self, state, timeout):
        end = time.monotonic() + timeout
        while True:
            assert self.process.poll() is None, f"tritonserver ended with {self.process.returncode}\n{self.log()[-3000:]}"
            try:
                if self.get(f"/v2/health/{state}", timeout=5)[0] == 200:
                    return
            except OSError:
                pass
            assert time.monotonic() < end, f"not {state} after {timeout} s\n{self.log()[-3000:]}"
            time.sleep(0.02)

    # HTTP

    def request(self, method, path, body=None, timeout=60, port=None, headers=None):
        """One HTTP exchange: (status, text of the body)."""
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        if isinstance(body, str):
            body = body.encode()
        connection = http.client.HTTPConnection("127.0.0.1", port or self.http_port, timeout=timeout)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def get(self, path, timeout=60):
        return self.request("GET", path, timeout=timeout)

    def generate(self, text, model=MODEL, timeout=60, **parameters):
        """The /generate endpoint: (status, decoded body)."""
        body = {"text_input": as_text(text), "parameters": {"streaming": False, **parameters}}
        status, reply = self.request("POST", f"/v2/models/{model}/generate", body, timeout)
        return status, json.loads(reply)

    def open_stream(self, text, model=MODEL, timeout=60, inputs=None, **parameters):
        """The /generate_stream endpoint, to be read event by event."""
        body = {"text_input": as_text(text), **(inputs or {})}
        if parameters:
            body["parameters"] = parameters
        return HttpStream(self.http_port, f"/v2/models/{model}/generate_stream", body, timeout)

    def stream(self, text, model=MODEL, timeout=60, inputs=None, **parameters) -> Answer:
        """The /generate_stream endpoint, read to its end."""
        with self.open_stream(text, model, timeout, inputs, **parameters) as stream:
            return stream.read()

    def good_answer(self, model=MODEL):
        """Sends a request that must work and returns its text."""
        answer = self.stream("Say hello", model, temperature=0, max_tokens=64)
        return answer.whole()

    def post_stream(self, body, model=MODEL, timeout=60):
        """Posts a body as it is: (status, text of the whole reply)."""
        return self.request("POST", f"/v2/models/{model}/generate_stream", body, timeout)

    # Model control and metrics

    def load(self, model=MODEL, config=None, timeout=60):
        body = {"parameters": {"config": json.dumps(config)}} if config else {}
        return self.request("POST", f"/v2/repository/models/{model}/load", body, timeout)

    def unload(self, model=MODEL, timeout=60):
        return self.request("POST", f"/v2/repository/models/{model}/unload", {}, timeout)

    def is_ready(self, model=MODEL):
        return self.get(f"/v2/models/{model}/ready")[0] == 200

    def wait_unloaded(self, model=MODEL, timeout=30):
        """Waits until the model is gone; unloading goes on in the background."""
        end = time.monotonic() + timeout
        while True:
            index = json.loads(self.request("POST", "/v2/repository/index", {})[1])
            states = {entry["name"]: entry.get("state", "UNAVAILABLE") for entry in index}
            if states.get(model, "UNAVAILABLE") == "UNAVAILABLE":
                return
            assert time.monotonic() < end, f"still {states} after {timeout} s"
            time.sleep(0.05)

    def metrics(self):
        """All metrics: {(name, model): sum over other labels}."""
        text = self.request("GET", "/metrics", port=self.metrics_port)[1]
        found = re.findall(r'^(\w+)\{(?:[^}]*)model="([^"]*)"(?:[^}]*)\} (\S+)$', text, re.MULTILINE)
        sums = Counter()
        for name, model, value in found:
            sums[name, model] += float(value)
        return sums

    def resident_bytes(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def as_text(text):
    """A list of messages becomes the JSON that the protocol wants."""
    return text if isinstance(text, str) else json.dumps(text)
