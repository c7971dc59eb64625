"""Leases: locks that live exactly as long as the process that does the work.

A Dagster pool frees its slot when the *step* ends; a killed step can leave a child behind that still writes
or trains. A lease is an `flock` on an open file: children started with `pass_fds` inherit it, and the kernel
drops it when the last of them is gone, however they went.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


class LeaseTimeoutError(TimeoutError):
    """No lease came free in time; the message says who holds them."""


@contextmanager
def lease_one_of(
    files: Sequence[Path],
    *,
    timeout: float | None = None,
    on_wait: Callable[[str], None] = lambda message: None,
    told_after: float = 0.0,
    poll: float = 0.1,
) -> Iterator[tuple[int, int]]:
    """Hold one of `files`, whichever comes free first.

    Args:
        timeout: seconds to wait; for ever where absent.
        on_wait: told once who holds them, after `told_after` seconds of waiting.
        poll: seconds between two tries.

    Yields:
        (index into `files`, inheritable file descriptor that carries the lock). Pass the descriptor on with
        `subprocess.Popen(..., pass_fds=[fd])` so that the lease lives on in the child.

    Raises:
        LeaseTimeoutError: after `timeout` seconds without one.
    """
    began, told = time.monotonic(), False
    while True:
        for index, file in enumerate(files):
            fd = _try_lock(file)
            if fd is not None:
                try:
                    yield index, fd
                finally:
                    os.close(fd)
                return
        if not told and time.monotonic() - began >= told_after:
            on_wait(f"waiting for {_holders(files)}")
            told = True
        if timeout is not None and time.monotonic() - began > timeout:
            raise LeaseTimeoutError(f"no lease within {timeout:.0f} s: {_holders(files)}")
        time.sleep(poll)


def is_held(file: Path) -> bool:
    """Whether some process holds the lease of an existing file right now; it is not disturbed by the look."""
    with file.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _try_lock(file: Path) -> int | None:
    file.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    with suppress(OSError):  # a full disk: the lock is what counts, not who is said to hold it
        os.ftruncate(fd, 0)
        os.write(fd, f"process {os.getpid()}".encode())
    os.set_inheritable(fd, True)
    return fd


def _holders(files: Sequence[Path]) -> str:
    return ", ".join(
        f"{file.name} (held by {file.read_text(errors='replace') or 'nobody'})" for file in files
    )
