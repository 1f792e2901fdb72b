"""What is run, in which order, and the report. Called by gpu_check.py, from the unpacked package."""

import json
import os
import platform
import signal
import subprocess
import time
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


class OutOfTime(BaseException):
    """The time is over. Not an `Exception`, so that nothing on its way takes it for a fault that it handles."""


def out_of_time(_signal, _frame):
    raise OutOfTime


@contextmanager
def at_most(seconds):
    """Ends what runs in its block once the seconds are over, on the main thread and wherever it waits."""
    # Once only: a second time would interrupt the blocks that end what was started.
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def run(root, out, device, end):
    """Runs the steps until `end`, where the one that still runs is cut off; returns the exit status."""
    signal.signal(signal.SIGALRM, out_of_time)
    # What is imported reads this.
    os.environ["TRITONSERVER"] = str(next((root / "server").glob("pytriton/tritonserver/bin/tritonserver")))
    import correctness
    import speed

    report = Report(out, device, end, machine(root))
    report.write()
    correctness.run(report)
    speed.run(report)
    report.write()
    print(report.text())
    return 0 if all(step["outcome"] in ("passed", "skipped") for step in report.steps) else 1


@dataclass
class Report:
    """The steps so far, and what was measured."""

    out: Path
    #: "GPU" or "CPU": where the instances run.
    device: str
    end: float
    machine: dict
    steps: list = field(default_factory=list)
    figures: list = field(default_factory=list)

    @property
    def on_gpu(self):
        return self.device == "GPU"

    def instances(self, count=1):
        """An instance_group on this device."""
        return f"instance_group [ {{ kind: KIND_{self.device} count: {count} }} ]"

    def seconds_left(self):
        return self.end - time.monotonic()

    def step(self, name, work, seconds=0, needs_gpu=False):
        """One step: calls `work` with a list that takes what there is to say of it; returns whether it passed.

        An error fails it, and only it. It is not run with no more than `seconds` left, and cut off at the end.
        """
        if needs_gpu and not self.on_gpu:
            return self.finish(name, "skipped", "it needs a GPU", 0)
        left = self.seconds_left()
        if left <= seconds:
            return self.finish(name, "not run", "no time was left", 0)
        begin, notes, outcome = time.monotonic(), [], "passed"
        try:
            with at_most(left):
                work(notes)
        except OutOfTime:
            outcome = "cut off"
            notes.append("the time was over")
        except Exception as error:
            traceback.print_exc()
            outcome = "failed"
            notes.append(f"{type(error).__name__}: {error}")
        return self.finish(name, outcome, "; ".join(notes), time.monotonic() - begin)

    def finish(self, name, outcome, note, seconds):
        self.steps.append({"step": name, "outcome": outcome, "note": note, "seconds": round(seconds, 1)})
        print(f"{outcome:8} {seconds:6.1f} s  {name}: {note[:300]}", flush=True)
        self.write()
        return outcome == "passed"

    def figure(self, what, unit, ours, **peers):
        """One line of the table: our figure, and the others' by name. None is one that is missing."""
        self.figures.append({"what": what, "unit": unit, "ours": ours, **peers})
        self.write()

    def write(self):
        self.out.joinpath("report.md").write_text(self.text())
        stored = {"device": self.device, "machine": self.machine, "steps": self.steps, "figures": self.figures}
        self.out.joinpath("report.json").write_text(json.dumps(stored, indent=1) + "\n")

    def text(self):
        lines = [f"# Check on the {self.device}", ""]
        lines += [f"- {name}: {value}" for name, value in self.machine.items()]
        lines += ["", "| Step | Outcome | Seconds | |", "|---|---|---|---|"]
        lines += [
            f"| {s['step']} | {s['outcome']} | {s['seconds']} | {cell(s['note'])} |" for s in self.steps
        ]  # fmt: skip
        late = [s["step"] for s in self.steps if s["outcome"] in ("cut off", "not run")]
        if late:
            lines += ["", f"For lack of time cut off or not run: {'; '.join(map(cell, late))}."]
        if self.figures:
            peers = list(dict.fromkeys(name for figure in self.figures for name in figure if name not in COLUMNS))
            lines += ["", f"| | Unit | triton-llm | {' | '.join(peers)} |", "|---" * (3 + len(peers)) + "|"]
            for figure in self.figures:
                values = " | ".join(beside(figure, name) for name in peers)
                lines.append(f"| {figure['what']} | {figure['unit']} | {number(figure['ours'])} | {values} |")
            lines += ["", "In brackets: ours divided by the peer's."]
        return "\n".join(lines) + "\n"


COLUMNS = ("what", "unit", "ours")


def number(value):
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def beside(figure, name):
    ours, peer = figure["ours"], figure.get(name)
    return f"{number(peer)} ({ours / peer:.2f})" if ours and peer else number(peer)


def cell(text):
    return text.replace("|", "/").replace("\n", " ")[:500]


def machine(root):
    """What this was run on."""
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "commit": (root / "commit").read_text().strip(),
        "GPU": nvidia_smi("name,memory.total,driver_version") or "none",
        "CPU": f"{cpu}, {len(os.sched_getaffinity(0))} of its threads",
        "system": f"{platform.system()} {platform.release()}, glibc {platform.libc_ver()[1]}",
    }


def nvidia_smi(query):
    """The answer for the first GPU, or None without one."""
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
