"""Preloaded by the server that steps are forked from: a step ends with the process that drives its run.

What is killed with SIGKILL can end nobody itself, and the server that forks the steps lives as long as one of
them does. So each step looks after itself, or a training would go on for a run that has long been given up.

The last to be preloaded, for it also takes what has been loaded so far out of the garbage collector's sight:
a step would look through all of it, and thereby copy it, half a second before its work begins.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time

from resources.devices import share_cores

GRACE = 3.0
"""Seconds to come to an end by itself: a driver that was interrupted has told its steps before it went."""

_SERVER = os.getpid()


def _look_after_myself() -> None:
    # Not what a step forks in its turn.
    if os.getppid() == _SERVER:
        threading.Thread(target=_end_with_driver, name="end-with-driver", daemon=True).start()


def _end_with_driver() -> None:
    while (driver := multiprocessing.parent_process()) is None:  # we have only just been forked
        time.sleep(0.05)
    driver.join()
    time.sleep(GRACE)
    os.kill(os.getpid(), signal.SIGKILL)


os.register_at_fork(after_in_child=_look_after_myself)
share_cores()  # for steps whose run was not started by one of our commands
gc.collect()
gc.freeze()
