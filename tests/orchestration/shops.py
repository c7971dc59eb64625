"""A small shop of six days with real logs, and its command line."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from pathlib import Path

from assets.logs.simulator import simulate
from orchestration.nights import last_ended_day
from resources.home import Home, Shop
from resources.identity import IdentityKey

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).parent / "nightshelf"
LAST = last_ended_day(Shop(), datetime.now(UTC))
FIRST = LAST - timedelta(days=5)


def small_shop(folder: Path) -> Home:
    """Six days of logs in the drop folder; the last has a night, with a model that learns for two steps."""
    home = Home(folder / "home")
    home.write_shop(Shop(first_day=FIRST, first_night=LAST, recipe="tiny.yaml"))
    tiny = "max_length: 16\nmax_steps: 2\nsequence_epochs: 1\nsequence_width: 16\n"
    (home.root / "tiny.yaml").write_text(tiny)
    simulate(home, start=FIRST, days=6, seed=1, shoppers=200, products=200)
    IdentityKey.load(home)
    return home


def driven(script: str, folder: Path) -> subprocess.Popen[str]:
    """A Python script that drives a run, in a session of its own, so that all of it can be killed at once."""
    (folder / "driven.py").write_text(textwrap.dedent(script))
    return subprocess.Popen(
        [sys.executable, "driven.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def nightshelf(home: Home, *words: str) -> str:
    """What a command prints that succeeds."""
    done = subprocess.run(
        [str(COMMAND), "--home", str(home.root), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout
