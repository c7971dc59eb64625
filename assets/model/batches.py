"""Texts as token ids, and batches of texts of like length."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 4096
"""Texts handed to the tokenizer at a time: bounds its memory, and keeps its threads busy."""
POOL = 200
"""Batches sorted together: nearly no padding within them, few texts that are encoded in more than one, and
still a fresh mix each epoch."""
REPEATS = 4
"""Rows of a text in such a pool, on average, at most: a batch about one text only would pull one way."""


@dataclass(frozen=True)
class Tokens:
    """The token ids of n texts, end to end, without padding."""

    ids: NDArray[np.int64]
    """[all tokens]."""
    start: NDArray[np.int64]
    """[n + 1]: text i is `ids[start[i]:start[i + 1]]`."""
    pad: int

    @classmethod
    def of(cls, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Tokens:
        """Tokenise once; texts of more than `max_length` tokens are cut."""
        rows: list[list[int]] = []
        for first in range(0, len(texts), CHUNK):
            chunk = list(texts[first : first + CHUNK])
            rows += tokenizer(chunk, truncation=True, max_length=max_length)["input_ids"]
        start = np.cumsum([0, *map(len, rows)])
        ids = np.fromiter((token for row in rows for token in row), np.int64, int(start[-1]))
        return cls(ids, start, int(tokenizer.pad_token_id or 0))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[n] tokens of each text."""
        return np.diff(self.start)

    @property
    def fingerprint(self) -> str:
        """16 hex digits over all of it."""
        digest = hashlib.sha256(np.ascontiguousarray(self.ids).data)
        digest.update(np.ascontiguousarray(self.start).data)
        return digest.hexdigest()[:16]

    def batch(
        self, texts: NDArray[np.int64], device: torch.device, width: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Ids and mask [B, T] of some texts, padded to the longest among them, or to `width` tokens."""
        lengths = self.lengths[texts]
        mask = np.arange(width or lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self.pad, np.int64)
        ids[mask] = self.ids[_ranges(self.start[texts], lengths)]
        return on_device(ids, device), on_device(mask.astype(np.int64), device)


def on_device(values: NDArray[Any], device: torch.device) -> Tensor:
    """The values as a tensor. A GPU fetches them while the CPU goes on, from memory that is not moved."""
    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def longest(encoder: nn.Module, tokenizer: PreTrainedTokenizerBase, wanted: int) -> int:
    """Tokens of the longest text: as wanted, so far as encoder and tokenizer have room for them."""
    return min(wanted, tokenizer.model_max_length, getattr(encoder.config, "max_position_embeddings", wanted))


def bucketed(
    texts: NDArray[np.int64], lengths: NDArray[np.int64], size: int, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """All rows once, in random batches of `size` rows of like length, rows of one text side by side.

    Rows are shuffled, sorted by length and text within pools of `POOL` batches (fewer where texts are few,
    see `REPEATS`), cut into batches, and those shuffled.

    Args:
        texts: [n] the text of each row.
        lengths: tokens of each text.
    """
    order = rng.permutation(len(texts))
    rows = size * max(1, min(POOL, REPEATS * len(np.unique(texts)) // size))
    batches = []
    for first in range(0, len(order), rows):
        pool = order[first : first + rows]
        pool = pool[np.lexsort((texts[pool], lengths[texts[pool]]))]
        batches += [pool[n : n + size] for n in range(0, len(pool), size)]
    return [batches[n] for n in rng.permutation(len(batches))]


def by_length(lengths: NDArray[np.int64], size: int) -> list[NDArray[np.int64]]:
    """All rows once, longest first (so that what does not fit in memory fails at once), in batches."""
    order = np.argsort(-lengths, kind="stable")
    return [order[n : n + size] for n in range(0, len(order), size)]


def of_one_length(lengths: NDArray[np.int64], tokens: int) -> list[NDArray[np.int64]]:
    """All rows once, longest first, in batches of rows of one length, of about `tokens` tokens each."""
    order = np.argsort(-lengths, kind="stable")
    batches = []
    for rows in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        size = max(1, tokens // max(int(lengths[rows[0]]), 1)) if len(rows) else 1
        batches += [rows[n : n + size] for n in range(0, len(rows), size)]
    return batches


def _ranges(start: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
    """start[0], start[0] + 1, … start[0] + length[0] - 1, start[1], …"""
    before = np.cumsum(length) - length
    return np.repeat(start - before, length) + np.arange(length.sum())
