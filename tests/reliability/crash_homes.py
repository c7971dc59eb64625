"""Homes in which a stage is about to run, what a home holds, and what its readers see meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from assets.logs.raw_zone import take_in_all
from assets.warehouse.project import DBT
from resources.home import Home, Shop
from resources.identity import IdentityKey
from resources.model_store import ModelStore
from resources.warehouse import Warehouse
from tests.model.little_shop import D, little_warehouse, tiny_encoder
from tests.recommendations.homes import as_of, fill, make_home, make_night, some_world
from tests.reliability.crash_driver import STAGES
from tests.warehouse.raw_rows import RawZone, fingerprints
from tests.warehouse.weekend import FIRST as WEEKEND
from tests.warehouse.weekend import fill as fill_weekend

ROOT = Path(__file__).parents[2]
HEADER = "event_id,event_time,user_id,session_id,item_id,behavior,price,quantity"
RECIPE = """
encoder: {encoder}
learning_rate: 5.0e-3
max_length: 32
max_steps: 4
sequence_epochs: 1
sequence_width: 16
"""


class Homes:
    """For every case a home at the state before it, made once and copied for each use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.before = cache(self._before)
        self.after = cache(self._after)

    def copy(self, case: str, to: Path) -> Home:
        """A home as it is before the stage of `case`; links, times and all."""
        home, _ = self.before(case)
        return copied(home, to)

    def day(self, case: str) -> date:
        return self.before(case)[1]

    def _before(self, case: str) -> tuple[Home, date]:
        made = {
            "ingest": self._dropped,
            "first ingest": self._empty,
            "ingest with its source": self._refused,
            "manifest": self._project,
            "dbt": self._raw,
            "damaged snapshot": self._damaged_snapshot,
            "damaged bundle": self._damaged_bundle,
            "little night": self._little,
            "little publish": self._little_scored,
            "little rollback": self._little_scored,
        }
        if case in made:
            return made[case](self.folder / case)
        if case == "night":
            return self.before("snapshot")
        chain = ["snapshot", "train", "evaluate", "promote", "score", "outcomes", "publish", "undo"]
        if case.endswith(" again"):
            return self.after(case.removesuffix(" again"))[:2]
        at = chain.index(case)
        return self.after(chain[at - 1])[:2] if at else self._shop(self.folder / "shop")

    def _after(self, case: str) -> tuple[Home, date, dict[str, str]]:
        """The home after an undisturbed run, and what it holds."""
        home = self.copy(case, self.folder / f"after {case}" / "home")
        day = self.day(case)
        run(case, home, day)
        return home, day, holdings(home)

    def _empty(self, folder: Path) -> tuple[Home, date]:
        home = Home(folder / "home")
        home.write_shop(Shop(first_day=date(2026, 1, 5), first_night=date(2026, 1, 12)))
        IdentityKey.load(home)
        drop(home, "nightshelf_csv/a.csv", rows("a", 40))
        return home, date(2026, 1, 5)

    def _dropped(self, folder: Path) -> tuple[Home, date]:
        """A file taken in, and waiting: another one twice, a catalogue, and one that is refused."""
        home, day = self._empty(folder)
        take_in_all(home)
        drop(home, "nightshelf_csv/c.csv", [*rows("c", 60), "half,a,line"])
        drop(home, "nightshelf_csv/c-again.csv", [*rows("c", 60), "half,a,line"])
        products = [f"p{n},Lamp {n},Home,Acme,{n}.50" for n in range(20)]
        drop(home, "nightshelf_catalogue/p.csv", products, "item_id,title,category,brand,price")
        drop(home, "nightshelf_csv/wrong.csv", ["1,2,3"], "not,our,columns")
        return home, day

    def _refused(self, folder: Path) -> tuple[Home, date]:
        """A file refused since nobody knew its source, which is there by now."""
        home, day = self._empty(folder)
        drop(home, "till/t.csv", rows("t", 30))
        take_in_all(home)
        text = (ROOT / "assets" / "logs" / "sources" / "nightshelf_csv.yaml").read_text()
        home.sources.mkdir()
        (home.sources / "till.yaml").write_text(re.sub(r"(?m)^name:.*$", "name: till", text))
        return home, day

    def _project(self, folder: Path) -> tuple[Home, date]:
        home, day = self._empty(folder)
        skipped = shutil.ignore_patterns("target", "logs")
        shutil.copytree(DBT, home.root / "project", ignore=skipped)
        return home, day

    def _raw(self, folder: Path) -> tuple[Home, date]:
        """The tables of the first day, and raw rows of three more."""
        home = Home(folder / "home")
        home.write_shop(Shop(timezone="Europe/Berlin", first_day=date(2026, 3, 23)))
        fill_weekend(RawZone(home))
        run("dbt", home, WEEKEND - timedelta(days=2))
        return home, WEEKEND + timedelta(days=1)

    def _shop(self, folder: Path) -> tuple[Home, date]:
        """A shop with tables up to D, the night before it, trained and published, and older shelves."""
        home = Home(folder / "home")
        home.root.mkdir(parents=True)
        little_warehouse(home.root)
        encoder = tiny_encoder(folder / "encoder")
        (home.root / "quick.yaml").write_text(RECIPE.format(encoder=encoder))
        IdentityKey.load(home)
        home.write_shop(Shop(recipe="quick.yaml", history_days=12, shelf_size=5, keep_shelves=2))
        for stage in ("snapshot", "train", "evaluate", "promote", "score", "publish"):
            run(stage, home, D - timedelta(days=1))
        (shelf,) = home.shelves.glob("*.duckdb")
        for back in (4, 3):
            older = home.shelves / f"{D - timedelta(days=back)}-{back:08x}.duckdb"
            shutil.copy2(shelf, older)
        return home, D

    def _damaged_snapshot(self, folder: Path) -> tuple[Home, date]:
        home = copied(self.after("snapshot")[0], folder / "home")
        pointer = json.loads((home.snapshots / "by_day" / f"{D}.json").read_text())
        damage(home.snapshots / pointer["id"] / "items.parquet")
        return home, D

    def _damaged_bundle(self, folder: Path) -> tuple[Home, date]:
        home = copied(self.after("train")[0], folder / "home")
        damage(home.models / ModelStore(home).candidate(D) / "item_vectors.safetensors")
        return home, D

    def _little(self, folder: Path) -> tuple[Home, date]:
        """A small world's tables, made without training: for what has to be quick."""
        world = some_world(days=9)
        home = make_home(folder / "home", keep_shelves=2)
        IdentityKey.load(home)
        with Warehouse(home).write() as connection:
            fill(connection, world)
        for days in (6, 7, 8):
            make_night(home, as_of(world, days))
            run("publish", home, as_of(world, days).cut_off)
        return home, world.cut_off

    def _little_scored(self, folder: Path) -> tuple[Home, date]:
        home = copied(self.before("little night")[0], folder / "home")
        make_night(home, some_world(days=9))
        return home, some_world(days=9).cut_off


def stage_of(case: str) -> str:
    """The stage that a case runs: `score again` is `score`."""
    words = {"night": "night", "damaged snapshot": "snapshot", "damaged bundle": "train"}
    words |= {"little night": "snapshot", "little publish": "publish", "little rollback": "rollback"}
    words |= {"first ingest": "ingest"}
    return words.get(case, case.split(maxsplit=1)[0])


def run(case: str, home: Home, day: date) -> None:
    """Run a stage undisturbed; in this process, but for what only a process of its own runs as at night."""
    stage = stage_of(case)
    if stage in ("dbt", "night", "manifest"):
        done = drive(stage, home, day)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        patch.setenv("NIGHTSHELF_HOME", str(home.root))
        STAGES[stage](home, day)


ENVIRONMENT = {"NIGHTSHELF_DEVICES": "none", "OMP_NUM_THREADS": "1"}


def drive(stage: str, home: Home, day: date, crash_at: str = "") -> subprocess.CompletedProcess[str]:
    """Run a stage in a process of its own, to its end."""
    env = {**os.environ, **ENVIRONMENT, "NIGHTSHELF_HOME": str(home.root)}
    if crash_at:
        env["NIGHTSHELF_CRASH_AT"] = crash_at
    return subprocess.run(
        [sys.executable, "-m", "tests.reliability.crash_driver", stage, str(home.root), str(day)],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def copied(home: Home, to: Path) -> Home:
    """A copy whose published file is a link to its shelf, as in the home itself."""
    to.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", home.root, to], check=True)
    return Home(to)


def drop(home: Home, name: str, lines: list[str], header: str = HEADER) -> None:
    file = home.drop / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join([header, *lines]) + "\n")
    os.utime(file, (1_700_000_000, 1_700_000_000))  # not touched for long, so whole


def rows(name: str, count: int) -> list[str]:
    return [
        f"{name}{n},2026-01-0{5 + n % 3}T12:{n % 60:02d}:00+01:00,u{n % 7},s{n % 9},p{n % 20},click,9.90,1"
        for n in range(count)
    ]


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


# What a home holds -----------------------------------------------------------------------------------------

ASIDE = ("leases/", "project/", "dagster/partial_parse.msgpack")
"""Files of which only the name counts: locks say who held them last, what dbt parsed when that was."""
VOLATILE = {"began_at", "seconds", "attempts", "at"}
"""When something was done, how long it took, and at which attempt: what a second run cannot repeat."""


def holdings(home: Home) -> dict[str, str]:
    """Everything below a home: {path, random parts of names as `*`: hash of what it holds}.

    Of databases, an order-free hash of each table counts; of the published file, also which shelf it is.
    """
    found: dict[str, str] = {}
    for path in sorted(home.root.rglob("*")):
        name = path.relative_to(home.root).as_posix()
        if name == "raw/incoming":
            continue  # a work place; nobody misses it while it is empty
        if name.startswith("vectors/"):
            name = re.sub(r"\d{20}-[0-9a-f]{8}", "*", name)
        found[name] = "" if path.is_dir() or name.startswith(ASIDE) else _digest(path)
    if home.published.exists():
        shown = [shelf.name for shelf in home.shelves.iterdir() if shelf.samefile(home.published)]
        found["published.duckdb"] = f"{shown} {found['published.duckdb']}"
    return found


def _digest(file: Path) -> str:
    if file.suffix == ".duckdb":
        return str(fingerprints(file))
    content = file.read_bytes()
    if file.name == "outcome.json" or file.parent.name == "rollbacks":
        content = json.dumps(_timeless(json.loads(content or b"{}"))).encode()
    return hashlib.sha256(content).hexdigest()[:16]


def _timeless(entry: Any) -> Any:
    if isinstance(entry, list):
        return [_timeless(one) for one in entry]
    return {name: value for name, value in entry.items() if name not in VOLATILE}


class Readers:
    """Somebody who opens the published file again and again, as long as the block lasts."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.seen: set[str] = set()
        self.errors: list[str] = []
        self.reads = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Readers:
        if self.home.published.exists():
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _read(self) -> None:
        while True:
            last = self._over.is_set()
            try:
                self.seen.add(str(fingerprints(self.home.published)))
                self.reads += 1
            except Exception as error:
                self.errors.append(str(error))
            if last:
                return
            time.sleep(0.03)
