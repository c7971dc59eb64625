"""What a whole file in the drop folder is, told by names, sizes and times, and how one is opened.

Sensors ask here too, so it imports nothing heavy.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

STILL = 2.0
"""Seconds that a file must have been left alone before it counts as whole."""

UNFINISHED = (".tmp", ".part", ".partial", ".crdownload")

CHECKSUM = ".sha256"
"""Ends the name of a checksum, as `sha256sum a.csv > a.csv.sha256` writes it: with one beside it, a file is
whole once that is its content.
"""


def whole_files(drop: Path, now: float | None = None) -> list[Path]:
    """Plain files below `drop` that nobody is writing to any more, sorted."""
    now = time.time() if now is None else now
    return [file for file in plain_files(drop) if is_still(file, now)]


def plain_files(drop: Path) -> list[Path]:
    """Files below `drop`, sorted, but checksums and those that are hidden or named as unfinished. Links are
    not followed, for they would let a publisher name any file of the machine; pipes and devices would never
    end.
    """
    return sorted(file for file in _files(drop) if _is_plain(file))


def path_in(drop: Path, file: Path) -> str:
    """The file's path in the drop folder, as text that can be printed. A name can hold bytes that are no
    text, and text that would forge a line of a log, or turn one round: that is spelt out.
    """
    text = os.fsencode(file.relative_to(drop)).decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


def open_plain(drop: Path, file: Path) -> BufferedReader:
    """The file's bytes. It, and each folder on the way to it from `drop`, is opened by its name in the folder
    before, so that nothing that is put in its place after the look leads elsewhere.

    Raises:
        OSError: it is gone, or something on the way is a link, or it is no plain file any more.
    """
    *folders, name = file.relative_to(drop).parts
    at = os.open(drop, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for folder in folders:
            inner = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        # Without blocking: else a pipe in its place would wait for a writer.
        opened = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=at)
    finally:
        os.close(at)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise OSError(errno.EINVAL, "no plain file")
    return os.fdopen(opened, "rb")


def checksum_of(drop: Path, file: Path) -> str | None:
    """SHA-256, hexadecimal, that the checksum beside the file says; empty where it says none, None where
    there is no checksum.

    Raises:
        OSError: it cannot be read.
    """
    try:
        with open_plain(drop, file.with_name(file.name + CHECKSUM)) as stream:
            word = stream.read(64)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None  # no file can have that name
        raise
    return word.decode().lower() if re.fullmatch(rb"[0-9A-Fa-f]{64}", word) else ""


def is_still(file: Path, now: float) -> bool:
    """Whether the file has been left alone; a time in the future is a wrong clock's, not a writer's."""
    mark = mark_of(file)
    return mark is not None and abs(now - mark[1] / 1e9) >= STILL


Mark = tuple[int, int]
"""(size, time of the last change in ns) of a file, which change when it does."""


def mark_of(file: Path | BufferedReader) -> Mark | None:
    """Of what has that name, or has been opened; None where there is nothing of that name."""
    try:
        found = file.lstat() if isinstance(file, Path) else os.fstat(file.fileno())
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def fingerprint(files: list[Path]) -> str:
    """Changes whenever one of `files`, or the checksum beside it, appears, disappears or is written, and
    when it can be read at last.
    """
    seen = hashlib.sha256()
    for file in files:
        # Names are bytes: not each of them is text.
        marks = mark_of(file), os.access(file, os.R_OK), mark_of(file.with_name(file.name + CHECKSUM))
        seen.update(os.fsencode(file) + f"\0{marks}\n".encode())
    return seen.hexdigest()


def _files(drop: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(drop):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith(".") and not name.lower().endswith((*UNFINISHED, CHECKSUM)):
                yield Path(folder) / name


def _is_plain(file: Path) -> bool:
    try:
        return stat.S_ISREG(file.lstat().st_mode)
    except OSError:
        return False
