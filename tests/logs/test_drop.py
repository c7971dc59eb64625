"""Only whole files count, and any change of one of them shows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assets.logs.drop import fingerprint, whole_files


def put(file: Path, content: str = "x", age: float = 60) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    os.utime(file, (time.time() - age, time.time() - age))
    return file


def test_unfinished_hidden_and_still_growing_files_are_left_alone(tmp_path: Path) -> None:
    whole = put(tmp_path / "web" / "web-2026-01-05.csv")
    for name in ("web/a.csv.tmp", "web/b.PART", "web/.hidden.csv", ".trash/c.csv"):
        put(tmp_path / name)
    growing = put(tmp_path / "web" / "growing.csv", age=0.5)
    assert whole_files(tmp_path) == [whole]
    assert whole_files(tmp_path, now=time.time() + 5) == [growing, whole]
    assert whole_files(tmp_path / "not there") == []


def test_a_clock_that_is_ahead_does_not_keep_a_file_waiting(tmp_path: Path) -> None:
    ahead = put(tmp_path / "web" / "ahead.csv", age=-3600)
    assert whole_files(tmp_path) == [ahead]


def test_only_plain_files_count_and_links_are_not_followed(tmp_path: Path) -> None:
    secret = put(tmp_path / "elsewhere" / "secret.csv")
    drop = tmp_path / "drop"
    plain = put(drop / "web" / "a.csv")
    (drop / "web" / "link.csv").symlink_to(secret)
    (drop / "linked-folder").symlink_to(secret.parent)
    os.mkfifo(drop / "web" / "pipe.csv")
    assert whole_files(drop, now=time.time() + 5) == [plain]


@pytest.mark.parametrize("change", ["new", "longer", "touched", "gone"])
def test_every_change_changes_the_fingerprint(tmp_path: Path, change: str) -> None:
    first = put(tmp_path / "a" / "1.csv")
    put(tmp_path / "a" / "2.csv")
    before = fingerprint(whole_files(tmp_path))
    assert fingerprint(whole_files(tmp_path)) == before
    if change == "new":
        put(tmp_path / "b" / "3.csv")
    elif change == "longer":
        found = first.stat()
        first.write_text("xy")
        os.utime(first, ns=(found.st_atime_ns, found.st_mtime_ns))
    elif change == "touched":
        put(first, age=30)
    else:
        first.unlink()
    assert fingerprint(whole_files(tmp_path)) != before


def test_names_that_are_no_text_and_files_that_go_do_not_stop_the_look(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"w\xffeb") / "a.csv"
    put(odd)
    files = whole_files(tmp_path)
    assert files == [odd]
    there = fingerprint(files)
    odd.unlink()
    assert fingerprint(files) != there


def test_it_loads_nothing_heavy() -> None:
    program = (
        "import sys, assets.logs.drop; "
        "print([name for name in ('dagster', 'duckdb', 'numpy', 'pydantic', 'yaml') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
