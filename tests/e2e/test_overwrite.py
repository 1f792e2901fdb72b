"""Model files that are changed in place while a server has them mapped."""

import os
import shutil
import time

import pytest
from repository import DEMO, config, make_model, split
from server import MODEL, Server

EXPLICIT = "--model-control-mode=explicit"


def cut(path):
    os.truncate(path, 0)


def overwrite(path):
    """As `cp` does: the same file, opened anew and filled again."""
    with open(path, "wb") as file:
        file.write(b"x" * 3_000_000)


def is_mapped(server, path):
    return str(path.resolve()) in open(f"/proc/{server.process.pid}/maps").read()


@pytest.fixture
def version(repository):
    version = make_model(repository, config(), gguf=DEMO.read_bytes())
    if os.statvfs(version).f_flag & os.ST_RDONLY:
        pytest.skip("files that cannot be changed")
    return version


@pytest.mark.parametrize("change", [cut, overwrite])
def test_a_file_changed_in_place(repository, version, change):
    path = version / "model.gguf"
    with Server(repository, EXPLICIT) as server:
        assert server.load()[0] == 200
        expected = server.good_answer()
        with server.open_stream("Count to 200", temperature=0, ignore_eos=True, max_tokens=1000) as stream:
            assert stream.next()["type"] == "chunk"
            begin = time.monotonic()
            change(path)
            assert time.monotonic() - begin < 20
            stream.read().whole()
        assert server.good_answer() == expected
        assert not is_mapped(server, path)
        # Another load of what is there now fails and leaves the old one.
        status, reply = server.load()
        assert status >= 400 and "gguf" in reply, reply
        assert server.good_answer() == expected
        assert server.unload()[0] == 200
        server.wait_unloaded()
        shutil.copy(DEMO, path)
        assert server.load()[0] == 200
        assert server.good_answer() == expected


def test_every_part_of_a_model(repository):
    """A later part of a split model, and the model that drafts."""
    version = make_model(repository, gguf=None)
    parts = [version / f"demo-{number:05}-of-00002.gguf" for number in (1, 2)]
    for path, part in zip(parts, split(DEMO.read_bytes(), 2)):
        path.write_bytes(part)
    draft = version / "draft.bin"
    shutil.copy(DEMO, draft)
    text = config(speculative_method="draft_model", speculative_model=draft.name, model_path=parts[0].name)
    (repository / MODEL / "config.pbtxt").write_text(text)
    with Server(repository) as server:
        expected = server.good_answer()
        for path in (parts[1], draft):
            cut(path)
            assert server.good_answer() == expected


def test_two_libraries_with_one_file(repository):
    """Each copy of the library has a lease of its own."""
    from server import LIBRARY

    version = make_model(repository, config(), gguf=DEMO.read_bytes())
    path = version / "model.gguf"
    make_model(repository, config(name="other", model_path=str(path)), name="other", gguf=None, library=LIBRARY)
    with Server(repository) as server:
        expected = server.good_answer()
        assert server.good_answer("other") == expected
        cut(path)
        assert server.good_answer() == expected
        assert server.good_answer("other") == expected


def test_a_file_that_somebody_has_open(repository, version):
    """It cannot be held, so it is read, unless mapping it is asked for."""
    path = version / "model.gguf"
    make_model(repository, config(name="mapped", model_path=str(path), use_mmap="true"), name="mapped", gguf=None)
    with open(path, "ab") as writer, Server(repository, EXPLICIT) as server:
        assert server.load()[0] == 200
        assert not is_mapped(server, path)
        server.wait_for_log("no lease on it .* read into memory, not mapped")
        expected = server.good_answer()
        assert server.load("mapped")[0] == 200
        assert is_mapped(server, path)
        server.wait_for_log("mapped all the same")
        assert server.unload("mapped")[0] == 200
        server.wait_unloaded("mapped")
        writer.close()
        cut(path)
        assert server.good_answer() == expected
