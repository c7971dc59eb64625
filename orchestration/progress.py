"""A run in the terminal: each step as it begins and ends, what it last said, and checks that do not pass."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rich.markup import escape

from orchestration.runs import FailedCheck, Outcome, RunFailedError, StepChange, run_job

if TYPE_CHECKING:
    from dagster import DagsterInstance, EventLogEntry
    from rich.console import Console
    from rich.status import Status

    from resources.home import Home

LOOK = 2.0
"""Seconds between two looks at what a step has said."""


def watched(
    instance: DagsterInstance,
    job: str,
    tags: Mapping[str, str],
    what: str,
    *,
    console: Console,
    home: Home,
    on_step: Callable[[StepChange, Sequence[str]], None] = lambda change, under_way: None,
) -> Outcome:
    """Run `job` now and show its steps with their seconds.

    `on_step` is told of each change, and of the steps that are then under way in the order they began.

    Raises:
        RunFailedError: a step failed; the steps after it did not run.
    """
    console.print(f"[bold]{escape(what)}[/bold]")
    under_way: list[str] = []
    with noise_into(home.dagster / "command.log", console), console.status("starting") as status:

        def show(change: StepChange | FailedCheck) -> None:
            if isinstance(change, FailedCheck):
                console.print(f"  [yellow]check[/yellow]   {change.check}: {escape(change.found)}")
                return
            # A step can end without having begun (its process died), or begin twice (it is tried again).
            if change.step in under_way:
                under_way.remove(change.step)
            if change.seconds is None:
                under_way.append(change.step)
            else:
                mark = "[green]done[/green]  " if change.ok else "[red]failed[/red]"
                console.print(f"  {mark} {change.step:<42} {change.seconds:6.1f} s", highlight=False)
            on_step(change, under_way)
            said.of(change.run_id, under_way)

        with _LastSaid(instance, status) as said:
            outcome = run_job(instance, job, tags, show)
    if not outcome.succeeded:
        raise RunFailedError(outcome, what)
    console.print(f"  [dim]{outcome.wall:.1f} s in all, run {outcome.run_id[:8]}[/dim]", highlight=False)
    return outcome


class _LastSaid:
    """Beside the spinner, the steps under way and the last line of the run's log, looked up now and then."""

    def __init__(self, instance: DagsterInstance, status: Status) -> None:
        self._instance, self._status = instance, status
        self._run_id, self._steps, self._line = "", "next step", ""
        self._cursor: str | None = None
        self._over = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _LastSaid:
        if self._status.console.is_terminal:
            self._looking.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._looking.is_alive():
            self._looking.join()

    def of(self, run_id: str, steps: Sequence[str]) -> None:
        self._run_id, self._steps, self._line = run_id, ", ".join(steps) or "next step", ""
        self._show()

    def _show(self) -> None:
        text = f"{self._steps}: {self._line}" if self._line else self._steps
        self._status.update(escape(text[: self._status.console.width - 3]))  # beside the spinner, on one line

    def _look(self) -> None:
        while not self._over.wait(LOOK):
            if not self._run_id:
                continue
            found = self._instance.get_records_for_run(self._run_id, self._cursor)
            self._cursor = found.cursor
            lines = [
                entry.user_message for record in found.records if _is_said(entry := record.event_log_entry)
            ]
            if lines:
                self._line = lines[-1].splitlines()[0]
                self._show()


def _is_said(entry: EventLogEntry) -> bool:
    """By the step itself, and not an event of Dagster's."""
    return not entry.is_dagster_event and bool(entry.user_message.strip())


@contextmanager
def noise_into(file: Path, console: Console) -> Iterator[None]:
    """Put what this process and its children print into a file, all but the console's own lines.

    dbt, torch and Dagster would tear up the progress; step processes inherit where they print to.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept, shown = {fd: os.dup(fd) for fd in (1, 2)}, console.file
    if _descriptor(shown) == 1:
        console.file = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    with file.open("ab") as log:
        for fd in kept:
            os.dup2(log.fileno(), fd)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for fd, before in kept.items():
            os.dup2(before, fd)
            os.close(before)
        if console.file is not shown:
            console.file.close()
            console.file = shown


def _descriptor(stream: IO[str]) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None
