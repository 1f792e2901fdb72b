"""The library in a host that holds libtritonserver RTLD_LOCAL, as Triton's Python API does."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from repository import make_model
from server import BACKENDS, MODEL
from servers import SERVERS, library_of

SOURCE = Path(__file__).with_name("in_process_host.c")


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """The compiled host program."""
    program = tmp_path_factory.mktemp("host") / "in_process_host"
    command = ["cc", "-O1", "-Wall", "-Wextra", "-o", program, SOURCE, "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return program


@pytest.mark.parametrize("version", SERVERS)
def test_in_process(host, repository, demo, version):
    """Loads, streams and ends, with the same text as in the tritonserver program."""
    make_model(repository)
    command = [host, library_of(version), repository, BACKENDS, MODEL, "Count to 20"]
    # The wheel's libraries find each other only from its own program.
    environment = {**os.environ, "LD_LIBRARY_PATH": str(library_of(version).parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr[-3000:]
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(messages) > 1 and messages[-1]["type"] == "complete"
    assert "".join(m.get("content", "") for m in messages) == demo.stream("Count to 20").whole()
