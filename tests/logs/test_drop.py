"""Only whole files count, and any change of one of them shows."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from assets.logs.drop import checksum_of, fingerprint, open_plain, path_in, whole_files


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


@pytest.mark.parametrize("swap", ["file", "folder", "pipe", "device"])
def test_what_is_put_in_a_files_place_after_the_look_is_not_opened(tmp_path: Path, swap: str) -> None:
    put(tmp_path / "elsewhere" / "a.csv", "secret")
    drop = tmp_path / "drop"
    file = put(drop / "web" / "sub" / "a.csv")
    assert whole_files(drop) == [file]
    with open_plain(drop, file) as stream:
        assert stream.read() == b"x"
    file.unlink()
    if swap == "file":
        file.symlink_to(tmp_path / "elsewhere" / "a.csv")
    elif swap == "folder":
        file.parent.rmdir()
        file.parent.symlink_to(tmp_path / "elsewhere")
    elif swap == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    with pytest.raises(OSError, match=r"symbolic links|Not a directory|no plain file"):
        open_plain(drop, file)


def test_a_drop_folder_may_itself_be_a_link_of_the_owners(tmp_path: Path) -> None:
    put(tmp_path / "disk" / "web" / "a.csv")
    (tmp_path / "drop").symlink_to(tmp_path / "disk")
    (file,) = whole_files(tmp_path / "drop")
    with open_plain(tmp_path / "drop", file) as stream:
        assert stream.read() == b"x"


def test_a_checksum_is_no_file_to_take_in_and_its_change_shows(tmp_path: Path) -> None:
    file = put(tmp_path / "a.csv")
    assert checksum_of(tmp_path, file) is None
    before = fingerprint([file])
    checksum = put(tmp_path / "a.csv.sha256", "AB" * 32 + "  a.csv\n")
    assert whole_files(tmp_path) == [file]
    assert fingerprint([file]) != before
    assert checksum_of(tmp_path, file) == "ab" * 32
    put(checksum, "no checksum")
    assert checksum_of(tmp_path, file) == ""
    longest = put(tmp_path / ("a" * 251 + ".csv"))
    assert checksum_of(tmp_path, longest) is None


def test_names_are_told_without_what_would_forge_a_log(tmp_path: Path) -> None:
    names = {
        "a\nb.csv": r"a\nb.csv",
        "\x1b[2J.csv": r"\x1b[2J.csv",
        "gpj\u202evsc": r"gpj\u202evsc",
        "ä 鞋.csv": "ä 鞋.csv",
    }
    assert {name: path_in(tmp_path, tmp_path / name) for name in names} == names


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


def test_a_file_that_can_be_read_at_last_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(file := tmp_path / "a" / "1.csv")
    with monkeypatch.context() as patch:  # root may read whatever its mode is
        patch.setattr(os, "access", lambda path, mode: path != file)
        before = fingerprint([file])
    assert fingerprint([file]) != before


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
