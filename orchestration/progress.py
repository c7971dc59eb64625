"""A run in the terminal: each step as it begins and ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from rich.markup import escape

from orchestration.runs import Outcome, RunFailedError, StepChange, run_job

if TYPE_CHECKING:
    from dagster import DagsterInstance
    from rich.console import Console

    from resources.home import Home


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

        def show(change: StepChange) -> None:
            # A step can end without having begun (its process died), or begin twice (it is tried again).
            if change.step in under_way:
                under_way.remove(change.step)
            if change.seconds is None:
                under_way.append(change.step)
            else:
                mark = "[green]done[/green]  " if change.ok else "[red]failed[/red]"
                console.print(f"  {mark} {change.step:<42} {change.seconds:6.1f} s", highlight=False)
            on_step(change, under_way)
            status.update(", ".join(under_way) or "next step")

        outcome = run_job(instance, job, tags, show)
    if not outcome.succeeded:
        raise RunFailedError(outcome, what)
    console.print(f"  [dim]{outcome.wall:.1f} s in all, run {outcome.run_id[:8]}[/dim]", highlight=False)
    return outcome


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
