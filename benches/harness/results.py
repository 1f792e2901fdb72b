"""The stored results: one JSON file, in which each row has its own date and commit, for each format of the weights."""

import json
import platform
import re
import subprocess
import time
from pathlib import Path

from . import ROOT
from .settings import BENCH, RESULTS


def machine():
    """The processor, its cores and the memory."""
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())[1]) / 2**20
    n_cores = subprocess.run(["nproc"], capture_output=True, text=True, check=True).stdout.strip()
    name = processor[1] if processor else platform.machine()
    return f"{n_cores} cores of {name}, {memory:.0f} GiB of memory"


def commit():
    """The commit that is checked out, and whether anything but the page of results is changed."""

    def git(*arguments):
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", ".", ":!docs")
    return (git("rev-parse", "--short", "HEAD") or "no commit") + ("-dirty" if changed else "")


def versions():
    """What is compared, by name."""
    lock = (ROOT / "Cargo.lock").read_text()
    crate = re.search(r'name = "llama-cpp-sys-2"\nversion = "(.*)"', lock)[1]
    cmake = (BENCH / "llama.cpp" / "CMakeLists.txt").read_text()
    parts = [re.search(rf"LLAMA_VERSION_{part} (\d+)", cmake)[1] for part in ("MAJOR", "MINOR", "PATCH")]
    package, *_ = (ROOT / "benches" / "peers" / "requirements.txt").read_text().splitlines()
    return f"llama.cpp {'.'.join(parts)} of llama-cpp-sys-2 {crate}; {package}"


def load():
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def store(row, settings, title, figures, notes, seconds):
    """Puts one row in place of what was stored of it with these weights, and returns it."""
    results = load()
    entry = results[f"{row} {settings.weights}"] = {
        "row": row,
        "title": title,
        "figures": [figure.as_dict() for figure in figures],
        "notes": notes,
        "repeats": settings.repeats,
        "quick": settings.quick,
        "weights": settings.weights,
        "seconds": round(seconds),
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
    }
    unfinished = RESULTS.with_suffix(".new")
    unfinished.write_text(json.dumps(results, indent=1))
    unfinished.replace(RESULTS)
    return entry
