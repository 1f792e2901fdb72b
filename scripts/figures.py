"""Measure the figures of the README's table and print it. Called by `make figures`.

Needs the built backend and the Python packages of the tests. On an idle
machine it takes about a minute.
"""

import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "e2e"))

from repository import DEMO, config, make_model  # noqa: E402
from server import LIBRARY, MODEL, Server  # noqa: E402

MIB = 2**20
N_REQUESTS = 50
IDLE_SECONDS = 20


def ready_seconds(repository):
    """From the start of the process to a ready model; the median of five."""
    times = []
    for _ in range(5):
        with Server(repository) as server:
            times.append(time.monotonic() - server.started)
    return statistics.median(times)


def first_token_ms(server):
    """From sending a request on an idle server to its first chunk; the median."""
    times = []
    for _ in range(N_REQUESTS):
        answer = server.stream("Say hello", temperature=0, max_tokens=16)
        answer.whole()
        times.append((answer.times[0] - answer.sent) * 1000)
        time.sleep(0.02)
    return statistics.median(times)


def ms_per_token(server):
    """From token to token of one stream on an idle server, llama.cpp's time included."""
    answer = server.stream("Tell me a long story", temperature=0, max_tokens=500)
    answer.whole()
    n_tokens = answer.usage["completion_tokens"]
    return (answer.times[-1] - answer.times[0]) * 1000 / (n_tokens - 1)


def unsent_ms_per_token(server):
    """The client's time for a whole answer in one response, prompt and HTTP included, by its tokens."""
    begin = time.monotonic()
    status, body = server.generate("Tell me a long story", temperature=0, max_tokens=500)
    elapsed = time.monotonic() - begin
    assert status == 200, body
    return elapsed * 1000 / json.loads(body["text_output"])["usage"]["completion_tokens"]


def idle_cpu_percent(server):
    begin, spent = time.monotonic(), server.cpu_seconds()
    time.sleep(IDLE_SECONDS)
    return (server.cpu_seconds() - spent) / (time.monotonic() - begin) * 100


def buffer_bytes(log):
    """KV cache and compute buffers, as llama.cpp logs them."""
    found = re.findall(r"(?:KV|compute|output)\s+buffer size\s*=\s*([0-9.]+) MiB", log)
    return sum(float(size) for size in found) * MIB


def main():
    folder = Path(tempfile.mkdtemp(prefix="figures-"))
    with_model, without = folder / "with", folder / "without"
    with_model.mkdir()
    without.mkdir()
    make_model(with_model, config())
    rows = [("Library", f"{LIBRARY.stat().st_size / 1e6:.1f} MB", "20 MB")]
    rows.append(("Server ready with the demo model", f"{ready_seconds(with_model):.2f} s", "5 s"))
    with Server(without) as server:
        time.sleep(1)
        bare_bytes = server.resident_bytes()
        bare_cpu = idle_cpu_percent(server)
    with Server(with_model, "--log-verbose=1") as server:
        time.sleep(1)
        resident = server.resident_bytes()
        buffers = buffer_bytes(server.log())
        rows.append(("First token, idle server, p50", f"{first_token_ms(server):.1f} ms", "50 ms"))
        rows.append(("Token to token, one stream", f"{ms_per_token(server):.2f} ms", ""))
        rows.append(("Per token of an answer in one response", f"{unsent_ms_per_token(server):.2f} ms", ""))
        rows.append(("Idle CPU (server without models)", f"{idle_cpu_percent(server):.2f} % ({bare_cpu:.2f} %)", "1 %"))
    own = resident - bare_bytes - DEMO.stat().st_size - buffers
    rows.append(("Resident memory, server without models", f"{bare_bytes / MIB:.0f} MiB", ""))
    rows.append(("Resident memory with the model", f"{resident / MIB:.0f} MiB", ""))
    rows.append(("of it beyond model file, KV cache and compute buffers", f"{own / MIB:.0f} MiB", "30 MB"))

    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    cores = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"Measured on {cores} cores of {processor[1] if processor else 'this machine'}, model {MODEL}.\n")
    print("| Figure | Measured | Limit |\n| --- | ---: | ---: |")
    for name, value, limit in rows:
        print(f"| {name} | {value} | {limit} |")


if __name__ == "__main__":
    main()
