"""The training worker, as a process: what it writes, what it loads, and when it ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from assets.model.bundle import WorkerError, run_worker
from assets.model.interactions import Interactions
from assets.model.recipe import load_recipe
from assets.model.sequence import SequenceModel
from assets.model.snapshot import Snapshot, write_snapshot
from assets.model.train import work
from assets.model.vectors import PRECISION, encoder_hash, item_vectors
from resources.devices import lease_devices
from resources.home import Home
from tests.model.little_shop import D, little_warehouse, tiny_encoder
from tests.model.ranks import apart, in_float32, trained_by

WORKER = [sys.executable, "-m", "assets.model.train"]
FORBIDDEN = {
    "dagster", "dbt", "duckdb", "lightgbm", "matplotlib", "pandas", "pydantic", "scipy",
    "sentence_transformers", "sklearn",
}  # fmt: skip
BARE = f"""
import importlib.machinery, sys
find = importlib.machinery.PathFinder.find_spec
def find_allowed(name, *rest):
    return None if name in {FORBIDDEN!r} else find(name, *rest)
importlib.machinery.PathFinder.find_spec = find_allowed
from assets.model.train import main
status = main(sys.argv[1:])
assert not {FORBIDDEN!r} & sys.modules.keys()
sys.exit(status)
"""
"""The worker on a machine that lacks these packages."""
WITHOUT_TORCH = """
import sys
from assets.model.train import main
try:
    status = main()
finally:
    assert "torch" not in sys.modules
sys.exit(status)
"""
"""The worker, which says what is wrong before it loads torch."""
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs us in the background has it ignored
from assets.model.train import main
sys.exit(main())
"""
RECIPE = "encoder: {encoder}\nlearning_rate: 5.0e-3\nmax_length: 32\nsequence_epochs: 1\nsequence_width: 16\n"
STEP = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs us in the background has it ignored
from pathlib import Path
from assets.model.bundle import run_worker
from resources.devices import lease_devices
from resources.home import Home
home, snapshot, recipe = map(Path, sys.argv[1:4])
with lease_devices(Home(home), count=int(sys.argv[4])) as lease:
    log = lambda message: print(message, flush=True)
    run_worker(snapshot, home / "out", recipe, lease=lease, cache=home / "vectors", log=log)
"""


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks this small are slower on two threads, much slower where others work beside them."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("shop")
    return write_snapshot(little_warehouse(folder), D, 12, folder / "snapshots")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("recipes")
    start = RECIPE.format(encoder=tiny_encoder(folder / "tiny"))

    def write(more: str) -> Path:
        file = folder / f"{abs(hash(more))}.yaml"
        file.write_text(start + more)
        return file

    return write


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_it_trains_alone_repeatably_and_needs_no_more_than_a_gpu_machine_has(
    snapshot: Snapshot, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    config = recipe("max_steps: 20")
    arguments = [
        "--snapshot",
        str(snapshot.path),
        "--config",
        str(config),
        "--vectors",
        str(tmp_path / "vectors"),
    ]
    first = subprocess.run(
        [sys.executable, "-c", BARE, *arguments, "--out", str(tmp_path / "one")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    events = [json.loads(line) for line in first.stdout.splitlines()]
    assert events[0]["event"] == "start"
    assert events[-1]["event"] == "done"
    assert events[-1].keys() >= {
        "device",
        "seconds",
        "examples_per_second",
        "tokens_per_second",
        "vector_seconds",
        "sequence_seconds",
        "memory_mib",
    }
    assert [e["step"] for e in events if e["event"] == "step"][-1] == 20

    work(snapshot, load_recipe(str(config)), tmp_path / "two", tmp_path / "vectors", lambda event: None)
    one = files(tmp_path / "one")
    assert one == files(tmp_path / "two")
    assert one.keys() >= {
        "config.json", "encoder/config.json", "encoder/model.safetensors", "encoder/tokenizer.json",
        "head.safetensors", "loss.json", "metrics.json", "sequence-dev.safetensors", "sequence.safetensors",
    }  # fmt: skip
    assert not [path for path in tmp_path.iterdir() if ".part" in path.name]
    head = load_file(tmp_path / "one" / "head.safetensors")
    assert head["head.weight"].shape == (3, 32)
    config_out = json.loads(one["config.json"])
    assert (config_out["snapshot"], config_out["labels"]) == (snapshot.id, ["browse", "click", "purchase"])
    assert len(json.loads(one["loss.json"])["train"]) == 20
    told: list[str] = []
    texts = snapshot.table("items")["text"].to_pylist()
    vectors = item_vectors(tmp_path / "one" / "encoder", texts, tmp_path / "vectors", told.append)
    assert told == []  # the worker has encoded them all
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_a_recipe_says_how_its_items_are_encoded(
    snapshot: Snapshot, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    encoders = {}
    for how in ("native", "int8"):
        asked = load_recipe(str(recipe(f"max_steps: 1\nitem_vectors: {how}")))
        work(snapshot, asked, tmp_path / how, tmp_path / "vectors", lambda event: None)
        encoders[how] = tmp_path / how / "encoder"
    assert not (encoders["native"] / PRECISION).exists()
    assert (encoders["int8"] / PRECISION).read_text() == "int8"
    made = {folder.name for folder in (tmp_path / "vectors").iterdir()}
    assert made == {encoder_hash(encoder) for encoder in encoders.values()}
    assert len(made) == 2


def test_two_sequence_models_each_know_what_they_may(
    snapshot: Snapshot, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    """One is for learning how to rank on the dev day, one for serving; neither knows the cut-off day."""
    plain = load_recipe(str(recipe("max_steps: 1")))
    work(snapshot, plain, tmp_path / "out", tmp_path / "vectors", lambda event: None)
    table = snapshot.table("items").select(["item_id", "text"]).to_pydict()
    vectors = item_vectors(tmp_path / "out" / "encoder", table["text"], tmp_path / "vectors")
    data = Interactions.of(snapshot, vectors, table["item_id"])
    models = [
        SequenceModel.load(tmp_path / "out" / name, data)
        for name in ("sequence.safetensors", "sequence-dev.safetensors")
    ]
    states = [model.states(data, data.known_users) for model in models]
    assert states[0].shape == (len(data.known_users), 16) and not np.array_equal(*states)

    (tmp_path / "other").mkdir()
    other = little_warehouse(tmp_path / "other")
    for table in ("marts.fct_events", "labels.lbl_behaviors", "marts.fct_popularity"):
        other.run(f"UPDATE {table} SET item_id = 'i00000' WHERE day = DATE '{D}'")
    late = write_snapshot(other, D, 12, tmp_path / "other" / "snapshots")
    assert late.id != snapshot.id
    work(late, plain, tmp_path / "again", tmp_path / "vectors", lambda event: None)
    for name in ("sequence.safetensors", "sequence-dev.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_recipe_may_do_without_a_sequence_model(
    snapshot: Snapshot, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    plain = replace(load_recipe(str(recipe("max_steps: 1"))), sequence_epochs=0)
    told: list[dict[str, object]] = []
    work(snapshot, plain, tmp_path / "out", None, told.append)
    assert not list((tmp_path / "out").glob("sequence*"))
    assert told[-1]["event"] == "done" and not list(tmp_path.glob("*.part*"))


def test_help_tells_what_comes_out() -> None:
    said = subprocess.run([*WORKER, "--help"], capture_output=True, text=True, check=True).stdout
    for word in (
        "--snapshot",
        "--out",
        "--config",
        "head.safetensors",
        "sequence.safetensors",
        "metrics.json",
    ):
        assert word in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--config": "nonesuch"}, "nonesuch: no such recipe"),
        ({"--snapshot": "nowhere"}, "holds no snapshot"),
        ({"--out": "."}, "must be a folder that is absent or empty"),
        ({"--out": ".", "--processes": "99"}, "must be a folder that is absent or empty"),
        ({"--config": "nonesuch", "--processes": "2"}, "nonesuch: no such recipe"),
        ({"--processes": "0"}, "argument --processes: must be a whole number of at least 1, not 0"),
        ({"--processes": "-2"}, "at least 1, not -2"),
        ({"--processes": "two"}, "at least 1, not two"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    snapshot: Snapshot, tmp_path: Path, change: dict[str, str], message: str
) -> None:
    options = {"--snapshot": str(snapshot.path), "--out": str(tmp_path / "out"), "--config": "demo", **change}
    command = [sys.executable, "-c", WITHOUT_TORCH, *(part for pair in options.items() for part in pair)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.count(message) == 1 and "error: " in ran.stderr.splitlines()[-1]
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("processes", [1, 2])
def test_interrupted_it_ends_with_a_line(
    snapshot: Snapshot, recipe: Callable[[str], Path], tmp_path: Path, processes: int
) -> None:
    """And torchrun leaves nothing among the temporary files."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    options = ["--snapshot", str(snapshot.path), "--config", str(recipe("epochs: 1000"))]
    options += ["--out", str(tmp_path / "out"), "--processes", str(processes)]
    training = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, *options],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | {"TMPDIR": str(temporary)},
    )  # fmt: skip
    while (line := training.stdout.readline()) and json.loads(line)["event"] != "step":
        pass
    assert line
    os.killpg(training.pid, signal.SIGINT)  # as a terminal does, for all that it started, too
    _, said = training.communicate(timeout=60)
    assert training.returncode == 130
    assert said.count("interrupted") == 1 and said.endswith("interrupted\n") and "Traceback" not in said
    assert list(temporary.iterdir()) == [] and not (tmp_path / "out").exists()


@pytest.mark.parametrize("devices", [1, 2])
def test_a_failed_worker_is_reported_with_what_it_said(
    snapshot: Snapshot,
    recipe: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    devices: int,
) -> None:
    """Once, also where two processes say it, and without what torchrun has to say about that."""
    monkeypatch.setenv("NIGHTSHELF_DEVICES", "fake:2")
    with (
        lease_devices(Home(tmp_path), count=devices) as lease,
        pytest.raises(WorkerError) as refused,
    ):
        config = recipe("")
        config.write_text(config.read_text().replace("encoder: ", "encoder: /nowhere"))
        run_worker(snapshot.path, tmp_path / "out", config, lease=lease, cache=tmp_path / "vectors")
    assert str(refused.value) == (
        f"the training worker ended with status 2: error: /nowhere{config.parent / 'tiny'}: no such folder; "
        "write the folder of an encoder, or `encoder: default`"
    )
    assert not refused.value.retry


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_that_was_killed_may_be_tried_again(
    snapshot: Snapshot, recipe: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHELF_DEVICES", "none")

    def kill_at_first_step(message: str) -> None:
        if message.startswith("step "):
            for child in Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)  # as the kernel does when memory runs out

    config, out = recipe("epochs: 1000"), tmp_path / "out"
    with lease_devices(Home(tmp_path)) as device, pytest.raises(WorkerError, match="status -9") as killed:
        run_worker(
            snapshot.path, out, config, lease=device, cache=tmp_path / "vectors", log=kill_at_first_step
        )
    assert killed.value.retry
    assert not out.exists()


def gone(pid: int, seconds: float) -> bool:
    """Whether the process ends (or is left a zombie for others to reap) in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if f"{Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]}" == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("how", "devices"), [(signal.SIGKILL, 1), (signal.SIGINT, 1), (signal.SIGKILL, 2), (signal.SIGINT, 2)]
)
def test_it_ends_with_its_step_and_the_device_is_free(
    snapshot: Snapshot,
    recipe: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: int,
    devices: int,
) -> None:
    """On two devices it is torchrun, which has started the two processes that train."""
    monkeypatch.setenv("NIGHTSHELF_DEVICES", "fake:2")
    config = recipe("epochs: 1000")
    step = subprocess.Popen(
        [sys.executable, "-c", STEP, str(tmp_path), str(snapshot.path), str(config), str(devices)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    line = step.stdout.readline()
    while line and not line.startswith("step "):
        line = step.stdout.readline()
    assert "loss" in line
    (worker,) = children(step.pid)
    training = children(worker) if devices == 2 else [worker]
    assert len(training) == devices
    for process in training:  # each holds the leases itself
        held = {str(fd.readlink()) for fd in Path(f"/proc/{process}/fd").iterdir()}
        assert {str(tmp_path / "leases" / f"device-fake-{n}.lock") for n in range(devices)} <= held
    os.kill(step.pid, how)
    assert all(gone(process, 5) for process in [*training, worker])
    step.wait(10)
    with lease_devices(Home(tmp_path), timeout=5, count=2):
        assert not (tmp_path / "out").exists()


def test_two_processes_learn_what_one_does(
    snapshot: Snapshot, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    """The same batches give the same losses, also where labels are weighed and other texts are negatives."""
    without = tiny_encoder(tmp_path / "without dropout")
    encoder = json.loads((without / "config.json").read_text())
    encoder |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (without / "config.json").write_text(json.dumps(encoder))
    config = tmp_path / "recipe.yaml"
    # Fifteen do not go into two shares.
    config.write_text(
        RECIPE.format(encoder=without)
        + "batch_size: 15\nmax_steps: 50\ncontrast: 0.5\nclass_weights: balanced\n"
    )
    curves = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        arguments = ["--snapshot", str(snapshot.path), "--config", str(config), "--out", str(out)]
        trained_by(processes, tmp_path, in_float32, *arguments)
        curves.append(json.loads((out / "loss.json").read_text()))
        assert json.loads((out / "config.json").read_text())["processes"] == processes
    alone, together = curves
    losses = [[point["loss"] for point in curve["train"]] for curve in curves]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-5)
    assert np.mean(losses[0][-20:]) < np.mean(losses[0][:20])
    assert [p["step"] for p in together["dev"]] == [p["step"] for p in alone["dev"]] == [40, 50]
    np.testing.assert_allclose(
        [p["loss"] for p in together["dev"]], [p["loss"] for p in alone["dev"]], rtol=1e-3
    )


def test_processes_that_share_no_folder_begin_anew(
    snapshot: Snapshot, recipe: Callable[[str], Path], tmp_path: Path
) -> None:
    """One of them has a checkpoint to go on from, the other has none."""
    arguments = ["--snapshot", str(snapshot.path), "--config", str(recipe("max_steps: 20"))]
    for out in ("first", "second"):
        told = trained_by(2, tmp_path, apart, *arguments, "--out", str(tmp_path / out))
        assert ("not every process has the checkpoint" in told) == (out == "second")
        assert not (tmp_path / "1.safetensors").exists()
    first, second = ((tmp_path / out / "loss.json").read_text() for out in ("first", "second"))
    assert first == second
    shutil.copy(tmp_path / "0.safetensors", tmp_path / "1.safetensors")
    told = trained_by(2, tmp_path, apart, *arguments, "--out", str(tmp_path / "third"))
    assert '"event": "resumed"' in told  # it is the first process whose device counts
    assert (tmp_path / "third" / "loss.json").read_text() == first


def test_three_trainings_on_two_devices(
    snapshot: Snapshot, recipe: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHELF_DEVICES", "fake:2")
    home, config = Home(tmp_path), recipe("max_steps: 30")
    waited: list[str] = []

    def training(n: int) -> tuple[str, float, float]:
        def log(message: str) -> None:
            if message.startswith("waiting"):
                waited.append(message)

        with lease_devices(home, log) as device:
            began = time.monotonic()
            out = tmp_path / str(n)
            run_worker(snapshot.path, out, config, lease=device, cache=tmp_path / "vectors")
            return device.name, began, time.monotonic()

    with ThreadPoolExecutor(3) as pool:
        ran = sorted(pool.map(training, range(3)), key=lambda run: run[1])
    assert {ran[0][0], ran[1][0]} == {"fake:0", "fake:1"}
    assert ran[1][1] < min(ran[0][2], ran[1][2])  # two at once
    assert len(waited) == 1
    before = next(run for run in ran[:2] if run[0] == ran[2][0])
    assert ran[2][1] >= before[2]  # the third began when its device came free
    assert len({(tmp_path / str(n) / "encoder" / "model.safetensors").read_bytes() for n in range(3)}) == 1
