"""How much memory a piece of work takes at its highest."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
PER_METHOD, WHOLE_PROCESS = "per method", "whole process so far"


class PeakMemory:
    """The highest resident memory since `restart`; since the process began where that can't be restarted."""

    def __init__(self) -> None:
        self.scope = WHOLE_PROCESS

    def restart(self) -> None:
        """Forget what was before. Linux only (`man 5 proc`: 5 to clear_refs resets VmHWM)."""
        try:
            _CLEAR.write_text("5", encoding="ascii")
            self.scope = PER_METHOD
        except OSError:
            self.scope = WHOLE_PROCESS

    def mib(self) -> float | None:
        """MiB, None where the system doesn't tell."""
        try:
            lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
        except OSError:
            lines = []
        for line in lines:
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
        return _of_process()


def growth(work: Callable[[], object]) -> float | None:
    """MiB by which the process grows at its highest; None where the system doesn't tell."""
    memory = PeakMemory()
    memory.restart()
    before = memory.mib()
    work()
    after = memory.mib()
    return None if before is None or after is None else after - before


def _of_process() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
