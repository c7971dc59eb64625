"""Several processes that train one network together, each on a device of its own.

Every process knows the whole batch and computes its share of it; what comes out of the shares is gathered,
and the loss is that of the whole batch in each of them. So the number of processes changes the speed and, but
for dropout and rounding, nothing else: labels are weighed, and negatives found, over the batch and not over a
share. Gradients are averaged by DistributedDataParallel. `torchrun` starts the processes; alone, all of this
does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

T = TypeVar("T")

WAIT = timedelta(minutes=30)
"""For the others at one point of the training."""


@dataclass(frozen=True)
class Peers:
    """The processes of a training, and which of them this one is."""

    rank: int = 0
    count: int = 1

    def share(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of this process: as many as any other has, so that some may come twice."""
        if self.count == 1:
            return rows
        each = -(-len(rows) // self.count)
        places = np.arange(self.rank * each, (self.rank + 1) * each) % len(rows)
        return rows[places]

    def gathered(self, own: Tensor, size: int) -> Tensor:
        """What came of all shares: [share, …] each -> [size, …], with a gradient in the own rows."""
        if self.count == 1:
            return own
        parts = [torch.empty_like(own, dtype=torch.float32) for _ in range(self.count)]
        dist.all_gather(parts, own.detach().float().contiguous())
        parts[self.rank] = own.float()
        return torch.cat(parts)[:size]

    def agree(self, number: int, device: torch.device) -> bool:
        """Whether all processes have the same number."""
        if self.count == 1:
            return True
        most = torch.tensor([number, -number], device=device)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        return int(most[0]) == -int(most[1])

    def of_first(self, value: T) -> T:
        """The value that the first process has."""
        if self.count == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def together(self, network: nn.Module, device: torch.device) -> nn.Module:
        """A network whose gradients are the mean of those of all processes after `backward`."""
        if self.count == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        # Static: every step does the same, also where parts of an encoder (a pooler) are not used.
        return DistributedDataParallel(
            network,
            device_ids=[device.index] if device.type == "cuda" else None,
            static_graph=True,
        )


def local_rank() -> int | None:
    """Which process of this machine this one is; None where it was not started by torchrun."""
    rank = os.environ.get("LOCAL_RANK")
    return int(rank) if rank is not None else None


@contextmanager
def joined(device: torch.device) -> Iterator[Peers]:
    """Meet the others that torchrun has started; alone where it has not."""
    if local_rank() is None:
        yield Peers()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=WAIT)
    yield Peers(dist.get_rank(), dist.get_world_size())
    # Not after an error: the others may wait for this one, and it would wait for them.
    dist.destroy_process_group()
