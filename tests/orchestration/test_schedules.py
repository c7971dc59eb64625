"""Every day of the shop gets its night once, also where a day has 23 or 25 hours."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test
from dagster._utils.schedules import schedule_execution_time_iterator

from orchestration.definitions import defs
from orchestration.nights import SHELF, days_between
from orchestration.schedules import nightly_schedule

BERLIN = ZoneInfo("Europe/Berlin")


def ticks(first: datetime, last: datetime) -> list[datetime]:
    """Real ticks of the schedule, as the daemon computes them."""
    found = []
    for tick in schedule_execution_time_iterator(
        first.timestamp(), nightly_schedule.cron_schedule, nightly_schedule.execution_timezone
    ):
        if tick > last:
            return found
        found.append(tick)
    return found


def asked(tick: datetime, instance: dg.DagsterInstance) -> list[str | None]:
    context = dg.build_schedule_context(
        instance=instance, scheduled_execution_time=tick, repository_def=defs.get_repository_def()
    )
    data = nightly_schedule.evaluate_tick(context)
    return [request.partition_key for request in data.run_requests or []]


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (date(2026, 3, 26), date(2026, 4, 2)),  # 29 March has 23 hours, and no two o'clock
        (date(2026, 10, 22), date(2026, 10, 29)),  # 25 October has 25, and two o'clock twice
        (date(2026, 2, 26), date(2026, 3, 3)),
        (date(2026, 12, 29), date(2027, 1, 3)),
    ],
)
def test_every_day_once(first: date, last: date, instance: dg.DagsterInstance) -> None:
    begin = datetime(first.year, first.month, first.day, tzinfo=BERLIN)
    end = datetime(last.year, last.month, last.day, 23, 59, tzinfo=BERLIN)
    days = [day for tick in ticks(begin, end) for day in asked(tick, instance)]
    yesterdays = days_between(first - timedelta(days=1), last - timedelta(days=1))
    assert days == [day.isoformat() for day in yesterdays]


def test_the_night_runs_after_the_day_is_over(instance: dg.DagsterInstance) -> None:
    for tick in ticks(datetime(2026, 3, 27, tzinfo=BERLIN), datetime(2026, 3, 31, tzinfo=BERLIN)):
        (day,) = asked(tick, instance)
        ended = datetime.fromisoformat(str(day)).replace(tzinfo=BERLIN) + timedelta(days=1)
        assert timedelta(0) < tick.astimezone(UTC) - ended.astimezone(UTC) <= timedelta(hours=3)


def test_a_night_that_is_there_is_not_run_again(instance: dg.DagsterInstance) -> None:
    tick = datetime(2026, 2, 2, 2, tzinfo=BERLIN)
    assert asked(tick, instance) == ["2026-02-01"]
    instance.report_runless_asset_event(dg.AssetMaterialization(SHELF, partition="2026-02-01"))
    assert asked(tick, instance) == []
    assert asked(tick + timedelta(days=1), instance) == ["2026-02-02"]


def test_a_night_under_way_is_not_run_twice(instance: dg.DagsterInstance) -> None:
    tick = datetime(2026, 2, 2, 2, tzinfo=BERLIN)
    create_run_for_test(
        instance, "nightly", status=dg.DagsterRunStatus.STARTING, tags={"dagster/partition": "2026-02-01"}
    )
    assert asked(tick, instance) == []


def test_days_before_the_first_night_get_no_night(instance: dg.DagsterInstance) -> None:
    assert asked(datetime(2026, 1, 8, 2, tzinfo=BERLIN), instance) == []
    assert asked(datetime(2026, 1, 13, 2, tzinfo=BERLIN), instance) == ["2026-01-12"]
