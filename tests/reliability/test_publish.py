"""What people read changes by one rename of an audited file, for all tables at once."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import duckdb
import pytest

from assets.recommendations.shelf import publish, shelves, undo
from resources.home import Home
from tests.reliability.publish_homes import (
    NIGHTS,
    Reading,
    Tally,
    make_shop,
    names,
    read,
    read_on,
    what_each_night_shows,
)

OLD, NEW, NEWEST = NIGHTS


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Home:
    return make_shop(tmp_path_factory.mktemp("shop") / "home")


@pytest.fixture(scope="module")
def shown(shop: Home, tmp_path_factory: pytest.TempPathFactory) -> dict[date, Reading]:
    return what_each_night_shows(copied(shop, tmp_path_factory.mktemp("shown") / "home"))


@pytest.fixture
def home(shop: Home, tmp_path: Path) -> Home:
    """The first of three scored nights is published."""
    return copied(shop, tmp_path / "home")


def copied(shop: Home, root: Path) -> Home:
    """With hard links as they are: published.duckdb is one."""
    shutil.copytree(shop.root, root, ignore=shutil.ignore_patterns("published.duckdb"))
    home = Home(root)
    current = next(shelf for shelf in shelves(shop) if shelf.current)
    os.link(home.shelves / current.path.name, home.published)
    return home


def test_readers_meet_one_night_or_another_and_never_a_lock(home, shown):
    with readers(home, shown, 2) as tallies:
        publications, undone = publish_on(home, lambda n: n == 12)
    assert (publications, undone) == (12, 6)
    assert [tally.wrong for tally in tallies] == [[], []]
    assert sum(tally.reads for tally in tallies) >= 100


@pytest.mark.soak
def test_ten_thousand_reads_during_five_hundred_publications(home, shown):
    began = time.monotonic()
    with readers(home, shown, 4) as tallies:
        publications, undone = publish_on(home, lambda n: n >= 500 and time.monotonic() - began > 150)
    seconds = time.monotonic() - began
    days = sum((tally.days for tally in tallies), Counter[date]())
    wrong = [what for tally in tallies for what in tally.wrong]
    reads = sum(tally.reads for tally in tallies)
    print(
        f"\n{publications} publications and {undone} undone in {seconds:.0f} s; {reads:,} reads by "
        f"{len(tallies)} processes ({', '.join(f'{day}: {n:,}' for day, n in sorted(days.items()))}), "
        f"{len(wrong)} torn, locked out or failed; the slowest took {max(t.slowest for t in tallies):.3f} s"
    )
    assert wrong == []
    assert set(days) == set(NIGHTS)
    assert publications >= 500 and reads >= 10_000


def publish_on(home: Home, enough: Callable[[int], bool]) -> tuple[int, int]:
    """(publications, undone): three nights, the last of them again, back to the first, and so on."""
    undone = 0
    for publications, night in enumerate(itertools.cycle([*NIGHTS, NEWEST]), 1):
        assert publish(home, night).served
        if publications % 4 == 0:
            assert (undo(home).day, undo(home).day) == (NEW, OLD)
            undone += 2
        if enough(publications):
            return publications, undone
    raise AssertionError


@contextmanager
def readers(home: Home, shown: dict[date, Reading], count: int) -> Iterator[list[Tally]]:
    """Processes that read during the block; the list holds what they met, once it has ended."""
    context = multiprocessing.get_context("spawn")
    stop, tallies, found = context.Event(), context.Queue(), list[Tally]()
    flags = [context.Event() for _ in range(count)]
    processes = [
        context.Process(target=read_on, args=(home.published, shown, stop, flag, tallies)) for flag in flags
    ]
    for process in processes:
        process.start()
    assert all(flag.wait(60) for flag in flags)
    try:
        yield found
    finally:
        stop.set()
        found += [tallies.get(timeout=60) for _ in processes]
        for process in processes:
            process.join(60)


def test_who_holds_the_file_open_goes_on_reading_the_old_one_whole(home, shown):
    """Over publications, and over the removal of what is being read."""
    with duckdb.connect(str(home.published), read_only=True) as connection:
        before = connection.execute("SELECT day FROM nights").fetchall()
        for night in (NEW, NEWEST):
            publish(home, night)
        for shelf in home.shelves.glob(f"{OLD}*"):
            shelf.unlink()
        rows = connection.execute("SELECT count(*), count(DISTINCT day), any_value(day) FROM recommendations")
        assert before == [(OLD,)] and rows.fetchall() == [(shown[OLD][2], 1, OLD)]
    assert read(home.published) == (NEWEST, shown[NEWEST])


def test_a_reader_locks_no_publisher_out(home, shown):
    """Not even one that holds every shelf open, in a process of its own."""
    code = """
import sys, duckdb
held = [duckdb.connect(file, read_only=True) for file in sys.argv[1:]]
print("ready", flush=True)
sys.stdin.read()
"""
    publish(home, NEW)
    with process(code, home.published, *home.shelves.glob("*.duckdb")):
        assert publish(home, NEW).served  # the same shelf again: its file is replaced
        assert publish(home, NEWEST).served
        assert undo(home).day == NEW
    assert read(home.published) == (NEW, shown[NEW])
    assert undo(home).day == OLD and read(home.published) == (OLD, shown[OLD])


@contextmanager
def process(code: str, *arguments: object) -> Iterator[None]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout and child.stdin
        assert child.stdout.readline() == "ready\n"
        yield
        child.stdin.close()


TOUCHES = {"open", "os.link", "os.rename", "os.remove", "os.chmod", "os.mkdir"}
"""What Python reports before it is done."""


def killed_at(home: Home, events: set[str], number: int, work: Callable[[Home], object]) -> bool:
    """Whether `work` was killed with SIGKILL at its `number`-th event, before that was done."""

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal number
        if event in events and any(str(home.root) in str(a) for a in arguments):
            number -= 1
            if number == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        sys.addaudithook(watch)
        code = 1
        try:
            work(home)
            code = 0
        finally:
            os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def kill_everywhere(shop: Home, shown: dict[date, Reading], root: Path, night: date) -> int:
    """Publish `night` and undo it, killed at each event in turn; the number of kills."""
    kills = 0
    for work, wanted in ((lambda home: publish(home, night), night), (undo, OLD)):
        for number in itertools.count(1):
            home = copied(shop, root / f"{wanted}-{number}")
            if work is undo:
                publish(home, night)
            before = read(home.published)
            if not killed_at(home, TOUCHES, number, work):
                break
            kills += 1
            found = read(home.published)
            assert found in (before, (wanted, shown[wanted])), f"after kill {number}"
            if work is undo and found[0] == OLD:
                publish(home, night)  # it was undone, only nobody has been told
            work(home)
            assert read(home.published) == (wanted, shown[wanted])
            assert names(home.root) == []
            assert [s.day for s in shelves(home) if s.current] == [wanted]
            if wanted != OLD:
                assert undo(home).day == OLD and read(home.published) == (OLD, shown[OLD])
            shutil.rmtree(home.root)
    return kills


@pytest.mark.crash
def test_a_publication_killed_before_it_touches_any_file_leaves_the_old_shelf_or_the_new(
    shop, shown, tmp_path
):
    kills = kill_everywhere(shop, shown, tmp_path, NEW)
    print(f"\n{kills} kills of publish and undo: readers found the old shelf or the new one, each time")
    assert kills >= 20


def test_a_killed_publication_of_the_shelf_being_read_is_finished_by_the_next(home, shown):
    """Its file has been replaced but not shown: what is being read is then none of the shelves kept."""
    publish(home, NEW)
    assert killed_at(home, {"os.link"}, 1, lambda home: publish(home, NEW))
    assert not any(shelf.current for shelf in shelves(home))
    assert read(home.published) == (NEW, shown[NEW])
    assert not publish(home, OLD).served, "a newer shelf is being read"
    assert read(home.published) == (NEW, shown[NEW])
    assert undo(home).day == OLD
