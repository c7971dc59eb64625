"""Files and folders in the making: hidden until one rename puts them in place.

Whoever makes one holds an `flock` on it for as long as they live. So what a killed process has left is told
from what another one is making right now, and whoever next makes something in the same folder removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SUFFIX = ".making"


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A hidden file to write, which takes the place of `file` when the block ends without an exception.

    Its folder is made where there is none. Write to the path that is given: a file of another inode would not
    be the one that is locked.
    """
    with _claimed(file.parent, file.name, Path.touch) as (aside, lock):
        yield aside
        os.fsync(lock)  # or a power cut could leave the new name with nothing behind it
        aside.replace(file)


@contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """An empty folder in a hidden one in `parent`, to be filled and put in place by a rename.

    When the block ends, what is left in it or was moved beside it is removed.
    """
    with _claimed(parent, "work", Path.mkdir) as (aside, _):
        folder = aside / "new"
        folder.mkdir()
        yield folder


@contextmanager
def _claimed(parent: Path, name: str, make: Callable[[Path], None]) -> Iterator[tuple[Path, int]]:
    parent.mkdir(parents=True, exist_ok=True)
    aside = parent / f".{name}.{uuid.uuid4().hex[:8]}{SUFFIX}"
    guard = _locked(parent)  # nobody sweeps between the making and the locking
    try:
        _sweep(parent)
        make(aside)
        lock = _locked(aside)
    finally:
        os.close(guard)
    try:
        yield aside, lock
    finally:
        _remove(aside)
        os.close(lock)


def _sweep(parent: Path) -> None:
    """Remove what nobody holds any more."""
    for left in parent.glob(f".*{SUFFIX}"):
        try:
            os.close(_locked(left, fcntl.LOCK_NB))
        except OSError:  # somebody is at it, or has just put it in place
            continue
        _remove(left)


def _locked(path: Path, how: int = 0) -> int:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | how)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
