"""Runs whose process is gone are found, and marked as failed.

Dagster's own launcher cannot tell a run at work from one whose machine went down: such a run stays "started",
and keeps its place in the queue, for ever. Here the process that drives a run holds a lease as long as it
lives (`run_lease`, taken by the executor; `driver_lease`, where the command line drives it). A run whose
lease was taken and is held by nobody is lost.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
from dagster._core.launcher import CheckRunHealthResult, DefaultRunLauncher, WorkerStatus
from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES

from resources.home import Home
from resources.leases import is_held, lease_one_of

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun

TAKING = 5.0
"""Seconds after which a lease file that is empty is no longer one that is just being taken."""

GONE = "The process that drove this run is gone: it was killed, or its machine went down."


class LeasedRunLauncher(DefaultRunLauncher):
    """The default launcher, and run monitoring can tell which runs are lost."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        if is_lost(Home.current(), run.run_id):
            return CheckRunHealthResult(WorkerStatus.FAILED, GONE)
        return CheckRunHealthResult(WorkerStatus.RUNNING)


def run_lease(home: Home, run_id: str) -> AbstractContextManager[None]:
    """Held by the process that drives a run, from its first step to its last; then its file goes."""
    return _held_meanwhile(_leases_of(home, run_id)[0])


def driver_lease(home: Home, run_id: str) -> AbstractContextManager[None]:
    """Held from before there is a run: one that is cut short before its first step is lost as well."""
    return _held_meanwhile(_leases_of(home, run_id)[1])


@contextmanager
def _held_meanwhile(file: Path) -> Iterator[None]:
    with lease_one_of([file]):
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def is_driven(home: Home, run_id: str) -> bool:
    """Whether a process holds one of the run's leases."""
    for file in _leases_of(home, run_id):
        with suppress(FileNotFoundError):
            if is_held(file):
                return True
    return False


def is_lost(home: Home, run_id: str) -> bool:
    """Whether the run's process took a lease and is no more. A run that has not come so far is not lost."""
    return any(map(_is_left, _leases_of(home, run_id)))


def _is_left(file: Path) -> bool:
    try:
        found = file.stat()
        # An empty file is a lease that is just being taken, unless whoever took it was killed at that moment.
        taken = found.st_size > 0 or time.time() - found.st_mtime > TAKING
        return taken and not is_held(file)
    except FileNotFoundError:
        return False


def fail_lost_runs(instance: DagsterInstance, home: Home) -> list[str]:
    """Mark lost runs as failed, for when no daemon is there to do so. Returns their ids."""
    begun = instance.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES))
    lost = [run for run in begun if is_lost(home, run.run_id)]
    for run in lost:
        instance.report_run_failed(run, GONE)
        for file in _leases_of(home, run.run_id):
            file.unlink(missing_ok=True)
    free_slots(instance)
    return [run.run_id for run in lost]


def free_slots(instance: DagsterInstance) -> None:
    """Take the places in pools from runs that have ended.

    A step that was killed keeps its place, and only a daemon would take it: without one, the next run that
    wants the place waits for ever.
    """
    storage = instance.event_log_storage
    for run_id in storage.get_concurrency_run_ids():
        run = instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            storage.free_concurrency_slots_for_run(run_id)


def _leases_of(home: Home, run_id: str) -> tuple[Path, Path]:
    """Of the executor, and of the command line."""
    folder = home.leases / "runs"
    return folder / f"{run_id}.lock", folder / f"{run_id}.driver.lock"
