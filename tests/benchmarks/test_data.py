"""Anybody's files: what is read, what is left out and why, and what is refused in words."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.data import NO_DAY, DataError, read
from tests.benchmarks.logs import SECOND


def csv(folder: Path, text: str, name: str = "log.csv") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def told(data) -> list[tuple[str, str, int, int]]:
    log = data.interactions.events
    users, items = data.interactions.users, data.interactions.item_ids
    return [
        (users[u], items[i], int(at), int(level))
        for u, i, at, level in zip(log.user, log.item, log.at, log.level, strict=True)
    ]


def test_csv_and_parquet_say_the_same(tmp_path):
    rows = [("007", "b", "2026-01-05 10:00:00", "cart"), ("8", "a", "2026-01-05 09:00:00", "browse")]
    text = "user_id,item_id,timestamp,behavior\n" + "\n".join(",".join(row) for row in rows)
    columns = dict(
        zip(("user_id", "item_id", "timestamp", "behavior"), map(list, zip(*rows, strict=True)), strict=True)
    )
    columns["timestamp"] = [datetime.fromisoformat(at) for at in columns["timestamp"]]
    pq.write_table(pa.table(columns), tmp_path / "log.parquet")
    a, b = read(csv(tmp_path, text)), read(tmp_path / "log.parquet")
    assert told(a) == told(b)
    assert a.interactions.users.tolist() == ["007", "8"]  # a number with zeros before it is a name
    assert a.interactions.as_of == b.interactions.as_of == date(2026, 1, 5)
    assert a.timed and b.timed
    assert told(a)[0] == ("8", "a", 1_767_603_600_000_000, 0)


def test_without_behaviours_and_items(tmp_path):
    said: list[str] = []
    log = csv(tmp_path, "item_id,timestamp,user_id\na,2,u\nb,1,u\n")
    data = read(log, tmp_path / "absent.csv", said.append)
    assert [row[3] for row in told(data)] == [3, 3]
    assert data.interactions.titles.tolist() == ["a", "b"]
    assert not data.timed and data.interactions.as_of == NO_DAY
    assert any("No file of items" in line for line in said) and any("purchase" in line for line in said)
    assert (data.interactions.first_seen == 0).all() and data.interactions.known_items.all()


def test_bad_rows_are_counted_and_the_others_go_on(tmp_path):
    said: list[str] = []
    log = csv(
        tmp_path,
        "user_id,item_id,timestamp,behavior\n"
        "u,a,2026-01-05,browse\n"
        ",a,2026-01-05,browse\n"
        "u,,2026-01-05,browse\n"
        "u,a,yesterday,browse\n"
        "u,a,,browse\n"
        "u,a,2026-01-05,wishlist\n"
        "u,a\n"
        "u,a,2026-01-06,\n"
        "u,b,2026-01-07,Purchase\n",
    )
    data = read(log, log=said.append)
    assert [row[1:2] + row[3:] for row in told(data)] == [("a", 0), ("a", 3), ("b", 3)]
    left = {reason: row["rows"] for reason, row in data.facts["left_out"].items()}
    assert left == {
        "lines without the header's columns": 1,
        "no user_id": 1,
        "no item_id": 1,
        "no timestamp, or one that cannot be read": 2,
        "a behaviour that is none of browse, click, cart, purchase": 1,
    }
    assert data.facts["rows"] == 9 == data.facts["events"] + sum(left.values())
    lines = "\n".join(said)
    assert "'yesterday'" in lines and "'wishlist'" in lines and "line 8" in lines


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("seconds", 1), ("milliseconds", 10**3), ("microseconds", 10**6), ("nanoseconds", 10**9)],
)
def test_numbers_that_are_times_are_known_by_their_size(tmp_path, unit, factor):
    times = [SECOND * factor, (SECOND + 86_400) * factor]
    pq.write_table(
        pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": times}), tmp_path / "l.parquet"
    )
    data = read(tmp_path / "l.parquet")
    assert data.timed and unit in data.facts["time"]
    assert [row[2] for row in told(data)] == [SECOND * 10**6, (SECOND + 86_400) * 10**6]
    assert data.interactions.as_of == date(2026, 1, 6)


@pytest.mark.parametrize(
    "times", [[0, 1, 5], [-3, 0, 9], [0.25, 0.5, 0.75], [1e300, 2e300, 3e300], [7, 7, 7]]
)
def test_numbers_that_are_no_times_keep_their_order(tmp_path, times):
    columns = {"user_id": list("uuu"), "item_id": list("abc"), "timestamp": times}
    pq.write_table(pa.table(columns), tmp_path / "l.parquet")
    data = read(tmp_path / "l.parquet")
    assert not data.timed
    assert [row[1] for row in told(data)] == ["a", "b", "c"]
    at = data.interactions.events.at.astype(float)
    spans = np.diff(times) / max(np.diff(times).sum(), 1e-9)
    np.testing.assert_allclose(np.diff(at) / max(np.diff(at).sum(), 1e-9), spans, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.date32(), [date(2026, 1, 5), date(2026, 1, 6), None]),
        (pa.timestamp("ns"), [datetime(2026, 1, 5), datetime(2026, 1, 6), None]),
        (pa.timestamp("ms", "Asia/Tokyo"), [datetime(2026, 1, 5), datetime(2026, 1, 6), None]),
        (pa.string(), ["2026-01-05T00:00:00Z", "2026-01-06T02:00:00+02:00", "?"]),
    ],
)
def test_times_of_every_kind_are_read(tmp_path, kind, values):
    columns = {"user_id": list("uuu"), "item_id": list("abc"), "timestamp": pa.array(values, kind)}
    pq.write_table(pa.table(columns), tmp_path / "l.parquet")
    data = read(tmp_path / "l.parquet")
    assert [row[2] for row in told(data)] == [1_767_571_200_000_000, 1_767_657_600_000_000]
    assert data.facts["left_out"]["no timestamp, or one that cannot be read"]["rows"] == 1


def test_ids_that_are_numbers_meet_those_of_the_other_file(tmp_path):
    """pandas makes 12.0 of 12 where a cell is empty."""
    log = pa.table({"user_id": [1, 2], "item_id": pa.array([12.0, 13.0]), "timestamp": [1, 2]})
    pq.write_table(log, tmp_path / "l.parquet")
    pq.write_table(pa.table({"item_id": [12, 13], "title": ["Lamp", "Chair"]}), tmp_path / "i.parquet")
    data = read(tmp_path / "l.parquet", tmp_path / "i.parquet").interactions
    assert data.item_ids.tolist() == ["12", "13"] and data.titles.tolist() == ["Lamp", "Chair"]


def test_a_catalogue_gives_words_and_prices(tmp_path):
    log = csv(tmp_path, "user_id,item_id,timestamp\nu,a,1\nu,z,2\n")
    columns = {
        "item_id": ["a", "b", None, "a"],
        "title": ["  Oak  lamp ", None, "x", "again"],
        "brand": ["Lumo", "", "x", "x"],
        "category": ["Lamps > Desk", None, "x", "x"],
        "description": ["Bright.", "Only words", "x", "x"],
        "attributes": pa.array([["oak", None, " warm "], None, [], []], pa.list_(pa.string())),
        "price": [19.9, float("nan"), 1.0, 1.0],
    }
    pq.write_table(pa.table(columns), tmp_path / "i.parquet")
    data = read(log, tmp_path / "i.parquet")
    shop = data.interactions
    assert shop.item_ids.tolist() == ["a", "b", "z"]
    assert shop.texts.tolist() == ["Oak lamp. Lumo. Lamps > Desk. oak, warm. Bright.", "Only words", ""]
    assert shop.attributes[0] == ["oak", "warm"] and shop.attributes[2] == []
    assert shop.price[0] == 19.9 and np.isnan(shop.price[1:]).all()
    assert shop.brands.tolist() == ["Lumo", "", ""]
    left = {reason: row["rows"] for reason, row in data.facts["left_out"].items()}
    assert left == {"items without item_id": 1, "items described twice": 1}
    assert data.facts["items_never_met"] == 1


@pytest.mark.parametrize(
    ("written", "wanted"), [('"[""red"", ""xl""]"', ["red", "xl"]), ("red|xl", ["red", "xl"]), ("", [])]
)
def test_attributes_in_a_csv(tmp_path, written, wanted):
    log = csv(tmp_path, "user_id,item_id,timestamp\nu,a,1\n")
    items = csv(tmp_path, f"item_id,price,attributes\na,9.5,{written}\n", "items.csv")
    shop = read(log, items).interactions
    assert shop.attributes[0] == wanted and shop.price[0] == 9.5


def test_unusable_files_are_refused_in_words(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        read(tmp_path / "gone.csv")
    with pytest.raises(DataError, match=r"neither \.csv"):
        read(csv(tmp_path, "", "log.xlsx"))
    with pytest.raises(DataError, match=r"no column timestamp; it has user_id, item_id, time"):
        read(csv(tmp_path, "user_id,item_id,time\nu,a,1\n"))
    with pytest.raises(DataError, match="neither numbers nor times"):
        read(csv(tmp_path, "user_id,item_id,timestamp\nu,a,soon\n"))
    with pytest.raises(DataError, match=r"no usable row \(1 with a behaviour"):
        read(csv(tmp_path, "user_id,item_id,timestamp,behavior\nu,a,1,view\n"))
    with pytest.raises(DataError, match="no usable row"):
        read(csv(tmp_path, "user_id,item_id,timestamp\n"))
    with pytest.raises(DataError, match=r"broken\.parquet cannot be read"):
        read(csv(tmp_path, "no parquet", "broken.parquet"))
    with pytest.raises(DataError, match="no column item_id"):
        read(csv(tmp_path, "user_id,item_id,timestamp\nu,a,1\n"), csv(tmp_path, "id\na\n", "items.csv"))
