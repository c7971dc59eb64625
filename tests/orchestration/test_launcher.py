"""A run whose process is gone is found and failed, by the daemon's monitoring and without a daemon."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from datetime import date
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import EmptyWorkspaceTarget
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration

from orchestration.instance import instance_of, prepare_instance
from orchestration.launcher import fail_lost_runs, is_lost, run_lease
from orchestration.nights import attempts_of_night
from resources.home import Home
from tests.orchestration.shops import driven

DAY = date(2026, 1, 12)

SLOW = """
import sys, time
import dagster as dg
from orchestration.executors import device_executor
from orchestration.instance import instance_of
from resources.home import Home

@dg.op(pool="warehouse")
def sleep():
    print("at work", flush=True)
    time.sleep(60)

@dg.job(name="nightly", executor_def=device_executor)
def nightly():
    sleep()

if __name__ == "__main__":
    with instance_of(Home.current()) as instance:
        dg.execute_job(dg.reconstructable(nightly), instance, tags={"dagster/partition": "2026-01-12"})
"""


def under_way(home: Home, script: str, folder: Path) -> subprocess.Popen[str]:
    """What drives a run that has come so far as the script says it has."""
    prepare_instance(home)
    process = driven(script, folder)
    assert process.stdout is not None and process.stdout.readline() == "at work\n"
    return process


@pytest.fixture
def killed(home: Home, tmp_path: Path) -> str:
    """A run that was at work when its process was killed: its id."""
    process = under_way(home, SLOW, tmp_path)
    with instance_of(home) as instance:
        (run,) = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.STARTED
        assert instance.event_log_storage.get_concurrency_info("warehouse").claimed_slots
        assert not is_lost(home, run.run_id)
        assert fail_lost_runs(instance, home) == []
    os.killpg(process.pid, signal.SIGKILL)  # all of its processes at once, as when a machine goes down
    process.wait()
    return run.run_id


def test_the_daemon_finds_it(home: Home, killed: str) -> None:
    with instance_of(home) as instance:
        assert attempts_of_night(instance, DAY).active == 1
        with WorkspaceProcessContext(instance, EmptyWorkspaceTarget()) as workspace:
            assert list(execute_run_monitoring_iteration(workspace, logging.getLogger())) == [None]
        assert instance.get_run_by_id(killed).status is dg.DagsterRunStatus.FAILURE
        tried = attempts_of_night(instance, DAY)
        assert (tried.active, tried.failed) == (0, 1)


def test_the_command_line_finds_it(home: Home, killed: str) -> None:
    command = Path(sys.executable).parent / "nightshelf"
    said = subprocess.run([str(command), "status"], capture_output=True, text=True, check=True).stdout
    assert f"Run {killed[:8]} was cut short and is marked as failed." in said
    with instance_of(home) as instance:
        assert instance.get_run_by_id(killed).status is dg.DagsterRunStatus.FAILURE
        pool = instance.event_log_storage.get_concurrency_info("warehouse")
        assert pool.slot_count == 1 and not pool.claimed_slots  # nobody waits for its place
    assert list((home.leases / "runs").iterdir()) == []


EARLY = """
import time
from dagster._core.test_utils import create_run_for_test
from orchestration.instance import instance_of
from orchestration.launcher import driver_lease
from resources.home import Home

with instance_of(Home.current()) as instance, driver_lease(Home.current(), "0" * 32):
    create_run_for_test(instance, "nightly", run_id="0" * 32, tags={"dagster/partition": "2026-01-12"})
    print("at work", flush=True)
    time.sleep(60)
"""


def test_a_run_that_never_began_is_lost_with_who_would_have_driven_it(home: Home, tmp_path: Path) -> None:
    process = under_way(home, EARLY, tmp_path)
    with instance_of(home) as instance:
        (run,) = instance.get_runs()
        assert run.status is dg.DagsterRunStatus.NOT_STARTED
        assert fail_lost_runs(instance, home) == []
        process.kill()
        process.wait()
        assert fail_lost_runs(instance, home) == [run.run_id]
        assert attempts_of_night(instance, DAY).active == 0
    assert list((home.leases / "runs").iterdir()) == []


def test_a_lease_that_was_let_go_leaves_nothing(home: Home) -> None:
    with run_lease(home, "one"):
        assert not is_lost(home, "one")
        assert not is_lost(home, "another")
    assert not is_lost(home, "one")
    assert list((home.leases / "runs").iterdir()) == []
