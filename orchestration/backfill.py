"""What is run to make days again: files, tables of a window, then a model and a shelf per day.

`nightshelf backfill` and `nightshelf backtest` go through here, so that both make the same.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING, Protocol

from assets.logs.drop import mark_of, plain_files
from orchestration.nights import BACKFILL_TAG, LABELS, materialized_days, without_tables
from orchestration.runs import of_day, of_window
from resources.home import Home

if TYPE_CHECKING:
    from dagster import DagsterInstance

DROP_TAG = "nightshelf/drop"
"""Run tag that says which files lay in the drop folder when they were taken in."""


class Run(Protocol):
    """Runs a job to its end: `orchestration.progress.watched` with all but these filled in.

    Raises:
        orchestration.runs.RunFailedError: the run did not succeed.
    """

    def __call__(self, job: str, tags: dict[str, str], what: str) -> object: ...


def tag_of(first: date, last: date) -> dict[str, str]:
    """Tag of all runs of one backfill; while one of them is at work, sensors stand back."""
    return {BACKFILL_TAG: f"{first} to {last}"}


def drop_tag(home: Home) -> dict[str, str]:
    """Names the files that lie in the drop folder, and the sources that they are read by, wherever the home
    lies: a copy of it has taken in what the home had."""
    files = [*plain_files(home.drop), *sorted(home.sources.glob("*.yaml"))]
    marks = "\n".join(f"{os.fsencode(file.relative_to(home.root))!r} {mark_of(file)}" for file in files)
    return {DROP_TAG: hashlib.sha256(marks.encode()).hexdigest()[:16]}


def take_in(run: Run, home: Home, tag: Mapping[str, str]) -> None:
    """Take in every whole file that waits in the drop folder."""
    run("ingest", {**drop_tag(home), **tag}, "Taking in files")


def make_tables(run: Run, first: date, last: date, tag: Mapping[str, str]) -> None:
    """The tables of a window, both ends included, in one run."""
    run("warehouse", {**of_window(first, last), **tag}, f"The tables of {first} to {last}")


def make_up_tables(run: Run, instance: DagsterInstance, home: Home, night: date) -> None:
    """The tables of the days before a night, where they were never made: a model learns from them alone.

    What the night itself learns from reaches `history_days` back.
    """
    before, tag = night - timedelta(days=1), tag_of(night, night)
    if before < home.shop.first_day:
        return
    if before not in materialized_days(instance, LABELS):
        take_in(run, home, tag)  # else nobody knows yet of which days there are rows
    days = lacking_tables(instance, home, night)
    if days:
        make_tables(run, days[0], days[-1], tag)


def lacking_tables(instance: DagsterInstance, home: Home, night: date) -> list[date]:
    """Days before a night that it learns from and that were never brought into tables, oldest first."""
    learnt_from = night - timedelta(days=home.shop.history_days - 1)
    before = without_tables(instance, home, night - timedelta(days=1))
    return [day for day in before if day >= learnt_from]


def make_model(run: Run, day: date, tag: Mapping[str, str]) -> None:
    """Snapshot, model, evaluation and gate as of a day."""
    run("training", {**of_day(day), **tag}, f"The model of {day}")


def make_shelf(run: Run, day: date, tag: Mapping[str, str]) -> None:
    """Scores and shelf as of a day, with the model that serves, and what became of the shelf before."""
    run("recommendations", {**of_day(day), **tag}, f"The shelf of {day}")
