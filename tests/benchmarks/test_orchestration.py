"""The benchmark of orchestration, on as little as there can be."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from benchmarks.orchestration import covered, main


@pytest.mark.soak
def test_the_report_has_the_figures_of_all_parts_where_none_is_named(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    sizes = ["--days", "2", "--events", "2000", "--rounds", "1"]
    assert main([*sizes, "--out", str(out), "--work", str(tmp_path)]) == 0
    figures = {figure["name"]: figure["value"] for figure in json.loads(out.read_text())["figures"]}
    for name in (
        "orchestration.definitions.ratio_to_bare_import",
        "orchestration.definitions.memory_ratio_to_bare_import",
        "orchestration.backfill_2_days.ratio_to_one_pass",
        "orchestration.empty_night_s",
        "orchestration.step_overhead_s",
        "orchestration.click_to_done_s",
    ):
        assert figures[name] > 0 and math.isfinite(figures[name])
    assert list(tmp_path.iterdir()) == [out], "what was made meanwhile is gone"


def test_work_at_the_same_time_counts_once() -> None:
    assert covered([]) == 0
    assert covered([(5, 7), (0, 2), (1, 3), (1.5, 2)]) == 5
