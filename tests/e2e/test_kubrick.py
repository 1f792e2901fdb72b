"""The seed's client: kubrick-cli's own client class, and its program with and without a terminal."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kubrick_cli.triton_client import TritonLLMClient
from server import MODEL

KUBRICK = Path(sys.executable).parent / "kubrick"
GREETING = "Hello! How can I help you today?"


@pytest.fixture
def environment(demo, tmp_path):
    """kubrick's environment: our server, a home of its own, nothing asked at the start.

    kubrick-cli 0.2.0 reads KUBRICK_<KEY> variables. The seed's TRITON_URL and
    TRITON_MODEL_NAME are of an older version: 0.2.0 ignores them and, without
    others, uses localhost:8000 and llm_decoupled.
    """
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "TERM": "xterm-256color",
        "LANG": "C.UTF-8",
        "KUBRICK_HOME": str(tmp_path / ".kubrick"),
        "KUBRICK_CHECK_FOR_UPDATES": "false",
        "KUBRICK_TRITON_URL": f"localhost:{demo.http_port}",
        "KUBRICK_TRITON_MODEL": MODEL,
    }


def test_client_class(demo):
    client = TritonLLMClient(url=demo.http, model_name=MODEL)
    assert client.is_healthy()
    chunks = list(client.generate_streaming([{"role": "user", "content": "Tell me a long story"}]))
    assert len(chunks) > 1
    assert "".join(chunks) == demo.stream("Tell me a long story").whole()


def test_client_class_with_options(demo):
    client = TritonLLMClient(url=demo.http)
    text = client.generate([{"role": "user", "content": "Count to 20"}], {"max_tokens": 3, "temperature": 0.0})
    assert text and demo.stream("Count to 20").whole().startswith(text)


def test_client_class_shows_our_error(demo):
    client = TritonLLMClient(url=demo.http)
    with pytest.raises(Exception, match="400.*temperature"):
        client.generate([{"role": "user", "content": "hi"}], {"temperature": -1})


def test_print_mode(environment, tmp_path):
    """The command that `make serve` tells the user to try."""
    command = [KUBRICK, "-p", "Say hello", "--provider", "triton"]
    done = subprocess.run(
        command, env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert GREETING in done.stdout, done.stdout + done.stderr


def test_program_in_a_terminal(environment, tmp_path):
    """A person types a question and sees the answer."""
    environment |= {"KUBRICK_PROVIDER": "triton", "KUBRICK_CONTEXT_WINDOW": "8192"}
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(tmp_path)
        os.execve(str(KUBRICK), ["kubrick"], environment)
    screen = ""

    def wait_for(pattern, timeout=30):
        nonlocal screen
        end = time.monotonic() + timeout
        while not re.search(pattern, screen):
            assert time.monotonic() < end, f"{pattern!r} is not on the screen:\n{screen[-2000:]}"
            if select.select([terminal], [], [], 0.1)[0]:
                data = os.read(terminal, 65536).decode(errors="replace")
                if "\x1b[6n" in data:  # asked where the cursor is
                    os.write(terminal, b"\x1b[1;1R")
                screen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data)

    try:
        # What `make serve` prints is what the program goes by.
        wait_for(r"Context window is only 8,192")
        wait_for(r"triton")
        time.sleep(1)  # the prompt takes keys only once it is drawn
        os.write(terminal, b"Say hello\r")
        wait_for(re.escape(GREETING))
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        os.close(terminal)
