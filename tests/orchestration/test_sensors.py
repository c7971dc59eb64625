"""What the sensors ask for, on real instances, and that they neither forget nor ask for ever."""

import os
import time
from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise

import dagster as dg
import pytest
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import (
    InProcessCodeLocationOrigin,
    RemoteJobOrigin,
    RemotePartitionSetOrigin,
    RemoteRepositoryOrigin,
)
from dagster._core.test_utils import create_run_for_test, freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from hypothesis import given
from hypothesis import strategies as st

from assets.logs.raw_zone import day_versions
from assets.partitions import SHOP
from orchestration import sensors
from orchestration.backfill import lacking_tables
from orchestration.definitions import defs
from orchestration.nights import (
    BACKFILL_TAG,
    EVENTS,
    LABELS,
    MAX_ATTEMPTS,
    OUTCOMES,
    SHELF,
    attempts_of_night,
    days_between,
    in_windows,
)
from resources.home import Home
from tests.orchestration.raw import put_rows

NOON = datetime(2026, 1, 25, 12, tzinfo=SHOP.zone)
"""The last night due by now is that of the 24th."""


def look(
    sensor: dg.SensorDefinition, instance: dg.DagsterInstance, cursor: str | None = None
) -> tuple[list[dg.RunRequest], str | None, str]:
    """One tick: (requests, cursor, reason for skipping)."""
    context = dg.build_sensor_context(
        instance=instance, cursor=cursor, repository_def=defs.get_repository_def(), sensor_name=sensor.name
    )
    found = sensor.evaluate_tick(context)
    return list(found.run_requests or []), found.cursor, found.skip_message or ""


def materialize(
    instance: dg.DagsterInstance, key: dg.AssetKey, *days: date, tags: dict[str, str] | None = None
) -> None:
    for day in days:
        instance.report_runless_asset_event(
            dg.AssetMaterialization(key, partition=day.isoformat(), tags=tags)
        )


def run(
    instance: dg.DagsterInstance, job: str, status: dg.DagsterRunStatus, tags: dict[str, str]
) -> dg.DagsterRun:
    """A run on record, ended just now if it has ended."""
    made = create_run_for_test(instance, job, status=dg.DagsterRunStatus.STARTED, tags=tags)
    if status is dg.DagsterRunStatus.FAILURE:
        instance.report_run_failed(made)
    elif status is dg.DagsterRunStatus.SUCCESS:
        instance.report_dagster_event(
            dg.DagsterEvent(event_type_value="PIPELINE_SUCCESS", job_name=job), made.run_id
        )
    elif status is dg.DagsterRunStatus.CANCELED:
        instance.report_run_canceled(made)
    return made


REPOSITORY = RemoteRepositoryOrigin(
    InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name="orchestration.definitions")),
    "__repository__",
)


def under_way(instance: dg.DagsterInstance, job: str, status: dg.DagsterRunStatus, **tags: str) -> None:
    create_run_for_test(
        instance, job, status=status, tags=tags, remote_job_origin=RemoteJobOrigin(REPOSITORY, job)
    )


def put(file: str, home: Home, age: float = 60) -> None:
    path = home.drop / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(file)
    os.utime(path, (time.time() - age, time.time() - age))


# new_files -------------------------------------------------------------------------------------------------


def test_new_files_asks_once_for_each_change(home: Home, instance: dg.DagsterInstance) -> None:
    requests, _, reason = look(sensors.new_files, instance)
    assert not requests and "No file" in reason
    put("web/1.csv", home)
    put("web/2.csv.part", home)
    (request,), _, _ = look(sensors.new_files, instance)
    run(instance, "ingest", dg.DagsterRunStatus.SUCCESS, dict(request.tags))
    requests, _, reason = look(sensors.new_files, instance)
    assert not requests and "same as before" in reason
    put("web/2.csv", home)
    (request,), _, _ = look(sensors.new_files, instance)
    run(instance, "ingest", dg.DagsterRunStatus.SUCCESS, dict(request.tags))
    assert not look(sensors.new_files, instance)[0]
    home.sources.mkdir()
    (home.sources / "web.yaml").write_text("corrected")
    assert len(look(sensors.new_files, instance)[0]) == 1


def test_new_files_waits_for_a_run_at_work(home: Home, instance: dg.DagsterInstance) -> None:
    under_way(instance, "ingest", dg.DagsterRunStatus.QUEUED)
    put("web/1.csv", home)
    requests, _, reason = look(sensors.new_files, instance)
    assert not requests and "being taken in" in reason


def test_files_that_could_not_be_taken_in_are_tried_again(home: Home, instance: dg.DagsterInstance) -> None:
    put("web/1.csv", home)
    now = NOON
    for attempt in range(1, MAX_ATTEMPTS + 1):
        with freeze_time(now):
            (request,), _, _ = look(sensors.new_files, instance)
            run(instance, "ingest", dg.DagsterRunStatus.FAILURE, dict(request.tags))
            assert f"failed {attempt} of {MAX_ATTEMPTS} times" in look(sensors.new_files, instance)[2]
        now += timedelta(minutes=61)
    with freeze_time(now):
        requests, _, reason = look(sensors.new_files, instance)
        assert not requests and "nightshelf backfill" in reason


# missed_nights ---------------------------------------------------------------------------------------------


@pytest.fixture
def noon() -> Iterator[None]:
    with freeze_time(NOON):
        yield


@pytest.fixture
def open_shop(home: Home, instance: dg.DagsterInstance, noon: None) -> Home:
    """Logs have come, and the days before the first night are in tables."""
    put_rows(home, "first", days_between(SHOP.first_day, NOON.date()))
    assert SHOP.first_night is not None
    materialize(instance, LABELS, *days_between(SHOP.first_day, SHOP.first_night - timedelta(days=1)))
    return home


def missed(instance: dg.DagsterInstance) -> list[tuple[str | None, str | None]]:
    """What two looks in a row ask for: (job, partition or window)."""
    first, cursor, _ = look(sensors.missed_nights, instance)
    assert first == [], "one look must not be enough"
    requests, _, _ = look(sensors.missed_nights, instance, cursor)
    return [(r.job_name, r.partition_key or r.tags["nightshelf/asked"]) for r in requests]


def nights(first: int, last: int) -> list[tuple[str | None, str | None]]:
    return [("nightly", str(day)) for day in days_between(date(2026, 1, first), date(2026, 1, last))]


def test_all_missing_nights_are_asked_for_oldest_first(open_shop: Home, instance: dg.DagsterInstance) -> None:
    assert missed(instance) == nights(12, 24)  # more than the five ticks Dagster itself would catch up on
    materialize(instance, SHELF, *days_between(date(2026, 1, 12), date(2026, 1, 20)))
    assert missed(instance) == nights(21, 24)
    materialize(instance, SHELF, *days_between(date(2026, 1, 21), date(2026, 1, 24)))
    requests, _, reason = look(sensors.missed_nights, instance)
    assert not requests and "Every night up to 2026-01-24" in reason


def test_forty_nights_of_downtime_are_made_up_to_the_last(home: Home, instance: dg.DagsterInstance) -> None:
    """All of them asked for at once, oldest first; the queue lets them through one at a time."""
    off = days_between(date(2026, 1, 20), date(2026, 2, 28))
    put_rows(home, "first", days_between(SHOP.first_day, off[-1]))
    materialize(instance, LABELS, *days_between(*jan(5, 11)))
    materialize(instance, SHELF, *days_between(*jan(12, 19)))
    back = datetime(2026, 3, 1, 9, 30, tzinfo=SHOP.zone)
    with freeze_time(back):
        assert missed(instance) == [("nightly", str(day)) for day in off]
        for day in off[:5]:
            under_way(instance, "nightly", dg.DagsterRunStatus.QUEUED, **{"dagster/partition": str(day)})
        materialize(instance, SHELF, *off[5:10])
        assert missed(instance) == [("nightly", str(day)) for day in off[10:]]


def test_nights_wait_where_logs_no_longer_come(home: Home, instance: dg.DagsterInstance, noon: None) -> None:
    put_rows(home, "first", days_between(*jan(5, 15)))
    materialize(instance, LABELS, *days_between(*jan(5, 11)))
    assert missed(instance) == nights(12, 18)  # for three days a shop may be closed, or its tracker broken
    put_rows(home, "later", jan(22))
    assert missed(instance) == nights(12, 24)


def test_nights_begin_when_there_are_days_to_learn_from(
    home: Home, instance: dg.DagsterInstance, noon: None
) -> None:
    put_rows(home, "first", days_between(*jan(20, 24)))
    assert missed(instance) == [("warehouse", "tables-2026-01-20-2026-01-21")]
    materialize(instance, LABELS, *jan(20, 21))
    assert missed(instance) == nights(22, 24)


def test_a_backfill_makes_up_the_tables_that_its_first_night_learns_from(
    home: Home, instance: dg.DagsterInstance
) -> None:
    put_rows(home, "first", days_between(*jan(6, 24)))
    assert lacking_tables(instance, home, date(2026, 1, 20)) == days_between(*jan(6, 19))
    materialize(instance, LABELS, *days_between(*jan(5, 17)))
    assert lacking_tables(instance, home, date(2026, 1, 20)) == jan(18, 19)
    home.write_shop(home.shop.model_copy(update={"history_days": 2}))
    assert lacking_tables(instance, Home(home.root), date(2026, 1, 20)) == jan(19)


def test_a_record_that_begins_anew_does_not_bring_old_nights_back(
    open_shop: Home, instance: dg.DagsterInstance
) -> None:
    for day in days_between(*jan(12, 22)):
        scores = open_shop.scores / str(day)
        scores.mkdir(parents=True)
        (scores / "manifest.json").write_text("{}")
    open_shop.shelves.mkdir()
    for day in jan(20, 21):  # the last two are kept; the shelf of the 22nd could not be published
        (open_shop.shelves / f"{day}-0123456789abcdef.duckdb").touch()
    assert missed(instance) == nights(22, 24)


@pytest.mark.parametrize("job", ["training", "__ASSET_JOB"])
def test_a_day_that_another_run_is_at_is_left_alone(
    open_shop: Home, instance: dg.DagsterInstance, job: str
) -> None:
    under_way(instance, job, dg.DagsterRunStatus.STARTED, **{"dagster/partition": "2026-01-12"})
    assert missed(instance) == nights(13, 24)


@pytest.mark.parametrize(
    ("job", "tags", "reason"),
    [
        ("ingest", {}, "Files are being taken in"),
        ("training", {BACKFILL_TAG: "2026-01-12 to 2026-01-20"}, "A backfill is under way"),
    ],
)
def test_missed_nights_stand_back(
    open_shop: Home, instance: dg.DagsterInstance, job: str, tags: dict[str, str], reason: str
) -> None:
    under_way(instance, job, dg.DagsterRunStatus.STARTED, **tags)
    assert reason in look(sensors.missed_nights, instance)[2]


def test_a_run_that_dagster_tries_again_is_one_attempt(open_shop: Home, instance: dg.DagsterInstance) -> None:
    tags = {"dagster/partition": "2026-01-12"}
    first = run(instance, "nightly", dg.DagsterRunStatus.FAILURE, tags)
    for _ in range(MAX_ATTEMPTS):
        again = create_run_for_test(
            instance, "nightly", status=dg.DagsterRunStatus.STARTED, tags=tags,
            root_run_id=first.run_id, parent_run_id=first.run_id,
        )  # fmt: skip
        instance.report_run_failed(again)
    tried = attempts_of_night(instance, date(2026, 1, 12))
    assert (tried.failed, tried.given_up) == (1, False)


def test_a_gap_in_the_middle_is_found(open_shop: Home, instance: dg.DagsterInstance) -> None:
    days = days_between(date(2026, 1, 12), date(2026, 1, 24))
    materialize(instance, SHELF, *(day for day in days if day.day not in (14, 19)))
    assert missed(instance) == [*nights(14, 14), *nights(19, 19)]


@pytest.mark.parametrize(
    "status", [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
)
def test_a_night_under_way_is_left_alone(
    open_shop: Home, instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    under_way(instance, "nightly", status, **{"dagster/partition": "2026-01-12"})
    assert missed(instance) == nights(13, 24)


def test_before_two_o_clock_yesterday_belongs_to_the_schedule(
    home: Home, instance: dg.DagsterInstance
) -> None:
    put_rows(home, "first", days_between(*jan(5, 24)))
    materialize(instance, LABELS, *days_between(date(2026, 1, 5), date(2026, 1, 11)))
    materialize(instance, SHELF, *days_between(date(2026, 1, 12), date(2026, 1, 23)))
    with freeze_time(datetime(2026, 1, 25, 1, 59, tzinfo=SHOP.zone)):
        assert missed(instance) == []
    with freeze_time(datetime(2026, 1, 25, 2, 1, tzinfo=SHOP.zone)):
        assert missed(instance) == nights(24, 24)


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED])
def test_a_night_that_fails_rests_is_tried_again_and_then_left_to_people(
    open_shop: Home, instance: dg.DagsterInstance, status: dg.DagsterRunStatus
) -> None:
    materialize(instance, SHELF, *days_between(date(2026, 1, 13), date(2026, 1, 24)))
    now = NOON
    for attempt in range(MAX_ATTEMPTS):
        with freeze_time(now):
            assert missed(instance) == nights(12, 12), f"attempt {attempt + 1}"
            run(instance, "nightly", status, {"dagster/partition": "2026-01-12"})
        with freeze_time(now + timedelta(minutes=30)):
            assert missed(instance) == []
        now += timedelta(minutes=61)
    for later in (timedelta(hours=2), timedelta(days=1)):
        with freeze_time(NOON.replace(hour=20) + later - timedelta(hours=2)):
            _, cursor, _ = look(sensors.missed_nights, instance)
            requests, _, reason = look(sensors.missed_nights, instance, cursor)
            assert "2026-01-12" not in [request.partition_key for request in requests]
            if not requests:
                assert "Given up after repeated failures" in reason
                assert "nightshelf night 2026-01-12" in reason


def test_the_days_before_the_first_night_are_brought_into_tables_first(
    home: Home, instance: dg.DagsterInstance, noon: None
) -> None:
    put_rows(home, "first", jan(5, 24))
    assert missed(instance) == [("warehouse", "tables-2026-01-05-2026-01-11")]
    _, cursor, _ = look(sensors.missed_nights, instance)
    requests, _, _ = look(sensors.missed_nights, instance, cursor)
    assert requests[0].tags["dagster/asset_partition_range_start"] == "2026-01-05"
    assert requests[0].tags["dagster/asset_partition_range_end"] == "2026-01-11"
    at_work = run(instance, "warehouse", dg.DagsterRunStatus.STARTED, dict(requests[0].tags))
    assert missed(instance) == []
    materialize(instance, EVENTS, *days_between(date(2026, 1, 5), date(2026, 1, 11)))
    instance.report_run_failed(at_work)
    assert missed(instance) == []  # rows alone are no tables
    with freeze_time(NOON + timedelta(minutes=61)):
        assert missed(instance) == [("warehouse", "tables-2026-01-05-2026-01-11")]
    at_work = run(instance, "warehouse", dg.DagsterRunStatus.STARTED, dict(requests[0].tags))
    materialize(instance, LABELS, *days_between(date(2026, 1, 5), date(2026, 1, 11)))
    assert missed(instance) == []  # the tables are not finished before the run is
    instance.report_run_failed(at_work)
    assert missed(instance) == nights(12, 24)


def test_an_empty_shop_asks_for_nothing(home: Home, instance: dg.DagsterInstance, noon: None) -> None:
    requests, _, reason = look(sensors.missed_nights, instance)
    assert not requests and "Every night up to 2026-01-24 that has logs" in reason


@pytest.mark.parametrize("launched_from", ["job", "graph"])
def test_a_backfill_of_shelves_is_waited_for(
    open_shop: Home, instance: dg.DagsterInstance, launched_from: str
) -> None:
    what = {
        "job": {
            "partition_set_origin": RemotePartitionSetOrigin(
                repository_origin=REPOSITORY, partition_set_name="nightly_partition_set"
            ),
            "partition_names": ["2026-01-12"],
        },
        "graph": {"asset_selection": [SHELF, dg.AssetKey("scored_recommendations")]},
    }[launched_from]
    backfill = PartitionBackfill(
        backfill_id="b",
        status=BulkActionStatus.REQUESTED,
        from_failure=False,
        tags={},
        backfill_timestamp=time.time(),
        **what,
    )
    instance.add_backfill(backfill)
    assert "backfill is under way" in look(sensors.missed_nights, instance)[2]
    instance.update_backfill(backfill.with_status(BulkActionStatus.COMPLETED_SUCCESS))
    assert missed(instance) == nights(12, 24)


# late_rows -------------------------------------------------------------------------------------------------


def versions_now(home: Home, *days: date) -> Iterator[tuple[date, str]]:
    yield from day_versions(home, days).items()


def made(home: Home, instance: dg.DagsterInstance, *days: date) -> None:
    """These days' tables were made from the rows that lie there now."""
    for day, version in versions_now(home, *days):
        materialize(instance, EVENTS, day, tags={DATA_VERSION_TAG: version})
        materialize(instance, LABELS, day)


def load(home: Home, load_id: str, *days: date) -> None:
    """Rows of these days come into the raw zone, by the real reader of a real file."""
    put_rows(home, load_id, days)


def late(instance: dg.DagsterInstance) -> list[tuple[str, str]]:
    requests, _, _ = look(sensors.late_rows, instance)
    return [
        (r.tags["dagster/asset_partition_range_start"], r.tags["dagster/asset_partition_range_end"])
        for r in requests
    ]


def jan(*days: int) -> Sequence[date]:
    return [date(2026, 1, day) for day in days]


def test_late_rows_ask_for_their_day_and_the_days_that_look_back_on_it(
    home: Home, instance: dg.DagsterInstance
) -> None:
    load(home, "first", *jan(5, 6, 20))
    made(home, instance, *days_between(*jan(5, 22)))
    assert late(instance) == []
    load(home, "late", *jan(6))
    assert late(instance) == [("2026-01-06", "2026-01-13")]
    load(home, "later", *jan(20))  # the days that look back end where the made days end
    assert late(instance) == [("2026-01-06", "2026-01-13"), ("2026-01-20", "2026-01-22")]
    made(home, instance, *days_between(*jan(6, 13)))
    assert late(instance) == [("2026-01-20", "2026-01-22")]


def test_days_never_made_are_not_late(home: Home, instance: dg.DagsterInstance) -> None:
    load(home, "first", *jan(5, 6))
    made(home, instance, *jan(5))
    load(home, "second", *jan(6, 7))
    assert late(instance) == []


def test_rows_recorded_but_not_brought_into_labels_are_asked_for(
    home: Home, instance: dg.DagsterInstance
) -> None:
    load(home, "first", *jan(5))
    made(home, instance, *jan(5))
    load(home, "late", *jan(5))
    for day, version in versions_now(home, *jan(5)):
        materialize(instance, EVENTS, day, tags={DATA_VERSION_TAG: version})
    assert late(instance) == [("2026-01-05", "2026-01-05")]


def test_late_rows_wait_for_runs_at_work_and_give_up_in_the_end(
    home: Home, instance: dg.DagsterInstance
) -> None:
    load(home, "first", *jan(5))
    made(home, instance, *jan(5))
    load(home, "late", *jan(5))
    at_work = run(instance, "nightly", dg.DagsterRunStatus.STARTED, {"dagster/partition": "2026-01-05"})
    assert late(instance) == []
    instance.report_run_failed(at_work)
    now = datetime.now(SHOP.zone)
    for _ in range(MAX_ATTEMPTS):
        with freeze_time(now):
            (request,), _, _ = look(sensors.late_rows, instance)
            run(instance, "warehouse", dg.DagsterRunStatus.FAILURE, dict(request.tags))
            assert late(instance) == []
        now += timedelta(minutes=61)
    with freeze_time(now):
        requests, _, reason = look(sensors.late_rows, instance)
        assert not requests and "nightshelf backfill 2026-01-05 2026-01-05 --tables" in reason
        load(home, "yet another", *jan(5))
        assert late(instance) == [("2026-01-05", "2026-01-05")]


def test_what_became_of_a_shelf_is_measured_again_when_the_day_is_complete(
    home: Home, instance: dg.DagsterInstance
) -> None:
    load(home, "first", *jan(5, 6))
    made(home, instance, *jan(5, 6))
    materialize(instance, OUTCOMES, *jan(6))
    assert look(sensors.late_rows, instance)[0] == []
    load(home, "late", *jan(6))
    assert late(instance) == [("2026-01-06", "2026-01-06")]  # the tables first
    made(home, instance, *jan(6))
    (request,), _, _ = look(sensors.late_rows, instance)
    assert (request.job_name, request.partition_key) == ("outcomes", "2026-01-06")
    run(instance, "outcomes", dg.DagsterRunStatus.STARTED, dict(request.tags))
    assert look(sensors.late_rows, instance)[0] == []
    materialize(instance, OUTCOMES, *jan(6))
    assert look(sensors.late_rows, instance)[0] == []


# windows ----------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 60), min_size=1))
def test_windows_hold_exactly_the_days_and_never_touch(offsets: set[int]) -> None:
    days = {date(2026, 1, 1) + timedelta(days=n) for n in offsets}
    windows = in_windows(days)
    assert {day for first, last in windows for day in days_between(first, last)} == days
    for (_, last), (first, _) in pairwise(windows):
        assert first - last > timedelta(days=1)
