"""Steps run in processes of their own, quick to start, and no more trainings than devices at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from orchestration.executors import device_executor, executor_of
from resources.home import Shop

PROJECT = Path(__file__).parents[2]

JOB = """
import json, os, sys, time
from multiprocessing import forkserver
import dagster as dg
from orchestration.executors import device_executor
from orchestration.preload import start_step_server
from resources.devices import TAG
from resources.home import Shop

def training(name):
    @dg.op(name=name, tags={TAG: "1"})
    def train():
        began = time.time()
        time.sleep(1.0)
        with open(os.environ["WHEN"], "a") as log:
            of_server = os.getppid() == int(open(os.environ["SERVER"]).read())
            mark = [name, began, time.time(), os.getpid(), "torch" in sys.modules, of_server]
            log.write(json.dumps(mark) + "\\n")
    return train

@dg.job(executor_def=device_executor)
def trainings():
    for n in range(3):
        training(f"train_{n}")()

if __name__ == "__main__":
    start_step_server(Shop())
    with open(os.environ["SERVER"], "w") as file:
        file.write(str(forkserver._forkserver._forkserver_pid))
    with dg.DagsterInstance.local_temp(os.environ["STORAGE"]) as instance:
        result = dg.execute_job(dg.reconstructable(trainings), instance, run_config={
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
            "execution": {"config": {"max_concurrent": 3}}})
        sys.exit(not result.success)
"""


Ran = tuple[str, float, float, int, bool, bool]


def run_trainings(folder: Path, devices: str) -> list[Ran]:
    """Three trainings at once; each (name, began, ended, process, whether torch was loaded, whether it came
    from the server that was started beforehand).
    """
    (folder / "trainings.py").write_text(textwrap.dedent(JOB))
    (folder / "storage").mkdir()
    when = folder / "when.jsonl"
    environment = os.environ | {
        "NIGHTSHELF_DEVICES": devices,
        "WHEN": str(when),
        "SERVER": str(folder / "server"),
        "STORAGE": str(folder / "storage"),
        "PYTHONPATH": str(PROJECT),
        "DAGSTER_HOME": str(folder / "storage"),
    }
    done = subprocess.run(
        [sys.executable, "trainings.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [tuple(json.loads(line)) for line in when.read_text().splitlines()]


def most_at_once(runs: list[Ran]) -> int:
    marks = sorted([(began, 1) for _, began, *_ in runs] + [(ended, -1) for _, _, ended, *_ in runs])
    at_once, most = 0, 0
    for _, change in marks:
        at_once += change
        most = max(most, at_once)
    return most


@pytest.mark.parametrize(("devices", "most"), [("fake:2", 2), ("none", 1)])
def test_as_many_trainings_at_a_time_as_devices(tmp_path: Path, devices: str, most: int) -> None:
    runs = run_trainings(tmp_path, devices)
    assert len(runs) == 3
    assert len({process for _, _, _, process, *_ in runs}) == 3
    assert all(of_server for *_, of_server in runs), "the server is started once more"
    assert not any(torch for *_, torch, _ in runs), "the step server must not load what initialises CUDA"
    assert most_at_once(runs) == most


@pytest.mark.parametrize("name", ["k8s", "ray"])
def test_an_executor_whose_package_is_missing_says_what_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, f"dagster_{name}", None)
    with pytest.raises(ImportError, match=rf"executor: {name} .*pip install 'nightshelf\[{name}\]'"):
        executor_of(Shop(executor=name))


def test_without_a_setting_steps_run_on_this_machine() -> None:
    assert executor_of(Shop()) is device_executor


SERVER = """
import gc, importlib, json, sys, threading
from orchestration.preload import PRELOAD
for name in PRELOAD:
    importlib.import_module(name)
frozen = gc.get_freeze_count()
before = set(sys.modules)
import pandas, pyarrow.dataset  # a step that binds a value, or reads Parquet, asks for them
import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository
repository = ReconstructableRepository.for_module("orchestration.definitions", "defs")
repository.get_reconstructable_job("nightly").get_definition()
with dg.DagsterInstance.local_temp(sys.argv[1]) as instance:
    instance.get_runs(limit=1)
    instance.event_log_storage.get_concurrency_keys()
print(json.dumps([len(set(sys.modules) - before), "torch" in before, frozen]))
"""


def test_what_every_step_needs_its_server_has_loaded(tmp_path: Path) -> None:
    """All names must exist: the server passes over those that do not, and steps would be slower again."""
    done = subprocess.run(
        [sys.executable, "-c", SERVER, str(tmp_path)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    late, torch, frozen = json.loads(done.stdout.splitlines()[-1])
    assert late < 30, "hundreds of modules are loaded anew in every step"
    assert not torch, "CUDA cannot be used in what is forked from a process that has"
    assert frozen > 100_000, "every step looks through all of what its server has loaded for garbage"
