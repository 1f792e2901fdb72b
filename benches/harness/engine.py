"""Rows 9, 10 and 13: sampling, the engine's own time, load and memory."""

import json
import subprocess
import time

from . import ROOT
from .client import in_process
from .measure import Figure, alternate, say
from .servers import llama_server, ours, resident_bytes
from .throughput import N_CTX, closed_loop

MIB = 2**20


def sampling_times():
    """Microseconds a token of each kind of sampling, by the microbenchmark's names for them."""
    command = ["cargo", "bench", "--locked", "--bench", "sampling"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"the sampling microbenchmark does not run: {done.stderr.strip()[-300:]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["name"]: line["us_per_token"] for line in lines}


def row_9(settings):
    """sampling at 128,256 tokens on one core"""
    limits = {"greedy": 25.0, "top_k": 50.0}
    runs = []
    for repeat in range(settings.repeats):
        runs.append(sampling_times())
        say(f"    {repeat + 1} of {settings.repeats}: {runs[-1]}")
    figures, notes = [], []
    for name in runs[0]:
        values = [run[name] for run in runs]
        limit = next((limit for start, limit in limits.items() if name.startswith(start)), None)
        if limit is None:
            notes.append(f"{name}: {min(values):.1f} to {max(values):.1f} us a token.")
        else:
            figures.append(Figure(name, "us/token", values, limit, False, "ours"))
    return figures, notes


def row_10(settings):
    """engine-thread time outside decode, at 32 streams"""
    parts = []
    for repeat in range(settings.repeats):
        workload = closed_loop(settings, 32, repeat)
        parts.append(in_process("run", settings.model, workload, 32, N_CTX)["engine"])
        say(f"    {repeat + 1} of {settings.repeats}")

    def us_per_token(part, ms):
        return ms * 1000 / part["n_tokens"]

    policy = [us_per_token(part, part["schedule_and_apply_ms"]) for part in parts]
    sampling = [us_per_token(part, part["run_ms"] - part["decode_ms"]) for part in parts]
    total = [a + b for a, b in zip(policy, sampling)]
    note = (
        f"Of it, schedule and apply: {min(policy):.1f} to {max(policy):.1f} us; checks and sampling: "
        f"{min(sampling):.1f} to {max(sampling):.1f} us. Measured on the engine in-process."
    )
    return [Figure("per token", "us", total, 25.0, False, "ours")], [note]


def row_13(settings):
    """load time, and resident memory at idle, against llama-server"""

    def measured(server):
        with server as endpoint:
            time.sleep(3)
            return endpoint.ready_seconds, resident_bytes(endpoint) / MIB

    arguments = ["-np", "16", "-c", str(N_CTX)]
    results = alternate(
        settings.repeats,
        ours=lambda n: measured(ours(settings.model, n_parallel=16, n_ctx=N_CTX)),
        peer=lambda n: measured(llama_server(settings.model, *arguments)),
    )
    name = " ".join(["llama-server", *arguments])
    figures = []
    for index, (what, unit, limit) in enumerate([("ready after", "s", 1.05), ("resident at idle", "MiB", 1.02)]):
        sides = {side: [values[index] for values in results[side]] for side in results}
        figures.append(Figure(what, unit, sides["ours"], limit, False, peer=sides["peer"], peer_name=name))
    note = "The file is in the page cache for both. Ours is tritonserver as a whole, three seconds after it was ready."
    return figures, [note]
