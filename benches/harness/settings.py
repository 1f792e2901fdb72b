"""Where things lie, what this run was asked for, and how large its workloads are."""

import os
from dataclasses import dataclass

from . import ROOT

BENCH = ROOT / "build" / "bench"
RESULTS = ROOT / "docs" / "benchmarks.json"
CLIENT = BENCH / "client" / "release" / "bench-client"
IN_PROCESS = BENCH / "in_process"
LLAMA_SERVER = BENCH / "llama.cpp-build" / "bin" / "llama-server"
BATCHED_BENCH = BENCH / "llama.cpp-build" / "bin" / "llama-batched-bench"

#: Number formats that the model's weights may have; the first is the default.
WEIGHTS = ("Q8_0", "Q4_0")

N_THREADS = len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Sizes:
    """How large the workloads are."""

    prompt_words: int = 100
    answer_tokens: int = 64
    #: Tokens that users share (rows 4 and 5), the template's included.
    prefix_tokens: int = 4069
    #: Tokens of the prompt that enters beside running streams (row 7).
    long_tokens: int = 8192
    #: Tokens of the prompt that new arrivals meet (row 12).
    longest_tokens: int = 16384
    turns: int = 20
    #: How many times each client of a closed loop asks.
    waves: int = 2


FULL = Sizes()
#: Shows that the rows work, in little time; its figures mean little.
QUICK = Sizes(
    prompt_words=40, answer_tokens=16, prefix_tokens=512, long_tokens=1024, longest_tokens=2048, turns=4, waves=1
)


@dataclass(frozen=True)
class Settings:
    """What the user asked for."""

    rows: tuple
    repeats: int
    quick: bool
    #: The number format of the model's weights.
    weights: str

    @property
    def sizes(self):
        return QUICK if self.quick else FULL

    @property
    def model(self):
        return BENCH / "models" / f"random-{self.weights}.gguf"

    @property
    def repeating_model(self):
        """The same with so few words that its answers repeat themselves."""
        return BENCH / "models" / f"repeating-{self.weights}.gguf"


def from_environment(known):
    """Reads ROWS, REPEATS, QUICK and WEIGHTS; `known` are the rows that there are."""
    rows = tuple(int(row) for row in os.environ.get("ROWS", "").split(",") if row) or tuple(known)
    unknown = [row for row in rows if row not in known]
    if unknown:
        raise SystemExit(f"error: ROWS names {unknown}: the rows are {min(known)} to {max(known)}")
    repeats = int(os.environ.get("REPEATS", "5"))
    if repeats < 1:
        raise SystemExit(f"error: REPEATS is {repeats}: must be at least 1")
    weights = os.environ.get("WEIGHTS", WEIGHTS[0])
    if weights not in WEIGHTS:
        raise SystemExit(f"error: WEIGHTS is '{weights}': must be {' or '.join(WEIGHTS)}")
    return Settings(rows, repeats, os.environ.get("QUICK") == "1", weights)
