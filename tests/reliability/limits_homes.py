"""Small disks that fill up, little memory, and the steps of a night run in processes of their own on them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest

from resources.home import Home, Shop
from resources.identity import IdentityKey

PROJECT = Path(__file__).parents[2]
KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class Told:
    """What a step did, and what it said of it where it failed."""

    ok: bool
    message: str


def step(home: Home, name: str, day: date, *, last: date | None = None, **environment: str) -> Told:
    """Run a step as Dagster would, in a process of its own; its record is kept elsewhere."""
    words = [sys.executable, "-m", "tests.reliability.limits_step", name, str(day), str(last or day)]
    done = subprocess.run(
        words,
        cwd=PROJECT,
        env={**os.environ, "NIGHTSHELF_HOME": str(home.root), "PYTHONPATH": str(PROJECT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    lines = done.stdout.strip().splitlines()
    assert lines and lines[-1].startswith("{"), done.stdout[-3000:] + done.stderr[-3000:]
    return Told(**json.loads(lines[-1]))


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A disk of `size` bytes, in memory; the test is skipped where nothing may be mounted."""
    folder.mkdir(parents=True)
    if sys.platform != "linux" or os.getuid():
        pytest.skip("only root on Linux may mount a small disk to fill")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "nightshelf-test", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        # Lazily: whatever a killed process may still have open does not keep the disk for ever.
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def filled(disk: Path, free: int) -> Iterator[None]:
    """All of the disk but `free` bytes is taken."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(MIB))
        except OSError:
            pass
        stream.truncate(max(0, stream.tell() - free))
    try:
        yield
    finally:
        filler.unlink()


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def raw_rows(home: Home) -> tuple[object, ...]:
    """Rows and an order-free hash of all events that were taken in, and of all that were refused."""
    with duckdb.connect() as connection:
        return tuple(
            connection.execute(
                f"SELECT count(*), sum(hash(t)::HUGEINT) FROM read_parquet('{home.loads}/{glob}') AS t"
            ).fetchall()[0]
            for glob in ("*/events/*/*.parquet", "*/rejects.parquet")
        )


def contents(folder: Path) -> str:
    """Hash over names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


FIRST, DAYS = date(2026, 1, 5), 3
LAST = FIRST + timedelta(days=DAYS - 1)


def shop_with_logs(root: Path, shoppers: int = 60) -> Home:
    """Three days of simulated logs in the drop folder, and nothing done with them."""
    from assets.logs.simulator import simulate

    home = Home(root)
    home.write_shop(Shop(first_day=FIRST))
    simulate(home, start=FIRST, days=DAYS, seed=3, shoppers=shoppers, products=60)
    for file in home.drop.rglob("*"):
        os.utime(file, (1_700_000_000, 1_700_000_000))
    IdentityKey.load(home)
    return home


def shop_with_model(root: Path) -> tuple[Home, date]:
    """A home with a warehouse, a published night and the model of the next; and that next night."""
    from assets.model.promotion import evaluate_night, promote_night
    from assets.recommendations.scoring import score
    from assets.recommendations.shelf import publish
    from resources.warehouse import Warehouse
    from tests.model.little_shop import tiny_encoder
    from tests.recommendations.homes import as_of, fill, make_home
    from tests.recommendations.test_night import hits, train

    world = hits()
    home, before = make_home(root), as_of(world, 5)
    with Warehouse(home).write() as connection:
        fill(connection, world)
    encoder = tiny_encoder(root.with_name("encoder"))
    train(home, before, encoder)
    evaluate_night(home, before.cut_off)
    promote_night(home, before.cut_off)
    score(home, before.cut_off)
    publish(home, before.cut_off)
    train(home, world, encoder)
    shutil.rmtree(encoder)
    return home, world.cut_off
