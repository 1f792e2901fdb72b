"""Writes docs/benchmarks.md and its pictures from the stored results."""

import statistics

from . import ROOT, pictures, results
from .explanations import explanation
from .settings import WEIGHTS

DOCS = ROOT / "docs"

HEAD = """# Benchmarks

Written by `make bench`; CONTRIBUTING.md says how. Everything runs on one machine and shares its cores: servers,
peers and the load client, one server at a time. The model has random weights and a real shape: llama, 30 layers,
576 wide, 9 query heads, 3 heads of keys and values, a vocabulary of 128,256. All have the same file, the same threads
and the number format f16 for the KV cache, and where nothing else is said the same context. Ours has the backend's
defaults, where nothing else is said. A peer runs with its default and with other settings, once each; it is compared
at its best, which the table names. Then ours and the peer run in turn. Given are medians, and ranges in brackets. The
ratio is the median of each turn's own, not the ratio of the medians.

llama-server and llama-batched-bench are built on the llama.cpp that our library holds, for this processor. The crate
leaves the programs' own source files out (tools/server, batched-bench, mtmd and ui): these come from the source package of
llama-cpp-python, which holds llama.cpp 0.5.0; for a helper that 0.6.0 has dropped they get the standard library's class.
"""

GPUS = """
## On GPUs

Nothing has been measured: no machine with a GPU has been at hand so far. `make gpu-check` packs what is needed, checks and
measures on such a machine, and leaves a report, which belongs here. Where there is no GPU its path on the CPU passes: 26
of 27 steps; the other one is left out there.
"""

#: Rows that have a picture: the file's name, its title and unit, and the row numbers.
PICTURES = [
    ("throughput", "Tokens a second, by clients", "tokens/s", (1, 2, 3)),
    ("first-token", "Seconds to the last first token, shared prefix", "s", (4,)),
    ("gaps", "A long prompt enters beside 8 streams", "s", (7,)),
]


def number(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(values):
    """The median, and the range if there is one."""
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))} to {number(max(values))})"


def target(figure):
    sense = "at least" if figure["at_least"] else "at most"
    what = {"ours/peer": "x", "peer/ours": "x sooner", "ours": f" {figure['unit']}"}[figure["form"]]
    return f"{sense} {figure['target']:g}{what}"


def line(entry, figure):
    peer = f"{spread(figure['peer'])} {figure['peer_name']}" if figure["peer"] else ""
    held = spread(figure["held"]) if figure["peer"] else ""
    met = "met" if figure["met"] else f"**not met** {explanation(entry['row'], figure['what'])}".rstrip()
    ours = f"{spread(figure['ours'])} {figure['unit']}"
    what = f"{entry['row']} | {entry['weights']} | {figure['what']}"
    return f"| {what} | {target(figure)} | {ours} | {peer} | {held} | {met} |"


def table(stored):
    lines = ["| | Weights | What | Target | Ours | Peer | Ratio | |", "|---|---|---|---|---|---|---|---|"]
    for entry in stored:
        if not entry["figures"]:
            lines.append(f"| {entry['row']} | {entry['weights']} | {entry['title']} | | | | | not measured |")
        lines += [line(entry, figure) for figure in entry["figures"]]
    return lines


def details(entry):
    quick = ", reduced sizes (QUICK=1), so that its figures mean little" if entry["quick"] else ""
    return [
        "", f"### Row {entry['row']}, {entry['weights']}: {entry['title']}", "",
        f"{entry['date']}, commit {entry['commit']}, {entry['repeats']} repeats{quick}. {entry['machine']}. "
        f"{entry['versions']}.", "",
        *(f"- {note}" for note in entry["notes"]),
    ]  # fmt: skip


def picture(unit, rows, stored):
    """The groups of a chart: each figure in that unit, ours and the peer, with the first format of the weights."""
    groups = []
    for entry in stored:
        if entry["row"] not in rows or entry["weights"] != WEIGHTS[0]:
            continue
        for figure in (figure for figure in entry["figures"] if figure["unit"] == unit):
            peer = figure["peer_name"].split(" -")[0].split(",")[0]
            label = f"{figure['what']}, row {entry['row']}" if len(rows) > 1 else figure["what"]
            groups.append((label, [("triton-llm", figure["ours"]), (peer, figure["peer"])]))
    return groups


def write():
    """Renders what is stored; rows that were never run are not there."""
    stored = sorted(results.load().values(), key=lambda entry: (entry["row"], WEIGHTS.index(entry["weights"])))
    DOCS.mkdir(exist_ok=True)
    lines = [HEAD, "## Table", "", *table(stored)]
    for name, title, unit, rows in PICTURES:
        groups = picture(unit, rows, stored)
        if groups:
            file = DOCS / f"benchmarks-{name}.svg"
            file.write_text(pictures.bars(title, unit, groups))
            lines += ["", f"![{title}]({file.name})"]
    lines += ["", "## Details"]
    for entry in stored:
        lines += details(entry)
    page = DOCS / "benchmarks.md"
    page.write_text("\n".join(lines) + "\n" + GPUS)
    return page, table(stored)
