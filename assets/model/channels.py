"""Channels: cheap ways to score every user with every item.

A channel is fitted on the interactions as of a day and then scores blocks of users. All scores are ≥ 0, with
0 for "nothing speaks for it", so that a log-linear blend can fuse them. The channels are also the baselines
that a model has to beat, computed by the very same code.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from assets.model.interactions import Floats, Interactions, Ints

Matrix = NDArray[np.float32]
DENSE_UP_TO = 4096
"""Items up to which co-visitation is kept as a full matrix (64 MiB): a product beats a walk."""


class Channel(Protocol):
    """One way to score."""

    @property
    def name(self) -> str: ...

    def fit(self, data: Interactions) -> None:
        """Learn from everything in `data`, which ends at `data.as_of`."""
        ...

    def scores(self, users: Ints) -> Matrix:
        """[len(users), items], finite and ≥ 0; a user's scores do not depend on who else is in the block."""
        ...


@dataclass
class Popularity:
    """Shoppers who met the item, summed over the last `days` days up to the cut (all days where None).

    Popularity of the last seven days is a real opponent under a split by time: on MovieLens-20M it beats
    most sequence models (Klenitskiy et al., eSASRec, 2025).
    """

    days: int | None = None
    _share: Floats = field(default_factory=lambda: np.zeros(0), repr=False)

    @property
    def name(self) -> str:
        return "popularity" if self.days is None else f"popularity_{self.days}d"

    def fit(self, data: Interactions) -> None:
        counts = data.counts
        recent = np.ones(len(counts.day), bool)
        if self.days is not None:
            recent = counts.day > data.as_of.toordinal() - self.days
        met = np.bincount(counts.item[recent], counts.users[recent], len(data.item_ids))
        self._share = met / max(met.max(initial=0.0), 1.0)

    def scores(self, users: Ints) -> Matrix:
        return np.broadcast_to(self._share.astype(np.float32), (len(users), len(self._share)))


@dataclass
class Revisit:
    """The user's own items, newest first: decay^age with age counted in distinct items."""

    decay: float = 0.9
    most: int = 50
    _data: Interactions | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return "revisit"

    def fit(self, data: Interactions) -> None:
        self._data = data

    def scores(self, users: Ints) -> Matrix:
        return _decayed(_fitted(self._data), users, self.decay, self.most)


@dataclass
class CoVisitation:
    """Items met in the same session as the user's newest items.

    C[a, b] sums the daily pair weights (0.8^(gap−1) forward, half of it backward, made in the warehouse),
    normalised to C / (pop_a · pop_b)^alpha; the user's score is Σ_h decay^age(h) · C[h, ·] over their newest
    items h. So plain a recipe gets NDCG@10 .0498 on Amazon Beauty (leave-one-out, full ranking).
    """

    alpha: float = 0.5
    decay: float = 0.7
    most: int = 20
    _data: Interactions | None = field(default=None, repr=False)
    _start: Ints = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    _key: Ints = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    _weight: Floats = field(default_factory=lambda: np.zeros(0), repr=False)
    _dense: Matrix | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return "co_visitation"

    def fit(self, data: Interactions) -> None:
        items = len(data.item_ids)
        other_than_self = data.pairs.item != data.pairs.other
        key = (data.pairs.item * items + data.pairs.other)[other_than_self]
        self._key = np.unique(key)
        which = np.searchsorted(self._key, key)
        weight = np.bincount(which, data.pairs.weight[other_than_self], len(self._key))
        popularity = np.maximum(np.bincount(data.counts.item, data.counts.users, items), 1.0)
        a, b = self._key // max(items, 1), self._key % max(items, 1)
        self._weight = weight / (popularity[a] * popularity[b]) ** self.alpha
        self._start = np.searchsorted(a, np.arange(items + 1))
        self._dense = None
        if items <= DENSE_UP_TO:
            self._dense = np.zeros((items, items), np.float32)
            self._dense[a, b] = self._weight
        self._data = data

    def scores(self, users: Ints) -> Matrix:
        data = _fitted(self._data)
        if self._dense is not None:
            return _decayed(data, users, self.decay, self.most) @ self._dense
        items = len(data.item_ids)
        result = np.zeros((len(users), items), np.float32)
        row, age, position = data.histories.expand(users, self.most)
        seen = data.histories.item[position]
        length = self._start[seen + 1] - self._start[seen]
        # The neighbours of all histories at once can outgrow memory, so as many users at a time as fit.
        for users_in in _split_by(np.bincount(row, length, len(users)), 8_000_000):
            first, last = np.searchsorted(row, [users_in.start, users_in.stop])
            n = length[first:last]
            inner = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
            neighbor = np.repeat(self._start[seen[first:last]], n) + inner
            cell = np.repeat(row[first:last] - users_in.start, n) * items + self._key[neighbor] % items
            share = np.repeat(self.decay ** age[first:last], n) * self._weight[neighbor]
            size = (users_in.stop - users_in.start) * items
            result[users_in] = np.bincount(cell, share, size).reshape(-1, items)
        return result

    def between(self, item: Ints, other: Ints) -> Floats:
        """Normalised C[item, other], element by element; 0 for a pair never met."""
        wanted = item * len(_fitted(self._data).item_ids) + other
        place = np.minimum(np.searchsorted(self._key, wanted), max(len(self._key) - 1, 0))
        if not len(self._key):
            return np.zeros(len(wanted))
        return np.where(self._key[place] == wanted, self._weight[place], 0.0)

    def rows(self, item: Ints) -> Matrix:
        """[len(item), items]: normalised C[item, ·] + C[·, item], for "similar items"."""
        items = len(_fitted(self._data).item_ids)
        result = np.zeros((len(item), items), np.float32)
        a, b = self._key // max(items, 1), self._key % max(items, 1)
        place = np.full(items, -1)
        place[item] = np.arange(len(item))
        for here, there in ((a, b), (b, a)):
            inside = place[here] >= 0
            np.add.at(result, (place[here[inside]], there[inside]), self._weight[inside])
        return result


@dataclass
class Text:
    """Items whose words are near the user's: exp((cos(profile, item) − 1) / temperature), in (0, 1].

    The profile is the decayed mean of the vectors of the user's newest items. The only channel that can find
    an item nobody has met yet. The exponential makes a log-linear blend linear in the cosine.
    """

    decay: float = 0.8
    most: int = 20
    temperature: float = 0.1
    _data: Interactions | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return "text"

    def fit(self, data: Interactions) -> None:
        self._data = data

    def scores(self, users: Ints) -> Matrix:
        data = _fitted(self._data)
        profile = _decayed(data, users, self.decay, self.most) @ data.vectors
        length = np.linalg.norm(profile, axis=1, keepdims=True)
        cosine = (profile / np.maximum(length, 1e-9)) @ data.vectors.T
        near = np.exp((np.clip(cosine, -1, 1) - 1) / self.temperature)
        return np.where(length > 0, near, 0).astype(np.float32)


def channels() -> dict[str, Channel]:
    """All channels by name, unfitted; the first of equals explains a recommendation."""
    every: list[Channel] = [Revisit(), CoVisitation(), Text(), Popularity(days=7), Popularity()]
    return {channel.name: channel for channel in every}


def _decayed(data: Interactions, users: Ints, decay: float, most: int) -> Matrix:
    """[len(users), items]: decay^age at each user's newest items, age counted in distinct items, else 0."""
    result = np.zeros((len(users), len(data.item_ids)), np.float32)
    row, age, position = data.histories.expand(users, most)
    result[row, data.histories.item[position]] = decay**age
    return result


def _fitted(data: Interactions | None) -> Interactions:
    if data is None:
        raise RuntimeError("call fit before scores")
    return data


def _split_by(sizes: Ints, most: int) -> list[slice]:
    """Consecutive slices whose sizes sum to at most `most` (or hold one element)."""
    slices, start, total = [], 0, 0
    for place, size in enumerate(sizes):
        if place > start and total + size > most:
            slices.append(slice(start, place))
            start, total = place, 0
        total += size
    return [*slices, slice(start, len(sizes))] if len(sizes) else []
