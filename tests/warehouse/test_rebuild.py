"""Days may be built in any order, in any window, again and again: the tables are the same."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta

import duckdb
import pytest

from resources.home import Home
from tests.warehouse.raw_rows import RawZone, dbt, event, fingerprints, query
from tests.warehouse.weekend import FIRST, LAST, fill

QUICK = ("--exclude-resource-type", "test", "unit_test")
LATE = f"{8:016x}"


def test_days_built_in_pieces_out_of_order_and_again_equal_one_window(
    weekend: Home, new_raw_zone: Callable[[], RawZone]
) -> None:
    """A file comes late, another is withdrawn and takes with it all there was of its source on its day."""
    zone = new_raw_zone()
    fill(zone)
    zone.remove(LATE)
    gone = zone.add([event("2026-03-26 12:00:00", "eve", "mug", "browse", source="gone")])
    before = FIRST - timedelta(days=1)
    for first, last in (
        (LAST, LAST),
        (before, FIRST),
        (FIRST + timedelta(days=1), FIRST + timedelta(days=2)),
    ):
        dbt(zone.home, "build", first, last, *QUICK)
    assert query(zone.home, "select count(*) from marts.fct_events where user_key = 'eve'") == [(1,)]
    assert fingerprints(zone.home.warehouse) != fingerprints(weekend.warehouse)

    zone.remove(gone)
    zone.add(
        [
            event("2026-03-27 09:00:00", "anna", "mug", "browse", event_id="w1", price=10),
            event("2026-03-27 09:04:00", "ben", "pot", "browse", event_id="w13", price=30),
        ],
        load_id=LATE,
    )
    dbt(zone.home, "build", before, FIRST, *QUICK)
    assert fingerprints(zone.home.warehouse) == fingerprints(weekend.warehouse)


def test_a_run_reads_the_files_of_its_days_only(weekend: Home) -> None:
    """Hive pruning goes through all views down to the file names."""
    plan = query(
        weekend,
        "explain (analyze, format json) select * from intermediate.int_events__unioned "
        "where day between '2026-03-28' and '2026-03-28'",
    )[0][1]
    of_the_day = len(list(weekend.loads.glob("*/events/day=2026-03-28/*.parquet")))
    assert 0 < of_the_day < len(list(weekend.loads.glob("*/events/day=*/*.parquet")))
    scanned = {int(files) for files in re.findall(r'"Total Files Read": "(\d+)"', plan)}
    assert scanned
    assert max(scanned) <= of_the_day


def test_a_full_refresh_rebuilds_every_day(weekend: Home, weekend_copy: Home) -> None:
    """Given a window, it would else throw the other days away."""
    home = weekend_copy
    dbt(home, "build", None, None, "--full-refresh", *QUICK, min_day=str(LAST), max_day=str(LAST))
    assert fingerprints(home.warehouse) == fingerprints(weekend.warehouse)
    assert query(home, "select min(day) from marts.fct_events") == [(date(2026, 3, 27),)]


def test_portions_give_the_tables_of_the_whole(weekend: Home, new_raw_zone: Callable[[], RawZone]) -> None:
    """Of days and of shoppers, into new tables and into those that are there."""
    zone = new_raw_zone()
    fill(zone)
    for _ in range(2):
        dbt(zone.home, "build", FIRST, LAST, *QUICK, rows_at_once=3)
        assert fingerprints(zone.home.warehouse) == fingerprints(weekend.warehouse)
    for model, portions in (("lbl_behaviors", 4), ("lbl_next_item", 9)):
        (ran,) = (zone.home.root / "target" / "run").rglob(f"{model}.sql")
        assert ran.read_text().count("insert into") >= portions, model
    held_to = re.search(r"set memory_limit = '(\d+)B'", (zone.home.root / "target" / "dbt.log").read_text())
    assert held_to
    assert int(held_to[1]) <= 2_500_000_000


def test_a_table_of_other_columns_than_its_model_is_left_alone(weekend: Home, weekend_copy: Home) -> None:
    home = weekend_copy
    with duckdb.connect(str(home.warehouse)) as warehouse:
        warehouse.execute("alter table labels.lbl_behaviors add column mood varchar")
        warehouse.execute("alter table labels.lbl_behaviors alter column weight type integer")
    with pytest.raises(AssertionError, match=r"mood, weight.*\s.*--full-refresh --select lbl_behaviors\+"):
        dbt(home, "build", FIRST, LAST, *QUICK, "--select", "lbl_behaviors+")
    kept = "select count(*), count(mood) from labels.lbl_behaviors"
    ((rows, moods),) = query(home, kept)
    assert (rows > 0, moods) == (True, 0)
    dbt(home, "build", FIRST, LAST, "--full-refresh", *QUICK, "--select", "lbl_behaviors+")
    assert fingerprints(home.warehouse) == fingerprints(weekend.warehouse)
