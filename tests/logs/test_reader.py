"""The reader against an independent one in plain Python, on random files; and the law that lines add up."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import math
import re
import signal
import subprocess
import sys
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.logs.canonical import leftover, literal
from assets.logs.lines import FileRefusedError, Layout, Lines, raw_blocks, sort_out, split
from assets.logs.reader import Reader
from assets.logs.sources import FileSpec

HEADER = "user,item,code,at,price"
BERLIN = ZoneInfo("Europe/Berlin")
CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")

CSV = FileSpec.model_validate(
    {
        "match": "*.csv",
        "format": {"type": "csv"},
        "time": {"column": "at", "unit": "iso"},
        "columns": {"user_id": "user", "item_id": "item", "behavior": "code", "price": "price"},
    }
)
JSONL = FileSpec.model_validate(CSV.model_dump() | {"format": {"type": "jsonl"}})


def result_of(spec: FileSpec, content: bytes, name: str, folder: Path) -> tuple[dict[str, Any], Path]:
    """The reader's tally, and the folder with what it wrote."""
    out = folder / "out"
    out.mkdir()
    (folder / "copy").write_bytes(content)
    job = {
        "copy": str(folder / "copy"),
        "file": name,
        "path": name,
        "source": "test",
        "spec": spec.model_dump(mode="json"),
        "zone": "Europe/Berlin",
        "shop_zone": "Europe/Berlin",
        "namespace": "shop",
        "key": "00" * 32,
        "load_id": "0" * 16,
        "latest": "2030-01-01",
        "out": str(out),
        "threads": 2,
        "verbatim": False,
    }
    return Reader(job).read(), out


@contextmanager
def read(spec: FileSpec, content: bytes, name: str) -> Iterator[tuple[dict[str, Any], list[Any], list[Any]]]:
    """Tally, (line, item, code, time, price, day) of every loaded row, and (line, reason) of every refused
    one.
    """
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as db:
        tally, out = result_of(spec, content, name, Path(folder))
        loaded: list[Any] = []
        if list(out.glob("events/*/*")):
            loaded = db.execute(
                "SELECT line, item_id, behavior, event_at, price, day "
                f"FROM read_parquet('{out}/events/*/*', hive_partitioning = true) ORDER BY line"
            ).fetchall()
        refused = db.execute(
            f"SELECT line, reason FROM read_parquet('{out}/rejects.parquet') ORDER BY line"
        ).fetchall()
        yield tally, loaded, refused


# ---- An independent reader: one state machine per line, no library ----


def fields_of(line: str) -> list[str] | None:
    """RFC 4180 on one line; None where quotation marks do not fit together."""
    fields, text, state = [], "", "start"
    for sign in line:
        if state == "quoted":
            if sign == '"':
                state = "quote in quoted"
            else:
                text += sign
        elif sign == "," and state != "quoted":
            fields.append(text)
            text, state = "", "start"
        elif state == "quote in quoted":
            if sign != '"':
                return None
            text, state = text + '"', "quoted"
        elif sign == '"' and state == "start":
            state = "quoted"
        else:
            text, state = text + sign, "plain"
    return None if state == "quoted" else [*fields, text]


def instant_of(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (found if found.tzinfo else found.replace(tzinfo=BERLIN)).astimezone(UTC).replace(tzinfo=None)


def price_of(text: str) -> float | None:
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        return None


def expected_of(lines: list[str]) -> tuple[list[Any], list[int], int]:
    """(loaded rows, refused lines, blank lines) of the lines after the header, the first of which is line
    2.
    """
    loaded: list[Any] = []
    refused, blank = [], 0
    for number, line in enumerate(lines, start=2):
        if not line.strip(" \t"):
            blank += 1
            continue
        fields = None if any(sign < " " and sign != "\t" for sign in line) else fields_of(line)
        if fields is None or len(fields) != 5:
            refused.append(number)
            continue
        user, item, code, at, price = (field.strip(" ") for field in fields)
        when = instant_of(at)
        if not user or not item or not code or when is None or (price and price_of(price) is None):
            refused.append(number)
            continue
        day = when.replace(tzinfo=UTC).astimezone(BERLIN).date()
        loaded.append((number, item, code, when, price_of(price) if price else None, day))
    return loaded, refused, blank


TEXTS = st.sampled_from(
    ["p1", "a b", " padded ", "", "  ", 'say ""so""', "鞋子", "it's", "x\ty", "=1+1", "\\", "NULL"]
)
QUOTED = st.builds('"{}"'.format, st.sampled_from(["p,1", 'a ""quote""', "", " ", "é", "a'b", "x;y"]))
STRAY = st.sampled_from(['"', 'a"b', '"a"b', '"open', 'end"', "\r", "a\rb", "\x00", "\x1f", '""x'])
TIMES = st.sampled_from(
    [
        "2026-01-05T10:00:00+01:00",
        "2026-03-29 03:30:00",
        "2026-10-25T23:59:59.999999Z",
        "2026-01-05",
        "2026-01-05T23:30:00-05:00",
        "yesterday",
        "",
        "2026-02-30T00:00:00Z",
    ]
)
PRICES = st.sampled_from(["9.99", "", "1e3", "-5", "nan", "inf", "9,99", "n/a", " 7 ", "0"])
ITEM = TEXTS | QUOTED | STRAY
RECORD = st.tuples(TEXTS | QUOTED, ITEM, TEXTS | QUOTED, TIMES, PRICES).map(",".join)
GOOD = st.tuples(st.just("u1"), st.just("p1"), st.just("view"), TIMES, st.just("1.5")).map(",".join)
JUNK = st.text(alphabet='ab",; \t\r1', max_size=12) | st.sampled_from(["", " ", "\t", '"', ",,,,", ",,,,,"])
LINES = st.lists(GOOD | RECORD | JUNK, max_size=25)


@settings(max_examples=120)
@given(LINES, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
def test_it_agrees_with_an_independent_reader_and_lines_add_up(
    lines: list[str], line_end: str, ends: bool, with_mark: bool
) -> None:
    # A line that itself ends with a carriage return would be another line end.
    lines = [line.rstrip("\r") for line in lines]
    text = line_end.join([HEADER, *lines]) + (line_end if ends else "")
    if not ends and lines and not lines[-1]:
        lines = lines[:-1]  # what follows the last line end is no line
    loaded, refused, blank = expected_of(lines)
    content = (b"\xef\xbb\xbf" if with_mark else b"") + text.encode()
    with read(CSV, content, "a.csv") as (tally, found, rejects):
        assert found == loaded
        assert [line for line, _ in rejects] == refused
        assert tally["lines"] == len(lines) + 1 == len(loaded) + len(refused) + blank + 1
        assert (tally["header_lines"], tally["blank_lines"]) == (1, blank)
        assert (tally["lines_loaded"], tally["lines_refused"]) == (len(loaded), len(refused))
        assert sum(tally["days"].values()) == len(loaded)


@settings(max_examples=40)
@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "user": st.sampled_from(["u1", 5, None, ""]),
                "item": st.text(max_size=5),
                "code": st.sampled_from(["view", "buy", None]),
                "at": TIMES,
                "price": st.sampled_from([1, 2.5, "3", "x", None, [], {}]),
                "more": st.sampled_from([1, {"a": [1]}, "text"]),
            },
        ).map(lambda found: json.dumps(found, ensure_ascii=False))
        | st.sampled_from(["", "  ", "{", "[]", "3", '"text"', "{}}", "null", '{"user": "u1",}']),
        max_size=15,
    )
)
def test_json_lines_add_up_and_good_ones_are_kept(lines: list[str]) -> None:
    loaded, blank = [], 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            blank += 1
            continue
        try:
            found = json.loads(line)
        except ValueError:
            continue
        if not isinstance(found, dict):
            continue
        item = str(found.get("item") or "").strip(" ")
        price = found.get("price")
        bad_price = price is not None and (
            not isinstance(price, int | float | str) or price_of(str(price)) is None
        )
        usable = found.get("user") not in (None, "") and item and found.get("code") and not bad_price
        plain = not CONTROL.search(str(found.get("item") or ""))
        if usable and plain and instant_of(found.get("at") or "") is not None:
            loaded.append((number, item))
    if not lines or lines == [""]:
        return  # an empty file, refused as a whole: see test_raw_zone
    with read(JSONL, "\n".join([*lines, ""]).encode(), "a.jsonl") as (tally, rows, rejects):
        assert [row[:2] for row in rows] == loaded
        assert tally["lines"] == len(lines)
        assert tally["blank_lines"] == blank
        assert tally["lines_refused"] == len(rejects) == len(lines) - blank - len(loaded)


@given(st.binary(max_size=200).map(lambda noise: noise.replace(b"\r", b"")), st.integers(1, 40))
def test_blocks_are_the_file_cut_at_line_ends(content: bytes, size: int) -> None:
    blocks = list(raw_blocks(io.BytesIO(content), size))
    whole = content if not content or content.endswith(b"\n") else content + b"\n"
    assert b"".join(blocks) == whole
    assert all(block.endswith(b"\n") for block in blocks)


@given(st.lists(GOOD | RECORD | JUNK, min_size=1, max_size=30), st.integers(20, 400))
def test_the_size_of_blocks_makes_no_difference(lines: list[str], size: int) -> None:
    content = "\n".join([HEADER, *lines, ""]).encode()

    def records(size: int) -> tuple[list[int], bytes, list[Any], int]:
        reader = Lines(io.BytesIO(content), "utf-8", size=size)
        reader.header('"')
        blocks = list(reader.blocks(Layout(5)))
        return (
            [int(number) for block in blocks for number in block.numbers],
            b"".join(block.data for block in blocks),
            [refused for block in blocks for refused in block.refused],
            reader.read,
        )

    assert records(size) == records(1 << 20)


NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=9)


@given(st.dictionaries(NAMES, NAMES, min_size=1, max_size=4))
def test_what_goes_to_extra_is_the_same_beside_a_column_that_is_empty(found: dict[str, str]) -> None:
    columns = {name: literal(value) for name, value in found.items()}
    beside = {**columns, "empty" * 3: "CAST(NULL AS VARCHAR)"}
    with duckdb.connect() as db:
        ((whole, with_empty),) = db.execute(f"SELECT {leftover(columns)}, {leftover(beside)}").fetchall()
    assert whole == with_empty
    assert json.loads(whole) == found


def test_one_quotation_mark_refuses_its_own_line_only() -> None:
    good = "u1,p1,view,2026-01-05T10:00:00Z,1\n"
    content = HEADER + "\n" + good * 1500 + 'u1,"p1,view,2026-01-05T10:00:00Z,1\n' + good * 1500
    with read(CSV, content.encode(), "a.csv") as (tally, found, rejects):
        assert rejects == [(1502, "unbalanced_quote")]
        assert [row[0] for row in found] == [*range(2, 1502), *range(1503, 3003)]
        assert tally["rows_loaded"] == 3000


def test_line_numbers_hold_when_the_file_is_read_in_parallel() -> None:
    lines = [
        f"u{n % 50},p{n + 2},view,2026-01-05T10:00:00Z,1" if n % 997 else "broken" for n in range(200_000)
    ]
    with read(CSV, "\n".join([HEADER, *lines, ""]).encode(), "a.csv") as (tally, found, _):
        assert tally["lines_refused"] == len(range(0, 200_000, 997))
        assert all(item == f"p{line}" for line, item, *_ in found)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"u1,p\xff,view,2026-01-05,1", "bad_encoding"),
        (b"u1,p\x00,view,2026-01-05,1", "control_character"),
        (b"u1," + b"p" * (1 << 20) + b",view,2026-01-05,1", "line_too_long"),
        (b"u1,p1,view", "column_count"),
        (b'u1,"p1"x,view,2026-01-05,1', "unbalanced_quote"),
    ],
)
def test_a_line_that_cannot_be_read_leaves_its_neighbours_alone(line: bytes, reason: str) -> None:
    good = b"u1,p1,view,2026-01-05,1"
    content = b"\n".join([HEADER.encode(), good, line, good])
    with read(CSV, content, "a.csv") as (_, found, rejects):
        assert rejects == [(3, reason)]
        assert [row[0] for row in found] == [2, 4]


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_deeply_nested_json_is_refused_by_its_line(depth: int) -> None:
    good = '{"user":"u1","item":"p1","code":"view","at":"2026-01-05"}'
    deep = good[:-1] + ',"x":' + '{"a":' * depth + "1" + "}" * depth + "}"
    with read(JSONL, "\n".join([good, deep, good]).encode(), "a.jsonl") as (tally, found, rejects):
        assert [row[0] for row in found] == [1, 3]
        assert rejects == [(2, "bad_json")]
        assert tally["lines"] == 3


def test_other_encodings_and_decimal_commas() -> None:
    spec = FileSpec.model_validate(
        {
            "match": "*.txt",
            "format": {
                "type": "csv",
                "delimiter": ";",
                "encoding": "cp1252",
                "decimal": ",",
                "columns": ["d", "t", "user", "item", "price"],
            },
            "time": {"column": ["d", "t"], "unit": ["%d.%m.%Y %H:%M"]},
            "columns": {"user_id": "user", "item_id": "item", "price": "price"},
            "constants": {"behavior": "buy"},
            "behavior": {"buy": "purchase"},
        }
    )
    content = "05.07.2026;09:30;u1;Tür €;1.234,50\n".encode("cp1252") + b"05.07.2026;09:30;u1;T\x81r;1\n"
    prices = ["12.50", "1.23,4", "1.2345,0", "12,5,0", "1e3", "-1.234.567", "12,50", "+7"]
    content += "".join(f"05.07.2026;09:30;u1;p;{price}\n" for price in prices).encode()
    with read(spec, content, "a.txt") as (_, found, rejects):
        assert found[0][:5] == (1, "Tür €", "purchase", datetime(2026, 7, 5, 7, 30), 1234.5)
        assert [row[4] for row in found[1:]] == [-1234567, 12.5, 7]
        assert rejects == [(2, "bad_encoding"), *((line, "bad_number") for line in range(3, 8))]


def shape_of(text: str) -> str:
    """What may be kept of a value: which signs it is made of."""
    signs = []
    for sign in text[:100]:
        kind = unicodedata.category(sign)
        signs.append(
            "A" if kind in ("Lu", "Lt") else "a" if kind[0] in "LM" else "9" if kind[0] == "N" else sign
        )
    return "".join(signs)


@settings(max_examples=30)
@given(
    st.lists(
        st.text("aZé鞋9٣².,;:@ -_/#ßĄǅ e\u0301", min_size=1, max_size=120).filter(
            lambda text: text.strip(" ") and "," not in text and price_of(text.strip(" ")) is None
        ),
        min_size=1,
        max_size=10,
    )
)
def test_of_a_refused_value_only_its_shape_is_kept(values: list[str]) -> None:
    content = "\n".join([HEADER, *(f"u1,p1,view,2026-01-05,{value}" for value in values), ""])
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as db:
        _, out = result_of(CSV, content.encode(), "a.csv", Path(folder))
        kept = db.execute(f"SELECT value FROM read_parquet('{out}/rejects.parquet') ORDER BY line").fetchall()
    assert [value for (value,) in kept] == [shape_of(value.strip(" ")) for value in values]


def test_names_of_columns_are_never_taken_for_sql() -> None:
    evil = "x'); DROP TABLE rejects; --"
    content = f'{HEADER},"{evil}"\nu1,p1,view,2026-01-05,1,kept\n'
    with read(CSV, content.encode(), "a.csv") as (tally, found, _):
        assert len(found) == 1
        assert evil in tally["notes"][0]


def test_equal_rows_share_an_event_id_and_different_ones_do_not(tmp_path: Path) -> None:
    rows = ["u1,p1,view,2026-01-05,1"] * 2 + ["u2,p1,view,2026-01-05,1", "u1,p1,view,2026-01-05,2"]
    _, out = result_of(CSV, "\n".join([HEADER, *rows]).encode(), "a.csv", tmp_path)
    with duckdb.connect() as db:
        query = f"SELECT event_id FROM read_parquet('{out}/events/*/*') ORDER BY line"
        ids = [event_id for (event_id,) in db.execute(query).fetchall()]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty_file"),
        (b"\n\n", "empty_file"),
        (b"user,item\nu1,p1\n", "missing_column"),
        (b"user,item,code,at,at\nu1,p1,v,2026-01-05,\n", "bad_header"),
        ("\ufeffuser,item".encode("utf-16"), "bad_encoding"),
        (b'user,"item\n', "bad_header"),
    ],
)
def test_a_file_without_a_usable_header_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(FileRefusedError) as caught, read(CSV, content, "a.csv"):
        pass
    assert caught.value.reason == reason


def test_all_columns_that_are_missing_are_named_with_what_may_be_meant() -> None:
    with pytest.raises(FileRefusedError) as caught, read(CSV, b"users,item,note\nu1,p1,x\n", "a.csv"):
        pass
    told = caught.value.detail
    assert "'user', from which user_id is made: is it 'users'?" in told
    assert "'code', from which behavior is made" in told
    assert "'at', from which time is made" in told
    assert "'item'" not in told


def test_a_column_is_found_again_whatever_its_case() -> None:
    with pytest.raises(FileRefusedError) as caught, read(CSV, b"USER,Item,code,at,price\n", "a.csv"):
        pass
    assert "'user', from which user_id is made: is it 'USER'?" in caught.value.detail
    assert "'item', from which item_id is made: is it 'Item'?" in caught.value.detail


def test_a_missing_column_of_a_parquet_file_is_not_laid_to_a_header() -> None:
    spec = FileSpec.model_validate(CSV.model_dump() | {"format": {"type": "parquet"}})
    with pytest.raises(FileRefusedError) as caught, read(spec, parquet(), "a.parquet"):
        pass
    assert "there is no column 'user'" in caught.value.detail
    assert "header" not in caught.value.detail


def parquet() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"x": [1]}), out)
    return out.getvalue()


def zipped() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.csv", HEADER)
    return out.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (gzip.compress(HEADER.encode()), r"compressed by gzip.*ends with \.gz"),
        (zipped(), r"ZIP archive.*ends with \.zip.*Excel"),
        (bz2.compress(HEADER.encode()), "compressed by bzip2. Unpack it"),
        (bz2.compress(b""), "compressed by bzip2. Unpack it"),
        (b"\x28\xb5\x2f\xfd\x04\x00\x01\x00\x00\x99\xe9\xd8\x51", "compressed by zstd. Unpack it"),
        (parquet(), r"Parquet.*type: parquet"),
    ],
    # An archive holds the second it was made in, by which each worker would name the tests differently.
    ids=["gzip", "zip", "bzip2", "empty bzip2", "zstd", "parquet"],
)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl"])
def test_what_is_no_text_is_refused_as_a_whole_and_told_what_it_is(
    content: bytes, says: str, name: str
) -> None:
    latin = CSV.model_dump() | {
        "format": {"type": "csv", "encoding": "latin-1", "columns": HEADER.split(",")}
    }
    specs = [JSONL] if name == "a.jsonl" else [CSV, FileSpec.model_validate(latin)]
    for spec in specs:
        dropped = gzip.compress(content) if name.endswith(".gz") else content
        with pytest.raises(FileRefusedError, match=says) as caught, read(spec, dropped, name):
            pass
        assert caught.value.reason == "not_text"


@pytest.mark.parametrize("word", ["BZh9,p", "PAR1,p", "PAR12,p", "PK,p", "BZhang,p"])
def test_text_that_begins_like_something_else_is_text(word: str) -> None:
    spec = FileSpec.model_validate(
        CSV.model_dump() | {"format": {"type": "csv", "columns": HEADER.split(",")}}
    )
    with read(spec, f"{word},view,2026-01-05,1\n".encode(), "a.csv") as (tally, found, _):
        assert (tally["lines"], len(found)) == (1, 1)


def test_all_columns_of_a_parquet_file_that_changed_their_type_are_named() -> None:
    spec = FileSpec.model_validate(CSV.model_dump() | {"format": {"type": "parquet"}})
    good = {"user": ["u1"], "item": [7], "code": ["view"], "at": [datetime(2026, 1, 5)], "price": [1]}

    def content(**columns: list[Any]) -> bytes:
        out = io.BytesIO()
        pq.write_table(pa.table(good | columns), out)
        return out.getvalue()

    with read(spec, content(), "a.parquet") as (_, found, _):
        assert [row[1] for row in found] == ["7"]
    with read(spec, content(price=["1.50"], at=["2026-01-05"]), "a.parquet") as (_, found, _):
        assert [row[4] for row in found] == [1.5]
    wrong = content(user=[1.0], at=[1767610800], price=[[1]])
    with pytest.raises(FileRefusedError) as caught, read(spec, wrong, "a.parquet"):
        pass
    assert caught.value.reason == "wrong_type"
    for said in ("user holds double", "at holds int64, not times", "price holds list<"):
        assert said in caught.value.detail


def test_members_of_json_objects_that_nothing_is_made_of_are_told_of_but_no_addresses() -> None:
    good = {"user": "u1", "item": "p1", "code": "view", "at": "2026-01-05"}
    lines = [good, good | {"note": 1, "jane@example.org": 1}, good | {"coupon": {"a": 1}}]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    with read(JSONL, content, "a.jsonl") as (tally, found, _):
        assert len(found) == 3
        assert tally["extra"] == ["coupon", "note"]
        assert tally["notes"] == ["kept in extra: coupon, note"]


LIMITED = """
import os, pathlib, resource, sys, tempfile
from assets.logs import reader
with tempfile.NamedTemporaryFile() as copy:
    reader.{name} = {value}
    reader._limit(pathlib.Path(copy.name))
    {then}
"""


@pytest.mark.parametrize(
    ("name", "value", "then", "ends"),
    [
        ("MEMORY", 2 << 30, "bytearray(3 << 30)", "MemoryError"),
        ("SECONDS", 1, "\n    while True: pass", -signal.SIGXCPU),
        ("LARGEST_OUTPUT", 1 << 20, "copy.write(bytes(2 << 20)); copy.flush()", "File too large"),
    ],
)
def test_a_reader_is_held_to_its_means(name: str, value: int, then: str, ends: str | int) -> None:
    program = LIMITED.format(name=name, value=value, then=then)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if isinstance(ends, str):
        assert ends in done.stderr
    else:
        assert done.returncode == ends


@settings(max_examples=300)
@given(st.lists(st.text(alphabet='a,"" é\t', max_size=10), min_size=1, max_size=12), st.sampled_from([2, 3]))
def test_quotation_marks_are_read_as_the_standard_reader_reads_them(lines: list[str], columns: int) -> None:
    layout = Layout(columns)
    block = sort_out("".join(f"{line}\n" for line in lines).encode(), 1, layout)

    wanted = {}
    for number, line in enumerate(lines, 1):
        fields = split(line.encode(), ",", '"')
        if line.strip(" \t") and isinstance(fields, list) and len(fields) == columns:
            wanted[number] = tuple(field or None for field in fields)
    assert block.numbers.tolist() == list(wanted)
    assert read_by_duckdb(block.data, columns) == list(wanted.values())
    if not block.blanks:
        assert all(
            field == field.strip() for row in wanted.values() for field in row if field and "\t" not in field
        )


def read_by_duckdb(data: bytes, columns: int) -> list[tuple[str | None, ...]]:
    """As the reader has it read."""
    names = {f"c{n}": "VARCHAR" for n in range(columns)}
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as db:
        file = Path(folder) / "block.csv"
        file.write_bytes(data)
        return db.execute(
            f"SELECT * FROM read_csv('{file}', columns = {names}, auto_detect = false, header = false, "
            "delim = ',', quote = '\"', escape = '\"', new_line = '\\n', strict_mode = true"
            ", null_padding = false)"
        ).fetchall()


@pytest.mark.parametrize("delimiter", [b",", b"\t"])
def test_control_characters_are_found_beside_blank_lines_and_tabs(delimiter: bytes) -> None:
    text = b"\n\na,\x1f\x1f\nb,c\n".replace(b",", delimiter)
    block = sort_out(text, 1, Layout(2, delimiter.decode()))
    assert [(line, reason) for line, reason, _ in block.refused] == [(3, "control_character")]
    assert block.data == b"b,c\n".replace(b",", delimiter)


def test_what_is_sorted_out_counts_every_line() -> None:
    block = sort_out(b'a,b\n\n"a",b\na\n  \n', 10, Layout(2))
    assert block.lines == 5
    assert block.blank == 2
    assert block.numbers.tolist() == [10, 12]
    assert block.data == b'a,b\n"a",b\n'
    assert [(line, reason) for line, reason, _ in block.refused] == [(13, "column_count")]
