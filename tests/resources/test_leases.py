"""A lease is held by the process that works, and by nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from resources.leases import LeaseTimeoutError, lease_one_of


def test_nobody_else_gets_a_lease_that_is_held(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    waited: list[str] = []
    with (
        lease_one_of([lock]),
        pytest.raises(LeaseTimeoutError, match="process"),
        lease_one_of([lock], timeout=0.2, on_wait=waited.append),
    ):
        pass
    assert len(waited) == 1
    with lease_one_of([lock], timeout=0):
        pass


def test_each_holder_gets_another_of_several(tmp_path: Path) -> None:
    files = [tmp_path / "0.lock", tmp_path / "1.lock"]
    with lease_one_of(files) as (first, _), lease_one_of(files) as (second, _):
        assert {first, second} == {0, 1}


def test_the_child_keeps_the_lease_when_the_parent_lets_go(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    with lease_one_of([lock]) as (_, fd):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[fd])
    try:
        with pytest.raises(LeaseTimeoutError), lease_one_of([lock], timeout=0.2):
            pass
    finally:
        child.kill()
        child.wait()
    with lease_one_of([lock], timeout=1):
        pass


WITHOUT_ROOM = """
import resource, signal, sys
from pathlib import Path
from resources.leases import lease_one_of
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
for _ in range(2):
    with lease_one_of([Path(sys.argv[1])], timeout=0):
        pass
"""


def test_where_nothing_can_be_written_a_lease_is_had_and_given_back_all_the_same(tmp_path: Path) -> None:
    """On a full disk a step that tried again waited for a lock that it held itself."""
    subprocess.run([sys.executable, "-c", WITHOUT_ROOM, str(tmp_path / "a.lock")], check=True)
