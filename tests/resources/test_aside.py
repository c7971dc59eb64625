"""What is in the making: put in place whole or not at all, and swept when its maker is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from resources.aside import replacing, work_folder

ROOT = Path(__file__).parents[2]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_at_the_end_and_only_if_all_went_well(tmp_path: Path) -> None:
    file = tmp_path / "new folder" / "a.json"
    with replacing(file) as aside:
        aside.write_text("one")
        assert not file.exists() and aside.parent == file.parent
    with pytest.raises(ZeroDivisionError), replacing(file) as aside:
        aside.write_text("half of tw")
        1 / 0  # noqa: B018
    assert names(file.parent) == ["a.json"] and file.read_text() == "one"


def test_what_is_left_in_a_work_folder_goes_with_it(tmp_path: Path) -> None:
    with work_folder(tmp_path) as work:
        (work / "new").mkdir()
        (work / "old").write_text("x")
        (work / "new").rename(tmp_path / "done")
    assert names(tmp_path) == ["done"]


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_makes_is_not(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from resources.aside import replacing, work_folder\n"
        "home = pathlib.Path(sys.argv[1])\n"
        "with replacing(home / 'a'), work_folder(home) as work:\n"
        "    (work / 'c').touch(); print('at it', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as killed, subprocess.Popen(command, **pipes) as living:
        assert killed.stdout.readline() == living.stdout.readline() == b"at it\n"
        with work_folder(tmp_path):
            assert len(names(tmp_path)) == 3 * 2 + 2
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
        with work_folder(tmp_path):
            assert len(names(tmp_path)) == 3 + 2
        living.communicate(b"")
        assert living.returncode == 0
    assert names(tmp_path) == ["a"]


def test_many_at_once_put_whole_files_in_place_and_leave_nothing_else(tmp_path: Path) -> None:
    def write(letter: str) -> None:
        for _ in range(50):
            with replacing(tmp_path / "a") as aside:
                aside.write_text(letter * 5000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / "a").exists():
            text = (tmp_path / "a").read_text()
            assert len(text) == 5000 and len(set(text)) == 1
    assert names(tmp_path) == ["a"]


def test_nobody_sweeps_what_another_makes(tmp_path: Path) -> None:
    def make(number: int) -> None:
        for turn in range(50):
            with work_folder(tmp_path) as work:
                (work / "a").touch()
                work.rename(tmp_path / f"{number}-{turn}")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(make, range(4)))
    assert len(names(tmp_path)) == len(list(tmp_path.glob("*/a"))) == 200
