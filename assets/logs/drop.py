"""What a whole file in the drop folder is, told by names, sizes and times: nothing is opened.

Sensors ask here too, so it imports nothing heavy.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

STILL = 2.0
"""Seconds that a file must have been left alone before it counts as whole."""

UNFINISHED = (".tmp", ".part", ".partial", ".crdownload")


def whole_files(drop: Path, now: float | None = None) -> list[Path]:
    """Plain files below `drop` that nobody is writing to any more, sorted."""
    now = time.time() if now is None else now
    return [file for file in plain_files(drop) if is_still(file, now)]


def plain_files(drop: Path) -> list[Path]:
    """Files below `drop`, sorted, but those that are hidden or named as unfinished. Links are not followed,
    for they would let a publisher name any file of the machine; pipes and devices would never end.
    """
    return sorted(file for file in _files(drop) if _is_plain(file))


def is_still(file: Path, now: float) -> bool:
    """Whether the file has been left alone; a time in the future is a wrong clock's, not a writer's."""
    mark = mark_of(file)
    return mark is not None and abs(now - mark[1] / 1e9) >= STILL


def mark_of(file: Path) -> tuple[int, int] | None:
    """(size, time of the last change in ns), which change when the file does; None where it is gone."""
    try:
        found = file.lstat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def fingerprint(files: list[Path]) -> str:
    """Changes whenever one of `files` appears, disappears or is written."""
    seen = hashlib.sha256()
    for file in files:
        # Names are bytes: not each of them is text.
        seen.update(os.fsencode(file) + f"\0{mark_of(file)}\n".encode())
    return seen.hexdigest()


def _files(drop: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(drop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and not name.lower().endswith(UNFINISHED):
                yield Path(folder) / name


def _is_plain(file: Path) -> bool:
    try:
        return stat.S_ISREG(file.lstat().st_mode)
    except OSError:
        return False
