"""Processes of one training, forked off a server that has loaded what they need.

torchrun, which starts them in production, has each of them load it, which takes longer than all they do here.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import BertModel, BertTokenizer  # noqa: F401 loaded once, as the worker's own modules

from assets.model import checkpoints, sequence, train, training, vectors  # noqa: F401
from tests.servers import free_port

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload([__name__])


def trained_by(processes: int, folder: Path, before: Callable[[int], list[str]], *arguments: str) -> str:
    """Train in so many processes; what the first of them said.

    Args:
        processes: how many.
        folder: where they are, and what they say goes, a file for each.
        before: called in each of them with its rank; gives more arguments.
        arguments: of the training worker.
    """
    port = free_port()
    ranks = [
        FORKED.Process(target=_train, args=(rank, processes, port, folder, before, arguments), daemon=True)
        for rank in range(processes)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
    said = [(folder / f"said-{rank}").read_text() for rank in range(processes)]
    assert [process.exitcode for process in ranks] == [0] * processes, said
    return said[0]


def _train(
    rank: int,
    processes: int,
    port: int,
    folder: Path,
    before: Callable[[int], list[str]],
    arguments: tuple[str, ...],
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    os.chdir(folder)
    with Path(f"said-{rank}").open("w", buffering=1) as said:
        sys.stdout = sys.stderr = said
        sys.exit(train.main([*arguments, *before(rank)]))


def in_float32(rank: int) -> list[str]:
    """As on a machine without bfloat16."""
    torch.cpu._is_avx512_bf16_supported = lambda: False
    return []


def apart(rank: int) -> list[str]:
    """Each sees a checkpoint of its own, and has a device of its own name."""
    checkpoints.FIRST = 0.0
    train.device_name = lambda device: f"of process {rank}"  # GPUs of a training may differ
    return ["--checkpoint", f"{rank}.safetensors"]
