"""Seconds and peak memory of each stage, measured from outside while its steps run."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from pathlib import Path
from types import TracebackType

PROC = Path("/proc")


def tree_memory(root: int, proc: Path = PROC) -> int | None:
    """Memory of a process and all its descendants in bytes, shared pages counted once; None without /proc.

    Proportional set size (Linux's smaps_rollup): steps forked from one server share most of their pages.
    """
    if not proc.is_dir():
        return None
    children: dict[int, list[int]] = defaultdict(list)
    for stat in proc.glob("[0-9]*/stat"):
        try:
            # The name in brackets may hold blanks and brackets itself.
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        children[parent].append(int(stat.parent.name))
    total, waiting = 0, [root]
    while waiting:
        pid = waiting.pop()
        waiting.extend(children[pid])
        total += _proportional(proc / str(pid) / "smaps_rollup")
    return total


def _proportional(rollup: Path) -> int:
    try:
        lines = rollup.read_text().splitlines()
    except OSError:  # gone in the meantime
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


class Meter:
    """Samples this process's tree while it is open; `stage` says what it is busy with."""

    def __init__(self, every: float = 1.0) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.peak: dict[str, int] = {}
        """Bytes; empty on systems without /proc."""
        self._stage, self._since = "", time.monotonic()
        self._every, self._done = every, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def stage(self, name: str) -> None:
        """What follows belongs to `name`."""
        now = time.monotonic()
        if self._stage:
            self.seconds[self._stage] += now - self._since
        self._stage, self._since = name, now

    def __enter__(self) -> Meter:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stage("")
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(self._every):
            stage, used = self._stage, tree_memory(os.getpid())
            if stage and used is not None:
                self.peak[stage] = max(self.peak.get(stage, 0), used)
