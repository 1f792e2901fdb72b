"""Models that compete for the cores of the machine."""

import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from repository import config, make_model
from server import BACKENDS, ROOT, Server

sys.path.append(str(ROOT / "benches"))
from random_model import SHAPES, write  # noqa: E402

#: Far more than it takes on two cores, and far less than it took when threads that wait kept theirs.
SECONDS = 60


def threads(server, name):
    """The server's threads of that name, by their numbers."""
    tasks = Path(f"/proc/{server.process.pid}/task").iterdir()
    return {task.name for task in tasks if (task / "comm").read_text().strip() == name}


def test_two_busy_models_of_two_copies_of_the_library(repository, tmp_path):
    """Copies in one process know nothing of each other, as libraries in folders of models are."""
    gguf, backends = tmp_path / "random.gguf", tmp_path / "backends"
    write(gguf, "Q8_0", SHAPES["small"])
    names = ["llm", "llm_2"]
    for name in names:
        shutil.copytree(BACKENDS / "llm", backends / name)
        (backends / name / "libtriton_llm.so").rename(backends / name / f"libtriton_{name}.so")
        text = config(name, n_threads=2, n_ctx=1024).replace('backend: "llm"', f'backend: "{name}"')
        make_model(repository, text, name, gguf)
    with Server(repository, backends=backends, timeout=120) as server:

        def answer(name):
            return server.stream("Say", name, SECONDS, max_tokens=64, ignore_eos=True)

        alone = answer("llm")
        made = threads(server, "llm-compute")
        with ThreadPoolExecutor() as pool:
            answers = list(pool.map(answer, names))
        for name, found in zip(names, answers):
            assert found.whole() == alone.whole(), name
            assert found.usage["completion_tokens"] == 64
            assert found.times[-1] - found.sent < SECONDS
        assert threads(server, "llm-compute") == made, "they are made when a model loads"
        assert len(made) in (0, 2), "none on a single CPU"
