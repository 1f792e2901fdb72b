"""Row 15: others that want the cores too."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from .client import drive
from .measure import Figure, alternate
from .servers import ours_twice
from .settings import N_THREADS
from .throughput import N_CTX, closed_loop, warmed_up


@contextmanager
def busy_process():
    """A program that wants one core all the time."""
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait(10)


def rate_of(settings, seed, n_busy):
    """Tokens a second of so many of two models of a server, from the first request to the last answer."""
    with ours_twice(settings.model, n_parallel=1, n_ctx=N_CTX) as endpoints, ThreadPoolExecutor() as pool:
        for endpoint in endpoints:
            warmed_up(endpoint)
        workload = closed_loop(settings, 1, seed)
        reports = list(pool.map(lambda endpoint: drive(endpoint, workload).whole(), endpoints[:n_busy]))
    seconds = max(report.data["wall_ms"] for report in reports) / 1000
    return sum(report.tokens for report in reports) / seconds


def rate_beside(settings, seed):
    with busy_process():
        return rate_of(settings, seed, 1)


def row_15(settings):
    """a model beside another busy model, and beside a busy process"""
    results = alternate(
        settings.repeats,
        alone=lambda n: rate_of(settings, n, 1),
        together=lambda n: rate_of(settings, n, 2),
        beside=lambda n: rate_beside(settings, n),
    )
    n_all = N_THREADS + 1
    share = [rate * N_THREADS / n_all for rate in results["alone"]]
    common = {"target": 0.9, "at_least": True}
    figures = [
        Figure(
            "two busy models, both together", "tokens/s", results["together"],
            peer=results["alone"], peer_name="one of them alone", **common,
        ),
        Figure(
            "beside a busy process", "tokens/s", results["beside"],
            peer=share, peer_name=f"{N_THREADS} of {n_all} parts of what it does alone", **common,
        ),
    ]  # fmt: skip
    note = (
        f"One client asks each model. Each has {N_THREADS} threads, as many as there are cores, so that with the busy "
        f"process {n_all} threads want them; a fair scheduler gives the model {N_THREADS} of {n_all} parts."
    )
    return figures, [note]
