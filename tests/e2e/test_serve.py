"""`make serve` as a person runs it: in a terminal, ended with Ctrl-C."""

import os
import pty
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from repository import DEMO
from server import MODEL, ROOT, free_ports
from test_seed import SEED

SERVE = ROOT / "scripts" / "serve.sh"


class Terminal:
    """A command in a terminal of its own."""

    def __init__(self, command, environment):
        self.screen = ""
        self.status = None
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            # A shell cannot trap what was ignored when it started, as in a background job.
            for number in (signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            os.execvpe(command[0], command, {**os.environ, "TERM": "xterm", **environment})

    def read(self, seconds=0.1):
        try:
            if select.select([self.terminal], [], [], seconds)[0]:
                self.screen += os.read(self.terminal, 65536).decode(errors="replace").replace("\r\n", "\n")
        except OSError:  # the other side is closed
            time.sleep(seconds)

    def wait_for(self, text, timeout=60):
        end = time.monotonic() + timeout
        while text not in self.screen:
            assert time.monotonic() < end and not self.ended(), f"{text!r} is not on the screen:\n{self.screen[-3000:]}"
            self.read()

    def ended(self):
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
        return self.status is not None

    def wait(self, timeout=60):
        end = time.monotonic() + timeout
        while not self.ended():
            assert time.monotonic() < end, f"still running:\n{self.screen[-3000:]}"
            self.read()
        self.read()
        return self.status

    def close(self):
        if not self.ended():
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.terminal)


@contextmanager
def serve(command=(str(SERVE),), **environment):
    http, grpc, metrics = free_ports(3)
    ports = {"HTTP_PORT": str(http), "GRPC_PORT": str(grpc), "METRICS_PORT": str(metrics)}
    terminal = Terminal(list(command), {**ports, **environment})
    terminal.http_port = http
    try:
        yield terminal
    finally:
        terminal.close()


def is_open(port):
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def assert_gone(port):
    end = time.monotonic() + 20
    while is_open(port):
        assert time.monotonic() < end, "the server outlived the script"
        time.sleep(0.1)


def run_printed_curl(screen):
    found = re.search(r"^curl -X POST .*?^  \}'$", screen, re.MULTILINE | re.DOTALL)
    done = subprocess.run(["sh", "-c", found[0] + " -sS"], capture_output=True, text=True, timeout=60)
    assert '\\"type\\":\\"complete\\"' in done.stdout.replace(" ", ""), done.stdout + done.stderr


def test_serve_and_ctrl_c():
    with serve() as terminal:
        terminal.wait_for("Ctrl-C stops the server")
        curl = (SEED / "stream.sh").read_text().replace("localhost:8000", f"localhost:{terminal.http_port}")
        assert curl in terminal.screen
        assert 'kubrick -p "Say hello" --provider triton' in terminal.screen
        assert re.search(r"KUBRICK_CONTEXT_WINDOW=\d+ \\\n", terminal.screen)
        run_printed_curl(terminal.screen)
        os.write(terminal.terminal, b"\x03")
        assert terminal.wait() == 0, terminal.screen
        assert_gone(terminal.http_port)


def test_settings():
    """Settings become config parameters of a repository that is made for them, the demo's temperature stays 0."""
    with serve(N_CTX="1024", N_PARALLEL="3", N_THREADS="1") as terminal:
        terminal.wait_for("Ctrl-C stops the server")
        assert "KUBRICK_CONTEXT_WINDOW=1024" in terminal.screen
        run_printed_curl(terminal.screen)
        text = (ROOT / "build" / "model_repository" / MODEL / "config.pbtxt").read_text()
        for key, value in {"n_ctx": "1024", "n_parallel": "3", "n_threads": "1"}.items():
            assert f'key: "{key}" value: {{ string_value: "{value}" }}' in text
        assert r"{\"temperature\": 0}" in text


def test_temperature():
    with serve(TEMPERATURE=".5") as terminal:
        terminal.wait_for("Ctrl-C stops the server")
        log = (ROOT / "build" / "server.log").read_text()
        assert "defaults of requests: temperature = 0.5 (config)" in log


@pytest.mark.parametrize(
    "name,value", [("TEMPERATURE", "warm"), ("TEMPERATURE", "-1"), ("N_CTX", "8k"), ("N_PARALLEL", '1" }'), ("N_THREADS", "-2")]
)
def test_a_setting_that_is_no_number(name, value):
    with serve(**{name: value}) as terminal:
        assert terminal.wait() != 0
        assert f"{name} is '{value}'" in terminal.screen


@pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")
def test_make_serve_ends_without_an_error():
    """Ctrl-C must not make `make` report a failure; setup and build are no work by now."""
    with serve(["make", "serve"]) as terminal:
        terminal.wait_for("Ctrl-C stops the server", timeout=240)
        os.write(terminal.terminal, b"\x03")
        assert terminal.wait() == 0, terminal.screen
        assert "Error" not in terminal.screen and "Interrupt" not in terminal.screen, terminal.screen
        assert_gone(terminal.http_port)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_orphan(signal_number):
    """However the script ends, its server ends too."""
    with serve() as terminal:
        terminal.wait_for("Ctrl-C stops the server")
        os.kill(terminal.pid, signal_number)
        terminal.wait()
        assert_gone(terminal.http_port)


def test_model_of_the_users(tmp_path):
    """MODEL serves any GGUF file, whatever its path."""
    model = tmp_path / 'my "odd" model.gguf'
    shutil.copy(DEMO, model)
    with serve(MODEL=str(model)) as terminal:
        terminal.wait_for("Ctrl-C stops the server")
        run_printed_curl(terminal.screen)
        os.write(terminal.terminal, b"\x03")
        assert terminal.wait() == 0, terminal.screen


def run_serve(**environment):
    http, grpc, metrics = free_ports(3)
    ports = {"HTTP_PORT": str(http), "GRPC_PORT": str(grpc), "METRICS_PORT": str(metrics)}
    return subprocess.run(
        [SERVE], env={**os.environ, **ports, **environment}, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )  # fmt: skip


def test_port_is_taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        for name in ("HTTP_PORT", "GRPC_PORT", "METRICS_PORT"):
            done = run_serve(**{name: port})
            assert done.returncode != 0
            assert name in done.stderr and port in done.stderr and "taken" in done.stderr


@pytest.mark.parametrize(
    "setting,parts",
    [
        ({"HTTP_PORT": "http"}, ["HTTP_PORT", "http", "65535"]),
        ({"HTTP_PORT": "70000"}, ["HTTP_PORT", "70000", "65535"]),
        ({"HTTP_PORT": "23456", "GRPC_PORT": "23456"}, ["GRPC_PORT", "23456"]),
        ({"MODEL": "/nowhere/model.gguf"}, ["MODEL", "/nowhere/model.gguf", "no such file"]),
        ({"MODEL": "/"}, ["MODEL", "not a file"]),
        ({"MODEL": __file__}, ["MODEL", "not a GGUF file"]),
        ({"TRITONSERVER": "/nowhere/tritonserver"}, ["TRITONSERVER", "/nowhere/tritonserver"]),
        ({"TRITONSERVER": __file__}, ["TRITONSERVER", __file__]),
        ({"TRITONSERVER": "/"}, ["TRITONSERVER", "'/'"]),
    ],
    ids=str,
)
def test_bad_setting(setting, parts):
    done = run_serve(**setting)
    assert done.returncode != 0
    for part in parts:
        assert part in done.stderr, done.stderr


def test_host():
    """HOST is where ports are probed and what the hints name; a proxy is not asked for this machine."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        with serve(HOST="127.0.0.2", HTTP_PORT=port, http_proxy="http://127.0.0.1:9") as terminal:
            terminal.wait_for("Ctrl-C stops the server")
            assert f"http://127.0.0.2:{port}/v2/models/llm_decoupled/generate_stream" in terminal.screen
            assert f"KUBRICK_TRITON_URL=127.0.0.2:{port} " in terminal.screen
            assert f"Ready on http://127.0.0.2:{port}" in terminal.screen
            done = run_serve(HOST="127.0.0.2", HTTP_PORT=port)
            assert done.returncode != 0 and f"port {port} of 127.0.0.2 is taken" in done.stderr, done.stderr
            os.write(terminal.terminal, b"\x03")
            assert terminal.wait() == 0, terminal.screen


def test_a_step_ends_with_ctrl_c(tmp_path):
    """Ctrl-C in a long step of the set-up or build ends all of its processes, with the status of an interrupt."""
    script = tmp_path / "step.sh"
    script.write_text(
        f"set -euo pipefail; source {ROOT}/scripts/common.sh; BUILD={tmp_path}\n"
        "step() { bash -c 'trap \"\" INT; sleep 300 & echo $! >\"$0\"; wait' \"$BUILD/pid\"; }\n"
        "run_step step.log 'A long step' step\n"
    )
    terminal = Terminal(["bash", str(script)], {})
    try:
        terminal.wait_for("1 s")
        child = int((tmp_path / "pid").read_text())
        os.write(terminal.terminal, b"\x03")
        assert terminal.wait(20) == 130, terminal.screen
        end = time.monotonic() + 10
        while Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() < end, "a process of the step goes on"
            time.sleep(0.1)
    finally:
        terminal.close()


def test_a_model_that_does_not_load(tmp_path):
    """The reason is shown, not only the log's name."""
    model = tmp_path / "broken.gguf"
    model.write_bytes(DEMO.read_bytes()[:1000])
    done = run_serve(MODEL=str(model))
    assert done.returncode != 0
    assert "broken.gguf" in done.stderr, done.stderr
