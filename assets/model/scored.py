"""Scores of some users as a channel has them at hand: asked for their first items, never written out.

A channel has nothing to say of most items. Of [users, items] scores, a shelf needs the first few of each row
and those of some pairs; to write down all of them takes long and much room where there are many items. Each
form here answers these two questions, and as shares of each user's best it says what the matrix says that
`Channel.scores` writes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from assets.model.interactions import Ints, places
from assets.model.metrics import kth_best

if TYPE_CHECKING:
    from assets.model.mips import InnerProducts

Matrix = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rows = TypeVar("Rows", Matrix, Mask)

DENSE_FROM = 1 / 8
"""Share of a sparse matrix that must be filled for the full form to be faster."""
LOOKED_THROUGH = 4_000_000
"""Scores that are looked through at once: so few that their memory is used again, not asked for anew."""


@dataclass(frozen=True)
class Chosen:
    """(row, item) pairs, by row and item."""

    mask: Mask
    """[users, items]"""

    @cached_property
    def keys(self) -> Ints:
        """[pairs] places in the mask, flat, in order."""
        return np.flatnonzero(self.mask)

    @cached_property
    def places(self) -> tuple[Ints, Ints]:
        """[pairs] row and item."""
        row, item = np.divmod(self.keys, max(self.mask.shape[1], 1))
        return row, item

    @cached_property
    def others(self) -> Mask:
        """[users, items] all other pairs."""
        return ~self.mask


@dataclass(frozen=True)
class First:
    """First items, by row, best first; equal ones in order of the item's number."""

    row: Ints
    item: Ints
    score: Matrix


class Scored(Protocol):
    """Scores of a block of users; what they mean is for `share` to say."""

    @property
    def nothing(self) -> float:
        """The score of an item for which nothing speaks: the least there is."""
        ...

    def first(self, k: int, among: Chosen) -> First:
        """The k best of each row among some; fewer where for fewer something speaks."""
        ...

    def at(self, pairs: Chosen) -> Matrix:
        """[pairs]"""
        ...

    def share(self, score: Matrix, best: Matrix) -> Matrix:
        """Scores as a share in [0, 1] of the best of their row; 0 where nothing speaks for anything."""
        ...


def _proportion(score: Matrix, best: Matrix) -> Matrix:
    """The share where scores are ≥ 0 and twice as much is twice as good."""
    return np.asarray(score / np.maximum(best, 1e-12), np.float32)


@dataclass(frozen=True)
class Dense:
    """Scores that are written out."""

    matrix: Matrix

    nothing, share = 0.0, staticmethod(_proportion)

    def first(self, k: int, among: Chosen) -> First:
        width = max(self.matrix.shape[1], 1)
        at_once = max(1, LOOKED_THROUGH // width)
        keys, kth = [np.zeros(0, np.int64)], [np.zeros(0, np.float32)]
        for begin in range(0, len(self.matrix), at_once):
            part = slice(begin, begin + at_once)
            scores = np.where(among.mask[part], self.matrix[part], np.float32(0))
            kth.append(kth_best(scores, k))
            keys.append(begin * width + np.flatnonzero((scores >= kth[-1][:, None]) & (scores > 0)))
        key = np.concatenate(keys)
        return _best(key, self.matrix.reshape(-1)[key], np.concatenate(kth), k, width)

    def at(self, pairs: Chosen) -> Matrix:
        return self.matrix[pairs.places]


class Sparse:
    """Scores of which most are 0."""

    nothing, share = 0.0, staticmethod(_proportion)

    def __init__(self, matrix: csr_matrix) -> None:
        """
        Args:
            matrix: [users, items], ≥ 0, no pair twice.
        """
        pairs = matrix.tocoo(copy=False)
        self._row, self._score = pairs.row.astype(np.int64), pairs.data
        self._users, self._width = matrix.shape[0], max(matrix.shape[1], 1)
        self._key = self._row * self._width + pairs.col

    def first(self, k: int, among: Chosen) -> First:
        import torch

        from assets.model.mips import in_rows

        kept = np.flatnonzero(among.mask.reshape(-1)[self._key] & (self._score > 0))
        row, score = self._row[kept], self._score[kept]
        table = in_rows(torch.from_numpy(row), torch.from_numpy(score), self._users, 0.0)
        kth = kth_best(table.numpy(), k)
        above = score >= kth[row]
        return _best(self._key[kept[above]], score[above], kth, k, self._width)

    def at(self, pairs: Chosen) -> Matrix:
        found = np.zeros(len(pairs.keys), np.float32)
        asked = np.flatnonzero(pairs.mask.reshape(-1)[self._key])
        found[np.searchsorted(pairs.keys, self._key[asked])] = self._score[asked]
        return found


@dataclass(frozen=True)
class Same:
    """The same scores for everybody."""

    score: Matrix
    """[items]"""
    order: Ints
    """Items with a score above 0, best first; equal ones in order of their number."""

    nothing, share = 0.0, staticmethod(_proportion)

    @classmethod
    def of(cls, score: Matrix) -> Same:
        return cls(score, np.argsort(-score, kind="stable")[: np.count_nonzero(score > 0)])

    def first(self, k: int, among: Chosen) -> First:
        width, rows, items = 2 * k, [], []
        left = np.arange(len(among.mask))
        while True:
            there = among.mask[left[:, None], self.order[:width]]
            ready = (there.sum(axis=1) >= k) | (width >= len(self.order))
            place = np.cumsum(there[ready], axis=1)
            row, at = np.nonzero(there[ready] & (place <= k))
            rows.append(left[ready][row])
            items.append(self.order[at])
            left, width = left[~ready], 4 * width
            if not len(left):
                break
        row, item = np.concatenate(rows), np.concatenate(items)
        order = np.argsort(row, kind="stable")
        return First(row[order], item[order], self.score[item[order]])

    def at(self, pairs: Chosen) -> Matrix:
        return self.score[pairs.places[1]]


@dataclass(frozen=True)
class Products:
    """Inner products with items' vectors; shares are exp((product − the best) / temperature)."""

    users: Matrix
    """[users, D]; a row of zeros for a user of whom nothing is known."""
    search: InnerProducts
    temperature: float = 1.0

    nothing = -np.inf

    @cached_property
    def _known(self) -> Mask:
        return np.asarray(self.users.any(axis=1))

    def first(self, k: int, among: Chosen) -> First:
        # A user of whom nothing is known is as near to every item: that would be all of them.
        asked = np.flatnonzero(self._known)
        found = self.search.first(rows_of(self.users, asked), k, rows_of(among.others, asked))
        row, place = np.nonzero(found.items >= 0)
        return First(asked[row], found.items[row, place], found.scores[row, place])

    def at(self, pairs: Chosen) -> Matrix:
        row, item = pairs.places
        scores = np.full(len(row), -np.inf, np.float32)
        asked = self._known[row]
        scores[asked] = self.search.at(self.users, row[asked], item[asked])
        return scores

    def share(self, score: Matrix, best: Matrix) -> Matrix:
        some = np.where(best > -np.inf, best, np.float32(0))
        return np.exp((score - some) / np.float32(self.temperature))


def sparse(matrix: csr_matrix) -> Sparse | Dense:
    """Scores of a sparse matrix, in the form that is faster."""
    if matrix.nnz > DENSE_FROM * matrix.shape[0] * matrix.shape[1]:
        return Dense(matrix.toarray())
    return Sparse(matrix)


def product(users: csr_matrix, items: csr_matrix) -> Sparse | Dense:
    """Scores of users who know of items, [users, items], by what each leads to, [items, items]."""
    reached = int(np.diff(items.indptr)[users.indices].sum())
    if reached > DENSE_FROM * users.shape[0] * items.shape[1]:
        return Dense(written_out(users, items))
    return Sparse(users @ items)


def written_out(users: csr_matrix, items: csr_matrix, onto: Matrix | None = None) -> Matrix:
    """[users, items] the product of two sparse float32 matrices, in full; added to `onto`, where it is given.

    By Intel's MKL, two to three times as fast as SciPy's, which collects the result as a sparse one.
    """
    import torch

    if not torch.backends.mkl.is_available():
        full = (users @ items).toarray()
        return full if onto is None else onto + full
    from assets.model.mips import in_csr

    start = np.zeros((users.shape[0], items.shape[1]), np.float32) if onto is None else onto
    one, other = (
        in_csr(
            torch.from_numpy(matrix.indptr),
            torch.from_numpy(matrix.indices),
            torch.from_numpy(matrix.data),
            matrix.shape,
        )
        for matrix in (users, items)
    )
    return torch.addmm(torch.from_numpy(start), one, other).numpy()


def rows_of(matrix: Rows, rows: Ints) -> Rows:
    """Some rows, each once and in order: where that is all of them, no copy."""
    return matrix if len(rows) == len(matrix) else matrix[rows]


def best_of(users: int, scored: Scored, first: First, others: Chosen) -> Matrix:
    """[users] the largest score of each row among the first items and some other pairs."""
    best = np.full(users, scored.nothing, np.float32)
    np.maximum.at(best, first.row, first.score)
    np.maximum.at(best, others.places[0], scored.at(others))
    return best


def _best(key: Ints, score: Matrix, kth: Matrix, k: int, width: int) -> First:
    """The k best of each row.

    Args:
        key: [pairs] row · width + item.
        score: [pairs] at least the k-th best of their row.
        kth: [rows] the k-th best of each.
    """
    tied = score == kth[key // width]
    # Of those that are tied for the last places, which may be thousands, the first by number are enough.
    equal = np.sort(key[tied])
    equal = equal[places(equal // width) < k]
    key = np.concatenate([key[~tied], equal])
    return first_of(key // width, key % width, np.concatenate([score[~tied], kth[equal // width]]), k)


def first_of(row: Ints, item: Ints, score: Matrix, k: int) -> First:
    """The k best of each row of scored pairs, which come in any order."""
    order = np.lexsort((item, -score, row))
    row, item, score = row[order], item[order], score[order]
    kept = places(row) < k
    return First(row[kept], item[kept], score[kept])
