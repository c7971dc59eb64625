"""Which nights there should be, which there are, and what has been tried.

Asked by the schedule, by the sensors and by `nightshelf status`, so that all three mean the same. Everything
is read from the instance's own record; nothing is remembered aside, so nothing can slip.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta

import dagster as dg
from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus
from dagster._core.storage.dagster_run import FINISHED_STATUSES, DagsterRunStatus
from dagster._core.storage.tags import PARTITION_NAME_TAG

from resources.home import Shop

SHELF = dg.AssetKey("published_shelf")
EVENTS = dg.AssetKey("raw_behavior_events")
LABELS = dg.AssetKey(["labels", "lbl_behaviors"])
NIGHT_BEGINS = time(2, 0)
"""When the schedule runs the night of the day before, on the shop's clock."""

MAX_ATTEMPTS = 3
PAUSE = timedelta(hours=1)
"""Between a failed attempt and the next one that a sensor asks for."""

ACTIVE = [status for status in DagsterRunStatus if status not in FINISHED_STATUSES]


def days_between(first: date, last: date) -> list[date]:
    """`first` to `last`, both included; empty where `last` lies before `first`."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def first_night(shop: Shop) -> date:
    """The first day that gets a model and a shelf; the shop's settings always have one."""
    return shop.first_night or shop.first_day + timedelta(days=7)


def last_ended_day(shop: Shop, now: datetime) -> date:
    """The newest day that is over on the shop's clock."""
    yesterday = now.astimezone(shop.zone).date() - timedelta(days=1)
    return min(yesterday, shop.last_day) if shop.last_day else yesterday


def last_due_night(shop: Shop, now: datetime) -> date:
    """The newest day whose night the schedule has already had its turn to run."""
    had_its_turn = now.astimezone(shop.zone).time() >= NIGHT_BEGINS
    return last_ended_day(shop, now if had_its_turn else now - timedelta(days=1))


def materialized_days(instance: dg.DagsterInstance, key: dg.AssetKey) -> set[date]:
    return {date.fromisoformat(day) for day in instance.get_materialized_partitions(key)}


@dataclass(frozen=True)
class Attempts:
    """Runs on record for one purpose."""

    active: int
    succeeded: int
    failed: int
    last_ended: datetime | None

    @property
    def given_up(self) -> bool:
        return self.failed >= MAX_ATTEMPTS

    def may_try(self, now: datetime) -> bool:
        """Nothing under way, attempts left, and the pause after the last one over."""
        rested = self.last_ended is None or now - self.last_ended >= PAUSE
        return not self.active and not self.given_up and (rested or not self.failed)


def attempts(instance: dg.DagsterInstance, job: str, tags: dict[str, str]) -> Attempts:
    """Runs of `job` that carry all `tags`; a cancelled run counts as one that failed."""
    records = instance.get_run_records(dg.RunsFilter(job_name=job, tags=tags))
    statuses = [record.dagster_run.status for record in records]
    ended = [record.end_time for record in records if record.end_time]
    active = sum(status not in FINISHED_STATUSES for status in statuses)
    succeeded = statuses.count(DagsterRunStatus.SUCCESS)
    return Attempts(
        active=active,
        succeeded=succeeded,
        failed=len(statuses) - active - succeeded,
        last_ended=datetime.fromtimestamp(max(ended)).astimezone() if ended else None,
    )


def attempts_of_night(instance: dg.DagsterInstance, day: date) -> Attempts:
    return attempts(instance, "nightly", {PARTITION_NAME_TAG: day.isoformat()})


def missing_nights(instance: dg.DagsterInstance, shop: Shop, last: date) -> list[date]:
    """Nights from the first one to `last` that never published a shelf, oldest first."""
    made = materialized_days(instance, SHELF)
    return [day for day in days_between(first_night(shop), last) if day not in made]


def missing_tables(instance: dg.DagsterInstance, shop: Shop, last: date) -> list[date]:
    """Days before the first night, up to `last`, whose logs were never brought into tables, oldest first."""
    made = materialized_days(instance, EVENTS)
    early = days_between(shop.first_day, min(last, first_night(shop) - timedelta(days=1)))
    return [day for day in early if day not in made]


def backfilled_now(instance: dg.DagsterInstance) -> bool:
    """Whether a backfill that somebody started is still at work on shelves."""
    under_way = instance.get_backfills(
        BulkActionsFilter(statuses=[BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING])
    )
    return any(
        SHELF in (backfill.asset_selection or []) or backfill.partition_set_name == "nightly_partition_set"
        for backfill in under_way
    )


def in_windows(days: Iterable[date]) -> list[tuple[date, date]]:
    """Neighbouring days joined: [1, 2, 3, 7] → [(1, 3), (7, 7)]."""
    windows: list[tuple[date, date]] = []
    for day in sorted(set(days)):
        if windows and day <= windows[-1][1] + timedelta(days=1):
            windows[-1] = (windows[-1][0], day)
        else:
            windows.append((day, day))
    return windows


def in_words(days: Sequence[date]) -> str:
    """Dates as windows: "2026-01-05 to 2026-01-08, 2026-01-10"."""
    return ", ".join(
        str(first) if first == last else f"{first} to {last}" for first, last in in_windows(days)
    )
