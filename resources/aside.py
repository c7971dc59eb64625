"""Files and folders in the making: hidden until one rename puts them in place.

Whoever makes one holds an `flock` on it (of a folder, on a file beside it) for as long as they live. So what
a killed process has left is told from what another one is making right now, and whoever next makes something
in the same folder removes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".making"


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A hidden file to write, which takes the place of `file` when the block ends without an exception.

    Its folder is made where there is none. Write to the path that is given: a file of another inode would not
    be the one that is locked.
    """
    with _claimed(file.parent, file.name) as (aside, held):
        yield aside
        os.fsync(held)  # or a power cut could leave the new name with nothing behind it
        aside.replace(file)


@contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """An empty folder in a hidden one in `parent`, to be filled and put in place by a rename.

    When the block ends, what is left in it or was moved beside it is removed.
    """
    with _claimed(parent, "work") as (aside, _):
        folder = _folder_of(aside) / "new"
        folder.mkdir(parents=True)
        yield folder


def sync(folder: Path) -> None:
    """Have the disk hold all that is in the folder: or a power cut could leave names with nothing behind
    them.
    """
    for path in (*folder.rglob("*"), folder):
        fsync(path)


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Have the disk hold a file's content, or a folder's names."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _folder_of(aside: Path) -> Path:
    """The folder that is held by this file: NFS locks no folders."""
    return aside.with_suffix(".work")


@contextmanager
def _claimed(parent: Path, name: str) -> Iterator[tuple[Path, BinaryIO]]:
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    while True:
        aside = parent / f".{name}.{uuid.uuid4().hex[:8]}{SUFFIX}"
        with aside.open("xb") as held:  # on NFS an exclusive lock wants a file open for writing
            fcntl.flock(held, fcntl.LOCK_EX)
            if not aside.exists():
                continue  # swept between the making and the locking
            try:
                yield aside, held
            finally:
                _remove(aside)
            return


def _sweep(parent: Path) -> None:
    """Remove what nobody holds any more."""
    for left in parent.glob(f".*{SUFFIX}"):
        # Somebody is at it, or it was put in place, or swept, a moment ago.
        with suppress(OSError), left.open("r+b") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(left)


def _remove(aside: Path) -> None:
    shutil.rmtree(_folder_of(aside), ignore_errors=True)
    aside.unlink(missing_ok=True)
