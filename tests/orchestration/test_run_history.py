"""Dagster's events written in batches: the same records as Dagster's own storage, in far fewer commits."""

import shutil
import sqlite3
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from orchestration.instance import instance_of, prepare_instance
from orchestration.run_history import BatchingEventLog
from resources.home import Home

DAYS = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-02-10")
FIRST, LAST = "2026-01-03", "2026-02-01"
DAYS_BETWEEN = 30


@dg.asset(
    partitions_def=DAYS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    check_specs=[dg.AssetCheckSpec("sound", asset="shelf")],
)
def shelf(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    for day in context.partition_keys:
        context.add_asset_metadata({"rows": int(day[-2:])}, partition_key=day)
    return dg.MaterializeResult(
        data_version=dg.DataVersion("v1"), check_results=[dg.AssetCheckResult(passed=True)]
    )


def backfill(instance: dg.DagsterInstance) -> str:
    window = {"dagster/asset_partition_range_start": FIRST, "dagster/asset_partition_range_end": LAST}
    done = dg.materialize([shelf], instance=instance, tags=window)
    assert done.success
    return done.run_id


def told(instance: dg.DagsterInstance, run_id: str) -> dict[str, Any]:
    """What the UI shows of a run of `shelf`, without ids and times."""
    events = [entry.dagster_event for entry in instance.all_logs(run_id) if entry.dagster_event]
    made = instance.fetch_materializations(shelf.key, limit=1000, ascending=True).records
    check = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(shelf.key, "sound"), limit=5
    )
    latest = instance.get_latest_materialization_event(shelf.key)
    return {
        "events": [(event.event_type_value, event.partition) for event in events],
        "made": [
            (record.partition_key, record.asset_materialization.metadata["rows"].value)
            for record in made
            if record.asset_materialization
        ],
        "tags": sorted(
            map(str, instance.get_event_tags_for_asset(shelf.key, {"dagster/data_version": "v1"}))
        ),
        "checks": [record.status for record in check],
        "latest": latest and latest.dagster_event and latest.dagster_event.partition,
        "partitions": sorted(instance.get_materialized_partitions(shelf.key)),
    }


def test_the_record_is_that_of_dagsters_own_storage(home: Home, tmp_path: Path) -> None:
    prepare_instance(home)
    with instance_of(home) as ours, dg.instance_for_test(temp_dir=str(tmp_path)) as dagsters:
        assert isinstance(ours.event_log_storage, BatchingEventLog)
        assert type(dagsters.event_log_storage) is SqliteEventLogStorage
        for _ in range(2):  # the second time the assets are known already
            assert told(ours, backfill(ours)) == (found := told(dagsters, backfill(dagsters)))
    assert len(found["made"]) == 2 * DAYS_BETWEEN and len(found["partitions"]) == DAYS_BETWEEN


def test_a_window_of_days_takes_a_commit_or_two_instead_of_one_a_day(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    connect = SqliteEventLogStorage._connect
    monkeypatch.setattr(
        SqliteEventLogStorage, "_connect", lambda self, shard: (opened.append(shard), connect(self, shard))[1]
    )
    prepare_instance(home)
    with instance_of(home) as instance:
        opened.clear()
        run_id = backfill(instance)
        assert opened.count(run_id) < DAYS_BETWEEN


def test_a_batch_that_cannot_be_written_leaves_nothing_and_its_events_are_written_one_by_one(
    home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    prepare_instance(home)
    note, failed = BatchingEventLog._store_asset_event_tags, []

    def fail_once(self: BatchingEventLog, index: object, events: list[dg.EventLogEntry], ids: object) -> None:
        if len(events) == DAYS_BETWEEN and events[0].dagster_event.is_step_materialization and not failed:
            failed.append(LAST)
            raise sqlite3.OperationalError("database or disk is full")
        note(self, index, events, ids)

    monkeypatch.setattr(BatchingEventLog, "_store_asset_event_tags", fail_once)
    with instance_of(home) as instance:
        found = told(instance, backfill(instance))
    assert "disk is full" in capfd.readouterr().err
    assert [day for day, _ in found["made"]] == found["partitions"]
    assert len(found["made"]) == DAYS_BETWEEN


def test_a_home_that_is_set_up_is_opened_without_a_look_at_dagsters_migrations(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_instance(home)
    with instance_of(home) as instance:
        before = backfill(instance)

    def look(*_: object) -> None:
        raise AssertionError("alembic was asked for its revisions")

    monkeypatch.setattr("alembic.script.ScriptDirectory.as_revision_number", look)
    with instance_of(home) as instance:
        assert [run.run_id for run in instance.get_runs()] == [before]
        assert told(instance, before)["partitions"]
        assert instance.all_instigator_state() == []


def test_where_part_of_the_record_is_missing_it_is_made(home: Home) -> None:
    prepare_instance(home)
    shutil.rmtree(home.dagster / "schedules")
    with instance_of(home) as instance:
        assert told(instance, backfill(instance))["partitions"]
        assert instance.all_instigator_state() == []
    (home.dagster / "history" / "runs" / "index.db").unlink()
    with instance_of(home) as instance:
        assert told(instance, backfill(instance))["partitions"]
