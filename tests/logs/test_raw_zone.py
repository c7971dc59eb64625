"""Taking files in: once, whole or not at all, and every line accounted for."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable
from contextlib import closing
from datetime import date
from pathlib import Path
from typing import Any, cast

import duckdb
import psutil
import pytest

from assets.logs import raw_zone, readers
from assets.logs.lines import LARGEST
from resources.home import Home
from resources.identity import IdentityKey

Drop = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]

TAKE_IN = (
    "from assets.logs import raw_zone; from resources.home import Home; raw_zone.take_in_all(Home.current())"
)
HEADER = "event_id,event_time,user_id,session_id,item_id,behavior,price,quantity\n"


def events(
    *, day: str = "2026-01-05", count: int = 3, user: str = "someone@example.org", start: int = 0
) -> str:
    """Nightshelf's own CSV with `count` good rows of one day."""
    rows = (
        f"{day}-{n},{day}T12:00:00+01:00,{user},visit-{n % 7}-of-{user},p{n},click,9.99,1\n"
        for n in range(start, start + count)
    )
    return HEADER + "".join(rows)


def tree(home: Home) -> dict[str, bytes]:
    """Every file of the raw zone, but the cache, with its content."""
    return {str(f.relative_to(home.loads)): f.read_bytes() for f in home.loads.rglob("*") if f.is_file()}


def test_the_same_file_dropped_again_changes_nothing(home: Home, drop: Drop, rows: Rows) -> None:
    file = drop("nightshelf_csv", "a.csv", events())
    (first,) = raw_zone.take_in_all(home)
    before = tree(home)
    assert raw_zone.take_in_all(home) == []
    os.utime(file, (1_700_000_001, 1_700_000_001))  # written again, with the same bytes
    assert raw_zone.take_in_all(home) == [first]
    (home.loads.parent / "seen.json").unlink()
    assert raw_zone.take_in_all(home) == [first]
    assert tree(home) == before
    assert len(rows("events")) == 3


def test_the_same_bytes_under_another_name_are_a_duplicate_and_load_nothing(
    home: Home, drop: Drop, rows: Rows
) -> None:
    drop("nightshelf_csv", "a.csv", events())
    drop("nightshelf_csv", "sub/b.csv", events())
    first, second = raw_zone.take_in_all(home)
    assert (first.status, second.status) == ("loaded", "duplicate")
    drop("nightshelf_csv", "c.csv", events())
    (third,) = raw_zone.take_in_all(home)
    assert third.status == "duplicate"
    assert "a.csv" in third.detail
    assert third.rows_loaded == third.lines == 0
    assert len(rows("events")) == 3
    assert [outcome.file for outcome in raw_zone.outcomes(home)] == [
        "nightshelf_csv/a.csv",
        "nightshelf_csv/sub/b.csv",
        "nightshelf_csv/c.csv",
    ]
    assert raw_zone.take_in_all(home) == []


def test_any_split_and_order_of_files_loads_the_same_rows(
    home: Home, drop: Drop, rows: Rows, tmp_path: Path
) -> None:
    lines = events(count=30).splitlines(keepends=True)[1:]
    for name, part in (("z.csv", lines[:7]), ("y.csv", lines[7:8]), ("x.csv.gz", lines[8:])):
        drop("nightshelf_csv", name, HEADER + "".join(part))
    raw_zone.take_in_all(home)
    apart = sorted(row["event_id"] for row in rows("events"))
    shutil.rmtree(home.root)
    drop("nightshelf_csv", "all.csv", HEADER + "".join(reversed(lines)))
    raw_zone.take_in_all(home)
    assert sorted(row["event_id"] for row in rows("events")) == apart


def texts_of(table: Path) -> list[str]:
    """Every text of a Parquet file as whoever reads it sees it: the bytes on disk are compressed."""
    with duckdb.connect() as db:
        rows = db.execute(
            "SELECT * FROM read_parquet($1, hive_partitioning = false)", [str(table)]
        ).fetchall()
    return [value for row in rows for value in row if isinstance(value, str)]


def test_no_raw_id_is_in_any_file_of_the_home(home: Home, drop: Drop, rows: Rows) -> None:
    user, order = "jane.doe@example.org", "ORDER-4711-JANE"
    bad = (
        f"e1,2026-01-05T10:00:00Z,{user},{user}-visit,p1,click,not-a-price,1\n"
        f"e2,not a time,{user},s,p1,click,1,1\n"
        f"e3,2026-01-05T10:00:00Z,{user}\n"
        f'e4,2026-01-05T10:00:00Z,"{user},s,p1,click,1,1\n'
    )
    drop("nightshelf_csv", "a.csv", events(user=user) + bad)
    drop(
        "nightshelf_jsonl",
        "a.jsonl",
        json.dumps(
            {
                "user_id": user,
                "order_id": order,
                "session_id": user,
                "item_id": "p1",
                "behavior": "purchase",
                "event_time": "2026-01-05T10:00:00Z",
            }
        )
        + f'\n{{"user_id": "{user}", "event_time"\n',
    )
    drop("nightshelf_csv", "headless.csv", f"e5,2026-01-05T10:00:00Z,{user},{user},p1,click,1,1\n")
    drop("movielens_100k", "u.data", "jane.doe@example.org\t242\tx\t881250949\n")
    # Somebody has swapped two columns: the user stands where the price, the time, the quantity belong.
    swapped = (
        f"e6,2026-01-05T10:00:00Z,9.99,s,p1,click,{user},1\n"
        f"e7,{user},2026-01-05T10:00:00Z,s,p1,click,1,1\n"
        f"e8,2026-01-05T10:00:00Z,1,s,p1,click,1,{order}\n"
    )
    drop("nightshelf_csv", "swapped.csv", HEADER + swapped)
    drop("nightshelf_csv", "numbers.csv", f"user_17,{user}\nuser_18,{user}\n")  # user_17 is near user_id
    taken = raw_zone.take_in_all(home)
    assert sum(outcome.rows_loaded for outcome in taken) == 4
    assert sum(outcome.rows_refused for outcome in taken) == 12
    values = {row["value"] for row in rows("rejects")}
    assert {"aaaa.aaa@aaaaaaa.aaa", "AAAAA-9999-AAAA"} <= values
    written = [file for file in home.root.rglob("*") if file.is_file() and home.drop not in file.parents]
    tables = [file for file in written if file.suffix == ".parquet"]
    assert len(tables) > 8
    told = [(file, text) for file in tables for text in texts_of(file)]
    told += [(file, file.read_text()) for file in written if file.suffix in (".json", ".yaml")]
    found = [(file, text) for file, text in told for raw in (user, order, "user_17") if raw in text]
    assert found == []
    assert {file.suffix for file in written} <= {".parquet", ".json", ".yaml", ".k1", ".lock"}
    key = IdentityKey.load(home)
    of_user = {row["source"] for row in rows("events") if row["user_key"] == key.pseudonym(user)}
    assert of_user == {"nightshelf_csv", "nightshelf_jsonl"}  # and so is recognised in both
    assert not list(home.loads.parent.glob("incoming/*"))


def test_sources_of_one_namespace_share_their_shoppers(home: Home, drop: Drop, rows: Rows) -> None:
    drop("nightshelf_csv", "a.csv", events(user="u1", count=1))
    line = {"id": "1", "ts": 1767610800000, "user": {"id": "u1"}, "action": "tap", "product": {"sku": "p"}}
    drop("shop_app_jsonl", "a.jsonl", json.dumps(line) + "\n")
    raw_zone.take_in_all(home)
    assert {row["user_key"] for row in rows("events")} == {IdentityKey.load(home).pseudonym("u1")}


def test_names_are_never_patterns_or_sql(home: Home, drop: Drop, rows: Rows) -> None:
    names = ["[a].csv", "a.csv", "it's; DROP.csv", "*.csv", "ä 鞋.csv"]
    for n, name in enumerate(names):
        drop("nightshelf_csv", name, events(count=n + 1, start=100 * n))
    taken = {outcome.file: outcome for outcome in raw_zone.take_in_all(home)}
    assert {file: outcome.rows_loaded for file, outcome in taken.items()} == {
        f"nightshelf_csv/{name}": n + 1 for n, name in enumerate(names)
    }
    assert len(rows("events")) == sum(range(1, 6))


def test_only_finished_plain_files_are_taken_in(home: Home, drop: Drop, tmp_path: Path) -> None:
    drop("nightshelf_csv", "good.csv", events())
    for name in (".hidden.csv", "a.csv.tmp", "a.csv.part", ".git/a.csv"):
        drop("nightshelf_csv", name, events(count=5))
    secret = tmp_path / "elsewhere.csv"
    secret.write_text(events(count=9))
    folder = home.drop / "nightshelf_csv"
    (folder / "link.csv").symlink_to(secret)
    (folder / "folder-link").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.csv")
    assert [outcome.file for outcome in raw_zone.take_in_all(home)] == ["nightshelf_csv/good.csv"]


def test_a_file_that_is_still_being_written_waits(home: Home, drop: Drop) -> None:
    file = drop("nightshelf_csv", "a.csv", events(count=10))
    os.utime(file)
    told: list[str] = []
    with file.open("a") as out:
        done = threading.Event()

        def go_on_writing() -> None:
            while not done.wait(0.2):
                out.write("2026-")
                out.flush()

        writer = threading.Thread(target=go_on_writing)
        writer.start()
        assert raw_zone.take_in_all(home, told.append) == []
        done.set()
        writer.join()
    assert any("still being written" in line for line in told)
    os.utime(file)
    (outcome,) = raw_zone.take_in_all(home)  # young, but nobody writes to it any more
    assert (outcome.rows_loaded, outcome.rows_refused) == (10, 1)


def test_a_file_with_a_checksum_is_taken_in_once_it_is_what_the_checksum_says(home: Home, drop: Drop) -> None:
    whole = events(count=5)
    file = drop("nightshelf_csv", "a.csv", whole[: len(whole) // 2])  # the copying has stopped half-way
    told = f"{hashlib.sha256(whole.encode()).hexdigest()}  a.csv\n"  # as sha256sum writes it
    checksum = drop("nightshelf_csv", "a.csv.sha256", told)
    (half,) = raw_zone.take_in_all(home)
    assert (half.status, half.reason, half.rows_loaded) == ("refused", "still_written", 0)
    assert "a.csv.sha256" in half.detail
    assert half.adds_up
    assert [outcome.reason for outcome in raw_zone.take_in_all(home)] == ["still_written"]  # and asked again
    drop("nightshelf_csv", "a.csv", whole)
    (done,) = raw_zone.take_in_all(home)
    assert (done.status, done.rows_loaded) == ("loaded", 5)
    file.unlink()
    checksum.unlink()
    assert sum(raw_zone.rows_in_place(home).values()) == 5


def _once_copied(home: Home, then: Callable[[], object]) -> threading.Thread:
    """Does something as soon as the copying of a first file has begun."""

    def wait() -> None:
        while not list(home.loads.parent.glob("incoming/*/copy")):
            time.sleep(0.001)
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def _slow(file: Path) -> int:
    """Make the file one that is read for a while and takes no room, by a hole at its end; its size before."""
    size = file.stat().st_size
    os.truncate(file, 1 << 29)
    os.utime(file, (1_700_000_000, 1_700_000_000))
    return size


def test_a_file_that_changes_while_it_is_copied_waits(home: Home, drop: Drop) -> None:
    file = drop("nightshelf_csv", "a.csv", events(count=5))
    whole = _slow(file)
    writer = _once_copied(home, lambda: os.truncate(file, whole))
    told: list[str] = []
    assert raw_zone.take_in_all(home, told.append) == []
    writer.join()
    assert "nightshelf_csv/a.csv is still being written; it waits for the next time" in told
    assert raw_zone.outcomes(home) == []
    (done,) = raw_zone.take_in_all(home)
    assert (done.status, done.rows_loaded) == ("loaded", 5)


def test_a_file_that_is_written_to_while_others_are_taken_in_waits(home: Home, drop: Drop) -> None:
    whole = events(count=4, day="2026-01-06")
    for start, name in enumerate(("a.csv", "b.csv")):
        _slow(drop("nightshelf_csv", name, events(start=start)))
    file = drop("nightshelf_csv", "z.csv", whole[: len(whole) // 2])
    writer = _once_copied(home, lambda: file.write_text(whole[: len(whole) - 3]))
    taken = raw_zone.take_in_all(home)
    writer.join()
    assert "nightshelf_csv/z.csv" not in [outcome.file for outcome in taken]
    file.write_text(whole)
    (done,) = raw_zone.take_in_all(home)
    assert (done.file, done.status, done.rows_loaded) == ("nightshelf_csv/z.csv", "loaded", 4)


def test_a_file_that_is_removed_while_it_is_copied_is_taken_in_whole(home: Home, drop: Drop) -> None:
    file = drop("nightshelf_csv", "a.csv", events(count=300_000))
    remover = _once_copied(home, file.unlink)
    (done,) = raw_zone.take_in_all(home)
    remover.join()
    assert not file.exists()
    assert (done.rows_loaded, done.adds_up) == (300_000, True)


def test_a_catalogue_that_is_again_what_it_was_is_noted_with_its_time(home: Home, drop: Drop) -> None:
    """Whether an item is in stock goes by the catalogue that came last, and it may have come before."""
    first = "item_id,title,price,in_stock\np1,Lamp,9.5,true\n"
    (monday,) = _taken(home, drop("nightshelf_catalogue", "products.csv", first))
    (tuesday,) = _taken(home, drop("nightshelf_catalogue", "products.csv", first.replace("true", "false")))
    (again,) = _taken(home, drop("nightshelf_catalogue", "products.csv", first))
    assert (again.status, again.load_id) == ("duplicate", monday.load_id)
    assert again.began_at > tuesday.began_at > monday.began_at
    (last,) = _taken(home, drop("nightshelf_catalogue", "products.csv", first.replace("true", "false")))
    (back,) = _taken(home, drop("nightshelf_catalogue", "products.csv", first))
    assert (last.load_id, back.load_id) == (tuesday.load_id, monday.load_id)
    assert back.began_at > last.began_at
    assert len(raw_zone.outcomes(home)) == 4  # two loads, and when each of them has come last


def _taken(home: Home, file: Path) -> list[raw_zone.Outcome]:
    now = time.time_ns()
    os.utime(file, ns=(now - 10**10, now - 10**10))  # another time than before, and long enough ago
    return raw_zone.take_in_all(home)


def test_a_file_that_is_too_large_is_refused_unread(home: Home, drop: Drop) -> None:
    file = drop("nightshelf_csv", "large.csv", "x")
    os.truncate(file, LARGEST + 1)  # a hole: it takes no room
    os.utime(file, (1_700_000_000, 1_700_000_000))
    (outcome,) = raw_zone.take_in_all(home)
    assert (outcome.status, outcome.reason, outcome.bytes) == ("refused", "too_large", LARGEST + 1)
    assert outcome.adds_up
    assert outcome.seconds < 5  # to read it would take minutes, to copy it the whole disk
    assert raw_zone.take_in_all(home) == []


def test_a_file_that_asks_for_more_room_than_there_is_does_not_keep_others_out(
    home: Home, drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(4):
        drop("nightshelf_csv", f"{n}.csv", events(start=10 * n))
    monkeypatch.setenv("NIGHTSHELF_CRASH_AT", "ingest.copied#1:full")
    with pytest.raises(OSError, match="No space left"):
        raw_zone.take_in_all(home)
    assert len(raw_zone.outcomes(home)) == 3
    monkeypatch.delenv("NIGHTSHELF_CRASH_AT")
    (last,) = raw_zone.take_in_all(home)
    assert (last.status, last.attempts) == ("loaded", 1)


def test_a_column_that_was_not_there_before_is_kept_and_told_of(home: Home, drop: Drop, rows: Rows) -> None:
    def taken_in(name: str, *columns: str) -> dict[str, list[str]]:
        first, *others = events(start=100 * len(rows("events"))).splitlines()
        lines = [",".join([first, *columns]), *(",".join([line, *("1" for _ in columns)]) for line in others)]
        drop("nightshelf_csv", name, "\n".join([*lines, ""]))
        taken = raw_zone.take_in_all(home)
        return raw_zone.new_columns(raw_zone.outcomes(home), taken)

    assert taken_in("1.csv", "shop") == {}  # nothing to compare it with
    assert taken_in("2.csv", "shop") == {}
    assert taken_in("3.csv", "shop", "coupon", "note") == {"nightshelf_csv": ["coupon", "note"]}
    assert taken_in("4.csv", "note") == {}
    newest = raw_zone.outcomes(home)[2]
    assert newest.extra == ["coupon", "note", "shop"]
    assert "kept in extra: coupon, note, shop" in newest.detail
    kept = [json.loads(row["extra"]) for row in rows("events", newest.load_id)]
    assert kept == [{"shop": "1", "coupon": "1", "note": "1"}] * 3


def test_what_belongs_to_no_source_is_refused_with_the_next_step(home: Home, drop: Drop, rows: Rows) -> None:
    drop("nobody", "a.csv", "x\n1\n")
    drop("retailrocket", "odd.csv", "x\n1\n")
    (home.drop / "loose.csv").write_text("x\n")
    os.utime(home.drop / "loose.csv", (1, 1))
    found = {outcome.file: outcome for outcome in raw_zone.take_in_all(home)}
    assert all(outcome.status == "refused" and outcome.adds_up for outcome in found.values())
    assert "sources/nobody.yaml" in found["nobody/a.csv"].detail
    assert "events.csv" in found["retailrocket/odd.csv"].detail
    assert "drop/<source>/" in found["loose.csv"].detail
    assert found["nobody/a.csv"].lines == found["nobody/a.csv"].lines_refused == 2
    assert {(row["file"], row["line"], row["reason"]) for row in rows("rejects")} == {
        ("nobody/a.csv", 0, "unknown_source"),
        ("retailrocket/odd.csv", 0, "unknown_file"),
        ("loose.csv", 0, "unknown_source"),
    }
    assert raw_zone.take_in_all(home) == []


def test_a_refused_file_is_tried_again_once_its_source_is_there(home: Home, drop: Drop, rows: Rows) -> None:
    drop("mine", "a.csv", "wer,was,wann\nu1,p1,2026-01-05 10:00\n")
    assert raw_zone.take_in_all(home)[0].status == "refused"
    home.sources.mkdir()
    source = home.sources / "mine.yaml"
    source.write_text("name: mine\nfiles: nonsense\n")
    (broken,) = raw_zone.take_in_all(home)
    assert broken.reason == "broken_source"
    assert "mine.yaml:2" in broken.detail
    source.write_text(
        "name: mine\ndescription: ours\nfiles:\n  - match: '*.csv'\n    format: {type: csv}\n"
        "    time: {column: wann}\n    columns: {user_id: wer, item_id: was}\n    constants: "
        "{behavior: click}\n"
    )
    (outcome,) = raw_zone.take_in_all(home)
    assert (outcome.status, outcome.rows_loaded) == ("loaded", 1)
    assert [row["item_id"] for row in rows("events")] == ["p1"]
    assert rows("rejects") == []
    assert len(raw_zone.outcomes(home)) == 1


def test_a_broken_source_does_not_keep_others_out(home: Home, drop: Drop) -> None:
    home.sources.mkdir()
    (home.sources / "mine.yaml").write_text("name: [\n")
    drop("nightshelf_csv", "a.csv", events())
    drop("mine", "a.csv", "x\n")
    assert [outcome.status for outcome in raw_zone.take_in_all(home)] == ["refused", "loaded"]


def _bomb() -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9) as stream:
        for _ in range(300):
            stream.write(b"\n" * (1 << 20))
    return out.getvalue()


def _spoilt(archive: bytes) -> bytes:
    """With other bytes where its first file's content is."""
    return archive[:45] + b"\xff" * 20 + archive[65:]


def _archive(*names: str, how: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name in names:
            archive.writestr(name, events())
    return out.getvalue()


def test_poison_is_refused_as_a_whole_and_good_files_are_not(home: Home, drop: Drop) -> None:
    poison = {
        ("nightshelf_csv", "cut.csv.gz"): gzip.compress(os.urandom(9000))[:-2000],
        ("nightshelf_csv", "no.csv.gz"): b"this is no gzip\n",
        ("nightshelf_csv", "two.csv.zip"): _archive("a.csv", "b.csv"),
        ("nightshelf_csv", "lzma.csv.zip"): _spoilt(_archive("a.csv", how=zipfile.ZIP_LZMA)),
        ("nightshelf_csv", "bzip2.csv.zip"): _spoilt(_archive("a.csv", how=zipfile.ZIP_BZIP2)),
        ("nightshelf_csv", "name.csv.zip"): _archive("ä.csv").replace("ä".encode(), b"\xff\xfe"),
        ("nobody", "lzma.csv.zip"): _spoilt(_archive("b.csv", how=zipfile.ZIP_LZMA)),
        ("nightshelf_csv", "bomb.csv.gz"): _bomb(),
        ("nightshelf_csv", "empty.csv"): b"",
        ("nightshelf_csv", "noise.csv"): os.urandom(5000),
        ("nightshelf_csv", "utf16.csv"): events().encode("utf-16"),
        ("nightshelf_parquet", "no.parquet"): b"PAR1" + os.urandom(5000) + b"PAR1",
        ("nightshelf_jsonl", "endless.jsonl"): b"{" + b" " * (40 << 20),
    }
    for (source, name), content in poison.items():
        file = drop(source, "x" if name.endswith(".gz") else name, content)
        file.rename(file.with_name(name))
    drop("nightshelf_csv", "good.csv", events())
    drop("nightshelf_csv", "good.csv.zip", _archive("a.csv"))
    taken = {outcome.file: outcome for outcome in raw_zone.take_in_all(home)}
    assert taken.pop("nightshelf_csv/good.csv").status == "loaded"
    assert taken.pop("nightshelf_csv/good.csv.zip").status == "loaded"
    assert {name: outcome.status for name, outcome in taken.items()} == {
        f"{source}/{name}": "refused" for source, name in poison
    }
    assert all(outcome.adds_up and outcome.detail and not outcome.days for outcome in taken.values())
    assert not [name for name, outcome in taken.items() if outcome.reason == "reader_failed"]
    assert sum(raw_zone.rows_in_place(home).values()) == 6
    assert raw_zone.take_in_all(home) == []


def _reader_of(read: Path, of: psutil.Process) -> psutil.Process:
    """The reader that has a copy of this file open, which no other is as large as; it is waited for."""
    size = read.stat().st_size
    until = time.monotonic() + 30
    while time.monotonic() < until:
        for child in of.children(recursive=True):
            try:
                opened = [Path(file.path) for file in child.open_files()]
                if any(file.name == "copy" and file.stat().st_size == size for file in opened):
                    return child
            except (psutil.Error, FileNotFoundError):
                continue
        time.sleep(0.01)
    raise AssertionError("no reader came up")


@pytest.mark.parametrize("dies", ["the reader", "the server that it was forked off"])
def test_a_reader_that_dies_refuses_its_own_file_only(home: Home, drop: Drop, dies: str) -> None:
    def kill() -> None:
        reader = _reader_of(big, psutil.Process())
        (reader if dies == "the reader" else cast("psutil.Process", reader.parent())).kill()

    big = drop("nightshelf_csv", "big.csv", events(count=1_000_000))
    drop("nightshelf_csv", "good.csv", events(count=4, day="2026-01-06"))
    killer = threading.Thread(target=kill)
    killer.start()
    dead, good = raw_zone.take_in_all(home)
    killer.join()
    assert (dead.status, dead.rows_loaded, dead.lines_refused) == ("refused", 0, 1_000_001)
    assert dead.reason == "reader_failed"
    assert "SIGKILL" in dead.detail
    assert good.status == "loaded"
    assert set(raw_zone.days_of_loads(home)) == {date(2026, 1, 6)}
    # It was not the file's fault, and the next time shows it.
    (alive,) = raw_zone.take_in_all(home)
    assert (alive.status, alive.rows_loaded, alive.attempts) == ("loaded", 1_000_000, 2)
    assert raw_zone.take_in_all(home) == []


def test_after_one_that_took_too_long_the_next_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a\nb\nc\n")
    with closing(readers.Readers(1)) as parsing:
        with monkeypatch.context() as patch:
            patch.setattr(readers, "SECONDS", 0)
            assert parsing.lines(file, file.name) == 0
        assert parsing.lines(file, file.name) == 3


def test_a_file_that_no_reader_survives_is_tried_three_times_and_again_with_another_source(
    home: Home, drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop("mine", "a.csv", "wer,was,wann\nu1,p1,2026-01-05 10:00\n")
    home.sources.mkdir()
    source = home.sources / "mine.yaml"
    text = (
        "name: mine\ndescription: ours\nfiles:\n  - match: '*.csv'\n    format: {type: csv}\n"
        "    time: {column: wann}\n    columns: {user_id: wer, item_id: was}\n    constants: "
        "{behavior: click}\n"
    )
    source.write_text(text)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    taken = [raw_zone.take_in_all(home) for _ in range(4)]
    assert [[(o.reason, o.attempts) for o in each] for each in taken] == [
        [("reader_failed", 1)],
        [("reader_failed", 2)],
        [("reader_failed", 3)],
        [],
    ]
    source.write_text(text + "# corrected\n")
    ((again,),) = [raw_zone.take_in_all(home)]
    assert (again.reason, again.attempts) == ("reader_failed", 1)
    monkeypatch.undo()
    monkeypatch.setenv("NIGHTSHELF_HOME", str(home.root))
    assert raw_zone.take_in_all(home)[0].status == "loaded"


def test_a_ledger_from_before_reasons_can_be_read(home: Home, drop: Drop) -> None:
    drop("nightshelf_csv", "a.csv", events())
    raw_zone.take_in_all(home)
    (entry,) = (file for file in home.loads.glob("*/outcome.json") if file.stat().st_size)
    old = json.loads(entry.read_text())
    del old["reason"], old["attempts"]
    entry.write_text(json.dumps(old))
    (outcome,) = raw_zone.outcomes(home)
    assert (outcome.status, outcome.reason, outcome.attempts) == ("loaded", "", 1)


def test_names_that_are_no_text_and_files_that_go_do_not_keep_others_out(
    home: Home, drop: Drop, monkeypatch: pytest.MonkeyPatch
) -> None:
    drop(os.fsdecode(b"sh\xffop"), "a.csv", "x\n")
    drop("nightshelf_csv", os.fsdecode(b"a\xff.csv"), events(count=1))
    drop("nightshelf_csv", "good.csv", events(count=2, start=10))
    gone = drop("nightshelf_csv", "z-gone.csv", events(count=3, start=20))
    told: list[str] = []

    def log(message: str) -> None:
        told.append(message)
        if "rows loaded" in message:  # the first is in, and the last has only been looked at
            gone.unlink(missing_ok=True)

    taken = {outcome.file: outcome for outcome in raw_zone.take_in_all(home, log)}
    assert taken[r"sh\xffop/a.csv"].reason == "unknown_source"
    assert taken[r"nightshelf_csv/a\xff.csv"].rows_loaded == 1
    assert taken["nightshelf_csv/good.csv"].rows_loaded == 2
    assert "nightshelf_csv/z-gone.csv" not in taken
    assert any("z-gone.csv: cannot be read" in line for line in told)


def test_who_holds_the_raw_zone_at_rest_keeps_files_out(home: Home, drop: Drop) -> None:
    drop("nightshelf_csv", "a.csv", events())
    told: list[str] = []
    other = threading.Thread(target=raw_zone.take_in_all, args=(home, told.append))
    with raw_zone.at_rest(home):
        other.start()
        other.join(timeout=1)
        assert other.is_alive()
        assert raw_zone.outcomes(home) == []
        assert "waiting for ingest.lock" in told[0]
    other.join()
    assert len(raw_zone.outcomes(home)) == 1


def test_kill_the_parent_and_the_reader_goes_too_and_nothing_half_is_left(home: Home, drop: Drop) -> None:
    big = drop("nightshelf_csv", "big.csv", events(count=300_000))
    parent = subprocess.Popen([sys.executable, "-c", TAKE_IN])
    reader = _reader_of(big, psutil.Process(parent.pid))
    parent.kill()
    parent.wait()
    reader.wait(timeout=10)
    assert raw_zone.outcomes(home) == []
    (outcome,) = raw_zone.take_in_all(home)
    assert outcome.rows_loaded == 300_000
    assert not list(home.loads.parent.glob("incoming/*"))


def test_who_interrupts_waits_for_no_file_and_none_counts_as_tried(home: Home, drop: Drop) -> None:
    files = [drop("nightshelf_csv", f"{n}.csv", events(count=300_000, start=n)) for n in range(3)]
    # Whoever runs the tests in the background may have had them ignore it, and their children.
    program = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler); {TAKE_IN}"
    parent = subprocess.Popen(
        [sys.executable, "-c", program], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    _reader_of(files[0], psutil.Process(parent.pid)).suspend()  # else all could be done before it is told
    os.killpg(parent.pid, signal.SIGINT)  # as a terminal does on Ctrl-C
    _, told = parent.communicate()
    assert told.rstrip().endswith("KeyboardInterrupt")
    assert raw_zone.outcomes(home) == []
    assert not list(home.loads.parent.glob("incoming/*"))
    taken = raw_zone.take_in_all(home)
    assert [(one.status, one.rows_loaded, one.attempts) for one in taken] == [("loaded", 300_000, 1)] * 3


def test_two_at_once_take_each_file_in_once(home: Home, drop: Drop, rows: Rows) -> None:
    for n in range(3):
        drop("nightshelf_csv", f"{n}.csv", events(start=10 * n))
    program = (
        "from assets.logs import raw_zone; from resources.home import Home; "
        "print(len(raw_zone.take_in_all(Home.current())))"
    )
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) for _ in range(2)]
    counts = sorted(int(process.communicate()[0]) for process in both)
    assert counts == [0, 3]
    assert len(rows("events")) == 9


def test_late_rows_change_the_version_of_their_day_only(home: Home, drop: Drop) -> None:
    days = [date(2026, 1, 5), date(2026, 1, 6), date(2026, 1, 7)]
    drop("nightshelf_csv", "5.csv", events(day="2026-01-05"))
    drop("nightshelf_csv", "6.csv", events(day="2026-01-06"))
    raw_zone.take_in_all(home)
    before = raw_zone.day_versions(home, days)
    late = events(day="2026-01-06", count=1) + events(day="2026-01-05", count=2, start=50).removeprefix(
        HEADER
    )
    drop("nightshelf_csv", "late.csv", late)
    (outcome,) = raw_zone.take_in_all(home)
    assert outcome.days == {"2026-01-05": 2, "2026-01-06": 1}
    after = raw_zone.day_versions(home, days)
    assert [before[day] != after[day] for day in days] == [True, True, False]
    drop("nightshelf_csv", "again.csv", late)
    raw_zone.take_in_all(home)
    assert raw_zone.day_versions(home, days) == after


def test_an_empty_raw_zone_can_be_read(home: Home, rows: Rows) -> None:
    raw_zone.prepare(home)
    raw_zone.prepare(home)
    assert rows("events") == rows("products") == rows("rejects") == []
    assert raw_zone.outcomes(home) == []
    assert raw_zone.rows_in_place(home) == {}
