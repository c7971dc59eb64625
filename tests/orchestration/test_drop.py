"""Only whole files count, and any change of one of them shows."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from orchestration.drop import fingerprint, whole_files


def put(file: Path, content: str = "x", age: float = 60) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content)
    os.utime(file, (time.time() - age, time.time() - age))
    return file


def test_unfinished_hidden_and_still_growing_files_are_left_alone(tmp_path: Path) -> None:
    whole = put(tmp_path / "web" / "web-2026-01-05.csv")
    for name in ("web/a.csv.tmp", "web/b.PART", "web/.hidden.csv", ".trash/c.csv"):
        put(tmp_path / name)
    put(tmp_path / "web" / "growing.csv", age=0.5)
    assert whole_files(tmp_path) == [whole]
    assert whole_files(tmp_path, now=time.time() + 5)[-1].name == "web-2026-01-05.csv"
    assert len(whole_files(tmp_path, now=time.time() + 5)) == 2
    assert whole_files(tmp_path / "not there") == []


@pytest.mark.parametrize("change", ["new", "longer", "touched", "gone"])
def test_every_change_changes_the_fingerprint(tmp_path: Path, change: str) -> None:
    first = put(tmp_path / "a" / "1.csv")
    put(tmp_path / "a" / "2.csv")
    before = fingerprint(whole_files(tmp_path))
    assert fingerprint(whole_files(tmp_path)) == before
    if change == "new":
        put(tmp_path / "b" / "3.csv")
    elif change == "longer":
        stat = first.stat()
        first.write_text("xy")
        os.utime(first, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    elif change == "touched":
        put(first, age=30)
    else:
        first.unlink()
    assert fingerprint(whole_files(tmp_path)) != before
