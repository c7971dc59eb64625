"""A day of the shop is one thing: to the calendar, the partitions, the schedule, the sensors, the raw zone.

Berlin, New York, Lord Howe (whose clocks move by half an hour), Kolkata and UTC; spring, autumn, leap day,
the turn of the year; publishers' and this machine's own clocks that are wrong by thirty days.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.scheduler.instigation import InstigatorState, InstigatorTick
from dagster._core.test_utils import freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.utils import make_new_run_id
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.sensor import execute_sensor_iteration
from dagster._utils.error import SerializableErrorInfo
from dagster._utils.schedules import schedule_execution_time_iterator
from hypothesis import example, given, settings
from hypothesis import strategies as st

from assets.logs.raw_zone import days_of_loads, take_in_all
from assets.partitions import nights_of
from orchestration import schedules, sensors
from orchestration.definitions import defs
from orchestration.instance import instance_of, prepare_instance
from orchestration.nights import (
    BLIND,
    MAX_ATTEMPTS,
    NIGHT_BEGINS,
    PAUSE,
    SHELF,
    attempts_of_night,
    days_between,
    last_due_night,
    last_ended_day,
    turn,
)
from orchestration.schedules import nightly_schedule
from resources.home import Home, Shop
from tests.orchestration.raw import HEADER, put_rows
from tests.orchestration.test_sensors import look, materialize

ROOT = Path(__file__).parents[2]
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC")
CRON = f"{NIGHT_BEGINS.minute} {NIGHT_BEGINS.hour} * * *"
FIRST, LAST = date(2026, 1, 1), date(2028, 12, 31)
"""Three years, of which the last has a leap day."""

MOMENTS = {
    "spring in Berlin": datetime(2026, 3, 29, 1, tzinfo=UTC),
    "autumn in Berlin": datetime(2026, 10, 25, 1, tzinfo=UTC),
    "spring in New York": datetime(2026, 3, 8, 7, tzinfo=UTC),
    "autumn in New York": datetime(2026, 11, 1, 6, tzinfo=UTC),
    "spring on Lord Howe": datetime(2026, 10, 3, 15, 30, tzinfo=UTC),
    "autumn on Lord Howe": datetime(2026, 4, 4, 15, tzinfo=UTC),
    "leap day": datetime(2028, 2, 29, 0, tzinfo=UTC),
    "turn of the year": datetime(2027, 1, 1, 0, tzinfo=UTC),
}
"""Around which something could go wrong. At the first six, clocks are moved."""

zones = st.sampled_from(ZONES)
near = st.builds(
    lambda moment, seconds: moment + timedelta(seconds=seconds),
    st.sampled_from(list(MOMENTS.values())),
    st.integers(-36 * 3600, 36 * 3600),
)
"""Moments within a day and a half of them."""
anytime = st.datetimes(datetime(2026, 1, 3), datetime(2028, 12, 30), timezones=st.just(UTC))
moments = near | anytime


def shop_in(zone: str) -> Shop:
    return Shop(timezone=zone, first_day=FIRST, first_night=FIRST + timedelta(days=7))


def test_clocks_are_moved_at_the_moments_we_believe() -> None:
    for (name, moment), zone in zip(MOMENTS.items(), [z for z in ZONES[:3] for _ in range(2)], strict=False):
        before, after = ((moment + timedelta(seconds=s)).astimezone(ZoneInfo(zone)) for s in (-1, 0))
        assert before.utcoffset() != after.utcoffset(), name


# Partitions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ZONES)
def test_partitions_are_the_days_of_the_shop_without_gap_or_overlap(zone: str) -> None:
    partitions = nights_of(shop_in(zone))
    end = datetime(2029, 1, 1, tzinfo=ZoneInfo(zone))
    keys = partitions.get_partition_keys(current_time=end)
    assert keys == [str(day) for day in days_between(FIRST, LAST)]
    assert "2028-02-29" in keys
    windows = [partitions.time_window_for_partition_key(key) for key in keys]
    assert all(one.end.timestamp() == other.start.timestamp() for one, other in pairwise(windows))
    for key, window in zip(keys, windows, strict=True):
        assert window.start.astimezone(ZoneInfo(zone)).isoformat()[:19] == f"{key}T00:00:00"
    hours = {(window.end.timestamp() - window.start.timestamp()) / 3600 for window in windows}
    assert hours == {
        "Europe/Berlin": {23, 24, 25},
        "America/New_York": {23, 24, 25},
        "Australia/Lord_Howe": {23.5, 24, 24.5},
    }.get(zone, {24})


@given(zone=zones, now=moments)
@settings(max_examples=50)
def test_every_moment_lies_in_the_partition_of_its_day_on_the_shops_clock(zone: str, now: datetime) -> None:
    day = now.astimezone(ZoneInfo(zone)).date()
    partitions = nights_of(shop_in(zone))
    window = partitions.time_window_for_partition_key(str(day))
    assert window.start.timestamp() <= now.timestamp() < window.end.timestamp()
    assert last_ended_day(shop_in(zone), now) == day - timedelta(days=1)


@pytest.mark.parametrize("zone", ZONES)
def test_the_newest_partition_is_the_newest_day_that_is_over(zone: str) -> None:
    shop = shop_in(zone)
    for moment in MOMENTS.values():
        for hours in (-1, 0, 0.5, 1):
            now = moment + timedelta(hours=hours)
            with freeze_time(now):
                assert nights_of(shop).get_last_partition_key() == str(last_ended_day(shop, now))


# Schedule and sensors --------------------------------------------------------------------------------------


def ticks(zone: str, first: date, last: date) -> list[datetime]:
    """As the daemon computes them, from midnight of the first day to that after the last."""
    begin = datetime(first.year, first.month, first.day, tzinfo=ZoneInfo(zone))
    end = datetime(last.year, last.month, last.day, tzinfo=ZoneInfo(zone)) + timedelta(days=1)
    found = []
    for tick in schedule_execution_time_iterator(begin.timestamp(), CRON, zone):
        if tick >= end:
            return found
        found.append(tick)
    return found


@pytest.mark.parametrize("zone", ZONES)
def test_the_schedule_ticks_once_for_every_day_after_that_day_is_over(zone: str) -> None:
    shop = shop_in(zone)
    found = ticks(zone, FIRST, LAST)
    days = [tick.astimezone(shop.zone).date() for tick in found]
    assert days == days_between(FIRST, LAST)
    for day, tick in zip(days, found, strict=True):
        # Our own account of when it has its turn is the daemon's, to the second.
        assert turn(shop, day) == tick.astimezone(UTC)
        assert last_ended_day(shop, tick) == day - timedelta(days=1)
        assert last_due_night(shop, tick) == day - timedelta(days=1)
        before = tick.astimezone(UTC) - timedelta(seconds=1)
        assert last_due_night(shop, before) == day - timedelta(days=2)


@given(zone=zones, now=moments)
# An hour after midnight of the day after a day of 23 hours, and in the hour that comes twice.
@example(zone="Europe/Berlin", now=datetime(2026, 3, 29, 22, 30, tzinfo=UTC))
@example(zone="Europe/Berlin", now=datetime(2026, 10, 25, 0, 30, tzinfo=UTC))
@example(zone="Australia/Lord_Howe", now=datetime(2026, 4, 4, 15, 15, tzinfo=UTC))
def test_the_night_due_is_that_of_the_schedules_last_tick(zone: str, now: datetime) -> None:
    shop = shop_in(zone)
    today = now.astimezone(shop.zone).date()
    last = max(t for t in ticks(zone, today - timedelta(days=2), today) if t <= now)
    assert last_due_night(shop, now) == last.astimezone(shop.zone).date() - timedelta(days=1)
    later = now + timedelta(minutes=10)
    assert last_due_night(shop, later) >= last_due_night(shop, now)  # it never goes back


@pytest.mark.soak
@pytest.mark.parametrize("moved", [date(2026, 3, 29), date(2026, 10, 25)])
def test_schedule_and_sensor_ask_for_each_night_once_between_them(
    home: Home, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, moved: date
) -> None:
    """The daemon is off the night before clocks are moved, and looks often at all that follows."""
    shop = sensors.SHOP.model_copy(update={"first_night": moved - timedelta(days=2)})
    home.write_shop(shop)
    for module in (schedules, sensors):
        monkeypatch.setattr(module, "SHOP", shop)
    days = days_between(moved - timedelta(days=2), moved + timedelta(days=1))
    put_rows(home, "all", days_between(moved - timedelta(days=6), days[-1]))
    materialize(instance, sensors.LABELS, *days_between(shop.first_day, moved - timedelta(days=3)))
    asked: list[str] = []
    cursor = None
    for day in (moved, *days_between(moved + timedelta(days=1), days[-1] + timedelta(days=1))):
        seen_until = turn(shop, day) - timedelta(minutes=100)
        for minutes in (-90, -61, -59, -31, -29, -1, 1, 4, 29, 31, 59, 61):
            now = turn(shop, day) + timedelta(minutes=minutes)
            with freeze_time(now):
                due = [tick for tick in ticks(shop.timezone, day, day) if seen_until < tick <= now]
                wanted = asked_by_schedule(instance, due)
                requests, cursor, _ = look(sensors.missed_nights, instance, cursor)
            wanted += [str(request.partition_key) for request in requests]
            materialize(instance, SHELF, *map(date.fromisoformat, wanted))
            asked, seen_until = asked + wanted, now
    assert asked == [str(day) for day in days]


def asked_by_schedule(instance: dg.DagsterInstance, due: Sequence[datetime]) -> list[str]:
    found = [nightly_schedule.evaluate_tick(at_tick(instance, tick)).run_requests or [] for tick in due]
    return [str(request.partition_key) for requests in found for request in requests]


def at_tick(instance: dg.DagsterInstance, tick: datetime) -> dg.ScheduleEvaluationContext:
    return dg.build_schedule_context(
        instance=instance, scheduled_execution_time=tick, repository_def=defs.get_repository_def()
    )


# Rows ------------------------------------------------------------------------------------------------------


def file_of(home: Home, name: str, times: list[str]) -> None:
    file = home.drop / "nightshelf_csv" / f"{name}.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{name}-{n},{time},u{n},s{n},i1,click,9.90," for n, time in enumerate(times)]
    file.write_text("\n".join([HEADER, *rows]) + "\n")
    os.utime(file, (0, 0))  # not touched for long, so whole


def days_read(home: Home) -> dict[str, tuple[datetime, date]]:
    """{event id: (UTC, day)} of what the raw zone holds."""
    import duckdb

    with duckdb.connect() as db:
        rows = db.execute(
            "SELECT event_id, event_at, day FROM read_parquet($1, hive_partitioning = true)",
            [f"{home.loads}/*/events/*/*.parquet"],
        ).fetchall()
    return {name: (at.replace(tzinfo=UTC), day) for name, at, day in rows}


@pytest.mark.parametrize(
    "zone",
    [
        ZONES[2],
        *(pytest.param(zone, marks=pytest.mark.soak) for zone in (*ZONES[:2], *ZONES[3:])),
    ],
)
def test_rows_fall_into_the_day_of_the_shop_with_and_without_offset(home: Home, zone: str) -> None:
    home.write_shop(shop_in(zone))
    shop = home.shop
    minutes = (-1441, -721, -181, -61, -31, -16, -1, 0, 1, 14, 29, 59, 61, 179, 719, 1439)
    instants = [moment + timedelta(minutes=m) for moment in MOMENTS.values() for m in minutes]
    instants += [
        datetime(at.year, at.month, at.day, tzinfo=shop.zone).astimezone(UTC) + timedelta(seconds=s)
        for at in instants
        for s in (-1, 0)
    ]
    instants = [at for at in sorted(set(instants)) if at < datetime.now(UTC)]
    file_of(home, "utc", [at.isoformat() for at in instants])
    file_of(home, "offset", [at.astimezone(shop.zone).isoformat() for at in instants])
    file_of(home, "far", [at.astimezone(ZoneInfo("Pacific/Kiritimati")).isoformat() for at in instants])
    file_of(home, "clock", [at.astimezone(shop.zone).replace(tzinfo=None).isoformat() for at in instants])
    outcomes = take_in_all(home)
    assert [outcome.status for outcome in outcomes] == ["loaded"] * 4, outcomes
    found, partitions = days_read(home), nights_of(shop)
    for n, at in enumerate(instants):
        day = at.astimezone(shop.zone).date()
        for name in ("utc", "offset", "far"):
            assert found[f"{name}-{n}"] == (at, day)
        window = partitions.time_window_for_partition_key(str(day))
        assert window.start.timestamp() <= at.timestamp() < window.end.timestamp()
        # A clock without offset is read as the shop's; of the hour that comes twice nobody can tell which.
        read, on = found[f"clock-{n}"]
        shown = at.astimezone(shop.zone).replace(tzinfo=None)
        assert read.astimezone(shop.zone).replace(tzinfo=None) == shown
        assert on == day
    assert days_of_loads(home).keys() == {at.astimezone(shop.zone).date() for at in instants}


# Clocks that are wrong -------------------------------------------------------------------------------------


def test_events_of_clocks_wrong_by_thirty_days_are_refused_ahead_and_kept_behind(home: Home) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    skewed = [now + timedelta(days=days) for days in (-30, -29, 0, 1, 2, 29, 30)]
    file_of(home, "skewed", [at.isoformat() for at in skewed])
    (outcome,) = take_in_all(home)
    assert (outcome.status, outcome.rows_loaded, outcome.rows_refused) == ("partly_loaded", 4, 3)
    kept = [at.astimezone(home.shop.zone).date() for at in skewed[:4]]
    assert set(days_of_loads(home)) == set(kept)  # each in its own day, where it is a late row
    import duckdb

    with duckdb.connect() as db:
        refused = db.execute(
            "SELECT line, reason, field, detail FROM read_parquet($1) ORDER BY line",
            [f"{home.loads}/{outcome.load_id}/rejects.parquet"],
        ).fetchall()
    tomorrow = (now.astimezone(home.shop.zone) + timedelta(days=1)).date()
    assert [(line, reason, field) for line, reason, field, _ in refused] == [
        (line, "outside_window", "event_time") for line in (6, 7, 8)
    ]
    assert all(f"outside 1990-01-01 to {tomorrow}" in detail for *_, detail in refused)


@pytest.fixture(scope="module")
def three_weeks(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Rows of 5 to 24 January."""
    home = Home(tmp_path_factory.mktemp("rows") / "home")
    home.write_shop(sensors.SHOP)
    put_rows(home, "all", days_between(date(2026, 1, 5), date(2026, 1, 24)))
    return home


@pytest.fixture
def running_shop(home: Home, instance: dg.DagsterInstance, three_weeks: Home) -> Home:
    """Open since 5 January, all nights up to that of the 24th there."""
    shutil.copytree(three_weeks.root, home.root, dirs_exist_ok=True)
    materialize(instance, sensors.LABELS, *days_between(date(2026, 1, 5), date(2026, 1, 24)))
    materialize(instance, SHELF, *days_between(date(2026, 1, 12), date(2026, 1, 24)))
    return home


NOON = datetime(2026, 1, 25, 12, tzinfo=sensors.SHOP.zone)
AHEAD = NOON + timedelta(days=30)


def asked_by_sensor(instance: dg.DagsterInstance) -> list[str | None]:
    _, cursor, _ = look(sensors.missed_nights, instance)
    return [request.partition_key for request in look(sensors.missed_nights, instance, cursor)[0]]


def test_a_clock_that_is_ahead_makes_no_shelves_of_days_that_have_not_been(
    running_shop: Home, instance: dg.DagsterInstance
) -> None:
    with freeze_time(AHEAD):
        asked = asked_by_sensor(instance)
        tick = ticks("Europe/Berlin", AHEAD.date(), AHEAD.date())[0]
        skipped = nightly_schedule.evaluate_tick(at_tick(instance, tick))
    assert asked == [str(day) for day in days_between(date(2026, 1, 25), date(2026, 1, 24) + BLIND)]
    assert not skipped.run_requests
    assert "The newest day with rows is 2026-01-24" in str(skipped.skip_message)
    assert "clock right" in str(skipped.skip_message)


def test_once_a_clock_is_right_again_nothing_waits_for_the_time_it_showed(
    running_shop: Home, instance: dg.DagsterInstance
) -> None:
    night = {"dagster/partition": "2026-01-25"}
    put_rows(running_shop, "next", [date(2026, 1, 25)])
    with freeze_time(AHEAD):
        assert attempts_of_night(instance, date(2026, 1, 25)).may_try(AHEAD)
        failed = dg.DagsterRun(job_name="nightly", run_id=make_new_run_id(), tags=night)
        instance.add_run(failed)
        instance.report_run_failed(failed)
        assert not attempts_of_night(instance, date(2026, 1, 25)).may_try(AHEAD + PAUSE / 2)
    right = NOON + timedelta(days=1)
    with freeze_time(right):
        tried = attempts_of_night(instance, date(2026, 1, 25))
        assert tried.last_ended is not None and tried.last_ended > right and tried.failed < MAX_ATTEMPTS
        assert tried.may_try(right)
        assert asked_by_sensor(instance) == ["2026-01-25"]


def test_sensors_that_ticked_in_the_future_tick_again_after_any_command(running_shop: Home) -> None:
    """By the daemon's own iteration over our own sensors."""
    prepare_instance(running_shop)
    with instance_of(running_shop) as real, daemon_workspace(real) as workspace:
        with freeze_time(AHEAD):
            assert ticked(workspace) == {sensor.name for sensor in sensors.sensors}
        with freeze_time(NOON):
            assert ticked(workspace) == set()  # this is what Dagster does: it would wait for thirty days
            prepare_instance(running_shop)
            assert ticked(workspace) == {sensor.name for sensor in sensors.sensors}
            prepare_instance(running_shop)
            assert ticked(workspace) == set()  # no sooner than after their interval


@contextmanager
def daemon_workspace(real: dg.DagsterInstance) -> Iterator[WorkspaceProcessContext]:
    """What a daemon works on, the code location in this process."""
    origin = InProcessCodeLocationOrigin(
        LoadableTargetOrigin(
            executable_path=sys.executable,
            module_name="orchestration.definitions",
            working_directory=str(ROOT),
        ),
        location_name="nightshelf",
    )
    with WorkspaceProcessContext(real, InProcessWorkspaceLoadTarget(origin)) as workspace:
        yield workspace


def ticked(workspace: WorkspaceProcessContext) -> set[str]:
    """The sensors that tick in one iteration of the daemon."""
    log = logging.getLogger("silent")
    log.setLevel(logging.CRITICAL)
    real = workspace.instance
    before = {state.instigator_name: len(ticks_of(real, state)) for state in real.all_instigator_state()}
    for error in execute_sensor_iteration(workspace, log, None, None):
        assert error is None or not isinstance(error, SerializableErrorInfo), error
    return {
        state.instigator_name
        for state in real.all_instigator_state()
        if len(ticks_of(real, state)) > before.get(state.instigator_name, 0)
    }


def ticks_of(real: dg.DagsterInstance, state: InstigatorState) -> Sequence[InstigatorTick]:
    return real.get_ticks(state.instigator_origin_id, state.selector_id)


# The real thing, in processes of their own -----------------------------------------------------------------

YEARS = """
import json, sys
from datetime import UTC, date, datetime, timedelta
import dagster as dg
from dagster._utils.schedules import schedule_execution_time_iterator
from assets.partitions import SHOP, nights
from orchestration.definitions import defs
schedule = defs.resolve_schedule_def("nightly")
begin = datetime(2026, 1, 9, tzinfo=SHOP.zone).timestamp()
asked = []
with dg.DagsterInstance.local_temp() as instance:
    for tick in schedule_execution_time_iterator(begin, schedule.cron_schedule, schedule.execution_timezone):
        if tick.year == 2029:
            break
        context = dg.build_schedule_context(
            instance=instance, scheduled_execution_time=tick, repository_def=defs.get_repository_def()
        )
        context._instance = instance  # else each of a thousand ticks opens it anew, for a fifth of a second
        asked += [r.partition_key for r in schedule.evaluate_tick(context).run_requests or []]
keys = nights.get_partition_keys(current_time=datetime(2029, 1, 1, tzinfo=SHOP.zone))
json.dump({"zone": schedule.execution_timezone, "asked": asked, "keys": keys}, sys.stdout)
"""


@pytest.mark.soak
@pytest.mark.parametrize("zone", ZONES)
def test_three_years_of_nights_in_a_shop_of_that_zone(tmp_path: Path, zone: str) -> None:
    home = Home(tmp_path / "home")
    home.write_shop(shop_in(zone))
    done = subprocess.run(
        [sys.executable, "-c", YEARS],
        cwd=ROOT,
        env=os.environ | {"NIGHTSHELF_HOME": str(home.root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["zone"] == zone
    assert found["asked"] == [str(day) for day in days_between(FIRST + timedelta(days=7), date(2028, 12, 30))]
    assert found["keys"] == [str(day) for day in days_between(FIRST, LAST)]
