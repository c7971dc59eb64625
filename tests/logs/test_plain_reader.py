"""Our reader against one in plain Python, on random files: row by row, and refusal by refusal."""

from __future__ import annotations

import csv
import io
import json
import tempfile
import time
from collections import Counter
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from assets.logs.reader import Reader
from assets.logs.sources import FileSpec
from resources.identity import IdentityKey
from tests.logs.plain_reader import FIELDS, PlainReader, Result

FIRST, LAST = date(2020, 1, 1), date(2030, 1, 1)
KEY = IdentityKey(bytes(32))
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC")

CSV = FileSpec.model_validate(
    {
        "match": "*",
        "format": {"type": "csv"},
        "time": {"column": "at"},
        "received": {"column": "got"},
        "columns": {
            "event_id": "event_id",
            "user_id": "user",
            "item_id": "item",
            "behavior": "code",
            "title": "title",
            "price": "price",
            "quantity": "many",
        },
        "window": {"earliest": FIRST.isoformat(), "latest": LAST.isoformat()},
    }
)
JSONL = FileSpec.model_validate(CSV.model_dump() | {"format": {"type": "jsonl"}})


def ours(spec: FileSpec, content: bytes, zone: str, shop_zone: str) -> Result:
    """What our reader makes of the file, put as the plain one does."""
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as db:
        out = Path(folder) / "out"
        out.mkdir()
        (Path(folder) / "copy").write_bytes(content)
        tally = Reader(
            {
                "copy": f"{folder}/copy",
                "file": "random",
                "path": "random",
                "source": "test",
                "spec": spec.model_dump(mode="json"),
                "zone": zone,
                "shop_zone": shop_zone,
                "namespace": "shop",
                "key": KEY.hex,
                "load_id": "0" * 16,
                "latest": LAST.isoformat(),
                "out": str(out),
                "threads": 1,
                "verbatim": False,
            }
        ).read()
        found = Result(lines=tally["lines"], blank=tally["blank_lines"])
        if list(out.glob("events/*/*")):
            query = f"SELECT * FROM read_parquet('{out}/events/*/*', hive_partitioning = true)"
            found.rows = {row["line"]: row for row in _dicts(db.execute(query))}
        rejects = _dicts(db.execute(f"SELECT line, reason FROM read_parquet('{out}/rejects.parquet')"))
        found.refused = {row["line"]: row["reason"] for row in rejects}
        assert len(rejects) == len(found.refused)
        return found


def _dicts(result: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


def compare(found: Result, expected: Result) -> None:
    """Not one row, value or reason differs."""
    assert found.refused == expected.refused
    assert found.rows.keys() == expected.rows.keys()
    assert (found.lines, found.blank) == (expected.lines, expected.blank)
    for line, row in expected.rows.items():
        theirs, extra, user = dict(row), row["extra"], row["user"]
        del theirs["extra"], theirs["user"]
        kept = found.rows[line]
        if theirs["event_id"] is None:
            theirs["event_id"] = kept["event_id"]
            assert len(kept["event_id"]) == 32
        assert {name: kept[name] for name in theirs} == theirs
        assert (json.loads(kept["extra"]) if kept["extra"] else None) == extra
        assert kept["user_key"] == KEY.pseudonym(user)
    for what, count in Counter(expected.refused.values()).items():
        event(f"{what}: {'some' if count else 'none'}")


# ---- Random files ----

SIGNS = st.characters(codec="utf-8", exclude_characters="\n\r")
WORDS = st.text(SIGNS, max_size=8) | st.sampled_from(
    ["p1", "p 1", " é ", "鞋", '"', ",", "NULL", "\t", "\\N", "\xa0", "\u3000鞋\u2009"]
)
MOMENTS = st.datetimes(
    min_value=datetime(2019, 12, 1),
    max_value=datetime(2030, 2, 1),
) | st.sampled_from(
    [
        datetime(*parts)
        for parts in (
            (2026, 3, 29, 2, 30),  # left out in Berlin
            (2026, 10, 25, 2, 30),  # comes twice there
            (2026, 3, 8, 2, 15),
            (2026, 11, 1, 1, 45),
            (2026, 4, 5, 1, 45),  # comes twice on Lord Howe, for half an hour
            (2026, 10, 4, 2, 15),
            (2024, 2, 29, 23, 59, 59, 999999),
            (2019, 12, 31, 23, 0),
            (2030, 1, 1, 23, 30),
        )
    ]
)
OFFSETS = st.sampled_from(["", "", "Z", "+00", "+01:00", "-05:00", "+0530", "+10:30", "-09:30", "+14:00"])


@st.composite
def times(draw: st.DrawFn) -> str:
    """A time as somebody may write it."""
    moment = draw(MOMENTS)
    form = draw(st.sampled_from(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f"]))
    text = moment.strftime(form)
    if text.endswith(f"{moment.microsecond:06d}") and "." in form:
        text = text[: len(text) - draw(st.integers(0, 5))] + draw(st.sampled_from(["", "", "123"]))
    return text if form == "%Y-%m-%d" else text + draw(OFFSETS)


NUMBERS = st.one_of(
    st.floats(allow_nan=True).map(repr),
    st.integers(-(10**20), 10**20).map(str),
    st.decimals(-1000, 1000, places=2).map(str),
    st.sampled_from(["1e3", "+5", ".5", "5.", "-0", "1_000", "0x1F", "1,5", "٣", "Infinity", "1e400", "1 0"]),
    st.text("0123456789.eE+-", max_size=6),
)


@st.composite
def spoilt(draw: st.DrawFn, texts: st.SearchStrategy[str]) -> str:
    """Now and then with a sign too many or too few."""
    text = draw(texts)
    if not text or draw(st.integers(0, 5)):
        return text
    at = draw(st.integers(0, len(text) - 1))
    return text[:at] + draw(st.sampled_from(["", "x", "9", "-", ":", "\0", "é"])) + text[at + 1 :]


VALUES = {
    "event_id": st.sampled_from(["", "e1", "e2"]),
    "user": st.sampled_from(["u1", "u2", "jane@example.org"]) | WORDS,
    "item": st.sampled_from(["p1", "p2"]) | WORDS,
    "code": st.sampled_from(["view", "buy"]) | WORDS,
    "title": WORDS,
    "at": spoilt(times()) | WORDS,
    "got": st.just("") | spoilt(times()),
    "price": st.just("") | spoilt(NUMBERS),
    "many": st.just("1") | NUMBERS,
    "more": WORDS,
}


@st.composite
def csv_files(draw: st.DrawFn) -> bytes:
    """Mostly records, columns in any order, quoted where they need to be or anyhow; and junk between."""
    names = draw(st.permutations([*FIELDS, "more"]))
    out = io.StringIO()
    quoting = draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    writer = csv.writer(out, lineterminator="\n", quoting=quoting)
    writer.writerow(names)
    for _ in range(draw(st.integers(0, 12))):
        kind = draw(st.integers(0, 9))
        fields = [draw(VALUES[name]) for name in names]
        if kind == 0:
            out.write(draw(st.text('ab",; \t', max_size=12)) + "\n")
        elif kind == 1:
            out.write(",".join(fields) + "\n")  # as those write it who know no quotation marks
        else:
            writer.writerow(fields)
    content = out.getvalue().encode()
    if draw(st.booleans()):
        content = content.replace(b"\n", b"\r\n")
    if draw(st.integers(0, 4)) == 0:
        content = content.replace(b"p1", b"p\xff1", 1)
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + content


@st.composite
def json_files(draw: st.DrawFn) -> bytes:
    """Mostly objects, some members left out, or numbers, or of no use; and junk between."""
    lines = []
    for _ in range(draw(st.integers(1, 12))):
        if draw(st.integers(0, 7)) == 0:
            junk = ["", " ", "{", "[]", "3", '"text"', "{}}", "null", "{}", "not json", '{"user": 1e}']
            lines.append(draw(st.sampled_from(junk)))
            continue
        members: dict[str, Any] = {}
        for name in draw(st.permutations(list(VALUES))):
            if draw(st.integers(0, 8)):
                members[name] = draw(VALUES[name])
        if draw(st.booleans()):
            members |= {"price": draw(st.integers(-5, 10**6) | st.booleans() | st.none()), "user": 17}
        if draw(st.integers(0, 5)) == 0:
            members |= {"more": draw(st.sampled_from([[1, {"a": None}], {"b": [True]}, 10**25, "\0", 0.5]))}
        lines.append(json.dumps(members, ensure_ascii=draw(st.booleans())))
    return "\n".join([*lines, ""]).encode("utf-8", "surrogatepass")


def agree(kind: str, content: bytes, zone: str, shop_zone: str) -> None:
    reader = PlainReader(ZoneInfo(zone), ZoneInfo(shop_zone), FIRST, LAST)
    if kind == "csv":
        compare(ours(CSV, content, zone, shop_zone), reader.csv(content))
    elif content.strip():
        compare(ours(JSONL, content, zone, shop_zone), reader.jsonl(content))


FILES = st.one_of(
    st.tuples(st.just("csv"), csv_files()),
    st.tuples(st.just("jsonl"), json_files()),
)


@settings(max_examples=25)
@given(FILES, st.sampled_from(ZONES), st.sampled_from(ZONES))
def test_our_reader_and_a_plain_one_agree_on_random_files(
    file: tuple[str, bytes], zone: str, shop_zone: str
) -> None:
    agree(*file, zone, shop_zone)


@pytest.mark.crash
def test_our_reader_and_a_plain_one_agree_on_a_thousand_random_files() -> None:
    began, counts = time.monotonic(), Counter[str]()

    @settings(max_examples=1000)
    @given(FILES, st.sampled_from(ZONES), st.sampled_from(ZONES))
    def law(file: tuple[str, bytes], zone: str, shop_zone: str) -> None:
        agree(*file, zone, shop_zone)
        counts.update([file[0]])

    law()
    print(f"{dict(counts)} random files read alike in {time.monotonic() - began:.0f} s")
    assert counts.total() >= 1000
