"""Children that end with whoever started them, however that ends.

    NIGHTSHELF_PARENT=<pid> python -P resources/parent.py SCRIPT ARGUMENT…

runs the Python script so: what is killed with SIGKILL can end nobody itself, and a dbt that nobody waits for
would go on writing without a lease.
"""

from __future__ import annotations

import ctypes
import gc
import os
import runpy
import signal
import sys
import threading
import time
from pathlib import Path

PARENT = "NIGHTSHELF_PARENT"
LAUNCHER = (sys.executable, "-P", str(Path(__file__).resolve()))
"""Put before a Python script, with `PARENT` in the environment. `-P`: its modules are not looked for here."""

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def die_with(parent: int) -> None:
    """Be killed when the process `parent`, which started this one, ends: work nobody waits for is over.

    On Linux the kernel sees to it, also after an exec; elsewhere a thread looks twice a second.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it had gone before the kernel was told
            os.kill(os.getpid(), signal.SIGKILL)
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    die_with(int(os.environ.pop(PARENT, os.getppid())))
    gc.set_threshold(50_000)  # as `resources.devices.collect_less_often`, which cannot be imported here
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
