"""What `make bench` runs: servers, workloads, rows, and the report. See CONTRIBUTING.md."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# The server helpers of the end-to-end tests, and the generator with its words.
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "benches")]
