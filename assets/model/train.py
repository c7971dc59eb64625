"""The training worker: a snapshot in, an encoder and its head out.

    python -m assets.model.train --snapshot home/snapshots/<id> --out FOLDER --config demo

It needs torch, transformers, numpy, pyarrow, safetensors and PyYAML, and nothing else of Nightshelf's: copy
the repository and the snapshot to a GPU machine and run it there. Progress goes to standard output as lines
of JSON; the last of them, event `done`, holds the speed. What is wrong goes to standard error, with status 2.

With `--processes 2` it starts torchrun, and two of its kind share every batch, each on a GPU of its own. Or
start torchrun yourself, as for several machines: `torchrun --nproc-per-node 2 -m assets.model.train …`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resources.crash import crash_point
from resources.devices import LEASES, collect_less_often, keep_freed_memory, share_cores
from resources.parent import die_with

if TYPE_CHECKING:
    import torch

    from assets.model.recipe import Recipe
    from assets.model.snapshot import Snapshot
    from assets.model.training import Trained

REFUSED = 2
"""Exit status where something wrong was given."""
INTERRUPTED = 130
"""That of a command ended by Ctrl-C, as shells have it."""
SEQUENCE, SEQUENCE_DEV = "sequence.safetensors", "sequence-dev.safetensors"

OUTPUT = """
what it writes (in place by one rename, when all is done):
  encoder/             the fine-tuned encoder and its tokenizer, as Hugging Face safetensors
  head.safetensors     the layer on top of it
  sequence.safetensors, sequence-dev.safetensors
                       the sequence model of all days but the last, and of those before the dev day
  config.json          recipe, labels, snapshot, device
  metrics.json         precision, recall and F1 of every label on the dev and the test day
  loss.json            the loss of every step, and of the dev day after every epoch
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Train as the command line says; returns the exit status."""
    collect_less_often()
    argv = sys.argv[1:] if argv is None else list(argv)
    args = _parser().parse_args(argv)
    if args.parent:
        die_with(args.parent)
    try:
        return _run(args, argv)
    except KeyboardInterrupt:
        if not args.parent:  # which says it itself
            complain("interrupted")
        return INTERRUPTED


def _run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    from assets.model.recipe import RecipeError, load_recipe
    from assets.model.snapshot import Snapshot, SnapshotError

    # Before torch is loaded, and before torchrun starts processes that would each say the same.
    try:
        recipe, snapshot = load_recipe(args.config), Snapshot.load(args.snapshot)
        _require_empty(args.out)
    except (FileExistsError, FileNotFoundError, RecipeError, SnapshotError) as error:
        complain(f"error: {error}")
        return REFUSED
    if args.processes > 1 and "LOCAL_RANK" not in os.environ:
        return _under_torchrun(args.processes, argv)
    leases = _take_leases()
    crash_point("train.started")
    share_cores()
    keep_freed_memory()
    # Before torch is imported: cuBLAS is repeatable only with a workspace of fixed size.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

    import torch

    from assets.model.training import TrainingError
    from resources.text_encoder import EncoderError

    try:
        work(snapshot, recipe, args.out, args.vectors, tell, args.checkpoint)
    except (
        EncoderError,
        FileExistsError,
        FileNotFoundError,
        SnapshotError,
        TrainingError,
    ) as error:
        complain(f"error: {error}")
        return REFUSED
    except torch.OutOfMemoryError as error:
        said = str(error).partition(". ")[0]
        complain(f"error: {said}: lower sequence_width in the recipe, or free the device")
        return REFUSED
    finally:
        for fd in leases:
            os.close(fd)
    return 0


def _under_torchrun(processes: int, argv: Sequence[str]) -> int:
    """Have torchrun start this command so many times on this machine; returns the exit status."""
    import logging

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import get_args_parser, run

    # What went wrong is said by the process that failed.
    logging.getLogger("torch.distributed").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    own = [*argv, "--parent", str(os.getpid())]
    torchrun = ["--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node", str(processes)]
    # A folder of its own choice torchrun would leave behind.
    with _hand_on_leases(processes), tempfile.TemporaryDirectory() as logs:
        torchrun += ["--log-dir", logs]
        try:
            run(get_args_parser().parse_args([*torchrun, "-m", "assets.model.train", *own]))
        except ChildFailedError as error:
            _, first = error.get_first_failure()
            return REFUSED if first.exitcode == REFUSED else 1
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from error
            return 128 + error.sigval
    return 0


@contextmanager
def _hand_on_leases(processes: int) -> Iterator[None]:
    """Give each process that torchrun starts the leases of the devices, through its standard input.

    torchrun closes every other descriptor. If only torchrun held them and were killed, the devices would be
    free for a moment in which they are still used.
    """
    fds = [int(fd) for fd in os.environ.get(LEASES, "").split(",") if fd]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        for _ in range(processes if fds else 0):
            socket.send_fds(ours, [b"leases"], fds)
        before = os.dup(0)
        os.dup2(theirs.fileno(), 0)
        try:
            yield
        finally:
            os.dup2(before, 0)
            os.close(before)


def _take_leases() -> list[int]:
    """What `_hand_on_leases` gave; nothing where torchrun was started by somebody else."""
    if "LOCAL_RANK" not in os.environ or not os.environ.get(LEASES):
        return []
    with socket.socket(fileno=os.dup(0)) as given:
        return socket.recv_fds(given, 16, 64)[1]


def work(  # noqa: PLR0917
    snapshot: Snapshot,
    recipe: Recipe,
    out: Path,
    cache: Path | None,
    progress: Callable[[dict], None],
    checkpoint: Path | None = None,
) -> None:
    """Train and write.

    Args:
        out: a folder that is absent or empty.
        cache: where to keep the vectors of the snapshot's items (`item_vectors`); nowhere if absent.
        progress: told each event.
        checkpoint: file that keeps the state of the fine-tuning; what it holds already is gone on from.

    Raises:
        FileExistsError: `out` holds something.
        EncoderError, TrainingError: see there.
    """
    _require_empty(out)
    began = time.perf_counter()

    from transformers.utils import logging as hub_logging

    from assets.model.checkpoints import Checkpoints
    from assets.model.peers import joined
    from assets.model.tasks import TASKS
    from assets.model.training import pick_device, train
    from resources.devices import CPU, LEASED
    from resources.text_encoder import load_encoder

    hub_logging.disable_progress_bar()
    task = TASKS[recipe.task]()
    device = pick_device()
    leased = os.environ.get(LEASED, CPU)
    if device.type == "cpu" and leased != CPU and not leased.startswith("fake"):
        progress({"event": "note", "text": f"this torch cannot use device {leased}: training on the CPU"})
    encoder, tokenizer = load_encoder(recipe.encoder)
    data = task.data(snapshot)
    with joined(device) as peers:
        if peers.rank:
            progress = _silent
        # GPUs of one training may differ; its checkpoint is the first process's.
        about = peers.of_first(_about(recipe, snapshot, device, peers.count))
        kept = Checkpoints(checkpoint, about, _noting(progress)) if checkpoint else None
        trained = train(task, data, encoder, tokenizer, recipe, device, progress, kept, peers)
    if peers.rank:
        return  # one of them writes

    part = out.with_name(f"{out.name}.part-{os.getpid()}")
    part.mkdir(parents=True)
    _save(trained, tokenizer, recipe, part)
    _write_json(part / "config.json", _config(trained, task.labels, about))
    crash_point("train.config_written")
    _write_json(part / "metrics.json", {"task": recipe.task, "labels": task.labels, **trained.metrics})
    _write_json(part / "loss.json", trained.curve)
    crash_point("train.figures_written")
    speed = dict(trained.speed)
    with _kept(cache) as folder:
        speed |= _train_sequence(part, snapshot, recipe, folder, device, progress)
    crash_point("train.written")
    part.rename(out)
    crash_point("train.in_place")
    speed["seconds"] = round(time.perf_counter() - began, 2)
    progress({"event": "done", "device": device_name(device), **speed, **_peak_memory(device)})


def _require_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"--out {out}: must be a folder that is absent or empty")


@contextmanager
def _kept(cache: Path | None) -> Iterator[Path]:
    """The cache, or a folder that is gone afterwards."""
    if cache:
        yield cache
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _train_sequence(  # noqa: PLR0917
    part: Path,
    snapshot: Snapshot,
    recipe: Recipe,
    cache: Path,
    device: torch.device,
    progress: Callable[[dict], None],
) -> dict[str, float]:
    """Encode the items and train the sequence model on their vectors.

    It is cooled down twice: before the dev day, on which the ranker learns what it is worth, and before the
    cut-off day, which stays for the test.
    """
    from assets.model.interactions import Interactions, dev_day, hold_out
    from assets.model.sequence import SequenceConfig, SequenceTrainer
    from assets.model.vectors import item_vectors

    log = _noting(progress)
    items, began = snapshot.table("items").select(["item_id", "text"]).to_pydict(), time.perf_counter()
    texts = [text or "" for text in items["text"]]
    vectors = item_vectors(part / "encoder", texts, cache, log, device)
    encoded = time.perf_counter()
    if recipe.sequence_epochs:
        data = Interactions.of(snapshot, vectors, items["item_id"])
        held = hold_out(data, dev_day(data))
        config = SequenceConfig.for_shop(
            held.past, epochs=recipe.sequence_epochs, width=recipe.sequence_width, seed=recipe.seed
        )
        trainer = SequenceTrainer(config, device, log=log)
        trainer.fit(held).save(part / SEQUENCE_DEV)
        crash_point("train.sequence_dev_written")
        trainer.cooled(data.until(snapshot.cut_off - timedelta(days=1))).save(part / SEQUENCE)
    return {
        "vector_seconds": round(encoded - began, 2),
        "sequence_seconds": round(time.perf_counter() - encoded, 2),
    }


def _silent(event: dict[str, Any]) -> None:
    """Of several processes that train together, one tells."""


def _noting(progress: Callable[[dict], None]) -> Callable[[str], None]:
    return lambda text: progress({"event": "note", "text": text})


def device_name(device: torch.device) -> str:
    """`cpu`, or the GPU's name."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def complain(text: str) -> None:
    """A line on standard error, in one piece: processes that torchrun starts share it, and do not buffer."""
    sys.stderr.write(f"{text}\n")


def tell(event: dict[str, Any]) -> None:
    """One line of JSON on standard output, at once."""
    print(json.dumps(event), flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m assets.model.train",
        description="Fine-tune a text encoder on a training snapshot.",
        epilog=OUTPUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--snapshot", type=Path, required=True, metavar="DIR", help="folder of the snapshot")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="where to write; absent or empty"
    )
    parser.add_argument(
        "--config", required=True, metavar="FILE", help="recipe: brief, nightly, demo, or a YAML file"
    )
    parser.add_argument(
        "--vectors", type=Path, metavar="DIR", help="keep the vectors of the snapshot's items in this cache"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="FILE",
        help="keep the state of the fine-tuning in this file, and go on from what it holds",
    )
    parser.add_argument(
        "--processes",
        type=_count,
        default=1,
        metavar="N",
        help="share every batch between so many processes, each on a GPU of this machine (torchrun)",
    )
    parser.add_argument(
        "--parent", type=int, metavar="PID", help="end when this process, the one that started it, ends"
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text}")
    return int(text)


def _save(trained: Trained, tokenizer: Any, recipe: Recipe, folder: Path) -> None:
    from safetensors.torch import save_file

    from assets.model.vectors import encode_as

    network, encoder = trained.network.cpu(), trained.network.encoder
    tokenizer.model_max_length = min(tokenizer.model_max_length, recipe.max_length)
    encoder.save_pretrained(folder / "encoder")
    crash_point("train.encoder_written")
    tokenizer.save_pretrained(folder / "encoder")
    encode_as(folder / "encoder", recipe.item_vectors)
    head = {
        name: weight.contiguous()
        for name, weight in network.state_dict().items()
        if not name.startswith("encoder.")
    }
    save_file(head, folder / "head.safetensors")
    crash_point("train.head_written")


def _about(recipe: Recipe, snapshot: Snapshot, device: torch.device, processes: int) -> dict[str, Any]:
    """All that the weights depend on, but for the encoder that they start from."""
    import torch
    import transformers

    return {
        "snapshot": snapshot.id,
        "cut_off": snapshot.cut_off.isoformat(),
        "recipe": asdict(recipe),
        "device": device_name(device),
        "processes": processes,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _config(trained: Trained, labels: Sequence[str], about: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": 1,
        "task": about["recipe"]["task"],
        "labels": list(labels),
        "dimensions": int(trained.network.encoder.config.hidden_size),
        **about,
    }


def _peak_memory(device: torch.device) -> dict[str, int]:
    import torch

    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20}
    if device.type == "cuda":
        peak["device_memory_mib"] = torch.cuda.max_memory_allocated(device) >> 20
    return peak


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
