"""Looking at a sample before anything is kept."""

from __future__ import annotations

import gzip
from datetime import datetime
from pathlib import Path

import pytest

from assets.logs.preview import SampleError, check_source
from assets.logs.sources import SHIPPED, SourceError
from resources.home import Home

MINE = """\
name: mine
description: our own
files:
  - match: "orders-*.csv"
    format: {type: csv, delimiter: ";", decimal: ","}
    time: {column: [date, time], unit: "%d.%m.%Y %H:%M"}
    columns: {user_id: customer, item_id: article, price: price, behavior: kind}
    behavior: {kauf: purchase}
    ignore: [email]
"""
SAMPLE = """\
date;time;customer;article;price;kind;email;shop
05.01.2026;10:30;c1;a1;12,50;kauf;x@example.org;7
05.01.2026;10:31;c1;a2;12.50x;kauf;x@example.org;7
05.01.2026;10:32;c2;a3;;merken;x@example.org;7
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(MINE)
    return file


def everything(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def test_the_first_rows_are_shown_and_nothing_is_kept(home: Home, source: Path, tmp_path: Path) -> None:
    sample = tmp_path / "orders-1.csv"
    sample.write_text(SAMPLE)
    before = everything(tmp_path)
    found = check_source(source, sample, home)
    assert everything(tmp_path) == before
    assert (found.lines, found.rows_loaded, found.rows_refused) == (4, 2, 1)
    first, second = found.rows
    assert (first["event_at"], first["item_id"], first["price"]) == (datetime(2026, 1, 5, 9, 30), "a1", 12.5)
    assert (first["behavior"], second["behavior"]) == ("purchase", "merken")
    assert first["user_key"].startswith("k1:")
    assert first["extra"] == '{"shop":"7"}'
    assert [(row["line"], row["field"], row["value"]) for row in found.rejects] == [(3, "price", "12.50x")]
    assert not found.ok
    assert f"{sample}:3: price" in found.problems[0]
    assert any("merken" in note for note in found.notes)


def test_a_good_sample_is_good(home: Home, tmp_path: Path) -> None:
    sample = tmp_path / "events.csv.gz"
    sample.write_bytes(
        gzip.compress(b"timestamp,visitorid,event,itemid,transactionid\n1433221332117,1,view,2,\n")
    )
    found = check_source(SHIPPED / "retailrocket.yaml", sample, home)
    assert found.ok
    assert found.rows[0]["behavior"] == "view"


def test_a_long_sample_is_read_at_its_beginning(home: Home, source: Path, tmp_path: Path) -> None:
    sample = tmp_path / "orders-1.csv"
    lines = SAMPLE.splitlines(keepends=True)
    sample.write_text(lines[0] + lines[1] * 150_000)
    found = check_source(source, sample, home)
    assert found.ok
    assert 50_000 < found.rows_loaded < 150_000
    assert len(found.rows) == 10


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("orders-1.csv", SAMPLE.replace("customer", "Kunde"), "there is no column 'customer'"),
        ("invoices.csv", SAMPLE, "does not fit the name invoices.csv"),
        ("orders-1.csv", SAMPLE.splitlines()[0], "no records"),
        ("orders-1.csv", "", "nothing in the file"),
        ("orders-1.csv", SAMPLE.replace(";", ","), "there is no column"),
    ],
)
def test_what_is_wrong_with_a_sample_is_said(
    home: Home, source: Path, tmp_path: Path, name: str, content: str, says: str
) -> None:
    sample = tmp_path / name
    sample.write_text(content)
    found = check_source(source, sample, home)
    assert not found.ok
    assert any(says in problem for problem in found.problems)


def test_a_wrong_source_or_a_missing_sample_is_said(home: Home, source: Path, tmp_path: Path) -> None:
    with pytest.raises(SampleError, match=r"none\.csv: no such file"):
        check_source(source, tmp_path / "none.csv", home)
    with pytest.raises(SampleError, match=r"is a folder. Name one of the files in it"):
        check_source(source, tmp_path, home)
    source.write_text(MINE.replace("match", "mach"))
    with pytest.raises(SourceError, match=r"mine\.yaml:4: .*mach"):
        check_source(source, tmp_path / "none.csv", home)
