"""Fixtures of the tests against a real tritonserver."""

import json
from pathlib import Path

import pytest

import server as servers
from repository import make_model
from server import ROOT, Server

LOG_LINES_SHOWN = 60


@pytest.fixture(scope="session")
def demo():
    """The demo repository as it lies in the project, served for all tests that do not disturb it."""
    with Server(ROOT / "triton_repo") as server:
        yield server


@pytest.fixture
def repository(tmp_path):
    """An empty model repository."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture
def start(repository):
    """Starts servers for one test: start(config text or None, *arguments, ...)."""
    started = []

    def start_server(text=None, *arguments, **options):
        if not any(repository.iterdir()):
            make_model(repository, text)
        server = Server(repository, *arguments, **options)
        started.append(server)
        return server

    yield start_server
    for server in started:
        server.close()


@pytest.fixture(scope="session")
def golden():
    """Greedy answers of the demo model as its training script computed them."""
    return json.loads((Path(__file__).parent / "demo_greedy.json").read_text())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        for server in servers.running:
            lines = server.log().splitlines()[-LOG_LINES_SHOWN:]
            report.sections.append((f"log of tritonserver {server.process.pid}", "\n".join(lines)))
    if call.when == "teardown":
        for server in [s for s in servers.running if s.process.poll() is not None]:
            servers.running.remove(server)
            server.log_file.unlink()
