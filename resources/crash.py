"""Named points at which a process can be made to die, to prove that a half-done state does no harm.

`NIGHTSHELF_CRASH_AT=publish.linked` kills the process with SIGKILL where it passes the point of that name,
`publish.linked:error` raises `CrashPointError` there, `publish.linked:full` behaves as a full disk would, and
`publish.linked#3` waits for the third passing. Child processes inherit the variable, and so its meaning.
Without the variable, a point is one look into the environment.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter

VARIABLE = "NIGHTSHELF_CRASH_AT"

_passed: Counter[str] = Counter()


class CrashPointError(RuntimeError):
    """The process was asked to fail here; the message is the point's name."""


def crash_point(name: str) -> None:
    """Die here if the environment names this point.

    Args:
        name: `<stage>.<what has just been done>`, a literal and unique in the source.

    Raises:
        CrashPointError: asked for by `<name>:error`.
        OSError: "No space left on device", asked for by `<name>:full`.
        ValueError: the variable names another way to die than kill, error and full.
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    point, _, how = wanted.partition(":")
    point, _, passing = point.partition("#")
    if point != name:
        return
    _passed[name] += 1
    if passing and _passed[name] != int(passing):
        return
    match how or "kill":
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "error":
            raise CrashPointError(name)
        case "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)
        case _:
            raise ValueError(f"{VARIABLE}={wanted}: write kill, error or full after the colon, not {how!r}")
