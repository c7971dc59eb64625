"""The same rows give the same tables, in whichever files, formats and order they come."""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

from assets.logs import raw_zone
from assets.logs.reader import Reader
from assets.logs.simulator import simulate
from assets.logs.sources import load_source
from resources.home import Home, Shop
from tests.warehouse.raw_rows import dbt

COLUMNS = ("event_id", "at", "user", "item", "code", "price", "title", "more")
SOURCE = """
name: mix
description: one publisher, who writes the same rows in three formats
timezone: Europe/Berlin
files:
"""
SECTION = """
  - match: "*.{type}"
    format: {{type: {type}}}
    time: {{column: at}}
    columns: {{event_id: event_id, user_id: user, item_id: item, behavior: code, price: price, title: title}}
    window: {{latest: 2030-01-01}}
"""
Row = dict[str, str]


def written(rows: Sequence[Row], kind: str) -> bytes:
    """The rows as a file of this format; an empty text is no value in any of them."""
    if kind == "jsonl":
        lines = ({name: value for name, value in row.items() if value} for row in rows)
        return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    if kind == "parquet":
        columns = {name: pa.array([row[name] or None for row in rows], pa.string()) for name in COLUMNS}
        out = io.BytesIO()
        pq.write_table(pa.table(columns), out)
        return out.getvalue()
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@dataclass(frozen=True)
class Arrangement:
    """One way to bring some rows: which file each comes in, how often, and in what order."""

    kinds: tuple[str, ...]
    """Format of each file."""
    places: tuple[tuple[int, int], ...]
    """(row, file), in the order in which they are written."""

    def files(self, rows: Sequence[Row]) -> dict[str, bytes]:
        return {
            f"{n}.{kind}": written([rows[row] for row, file in self.places if file == n], kind)
            for n, kind in enumerate(self.kinds)
            if kind == "csv" or any(file == n for _, file in self.places)
        }


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "event_id": st.sampled_from(["", "", "e1", "e2", "e3"]),
            "at": st.sampled_from(
                ["2026-01-05T10:00:00Z", "2026-01-05 10:00:00", "2026-01-06", "2026-01-06T23:30:00-05:00"]
            )
            | st.sampled_from(["2126-01-05", "never", ""]),
            "user": st.sampled_from(["u1", "u2", "jane@example.org", ""]),
            "item": st.sampled_from(["p1", "p,2", 'p"3', "鞋"]),
            "code": st.sampled_from(["view", "buy"]),
            "price": st.sampled_from(["", "9.99", "-5", "1e2", "NaN", "n/a"]),
            "title": st.sampled_from(["", "Shoe", "Schuh, schön", "it's", " padded "]),
            "more": st.sampled_from(["", "x"]),
        }
    ),
    min_size=1,
    max_size=12,
)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Row], Arrangement]:
    """Rows, and a way to bring each of them at least once."""
    rows = draw(ROWS)
    kinds = draw(st.lists(st.sampled_from(["csv", "csv", "jsonl", "parquet"]), min_size=1, max_size=4))
    file = st.integers(0, len(kinds) - 1)
    once = [(row, draw(file)) for row in range(len(rows))]
    again = draw(st.lists(st.tuples(st.integers(0, len(rows) - 1), file), max_size=6))
    return rows, Arrangement(tuple(kinds), tuple(draw(st.permutations([*once, *again]))))


def digest(folders: Sequence[Path]) -> dict[str, Any]:
    """(rows, order-free hash) of all events and rejects below these folders; of rows that are alike, one.
    Where they came from is left out.
    """
    found: dict[str, Any] = {}
    with duckdb.connect() as db:
        for what, glob, origin in (
            ("events", "events/*/*.parquet", "load_id, line"),
            ("rejects", "rejects.parquet", "load_id, file, line"),
        ):
            files = [str(file) for folder in folders for file in folder.glob(glob)]
            found[what] = (
                files
                and db.execute(
                    f"SELECT count(*), sum(hash(t)::HUGEINT) FROM (SELECT DISTINCT * EXCLUDE ({origin}) "
                    f"FROM read_parquet({files}, hive_partitioning = true)) AS t"
                ).fetchone()
            )
    return found


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sources") / "mix.yaml"
    file.write_text(SOURCE + "".join(SECTION.format(type=kind) for kind in ("csv", "jsonl", "parquet")))
    return file


cached = functools.cache(load_source)


def read_in_process(files: dict[str, bytes], source_file: Path) -> tuple[dict[str, Any], int]:
    """Digest of what the reader makes of the files, and how many rows it accounts for."""
    source, rows = cached(source_file), 0
    with tempfile.TemporaryDirectory() as folder:
        outs = []
        for n, (name, content) in enumerate(files.items()):
            copy, out = Path(folder) / f"{n}", Path(folder) / f"out-{n}"
            copy.write_bytes(content)
            out.mkdir()
            spec = source.spec_for(name)
            assert spec is not None
            tally = Reader(
                {
                    "copy": str(copy),
                    "file": name,
                    "path": name,
                    "source": "mix",
                    "spec": spec.model_dump(mode="json"),
                    "zone": "Europe/Berlin",
                    "shop_zone": "Europe/Berlin",
                    "namespace": "shop",
                    "key": "00" * 32,
                    "load_id": f"{n:016x}",
                    "latest": "2030-01-01",
                    "out": str(out),
                    "threads": 1,
                    "verbatim": False,
                }
            ).read()
            rows += tally["rows_loaded"] + tally["rows_refused"]
            outs.append(out)
        return digest(outs), rows


def take_in(home: Home, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        file = home.drop / "mix" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        os.utime(file, (1_700_000_000, 1_700_000_000))
    taken = raw_zone.take_in_all(home)
    assert len(taken) == len(files)
    assert all(outcome.adds_up and outcome.status != "still_written" for outcome in taken)


def loads_of(home: Home) -> list[Path]:
    return [folder for folder in home.loads.iterdir() if not folder.name.startswith("_")]


def is_law(case: tuple[list[Row], Arrangement], source: Path) -> None:
    """However the rows come, they are the same, and all of them are accounted for."""
    rows, arrangement = case
    expected, _ = read_in_process({"all.csv": written(rows, "csv")}, source)
    found, count = read_in_process(arrangement.files(rows), source)
    assert found == expected
    assert count == len(arrangement.places)


def is_law_of_the_raw_zone(case: tuple[list[Row], Arrangement], source: Path) -> None:
    """The same by way of drop folder, child processes and ledger; and the same files again change nothing."""
    rows, arrangement = case
    expected, _ = read_in_process({"all.csv": written(rows, "csv")}, source)
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        home.write_shop(Shop())
        home.sources.mkdir()
        shutil.copy(source, home.sources)
        home.keys.mkdir()
        (home.keys / "identity.k1").write_text("00" * 32)
        files = arrangement.files(rows)
        take_in(home, files)
        assert digest(loads_of(home)) == expected
        take_in(home, {f"renamed-{name}": content for name, content in files.items()})
        assert digest(loads_of(home)) == expected
        rows_in_place = sum(raw_zone.rows_in_place(home).values())
        assert rows_in_place == sum(outcome.rows_loaded for outcome in raw_zone.outcomes(home))


@settings(max_examples=15)
@given(case=cases())
def test_the_same_rows_are_the_same_in_any_files_and_formats(
    case: tuple[list[Row], Arrangement], source: Path
) -> None:
    is_law(case, source)


@pytest.mark.crash
def test_five_hundred_arrangements_of_rows_are_all_the_same(source: Path) -> None:
    counts, began = Counter[str](), time.monotonic()

    @settings(max_examples=500)
    @given(case=cases())
    def in_process(case: tuple[list[Row], Arrangement]) -> None:
        is_law(case, source)
        counts.update(cases=1, files=len(case[1].kinds), rows=len(case[1].places))

    @settings(max_examples=25)
    @given(case=cases())
    def whole_way(case: tuple[list[Row], Arrangement]) -> None:
        is_law_of_the_raw_zone(case, source)
        counts.update(cases_by_way_of_the_drop_folder=1)

    in_process()
    whole_way()
    print(f"{dict(counts)}: one hash each, in {time.monotonic() - began:.0f} s")
    assert counts["cases"] >= 500


# ---- The tables of a shop ----

DAYS = 4
FIRST = date(2026, 1, 5)


def simulated(folder: Path) -> dict[str, list[bytes]]:
    """Files of a small shop by name, as their lines."""
    home = Home(folder)
    simulate(home, start=FIRST, days=DAYS, seed=11, shoppers=120, products=60)
    files = {
        str(file.relative_to(home.drop)): file.read_bytes().splitlines(keepends=True)
        for file in sorted(home.drop.rglob("*"))
        if file.is_file()
    }
    # And what makes the order matter, if anything does: much at one moment, and one id for several things.
    web = next(name for name in files if name.startswith("nightshelf_csv"))
    header = files[web][0].decode().strip().split(",")
    draw = random.Random(5)
    for n in range(400):
        values = {
            "event_id": f"tie-{n % 150}",
            "event_time": f"2026-01-0{5 + n % 3}T12:00:00Z",
            "user_id": f"tied-{n % 9}",
            "session_id": "s",
            "item_id": f"p{draw.randrange(12)}",
            "behavior": draw.choice(["browse", "click", "cart", "purchase"]),
            "price": f"{draw.randrange(1, 90)}.50",
            "quantity": "1",
        }
        files[web].append((",".join(values.get(name, "") for name in header) + "\n").encode())
    return files


def arranged(files: dict[str, list[bytes]], how: str, draw: random.Random) -> dict[str, bytes]:
    """The same lines in other files."""
    made: dict[str, bytes] = {}
    for name, lines in files.items():
        if how == "as they came":
            made[name] = b"".join(lines)
            continue
        header, records = (lines[:1], lines[1:]) if name.endswith(".csv") else ([], lines)
        if how == "repeated":
            records = records + draw.sample(records, len(records) // 3)
        if how != "renamed":
            records = draw.sample(records, len(records))
        size = {"split": 37, "shuffled": 10**9, "repeated": 101, "renamed": 10**9}[how]
        folder, ending = name.split("/")[0], name.rsplit(".")[-1]
        for at in range(0, len(records), size):
            content = b"".join([*header, *records[at : at + size]])
            other = f"{folder}/{hashlib.sha256(name.encode()).hexdigest()[:6]}-{draw.random()}.{ending}"
            made[other + ".gz" if at % 2 else other] = gzip.compress(content) if at % 2 else content
    return made


def tables_of(home: Home) -> dict[str, Any]:
    """(rows, order-free hash) of every table and view, but for where rows came from."""
    with duckdb.connect(str(home.warehouse), read_only=True) as db:
        found = db.execute(
            "SELECT table_schema || '.' || table_name, "
            "list(column_name) FILTER (column_name NOT IN ('load_id', 'line')) "
            "FROM information_schema.columns WHERE table_schema <> 'raw' GROUP BY ALL"
        ).fetchall()
        tables = {}
        for table, columns in found:
            chosen = ", ".join(f'"{column}"' for column in sorted(columns))
            # Until it is told that a row came twice, it is there twice: how often is no part of the law.
            once = "WHERE removed_because IS DISTINCT FROM 'duplicate'" if table.endswith("__flagged") else ""
            alike = "DISTINCT" if table.endswith(("__events", "__unioned")) else ""
            rows = f"SELECT {alike} {chosen} FROM {table} {once}"
            tables[table] = db.execute(
                f"SELECT count(*), sum(hash(t)::HUGEINT) FROM ({rows}) AS t"
            ).fetchone()
        return tables


@pytest.mark.crash
def test_a_shops_tables_are_the_same_in_whichever_files_its_rows_come(tmp_path: Path) -> None:
    files = simulated(tmp_path / "simulated")
    table = Table("rows came", "files", "lines", "tables", "different", title="One shop, in other files")
    expected: dict[str, Any] = {}
    wrong = {}
    for seed, how in enumerate(("as they came", "renamed", "shuffled", "split", "repeated")):
        home = Home(tmp_path / f"home-{seed}")
        home.write_shop(Shop(first_day=FIRST))
        home.keys.mkdir()
        (home.keys / "identity.k1").write_text("00" * 32)
        made = arranged(files, how, random.Random(seed))
        for name, content in made.items():
            file = home.drop / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            os.utime(file, (1_700_000_000, 1_700_000_000))
        lines = sum(outcome.lines for outcome in raw_zone.take_in_all(home))
        dbt(home, "build", FIRST, FIRST + timedelta(days=DAYS - 1))
        found = tables_of(home)
        if how == "repeated":  # how much arrived is counted there, and more did
            found = {name: of for name, of in found.items() if not name.endswith("quality_funnel")}
        expected = expected or found
        different = sorted(name for name in found if found[name] != expected[name])
        table.add_row(how, f"{len(made)}", f"{lines:,}", f"{len(found)}", ", ".join(different) or "none")
        wrong[f"{how} ({seed})"] = different
    Console(width=110).print(table)
    assert len(expected) > 10
    assert not any(wrong.values()), wrong
