"""Run the benchmarks against their peers and write docs/benchmarks.md. Called by `make bench`.

scripts/bench.sh has built everything before. Each row is stored when it is
done, so a run that is stopped loses one row at most, and the next may run
others: ROWS=1,4 selects, WEIGHTS=Q4_0 measures other weights. RENDER=1 only
writes the page.
"""

import os
import signal
import sys
import time
import traceback

from harness import cores, engine, latency, prefixes, report, results, speculation, throughput
from harness.measure import say
from harness.settings import from_environment

#: The rows, and about how many minutes each takes on two cores with five repeats.
ROWS = {
    1: (throughput.row_1, 25),
    2: (throughput.row_2, 15),
    3: (throughput.row_3, 25),
    4: (prefixes.row_4, 40),
    5: (prefixes.row_5, 4),
    6: (prefixes.row_6, 20),
    7: (latency.row_7, 20),
    8: (throughput.row_8, 20),
    9: (engine.row_9, 1),
    10: (engine.row_10, 3),
    11: (throughput.row_11, 6),
    12: (latency.row_12, 40),
    13: (engine.row_13, 1),
    14: (speculation.row_14, 9),
    15: (cores.row_15, 4),
}


def run(row, settings):
    """Runs and stores one row; a failure is stored as such and does not stop the others."""
    function, _ = ROWS[row]
    begin = time.monotonic()
    try:
        figures, notes = function(settings)
    except Exception as error:
        traceback.print_exc()
        say(f"row {row} failed: {error}")
        figures, notes = [], [f"Not measured: {error}"]
    entry = results.store(row, settings, function.__doc__, figures, notes, time.monotonic() - begin)
    for figure in entry["figures"]:
        say(f"  {report.line(entry, figure)}")
    return bool(figures)


def minutes_left(rows, settings):
    scale = 0.05 if settings.quick else 1
    return sum(ROWS[row][1] for row in rows) * scale * (settings.repeats + 1) / 6


def stop(number, _frame):
    # Unwinds through every `with` block, and so ends what was started.
    raise KeyboardInterrupt(f"signal {number}")


def main():
    signal.signal(signal.SIGTERM, stop)
    settings = from_environment(ROWS)
    failed = []
    if os.environ.get("RENDER") != "1":
        for index, row in enumerate(settings.rows):
            left = minutes_left(settings.rows[index:], settings)
            say(f"row {row}: {ROWS[row][0].__doc__} (about {left:.0f} minutes left in all)")
            if not run(row, settings):
                failed.append(row)
    page, table = report.write()
    print("\n".join(table))
    print(f"\nWritten to {page}")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
