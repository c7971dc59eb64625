"""Model FLOPs utilisation: which share of what a device can compute goes into the training (PaLM, app. B).

Only the arithmetic of the network on real tokens counts: not padding, not what is computed twice.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from assets.model.network import has_bfloat16

if TYPE_CHECKING:
    from assets.model.network import TextClassifier

KNOWN = {
    "GB200": 2500,
    "B200": 2250,
    "GH200": 989,
    "H200 NVL": 836,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A40": 150,
    "A30": 165,
    "A10G": 70,
    "A10": 125,
    "RTX 4090": 165,
    "RTX 3090": 71,
}
"""TFLOPS of dense bfloat16 matrix products by the data sheets; the first whose words a GPU's name has
counts."""
LESS = re.compile(r"\bMIG\b|\bLaptop\b|\bMax-Q\b|\b(Ti|D)\b|-\d+[ABCQ]\b")
"""In the names of a part of a GPU (`MIG 1g.18gb`, `A40-12Q`), and of others than the one of the same name."""
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
    tera = known_peak(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return Peak(tera * 1e12, known=True) if tera else Peak(_measured(device), known=False)


def known_peak(name: str) -> int | None:
    """TFLOPS of the GPU of this name, as torch gives it; None where no data sheet is known."""
    if LESS.search(name):
        return None
    return next((tera for part, tera in KNOWN.items() if re.search(rf"\b{part}\b", name)), None)


def _measured(device: torch.device) -> float:
    size = 1024 if device.type == "cpu" else 8192
    a = torch.ones(size, size, device=device, dtype=torch.bfloat16 if has_bfloat16(device) else None)
    best = 0.0
    with torch.inference_mode():
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
        # A pooler is of the pre-training; the mean of all tokens takes its place.
        used = (p.numel() for name, p in network.named_parameters() if ".pooler." not in name)
        parameters = sum(used) - looked_up
        config = network.encoder.config
        return cls(parameters, int(getattr(config, "num_hidden_layers", 0)), int(config.hidden_size))

    def step(self, lengths: NDArray[np.int64]) -> float:
        """6 for each weight and token, 12 for each layer, dimension and pair of a text's tokens.

        Args:
            lengths: real tokens of each text.
        """
        tokens, pairs = float(lengths.sum()), float((lengths**2).sum())
        return 6 * self.parameters * tokens + 12 * self.layers * self.width * pairs
