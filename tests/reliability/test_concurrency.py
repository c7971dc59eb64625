"""Whatever runs at once gives what it gives one after another."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path
from random import Random

import duckdb
import psutil
import pytest

from assets.logs.raw_zone import outcomes, take_in_all
from assets.logs.simulator import simulate
from resources.home import Home, Shop
from resources.identity import IdentityKey
from tests.reliability.limits_homes import PROJECT, raw_rows
from tests.warehouse.raw_rows import dbt, fingerprints

COMMAND = Path(sys.executable).parent / "nightshelf"
FIRST, DAYS = date(2026, 1, 5), 34
LAST = FIRST + timedelta(days=DAYS - 1)
BEFORE = LAST - timedelta(days=1)
MONTH = FIRST + timedelta(days=29)
"""The last of thirty days. Rows that come late with the last day's files are of the three days before it."""
PARTS = 30
QUICK = ("--exclude-resource-type", "test", "unit_test")


def shop(root: Path, days: int = DAYS) -> Home:
    """A month of simulated logs in the drop folder; the last two days have nights with a tiny model."""
    home = Home(root)
    first_night = FIRST + timedelta(days=max(2, days - 2))
    home.write_shop(Shop(first_day=FIRST, first_night=first_night, recipe="tiny.yaml"))
    tiny = "max_length: 16\nmax_steps: 2\nsequence_epochs: 1\nsequence_width: 16\n"
    (home.root / "tiny.yaml").write_text(tiny)
    simulate(home, start=FIRST, days=days, seed=5, shoppers=150, products=120)
    rest(home)
    IdentityKey.load(home)
    return home


def rest(home: Home) -> None:
    """Nobody has touched the files for long."""
    for file in home.drop.rglob("*"):
        os.utime(file, (1_700_000_000, 1_700_000_000))


def copied(home: Home, root: Path) -> Home:
    """A copy, and `published.duckdb` a link to one of its shelves."""
    # Like cp -a: hard links stay hard links.
    subprocess.run(["cp", "-a", str(home.root), str(root)], check=True)
    return Home(root)


def started(home: Home, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(COMMAND), "--home", str(home.root), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def nightshelf(home: Home, *words: object) -> None:
    ended(started(home, *words))


def ended(process: subprocess.Popen[str]) -> None:
    said = process.communicate(timeout=900)[0]
    assert process.returncode == 0, said[-4000:]


def made(home: Home) -> dict[str, object]:
    """Hashes of everything that people and models read, apart from when it was made."""
    return {
        "raw": raw_rows(home),
        "warehouse": fingerprints(home.warehouse),
        "published": fingerprints(home.published),
    }


TAKE_IN = """
import sys
from pathlib import Path
from assets.logs.raw_zone import take_in_all
from resources.home import Home
print(len(take_in_all(Home(Path(sys.argv[1])))))
"""


def test_two_that_take_in_the_same_new_files_at_once_take_each_in_once(home):
    files, rows = 4, 50
    IdentityKey.load(home)
    for number in range(files):
        file = home.drop / "nightshelf_csv" / f"{number}.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [f"{number}-{n},2026-01-06T12:00:00+01:00,u{n},mug,click" for n in range(rows)]
        file.write_text("\n".join(["event_id,event_time,user_id,item_id,behavior", *lines]) + "\n")
    rest(home)
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TAKE_IN, str(home.root)], stdout=subprocess.PIPE, text=True, cwd=PROJECT
        )
        for _ in range(2)
    ]
    taken = [int(process.communicate(timeout=120)[0]) for process in both]
    assert sorted(taken) == [0, files]
    assert [(o.rows_loaded, o.status) for o in outcomes(home)] == [(rows, "loaded")] * files
    ((found, _), (refused, _)) = raw_rows(home)
    assert (found, refused) == (files * rows, 0)


@pytest.fixture(scope="module")
def backfilled(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """All days but the last, made in one run; the last of them has a published night.

    The web's file of the last day lies beside the home, in thirty parts. The app's, some of whose clocks are
    days behind, never comes: which rows a night knows of days before would depend on what ran first.
    """
    home = shop(tmp_path_factory.mktemp("backfilled") / "home")
    aside = home.root.with_name("aside") / "nightshelf_csv"
    aside.mkdir(parents=True)
    for file in home.drop.rglob(f"*{LAST}*"):
        if file.parent.name == aside.name:
            header, *lines = file.read_bytes().splitlines(keepends=True)
            for part in range(PARTS):
                (aside / f"{file.stem}-{part}.csv").write_bytes(header + b"".join(lines[part::PARTS]))
        file.unlink()
    nightshelf(home, "backfill", FIRST, BEFORE)
    return home


def bring(home: Home, backfilled: Home) -> None:
    """Put the files of the last day into the drop folder."""
    for file in sorted(backfilled.root.with_name("aside").glob("*/*")):
        aside = home.drop / file.parent.name / f".{file.name}"
        shutil.copy(file, aside)
        os.utime(aside, (1_700_000_000, 1_700_000_000))
        aside.rename(aside.with_name(file.name))


@pytest.mark.soak
def test_a_backfill_a_night_new_files_and_readers_at_once_equal_one_after_another(backfilled, tmp_path):
    one, many = copied(backfilled, tmp_path / "one"), copied(backfilled, tmp_path / "many")
    began = time.monotonic()
    bring(one, backfilled)
    nightshelf(one, "backfill", FIRST, MONTH, "--tables")
    nightshelf(one, "night", LAST)
    came = [outcome for outcome in outcomes(one) if str(LAST) in outcome.file]
    assert len(came) == PARTS and min(day for outcome in came for day in outcome.days) > str(MONTH)
    apart = time.monotonic() - began
    wanted = made(one)
    before, after = fingerprints(backfilled.published), wanted["published"]
    assert before != after

    began = time.monotonic()
    with readers(many.published, (before, after), 3) as reads:
        rebuild = started(many, "backfill", FIRST, MONTH, "--tables")
        bring(many, backfilled)
        night = started(many, "night", LAST)
        ended(rebuild)
        ended(night)
    seconds = time.monotonic() - began
    print(
        f"\none after another {apart:.0f} s, at once {seconds:.0f} s beside 3 readers ({sum(reads):,} "
        f"reads); all {len(wanted['warehouse'])} and {len(after)} tables are equal"
    )
    assert made(many) == wanted


@contextmanager
def readers(file: Path, allowed: Sequence[object], count: int) -> Iterator[list[int]]:
    """Processes that read the published file on and on, and find one of `allowed` each time."""
    context = multiprocessing.get_context("spawn")
    stop, queue, reads = context.Event(), context.Queue(), list[int]()
    processes = [context.Process(target=read_on, args=(file, allowed, stop, queue)) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        yield reads
    finally:
        stop.set()
        told = [queue.get(timeout=60) for _ in processes]
        for process in processes:
            process.join(60)
    wrong = [what for _, found in told for what in found]
    assert wrong == []
    reads += [number for number, _ in told]
    assert min(reads) > 0


def read_on(file: Path, allowed: Sequence[object], stop, queue) -> None:
    reads, wrong = 0, []
    while not stop.is_set():
        try:
            if fingerprints(file) not in allowed:
                wrong.append("neither the night before nor the new one")
        except duckdb.Error as error:
            wrong.append(repr(error))
        reads += 1
        time.sleep(0.05)
    queue.put((reads, wrong))


@pytest.mark.soak
def test_two_runs_of_the_same_new_day_at_once_give_it_once(backfilled, tmp_path):
    one, many = copied(backfilled, tmp_path / "one"), copied(backfilled, tmp_path / "many")
    for home in (one, many):
        bring(home, backfilled)
    nightshelf(one, "backfill", LAST, LAST, "--tables")
    for process in [started(many, "backfill", LAST, LAST, "--tables") for _ in range(2)]:
        ended(process)
    assert made(many) == made(one)
    with duckdb.connect(str(many.warehouse), read_only=True) as connection:
        [(rows,)] = connection.execute(
            "SELECT count(*) FROM marts.fct_events WHERE day = ?", [LAST]
        ).fetchall()
    print(f"\n{LAST}, new, by two runs at once: {rows:,} events, each once, as by one run")
    assert rows > 0


@pytest.mark.soak
def test_a_month_in_one_run_in_chunks_and_day_by_day_is_the_same_month(tmp_path):
    home = shop(tmp_path / "home", days=30)
    take_in_all(home)
    days = [FIRST + timedelta(days=n) for n in range(30)]
    weeks = [(days[n], days[min(n + 6, 29)]) for n in range(0, 30, 7)]
    Random(1).shuffle(weeks)
    plans = {
        "one run": [(FIRST, MONTH)],
        "chunks of a week, shuffled": weeks,
        "day by day": [(day, day) for day in days],
    }
    found = {}
    for name, windows in plans.items():
        copy = copied(home, tmp_path / name)
        began = time.monotonic()
        for first, last in windows:
            dbt(copy, "build", first, last, *QUICK)
        found[name] = fingerprints(copy.warehouse)
        print(f"\n{name:28} {len(windows):3} runs of dbt {time.monotonic() - began:6.0f} s", end="")
    assert found["chunks of a week, shuffled"] == found["one run"] == found["day by day"]
    assert len(found["one run"]) > 10


@pytest.mark.soak
def test_many_files_that_come_during_a_backfill_are_all_in_the_tables_once_they_are_made_again(tmp_path):
    """They wait until dbt has ended, so what it builds adds up."""
    home = shop(tmp_path / "home", days=5)
    last = FIRST + timedelta(days=4)
    whole = copied(home, tmp_path / "whole")
    files = sorted(file for file in home.drop.rglob("*") if file.is_file() and "catalog" not in str(file))
    late = files[1::2]
    away = {file: tmp_path / "away" / f"{n}" for n, file in enumerate(late)}
    (tmp_path / "away").mkdir()
    for file, place in away.items():
        file.rename(place)
    nightshelf(whole, "backfill", FIRST, last, "--tables")

    rebuild = started(home, "backfill", FIRST, last, "--tables")
    while not home.warehouse.exists():  # dbt has begun
        assert rebuild.poll() is None
        time.sleep(0.05)
    for file, place in away.items():
        place.rename(file)
    taken = take_in_all(home)
    ended(rebuild)
    assert len(taken) == len(late)
    nightshelf(home, "backfill", FIRST, last, "--tables")
    assert made(home) == made(whole)


PARSE = """
import sys
from pathlib import Path
from assets.warehouse.project import run_dbt
from resources.home import Home
home = Home(Path(sys.argv[1]))
print("ready", flush=True)
run_dbt(["parse", "--no-partial-parse"], home, target=home.root / "target")
"""


def test_dbt_ends_with_the_process_that_started_it(home):
    """Left alone it would go on writing when the lease is somebody else's."""
    driver = subprocess.Popen(
        [sys.executable, "-c", PARSE, str(home.root)], stdout=subprocess.PIPE, text=True, cwd=PROJECT
    )
    child = child_of(driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    psutil.wait_procs([child], timeout=5)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def child_of(driver: subprocess.Popen[str]) -> psutil.Process:
    """The dbt that it started."""
    for _ in range(4800):
        for child in psutil.Process(driver.pid).children(recursive=True):
            with suppress(psutil.Error):  # it may just have ended
                if any(Path(word).name == "dbt" for word in child.cmdline()):
                    return child
        assert driver.poll() is None, driver.communicate()
        time.sleep(0.05)
    raise AssertionError("it has started no dbt")


SHARES = (0.3, 0.5, 0.65, 0.8)
"""Of the time that dbt takes, when its driver is killed."""

BUILD = """
import sys
from pathlib import Path
from tests.reliability.limits_step import run
sys.exit(not run("tables", *sys.argv[1:])[0])
"""


@pytest.mark.crash
def test_the_step_that_drives_dbt_killed_at_any_moment_leaves_no_dbt_and_the_next_run_mends_it(tmp_path):
    home = shop(tmp_path / "home", days=5)
    last = FIRST + timedelta(days=4)
    take_in_all(home)
    whole = copied(home, tmp_path / "whole")
    driver = drive(whole, last)
    child_of(driver)
    began = time.monotonic()
    assert driver.wait(900) == 0
    seconds, wanted, table = time.monotonic() - began, fingerprints(whole.warehouse), []
    for share in SHARES:
        killed = copied(home, tmp_path / f"killed-{share}")
        driver = drive(killed, last)
        child = child_of(driver)
        time.sleep(share * seconds)
        alive = child.is_running()
        driver.kill()
        driver.wait()
        gone = time.monotonic()
        psutil.wait_procs([child], timeout=10)
        gone = time.monotonic() - gone
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        half = fingerprints(killed.warehouse)
        assert drive(killed, last).wait(900) == 0
        assert fingerprints(killed.warehouse) == wanted
        table.append(
            f"killed after {share * seconds:5.1f} s, dbt {'at work' if alive else 'done'}: it was gone after "
            f"{gone:.2f} s, {len(half):2} of {len(wanted)} tables there; after a plain run all equal"
        )
    print("\n" + "\n".join(table))


def drive(home: Home, last: date) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILD, str(FIRST), str(last)],
        cwd=PROJECT,
        env={**os.environ, "NIGHTSHELF_HOME": str(home.root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
    )
