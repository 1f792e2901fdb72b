"""The seed's own configuration, commands and checks, as its text gives them.

The files in seed/ are its config.pbtxt and its two curl commands, byte for
byte. Only the backend's name and the port are replaced before use.
"""

import json
import re
import subprocess
from pathlib import Path

import pytest
from repository import make_model
from server import MODEL, ROOT, Server
from test_config import NO_GPU

SEED = Path(__file__).parent / "seed"
SEED_CONFIG = (SEED / "config.pbtxt").read_text().replace('backend: "python"', 'backend: "llm"')


@pytest.fixture(scope="module")
def seed_server(tmp_path_factory):
    """A server on the seed's configuration."""
    repository = tmp_path_factory.mktemp("seed")
    make_model(repository, SEED_CONFIG)
    with Server(repository) as server:
        yield server


def run_curl(server, name, *more):
    """Runs one of the seed's commands with the real curl."""
    command = (SEED / name).read_text().replace("localhost:8000", f"localhost:{server.http_port}")
    command = command.rstrip("\n") + "".join(f" {option}" for option in more)
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_health_curl(seed_server):
    assert run_curl(seed_server, "health.sh", "-sS -o /dev/null -w '%{http_code}'") == "200"


def test_stream_curl(seed_server):
    """The seed's expected outcome: an SSE stream with JSON chunks and a complete at its end."""
    output = run_curl(seed_server, "stream.sh", "-sS -i")
    head, body = re.split(r"\r?\n\r?\n", output, maxsplit=1)
    assert " 200 " in head.splitlines()[0]
    assert "text/event-stream" in head
    events = [json.loads(line[len("data: ") :]) for line in body.splitlines() if line.strip()]
    messages = [json.loads(event["text_output"]) for event in events]
    assert len(messages) > 1
    assert [m["type"] for m in messages] == ["chunk"] * (len(messages) - 1) + ["complete"]
    assert all(isinstance(m["content"], str) and m["content"] for m in messages[:-1])


def test_curl_over_the_demo_repository(demo):
    """The demo answers the seed's curl with its greeting."""
    output = run_curl(demo, "stream.sh", "-sS")
    messages = [json.loads(json.loads(line[6:])["text_output"]) for line in output.splitlines() if line.strip()]
    assert "".join(m.get("content", "") for m in messages) == demo.stream("Say hello").whole()
    assert messages[-1]["finish_reason"] == "stop"


def test_healing_is_said_once(seed_server):
    """The declared `parameters` input is dropped at load, with one line in the log."""
    inputs = json.loads(seed_server.get(f"/v2/models/{MODEL}/config")[1])["input"]
    assert "parameters" not in [i["name"] for i in inputs]
    notes = [line for line in seed_server.log().splitlines() if "'parameters'" in line and "input" in line]
    assert len(notes) == 1, notes


def test_config_without_auto_complete(start):
    """Where nothing may be completed, the seed's config loads and the log says what to change."""
    server = start(SEED_CONFIG, "--disable-auto-complete-config")
    warnings = re.findall(r"^W\d.*input 'parameters' is declared.*", server.log(), re.MULTILINE)
    assert len(warnings) == 1 and "remove this input" in warnings[0], warnings
    assert server.stream("Say hello").whole()
    # Triton's front end refuses this one before the backend sees it.
    assert "parameters" in server.stream("Say hello", streaming=True).error


def test_response_is_triton_wrapped(seed_server):
    """Option 2 of the seed's response formats: the message is the text_output of Triton's JSON."""
    status, body = seed_server.post_stream({"text_input": '[{"role": "user", "content": "Hello"}]'})
    assert status == 200
    for line in filter(None, body.splitlines()):
        event = json.loads(line[len("data: ") :])
        assert event["model_name"] == MODEL
        assert isinstance(json.loads(event["text_output"]), dict)


# The seed's troubleshooting list.


def test_connection_refused(start):
    """curl reports it, with its status 7, exactly while no server runs."""
    server = start(SEED_CONFIG)
    command = (SEED / "health.sh").read_text().strip().replace("localhost:8000", server.http)
    curl = ["sh", "-c", f"{command} -sS --noproxy '*'"]
    assert subprocess.run(curl, timeout=60).returncode == 0
    assert server.stop() == 0
    assert subprocess.run(curl, timeout=60).returncode == 7


def test_model_not_found(seed_server):
    """A wrong model name is answered with the name."""
    status, body = seed_server.post_stream({"text_input": "hi"}, model="llm_decuopled")
    assert status in (400, 404) and "llm_decuopled" in body
    assert seed_server.is_ready()


def test_decoupled_is_true(seed_server):
    config = json.loads(seed_server.get(f"/v2/models/{MODEL}/config")[1])
    assert config["model_transaction_policy"]["decoupled"] is True
    assert config["max_batch_size"] == 0


def test_responses_are_valid_protocol(seed_server):
    """JSON in every response, a type in every message, a complete at the end."""
    answer = seed_server.stream([{"role": "user", "content": "Count to 5"}], streaming=True, max_tokens=30)
    assert answer.whole()


def with_group(group):
    """The seed's configuration with another instance_group."""
    text = re.sub(r"instance_group \[.*?\n\]", f"instance_group [ {{ {group} }} ]", SEED_CONFIG, flags=re.DOTALL)
    assert group in text
    return text


def test_gpu_instance_group(repository):
    """The seed's variant for a GPU, where there is none: a load error that says so."""
    make_model(repository, with_group("kind: KIND_GPU count: 1 gpus: [ 0 ]"))
    with Server(repository, "--model-control-mode=explicit") as server:
        status, reply = server.load()
        assert status >= 400 and re.search(NO_GPU, reply), reply
        assert not server.is_ready()


@pytest.mark.parametrize("group", ["kind: KIND_CPU count: 1", "count: 4", "kind: KIND_AUTO", "kind: KIND_CPU count: 2"])
def test_instance_groups(start, group):
    """The seed's variants of instance_group load and serve."""
    server = start(with_group(group))
    assert server.stream("Say hello", streaming=True, temperature=0).whole()


def test_serve_script_prints_the_seeds_curl():
    """What `make serve` tells the user to try is the seed's command."""
    assert (SEED / "stream.sh").read_text() in (ROOT / "scripts" / "serve.sh").read_text()
