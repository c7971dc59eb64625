"""The dbt project as Dagster assets, run for real."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from assets.logs.raw_zone import take_in_all
from assets.warehouse import assets
from assets.warehouse.assets import Dbt, dbt_build
from assets.warehouse.project import DBT
from resources.home import Home
from resources.warehouse import Warehouse
from tests.warehouse.raw_rows import RawZone, event, materialize, query
from tests.warehouse.weekend import LAST

Run = tuple[Home, dg.ExecuteInProcessResult]
DAY_CHECK = "every_event_lies_in_the_shops_day_of_its_time"


def test_every_night_is_told_its_own_rows(weekend_run: Run) -> None:
    home, run = weekend_run
    told = {
        event.partition: event.materialization.metadata["dagster/partition_row_count"].value
        for event in materializations(run, "marts", "fct_events")
    }
    counted = query(home, "select day, count(*) from marts.fct_events group by 1")
    assert told == {day.isoformat(): rows for day, rows in counted}


def test_columns_are_told_with_types_descriptions_and_lineage(weekend_run: Run) -> None:
    *_, metadata = metadata_of_days(weekend_run[1], "labels", "lbl_behaviors")
    columns = {column.name: column for column in metadata["dagster/column_schema"].schema.columns}
    assert columns["revenue"].type == "DOUBLE"
    assert columns["user_key"].type == "VARCHAR"
    assert columns["revenue"].description.startswith("Price times quantity")
    sources = metadata["dagster/column_lineage"].column_lineage.deps_by_column["revenue"]
    assert {(dep.asset_key.path[-1], dep.column_name) for dep in sources} == {
        ("int_events__sessionised", "price"),
        ("int_events__sessionised", "quantity"),
        ("int_events__sessionised", "behavior"),
    }


def test_of_a_window_the_last_day_alone_tells_the_columns(weekend_run: Run) -> None:
    days = metadata_of_days(weekend_run[1], "marts", "fct_events")
    assert ["dagster/column_schema" in day for day in days] == [False, False, False, True]


def test_columns_that_are_known_are_told_again_without_asking_dbt(
    weekend_run: Run, weekend_copy: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, asked = weekend_copy, []
    adapter = Dbt.adapter
    monkeypatch.setattr(Dbt, "adapter", lambda self: (asked.append(Path.cwd()), adapter(self))[1])
    found = [columns_told(weekend_run[1]), columns_told(materialize(home, LAST, LAST))]
    assert not asked
    monkeypatch.setattr(assets, "project_version", lambda: "another")
    found.append(columns_told(materialize(home, LAST, LAST)))
    assert asked == [DBT]  # else the threads that ask leave the process somewhere else
    assert len(found[0]) > 20 and found == found[:1] * 3


def columns_told(run: dg.ExecuteInProcessResult) -> dict[dg.AssetKey, list[object]]:
    names = ("dagster/column_schema", "dagster/column_lineage")
    return {
        made.asset_key: [made.materialization.metadata.get(name) for name in names]
        for made in run.get_asset_materialization_events()
        if made.asset_key
    }


def test_every_data_test_is_a_check_that_passed(weekend_run: Run) -> None:
    evaluations = weekend_run[1].get_asset_check_evaluations()
    assert {e.asset_check_key for e in evaluations} == set(dbt_build.check_keys)
    assert all(e.passed for e in evaluations)
    assert all(spec.blocking for spec in dbt_build.check_specs)


def test_afterwards_the_file_is_free_for_other_processes(weekend_run: Run) -> None:
    home = weekend_run[0]
    with Warehouse(home, timeout=0.5).write():
        pass
    code = f"import duckdb; duckdb.connect({str(home.warehouse)!r}).execute('create temp table t (a int)')"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_file_that_comes_while_dbt_runs_waits_until_it_has_ended(
    weekend: Home, new_raw_zone: Callable[[], RawZone]
) -> None:
    zone = new_raw_zone()
    zone.add([event("2026-03-28 12:00:00", "anna", "mug", "click", price=10)])
    home = zone.home
    shutil.copytree(weekend.dagster, home.dagster)  # what is known of columns: it takes seconds to ask
    file = home.drop / "nightshelf_csv" / "late.csv"
    file.parent.mkdir(parents=True)
    file.write_text("event_id,event_time,user_id,item_id,behavior\nl1,2026-03-28T13:00:00Z,ben,pot,click\n")
    home.keys.mkdir()
    (home.keys / "identity.k1").write_text("ab" * 32)
    taken: list[int] = []

    def come() -> None:
        while not home.warehouse.exists():  # dbt has begun
            time.sleep(0.05)
        told: list[str] = []
        taken.extend(outcome.rows_loaded for outcome in take_in_all(home, told.append))
        taken.append(sum("waiting for ingest.lock" in line for line in told))

    publisher = threading.Thread(target=come)
    publisher.start()
    run = materialize(home, date(2026, 3, 28), date(2026, 3, 28))
    publisher.join()
    assert run.success
    assert taken == [1, 1], "it was loaded, and had waited"
    assert query(home, "select step, rows from marts.quality_funnel order by 1") == [("kept", 1), ("raw", 1)]


def test_a_failed_check_stops_what_depends_on_it_and_says_which(
    weekend: Home, new_raw_zone: Callable[[], RawZone]
) -> None:
    """A row lies in the wrong day's folder."""
    zone = new_raw_zone()
    shutil.copytree(weekend.dagster, zone.home.dagster)  # as above
    load = zone.add([event("2026-03-28 12:00:00", "anna", "mug", "click")])
    days = zone.home.loads / load / "events"
    (days / "day=2026-03-28").rename(days / "day=2026-03-29")
    run = materialize(zone.home, date(2026, 3, 29), date(2026, 3, 29))

    assert not run.success
    [failure] = [e.step_failure_data for e in run.all_events if e.event_type_value == "STEP_FAILURE"]
    assert DAY_CHECK in failure.error.message
    assert not [e for e in run.all_events if e.event_type_value == "STEP_UP_FOR_RETRY"]
    failed = {e.asset_check_key for e in run.get_asset_check_evaluations() if not e.passed}
    assert failed == {dg.AssetCheckKey(dg.AssetKey(["intermediate", "int_events__sessionised"]), DAY_CHECK)}
    made = {event.asset_key for event in run.get_asset_materialization_events()}
    assert dg.AssetKey(["intermediate", "int_events__flagged"]) in made
    assert dg.AssetKey(["marts", "fct_popularity"]) not in made


def test_the_graph_explains_itself() -> None:
    keys = dbt_build.keys
    assert dg.AssetKey(["marts", "fct_events"]) in keys
    assert dg.AssetKey(["labels", "taxonomy"]) in keys
    for spec in dbt_build.specs:
        assert spec.group_name == "warehouse", spec.key
        assert spec.owners == ["team:data"], spec.key
        assert spec.kinds == {"dbt", "duckdb"}, spec.key
        assert spec.description, spec.key
        assert spec.partitions_def is not None, spec.key
    outside = {dep for key in keys for dep in dbt_build.asset_deps[key]} - set(keys)
    assert outside == {
        dg.AssetKey("raw_behavior_events"),
        dg.AssetKey("raw_products"),
        dg.AssetKey("ingest_outcomes"),
    }
    assert dbt_build.backfill_policy == dg.BackfillPolicy.single_run()
    assert dbt_build.op.pool == "warehouse"


def materializations(run: dg.ExecuteInProcessResult, *key: str) -> list[dg.DagsterEvent]:
    return [e for e in run.get_asset_materialization_events() if e.asset_key == dg.AssetKey(list(key))]


def metadata_of_days(run: dg.ExecuteInProcessResult, *key: str) -> list[Mapping[str, dg.MetadataValue]]:
    """Of each day of the run's window, oldest first."""
    made = sorted(materializations(run, *key), key=lambda event: event.partition or "")
    return [event.materialization.metadata for event in made]
