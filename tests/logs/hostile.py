"""A corpus of hostile files, made up as it is asked for, and what has to become of each of them."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import socket
import stat
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CSV, JSONL, PARQUET = "nightshelf_csv", "nightshelf_jsonl", "nightshelf_parquet"
NAMES = ("event_id", "event_time", "user_id", "session_id", "item_id", "behavior", "price", "quantity")
EVENT = dict(zip(NAMES, ("e", "2026-01-05T10:00:00Z", "u1", "s1", "p1", "click", "9.99", "1"), strict=True))
HEADER = ",".join(NAMES)
SECRET = "secret-of-the-machine"


@dataclass(frozen=True, eq=False)
class Hostile:
    """One file of a publisher who means no good, or whose disk was full."""

    name: str
    content: bytes | Callable[[], bytes]
    refused: str | dict[int, str] = field(default_factory=dict)
    """Reason for which the whole file is refused, or line → reason."""
    loaded: int = 0
    """Rows that are good all the same."""
    source: str = CSV

    @property
    def made(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content()


def record(**changes: str) -> str:
    """A line of Nightshelf's CSV."""
    return ",".join((EVENT | changes).values())


def csv_of(*lines: str | bytes) -> bytes:
    return b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in (HEADER, *lines))


def csv_between(name: str, lines: dict[str | bytes, str | None], **more: Any) -> Hostile:
    """Odd lines between two good ones; each with the reason for which it is refused, None where it is not."""
    content = csv_of(record(event_id="before"), *lines, record(event_id="after"))
    reasons = enumerate(lines.values(), start=3)
    refused = {line: reason for line, reason in reasons if reason}
    return Hostile(name, content, refused, loaded=2 + len(lines) - len(refused), **more)


def json_of(**changes: Any) -> str:
    return json.dumps(EVENT | changes)


def json_between(name: str, lines: dict[str | bytes, str | None], **more: Any) -> Hostile:
    good = json_of()
    inside = [line.encode() if isinstance(line, str) else line for line in lines]
    content = b"\n".join([good.encode(), *inside, good.encode(), b""])
    refused = {line: reason for line, reason in enumerate(lines.values(), start=2) if reason}
    return Hostile(name, content, refused, loaded=2 + len(lines) - len(refused), source=JSONL, **more)


def table_of(rows: int = 3, **columns: Any) -> pa.Table:
    """Nightshelf's columns with `rows` good rows; others replace them, or leave them out where None."""
    found = {name: [value] * rows for name, value in EVENT.items()}
    found["event_time"] = [datetime(2026, 1, 5, 10, tzinfo=UTC)] * rows
    found["price"], found["quantity"] = [9.99] * rows, [1] * rows
    return pa.table({name: values for name, values in (found | columns).items() if values is not None})


def parquet_of(table: pa.Table, **options: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(table, out, **options)
    return out.getvalue()


def parquet(name: str, table: pa.Table, refused: str | dict[int, str], loaded: int = 0) -> Hostile:
    return Hostile(name, lambda: parquet_of(table), refused, loaded, source=PARQUET)


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def blown_up(part: bytes, times: int) -> bytes:
    """A gzip file that is the part over and over; as gzip allows, member after member."""
    return gzip.compress(part, 9) * times


def repeated_in_zip(part: bytes, times: int) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.csv", "w") as member:
        for _ in range(times):
            member.write(part)
    return out.getvalue()


def encrypted_zip() -> bytes:
    """An archive whose flags say that it is encrypted, in both places where it has them."""
    content = bytearray(zip_of(("a.csv", csv_of(record()))))
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return bytes(content)


def linked_zip() -> bytes:
    info = zipfile.ZipInfo("a.csv")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return zip_of((info, b"/etc/passwd"))


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def deep_parquet(depth: int) -> bytes:
    """A footer, written by hand (Thrift's compact protocol), with a column in so many groups, each in the one
    before.
    """
    root = b"\x48\x01r\x15\x02\x00"  # 4: name, 5: one child
    group = b"\x35\x02\x18\x01g\x15\x02\x00"  # 3: optional, 4: name, 5: one child
    leaf = b"\x15\x02\x25\x02\x18\x01c\x00"  # 1: INT32, 3: optional, 4: name
    schema = b"\xfc" + varint(depth + 2) + root + group * depth + leaf
    footer = b"\x15\x02\x19" + schema + b"\x16\x00\x19\x0c\x00"  # version, schema, no rows, no row groups
    return b"PAR1" + footer + struct.pack("<I", len(footer)) + b"PAR1"


def spoilt_parquet() -> bytes:
    """Sound but for a stretch of its first page."""
    content = bytearray(parquet_of(table_of(20_000, user_id=[f"u{n * 7919}" for n in range(20_000)])))
    at = len(content) // 3
    content[at : at + 400] = b"\xff" * 400
    return bytes(content)


class _Exploit:
    """What an unpickler would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("/tmp/nightshelf-was-here",)


def corpus() -> Iterator[Hostile]:
    """Every hostile file, under a name of its own."""
    yield from _wholes()
    yield from _archives()
    yield from _texts()
    yield from _tables()
    yield from _values()
    yield from _json()
    yield from _parquet()
    yield from _names()


def _wholes() -> Iterator[Hostile]:
    yield Hostile("empty.csv", b"", "empty_file")
    yield Hostile("blank.csv", b"\n \t\n\n", "empty_file")
    yield Hostile("blank.jsonl", b"", "empty_file", source=JSONL)
    yield Hostile("noise.csv", bytes(range(256)) * 40, "bad_header")
    yield Hostile("pickle.csv", lambda: pickle.dumps(_Exploit(), 0), "missing_column")
    yield Hostile("program.csv", b"\x7fELF\x02\x01\x01" + bytes(300), "bad_header")
    yield Hostile("picture.csv", b"\x89PNG\r\n\x1a\n" + bytes(200), "bad_header")
    yield Hostile("really-parquet.csv", lambda: parquet_of(table_of()), "not_text")
    yield Hostile("really-gzip.csv", gzip.compress(csv_of(record())), "not_text")
    yield Hostile("really-csv.parquet", csv_of(record()), "bad_parquet", source=PARQUET)
    yield Hostile("page.csv", b"<html><script>alert(1)</script></html>\n", "missing_column")
    yield Hostile("zeros.csv", bytes(3 << 20), "bad_header")
    yield Hostile("long-zeros.csv", bytes(70 << 20), "line_too_long")
    yield Hostile("header-only.csv", csv_of())
    yield Hostile("unknown.xml", b"<a/>\n", "unknown_file")
    yield Hostile("script.csv.sh", b"touch /tmp/nightshelf-was-here\n", "unknown_file")


def _archives() -> Iterator[Hostile]:
    good = csv_of(record(), record())
    yield Hostile("cut.csv.gz", gzip.compress(os.urandom(9000))[:-2000], "bad_archive")
    yield Hostile("no.csv.gz", b"this is no gzip\n", "bad_archive")
    yield Hostile("twice.csv.gz", gzip.compress(gzip.compress(good)), "not_text")
    yield Hostile("members.csv.gz", gzip.compress(csv_of()) + gzip.compress(b"a\n"), {2: "column_count"})
    yield Hostile("tail.csv.gz", gzip.compress(good) + b"tail", "bad_archive")
    yield Hostile("zeros.csv.gz", lambda: blown_up(bytes(1 << 20), 300), "line_too_long")
    yield Hostile("zeros.csv.zip", lambda: repeated_in_zip(bytes(1 << 20), 100), "line_too_long")
    yield Hostile(
        "bomb.csv.gz", lambda: gzip.compress(csv_of()) + blown_up(b"\n" * (1 << 20), 300), "bad_archive"
    )
    yield Hostile(
        "rows-bomb.csv.gz",
        lambda: gzip.compress(csv_of()) + blown_up((record() + "\n").encode() * 10_000, 800),
        "bad_archive",
    )
    yield Hostile("two.csv.zip", zip_of(("a.csv", good), ("b.csv", good)), "bad_archive")
    yield Hostile("none.csv.zip", zip_of(), "bad_archive")
    yield Hostile("many.csv.zip", lambda: zip_of(*((f"{n}.csv", b"") for n in range(5000))), "bad_archive")
    yield Hostile("out.csv.zip", zip_of(("../../../../tmp/nightshelf-was-here", good)), loaded=2)
    yield Hostile("encrypted.csv.zip", encrypted_zip(), "bad_archive")
    yield Hostile("link.csv.zip", linked_zip(), "missing_column")
    yield Hostile("nested.csv.zip", zip_of(("a.csv", zip_of(("b.csv", good)))), "not_text")
    yield Hostile(
        "spoilt.csv.zip",
        zip_of(("a.csv", good), how=zipfile.ZIP_STORED).replace(b"u1", b"u2", 1),
        "bad_archive",
    )


def _texts() -> Iterator[Hostile]:
    good = csv_of(record())
    yield Hostile("utf16.csv", good.decode().encode("utf-16"), "bad_encoding")
    yield Hostile("utf16-without-mark.csv", good.decode().encode("utf-16-le"), "bad_header")
    yield Hostile("utf32.csv", good.decode().encode("utf-32"), "bad_encoding")
    yield Hostile("mark.csv", b"\xef\xbb\xbf" + good, loaded=1)
    yield Hostile("marks.csv", b"\xef\xbb\xbf" * 2 + good, loaded=1)
    yield Hostile("mac.csv", good.replace(b"\n", b"\r"), "bad_header")
    yield Hostile("mixed-ends.csv", good + good.split(b"\n")[1] + b"\r\n", loaded=2)
    yield csv_between(
        "bytes.csv",
        {
            b"e,2026-01-05,u1,s,p\xff,click,1,1": "bad_encoding",
            b"e,2026-01-05,u1,s,p\xc0\x80,click,1,1": "bad_encoding",  # NUL, written too long
            b"e,2026-01-05,u1,s,p\xed\xa0\x80,click,1,1": "bad_encoding",  # half of a character
            b"e,2026-01-05,u1,s,T\xfcr,click,1,1": "bad_encoding",  # Latin-1
        },
    )
    yield csv_between(
        "controls.csv",
        {
            record(item_id="p\0"): "control_character",
            record(user_id="u\x1b[2J\x1b]0;owned\x07"): "control_character",
            record(item_id="p\x0b"): "control_character",
            record(item_id="p\x0c"): "control_character",
            record(item_id="a\rb"): "control_character",
            record(item_id="\x1f"): "control_character",
            record(item_id="p\u202egpj\u200b"): None,  # odd, but text
            record(item_id="a\u2028b\u2029c\x85d"): None,  # line ends for some, and no line ends
            record(item_id="\U0001f45f" * 50): None,
        },
    )


def _tables() -> Iterator[Hostile]:
    good = record()
    yield csv_between("quote.csv", {record(item_id='"p1'): "unbalanced_quote", good: None})
    yield csv_between("fields.csv", {"a,b": "column_count", good + ",": "column_count", ",": "column_count"})
    yield csv_between("after-quote.csv", {record(item_id='"p"x'): "unbalanced_quote"})
    yield csv_between("record-on-two-lines.csv", {'e,"2026': "unbalanced_quote", '",u,s': "unbalanced_quote"})
    yield csv_between("2-mb-line.csv", {record(item_id="p" * (2 << 20)): "line_too_long"})
    yield csv_between("30-mb-field.csv", {record(item_id='"' + "p" * (30 << 20) + '"'): "line_too_long"})
    yield Hostile("all-one-quote.csv", csv_of('"' * 5001), {2: "unbalanced_quote"})
    wide = ",".join([HEADER, *(f"c{n}" for n in range(10_000))])
    yield Hostile("10000-columns.csv", f"{wide}\n{good}{',x' * 10_000}\n".encode(), "too_many_columns")
    yield Hostile("twice.csv", f"{HEADER},price\n{good},1\n".encode(), "bad_header")
    yield Hostile("some-missing.csv", b"event_id,event_time,session_id\n1,2,3\n", "missing_column")
    yield Hostile("semicolons.csv", csv_of(good).replace(b",", b";"), "missing_column")
    yield Hostile("headless.csv", f"{good}\n{good}\n".encode(), "missing_column")
    evil = '"x\'); DROP TABLE rejects; --"'
    yield Hostile("sql-header.csv", f"{HEADER},{evil}\n{good},1\n".encode(), loaded=1)
    json_evil = '"""}, ""user_id"": ""x"'
    yield Hostile("json-header.csv", f"{HEADER},{json_evil}\n{good},1\n".encode(), loaded=1)
    yield Hostile("nameless-column.csv", f"{HEADER},\n{good},1\n".encode(), loaded=1)
    yield Hostile("header-on-two-lines.csv", f'{HEADER},"a\nb"\n{good},1\n'.encode(), "bad_header")
    yield csv_between(
        "formulas-and-sql.csv",
        {
            record(item_id="=cmd|' /C calc'!A0"): None,
            record(item_id="@SUM(1+1)*cmd|' /C calc'!A0"): None,
            record(item_id="'; DROP TABLE events; --"): None,
            record(item_id="{{ config }}${HOME}$(id)`id`"): None,
            record(item_id="../../../../etc/passwd"): None,
        },
    )


def _values() -> Iterator[Hostile]:
    yield csv_between(
        "numbers.csv",
        {record(price=price): "bad_number" for price in ("NaN", "inf", "-Infinity", "1e999", "0x1F", "9.9.9")}
        | {record(quantity=many): "bad_number" for many in ("-nan", "١٢", "1 000", "1d")},
    )
    # What is too cheap to be true is a matter of taste, and of the tables: price_out_of_range.
    yield csv_between("negative.csv", {record(price="-5"): None, record(quantity="-1e30"): None})
    yield csv_between(
        "times.csv",
        {
            record(event_time="2106-02-07T06:28:15Z"): "outside_window",
            record(event_time="1970-01-01T00:00:00Z"): "outside_window",
            record(event_time="0001-01-01T00:00:00Z"): "outside_window",
            record(event_time="9999-12-31T23:59:59Z"): "outside_window",
            record(event_time="2026-01-05 (BC)"): "outside_window",
            record(event_time="294247-01-10T04:00:54Z"): "bad_time",
            record(event_time="4294967295"): "bad_time",
            record(event_time="2026-02-30T00:00:00Z"): "bad_time",
            record(event_time="2026-01-05T25:61:00Z"): "bad_time",
            record(event_time="infinity"): "bad_time",
            record(event_time="now"): "bad_time",
        },
    )
    app = {"id": "1", "user": {"id": "u"}, "action": "tap", "product": {"sku": "p"}}
    epochs = {"ts": 1767610800000}, {"ts": 4294967295000}, {"ts": 10**30}, {"ts": -(10**18)}, {"ts": "1e999"}
    yield Hostile(
        "epochs.jsonl",
        "".join(json.dumps(app | epoch) + "\n" for epoch in epochs).encode(),
        {2: "outside_window", 3: "bad_time", 4: "bad_time", 5: "bad_time"},
        loaded=1,
        source="shop_app_jsonl",
    )
    yield csv_between(
        "nobody.csv",
        {
            record(user_id=""): "missing_value",
            record(item_id="   "): "missing_value",
            record(behavior='""'): "missing_value",
            record(event_time=" "): "missing_value",
        },
    )


def _json() -> Iterator[Hostile]:
    good = json_of()
    deep = {depth: good[:-1] + ', "x": ' + "[" * depth + "]" * depth + "}" for depth in (500, 100_000)}
    yield json_between("depth.jsonl", {deep[100_000]: "bad_json"})
    yield json_between("depth-open.jsonl", {'{"a":' * 100_000: "bad_json", "[" * 100_000: "bad_json"})
    yield json_between("depth-below.jsonl", {deep[500]: None})
    yield json_between(
        "no-numbers.jsonl",
        {
            json_of(price=float("nan")): "bad_json",
            json_of(user_id=float("inf")): "bad_json",
            json_of(item_id=float("nan")): "bad_json",
            json_of(other=[1, float("-inf")]): "bad_json",
            json_of(price="NaN"): "bad_number",
            good.replace('"9.99"', "1e999"): "bad_number",
            json_of(item_id="banana, information"): None,
        },
    )
    yield json_between(
        "escapes.jsonl",
        {
            json_of(item_id="p\0"): "control_character",
            json_of(user_id="u\x1b[2J"): "control_character",
            json_of(behavior="click\x08"): "control_character",
            json_of(event_time="2026-01-05\0"): "control_character",
            good.replace('"p1"', '"\\ud800"'): "bad_json",
            good.replace('"p1"', '"p\0"').encode(): "bad_json",
            good.replace('"p1"', '"\\x41"'): "bad_json",
            json_of(other="\0\x1b"): None,  # nothing is made of it, and it stays spelt out
            json_of(title="two\nlines\tand a tab"): None,
        },
    )
    yield json_between(
        "no-records.jsonl",
        {
            "[1, 2]": "bad_json",
            '"text"': "bad_json",
            "null": "bad_json",
            good + good: "bad_json",
            good.replace('"', "'"): "bad_json",
            good[:-20]: "bad_json",
            "{" + good: "bad_json",
            "/* note */ " + good: "bad_json",
            "{}": "missing_value",
        },
    )
    yield json_between(
        "types.jsonl",
        {
            json_of(price=[]): "bad_number",
            json_of(price={"amount": 1}): "bad_number",
            json_of(price=True): "bad_number",
            json_of(event_time=["2026-01-05"]): "bad_time",
            json_of(user_id=None): "missing_value",
            json_of(user_id=10**25): None,
        },
    )
    twice = '{"user_id": "first", "user_id": "second", ' + good[1:].replace('"user_id": "u1", ', "")
    yield json_between(
        "keys.jsonl",
        {
            twice: None,
            json_of(**{"$.user_id": 1, "__proto__": {"a": 1}, "user_id.x": 2, "'; --": 3, "": 4}): None,
            json_of(**{"k" * 500_000: 1}): None,
        },
    )
    yield json_between("5-mb-line.jsonl", {json_of(title="x" * (5 << 20)): "line_too_long"})
    yield Hostile(
        "one-array.jsonl", f"[{good},\n{good}]\n".encode(), {1: "bad_json", 2: "bad_json"}, source=JSONL
    )
    yield Hostile("endless.jsonl", b"{" + b" " * (70 << 20), "line_too_long", source=JSONL)


def _parquet() -> Iterator[Hostile]:
    sound = parquet_of(table_of())
    for name, content in (
        ("cut.parquet", sound[: len(sound) // 2]),
        ("no-tail.parquet", sound[:-4]),
        ("wrong-length.parquet", sound[:-8] + struct.pack("<I", 1 << 30) + b"PAR1"),
        ("negative-length.parquet", sound[:-8] + struct.pack("<i", -1) + b"PAR1"),
        ("magic-only.parquet", b"PAR1PAR1"),
        ("noise.parquet", b"PAR1" + bytes(range(256)) * 20 + struct.pack("<I", 900) + b"PAR1"),
        ("encrypted.parquet", b"PARE" + sound[4:-4] + b"PARE"),
        ("empty.parquet", b""),
    ):
        yield Hostile(name, content, "bad_parquet", source=PARQUET)
    yield Hostile("spoilt-page.parquet", spoilt_parquet, "bad_parquet", source=PARQUET)
    yield Hostile("deep.parquet", lambda: deep_parquet(900), "bad_parquet", source=PARQUET)
    yield parquet("missing.parquet", table_of(user_id=None, item_id=None), "missing_column")
    yield parquet("no-columns.parquet", pa.table({}), "missing_column")
    yield parquet("float-ids.parquet", table_of(user_id=[1.0, 2.0, 3.0]), "wrong_type")
    yield parquet("nested-ids.parquet", table_of(item_id=[["p"]] * 3), "wrong_type")
    yield parquet("times-as-numbers.parquet", table_of(event_time=[1, 2, 3]), "wrong_type")
    yield parquet("bytes.parquet", table_of(item_id=[b"\xff\0"] * 3), "wrong_type")
    yield parquet("no-rows.parquet", table_of(0), {})
    yield parquet(
        "values.parquet",
        table_of(
            5,
            price=[float("nan"), float("inf"), -5.0, None, 1.0],
            item_id=["p", "p", "p", "p\0", "p"],
            title=["x", "x", "x", "x", "y" * (2 << 20)],
        ),
        {1: "bad_number", 2: "bad_number", 4: "control_character", 5: "line_too_long"},
        loaded=1,
    )
    years = [
        datetime(2106, 2, 7, tzinfo=UTC),
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(2026, 1, 5, tzinfo=UTC),
    ]
    yield parquet("times.parquet", table_of(event_time=years), {1: "outside_window", 2: "outside_window"}, 1)
    columns = {f"c{n}": [1, 2, 3] for n in range(2500)}
    yield parquet("2500-columns.parquet", table_of(**columns), "too_many_columns")
    yield Hostile("rows-bomb.parquet", rows_bomb, "bad_archive", source=PARQUET)


def rows_bomb() -> bytes:
    """Three hundred million equal values in some kilobytes."""
    out = io.BytesIO()
    part = table_of(1_000_000)
    with pq.ParquetWriter(out, part.schema, compression="zstd") as writer:
        for _ in range(40):
            writer.write_table(part, row_group_size=1_000_000)
    return out.getvalue()


def _names() -> Iterator[Hostile]:
    """Good files under bad names: a name is nothing but a name, so they are taken in like any other."""
    names = (
        *("[a].csv", "*.csv", "a?.csv", "{b,c}.csv", "it's.csv", 'say "so".csv', "a;b|c&d.csv", "-rf.csv"),
        *("$(touch nightshelf-was-here).csv", "`id`.csv", "%s%n.csv", "{{ home }}.csv", "~.csv", " .csv"),
        *("new\nline: 1,000,000 rows loaded.csv", "\x1b[2Jesc.csv", "gpj\u202evsc.csv", "\u200b.csv"),
        *("\u0440\u0440.csv", "pp.csv", "é.csv", "e\u0301.csv", "\\..\\..\\a.csv", "x%2f..%2fa.csv"),
        *("a" * 251 + ".csv", "\x01" * 251 + ".csv", "day=2026-01-01/part=?/a.csv", "a..../a.csv"),
        *("a.csv\udcff.csv", "x'); DROP TABLE rejects; --.csv", "read_csv('a').csv", "http:/a.csv"),
    )
    for n, name in enumerate(names):
        yield Hostile(name, csv_of(record(event_id=f"name-{n}")), loaded=1)
    sources = (
        "n\u0456ghtshelf_csv",
        "NIGHTSHELF_CSV",
        "x'; DROP TABLE rejects; --",
        "[n]ightshelf_csv",
        "*",
        "",
    )
    for n, source in enumerate(sources):
        content = csv_of(record(event_id=f"source-{n}"))
        yield Hostile(f"no-source-{n}.csv", content, "unknown_source", source=source)


def plant_what_is_no_file(drop: Path, outside: Path) -> int:
    """Put links, pipes, sockets and devices where files belong; how many of them there are now."""
    folder = drop / CSV
    before = len(list(folder.iterdir()))
    (folder / "link.csv").symlink_to(outside / "secret.csv")
    (folder / "dangling.csv").symlink_to(outside / "nothing.csv")
    (folder / "loop.csv").symlink_to(folder / "loop.csv")
    (folder / "linked-folder").symlink_to(outside)
    (folder / "up").symlink_to(drop.parent)
    (folder / "passwd.csv").symlink_to("/etc/passwd")
    (folder / "endless.csv").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.csv")
    os.link(folder / "pipe.csv", folder / "hard-linked-pipe.csv")
    where = Path.cwd()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(folder)  # a socket's path has to be short
        listener.bind("socket.csv")
        os.chdir(where)
    (folder / "folder.csv").mkdir()
    try:
        os.mknod(folder / "zero.csv", 0o600 | stat.S_IFCHR, os.makedev(1, 5))
        os.mknod(folder / "disk.csv", 0o600 | stat.S_IFBLK, os.makedev(7, 0))
    except PermissionError:
        pass  # only root may
    return len(list(folder.iterdir())) - before
