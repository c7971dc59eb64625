"""A tiny shop with some nights, what a reader of its published file must find, and readers that look."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event as Flag
from pathlib import Path

import duckdb

from assets.recommendations.shelf import publish
from resources.home import Home
from tests.recommendations.homes import as_of, make_home, make_night, some_world

WORLD = some_world(days=6)
NIGHTS = [WORLD.day(number) for number in (2, 3, 4)]
TABLES = ("recommendations", "similar_items", "items", "outcomes", "rejects")

Reading = tuple[object, ...]
"""Model version, snapshot and told rows of the night; rows and an order-free hash of every table."""


def make_shop(root: Path) -> Home:
    """Three nights with real scores, the first of them published; all shelves are kept."""
    home = make_home(root, keep_shelves=4)
    for night in NIGHTS:
        make_night(home, as_of(WORLD, (night - NIGHTS[0]).days + 3))
    publish(home, NIGHTS[0])
    return home


def read(file: Path, pause: float = 0.0) -> tuple[date, Reading]:
    """What belongs together, read one after another from one open file, `pause` seconds between."""
    with duckdb.connect(str(file), read_only=True) as connection:
        [(day, *night)] = connection.execute(
            "SELECT day, model_version, snapshot_id, rows FROM nights"
        ).fetchall()
        found: list[object] = night
        for table in TABLES:
            time.sleep(pause)
            found += connection.execute(
                f"SELECT count(*), sum(hash(t)::HUGEINT) FROM {table} AS t"
            ).fetchall()
    return day, tuple(found)


def what_each_night_shows(home: Home) -> dict[date, Reading]:
    """Publishes every night in turn, and reads it while nobody else does anything."""
    shown = {}
    for night in NIGHTS:
        publish(home, night)
        day, reading = read(home.published)
        assert day == night
        shown[night] = reading
    assert len(set(shown.values())) == len(NIGHTS), "nights that cannot be told apart prove nothing"
    return shown


@dataclass
class Tally:
    """What one reader has met."""

    reads: int = 0
    days: Counter[date] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slowest: float = 0.0
    """Seconds from open to close, without pauses of its own."""


def read_on(
    file: Path, shown: Mapping[date, Reading], stop: Flag, ready: Flag, tallies: Queue[Tally]
) -> None:
    """Open, read, close, until told to stop; every twentieth time with pauses, over publications."""
    tally = Tally()
    while not stop.is_set():
        pause = 0.02 if tally.reads % 20 == 19 else 0.0
        began = time.perf_counter()
        try:
            day, reading = read(file, pause)
            tally.days[day] += 1
            if shown.get(day) != reading:
                tally.wrong.append(f"of {day}: {reading} instead of {shown.get(day)}")
        except Exception as error:  # any failure of a reader is the finding
            tally.wrong.append(repr(error))
        if not pause:
            tally.slowest = max(tally.slowest, time.perf_counter() - began)
        tally.reads += 1
        ready.set()
    tallies.put(tally)


def names(folder: Path, patterns: Sequence[str] = (".building-*", ".published-*")) -> list[str]:
    """Files below a home that nobody should find there."""
    return sorted(str(f.relative_to(folder)) for pattern in patterns for f in folder.rglob(pattern))
