"""Maximum inner product search on a CPU: each user's first k items of all, exactly, as fast as a matrix
product.

    users [U, D] · items [N, D]ᵀ -> the k largest of every row, and where they stand

Selecting costs more than multiplying if every score is looked at one by one. So:

1. Block by block of users, scores in bfloat16 where the hardware multiplies that faster, else in float32.
2. Maxima of groups of items, and of groups of those. There are k groups with a maximum of at least their k-th
   largest, hence k items with that score: no item far below it can be among the first k. How far is bounded
   by what rounding may have done (Cauchy and Schwarz on the rounded-off parts).
3. The few items above that bound, little more than k, are scored again in float32 and sorted.

The result is the float32 ranking whatever the precision of the first pass; no index is built, nothing is
approximate. Peak memory does not depend on the number of users.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from assets.model.network import has_bfloat16

CELLS = 64_000_000
"""Scores held at a time: 128 MB in bfloat16."""
CHUNK = 65_536
"""Items that are measured at a time."""
MOST_USERS = 512
"""Users at a time; more make neither the product nor the selection faster."""
GROUP = 16
"""Items, and groups of items, of which one maximum is taken: each pass reads 1/16 of the one before."""
ROOM = 3
"""Groups for each of the k places, at least: with fewer, many of the first items share a group, and the bound
that their maxima give is a loose one."""


@dataclass(frozen=True)
class Found:
    """The first k items of each user, best first; equal scores in order of the item's number."""

    items: NDArray[np.int64]
    """[users, k]; −1 where fewer are allowed."""
    scores: NDArray[np.float32]
    """[users, k] inner products; −inf where there is no item."""


@dataclass(frozen=True)
class Masked:
    """Few pairs that may not be found, as in a sparse matrix: of user u, `item[start[u]:start[u + 1]]`."""

    start: NDArray[np.int64]
    item: NDArray[np.int64]


class InnerProducts:
    """Items made ready to be searched, once for any number of users."""

    def __init__(
        self,
        items: NDArray[np.float32],
        allowed: NDArray[np.bool_] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """
        Args:
            items: [N, D], finite.
            allowed: [N] items that anybody may be shown; all where absent.
            dtype: of the first pass; where absent, bfloat16 if the processor multiplies it in hardware.
        """
        self._dtype = dtype or (torch.bfloat16 if has_bfloat16(torch.device("cpu")) else torch.float32)
        self._numbers = np.arange(len(items)) if allowed is None else np.flatnonzero(allowed)
        self._place = np.full(len(items), -1, np.int64)
        self._place[self._numbers] = np.arange(len(self._numbers))
        kept = items if allowed is None else items[self._numbers]
        self._items = torch.from_numpy(np.ascontiguousarray(kept, np.float32))
        padded = -len(kept) % GROUP**2
        self._rounded = nn.functional.pad(self._items.to(self._dtype), (0, 0, 0, padded))
        self._longest = self._lost = 0.0
        for part, rounded in zip(self._items.split(CHUNK), self._rounded.split(CHUNK), strict=False):
            lost = part - rounded[: len(part)].float()
            self._longest = max(self._longest, _longest(part))
            self._lost = max(self._lost, _longest(lost))

    def first(
        self, users: NDArray[np.float32], k: int, masked: Masked | NDArray[np.bool_] | None = None
    ) -> Found:
        """The k items with the largest inner product with each user.

        Args:
            users: [U, D], finite. A user of zeros is as near to all items, and takes as long as many others.
            k: at least 1.
            masked: pairs to leave out, where they are many as True in [U, N]; item numbers as in the items
                given.

        Raises:
            ValueError: k < 1, or users and items have another number of dimensions.
        """
        if k < 1 or users.shape[1] != self._items.shape[1]:
            raise ValueError(f"k is {k}, users are {users.shape}, items {tuple(self._items.shape)}")
        found = Found(np.full((len(users), k), -1, np.int64), np.full((len(users), k), -np.inf, np.float32))
        at_once = max(1, min(MOST_USERS, CELLS // max(len(self._rounded), 1)))
        # One for all blocks: to be given as much anew each time takes as long as half of the product.
        room = torch.empty(min(at_once, len(users)), len(self._rounded), dtype=self._dtype)
        for first in range(0, len(users) if len(self._items) else 0, at_once):
            rows = slice(first, first + at_once)
            block = torch.from_numpy(np.ascontiguousarray(users[rows], np.float32))
            left_out = self._left_out(masked, rows, len(block))
            items, scores = self._first(block, k, self._scores(block, left_out, room[: len(block)]))
            found.items[rows, : items.shape[1]] = np.where(items < 0, -1, self._numbers[items])
            found.scores[rows, : items.shape[1]] = scores
        return found

    def at(
        self, users: NDArray[np.float32], row: NDArray[np.int64], item: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """[pairs] inner products of some pairs, to the last bit what `first` says; −inf where the item is not
        allowed.

        Args:
            users: [U, D], finite.
            row: [pairs] places in `users`, in order.
            item: [pairs] numbers in the items given.
        """
        place = self._place[item]
        scores = np.full(len(row), -np.inf, np.float32)
        asked, known = torch.from_numpy(np.ascontiguousarray(users, np.float32)), np.flatnonzero(place >= 0)
        pairs = (torch.from_numpy(values[known]) for values in (row, place))
        scores[known] = self._exact(asked, *pairs).numpy()
        return scores

    def _first(self, users: Tensor, k: int, scores: Tensor) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """From the first pass's scores to places [users, at most k], −1 where there is none, and scores."""
        maxima = _grouped(scores, k)
        row, item = _above(scores, maxima, self._lowest(maxima, k, self._off(users)))
        exact = in_rows(row, self._exact(users, row, item), len(users), -torch.inf)
        item = in_rows(row, item, len(users), -1)
        best, order = exact.sort(descending=True, stable=True)
        return item.gather(1, order[:, :k]).numpy(), best[:, :k].numpy()

    def _left_out(
        self, masked: Masked | NDArray[np.bool_] | None, rows: slice, users: int
    ) -> Tensor | tuple[Tensor, Tensor] | None:
        """Of a block, [users, places of items] where they are left out; or row and place of each that is."""
        if masked is None:
            return None
        if not isinstance(masked, Masked):
            every = len(self._numbers) == masked.shape[1]
            return torch.from_numpy(masked[rows] if every else masked[rows, self._numbers])
        start = masked.start[rows.start : rows.start + users + 1]
        place = self._place[masked.item[start[0] : start[-1]]]
        user = np.repeat(np.arange(users), np.diff(start))
        known = place >= 0
        row, column = (torch.from_numpy(values[known]) for values in (user, place))
        return row, column

    def _scores(self, users: Tensor, masked: Tensor | tuple[Tensor, Tensor] | None, scores: Tensor) -> Tensor:
        """[users, padded items] of the first pass, written into `scores`; −inf where masked."""
        torch.mm(users.to(self._dtype), self._rounded.T, out=scores)
        scores[:, len(self._items) :] = -torch.inf
        if isinstance(masked, Tensor):
            scores[:, : len(self._items)].masked_fill_(masked, -torch.inf)
        elif masked:
            scores[masked] = -torch.inf
        return scores

    def _off(self, users: Tensor) -> Tensor:
        """[users] how far a score of the first pass may be off before it is rounded itself."""
        lost, length = (users - users.to(self._dtype).float()).norm(dim=1), users.norm(dim=1)
        # float32 sums are off, too: by a rounding for each dimension (Higham 2002, section 3.1).
        summing = users.shape[1] * 2.0**-24 * length * self._longest
        return lost * self._longest + (length + lost) * self._lost + summing

    def _lowest(self, maxima: Tensor, k: int, off: Tensor) -> Tensor:
        """[users, 1] scores below which nothing can be among the first k; the least where fewer are left."""
        outer = _grouped(maxima, k)
        kth = outer.topk(min(k, outer.shape[1]), sorted=False).values.amin(1).float()
        unit = torch.finfo(self._dtype).eps / 2
        low = kth - 2 * off * (1 + 2 * unit) - 2 * unit * 1.05 * kth.abs()
        least = low.to(self._dtype)
        # Rounded down, so that comparing in this precision loses none; and never so far that −inf passes.
        down = torch.nextafter(least, torch.full_like(least, -torch.inf))
        least = torch.where(least.float() > low, down, least)
        return least.clamp(min=torch.finfo(self._dtype).min)[:, None]

    def _exact(self, users: Tensor, row: Tensor, item: Tensor) -> Tensor:
        """[pairs] inner products in float32; the rows are in order."""
        start = torch.zeros(len(users) + 1, dtype=torch.int64)
        start[1:] = torch.bincount(row, minlength=len(users)).cumsum(0)
        wanted = in_csr(start, item, users.new_zeros(len(item)), (len(users), len(self._items)))
        return torch.sparse.sampled_addmm(wanted, users, self._items.T, beta=0.0).values()


def in_csr(start: Tensor, column: Tensor, value: Tensor, shape: tuple[int, int]) -> Tensor:
    """A sparse matrix by rows, of which only products are used."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse")  # of a beta state
        return torch.sparse_csr_tensor(start, column, value, shape, check_invariants=False)


def _longest(vectors: Tensor) -> float:
    return float(vectors.norm(dim=1).max()) if len(vectors) else 0.0


def _grouped(scores: Tensor, k: int) -> Tensor:
    """[users, groups] maxima: group g holds columns g, g + groups, …; the scores themselves where so few are
    left that k groups would have to share them."""
    width = GROUP if scores.shape[1] >= GROUP * ROOM * k else 1
    return scores.unflatten(1, (width, -1)).amax(1)


def _above(scores: Tensor, maxima: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of all scores of at least `least`, by row and column."""
    groups = maxima.shape[1]
    row, group = (maxima >= least).nonzero(as_tuple=True)
    columns = group[:, None] + torch.arange(0, scores.shape[1], groups)
    inside = scores.view(-1)[row[:, None] * scores.shape[1] + columns]
    hit, place = (inside >= least[row]).nonzero(as_tuple=True)
    row, column = row[hit], columns[hit, place]
    order = (row * scores.shape[1] + column).argsort()
    return row[order], column[order]


def in_rows(row: Tensor, values: Tensor, rows: int, fill: float) -> Tensor:
    """[rows, longest] values of each row side by side, filled up; `row` is in order."""
    count = torch.bincount(row, minlength=rows)
    place = torch.arange(len(row)) - (count.cumsum(0) - count)[row]
    table = values.new_full((rows, int(count.max()) if rows else 0), fill)
    table[row, place] = values
    return table
