"""Model FLOPs utilisation: which share of what a device can compute goes into the training (PaLM, app. B).

Only the arithmetic of the network on real tokens counts: not padding, not what is computed twice.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from assets.model.network import precision

if TYPE_CHECKING:
    from assets.model.network import TextClassifier

KNOWN = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A40": 150,
    "A30": 165,
    "A10G": 70,
    "A10": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""TFLOPS of dense bfloat16 matrix products by the data sheets; the first that is in a GPU's name counts."""
MEASURE = 0.2
"""Seconds of measuring a device that is not known."""


@dataclass(frozen=True)
class Peak:
    """What a device can compute."""

    flops: float
    """A second."""
    known: bool
    """By its data sheet; else what a matrix product reached here."""


def peak_of(device: torch.device) -> Peak:
    """The peak of a common GPU, by its name; of anything else what a matrix product reaches."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, tera in KNOWN.items():
            if part in name:
                return Peak(tera * 1e12, known=True)
    return Peak(_measured(device), known=False)


def _measured(device: torch.device) -> float:
    size = 1024 if device.type == "cpu" else 8192
    a = torch.ones(size, size, device=device)
    best = 0.0
    with torch.inference_mode(), precision(device):
        # The first product of a process loads libraries, for seconds where disks are cold.
        (a @ a)[0, 0].item()
        until = time.perf_counter() + MEASURE
        while time.perf_counter() < until or not best:
            began = time.perf_counter()
            (a @ a)[0, 0].item()  # which waits for a GPU
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


@dataclass(frozen=True)
class Cost:
    """FLOPs of one step's forward and backward pass, as nanoGPT estimates them."""

    parameters: int
    """Weights that each token is multiplied with; a look-up in an embedding is no product."""
    layers: int
    width: int

    @classmethod
    def of(cls, network: TextClassifier) -> Cost:
        looked_up = sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Embedding))
        parameters = sum(p.numel() for p in network.parameters()) - looked_up
        config = network.encoder.config
        return cls(parameters, int(getattr(config, "num_hidden_layers", 0)), int(config.hidden_size))

    def step(self, lengths: NDArray[np.int64]) -> float:
        """6 for each weight and token, 12 for each layer, dimension and pair of a text's tokens.

        Args:
            lengths: real tokens of each text.
        """
        tokens, pairs = float(lengths.sum()), float((lengths**2).sum())
        return 6 * self.parameters * tokens + 12 * self.layers * self.width * pairs
