"""What `nightshelf ui` starts, in a home whose one job trains for long; and which process is which."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from assets.model.snapshot import write_snapshot
from orchestration.instance import instance_of, prepare_instance
from resources.home import Home
from resources.leases import is_held
from tests.model.little_shop import D, little_warehouse, tiny_encoder
from tests.servers import free_port

ROOT = Path(__file__).parents[2]
SERVE = "from pathlib import Path; import sys; from orchestration.server import serve; "
SERVE += "serve(Path(sys.argv[1]), int(sys.argv[2]))"

LAUNCH = """
mutation Launch($what: ExecutionParams!) {
  launchRun(executionParams: $what) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message }
  }
}
"""


def training_home(root: Path) -> Home:
    """A home with a snapshot, a recipe that trains for ten minutes, and a workspace with our location."""
    home = Home(root)
    home.root.mkdir()
    warehouse = little_warehouse(home.root, events_a_day=300)
    encoder = tiny_encoder(home.root / "tiny")
    recipe = f"encoder: {encoder}\nmax_length: 32\nepochs: 1000\nsequence_epochs: 0\n"
    (home.root / "long.yaml").write_text(recipe)
    home.write_shop(home.shop.model_copy(update={"recipe": "long.yaml", "history_days": 12}))
    write_snapshot(warehouse, D, 12, home.snapshots)
    location = Path(__file__).with_name("lost_location.py")
    (home.root / "workspace.yaml").write_text(
        f"load_from:\n  - python_file:\n      relative_path: {location}\n      location_name: lost\n"
        f"      working_directory: {ROOT}\n"
    )
    prepare_instance(home)
    return home


@dataclass
class Services:
    """Webserver, daemon and code server, as `nightshelf ui` runs them."""

    home: Home
    main: psutil.Process
    port: int

    def launch(self, **tags: str) -> str:
        """A run of the job through the web API, as the button does it: its id."""
        selector = {
            "repositoryLocationName": "lost",
            "repositoryName": "__repository__",
            "jobName": "training",
        }
        told = [{"key": key.replace("__", "/"), "value": value} for key, value in tags.items()]
        what = {"selector": selector, "runConfigData": "{}", "executionMetadata": {"tags": told}}
        answer = self.ask(LAUNCH, {"what": what})["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return str(answer["run"]["runId"])

    def ask(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        body = json.dumps({"query": query, "variables": variables or {}}).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return dict(json.load(answer)["data"])

    def code_server(self) -> psutil.Process:
        """The one that loads the code, not the proxy in front of it."""
        (found,) = [p for p in processes_of(self.home) if " api grpc " in f"{' '.join(command(p))} "]
        return found

    def last_tick(self) -> float:
        """When the location's sensor ticked last, in seconds since 1970; 0 if never."""
        with instance_of(self.home) as instance:
            ticks = [
                tick.timestamp
                for state in instance.all_instigator_state()
                for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=5)
                if tick.status.value in ("SKIPPED", "SUCCESS")
            ]
            return max(ticks, default=0.0)


@contextmanager
def services(home: Home) -> Iterator[Services]:
    """Up and answering; everything they started is gone afterwards."""
    port = free_port()
    environment = os.environ | {
        "NIGHTSHELF_HOME": str(home.root),
        "DAGSTER_HOME": str(home.dagster),
        "NIGHTSHELF_DEVICES": "fake:1",
        "PYTHONPATH": str(ROOT),
    }
    with (home.root / "services.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(home.root / "workspace.yaml"), str(port)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    found = Services(home, psutil.Process(process.pid), port)
    try:
        wait_for(lambda: process.poll() is not None or _loaded(found), 180, "the web server and its location")
        assert process.poll() is None, (home.root / "services.log").read_text()[-3000:]
        yield found
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
        kill(processes_of(home))
        process.wait()


@dataclass(frozen=True)
class RunAtWork:
    """A run whose training is under way, with its processes."""

    run_id: str
    worker: psutil.Process
    """Drives the run."""
    step: psutil.Process
    child: psutil.Process
    """Trains."""


def at_work(home: Home, run_id: str) -> RunAtWork:
    """Waits until the run's training child holds the device and its step the pool."""
    wait_for(lambda: _children(home, run_id), 120, f"the training of run {run_id}")
    worker, step, child = _children(home, run_id)[0]
    wait_for(lambda: holds_slot(home, run_id) and holds_device(home), 30, "pool and device to be held")
    return RunAtWork(run_id, worker, step, child)


def _children(home: Home, run_id: str) -> list[tuple[psutil.Process, psutil.Process, psutil.Process]]:
    lease = home.leases / "runs" / f"{run_id}.lock"
    try:
        worker = psutil.Process(int(lease.read_text().removeprefix("process ")))
        return [
            (worker, child.parent(), child)
            for child in worker.children(recursive=True)
            if "assets.model.train" in command(child) and child.parent() is not None
        ]
    except (OSError, ValueError, psutil.NoSuchProcess):
        return []


def processes_of(home: Home) -> list[psutil.Process]:
    """All that work on the home, whoever started them; not this one."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get("NIGHTSHELF_HOME") == str(home.root):
                found.append(process)
    return found


def command(process: psutil.Process) -> list[str]:
    try:
        return list(process.cmdline())
    except psutil.Error:
        return []


def alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill(processes: Iterable[psutil.Process]) -> float:
    """SIGKILL, as much at once as can be; the moment after the last, by the monotonic clock."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    return time.monotonic()


def gone_with(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The processes and all that they have started."""
    found = {}
    for process in processes:
        try:
            found |= {p.pid: p for p in (process, *process.children(recursive=True))}
        except psutil.NoSuchProcess:
            continue
    return list(found.values())


def status_of(home: Home, run_id: str) -> dg.DagsterRunStatus:
    with instance_of(home) as instance:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        return run.status


def holds_slot(home: Home, run_id: str) -> bool:
    with instance_of(home) as instance:
        pool = instance.event_log_storage.get_concurrency_info("warehouse")
        return any(slot.run_id == run_id for slot in pool.claimed_slots)


def holds_device(home: Home) -> bool:
    lock = home.leases / "device-fake-0.lock"
    return lock.exists() and is_held(lock)


def seconds_to(began: float, limit: float, **conditions: Callable[[], bool]) -> dict[str, float]:
    """How long after `began` (monotonic) each condition held for the first time; infinity where it never did
    within `limit` seconds."""
    found: dict[str, float] = {}
    while len(found) < len(conditions) and time.monotonic() - began < limit:
        for name, holds in conditions.items():
            if name not in found and holds():
                found[name] = time.monotonic() - began
        time.sleep(0.1)
    return {name: found.get(name, float("inf")) for name in conditions}


def wait_for(there: Callable[[], object], seconds: float, what: str) -> None:
    until = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < until, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.2)


def _loaded(services_: Services) -> bool:
    query = (
        "{ workspaceOrError { ... on Workspace { locationEntries { locationOrLoadError { __typename } } } } }"
    )
    try:
        entries = services_.ask(query)["workspaceOrError"]["locationEntries"]
    except (OSError, KeyError):
        return False
    return [entry["locationOrLoadError"]["__typename"] for entry in entries] == ["RepositoryLocation"]


def now() -> float:
    return datetime.now(UTC).timestamp()
