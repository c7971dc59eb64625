"""How fast do raw events become labels and marts, beside the fastest way there is?

python -m benchmarks.warehouse --events 1000000 10000000 --out report.json

Synthetic raw events of thirty days, one CSV a day, are taken in (accounting, rejects, pseudonyms) and brought
into tables by the dbt project, tests included. Beside it stand the same files brought to Parquet by DuckDB's
own COPY, polars and pandas, and one hand-written DuckDB script that makes the same rows, which is checked.
Each runs in a process of its own, in turns.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.figures import Figures, in_turns, positive, ratio, short, teller
from benchmarks.raw_events import DAYS, write_catalogue, write_events
from benchmarks.report import cores
from benchmarks.rivals import INGEST, MARTS, RESULTS, Place, missing_package

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EVENTS, ROUNDS = 1_000_000, 3
FEWEST = 2_000
"""Events that give every day a few."""
IN_MEMORY = ("pandas_ingest", "polars_marts")
IN_MEMORY_MOST = 1_000_000
"""Contestants that hold everything in memory, and the events of which they still do so in a few GiB."""
SAMPLE = 0.5
"""Seconds between two looks at the memory of a process and its children."""
PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Ran:
    """What one contestant's process took."""

    seconds: float
    """Of the work itself, without the start of the process."""
    start_up: float
    """Seconds that the tool needs before and after, where it says so."""
    gib: float
    """Highest memory of the process and its children."""


@dataclass
class Size:
    """Everything measured with one number of events."""

    events: int
    place: Place
    say: Callable[[str], None]
    ran: dict[str, list[Ran]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return short(self.events)

    def run(self, contestant: str) -> float:
        """One run of a contestant in a process of its own; its seconds."""
        began = time.monotonic()
        ran = run_alone(contestant, self.place)
        self.ran.setdefault(contestant, []).append(ran)
        self.say(
            f"{self.name}: {contestant} {ran.seconds:.1f} s, {ran.gib:.2f} GiB "
            f"({time.monotonic() - began:.0f} s with its start)"
        )
        return ran.seconds

    def run_with_night(self, contestant: str) -> float:
        """As `run`; after our marts one night more, while the machine is as busy as it was for them."""
        seconds = self.run(contestant)
        if contestant == "nightshelf_marts":
            self.run("night")
        return seconds

    def seconds(self, contestant: str) -> list[float]:
        return [ran.seconds for ran in self.ran[contestant]]

    def peak(self, *contestants: str) -> float:
        """GiB: the highest of any run."""
        return max(ran.gib for name in contestants for ran in self.ran[name])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every size, report."""
    asked = _parser().parse_args(arguments)
    say = teller()
    sizes = sorted(set(asked.events))
    if len(sizes) == 1:
        sizes = sorted({max(FEWEST, sizes[0] // 10), *sizes})  # growth needs two
    figures = Figures(asked.out, events=sizes, rounds=asked.rounds, days=DAYS)
    measured: list[Size] = []
    for events in sizes:
        with tempfile.TemporaryDirectory(prefix="nightshelf-warehouse-", dir=asked.work) as folder:
            say(f"{short(events)}: writing the files")
            place = Place(Path(folder))
            write_events(place.csv, events)
            write_catalogue(place.catalogue, events)
            measured.append(measure(Size(events, place, say), asked.rounds, figures))
    report(measured, figures)
    figures.write()
    figures.show()
    if asked.out:
        image = asked.picture or asked.out.with_suffix(".png")
        image.parent.mkdir(parents=True, exist_ok=True)
        picture(measured).savefig(image, dpi=110)
        print(image)
    return 0


def measure(size: Size, rounds: int, figures: Figures) -> Size:
    """Run all contestants of a size in turns, and check that they made the same rows.

    Raises:
        RuntimeError: they did not, or a contestant failed.
    """
    for stage, contestants in (("ingest", INGEST), ("marts", MARTS)):
        taking_part = [name for name in contestants if _takes_part(name, stage, size, figures)]
        in_turns({name: partial(size.run_with_night, name) for name in taking_part}, rounds)
    different = differences(size.place)
    if different:
        raise RuntimeError(f"the contestants do not agree: {'; '.join(different)}")
    size.say(f"{size.name}: all made the same rows")
    return size


def _takes_part(name: str, stage: str, size: Size, figures: Figures) -> bool:
    package = missing_package(name)
    if package:
        figures.skip(f"warehouse.{stage}.{name}", f"{package} is not installed")
        return False
    if name in IN_MEMORY and size.events > IN_MEMORY_MOST:
        too_many = f"it holds all events in memory, and there are more than {short(IN_MEMORY_MOST)}"
        figures.skip(f"warehouse.{size.name}.{name}", too_many)
        return False
    return True


def report(measured: Sequence[Size], figures: Figures) -> None:
    """Turn what was measured into figures."""
    for size in measured:
        named = f"warehouse.{size.name}"
        ours, bare = size.seconds("nightshelf_marts"), size.seconds("duckdb_marts")
        taken_in, night = size.seconds("nightshelf_ingest"), size.seconds("night")
        against = ratio(ours, bare)
        figures.add(
            f"{named}.ratio_to_bare_duckdb", against[0], "ratio", "goal ≤ 1.3; the same rows", against[1]
        )
        ingest = ratio(taken_in, size.seconds("duckdb_ingest"))
        figures.add(f"{named}.ingest.ratio_to_copy", ingest[0], "ratio", "goal ≤ 2; DuckDB's COPY", ingest[1])
        for name in (*INGEST[2:], *MARTS[2:]):
            if name in size.ran:
                stage, own = ("ingest", taken_in) if name in INGEST else ("marts", ours)
                value, runs = ratio(own, size.seconds(name))
                figures.add(f"{named}.{stage}.ratio_to_{name.partition('_')[0]}", value, "ratio", name, runs)
        figures.add(
            f"{named}.peak_gib", size.peak("nightshelf_ingest", "nightshelf_marts"), "GiB", "goal ≤ 4"
        )
        figures.add(f"{named}.bare_duckdb_peak_gib", size.peak("duckdb_ingest", "duckdb_marts"), "GiB", "")
        whole = [one + other for one, other in zip(taken_in, ours, strict=True)]
        part = [one / other for one, other in zip(night, whole, strict=True)]
        goal = "goal ≤ 1/15 = 0.067; dbt's start-up apart"
        figures.add(f"{named}.night_to_full_run", statistics.median(part), "ratio", goal, part)
        figures.add(f"{named}.ingest_s", statistics.median(taken_in), "s", "", taken_in)
        figures.add(f"{named}.marts_s", statistics.median(ours), "s", "dbt's start-up apart", ours)
        figures.add(f"{named}.bare_duckdb_s", statistics.median(bare), "s", "", bare)
        figures.add(f"{named}.night_s", statistics.median(night), "s", "dbt's start-up apart", night)
        started = [ran.start_up for ran in size.ran["nightshelf_marts"]]
        figures.add(f"{named}.dbt_start_up_s", statistics.median(started), "s", "", started)
    largest = measured[-1]
    figures.add(
        "warehouse.ingest.ratio_to_copy",
        ratio(largest.seconds("nightshelf_ingest"), largest.seconds("duckdb_ingest"))[0],
        "ratio",
        f"goal ≤ 2; with {largest.name} events",
    )
    if len(measured) > 1:
        exponent = growth([size.events for size in measured], [_median_of_all(size) for size in measured])
        figures.add("warehouse.growth_exponent", exponent, "exponent", "goal ≤ 1.05; ingest and marts")


def growth(events: Sequence[int], seconds: Sequence[float]) -> float:
    """b in seconds = a · events ** b, by least squares over logarithms; 1 where cost per event is flat."""
    x, y = [math.log(n) for n in events], [math.log(s) for s in seconds]
    return statistics.linear_regression(x, y).slope


def _median_of_all(size: Size) -> float:
    taken_in, ours = size.seconds("nightshelf_ingest"), size.seconds("nightshelf_marts")
    return statistics.median(one + other for one, other in zip(taken_in, ours, strict=True))


def run_alone(contestant: str, place: Place) -> Ran:
    """Run one contestant in a process of its own.

    Raises:
        RuntimeError: it failed; the message is what it said.
    """
    threads = str(cores())  # polars would take those that the machine has
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.rivals", contestant, str(place.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        env=os.environ | {"POLARS_MAX_THREADS": threads, "OMP_NUM_THREADS": threads},
    ) as process:
        peaks = [0]
        done = threading.Event()

        def watch() -> None:
            while not done.wait(SAMPLE):
                peaks.append(resident(process.pid))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        told, complaints = process.communicate()
        done.set()
        watcher.join()
    if process.returncode:
        raise RuntimeError(f"{contestant} failed: {complaints.strip() or told.strip()}")
    answer = json.loads(told.splitlines()[-1])
    return Ran(answer["seconds"], answer["start_up"], max(peaks) / 2**30)


def resident(root: int) -> int:
    """Bytes of memory of a process and its descendants; pages that they share count in each of them.

    To count them once, the kernel walks through all pages: 20 ms for each GiB, at a contestant's expense.
    """
    import psutil

    total = 0
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(root)
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += one.memory_info().rss
    return total


def differences(place: Place) -> list[str]:
    """Results in which the bare script, or polars, differs from the dbt project, in words.

    With the bare script every row is compared; polars adds up doubles, so there it is the number of rows.
    """
    import duckdb

    found = []
    with (
        duckdb.connect(str(place.warehouse), read_only=True) as ours,
        duckdb.connect(str(place.bare), read_only=True) as bare,
    ):
        for table in RESULTS:
            columns = ", ".join(name for name, *_ in ours.execute(f"DESCRIBE {table}").fetchall())
            query = f"SELECT count(*), sum(hash({columns})::HUGEINT) FROM {table}"
            one, other = (connection.execute(query).fetchall()[0] for connection in (ours, bare))
            if one != other:
                found.append(f"{table} has {one[0]:,} rows, and {other[0]:,} or others in the bare script")
            of_polars = place.polars / f"{table.partition('.')[2]}.parquet"
            if of_polars.exists():
                ((rows,),) = ours.execute(f"SELECT count(*) FROM '{of_polars}'").fetchall()
                if rows != one[0]:
                    found.append(f"{table} has {one[0]:,} rows, and {rows:,} with polars")
    return found


def picture(measured: Sequence[Size]) -> Figure:
    """Cost against size: microseconds per event of ours, of the bare ways and of the other libraries."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axis, title, names in zip(
        figure.subplots(1, 2), ("Ingest", "Raw → labels and marts"), (INGEST, MARTS), strict=True
    ):
        for name in names:
            points = [
                (size.events, 1e6 * statistics.median(size.seconds(name)) / size.events)
                for size in measured
                if name in size.ran
            ]
            if points:
                label = name.partition("_")[0].replace("duckdb", "DuckDB alone")
                axis.plot(*zip(*points, strict=True), marker="o", label=label, lw=2 if "night" in name else 1)
        axis.set(xscale="log", ylim=(0, None))
        axis.set(title=title, xlabel="events", ylabel="microseconds per event")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    return figure


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.warehouse",
        description="Measure ingestion, and raw events to labels and marts, beside DuckDB alone and others.",
    )
    parser.add_argument(
        "--events", type=partial(positive, least=FEWEST), nargs="+", default=[EVENTS], metavar="N",
        help="synthetic events; several for several sizes; beside a single one, a tenth of it, for growth",
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=positive, default=ROUNDS, metavar="N", help="of runs in turns (default %(default)s)"
    )
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="where to put what is made meanwhile; about 1 KB an event"
    )
    parser.add_argument(
        "--out", type=Path, metavar="REPORT.json", help="the report; a picture is put beside it"
    )
    parser.add_argument("--picture", type=Path, metavar="PATH.png", help="another place for the picture")
    return parser


if __name__ == "__main__":
    sys.exit(main())
