"""What people would use instead: popularity, re-visits, and the linear models that are hard to beat.

All are computed here from the events, apart from the product's own channels, and tuned on validation. "Own
items" are a user's distinct items, newest first, weighted decay^age.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from assets.model.channels import Popularity
from assets.model.interactions import HeldOut, Interactions, Ints
from benchmarks.judge import mean_ndcg
from benchmarks.methods import CannotRunError, Log, Matrix
from benchmarks.tuning import Settings, climb

EASE_UP_TO = 30_000
"""Items: their matrix takes 3.6 GB, and its inversion grows with the third power."""
STEPS, GAP_DECAY, BACKWARD = 10, 0.8, 0.5
"""Co-visitation: how far apart two items of a sequence may be, and what distance and direction cost."""
NEWEST = 1000
"""Own items that are looked at: one robot must not outweigh a shop."""
DENSE_FROM = 0.05
"""Share of a matrix that must be filled for the full form to be faster."""


class Popular:
    """Shoppers who met the item."""

    name = "popularity"
    days: int | None = None

    def __init__(self) -> None:
        self._channel = Popularity(self.days)

    def fit(self, valid: HeldOut, seed: int, seconds: float, log: Log) -> None:
        self.refit(valid.past)

    def refit(self, past: Interactions) -> None:
        self._channel = Popularity(self.days)
        self._channel.fit(past)

    def scores(self, users: Ints) -> Matrix:
        return self._channel.scores(users)


class PopularLately(Popular):
    """Shoppers who met the item in the last seven days."""

    name = "popularity_7d"
    days = 7


class OwnHistory:
    """The user's own items: times met^power · decay^age; after them what is popular."""

    name = "revisit"

    def __init__(self) -> None:
        self.settings: Settings = {"decay": 0.9, "power": 0.0}

    def fit(self, valid: HeldOut, seed: int, seconds: float, log: Log) -> None:
        if not valid.repeats:
            raise CannotRunError("the user's own items are masked in this split, and it knows no others")
        self.refit(valid.past)
        if len(valid.users):
            grid = {"decay": [0.8, 0.9, 0.95, 0.98, 0.99, 1.0], "power": [0.0, 0.25, 0.5, 1.0]}
            self.settings, _ = climb(grid, self.settings, self._worth(valid), seconds / 2, log)

    def refit(self, past: Interactions) -> None:
        self._past = past
        popular = Popularity()
        popular.fit(past)
        self._fallback = popular.scores(np.zeros(1, np.int64))[0]  # within 0 and 1

    def scores(self, users: Ints) -> Matrix:
        histories = self._past.histories
        row, age, position = histories.expand(users, NEWEST)
        result = np.tile(self._fallback, (len(users), 1))
        met = np.log(histories.events[position])
        weight = np.exp(self.settings["power"] * met + np.log(self.settings["decay"]) * age)
        # Above every fallback, and still apart where weights fall below what a float32 resolves beside 2.
        result[row, histories.item[position]] = _in_order(row, weight)
        return result

    def _worth(self, valid: HeldOut) -> Any:
        def worth(settings: Settings) -> float:
            self.settings = settings
            return mean_ndcg(self.scores, valid)

        return worth


class _Neighbours:
    """Methods that score Σ over own items of decay^age · likeness[item, ·]."""

    name = ""
    grid: dict[str, list[Any]]
    likeness: Matrix | sparse.csr_array

    def __init__(self) -> None:
        self.settings: Settings = {}
        self.repeats = False
        self._made_for: tuple[Any, ...] | None = None

    def fit(self, valid: HeldOut, seed: int, seconds: float, log: Log) -> None:
        self.repeats = valid.repeats
        self._learn(valid.past)
        if not len(valid.users):
            return

        def worth(settings: Settings) -> float:
            self.settings = settings
            self._make()
            return mean_ndcg(self.scores, valid)

        # The rest is for learning once more, from more.
        self.settings, _ = climb(self.grid, self.settings, worth, 0.7 * seconds, log)

    def refit(self, past: Interactions) -> None:
        self._learn(past)
        self._make()

    def scores(self, users: Ints) -> Matrix:
        return _product(own_items(self._past, users, self.settings["decay"]), self.likeness)

    def _learn(self, past: Interactions) -> None:
        self._past = past
        self._made_for = None
        self._count(past)

    def _make(self) -> None:
        """Make the likeness where the settings that it depends on have changed."""
        key = tuple(value for name, value in self.settings.items() if name != "decay")
        if key != self._made_for:
            self.likeness = self._compare()
            self._made_for = key

    def _count(self, past: Interactions) -> None:
        raise NotImplementedError

    def _compare(self) -> Matrix | sparse.csr_array:
        raise NotImplementedError


class ItemKNN(_Neighbours):
    """Cosine of items over users, shrunk, the nearest k. (Deshpande and Karypis, 2004.)"""

    name = "item_knn"

    def __init__(self) -> None:
        super().__init__()
        self.settings = {"decay": 0.8, "shrink": 10, "neighbours": 100}
        self.grid = {
            "decay": [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0],
            "shrink": [0, 3, 10, 30, 100],
            "neighbours": [20, 50, 100, 200, 500, 1000, 2000],
        }

    def _count(self, past: Interactions) -> None:
        self._met = own_items(past, np.arange(len(past.users)), 1.0)

    def _compare(self) -> Matrix | sparse.csr_array:
        met, items = self._met, self._met.shape[1]
        users = np.bincount(met.indices, minlength=items).astype(np.float32)
        columns, rows = met.tocsc(), []
        step = max(1, min(items, 20_000_000 // max(items, 1)))
        for first in range(0, items, step):
            both = sparse.csr_array(columns[:, first : first + step].T @ met)
            row = np.repeat(np.arange(both.shape[0]), np.diff(both.indptr))
            other = both.indices
            both.data /= np.sqrt(users[row + first] * users[other]) + self.settings["shrink"]
            if not self.repeats:
                both.data[other == row + first] = 0
            rows.append(_nearest(both, self.settings["neighbours"]))
        return _fast(sparse.csr_array(sparse.vstack(rows, format="csr")) if rows else met.T @ met)


class CoVisited(_Neighbours):
    """Items met within ten steps: Σ 0.8^(gap − 1), backward half, over (users_a · users_b)^alpha."""

    name = "co_visitation"

    def __init__(self) -> None:
        super().__init__()
        self.settings = {"decay": 0.7, "alpha": 0.5}
        self.grid = {
            "decay": [0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0],
            "alpha": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7],
        }

    def _count(self, past: Interactions) -> None:
        user, item = sequences(past)
        items = len(past.item_ids)
        counts = sparse.csr_array((items, items), dtype=np.float32)
        for gap in range(1, STEPS + 1):
            together = user[gap:] == user[:-gap]
            a, b = item[:-gap][together], item[gap:][together]
            share = np.full(len(a), GAP_DECAY ** (gap - 1), np.float32)
            forward = sparse.coo_array((share, (a, b)), (items, items)).tocsr()
            counts = counts + forward + BACKWARD * forward.T
        self._counts = sparse.csr_array(counts, dtype=np.float32)
        if not self.repeats:
            self._counts.setdiag(0)
        self._users = np.maximum(np.bincount(past.histories.item, minlength=items), 1).astype(np.float64)

    def _compare(self) -> Matrix | sparse.csr_array:
        lessened = sparse.diags_array((self._users ** -self.settings["alpha"]).astype(np.float32))
        return _fast(sparse.csr_array(lessened @ self._counts @ lessened))


class Ease:
    """EASE: the linear item-item model without self-similarity, in closed form. (Steck, WWW 2019.)

    B = I − P · diag(P)⁻¹ with P = (XᵀX + λI)⁻¹; items nobody has met keep a score of 0.
    """

    name = "ease"

    def __init__(self) -> None:
        self.settings: Settings = {"decay": 0.9, "ridge": 100.0}
        self._solved: tuple[int, float] | None = None

    def fit(self, valid: HeldOut, seed: int, seconds: float, log: Log) -> None:
        self._learn(valid.past)
        items = len(self._items)
        if items > EASE_UP_TO:
            raise CannotRunError(f"{items:,} items; its matrix is made for up to {EASE_UP_TO:,}")
        need, free = 2.5 * 4 * items**2, _free_memory()
        if need > free:
            raise CannotRunError(
                f"{items:,} items need {need / 2**30:.1f} GB of memory; {free / 2**30:.1f} are free"
            )
        # Once to judge it and once to serve is the least.
        if 2 * (wait := _seconds_to_invert(items)) > seconds:
            raise CannotRunError(
                f"inverting {items:,} × {items:,} takes some {wait:.0f} s, and it has {seconds:.0f} s"
            )
        if not len(valid.users):
            return

        def worth(settings: Settings) -> float:
            self.settings = settings
            began = time.monotonic()
            self._solve()
            if time.monotonic() - began > 5:
                log(f"inverted {items:,} × {items:,} in {time.monotonic() - began:.0f} s")
            return mean_ndcg(self.scores, valid)

        grid = {
            "decay": [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0],
            "ridge": [10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0],
        }
        self.settings, _ = climb(grid, self.settings, worth, 0.6 * seconds, log)

    def refit(self, past: Interactions) -> None:
        self._learn(past)
        self._solve()

    def scores(self, users: Ints) -> Matrix:
        result = np.zeros((len(users), len(self._past.item_ids)), np.float32)
        own = own_items(self._past, users, self.settings["decay"])[:, self._items]
        result[:, self._items] = own @ self._weights
        return result

    def _learn(self, past: Interactions) -> None:
        self._past, self._solved = past, None
        self._items = np.unique(past.histories.item)

    def _solve(self) -> None:
        if self._solved == (key := (id(self._past), self.settings["ridge"])):
            return
        met = own_items(self._past, np.arange(len(self._past.users)), 1.0)[:, self._items]
        self._weights = np.zeros((0, 0), np.float32)  # let go of the last before the next is made
        gram = (met.T @ met).toarray().astype(np.float32, copy=False)
        gram[np.diag_indices_from(gram)] += np.float32(self.settings["ridge"])
        weights = _inverse(gram)
        weights /= -np.diag(weights).copy()
        np.fill_diagonal(weights, 0)
        self._weights, self._solved = weights, key


def own_items(past: Interactions, users: Ints, decay: float) -> sparse.csr_array:
    """[len(users), items]: decay^age at the user's newest items, age counted in distinct items."""
    row, age, position = past.histories.expand(users, NEWEST)
    weight = (decay ** age.astype(np.float64)).astype(np.float32)
    shape = (len(users), len(past.item_ids))
    return sparse.coo_array((weight, (row, past.histories.item[position])), shape).tocsr()


def sequences(past: Interactions) -> tuple[Ints, Ints]:
    """Events as (user, item), by user and time, ties by item id; an item at once again counts once."""
    log = past.events
    order = np.lexsort((log.item, log.at, log.user))
    user, item = log.user[order], log.item[order]
    changes = np.ones(len(order), bool)
    changes[1:] = (user[1:] != user[:-1]) | (item[1:] != item[:-1])
    return user[changes], item[changes]


def _in_order(row: Ints, weight: Matrix) -> Matrix:
    """For each row's entries, scores above 1 in the order of their weights; equal weights stay equal."""
    order = np.lexsort((weight, row))
    rises = np.ones(len(order), np.int64)
    rises[1:] = (row[order][1:] != row[order][:-1]) | (weight[order][1:] != weight[order][:-1])
    step = np.cumsum(rises)
    start = np.searchsorted(row[order], row[order])
    result = np.empty(len(order), np.float32)
    result[order] = 2 + step - step[start] if len(order) else 0
    return result


def _nearest(likeness: sparse.csr_array, most: int) -> sparse.csr_array:
    """The `most` largest of each row, equal ones in order of column; nothing that is 0."""
    likeness.eliminate_zeros()
    row = np.repeat(np.arange(likeness.shape[0]), np.diff(likeness.indptr))
    order = np.lexsort((likeness.indices, -likeness.data, row))
    place = np.arange(len(row)) - likeness.indptr[row]
    kept = order[place < most]
    kept_row = row[kept]
    return sparse.coo_array((likeness.data[kept], (kept_row, likeness.indices[kept])), likeness.shape).tocsr()


def _fast(likeness: sparse.csr_array) -> Matrix | sparse.csr_array:
    """In full where that is small and mostly filled."""
    cells = likeness.shape[0] * likeness.shape[1]
    full = likeness.nnz > DENSE_FROM * cells and cells <= 100_000_000
    return likeness.toarray().astype(np.float32, copy=False) if full else likeness


def _product(own: sparse.csr_array, likeness: Matrix | sparse.csr_array) -> Matrix:
    result = own @ likeness
    dense = result.toarray() if sparse.issparse(result) else result
    return np.asarray(dense, np.float32)


def _inverse(matrix: Matrix) -> Matrix:
    """Of a symmetric positive matrix, in its own place.

    Raises:
        ArithmeticError: it is not positive definite in float32.
    """
    from scipy.linalg import lapack

    # A symmetric matrix is its own transpose, and as such is laid out as LAPACK wants it: no copies.
    factor, failed = lapack.spotrf(matrix.T, lower=1, overwrite_a=1, clean=0)
    if not failed:
        factor, failed = lapack.spotri(factor, lower=1, overwrite_c=1)
    if failed:
        raise ArithmeticError(f"a {len(matrix):,} × {len(matrix):,} matrix has no Cholesky factor in float32")
    return _mirrored(factor.T)


def _seconds_to_invert(size: int, tried: int = 1500) -> float:
    """About how long this machine needs, from a small matrix: the work grows with the third power."""
    if size <= 2 * tried:
        return 0.0
    began = time.monotonic()
    _inverse(np.eye(tried, dtype=np.float32))
    return (time.monotonic() - began) * (size / tried) ** 3


def _mirrored(matrix: Matrix, block: int = 1024) -> Matrix:
    """The upper triangle copied to the lower one, in place."""
    size = len(matrix)
    for first in range(0, size, block):
        here = slice(first, min(first + block, size))
        square = matrix[here, here]
        matrix[here, here] = np.triu(square) + np.triu(square, 1).T
        matrix[here.stop :, here] = matrix[here, here.stop :].T
    return matrix


def _free_memory() -> float:
    """Bytes that are free or can be freed; infinite where the system doesn't tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return float("inf")
    told = dict(line.split(":", 1) for line in lines)
    return 1024 * float(told["MemAvailable"].split()[0]) if "MemAvailable" in told else float("inf")
