"""The benchmark of orchestration, its shorter parts on as little as there can be."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.orchestration import PARTS, covered, main


@pytest.mark.soak
def test_the_report_has_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    sizes = ["--days", "2", "--events", "2000", "--rounds", "1"]
    done = main(["--only", "definitions", "backfill", *sizes, "--out", str(out), "--work", str(tmp_path)])
    assert done == 0
    figures = {figure["name"]: figure["value"] for figure in json.loads(out.read_text())["figures"]}
    for name in (
        "orchestration.definitions.ratio_to_bare_import",
        "orchestration.definitions.memory_ratio_to_bare_import",
        "orchestration.backfill_2_days.ratio_to_one_pass",
    ):
        assert figures[name] > 0 and math.isfinite(figures[name])
    assert list(tmp_path.iterdir()) == [out], "what was made meanwhile is gone"


def test_work_at_the_same_time_counts_once() -> None:
    assert covered([]) == 0
    assert covered([(5, 7), (0, 2), (1, 3), (1.5, 2)]) == 5


def test_all_parts_run_where_none_is_named() -> None:
    assert list(PARTS) == ["definitions", "backfill", "night", "click"]
