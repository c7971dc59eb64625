"""Seconds and peak memory of each stage, measured from outside while its steps run."""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from types import TracebackType

from resources.processes import tree_memory


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
