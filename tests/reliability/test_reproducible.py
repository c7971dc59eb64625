"""The same logs and the same seed give the same night, and no night knows a later day.

The short form, on tables, is in `tests/model/test_training_assets.py`; this is the whole way from raw files.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
from collections.abc import Iterator
from datetime import date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import duckdb
import pytest

from assets.recommendations.shelf import shelves
from resources.home import Home
from resources.model_store import ModelStore
from tests.model.little_shop import tiny_encoder
from tests.orchestration.shops import COMMAND, FIRST, LAST, small_shop
from tests.reliability.crash_homes import copied, drop
from tests.warehouse.raw_rows import fingerprints

D = LAST - timedelta(days=1)
"""The night that is looked at; `LAST` is the future."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A shop with the logs of six days, of which two have nights; nothing is done with them yet."""
    home = small_shop(tmp_path_factory.mktemp("raw"))
    home.write_shop(home.shop.model_copy(update={"first_night": D}))
    encoder = tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")
    with (home.root / home.shop.recipe).open("a") as recipe:
        recipe.write(f"encoder: {encoder}\n")
    tell_apart(home)
    return home


def nightshelf(home: Home, *words: str) -> None:
    done = subprocess.run(
        [str(COMMAND), "--home", str(home.root), *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def tell_apart(home: Home) -> None:
    """Split the files of LAST, which also tell late of what happened on D: the known, and the future."""
    files = [file for file in home.drop.rglob("*") if str(LAST) in file.name]
    assert len(files) == 3
    for file in files:
        header, lines = [], file.read_text().splitlines(keepends=True)
        if file.suffix == ".csv":
            header, lines = lines[:1], lines[1:]
        known = [line for line in lines if _day(line, home.shop.timezone) < str(LAST)]
        future = [line for line in lines if _day(line, home.shop.timezone) >= str(LAST)]
        assert len(known) < len(future)
        file.write_text("".join(header + future))
        if known:
            file.with_name(f"known{file.suffix}").write_text("".join(header + known))


def _day(line: str, zone: str) -> str:
    """Of what a line tells; of a header or a line of dirt, "" for long ago."""
    if moment := re.search(r'"ts": ?(\d+)', line):
        return str(datetime.fromtimestamp(int(moment[1]) / 1000, ZoneInfo(zone)).date())
    day = re.search(r"^\w+,(\d{4}-\d\d-\d\d)", line)
    return day[1] if day else ""


@pytest.fixture(scope="module")
def ignorant(raw: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The shop as of the evening of D: nothing that happened later is in its logs."""
    return _as_of_d(raw, tmp_path_factory.mktemp("ignorant") / "home")


def _as_of_d(raw: Home, root: Path) -> Home:
    home = copied(raw, root)
    for file in home.drop.rglob(f"*{LAST}*"):
        file.unlink()
    nightshelf(home, "backfill", str(FIRST), str(D))
    return home


@pytest.mark.crash
def test_two_homes_make_the_same_night(
    raw: Home, ignorant: Home, tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = _as_of_d(raw, tmp_path_factory.mktemp("again") / "home")
    assert dict(made(home)) == dict(made(ignorant))


@pytest.mark.crash
def test_a_planted_future_changes_nothing(
    raw: Home, ignorant: Home, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A day later than D is there before the night of D is made: its logs, rows of it that come late, its
    catalogue, its tables, and a model and a shelf that serve."""
    home = copied(raw, tmp_path_factory.mktemp("clairvoyant") / "home")
    drop(home, "nightshelf_csv/more.csv", [*rows_of_last(home, "more")])
    nightshelf(home, "backfill", str(FIRST), str(LAST))
    drop(home, "nightshelf_csv/late.csv", [*rows_of_last(home, "late")])
    nightshelf(home, "night", str(D))
    assert ModelStore(home).champion().day == LAST
    with duckdb.connect(str(home.warehouse), read_only=True) as connection:
        planted = "SELECT count(*) FROM marts.fct_events WHERE source = 'nightshelf_csv' AND day = ?"
        assert connection.execute(planted, [LAST]).fetchone()[0] > 100
    assert dict(made(home)) == dict(made(ignorant))


def rows_of_last(home: Home, name: str) -> Iterator[str]:
    """Purchases on LAST, by shoppers nobody knows, of items of the catalogue and of new ones."""
    (catalogue, *_) = sorted((home.drop / "nightshelf_catalogue").iterdir())
    items = [line.split(",")[0] for line in catalogue.read_text().splitlines()[1:51]]
    for n, item in enumerate([*items, *(f"new{k}" for k in range(10))] * 4):
        yield f"{name}{n},{LAST}T15:{n % 60:02d}:00+01:00,{name}{n % 20},s{n % 20},{item},purchase,19.90,1"


def made(home: Home) -> Iterator[tuple[str, object]]:
    """Everything as of D and the days before it: tables, snapshot, model, evaluation, scores, shelf."""
    with duckdb.connect(str(home.warehouse), read_only=True) as connection:
        for name, rows, digest in _rows_until(connection, D):
            yield name, (rows, digest)
    store = ModelStore(home)
    yield "model", store.candidate(D)
    for name, folder in (
        ("snapshot", home.snapshots / "by_day"),
        ("evaluation", home.models / "evaluations"),
        ("verdict", home.models / "champions"),
        ("scores", home.scores / str(D)),
        ("outcome", home.outcomes),
    ):
        for file in sorted(folder.glob("*")):  # the first night has no outcome yet
            if folder.name == str(D) or file.stem <= str(D):
                yield f"{name}: {file.name}", hashlib.sha256(file.read_bytes()).hexdigest()
    (shelf,) = (one for one in shelves(home) if one.day == D)
    found = fingerprints(shelf.path)
    del found["main.rejects"]  # an account of all files so far, not of a day
    yield "shelf", (shelf.path.name, found)


def _rows_until(connection: duckdb.DuckDBPyConnection, day: date) -> Iterator[tuple[str, int, int]]:
    names = connection.execute(
        "SELECT table_schema || '.' || table_name FROM information_schema.tables AS t "
        "JOIN information_schema.columns USING (table_schema, table_name) "
        "WHERE column_name = 'day' AND (table_type = 'BASE TABLE' OR table_schema = 'marts') ORDER BY ALL"
    ).fetchall()
    assert len(names) >= 10
    for (name,) in names:
        query = f"SELECT count(*), sum(hash(t)::HUGEINT) FROM (SELECT * FROM {name} WHERE day <= ?) AS t"
        yield name, *connection.execute(query, [day]).fetchone()
