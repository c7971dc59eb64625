"""From a snapshot to a sealed bundle: device, worker, item vectors, recommender, model card.

A bundle names all that it was made of. Where a day's candidate was made of the same already, it is taken
as it is: it would come out the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import IO, Any

import numpy as np

from assets.model.recipe import Recipe, load_recipe, recipe_file
from assets.model.report import report_table
from assets.model.snapshot import Snapshot, snapshot_of
from assets.model.train import REFUSED, SEQUENCE_DEV
from assets.model.vectors import encoder_hash, item_vectors
from resources.crash import crash_point
from resources.devices import CPU, Lease, lease_devices
from resources.home import Home
from resources.model_store import ModelStore, TamperedBundleError
from resources.text_encoder import resolve_encoder

Log = Callable[[str], None]
PATIENCE = 3.0
"""Seconds that an interrupted worker has to end by itself before it is killed."""
FORGOTTEN = 7 * 86400.0
"""Seconds after which a checkpoint is not kept for a training that might come back to it."""
COMPLAINT = 2000
"""Characters of the worker's standard error that go into an error message."""
MADE_OF = "made_of.json"
LIBRARIES = ("lightgbm", "numpy", "openvino", "tokenizers", "torch", "transformers")
"""Whose versions may change what comes of a training."""


class WorkerError(RuntimeError):
    """The training worker failed; the message ends with what it said."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"the training worker ended with status {status}: {said or 'it said nothing'}")
        self.retry = status != REFUSED
        """Whether another try may help: not where the worker refused its input in words."""


@dataclass(frozen=True)
class Bundle:
    """A sealed bundle and what its training had to say."""

    version: str
    path: Path
    snapshot: Snapshot
    metrics: dict[str, Any]
    curve: dict[str, Any]
    speed: dict[str, Any]
    """The worker's last event: device, seconds, examples_per_second, …; not part of the bundle. Empty where
    the bundle was there already."""
    device: str
    """The devices that were leased."""

    @property
    def peak(self) -> str:
        """What the utilisation is a share of, in words."""
        by = "by its data sheet" if self.speed["peak_known"] else "measured by a matrix product"
        return f"{self.speed['peak_tflops']:.3g} TFLOPS, {by}"

    @property
    def trained_on(self) -> str:
        """The device in words."""
        if not self.speed:
            return "none: the bundle was there, made of the same"
        if self.device == CPU:
            return "trained on the CPU"
        return f"{self.device} ({self.speed['device']})"


def make_bundle(home: Home, day: date, log: Log = lambda message: None, devices: int = 1) -> Bundle:
    """Train on the snapshot of `day` and seal the result as that night's candidate.

    Where the candidate was made of the same already, nothing is trained. The device is held by the worker
    process itself, so it is free exactly when the worker is gone. A training that was ended before goes on
    from its last checkpoint, and the result is the same.

    Args:
        devices: how many to train on, where the machine has so many.

    Raises:
        FileNotFoundError: the day has no snapshot.
        RecipeError: `recipe` in shop.yaml names none, or a wrong one.
        EncoderError: the recipe's encoder cannot be had.
        WorkerError: the training failed.
    """
    snapshot = snapshot_of(home, day)
    file = recipe_file(home.shop.recipe, home.root)
    recipe = load_recipe(str(file))  # refused before anybody waits for a device
    store, parts = ModelStore(home), made_of(home, snapshot, recipe)
    if there := _sealed(store, day, parts):
        log(
            f"{there.name} was made of this very snapshot, recipe, code and settings: it is taken as it is. "
            f"To train once more, remove {there}"
        )
        return _opened(there, snapshot)
    checkpoint = checkpoint_of(home, snapshot, recipe)
    with store.stage() as folder:
        crash_point("bundle.staged")
        with lease_devices(home, log, count=devices) as lease:
            crash_point("bundle.device_leased")
            speed = run_worker(
                snapshot.path,
                folder,
                file,
                lease=lease,
                cache=home.vectors,
                checkpoint=checkpoint,
                log=log,
            )
        crash_point("bundle.trained")
        _add_recommender(folder, snapshot, recipe, home, log)
        _write_card(folder, snapshot)
        _write_json(folder / MADE_OF, parts)
        crash_point("bundle.card_written")
        version = store.seal(folder, day)
    crash_point("bundle.sealed")
    _sweep(checkpoint)
    return _opened(store.path(version), snapshot, speed, lease.name)


def made_of(home: Home, snapshot: Snapshot, recipe: Recipe) -> dict[str, Any]:
    """All that a bundle depends on, but for the kind of machine, as JSON.

    Raises:
        EncoderError: the recipe's encoder cannot be had.
    """
    encoder = resolve_encoder(recipe.encoder)
    return {
        "snapshot": snapshot.id,
        "recipe": asdict(recipe),
        "encoder": encoder_hash(Path(encoder)) if Path(encoder).is_dir() else encoder,
        "values": home.shop.values.model_dump(mode="json"),
        "rules": home.shop.rules.model_dump(mode="json"),
        "code": _code(),
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def _code() -> str:
    """Hash over the source of everything that trains."""
    folder, digest = Path(__file__).parent, hashlib.sha256()
    for file in [*sorted(folder.glob("*.py")), folder.parents[1] / "resources" / "text_encoder.py"]:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def _version(library: str) -> str:
    try:
        return version_of(library)
    except PackageNotFoundError:
        return "none"


def _sealed(store: ModelStore, day: date, parts: dict[str, Any]) -> Path | None:
    """The day's candidate if it is intact and was made of these parts."""
    try:
        path = store.path(store.candidate(day))
        content = (path / MADE_OF).read_text(encoding="utf-8")
    except (FileNotFoundError, TamperedBundleError):
        return None
    return path if json.loads(content) == parts else None


def _opened(path: Path, snapshot: Snapshot, speed: dict[str, Any] | None = None, device: str = CPU) -> Bundle:
    return Bundle(
        version=path.name,
        path=path,
        snapshot=snapshot,
        metrics=json.loads((path / "metrics.json").read_text(encoding="utf-8")),
        curve=json.loads((path / "loss.json").read_text(encoding="utf-8")),
        speed=speed or {},
        device=device,
    )


def checkpoint_of(home: Home, snapshot: Snapshot, recipe: Recipe) -> Path:
    """The file that keeps the state of a training, whichever run does it."""
    content = json.dumps(asdict(recipe), sort_keys=True)
    return home.checkpoints / f"{snapshot.id}-{hashlib.sha256(content.encode()).hexdigest()[:8]}.safetensors"


def _sweep(checkpoint: Path) -> None:
    """Remove the checkpoint of a training that is done, and those that nobody came back to."""
    checkpoint.unlink(missing_ok=True)
    for file in checkpoint.parent.glob("*.safetensors"):
        with suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime > FORGOTTEN:
                file.unlink()


def run_worker(
    snapshot: Path,
    out: Path,
    recipe: Path,
    *,
    lease: Lease,
    cache: Path,
    checkpoint: Path | None = None,
    log: Log = lambda message: None,
) -> dict[str, Any]:
    """Train in a child process on leased devices, and pass on its progress.

    The child sees those devices only, inherits the lease, shares the work with others of its kind where there
    are several devices, and ends when this process does. It is ended too when
    this function is left by an exception, such as the interruption of a run.

    Args:
        checkpoint: file that keeps the state of the fine-tuning; what it holds already is gone on from.

    Returns:
        the worker's last event: device, seconds, train_seconds, examples_per_second, memory_mib, …

    Raises:
        WorkerError: it ended with an error.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        arguments: dict[str, object] = {"snapshot": snapshot, "out": out, "config": recipe, "vectors": cache}
        arguments["processes"] = len(lease.names)
        if checkpoint:
            arguments["checkpoint"] = checkpoint
        with _worker(arguments, lease, errors) as process:
            crash_point("bundle.worker_started")
            done: dict[str, Any] = {}
            for line in process.stdout or ():
                event = _event(line)
                log(sentence(event) if event else line.rstrip())
                done = event if event.get("event") == "done" else done
            status = process.wait()
        if status or not done:
            errors.seek(0)
            # Several processes may say the same.
            said = "\n".join(dict.fromkeys(errors.read().strip().splitlines()))
            raise WorkerError(status, said[-COMPLAINT:])
    return done


def sentence(event: dict[str, Any]) -> str:
    """A worker's event in words."""
    match event["event"]:
        case "start":
            return (
                f"{event['steps']:,} steps on {event['device']}; examples: {event['train']:,} to train, "
                f"{event['dev']:,} dev, {event['test']:,} test"
            )
        case "resumed":
            return f"goes on from the checkpoint of step {event['step']:,} of {event['steps']:,}"
        case "step":
            return (
                f"step {event['step']:,} of {event['steps']:,}: loss {event['loss']:.4f}, "
                f"{event['examples_per_second']:.0f} examples/s, {event['tokens_per_second']:,.0f} tokens/s "
                f"({event['real_tokens_per_second']:,.0f} without padding), MFU {event['mfu']:.1%}, "
                f"{event['seconds_left']} s left"
            )
        case "dev":
            f1 = event["f1"]["macro"]
            return f"after epoch {event['epoch']}: dev loss {event['loss']:.4f}, macro F1 {f1:.3f}"
        case "done":
            seconds, memory = event["seconds"], event["memory_mib"]
            of_gpu = event.get("device_memory_mib")
            return f"trained on {event['device']} in {seconds:.1f} s, {memory:,} MiB at most" + (
                f", {of_gpu:,} of the GPU" if of_gpu else ""
            )
        case _:
            return str(event.get("text", event))


@contextmanager
def _worker(
    arguments: Mapping[str, object], lease: Lease, errors: IO[str]
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "assets.model.train", "--parent", str(os.getpid())]
    for name, value in arguments.items():
        command += [f"--{name}", str(value)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, text=True, env=lease.env, pass_fds=lease.fds
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _event(line: str) -> dict[str, Any]:
    """A progress event; empty where the line is none."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) and "event" in event else {}


def _add_recommender(folder: Path, snapshot: Snapshot, recipe: Recipe, home: Home, log: Log) -> None:
    from safetensors.numpy import save_file

    from assets.model.interactions import Interactions, dev_day, hold_out
    from assets.model.recommender import fit_recommender
    from assets.model.sequence import SequenceModel

    items = snapshot.table("items").select(["item_id", "text"]).to_pydict()
    vectors = item_vectors(folder / "encoder", [text or "" for text in items["text"]], home.vectors, log)
    save_file({"vectors": np.ascontiguousarray(vectors)}, folder / "item_vectors.safetensors")
    crash_point("bundle.vectors_written")
    _write_json(folder / "item_ids.json", items["item_id"])
    data = Interactions.of(snapshot, vectors, items["item_id"])
    held = hold_out(data, dev_day(data))
    known = folder / SEQUENCE_DEV
    sequence = SequenceModel.load(known, held.past) if known.exists() else None
    log("fitting the recommender on the dev day")
    shop = home.shop
    fitted = fit_recommender(
        held,
        shop.values.model_dump(),
        sequence,
        shop.rules.model_dump(),
        learn_from=recipe.rank_from,
        seed=recipe.seed,
        log=log,
    )
    fitted.write(folder)
    crash_point("bundle.recommender_written")
    known.unlink(missing_ok=True)  # it knows a day less than the one that serves


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _weights(recommender: Mapping[str, Any]) -> str:
    """The channels that count most in the blend, in words."""
    ranker = recommender.get("rankers", {}).get("browse", {"names": [], "weights": []})
    weighed = zip(ranker["names"], ranker["weights"], strict=True)
    channels = {name.removeprefix("log "): w for name, w in weighed if name.startswith("log ")}
    return ", ".join(f"{name} {w:.2f}" for name, w in sorted(channels.items(), key=lambda c: -abs(c[1])))


def _write_card(folder: Path, snapshot: Snapshot) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    recommender = json.loads((folder / "recommender.json").read_text(encoding="utf-8"))
    rows, recipe = snapshot.manifest["rows"], config["recipe"]
    base = "sentence-transformers/all-MiniLM-L6-v2" if recipe["encoder"] == "default" else recipe["encoder"]
    weights = _weights(recommender)
    chosen_on = recommender.get("dev", {}).get("day", "the dev day")
    settings = "\n".join(f"- {name}: {value}" for name, value in recipe.items() if value is not None)
    text = f"""# Model of {config["cut_off"]}

An encoder of product texts, fine-tuned on what shoppers did, and a recommender that stands on its vectors.

- Learnt from snapshot `{snapshot.id}`: {rows["events"]:,} events from {snapshot.manifest["first_day"]} to
  {snapshot.manifest["cut_off"]}, {rows["items"]:,} products. Nothing later is in it.
- Started from {base}; trained for {metrics["steps"]:,} steps on {config["device"]}
  (torch {config["torch"]}, transformers {config["transformers"]}).
- Learnt how to rank after {chosen_on}. Weights of the channels in the blend: {weights or "none"}.

## What it predicts from a product's words

Labels: {", ".join(config["labels"])} (a cart counts as a click). Trained on {metrics["examples"]["train"]:,}
examples (shopper, product, day) up to two days before the cut-off.

Dev day, the day before the cut-off:

{report_table(metrics["dev"])}

Test day, the cut-off itself:

{report_table(metrics["test"])}

## Recipe

{settings}

## Limits

- The words of a product say little about who buys it when: read these figures as a check of the training, and
  the ranking figures of `model_evaluation` as the quality of the recommendations.
- It knows the shop's shoppers and products of those days only, and the languages of the encoder it
  started from.
- Training the same recipe on the same snapshot and kind of machine gives the same files.

## Use

`AutoModel.from_pretrained("encoder")` with the mean over the tokens, scaled to length 1, gives the vectors in
`item_vectors.safetensors`, in the order of `item_ids.json`. `manifest.json` holds the SHA-256 of every file.
"""
    (folder / "README.md").write_text(text, encoding="utf-8")
