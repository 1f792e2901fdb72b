"""A server in a control group with little memory: what does not fit is refused, not killed for."""

import os
import stat
import time
from pathlib import Path

import pytest
from repository import config, make_model
from server import MODEL, Server, find_tritonserver

LIMIT = 400 << 20


@pytest.fixture
def limited(tmp_path):
    """A program that is tritonserver in a new group with a limit; skips where no group can be made."""
    v1, v2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    name = f"triton-llm-test-{os.getpid()}"
    outer = (v1 if v1.is_dir() else v2) / name
    file = "memory.limit_in_bytes" if v1.is_dir() else "memory.max"
    # The limit is that of a group around the server's own.
    inner = outer / "inner"
    try:
        outer.mkdir()
        (outer / file).write_text(str(LIMIT))
        if not v1.is_dir():
            (outer / "cgroup.subtree_control").write_text("+memory")
        inner.mkdir()
    except OSError as error:
        if outer.is_dir():
            outer.rmdir()
        pytest.skip(f"no control group with a limit can be made: {error}")
    program = tmp_path / "limited"
    program.write_text(f'#!/bin/sh\necho $$ > {inner}/cgroup.procs\nexec {find_tritonserver()} "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    yield program
    # The processes of a group leave it a little after they have ended.
    for group in (inner, outer):
        for _ in range(100):
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.05)


def test_a_group_with_a_limit(repository, limited):
    make_model(repository, config(name="large", n_ctx=1 << 20), name="large")
    make_model(repository, config(), name=MODEL)
    with Server(repository, "--model-control-mode=explicit", program=limited) as server:
        status, reply = server.load("large")
        assert status >= 400, reply
        assert "n_ctx = 1048576" in reply and "bytes of memory are available" in reply, reply
        available = int(reply.rsplit(": ", 1)[1].split()[0])
        assert available < LIMIT, reply
        assert server.load()[0] == 200
        assert server.good_answer()
