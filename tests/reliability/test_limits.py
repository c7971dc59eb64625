"""A full disk and little memory: a clear error, what is published stays, and the next run goes on."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from assets.logs.raw_zone import outcomes
from assets.recommendations.assets import published_shelf
from assets.recommendations.shelf import publish, shelves
from resources.home import Home
from resources.room import MEMORY_LIMIT, lack, room
from resources.warehouse import Warehouse
from tests.reliability.limits_homes import (
    DAYS,
    FIRST,
    KIB,
    LAST,
    MIB,
    PROJECT,
    Told,
    contents,
    filled,
    raw_rows,
    shop_with_logs,
    shop_with_model,
    size_of,
    small_disk,
    step,
)
from tests.reliability.publish_homes import NIGHTS, make_shop, names
from tests.warehouse.raw_rows import fingerprints

LEVELS = (0, 64 * KIB, 1 * MIB, 8 * MIB)
"""Bytes left on the disk."""
SAYS = {
    "disk": r"because the disk is full: [\d,]+ of [\d,]+ MiB are free where .* Free some.* run it again",
    "memory": r"because there is too little memory.* lift the limit.* run it again",
}


def test_what_is_lacking_is_told_from_all_that_engines_say_of_it():
    disk, memory = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), MemoryError()
    assert (lack(disk), lack(memory), lack(ValueError("no"))) == ("disk", "memory", None)
    assert lack("IO Error: Could not write file: No space left on device") == "disk"
    assert lack(duckdb.OutOfMemoryException("Out of Memory Error: failed to pin block")) == "memory"
    wrapped = RuntimeError("the step failed")
    wrapped.__cause__ = disk
    assert lack(wrapped) == "disk"


def test_other_errors_pass(tmp_path):
    with pytest.raises(ValueError, match="as it was"), room(Home(tmp_path), "Publishing"):
        raise ValueError("as it was")


def test_a_shelf_that_finds_no_room_says_so_and_is_published_once_there_is(tmp_path, monkeypatch):
    apart = make_shop(tmp_path / "apart")
    with small_disk(tmp_path / "disk", 64 * MIB) as disk:
        copy(apart, home := Home(disk / "home"))
        monkeypatch.setenv("NIGHTSHELF_HOME", str(home.root))
        before, kept = fingerprints(home.published), shelves(home)
        for free in (0, 512 * KIB):
            with filled(disk, free):
                done = materialize_shelf(NIGHTS[1])
                failure = done.failure_data_for_node("published_shelf")
                assert not done.success
                assert failure.error.cause.cls_name == "NoRoomError"
                assert_says(failure.error.cause.message, SAYS["disk"])
            assert fingerprints(home.published) == before and shelves(home) == kept
            assert names(home.root) == []
        assert materialize_shelf(NIGHTS[1]).success
        found = fingerprints(home.published)
    publish(apart, NIGHTS[1])
    assert found == fingerprints(apart.published) != before


def materialize_shelf(night: date) -> dg.ExecuteInProcessResult:
    return dg.materialize([published_shelf], partition_key=str(night), raise_on_error=False)


def assert_says(message: str, sentence: str) -> None:
    assert re.search(sentence, message, re.DOTALL), message


SPILL = """
import os, sys
from pathlib import Path
from resources.home import Home
from resources.warehouse import Warehouse
with Warehouse(Home(Path(sys.argv[1]))).write() as connection:
    print(*connection.execute("SELECT current_setting('memory_limit')").fetchone(), flush=True)
    connection.execute("SET preserve_insertion_order = false")
    connection.execute("CREATE TABLE t AS SELECT hash(range) AS h FROM range(30_000_000) ORDER BY h")
"""


def test_what_a_killed_process_moved_out_of_its_memory_is_swept_by_the_next(tmp_path):
    home = Home(tmp_path)
    spilled = Path(f"{home.warehouse}.tmp")
    child = subprocess.Popen(
        [sys.executable, "-c", SPILL, str(home.root)],
        cwd=PROJECT,
        env=os.environ | {MEMORY_LIMIT: "100MB"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout and child.stdout.readline() == "95.3 MiB\n"
    while not list(spilled.glob("*")):
        assert child.poll() is None
        time.sleep(0.01)
    child.kill()
    child.wait()
    assert list(spilled.glob("*"))
    with Warehouse(home).lease():
        assert not spilled.exists()


@pytest.mark.crash
def test_logs_and_tables_on_a_full_disk(tmp_path):
    """Taking in, then dbt, each on a disk with so much left, and once more when there is room again."""
    pristine = shop_with_logs(tmp_path / "pristine")
    undisturbed = Home(tmp_path / "undisturbed")
    shutil.copytree(pristine.root, undisturbed.root)  # and so the same identity key
    assert step(undisturbed, "ingest", FIRST).ok
    taken_in = Home(tmp_path / "taken_in")
    shutil.copytree(undisturbed.root, taken_in.root)
    assert step(undisturbed, "tables", FIRST, last=LAST).ok
    wanted = raw_rows(undisturbed), fingerprints(undisturbed.warehouse)
    table: list[str] = []
    for free in LEVELS:
        with small_disk(tmp_path / f"ingest-{free}", size_of(pristine.root) + 160 * MIB) as disk:
            home = Home(disk / "home")
            shutil.copytree(pristine.root, home.root)
            # Four nights that fail: no file may count as tried and refused for want of room.
            with filled(disk, free):
                told = [step(home, "ingest", FIRST) for _ in range(4 if free == 0 else 1)]
            again(table, "ingest", free, told[-1], lambda home=home: step(home, "ingest", FIRST))
            assert raw_rows(home) == wanted[0]
            assert all(outcome.adds_up and outcome.reason == "" for outcome in outcomes(home))
            assert not any((home.loads.parent / "incoming").glob("*"))
    for free in LEVELS:
        with small_disk(tmp_path / f"tables-{free}", size_of(taken_in.root) + 160 * MIB) as disk:
            home = Home(disk / "home")
            shutil.copytree(taken_in.root, home.root)
            with filled(disk, free):
                told_now = step(home, "tables", FIRST, last=LAST)
            again(table, "dbt", free, told_now, lambda home=home: step(home, "tables", FIRST, last=LAST))
            assert (raw_rows(home), fingerprints(home.warehouse)) == wanted
            assert not Path(f"{home.warehouse}.tmp").exists()
    show(table)


@pytest.mark.crash
def test_snapshot_model_scores_and_shelf_on_a_full_disk(tmp_path):
    pristine, night = shop_with_model(tmp_path / "pristine")
    steps = ("snapshot", "measure", "promote", "score", "publish")
    table: list[str] = []
    state = pristine
    for name in steps:
        after = Home(tmp_path / f"after-{name}")
        copy(state, after)
        assert step(after, name, night).ok
        wanted = state_of(after)
        for free in LEVELS:
            with small_disk(tmp_path / f"{name}-{free}", size_of(state.root) + 32 * MIB) as disk:
                home = Home(disk / "home")
                copy(state, home)
                before = fingerprints(home.published)
                with filled(disk, free):
                    told = step(home, name, night)
                if not told.ok:
                    assert fingerprints(home.published) == before
                again(table, name, free, told, lambda home=home, name=name: step(home, name, night))
                assert state_of(home) == wanted
                assert names(home.root) == []
        state = after
    assert fingerprints(state.published)["main.nights"] != fingerprints(pristine.published)["main.nights"]
    show(table)


def copy(home: Home, to: Home) -> None:
    """The published file stays a link to one of the shelves."""
    shutil.copytree(home.root, to.root, ignore=shutil.ignore_patterns("published.duckdb"))
    current = next(shelf for shelf in shelves(home) if shelf.current)
    os.link(to.shelves / current.path.name, to.published)


def state_of(home: Home) -> tuple[object, ...]:
    """What the steps leave, apart from when they did it and from how long that took."""
    snapshots = sorted(p.name for p in home.snapshots.glob("[0-9a-f]*"))
    scored = {p.name: contents(p) for p in home.scores.glob("2*")}
    champions = {p.name for p in home.models.rglob("*.json") if "champion" in str(p)}
    return snapshots, scored, champions, fingerprints(home.published)


def again(table: list[str], name: str, free: int, told: Told, run: Callable[[], Told]) -> None:
    """The step said what was lacking, or had room enough; and now it succeeds."""
    if not told.ok:
        assert_says(told.message, SAYS["disk"])
    final = run()
    assert final.ok, final.message
    said = "had room" if told.ok else "said that the disk is full"
    table.append(f"{name:10} {free // KIB:>8,} KiB left   {said:28} then: as undisturbed")


def show(table: list[str]) -> None:
    print("\n" + "\n".join(table))


@pytest.mark.crash
def test_little_memory_for_logs_tables_and_shelf(tmp_path):
    """Taking in as `ulimit -v` would hold it to, children included; the others by NIGHTSHELF_MEMORY_LIMIT."""
    table: list[str] = []
    pristine = shop_with_logs(tmp_path / "logs")
    undisturbed = Home(tmp_path / "undisturbed")
    shutil.copytree(pristine.root, undisturbed.root)
    assert step(undisturbed, "ingest", FIRST).ok
    taken_in = raw_rows(undisturbed)
    for size in (256, 512, 768, 1024, 2048):
        home = Home(tmp_path / f"ingest-{size}")
        shutil.copytree(pristine.root, home.root)
        told = ingest_within(home, size * MIB)
        remember(table, "ingest", f"{size:,} MiB of address space", told, step(home, "ingest", FIRST))
        assert raw_rows(home) == taken_in
    shop = make_shop(tmp_path / "shelf")
    publish(apart := Home(copied(shop, tmp_path / "apart")), NIGHTS[1])
    for limit in ("1MB", "2MB", "4MB", "16MB", "64MB"):
        home = Home(copied(shop, tmp_path / f"shelf-{limit}"))
        before = fingerprints(home.published)
        told = step(home, "publish", NIGHTS[1], NIGHTSHELF_MEMORY_LIMIT=limit)
        assert told.ok or fingerprints(home.published) == before
        remember(table, "publish", f"memory_limit {limit}", told, step(home, "publish", NIGHTS[1]))
        assert fingerprints(home.published) == fingerprints(apart.published) and names(home.root) == []
    raw = Home(tmp_path / "raw")
    shutil.copytree(undisturbed.root, raw.root)
    assert step(undisturbed, "tables", FIRST, last=LAST).ok
    for limit in ("1MB", "16MB", "256MB"):
        home = Home(tmp_path / f"tables-{limit}")
        shutil.copytree(raw.root, home.root)
        told = step(home, "tables", FIRST, last=LAST, NIGHTSHELF_MEMORY_LIMIT=limit)
        remember(table, "dbt", f"memory_limit {limit}", told, step(home, "tables", FIRST, last=LAST))
        assert fingerprints(home.warehouse) == fingerprints(undisturbed.warehouse)
        assert not Path(f"{home.warehouse}.tmp").exists()
    show(table)


def remember(table: list[str], name: str, limit: str, told: Told, final: Told) -> None:
    if not told.ok:
        assert_says(told.message, SAYS["memory"])
    assert final.ok, final.message
    said = "had enough" if told.ok else "said that memory is short"
    table.append(f"{name:10} {limit:28} {said:28} then: as undisturbed")


def copied(shop: Home, root: Path) -> Path:
    copy(shop, Home(root))
    return root


TAKE_IN = """
import json, resource, sys
from pathlib import Path
from assets.logs.raw_zone import take_in_all
from resources.home import Home
from resources.room import NoRoomError, room

home, limit, told = Home(Path(sys.argv[1])), int(sys.argv[2]), {"ok": True, "message": ""}
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    with room(home, "Taking in log files"):
        take_in_all(home)
except NoRoomError as error:
    told = {"ok": False, "message": str(error)}
print(json.dumps(told))
"""


def ingest_within(home: Home, limit: int) -> Told:
    """The whole of it, and so its child as well, within so many bytes of address space.

    Not by way of Dagster, which would itself be the first to fail.
    """
    words = [sys.executable, "-c", TAKE_IN, str(home.root), str(limit)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=PROJECT, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return Told(**json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.crash
def test_the_command_line_on_a_full_disk(tmp_path):
    """Dagster's own record lies on that disk too."""
    pristine = shop_with_logs(tmp_path / "pristine")
    command = Path(sys.executable).parent / "nightshelf"
    with small_disk(tmp_path / "disk", size_of(pristine.root) + 192 * MIB) as disk:
        home = Home(disk / "home")
        shutil.copytree(pristine.root, home.root)
        words = [command, "--home", home.root, "backfill", str(FIRST), str(LAST), "--tables"]
        with filled(disk, 0):
            full = subprocess.run(words, capture_output=True, text=True, check=False)
        assert full.returncode == 1
        assert "Traceback" not in full.stderr
        assert_says(full.stdout + full.stderr, SAYS["disk"])
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert len(fingerprints(home.warehouse)) > DAYS
