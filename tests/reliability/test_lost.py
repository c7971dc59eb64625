"""Whatever of a run's processes is lost, the run is given up, and all that it held is free, within a minute.

A lost worker, step, training or code server needs no hand at all. After a lost host, somebody starts what a
host starts, `nightshelf ui` or `dagster-daemon run`: an init system does. From then on it is the same minute.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import dagster as dg
import psutil
import pytest
from rich.console import Console
from rich.table import Table

from orchestration.instance import prepare_instance
from orchestration.step_server import GRACE
from resources.home import Home
from tests.orchestration.shops import driven
from tests.reliability.lost_services import (
    RunAtWork,
    Services,
    alive,
    at_work,
    command,
    gone_with,
    holds_device,
    holds_slot,
    kill,
    now,
    processes_of,
    seconds_to,
    services,
    status_of,
    training_home,
    wait_for,
)

PROMISED = 60.0
"""Seconds."""

DRIVEN = """
    import os, time
    import dagster as dg
    from orchestration.executors import device_executor
    from orchestration.instance import instance_of
    from resources.home import Home

    @dg.op
    def sleep():
        print(os.getpid(), flush=True)
        time.sleep(60)

    @dg.job(executor_def=device_executor)
    def long():
        sleep()

    if __name__ == "__main__":
        with instance_of(Home.current()) as instance:
            dg.execute_job(dg.reconstructable(long), instance)
"""


def test_a_step_ends_with_the_process_that_drives_its_run(home: Home, tmp_path: Path) -> None:
    prepare_instance(home)
    driver = driven(DRIVEN, tmp_path)
    try:
        assert driver.stdout is not None
        step = psutil.Process(int(driver.stdout.readline()))
        driver.kill()  # this one alone: neither the step nor the server it was forked from
        driver.wait()
        wait_for(lambda: not alive(step), GRACE + 10, "the step to end")
    finally:
        if alive(step):
            os.killpg(driver.pid, signal.SIGKILL)


def test_where_the_web_server_is_lost_the_command_ends_and_says_so(tmp_path: Path) -> None:
    """With an error, by which whatever keeps services up knows that it has to start it again."""
    with services(training_home(tmp_path / "home")) as up:
        (webserver,) = [p for p in processes_of(up.home) if "dagster_webserver" in " ".join(command(p))]
        kill([webserver])
        wait_for(lambda: not alive(up.main), 60, "all of it to end")
    assert "ServerError: The web server or the daemon ended" in (up.home.root / "services.log").read_text()


# The long form ---------------------------------------------------------------------------------------------


def freed(home: Home, work: RunAtWork, began: float) -> dict[str, float]:
    """Seconds until the run is given up and everything it held is free."""
    return seconds_to(
        began,
        2 * PROMISED,
        failed=lambda: status_of(home, work.run_id) is dg.DagsterRunStatus.FAILURE,
        slot=lambda: not holds_slot(home, work.run_id),
        device=lambda: not holds_device(home),
        child=lambda: not alive(work.child),
        step=lambda: not alive(work.step),
    )


@pytest.mark.crash
@pytest.mark.timeout(1800)
def test_what_a_lost_run_held_is_free_within_a_minute(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = training_home(tmp_path / "home")
    once = {"dagster__max_retries": "0"}  # or the next attempt would hold pool and device in its turn
    rows: list[tuple[str, dict[str, float]]] = []
    with services(home) as up:
        for what in ("worker", "step", "training", "worker, step and training"):
            work = at_work(home, up.launch(**once))
            lost = {
                "worker": [work.worker],
                "step": [work.step],
                "training": [work.child],
                "worker, step and training": gone_with([work.worker]),
            }[what]
            rows.append((what, freed(home, work, kill(lost))))

        work = at_work(home, up.launch(**once))
        both = [*gone_with([work.worker]), up.code_server()]
        rows.append(("code server and all of the run's processes", freed(home, work, kill(both))))
        rows.append(("(until the code server is back)", back(up)))

        work = at_work(home, up.launch(**once))
        began = kill([up.code_server()])
        rows.append(("code server alone (until it is back)", back(up, began)))
        # The run itself was not lost: it is at work as before, and can be ended as before.
        assert status_of(home, work.run_id) is dg.DagsterRunStatus.STARTED and alive(work.child)
        rows.append(("then its worker", freed(home, work, kill([work.worker]))))

        work = at_work(home, up.launch(**once))
        everything = processes_of(home)
        assert {work.worker.pid, work.child.pid, up.code_server().pid} <= {p.pid for p in everything}
        began = kill(everything)
        held = seconds_to(
            began,
            PROMISED,
            device=lambda: not holds_device(home),
            child=lambda: not alive(work.child),
            step=lambda: not alive(work.step),
        )
        rows.append(("the host", held))
    assert status_of(home, work.run_id) is dg.DagsterRunStatus.STARTED  # it is down: nobody has noticed
    began = time.monotonic()
    with services(home) as up:
        rows.append(("the host, from `nightshelf ui` on", freed(home, work, began)))

        again = at_work(home, up.launch())
        worker_lost = kill([again.worker])
        retried = seconds_to(worker_lost, 2 * PROMISED, retried=lambda: bool(_next_attempt(home, again)))
        rows.append(("worker (until it is tried again by itself)", retried))

    with capsys.disabled():
        Console(width=140).print(_table(rows))
    late = [(what, name) for what, took in rows for name, seconds in took.items() if seconds > PROMISED]
    assert not late


def back(up: Services, began: float | None = None) -> dict[str, float]:
    """Seconds until a sensor of the location ticks again, which takes a code server."""
    since = now()
    return seconds_to(
        began or time.monotonic(), 2 * PROMISED, **{"code server": lambda: up.last_tick() > since + 1}
    )


def _next_attempt(home: Home, work: RunAtWork) -> list[str]:
    from orchestration.instance import instance_of

    with instance_of(home) as instance:
        begun = instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED]))
        return [run.run_id for run in begun if run.parent_run_id == work.run_id]


def _table(rows: list[tuple[str, dict[str, float]]]) -> Table:
    columns = ("failed", "slot", "device", "child", "step", "code server", "retried")
    table = Table("killed", *columns, title="Seconds until the run is given up and what it held is free")
    for what, took in rows:
        table.add_row(what, *(f"{took[name]:.1f}" if name in took else "" for name in columns))
    return table
