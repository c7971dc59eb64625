"""Dagster's own storage and daemon: many processes at once lose nothing, and ticks take up no memory."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import time
from datetime import date
from pathlib import Path

import dagster as dg
import numpy as np
import psutil
import pytest
from rich.console import Console
from rich.table import Table

from orchestration.instance import POOL_LIMITS, broken_limits, instance_of, prepare_instance
from orchestration.nights import LABELS, SHELF, days_between, last_ended_day
from resources.home import Home, Shop
from tests.orchestration.raw import put_rows
from tests.orchestration.test_sensors import materialize
from tests.reliability.lost_services import (
    ROOT,
    command,
    now,
    processes_of,
    services,
    wait_for,
)

COMMAND = Path(sys.executable).parent / "nightshelf"

# First starts ----------------------------------------------------------------------------------------------

FIRST_START = """
import sys, time
from pathlib import Path
from orchestration.instance import prepare_instance
from resources.home import Home
import dagster
Path(sys.argv[1]).touch()
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
prepare_instance(Home.current())
"""


def at_once(home: Home, folder: Path, processes: int) -> list[str]:
    """What goes wrong when so many processes make the same empty home ready at the same moment."""
    go = folder / "go"
    ready = [folder / f"ready-{n}" for n in range(processes)]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", FIRST_START, str(mark), str(go)],
            cwd=ROOT,
            env=os.environ | {"NIGHTSHELF_HOME": str(home.root)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for mark in ready
    ]
    wait_for(lambda: all(mark.exists() for mark in ready), 120, "all of them to be ready")
    go.touch()
    complaints = [process.communicate(timeout=120)[1] for process in started]
    return [text for process, text in zip(started, complaints, strict=True) if process.returncode]


def fit_for_use(home: Home) -> None:
    with instance_of(home) as instance:
        assert broken_limits(instance) == {}
        assert {p.name: p.limit for p in instance.event_log_storage.get_pool_limits()} == POOL_LIMITS
        assert instance.run_monitoring_enabled and instance.get_runs() == []


def test_processes_that_start_at_once_on_an_empty_home_all_come_up(home: Home, tmp_path: Path) -> None:
    assert at_once(home, tmp_path, 3) == []
    fit_for_use(home)


@pytest.mark.crash
@pytest.mark.timeout(1800)
def test_eight_first_starts_at_once_ten_times(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    failed = 0
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        home = Home(folder / "home")
        failed += len(at_once(home, folder, 8))
        fit_for_use(home)
        shutil.rmtree(folder)
    with capsys.disabled():
        print(f"\n10 empty homes, 8 processes on each at once: {failed} of 80 starts failed")
    assert failed == 0


@pytest.mark.crash
def test_commands_that_start_at_once_on_an_empty_home_all_succeed(tmp_path: Path) -> None:
    """The whole command: shop.yaml, drop folder, instance."""
    home = Home(tmp_path / "home")
    started = [
        subprocess.Popen(
            [str(COMMAND), "--home", str(home.root), "init", "--first-day", "2026-01-05"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(6)
    ]
    said = [process.communicate(timeout=120)[0] for process in started]
    assert [process.returncode for process in started] == [0] * 6, said
    assert home.shop.first_day == date(2026, 1, 5)
    fit_for_use(home)


# Many runs at once -----------------------------------------------------------------------------------------

WRITER = """
    import sys
    import dagster as dg
    from orchestration.executors import device_executor
    from orchestration.instance import instance_of
    from resources.home import Home

    DAYS = dg.StaticPartitionsDefinition([str(n) for n in range(1000)])

    def made(name):
        @dg.asset(name=name, partitions_def=DAYS)
        def asset(context):
            for n in range(LINES):
                context.log.info(f"{name} {n}")
            for n in range(LINES):
                context.log_event(dg.AssetObservation(name, partition=context.partition_key))
            return dg.MaterializeResult(metadata={"n": 1})
        return asset

    def everything():
        job = dg.define_asset_job("everything")
        made_by_it = [made(f"asset_{n}") for n in range(3)]
        return dg.Definitions(assets=made_by_it, jobs=[job], executor=EXECUTOR).resolve_job_def("everything")

    if __name__ == "__main__":
        first, runs = int(sys.argv[1]), int(sys.argv[2])
        with instance_of(Home.current()) as instance:
            for n in range(first, first + runs):
                tags = {"dagster/partition": str(n)}
                assert dg.execute_job(dg.reconstructable(everything), instance, tags=tags).success
"""


def under_load(home: Home, folder: Path, writers: int, runs: int, executor: str, lines: int) -> float:
    """So many processes with so many runs each, beside a reader that never rests: seconds in all.

    Every run must have succeeded, and every event of every step must be there, once.
    """
    prepare_instance(home)
    writer = textwrap.dedent(WRITER).replace("EXECUTOR", executor).replace("LINES", str(lines))
    (folder / "writer.py").write_text(writer)
    began = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, "writer.py", str(n * runs), str(runs)],
            cwd=folder,
            env=os.environ | {"NIGHTSHELF_HOME": str(home.root), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=(folder / f"{n}.log").open("w"),
        )
        for n in range(writers)
    ]
    with instance_of(home) as instance:
        while any(process.poll() is None for process in processes):
            instance.get_run_records(limit=10)
            instance.get_materialized_partitions(dg.AssetKey("asset_0"))
            time.sleep(0.05)
        complaints = "".join((folder / f"{n}.log").read_text()[-2000:] for n in range(writers))
        assert [process.wait() for process in processes] == [0] * writers, complaints
        seconds = time.monotonic() - began
        found = instance.get_runs()
        assert len(found) == writers * runs
        assert {run.status for run in found} == {dg.DagsterRunStatus.SUCCESS}
        wanted = {str(n) for n in range(writers * runs)}
        for n in range(3):
            assert instance.get_materialized_partitions(dg.AssetKey(f"asset_{n}")) == wanted
        for run in found:
            records = instance.all_logs(run.run_id)
            for name in (f"asset_{n}" for n in range(3)):
                told = [r.user_message for r in records if r.step_key == name and not r.is_dagster_event]
                assert told == [f"{name} {n}" for n in range(lines)]
            kinds = [r.dagster_event.event_type_value for r in records if r.is_dagster_event]
            assert kinds.count("ASSET_OBSERVATION") == 3 * lines
            assert kinds.count("ASSET_MATERIALIZATION") == kinds.count("STEP_SUCCESS") == 3
            assert kinds.count("RUN_SUCCESS") + kinds.count("PIPELINE_SUCCESS") == 1
    for file in home.dagster.rglob("*.db"):
        with sqlite3.connect(file) as db:
            assert db.execute("PRAGMA quick_check").fetchall() == [("ok",)], file
    return seconds


def test_runs_of_several_processes_at_once_lose_no_event(home: Home, tmp_path: Path) -> None:
    under_load(home, tmp_path, writers=3, runs=1, executor="dg.in_process_executor", lines=5)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("writers", "runs", "executor"), [(8, 20, "dg.in_process_executor"), (6, 5, "device_executor")]
)
def test_hundreds_of_runs_of_many_processes_at_once_lose_no_event(
    home: Home,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    writers: int,
    runs: int,
    executor: str,
) -> None:
    seconds = under_load(home, tmp_path, writers, runs, executor, lines=25)
    with capsys.disabled():
        events = writers * runs * 3 * 50
        print(f"\n{executor}: {writers} processes, {writers * runs} runs, {events:,} log lines and")
        print(f"observations, none lost, none twice, in {seconds:.0f} s")


# Memory ----------------------------------------------------------------------------------------------------

TICKS = 500
WARM_UP = 150
"""Ticks that are left out of account: caches fill, threads start."""


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_the_memory_of_the_daemon_is_flat_over_500_ticks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real daemons, in two homes at once: one with our sensors, one with sensors that do nothing."""
    homes = {name: a_shop(tmp_path / name, name) for name in ("quick", "empty")}
    with services(homes["quick"]) as ours, services(homes["empty"]) as stock:
        watched = {
            "daemon": daemon_of(ours.home),
            "code server": ours.code_server(),
            "daemon, empty location": daemon_of(stock.home),
            "code server, empty location": stock.code_server(),
        }
        measured: list[tuple[int, dict[str, float]]] = []
        began = now()
        while (ticks := ticks_since(ours.home, began)) < TICKS:
            measured.append((ticks, {name: mebibytes(process) for name, process in watched.items()}))
            assert now() - began < 3000, "the sensors no longer tick"
            time.sleep(5)
    table = Table(
        "process", "at first", "warm", "at last", "MiB per 100 ticks", title=f"{ticks} sensor ticks"
    )
    slopes = {}
    for name in watched:
        sizes = [(n, size[name]) for n, size in measured if n >= WARM_UP]
        slopes[name] = float(np.polyfit(*zip(*sizes, strict=True), 1)[0]) * 100
        first, warm, last = measured[0][1][name], sizes[0][1], sizes[-1][1]
        table.add_row(name, f"{first:.1f}", f"{warm:.1f}", f"{last:.1f}", f"{slopes[name]:+.2f}")
    with capsys.disabled():
        Console(width=110).print(table)
    # Of the code server Dagster itself keeps a little for every tick that opens an instance: alembic
    # registers what to do at the exit of the process, three times each. That is shown, not asserted.
    assert abs(slopes["daemon"]) < 1


def a_shop(root: Path, location: str) -> Home:
    """A month of rows, all of whose nights are made."""
    home = Home(root)
    last = last_ended_day(Shop(), dg._time.get_current_datetime())
    first = date.fromordinal(last.toordinal() - 30)
    home.write_shop(Shop(first_day=first, first_night=date.fromordinal(first.toordinal() + 7)))
    put_rows(home, "all", days_between(first, last))
    prepare_instance(home)
    with instance_of(home) as instance:
        materialize(instance, LABELS, *days_between(first, last))
        materialize(instance, SHELF, *days_between(first, last))
    file = Path(__file__).with_name(f"lost_{location}_sensors.py")
    (home.root / "workspace.yaml").write_text(
        f"load_from:\n  - python_file:\n      relative_path: {file}\n      location_name: lost\n"
        f"      working_directory: {ROOT}\n"
    )
    return home


def daemon_of(home: Home) -> psutil.Process:
    (found,) = [p for p in processes_of(home) if "dagster._daemon" in command(p)]
    return found


def ticks_since(home: Home, began: float) -> int:
    with instance_of(home) as instance:
        return sum(
            tick.timestamp >= began
            for state in instance.all_instigator_state()
            for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id)
            if state.instigator_type.value == "SENSOR"
        )


def mebibytes(process: psutil.Process) -> float:
    return float(process.memory_info().rss) / 2**20
