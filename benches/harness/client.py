"""Runs the load client, and the driver without a server, and reads what they report."""

import json
import statistics
import subprocess
from dataclasses import dataclass

from .settings import CLIENT, IN_PROCESS, N_THREADS


@dataclass(frozen=True)
class Report:
    """One run: the client's JSON, with what the rows ask of it."""

    data: dict

    @property
    def records(self):
        return self.data["records"]

    @property
    def cpu_seconds(self):
        return self.data["cpu_ms"] / 1000

    @property
    def tokens(self):
        return sum(record["completion_tokens"] for record in self.records)

    @property
    def tokens_per_second(self):
        return self.tokens * 1000 / self.data["wall_ms"]

    @property
    def texts(self):
        return {(record["session"], record["turn"]): record["text"] for record in self.records}

    def record(self, session, turn=0):
        (found,) = [r for r in self.records if (r["session"], r["turn"]) == (session, turn)]
        return found

    def first_tokens(self):
        """Seconds from each request to its first text."""
        return [first_token(record) for record in self.records]

    def gaps(self):
        """Seconds between two texts of an answer, of all answers."""
        times = [record["arrivals_ms"] for record in self.records]
        return [(b - a) / 1000 for arrivals in times for a, b in zip(arrivals, arrivals[1:])]

    def whole(self):
        """Raises unless every answer is complete."""
        broken = [record["error"] for record in self.records if record["error"]]
        if broken:
            raise RuntimeError(f"{len(broken)} of {len(self.records)} answers failed, the first with: {broken[0]}")
        return self


def first_token(record):
    if not record["arrivals_ms"]:
        raise RuntimeError(f"no text came: {record['error'] or 'an empty answer'}")
    return (record["arrivals_ms"][0] - record["sent_ms"]) / 1000


def percentile(values, share):
    """The smallest value that this share of the values does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def drive(endpoint, workload):
    """Sends a workload to a server."""
    command = [str(CLIENT), endpoint.protocol, str(endpoint.port), endpoint.model]
    return Report(call(command, workload))


def in_process(mode, gguf, given, n_parallel, n_ctx, target_itl_ms=1000):
    """Runs the engine without a server, with the backend's own defaults."""
    config = {
        "model": str(gguf), "n_parallel": n_parallel, "n_ctx": n_ctx, "n_batch": 512, "n_ubatch": 512,
        "n_threads": N_THREADS, "kv_unified": True, "target_itl_ms": target_itl_ms,
    }  # fmt: skip
    return call([str(IN_PROCESS), mode, json.dumps(config)], given)


def suffix_seconds(gguf, history, suffix, n_ctx=32_768):
    """What computing only the last tokens of a prompt takes, alone and at their depth."""
    given = {"history": history, "suffix": suffix}
    return in_process("suffix", gguf, given, 1, n_ctx)["ms"] / 1000


def call(command, given):
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def equal_texts(one, other):
    """How far the answers of two runs are the same: a sentence for the report."""
    pairs = [(text, other.texts[key]) for key, text in one.texts.items()]
    same = sum(a == b for a, b in pairs)
    leading = statistics.mean(common_words(a, b) / max(1, len(a.split())) for a, b in pairs)
    return f"{same} of {len(pairs)} greedy answers are the same text; on average the first {leading:.0%} of an answer is"


def common_words(one, other):
    count = 0
    for a, b in zip(one.split(), other.split()):
        if a != b:
            break
        count += 1
    return count
