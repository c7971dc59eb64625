"""The figures of a benchmark of speed: a JSON report by one rename, and a table on the screen.

What a figure is worth depends on the machine and on what else it was doing. So a report names commit, machine
and versions, figures are ratios where they can be, and what is compared runs in turns.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

REFUSED = 2
"""Exit status where something wrong was given, as argparse has it."""
WIDE = 120
"""Columns of the table where it does not go to a screen."""


@dataclass(frozen=True)
class Figure:
    """One measured value; `against` says in words what it is compared with, or the goal it has."""

    name: str
    value: float
    unit: str
    against: str
    runs: list[float] = field(default_factory=list)
    """What each run gave, where `value` is their median."""


class Figures:
    """Collects figures of one call of a benchmark.

    Args:
        out: file of the report; None for the screen alone.
        settings: what the benchmark was asked for, written into the report.
    """

    def __init__(self, out: Path | None, **settings: Any) -> None:
        self.out, self.settings = out, settings
        self.figures: list[Figure] = []
        self.skipped: dict[str, str] = {}

    def add(self, name: str, value: float, unit: str, against: str, runs: Sequence[float] = ()) -> None:
        """Take a figure in.

        Raises:
            ValueError: the value is no finite number, or there is a figure of this name.
        """
        if not math.isfinite(value):
            raise ValueError(f"{name} came out as {value}, which is no figure")
        if any(known.name == name for known in self.figures):
            raise ValueError(f"{name} has been measured already")
        self.figures.append(Figure(name, float(value), unit, against, [float(run) for run in runs]))

    def skip(self, name: str, reason: str) -> None:
        """Say why something was not measured."""
        self.skipped[name] = reason

    def write(self) -> None:
        """Put the report in place, whole; nothing without `out`."""
        if self.out is None:
            return
        from benchmarks import report as reports  # here, so that --help loads nothing heavy

        head, clean = reports.commit()
        reports.write(
            {
                "settings": self.settings,
                "figures": [asdict(one) for one in self.figures],
                "skipped": self.skipped,
                "commit": head,
                "clean_tree": clean,
                "machine": reports.machine(),
                "versions": reports.versions(),
            },
            self.out,
        )

    def show(self) -> None:
        """Print all figures as one table, then what was skipped."""
        from rich import box
        from rich.console import Console
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
        table.add_column("figure", overflow="fold")
        table.add_column("value", justify="right", no_wrap=True)
        table.add_column("unit", no_wrap=True)
        table.add_column("against", overflow="fold")
        for one in self.figures:
            table.add_row(one.name, f"{one.value:,.4g}", one.unit, one.against)
        console = Console() if sys.stdout.isatty() else Console(width=WIDE)
        console.print(table)
        for name, reason in self.skipped.items():
            console.print(f"{name} was skipped: {reason}", highlight=False, soft_wrap=True, markup=False)
        if self.out:
            console.print(str(self.out), highlight=False, soft_wrap=True)


def positive(text: str, least: int = 1) -> int:
    """For argparse: a whole number of at least `least`."""
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least {least}")
    return number


def minutes(text: str) -> float:
    """For argparse: a number of minutes."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of minutes above 0")
    return number


def teller() -> Callable[[str], None]:
    """Progress on standard error, each line with the seconds since now."""
    began = time.monotonic()

    def tell(message: str) -> None:
        print(f"[{time.monotonic() - began:6.0f} s] {message}", file=sys.stderr, flush=True)

    return tell


def short(number: int) -> str:
    """1000000 as 1m, 250000 as 250k, 1234 as 1234."""
    for size, letter in ((10**6, "m"), (10**3, "k")):
        if number >= size and number % size == 0:
            return f"{number // size}{letter}"
    return str(number)


def clocked(work: Callable[[], object]) -> Callable[[], float]:
    """The same work, which says how many seconds it took."""

    def run() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return run


def in_turns(ways: Mapping[str, Callable[[], float]], rounds: int = 3) -> dict[str, list[float]]:
    """Run every way once in each round, so that what else the machine does meets all of them alike.

    Every other round goes backwards: no way always follows the same one.

    Returns:
        What each way gave (seconds, say), one value a round.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in list(ways)[:: -1 if number % 2 else 1]:
            found[name].append(ways[name]())
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, list[float]]:
    """The median of the ratios round by round, and these ratios: a slow minute slows both of a round."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return statistics.median(ratios), ratios
