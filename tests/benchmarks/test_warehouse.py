"""The benchmark of the warehouse, on as few events as there can be."""

from __future__ import annotations

import json
import math
from pathlib import Path

import duckdb
import pytest

from benchmarks.figures import short
from benchmarks.raw_events import COLUMNS, DAYS, write_catalogue, write_events
from benchmarks.warehouse import growth, main


@pytest.mark.soak
def test_the_report_has_its_figures_and_the_bare_script_makes_the_same_rows(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    assert main(["--events", "2000", "--rounds", "1", "--out", str(out), "--work", str(tmp_path)]) == 0

    figures = {figure["name"]: figure["value"] for figure in json.loads(out.read_text())["figures"]}
    for name in (
        "warehouse.2k.ratio_to_bare_duckdb",
        "warehouse.2k.peak_gib",
        "warehouse.2k.night_to_full_run",
        "warehouse.ingest.ratio_to_copy",
    ):
        assert figures[name] > 0 and math.isfinite(figures[name])
    assert out.with_suffix(".png").stat().st_size > 1000
    assert not list(tmp_path.glob("nightshelf-warehouse-*")), "what was made meanwhile is gone"


def test_synthetic_events_are_as_many_as_asked_for_and_dirty(tmp_path: Path) -> None:
    files = write_events(tmp_path / "events", 40_000)
    write_catalogue(tmp_path / "products.csv", 40_000)
    assert len(files) == DAYS
    with duckdb.connect() as db:
        columns = dict.fromkeys(COLUMNS, "VARCHAR")
        db.execute(
            f"CREATE TABLE events AS FROM read_csv('{tmp_path}/events/*.csv', columns = {columns}, "
            "auto_detect = false, header = true)"
        )
        rows, ids, unknown, bad_times, bad_prices = db.execute(
            "SELECT count(*), count(DISTINCT event_id), count(*) FILTER (user_id IS NULL), "
            "count(*) FILTER (try_cast(event_time AS TIMESTAMP) IS NULL), "
            "count(*) FILTER (try_cast(price AS DOUBLE) IS NULL) FROM events"
        ).fetchone()
        assert rows == 40_000
        assert 0.98 < ids / rows < 1
        assert min(unknown, bad_times, bad_prices) > 0
        assert db.execute(
            f"SELECT count(*) FROM events ANTI JOIN read_csv('{tmp_path}/products.csv') USING (item_id)"
        ).fetchone() == (0,)
    again = write_events(tmp_path / "again", 40_000)
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]


def test_flat_cost_has_exponent_one() -> None:
    assert growth([10, 100, 1000], [2, 20, 200]) == pytest.approx(1)
    assert growth([10, 100], [1, 100]) == pytest.approx(2)


@pytest.mark.parametrize(("events", "name"), [(30_000_000, "30m"), (250_000, "250k"), (1234, "1234")])
def test_sizes_have_short_names(events: int, name: str) -> None:
    assert short(events) == name
