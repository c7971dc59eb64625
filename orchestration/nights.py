"""Which nights there should be, which there are, and what has been tried.

Asked by the schedule, by the sensors and by `nightshelf status`, so that all three mean the same. Everything
is read from the instance's own record; nothing is remembered aside, so nothing can slip.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import cast

import dagster as dg
from dagster._core.storage.dagster_run import FINISHED_STATUSES, DagsterRunStatus
from dagster._core.storage.tags import PARTITION_NAME_TAG

from resources.home import Home, Shop

SHELF = dg.AssetKey("published_shelf")
EVENTS = dg.AssetKey("raw_behavior_events")
LABELS = dg.AssetKey(["labels", "lbl_behaviors"])
OUTCOMES = dg.AssetKey("recommendation_outcomes")
NIGHT_BEGINS = time(2, 0)
"""When the schedule runs the night of the day before, on the shop's clock."""

BACKFILL_TAG = "nightshelf/backfill"
"""Run tag of what `nightshelf backfill` runs: its first and last day."""

MAX_ATTEMPTS = 3
PAUSE = timedelta(hours=1)
"""Between a failed attempt and the next one that a sensor asks for."""

LEARN_FROM = timedelta(days=2)
"""Days with rows that there must be before the first model can be trained."""

BLIND = timedelta(days=3)
"""So long after the newest day with rows nights go on without any. After that, logs no longer come, or this
machine's clock is ahead: a shelf of a day that has not been would hide the true ones until that day comes."""

ACTIVE = [status for status in DagsterRunStatus if status not in FINISHED_STATUSES]


def days_between(first: date, last: date) -> list[date]:
    """`first` to `last`, both included; empty where `last` lies before `first`."""
    return [first + timedelta(days=n) for n in range((last - first).days + 1)]


def first_night(shop: Shop) -> date:
    """The first day that gets a model and a shelf; settings that have been checked always have one."""
    return cast("date", shop.first_night)


def last_ended_day(shop: Shop, now: datetime) -> date:
    """The newest day that is over on the shop's clock."""
    return _with_logs(shop, now.astimezone(shop.zone).date() - timedelta(days=1))


def last_due_night(shop: Shop, now: datetime) -> date:
    """The newest day whose night the schedule has already had its turn to run."""
    today = now.astimezone(shop.zone).date()
    return _with_logs(shop, today - timedelta(days=1 if now >= turn(shop, today) else 2))


def _with_logs(shop: Shop, day: date) -> date:
    """`day`, or the shop's last day if that is earlier."""
    return min(day, shop.last_day) if shop.last_day else day


def turn(shop: Shop, day: date) -> datetime:
    """The moment at which the schedule runs on `day`, in UTC.

    Where the clock jumps over that hour, right after the jump; where it shows it twice, the second time.
    """
    at = datetime.combine(day, NIGHT_BEGINS, shop.zone)
    return max(at.astimezone(UTC), at.replace(fold=1).astimezone(UTC))


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
        """Nothing under way, attempts left, and the pause after the last one over.

        One that ended later than now did so by a clock that has been put right since.
        """
        rested = self.last_ended is None or not now - PAUSE < self.last_ended <= now
        return not self.active and not self.given_up and (rested or not self.failed)


def attempts(instance: dg.DagsterInstance, job: str, tags: dict[str, str]) -> Attempts:
    """Runs of `job` that carry all `tags`; a cancelled run counts as one that failed.

    A run that Dagster tries again by itself, since its process went away, stays one attempt.
    """
    records = instance.get_run_records(dg.RunsFilter(job_name=job, tags=tags))
    newest: dict[str, DagsterRunStatus] = {}
    for record in records:  # the newest first
        run = record.dagster_run
        newest.setdefault(run.root_run_id or run.run_id, run.status)
    statuses = list(newest.values())
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
    """Runs of the job `nightly`; active is whatever is at work on that day, from whichever hand."""
    tags = {PARTITION_NAME_TAG: day.isoformat()}
    at_work = instance.get_runs_count(dg.RunsFilter(statuses=ACTIVE, tags=tags))
    return replace(attempts(instance, "nightly", tags), active=at_work)


def missing_nights(instance: dg.DagsterInstance, home: Home, last: date) -> list[date]:
    """Nights up to `last` that never published a shelf, oldest first.

    They begin when there are days with rows to learn from, or with the shop's first night if that is later,
    and end where logs no longer come.
    """
    held = _days_with_rows(home)
    if not held:
        return []
    made = materialized_days(instance, SHELF) | _published(home)
    first = _begins(home, held)
    return [day for day in days_between(first, min(last, held[-1] + BLIND)) if day not in made]


def without_logs(home: Home, day: date) -> str:
    """Why the night of `day` waits, where logs no longer come; empty where they do, or have never come."""
    held = _days_with_rows(home)
    if not held or day <= held[-1] + BLIND:
        return ""
    return (
        f"The newest day with rows is {held[-1]}: nights later than {held[-1] + BLIND} wait for logs. Is "
        f"this machine's clock right? To run it all the same: nightshelf night {day}"
    )


def missing_tables(instance: dg.DagsterInstance, home: Home, last: date) -> list[date]:
    """Days before the first night, up to `last`, that were never brought into tables, oldest first.

    They begin with the first day that has rows, and end where `missing_nights` begins.
    """
    held = _days_with_rows(home)
    if not held:
        return []
    return _without_tables(instance, home, held, min(last, _begins(home, held) - timedelta(days=1)))


def _begins(home: Home, held: list[date]) -> date:
    """The first night that is made up, given the days that have rows."""
    return max(first_night(home.shop), held[0] + LEARN_FROM)


def without_tables(instance: dg.DagsterInstance, home: Home, last: date) -> list[date]:
    """All days up to `last` that were never brought into tables, oldest first, from the first that has rows.

    None where there are shelves and no record of tables: then the record has begun anew, and not the shop.
    """
    return _without_tables(instance, home, _days_with_rows(home), last)


def _without_tables(instance: dg.DagsterInstance, home: Home, held: list[date], last: date) -> list[date]:
    made = materialized_days(instance, LABELS)
    if not held or (not made and _published(home)):
        return []
    return [day for day in days_between(max(home.shop.first_day, held[0]), last) if day not in made]


def _days_with_rows(home: Home) -> list[date]:
    from assets.logs.raw_zone import days_of_loads

    return sorted(days_of_loads(home))


def _published(home: Home) -> set[date]:
    """Nights that published a shelf, as the home's files tell.

    The record of runs can begin anew (Postgres, another DAGSTER_HOME); nights that are there must not be made
    again for that. Old shelves are removed in time: older than the oldest one kept, scores are evidence.
    """
    from assets.recommendations.shelf import shelves

    kept = {shelf.day for shelf in shelves(home)}
    scored = {date.fromisoformat(file.parent.name) for file in home.scores.glob("????-??-??/manifest.json")}
    return kept | {day for day in scored if kept and day < min(kept)}


def backfilled_now(instance: dg.DagsterInstance) -> bool:
    """Whether a backfill that somebody started, in the UI or by `nightshelf backfill`, is at work."""
    # A tenth of what the definitions take to load.
    from dagster._core.execution.backfill import BulkActionsFilter, BulkActionStatus

    runs = instance.get_runs(dg.RunsFilter(statuses=ACTIVE))
    if any(BACKFILL_TAG in run.tags for run in runs):
        return True
    under_way = instance.get_backfills(
        BulkActionsFilter(
            statuses=[BulkActionStatus.REQUESTED, BulkActionStatus.CANCELING, BulkActionStatus.FAILING]
        )
    )
    return any(
        {EVENTS, LABELS, SHELF} & set(backfill.asset_selection or [])
        or backfill.partition_set_name == "nightly_partition_set"
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
