"""No room left, on the disk or in memory: said in words, with the next step.

What an engine says of it ("[Errno 28]", "failed to pin block") names neither what is full nor what to do.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from resources.home import Home

MEMORY_LIMIT = "NIGHTSHELF_MEMORY_LIMIT"
"""Environment variable: memory that DuckDB may use, like 4GB; else 80 % of the machine's, and less in dbt
(macro `hold_memory`)."""

_DISK = (
    os.strerror(errno.ENOSPC),
    os.strerror(errno.EDQUOT),
    "max_temp_directory_size",  # DuckDB's word for the disk that it would spill to
    "database or disk is full",  # SQLite's
)
_MEMORY = (
    os.strerror(errno.ENOMEM),
    "Out of Memory Error",
    "std::bad_alloc",
    "can't start new thread",
    "failed to map segment",
)


def duckdb_config() -> dict[str, Any]:
    """What `duckdb.connect` is to be given as `config`, so that it keeps to `MEMORY_LIMIT`."""
    limit = os.environ.get(MEMORY_LIMIT)
    return {"memory_limit": limit} if limit else {}


class NoRoomError(RuntimeError):
    """The disk is full, or there is too little memory; the message says which, and the next step."""


@contextmanager
def room(home: Home, what: str) -> Iterator[None]:
    """Tell a lack of room in the block as what it is.

    Args:
        home: whose disk it is.
        what: is being done, as the beginning of a sentence ("Publishing the shelf").

    Raises:
        NoRoomError: instead of whatever the block raised for want of disk or memory. Other errors pass.
    """
    try:
        yield
    except NoRoomError:
        raise
    except Exception as error:
        lacking = lack(error)
        if lacking is None:
            raise
        raise NoRoomError(in_words(home, what, lacking, error)) from error


def lack(error: BaseException | str) -> Literal["disk", "memory"] | None:
    """What there was too little of, as an error or its causes tell; None where it was something else.

    Errors of child processes, of dbt and of the engines are told by their text alone: it is all there is.
    """
    if isinstance(error, BaseException):
        cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if cause and (found := lack(cause)):
            return found
    text = str(error)
    if any(sign in text for sign in _DISK):
        return "disk"
    if isinstance(error, MemoryError) or any(sign in text for sign in _MEMORY):
        return "memory"
    return None


def in_words(home: Home, what: str, lacking: Literal["disk", "memory"], error: object = "") -> str:
    """The message: what is full, what stays, what to do."""
    stays = "What was published before stays as it is."
    again = "run it again (`nightshelf night DAY`, or re-execute it in the web UI): it goes on from here."
    if lacking == "disk":
        usage = shutil.disk_usage(home.root)
        return (
            f"{what} stopped because the disk is full: {usage.free >> 20:,} of {usage.total >> 20:,} MiB are "
            f"free where {home.root} lies. {stays} Free some space there (`du -sh {home.root}/*` shows what "
            f"takes it), then {again}"
        )
    said = next((line.strip() for line in str(error).splitlines() if lack(line)), "")
    return (
        f"{what} stopped because there is too little memory{said and f' ({said})'}. {stays} End "
        f"other programs or lift the limit of this one (ulimit, container, {MEMORY_LIMIT}), then {again}"
    )
