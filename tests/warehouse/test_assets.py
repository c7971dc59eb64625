"""The dbt project as Dagster assets, run for real."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import date

import dagster as dg

from assets.logs.raw_zone import take_in_all
from assets.warehouse.assets import dbt_build
from resources.home import Home
from resources.warehouse import Warehouse
from tests.warehouse.raw_rows import RawZone, event, materialize, query

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
    metadata = materializations(weekend_run[1], "labels", "lbl_behaviors")[0].materialization.metadata
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
    new_raw_zone: Callable[[], RawZone],
) -> None:
    zone = new_raw_zone()
    zone.add([event("2026-03-28 12:00:00", "anna", "mug", "click", price=10)])
    home = zone.home
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
    new_raw_zone: Callable[[], RawZone],
) -> None:
    """A row lies in the wrong day's folder."""
    zone = new_raw_zone()
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
