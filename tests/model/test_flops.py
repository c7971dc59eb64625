"""Model FLOPs utilisation: the estimate against what torch counts."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from assets.model import flops
from assets.model.flops import Cost, known_peak, peak_of
from assets.model.tasks import BehaviorTask
from resources.text_encoder import load_encoder
from tests.model.little_shop import tiny_encoder


@pytest.mark.parametrize("length", [4, 60])
def test_the_estimate_is_near_what_torch_counts(tmp_path: Path, length: int) -> None:
    """Where attention costs little, and where it costs as much as the rest."""
    network = BehaviorTask().network(load_encoder(str(tiny_encoder(tmp_path / "tiny")))[0])
    ids = torch.ones(8, length, dtype=torch.long)
    # Plain products, for the counter knows no fused attention on a CPU.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        network(ids, torch.ones_like(ids)).sum().backward()
    estimate = Cost.of(network).step(np.full(8, length))
    assert estimate == pytest.approx(counter.get_total_flops(), rel=0.15)


def test_padding_does_not_count(tmp_path: Path) -> None:
    cost = Cost(parameters=100, layers=1, width=10)
    assert cost.step(np.asarray([2, 3])) == 6 * 100 * 5 + 12 * 10 * (4 + 9)


def test_the_peak_of_a_cpu_is_what_a_matrix_product_reaches() -> None:
    peak = peak_of(torch.device("cpu"))
    assert not peak.known
    assert 1e8 < peak.flops < 1e14


@pytest.mark.parametrize(
    ("name", "tera"),
    {
        "NVIDIA H200": 989,
        "NVIDIA H200 NVL": 836,
        "NVIDIA H100 80GB HBM3": 989,
        "NVIDIA H100 PCIe": 756,
        "NVIDIA GH200 480GB": 989,
        "NVIDIA A100-SXM4-80GB": 312,
        "NVIDIA L40S": 362,
        "NVIDIA L40": 181,
        "NVIDIA L4": 121,
        "NVIDIA A10G": 70,
        "NVIDIA A10": 125,
        "NVIDIA GeForce RTX 4090": 165,
        "NVIDIA GeForce RTX 4090 Laptop GPU": None,
        "NVIDIA GeForce RTX 3090 Ti": None,
        "NVIDIA GeForce RTX 4090 D": None,
        "NVIDIA H200 MIG 1g.18gb": None,
        "GRID A100-10C": None,
        "NVIDIA A40-12Q": None,
        "NVIDIA RTX A4000": None,
        "NVIDIA RTX A1000": None,
        "Tesla T4": None,
    }.items(),
)
def test_a_gpu_is_known_by_the_words_of_its_name(name: str, tera: int | None) -> None:
    """An `L40` is no `L4`, a slice of a GPU not all of it; what is not known is measured."""
    assert known_peak(name) == tera


def test_the_first_product_of_a_process_is_not_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    product, calls = torch.Tensor.__matmul__, []

    def slow_at_first(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if not calls:
            time.sleep(1)
        calls.append(1)
        return product(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", slow_at_first)
    monkeypatch.setattr(flops, "MEASURE", 0.0)
    assert peak_of(torch.device("cpu")).flops > 2 * 1024**3
