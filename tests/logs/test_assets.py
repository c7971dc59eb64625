"""The stage as Dagster runs it: metadata, data versions, checks."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path

import dagster as dg
import duckdb
import pytest
from dagster._core.definitions.data_version import (
    DATA_VERSION_TAG,
    CachingStaleStatusResolver,
    StaleStatus,
)
from dagster._core.loader import LoadingContextForTest

from assets.logs import assets, checks, raw_zone
from assets.partitions import nights
from resources.home import Home

HEADER = "event_id,event_time,user_id,session_id,item_id,behavior,price,quantity\n"
ALL = [
    assets.ingest_outcomes,
    assets.raw_behavior_events,
    assets.raw_products,
    checks.accounting_adds_up,
    checks.refused_share,
    checks.day_has_events,
]
Drop = Callable[..., Path]


@pytest.fixture
def instance() -> dg.DagsterInstance:
    return dg.DagsterInstance.ephemeral()


def events(day: str, count: int, bad: int = 0) -> str:
    good = "".join(f"{day}-{n},{day}T12:00:00+01:00,u{n},s,p{n},click,1,1\n" for n in range(count))
    return HEADER + good + "cut,off\n" * bad


def run(
    instance: dg.DagsterInstance,
    first: str | None = None,
    last: str | None = None,
    only: list[str] | None = None,
) -> dg.ExecuteInProcessResult:
    defs = dg.Definitions(
        assets=ALL[:3],
        asset_checks=ALL[3:],
        jobs=[dg.define_asset_job("all", selection=only or "*")],
    )
    job = defs.resolve_job_def("all")
    if first and last:
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        return job.execute_in_process(instance=instance, tags=tags, raise_on_error=False)
    return job.execute_in_process(instance=instance, partition_key=first, raise_on_error=False)


def versions(instance: dg.DagsterInstance) -> dict[str, str]:
    found = instance.event_log_storage.get_latest_tags_by_partition(
        assets.EVENTS, dg.DagsterEventType.ASSET_MATERIALIZATION, tag_keys=[DATA_VERSION_TAG]
    )
    return {day: tags[DATA_VERSION_TAG] for day, tags in found.items()}


def passed(result: dg.ExecuteInProcessResult) -> dict[str, bool]:
    return {check.check_name: check.passed for check in result.get_asset_check_evaluations()}


def materialized(result: dg.ExecuteInProcessResult, name: str) -> list[dg.AssetMaterialization]:
    return [
        event.step_materialization_data.materialization
        for event in result.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey(name)
    ]


def test_a_new_column_is_warned_of(instance: dg.DagsterInstance, drop: Drop) -> None:
    drop("nightshelf_csv", "1.csv", events("2026-01-05", 1))
    run(instance, "2026-01-05")
    first, line = events("2026-01-05", 1).splitlines()
    drop("nightshelf_csv", "2.csv", f"{first},coupon\n{line},x\n")
    result = run(instance, "2026-01-05")
    (ingested,) = materialized(result, "ingest_outcomes")
    assert ingested.metadata["new_columns"].value == {"nightshelf_csv": ["coupon"]}
    warned = [
        entry.user_message for entry in instance.all_logs(result.run_id) if entry.level == logging.WARNING
    ]
    assert any("new columns: coupon" in message for message in warned)


def test_a_day_is_taken_in_reported_and_checked(home: Home, drop: Drop, instance: dg.DagsterInstance) -> None:
    drop("nightshelf_csv", "a.csv", events("2026-01-06", 40, bad=1))
    drop("nightshelf_catalogue", "c.csv", "item_id,title\np1,Mug\np2,Plate\n")
    result = run(instance, "2026-01-06")
    assert result.success
    assert passed(result) == {"accounting_adds_up": True, "refused_share": True, "day_has_events": True}

    (ingest,) = materialized(result, "ingest_outcomes")
    assert ingest.metadata["rows_loaded"].value == 42
    assert ingest.metadata["rows_refused"].value == 1
    assert ingest.metadata["days"].value == ["2026-01-06"]
    assert ingest.metadata["late_days"].value == []
    assert "a.csv" in str(ingest.metadata["files"].value)
    assert "column_count" in str(ingest.metadata["refused_by_reason"].value)

    (day,) = materialized(result, "raw_behavior_events")
    assert day.metadata["dagster/partition_row_count"].value == 40
    (products,) = materialized(result, "raw_products")
    assert products.metadata["dagster/row_count"].value == 2


def test_each_day_of_a_range_has_its_own_rows_and_version(
    home: Home, drop: Drop, instance: dg.DagsterInstance
) -> None:
    for n, day in enumerate(("2026-01-05", "2026-01-06", "2026-01-07"), start=1):
        drop("nightshelf_csv", f"{day}.csv", events(day, n))
    assert run(instance, "2026-01-05", "2026-01-08").success
    ranged = versions(instance)
    days = [date(2026, 1, day) for day in (5, 6, 7, 8)]
    assert {str(day): version for day, version in raw_zone.day_versions(home, days).items()} == ranged
    rows = {
        str(record.partition_key): record.asset_materialization.metadata["dagster/partition_row_count"].value
        for record in instance.fetch_materializations(assets.EVENTS, limit=100).records
        if record.asset_materialization
    }
    assert rows == {"2026-01-05": 1, "2026-01-06": 2, "2026-01-07": 3, "2026-01-08": 0}
    # One night alone gives the day the same version.
    assert run(instance, "2026-01-06").success
    assert versions(instance) == ranged


def test_late_rows_are_named_and_give_their_day_another_version(
    home: Home, drop: Drop, instance: dg.DagsterInstance
) -> None:
    drop("nightshelf_csv", "a.csv", events("2026-01-05", 3))
    run(instance, "2026-01-05")
    before = versions(instance)
    drop("nightshelf_csv", "late.csv", events("2026-01-05", 5) + events("2026-01-06", 1).removeprefix(HEADER))
    result = run(instance, only=["ingest_outcomes"])
    (ingest,) = materialized(result, "ingest_outcomes")
    assert ingest.metadata["late_days"].value == ["2026-01-05"]
    assert ingest.metadata["days"].value == ["2026-01-05", "2026-01-06"]
    after = versions(instance)
    assert after["2026-01-05"] != before["2026-01-05"]
    run(instance, "2026-01-05")
    assert versions(instance) == after


@dg.asset(deps=[assets.EVENTS], partitions_def=nights, backfill_policy=dg.BackfillPolicy.single_run())
def table() -> None:
    """Stands for the tables that are made of raw_behavior_events day by day."""


@dg.asset(deps=["raw_products", "ingest_outcomes", "table"], partitions_def=nights)
def other_table() -> None:
    """Stands for those that also look at the catalogue and the ledger."""


STAGE = [assets.ingest_outcomes, assets.raw_behavior_events, assets.raw_products, table, other_table]
DAYS = ("2026-01-05", "2026-01-06", "2026-01-07")


def out_of_date(instance: dg.DagsterInstance) -> set[tuple[str, str]]:
    """(asset, day) that Dagster's UI shows as stale."""
    graph = dg.Definitions(assets=STAGE).resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return {
        (asset, day)
        for asset in ("raw_behavior_events", "table", "other_table")
        for day in DAYS
        if resolver.get_status(dg.AssetKey(asset), day) is not StaleStatus.FRESH
    }


@pytest.mark.parametrize("windows", [[(day, day) for day in DAYS], [(DAYS[0], DAYS[-1])]])
def test_late_rows_make_their_day_stale_and_no_other(
    home: Home, drop: Drop, instance: dg.DagsterInstance, windows: list[tuple[str, str]]
) -> None:
    def make(first: str, last: str) -> None:
        tags = {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        assert dg.materialize(STAGE[:4], instance=instance, tags=tags).success
        for day in DAYS:
            if first <= day <= last:
                assert dg.materialize(STAGE, selection=[other_table], instance=instance, partition_key=day)

    for day in DAYS:
        drop("nightshelf_csv", f"{day}.csv", events(day, 3))
    for window in windows:
        make(*window)
    assert out_of_date(instance) == set()

    drop("nightshelf_csv", "next.csv", events("2026-01-08", 2))  # a new day, and a new catalogue
    drop("nightshelf_catalogue", "c.csv", "item_id,title\np1,Mug\n")
    run(instance, only=["ingest_outcomes", "raw_products"])
    assert out_of_date(instance) == set()

    drop("nightshelf_csv", "late.csv", events("2026-01-05", 1))
    run(instance, only=["ingest_outcomes"])
    assert out_of_date(instance) == {("table", "2026-01-05")}
    run(instance, only=["ingest_outcomes"])
    assert out_of_date(instance) == {("table", "2026-01-05")}
    make("2026-01-05", "2026-01-05")
    assert out_of_date(instance) == set()


def test_a_day_is_found_late_even_where_the_run_that_took_its_rows_in_broke_off(
    home: Home, drop: Drop, instance: dg.DagsterInstance
) -> None:
    drop("nightshelf_csv", "a.csv", events("2026-01-05", 3))
    run(instance, "2026-01-05")
    drop("nightshelf_csv", "late.csv", events("2026-01-05", 5))
    raw_zone.take_in_all(home)
    (ingest,) = materialized(run(instance, only=["ingest_outcomes"]), "ingest_outcomes")
    assert ingest.metadata["late_days"].value == ["2026-01-05"]


def test_lost_rows_stop_what_comes_after(home: Home, drop: Drop, instance: dg.DagsterInstance) -> None:
    drop("nightshelf_csv", "a.csv", events("2026-01-05", 3))
    run(instance, "2026-01-05")
    (part,) = home.loads.glob("*/events/day=2026-01-05/part*.parquet")
    with duckdb.connect() as db:
        db.execute(
            f"CREATE TABLE kept AS SELECT * FROM read_parquet('{part}', hive_partitioning = false) LIMIT 2"
        )
        db.execute(f"COPY kept TO '{part}'")
    result = run(instance, "2026-01-05")
    assert not result.success
    assert passed(result)["accounting_adds_up"] is False
    assert not materialized(result, "raw_behavior_events")


def test_a_ledger_that_does_not_add_up_stops_what_comes_after(
    home: Home, drop: Drop, instance: dg.DagsterInstance
) -> None:
    drop("nightshelf_csv", "a.csv", events("2026-01-05", 3))
    run(instance, "2026-01-05")
    (ledger,) = (file for file in home.loads.glob("*/outcome.json") if file.stat().st_size)
    ledger.write_text(json.dumps(json.loads(ledger.read_text()) | {"lines": 5}))
    assert passed(run(instance, "2026-01-05"))["accounting_adds_up"] is False


def test_much_refused_and_empty_days_warn_but_do_not_stop(
    home: Home, drop: Drop, instance: dg.DagsterInstance
) -> None:
    drop("nightshelf_csv", "a.csv", events("2026-01-05", 10, bad=1))
    drop("movielens_1m", "users.dat", "1::F::1::10::48067\n")
    result = run(instance, "2026-01-06")
    assert result.success
    assert passed(result) == {"accounting_adds_up": True, "refused_share": False, "day_has_events": False}
    (share,) = (c for c in result.get_asset_check_evaluations() if c.check_name == "refused_share")
    assert share.severity is dg.AssetCheckSeverity.WARN
    assert share.metadata["files"].value == ["nightshelf_csv/a.csv"]


@pytest.mark.parametrize("cure", ["taken out", "written anew"])
def test_a_bad_file_is_warned_of_until_it_is_seen_to(
    home: Home, drop: Drop, instance: dg.DagsterInstance, cure: str
) -> None:
    bad = drop("nightshelf_csv", "a.csv", events("2026-01-05", 10, bad=1))
    for _ in range(2):
        result = run(instance, only=["ingest_outcomes"])
        assert passed(result)["refused_share"] is False
    if cure == "taken out":
        bad.unlink()
    else:
        drop("nightshelf_csv", "a.csv", events("2026-01-05", 11))
    assert passed(run(instance, only=["ingest_outcomes"]))["refused_share"] is True


def test_what_was_refused_is_counted_once_however_often_the_file_comes(
    home: Home, drop: Drop, instance: dg.DagsterInstance
) -> None:
    for name in ("a.csv", "b.csv"):
        drop("nightshelf_csv", name, events("2026-01-05", 10, bad=3))
    (ingest,) = materialized(run(instance, only=["ingest_outcomes"]), "ingest_outcomes")
    assert "| nightshelf_csv | column_count |  | 3 |" in str(ingest.metadata["refused_by_reason"].value)
    drop("nightshelf_csv", "c.csv", events("2026-01-05", 10, bad=3))
    (ingest,) = materialized(run(instance, only=["ingest_outcomes"]), "ingest_outcomes")
    assert ingest.metadata["refused_by_reason"].value == "Nothing was refused."


def test_nothing_in_the_drop_folder_is_no_error(home: Home, instance: dg.DagsterInstance) -> None:
    result = run(instance, "2026-01-05")
    assert result.success
    assert materialized(result, "raw_products")[0].metadata["dagster/row_count"].value == 0


def test_the_definitions_are_light() -> None:
    program = (
        "import sys, assets.logs.assets, assets.logs.checks; "
        "print([name for name in ('duckdb', 'numpy', 'pandas', 'pyarrow', 'torch') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
