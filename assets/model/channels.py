"""Channels: ways to score every user with every item, each cheap and each seeing something else.

A channel is fitted on the interactions as of a day and then scores blocks of users. All scores are ≥ 0, with
0 for "nothing speaks for it". A ranker fuses them (`ranker.py`); some are also the baselines that a model has
to beat, computed by the very same code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags

from assets.model.interactions import LEVELS, Floats, Interactions, Ints
from assets.model.rules import new_items

if TYPE_CHECKING:
    from assets.model.sequence import SequenceModel

Matrix = NDArray[np.float32]
HARDLY = 3
"""Meetings (shoppers and days) below which hardly anybody has met an item."""
EASE_UP_TO = 15_000
"""Items up to which EASE is fitted: its matrix is dense (900 MB at that size), its inverse cubic."""


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
    _share: Matrix = field(default_factory=lambda: np.zeros(0, np.float32), repr=False)

    @property
    def name(self) -> str:
        return "popularity" if self.days is None else f"popularity_{self.days}d"

    def fit(self, data: Interactions) -> None:
        self._share = popularity(data, self.days).astype(np.float32)

    def scores(self, users: Ints) -> Matrix:
        return np.broadcast_to(self._share, (len(users), len(self._share)))


@dataclass
class Segment:
    """Popularity of the last `days` days within what the user cares for: share of the item's category (or
    brand) among the user's newest items, times the item's popularity."""

    by: str = "category"
    days: int = 7
    decay: float = 0.9
    most: int = 50
    _data: Interactions | None = field(default=None, repr=False)
    _share: Matrix = field(default_factory=lambda: np.zeros(0, np.float32), repr=False)

    @property
    def name(self) -> str:
        return f"popularity_{self.by}"

    def fit(self, data: Interactions) -> None:
        self._data, self._share = data, popularity(data, self.days).astype(np.float32)

    def scores(self, users: Ints) -> Matrix:
        data = _fitted(self._data)
        group = data.categories if self.by == "category" else data.brands
        groups, of = np.unique(group.astype(str), return_inverse=True)
        named = (group != "").astype(np.float32)
        member = csr_matrix((named, (np.arange(len(of)), of)), (len(of), max(len(groups), 1)))
        cared = (newest(data, users, self.decay, self.most) @ member).toarray()
        return np.asarray(cared[:, of] * (self._share * named), np.float32)


@dataclass
class Revisit:
    """The user's own items, newest first: decay^age with age counted in moments."""

    decay: float = 0.9
    most: int = 100
    _data: Interactions | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return "revisit"

    def fit(self, data: Interactions) -> None:
        self._data = data

    def scores(self, users: Ints) -> Matrix:
        return newest(_fitted(self._data), users, self.decay, self.most).toarray()


@dataclass
class Habit:
    """What the user comes back to: the days on which they met the item, halved every `half_life` days."""

    half_life: float = 60.0
    _data: Interactions | None = field(default=None, repr=False)
    _met: csr_matrix = field(default_factory=lambda: csr_matrix((0, 0)), repr=False)

    @property
    def name(self) -> str:
        return "habit"

    def fit(self, data: Interactions) -> None:
        log = data.behaviors
        weight = 0.5 ** ((data.as_of.toordinal() - log.day) / self.half_life)
        shape = (len(data.users), len(data.item_ids))
        self._met = csr_matrix((weight.astype(np.float32), (log.user, log.item)), shape)
        self._data = data

    def scores(self, users: Ints) -> Matrix:
        _fitted(self._data)
        return self._met[users].toarray()


@dataclass
class CoVisitation:
    """Items met near the user's newest items, by the same shoppers.

    C[a, b] sums 0.8^(gap−1) over all shoppers who met b some `gap` ≤ `window` moments after a (`backward`
    times that for b before a), normalised to C / (pop_a · pop_b)^alpha; the user's score is
    Σ_h decay^age(h) · C[h, ·] over their newest items h. So plain a recipe beats most published neural models
    on Amazon Beauty. With `to`, only meetings of at least that behaviour are looked forward to.
    """

    variant: str = ""
    backward: float = 0.5
    alpha: float = 0.5
    decay: float = 0.7
    window: int = 10
    fading: float = 0.8
    to: str = "browse"
    most: int = 50
    _data: Interactions | None = field(default=None, repr=False)
    _matrix: csr_matrix = field(default_factory=lambda: csr_matrix((0, 0)), repr=False)

    @property
    def name(self) -> str:
        return f"co_visitation_{self.variant}" if self.variant else "co_visitation"

    def fit(self, data: Interactions) -> None:
        count = co_visits(data, self.window, self.fading, self.backward, LEVELS[self.to])
        popular = np.maximum(meetings(data), 1.0)
        scale = diags((popular**-self.alpha).astype(np.float32))
        self._matrix = csr_matrix(scale @ count @ scale)
        self._matrix.sort_indices()
        self._data = data

    def scores(self, users: Ints) -> Matrix:
        data = _fitted(self._data)
        return (newest(data, users, self.decay, self.most) @ self._matrix).toarray()

    def between(self, item: Ints, other: Ints) -> Floats:
        """Normalised C[item, other], element by element; 0 for a pair never met."""
        _fitted(self._data)
        if not len(item):
            return np.zeros(0)
        return np.asarray(self._matrix[item, other], np.float64).reshape(-1)

    def rows(self, item: Ints) -> Matrix:
        """[len(item), items]: normalised C[item, ·] + C[·, item], for "similar items"."""
        return (self._matrix[item] + self._matrix.T.tocsr()[item]).toarray()


@dataclass
class Ease:
    """EASE, the closed-form linear autoencoder (Steck, WWW 2019): B = I − P · diag(P)⁻¹, P = (XᵀX + λI)⁻¹.

    X is binary. λ grows with the square root of the shoppers, as the noise of XᵀX does; twice that lies in
    the flat part of the published optima (Beauty 50–200 of 22 thousand users, ML-20M 500 of 136 thousand).
    """

    variant: str = ""
    decay: float = 0.7
    most: int = 100
    _data: Interactions | None = field(default=None, repr=False)
    _matrix: Matrix | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f"ease_{self.variant}" if self.variant else "ease"

    def fit(self, data: Interactions) -> None:
        self._data = data
        self._matrix = None
        if len(data.item_ids) <= EASE_UP_TO:
            self._matrix = ease(data)

    def scores(self, users: Ints) -> Matrix:
        data = _fitted(self._data)
        if self._matrix is None:
            return np.zeros((len(users), len(data.item_ids)), np.float32)
        scores = newest(data, users, self.decay, self.most) @ self._matrix
        return np.maximum(scores, 0)


@dataclass
class Text:
    """Items whose words are near the user's: exp((cos(profile, item) − 1) / temperature), in (0, 1].

    The profile is the decayed mean of the vectors of the user's newest items. It can find an item nobody has
    met yet. The exponential makes a log-linear blend linear in the cosine.
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
        return near(newest(data, users, self.decay, self.most) @ data.vectors, data.vectors, self.temperature)


@dataclass
class Novelty:
    """Items that hardly anybody has met yet, the new ones among them, whose words are near the user's.

    Other channels have nothing to say for them, and among all items their words alone get them nowhere.
    """

    text: Text = field(default_factory=Text)
    _new: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool), repr=False)

    @property
    def name(self) -> str:
        return "novelty"

    def fit(self, data: Interactions) -> None:
        self.text.fit(data)
        self._new = data.known_items & ((meetings(data) < HARDLY) | new_items(data))

    def scores(self, users: Ints) -> Matrix:
        return self.text.scores(users) * self._new


@dataclass
class SequenceChannel:
    """What the sequence model expects next, when asked for one behaviour: e^(logit − the user's largest)."""

    name: str
    model: SequenceModel
    level: int
    """The behaviour, one of `LEVELS`."""
    _data: Interactions | None = field(default=None, repr=False)

    def fit(self, data: Interactions) -> None:
        """Nothing is learnt here, but the model is put on the items of `data`."""
        self._data, self.model = data, self.model.on(data)
        self._vectors, self._ask = self.model.vectors(self.level)

    def scores(self, users: Ints) -> Matrix:
        states = self.model.states(_fitted(self._data), users)
        logits = (states + self._ask) @ self._vectors.T
        logits -= logits.max(axis=1, keepdims=True, initial=-np.inf)
        return np.exp(logits)


@dataclass
class Attributes:
    """Items that share rare words with the user's: TF-IDF over title words, category, brand and attributes.

    The same form as `Text`, on the words themselves: it needs no encoder, and knows a product line by name.
    """

    decay: float = 0.8
    most: int = 20
    _data: Interactions | None = field(default=None, repr=False)
    _tags: csr_matrix = field(default_factory=lambda: csr_matrix((0, 0)), repr=False)

    @property
    def name(self) -> str:
        return "attributes"

    def fit(self, data: Interactions) -> None:
        self._data, self._tags = data, tags(data)

    def scores(self, users: Ints) -> Matrix:
        data = _fitted(self._data)
        profile = csr_matrix(newest(data, users, self.decay, self.most) @ self._tags)
        length = np.sqrt(np.asarray(profile.multiply(profile).sum(axis=1)))
        return ((profile @ self._tags.T).toarray() / np.maximum(length, 1e-9)).astype(np.float32)


def channels() -> dict[str, Channel]:
    """All channels by name, unfitted; the first of equals explains a recommendation."""
    every: list[Channel] = [
        Revisit(),
        Habit(),
        CoVisitation(),
        CoVisitation("wide", backward=1.0, alpha=0.3, decay=0.9, window=30, fading=0.95),
        CoVisitation("bought", backward=0.0, alpha=0.3, decay=0.9, window=30, fading=0.95, to="purchase"),
        Ease(),
        Ease("long", decay=0.97),
        Text(),
        Novelty(),
        Attributes(),
        Segment("category"),
        Segment("brand"),
        Popularity(days=7),
        Popularity(),
    ]
    return {channel.name: channel for channel in every}


def popularity(data: Interactions, days: int | None) -> Floats:
    """[items] shoppers (a day) who met each item in the last `days` days, as a share of the largest."""
    met = meetings(data, days)
    return met / max(met.max(initial=0.0), 1.0)


def meetings(data: Interactions, days: int | None = None) -> Floats:
    """[items] shoppers (a day) who met each item, in the last `days` days or (None) ever."""
    counts = data.counts
    recent = np.ones(len(counts.day), bool)
    if days is not None:
        recent = counts.day > data.as_of.toordinal() - days
    return np.bincount(counts.item[recent], counts.users[recent], len(data.item_ids)).astype(np.float64)


def newest(data: Interactions, users: Ints, decay: float, most: int) -> csr_matrix:
    """[len(users), items], sparse: decay^age at each user's `most` newest items."""
    row, age, position = data.histories.expand(users, most)
    weight = (decay**age).astype(np.float32)
    return csr_matrix((weight, (row, data.histories.item[position])), (len(users), len(data.item_ids)))


def near(profile: Matrix, vectors: Matrix, temperature: float) -> Matrix:
    """exp((cos − 1) / temperature) between profiles and vectors; 0 for an empty profile."""
    length = np.linalg.norm(profile, axis=1, keepdims=True)
    cosine = (profile / np.maximum(length, 1e-9)) @ vectors.T
    return np.where(length > 0, np.exp((np.clip(cosine, -1, 1) - 1) / temperature), 0).astype(np.float32)


def co_visits(data: Interactions, window: int, fading: float, backward: float, to: int) -> csr_matrix:
    """[items, items]: Σ fading^(gap − 1) over pairs of meetings of one shopper at most `window` steps apart.

    A step is one item met; looking at, putting in the cart and buying one item in a row is one step. The gap
    is counted in moments, so that the order within one basket, which means nothing, makes no difference.
    One shifted comparison per step instead of a join: the work grows with the events.
    """
    log, items = data.events, len(data.item_ids)
    order = np.lexsort((log.item, log.at, log.user))
    user, item, at, level = log.user[order], log.item[order], log.at[order], log.level[order]
    first = (
        np.append(True, (user[1:] != user[:-1]) | (item[1:] != item[:-1])) if len(user) else np.zeros(0, bool)
    )
    run = np.cumsum(first) - 1
    strongest = np.zeros(int(first.sum()), np.int64)
    np.maximum.at(strongest, run, level)
    user, item, at = user[first], item[first], at[first]
    moment = np.cumsum(np.append(True, (user[1:] != user[:-1]) | (at[1:] != at[:-1]))) if len(user) else at
    total = csr_matrix((items, items), dtype=np.float32)
    for step in range(1, window + 1):
        same = (user[step:] == user[:-step]) & (item[step:] != item[:-step])
        a, b = item[:-step][same], item[step:][same]
        gap = (moment[step:] - moment[:-step])[same]
        weight = fading ** np.maximum(gap - 1, 0)
        back = np.where(gap == 0, 1.0, backward) * weight
        ahead, behind = strongest[step:][same] >= to, strongest[:-step][same] >= to
        both = np.concatenate([weight * ahead, back * behind]).astype(np.float32)
        pairs = (np.concatenate([a, b]), np.concatenate([b, a]))
        total = total + csr_matrix((both, pairs), (items, items))
    total.eliminate_zeros()
    return csr_matrix(total)


def ease(data: Interactions) -> Matrix:
    """[items, items] weights of EASE, its diagonal 0."""
    log, items = data.events, len(data.item_ids)
    met = csr_matrix((np.ones(len(log.user), np.float32), (log.user, log.item)), (len(data.users), items))
    met.data[:] = 1  # binary: however often
    gram = (met.T @ met).toarray().astype(np.float32)
    gram[np.diag_indices(items)] += 2 * max(len(data.known_users), 1) ** 0.5
    factor, _ = scipy.linalg.lapack.spotrf(gram, lower=1, overwrite_a=1)
    inverse, _ = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    return np.ascontiguousarray(weights, np.float32)


def tags(data: Interactions) -> csr_matrix:
    """[items, words] TF-IDF of what is said of each item, rows of length 1 (0 where nothing is).

    A word is as rare as it is among the items known by then: those of tomorrow make no difference.
    """
    said = [
        _said(*row) for row in zip(data.categories, data.brands, data.attributes, data.titles, strict=True)
    ]
    number: dict[str, int] = {}
    column = [number.setdefault(word, len(number)) for words in said for word in words]
    row = np.repeat(np.arange(len(said)), [len(words) for words in said])
    shape = (len(said), max(len(number), 1))
    matrix = csr_matrix((np.ones(len(column), np.float32), (row, column)), shape)
    matrix.data[:] = 1
    known = data.known_items
    seen = np.bincount(matrix[known].indices, minlength=shape[1])
    matrix.data = np.log(max(known.sum(), 1) / np.maximum(seen, 1)).astype(np.float32)[matrix.indices]
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1))).reshape(-1)
    return csr_matrix(diags(1 / np.maximum(length, 1e-9)) @ matrix).astype(np.float32)


def _said(category: str, brand: str, attributes: list[str], title: str) -> list[str]:
    """Words, each marked with where it stands: a brand's name in a title is another word than the brand."""
    levels = [
        f"category {level.strip().lower()}" for level in re.split(r"[>|/;,]", category) if level.strip()
    ]
    named = [f"brand {brand.lower()}"] if brand else []
    listed = [f"attribute {attribute.lower()}" for attribute in attributes]
    return levels + named + listed + [word.lower() for word in re.findall(r"\w+", title)]


def _fitted(data: Interactions | None) -> Interactions:
    if data is None:
        raise RuntimeError("call fit before scores")
    return data
