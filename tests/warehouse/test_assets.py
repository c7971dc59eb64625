"""The dbt project as Dagster assets, run for real."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from datetime import date

import dagster as dg

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
