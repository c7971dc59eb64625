"""Checkpoints: the state of a training in one file, so that a training that was ended goes on from there.

The file is safetensors, and its header holds the rest as JSON; nothing is pickled. It is written aside and
put in place by one rename, so whoever reads it meets a whole state.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resources.aside import replacing

FORMAT = 2
"""To be raised with every change to the loop that makes another training of the same recipe."""
SHARE = 0.02
"""Of the time, at most, that goes into writing: a state of 270 MB is written about twice a minute."""
FIRST = 2.0
"""Seconds until the first one; what is over before can be done again."""

State = tuple[dict[str, Tensor], dict[str, Any]]


@dataclass
class Checkpoints:
    """Where the state of one training is kept."""

    file: Path
    of: dict[str, Any]
    """What it is the state of: a file of anything else is no start for this training."""
    log: Callable[[str], None] = lambda message: None
    _next: float = field(default_factory=lambda: time.monotonic() + FIRST)

    @property
    def _of(self) -> dict[str, Any]:
        return {"format": FORMAT, **self.of}

    def due(self) -> bool:
        """Whether enough has been done since the last one to be worth the writing."""
        return time.monotonic() >= self._next

    def write(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Put a state in place of the last one. What cannot be written (a full disk) is told, and no more."""
        from safetensors.torch import save_file

        began = time.monotonic()
        header = {"of": json.dumps(self._of), "state": json.dumps(dict(state))}
        try:
            with replacing(self.file) as aside:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, aside, header)
        except OSError as error:
            self.log(f"no checkpoint could be written ({error}): the training goes on without")
        ended = time.monotonic()
        self._next = ended + max(FIRST, (ended - began) / SHARE)

    def read(self) -> State | None:
        """The last state; None where there is none, or none that this training can go on from."""
        from safetensors import SafetensorError, safe_open

        if not self.file.exists():
            return None
        try:
            with safe_open(self.file, "pt") as stored:
                header = stored.metadata() or {}
                of, state = json.loads(header["of"]), json.loads(header["state"])
                if other := [name for name, value in self._of.items() if of.get(name) != value]:
                    self.log(f"the checkpoint is of another training ({', '.join(other)}): not used")
                    return None
                # Copies: what is mapped from the file is aligned as the file has it.
                return {name: stored.get_tensor(name).clone() for name in stored.keys()}, state  # noqa: SIM118
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            self.log(f"the checkpoint cannot be read ({error}): not used")
            return None


def state_of(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and what the optimizer remembers of them, by names that `put_back` knows."""
    found = {f"network.{name}": tensor.detach() for name, tensor in _tensors(network).items()}
    for name, parameter in network.named_parameters():
        for what, tensor in optimizer.state.get(parameter, {}).items():
            found[f"optimizer.{what}.{name}"] = tensor
    return found


def put_back(tensors: Mapping[str, Tensor], network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Give network and optimizer the state that `state_of` found."""
    with torch.no_grad():
        for name, tensor in _tensors(network).items():
            tensor.copy_(tensors[f"network.{name}"])
    parameters = dict(network.named_parameters())
    for key, tensor in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "optimizer":
            what, _, name = rest.partition(".")
            parameter = parameters[name]
            optimizer.state[parameter][what] = tensor.to(parameter.device)


def fingerprint(network: nn.Module) -> str:
    """16 hex digits over all weights: the encoder that a training starts from, and its fresh head."""
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(network).items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, each once, whoever shares it."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
