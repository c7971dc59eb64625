"""Hostile files beside good ones: each is contained, each line accounted for, and nobody else is touched."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from assets.logs import checks, raw_zone
from assets.logs.drop import path_in
from assets.logs.lines import LARGEST
from assets.logs.raw_zone import Outcome
from resources.home import Home
from tests.logs.hostile import (
    CSV,
    JSONL,
    PARQUET,
    SECRET,
    Hostile,
    corpus,
    csv_of,
    json_of,
    parquet_of,
    plant_what_is_no_file,
    record,
    table_of,
)

Drop = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]

GOOD = {
    **{
        (CSV, name): csv_of(*(record(event_id=f"{name}-{n}") for n in range(3)))
        for name in ("0.csv", "zz.csv")
    },
    **{
        (CSV, f"a-{n}.csv"): csv_of(record(event_id=f"good-{n}"), record(event_id=f"other-{n}")) for n in "12"
    },
    (JSONL, "a.jsonl"): "".join(json_of(event_id=f"j{n}") + "\n" for n in range(4)).encode(),
    (PARQUET, "a.parquet"): parquet_of(table_of(5)),
    ("nightshelf_catalogue", "catalogue.csv"): b"item_id,title\np1,Shoe\np2,Boot\n",
}
GOOD_ROWS = 3 + 3 + 2 + 2 + 4 + 5 + 2


SAMPLE = {
    *("really-gzip.csv", "empty.csv", "utf16.csv", "mac.csv", "controls.csv"),
    *("zeros.csv.gz", "encrypted.csv.zip"),
    *("quote.csv", "record-on-two-lines.csv", "30-mb-field.csv", "10000-columns.csv", "some-missing.csv"),
    *("numbers.csv", "epochs.jsonl", "depth.jsonl", "no-numbers.jsonl", "escapes.jsonl"),
    *("cut.parquet", "spoilt-page.parquet", "float-ids.parquet", "values.parquet"),
    *("[a].csv", "new\nline: 1,000,000 rows loaded.csv", "a" * 251 + ".csv", "no-source-0.csv"),
}
"""The short form's; the long one takes the whole corpus."""


def tree(folder: Path) -> dict[str, Any]:
    """Everything below a folder, as it is."""
    return {
        str(found.relative_to(folder)): (found.lstat().st_mtime_ns, found.lstat().st_size)
        for found in folder.rglob("*")
    }


def put(home: Home, source: str, name: str, content: bytes) -> None:
    file = home.drop / source / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    os.utime(file, (1_700_000_000, 1_700_000_000))


def path_in_ledger(home: Home, hostile: Hostile) -> str:
    return path_in(home.drop, home.drop / hostile.source / hostile.name)


def physical_lines(content: bytes) -> int:
    return content.count(b"\n") + (not content.endswith(b"\n") and bool(content))


def fault(hostile: Hostile, content: bytes, outcome: Outcome, rejects: dict[int, str]) -> str | None:
    """What is wrong with what became of a file, or with the account of its lines; None where nothing is."""
    lines = loaded = None
    if isinstance(hostile.refused, str):
        expected, status, loaded = {0: hostile.refused}, "refused", 0
        if not hostile.name.endswith((".gz", ".zip", ".parquet")):
            lines = physical_lines(content)
    else:
        expected, loaded = hostile.refused, hostile.loaded
        status = "loaded" if not expected else "partly_loaded" if loaded else "refused"
        lines = outcome.header_lines + outcome.blank_lines + len(expected) + loaded
    found = (outcome.status, outcome.rows_loaded, sum(outcome.days.values()), rejects)
    if found != (status, loaded, loaded, expected):
        return (
            f"{outcome.file!r}: {found}, not {(status, loaded, expected)}; {outcome.reason} {outcome.detail}"
        )
    if not outcome.adds_up or lines not in (None, outcome.lines):
        return f"{outcome.file!r}: {outcome} does not add up to {lines} lines"
    if SECRET in outcome.detail or (isinstance(hostile.refused, str) and not outcome.detail):
        return f"{outcome.file!r}: {outcome.detail!r}"
    return None


def take_in(home: Home, members: list[Hostile], tmp_path: Path, rows: Rows) -> dict[str, Outcome]:
    """Drop hostile and good files at once, take them in, and hold every promise against what came of it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.csv").write_bytes(csv_of(record(user_id=SECRET, item_id=SECRET)))
    contents = {}
    for hostile in members:
        contents[hostile] = hostile.made
        put(home, hostile.source, hostile.name, contents[hostile])
    for (source, name), content in GOOD.items():
        put(home, source, name, content)
    plant_what_is_no_file(home.drop, outside)
    before, dropped = tree(outside), tree(home.drop)
    told: list[str] = []
    taken = raw_zone.take_in_all(home, told.append)

    assert tree(outside) == before
    assert tree(home.drop) == dropped
    assert sorted(found.name for found in tmp_path.iterdir()) == ["home", "outside"]
    assert not any((folder / "nightshelf-was-here").exists() for folder in (Path(), Path("/tmp"), home.root))
    assert not list(home.loads.parent.glob("incoming/*"))
    assert not any("\n" in line or "\x1b" in line for line in told)

    by_file = {outcome.file: outcome for outcome in taken}
    assert len(by_file) == len(taken) == len(members) + len(GOOD)
    found: dict[str, dict[int, str]] = {}
    for row in rows("rejects"):
        assert SECRET not in str(row)
        assert row["line"] not in found.setdefault(row["file"], {}), row
        found[row["file"]][row["line"]] = row["reason"]
    faults = [
        told_of
        for hostile in members
        for file in (path_in_ledger(home, hostile),)
        if (told_of := fault(hostile, contents[hostile], by_file[file], found.pop(file, {})))
    ]
    assert faults == [], "\n".join(faults)
    for source, name in GOOD:
        outcome = by_file[f"{source}/{name}"]
        assert (outcome.status, outcome.rows_refused, outcome.adds_up) == ("loaded", 0, True)
    assert found == {}
    in_place = raw_zone.rows_in_place(home)
    assert sum(in_place.values()) == GOOD_ROWS + sum(hostile.loaded for hostile in members)
    assert all(SECRET not in str(row) for row in rows("events"))
    return by_file


def test_hostile_files_are_contained_and_their_neighbours_loaded(
    home: Home, tmp_path: Path, rows: Rows
) -> None:
    members = [hostile for hostile in corpus() if hostile.name in SAMPLE]
    assert len(members) == len(SAMPLE)
    take_in(home, members, tmp_path, rows)
    assert checks.accounting_adds_up().passed
    assert not checks.refused_share().passed  # it looks at the files, whatever they are called
    # It is none the worse for it: the next file is taken in, and none of the others is tried again.
    put(home, CSV, "next.csv", csv_of(record(event_id="next")))
    (after,) = raw_zone.take_in_all(home)
    assert (after.file, after.status, after.rows_loaded) == (f"{CSV}/next.csv", "loaded", 1)


@pytest.mark.crash
def test_every_hostile_file_of_the_corpus_is_contained(home: Home, tmp_path: Path, rows: Rows) -> None:
    members = list(corpus())
    assert len(members) >= 60
    sparse = Hostile("sparse.csv", b"", "line_too_long")
    began = time.monotonic()
    by_file = take_in(home, members, tmp_path, rows)
    seconds = time.monotonic() - began
    for name, size in (("sparse.csv", 1 << 30), ("too-large.csv", LARGEST + 1)):
        put(home, CSV, name, b"")
        os.truncate(home.drop / CSV / name, size)
        os.utime(home.drop / CSV / name, (1, 1))
    (first, second) = raw_zone.take_in_all(home)
    assert (first.reason, second.reason) == (sparse.refused, "too_large")
    assert raw_zone.take_in_all(home) == []
    by_file |= {first.file: first, second.file: second}
    table = Table("became", "files", "lines", "rows loaded", "lines refused", title="Hostile corpus")
    groups = Counter(outcome.reason or outcome.status for outcome in by_file.values())
    for what, count in groups.most_common():
        of = [outcome for outcome in by_file.values() if (outcome.reason or outcome.status) == what]
        table.add_row(
            what,
            f"{count}",
            f"{sum(o.lines for o in of):,}",
            f"{sum(o.rows_loaded for o in of):,}",
            f"{sum(o.lines_refused for o in of):,}",
        )
    Console(width=110).print(table)
    print(f"{len(members) + 2} hostile files and {len(GOOD)} good ones in {seconds:.0f} s")
    slowest = sorted(by_file.values(), key=lambda outcome: -outcome.seconds)[:5]
    print("slowest:", ", ".join(f"{outcome.file[:60]} {outcome.seconds:.1f} s" for outcome in slowest))
