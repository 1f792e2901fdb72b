"""docs/benchmarks.md and its pictures are what the stored results say, and every figure that is not met is explained."""

import sys

from server import ROOT

sys.path.append(str(ROOT / "benches"))

from harness import report, results  # noqa: E402
from harness.explanations import explanation  # noqa: E402


def test_the_page_is_that_of_the_results(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "DOCS", tmp_path)
    report.write()
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert len(written) == 1 + len(report.PICTURES)
    assert written == {name: (ROOT / "docs" / name).read_text() for name in written}


def test_what_is_not_met_is_explained():
    missed = [
        (entry["row"], figure["what"])
        for entry in results.load().values()
        for figure in entry["figures"]
        if not figure["met"]
    ]
    assert [figure for figure in missed if not explanation(*figure)] == []
