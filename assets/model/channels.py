"""Channels: ways to score every user with every item, each cheap and each seeing something else.

A channel is fitted on the interactions as of a day and then scores blocks of users. All scores are ≥ 0, with
0 for "nothing speaks for it". A ranker fuses them (`ranker.py`); some are also the baselines that a model has
to beat, computed by the very same code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, diags, vstack

from assets.model.interactions import LEVELS, Floats, Interactions, Ints
from assets.model.rules import new_items
from assets.model.scored import Dense, Matrix, Products, Same, Scored, product, sparse, written_out

if TYPE_CHECKING:
    from assets.model.mips import InnerProducts
    from assets.model.sequence import SequenceModel

HARDLY = 3
"""Meetings (shoppers and days) below which hardly anybody has met an item."""
EASE_UP_TO = 15_000
"""Items up to which EASE is fitted: its matrix is dense (900 MB at that size), its inverse cubic."""
PAIRS = 500_000
"""Pairs of steps that are looked at together when it is counted which items are met near each other: so few
that they stay in the processor's cache.
"""
COMMON = 0.05
"""Share of the items above which a word is common: scores of common words are a product of full matrices."""


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

    def block(self, users: Ints) -> Scored:
        """What `scores` says, as shares of each user's best, to be asked for some."""
        ...


@dataclass
class Popularity:
    """Shoppers who met the item, summed over the last `days` days up to the cut (all days where None).

    Popularity of the last seven days is a real opponent under a split by time: on MovieLens-20M it beats
    most sequence models (Klenitskiy et al., eSASRec, 2025).
    """

    days: int | None = None
    _same: Same = field(default_factory=lambda: Same.of(np.zeros(0, np.float32)), repr=False)

    @property
    def name(self) -> str:
        return "popularity" if self.days is None else f"popularity_{self.days}d"

    def fit(self, data: Interactions) -> None:
        self._same = Same.of(popularity(data, self.days).astype(np.float32))

    def scores(self, users: Ints) -> Matrix:
        share = self._same.score
        return np.broadcast_to(share, (len(users), len(share)))

    def block(self, users: Ints) -> Scored:
        return self._same


@dataclass
class Segment:
    """Popularity of the last `days` days within what the user cares for: share of the item's category (or
    brand) among the user's newest items, times the item's popularity."""

    by: str = "category"
    days: int = 7
    decay: float = 0.9
    most: int = 50
    _data: Interactions | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f"popularity_{self.by}"

    def fit(self, data: Interactions) -> None:
        self._data, share = data, popularity(data, self.days).astype(np.float32)
        group = data.category_groups if self.by == "category" else data.brand_groups
        named = np.flatnonzero(group)
        shape = (len(group), int(group.max(initial=0)) + 1)
        member = csr_matrix((np.ones(len(named), np.float32), (named, group[named])), shape)
        self._member, self._popular = member, csr_matrix(diags(share) @ member).T.tocsr()
        self._popular.eliminate_zeros()

    def scores(self, users: Ints) -> Matrix:
        return written_out(self._cares_for(users), self._popular)

    def block(self, users: Ints) -> Scored:
        return product(self._cares_for(users), self._popular)

    def _cares_for(self, users: Ints) -> csr_matrix:
        return newest(_fitted(self._data), users, self.decay, self.most) @ self._member


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

    def block(self, users: Ints) -> Scored:
        return sparse(newest(_fitted(self._data), users, self.decay, self.most))


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

    def block(self, users: Ints) -> Scored:
        _fitted(self._data)
        return sparse(self._met[users])


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
        scale = (np.maximum(meetings(data), 1.0) ** -self.alpha).astype(np.float32)
        count.data *= np.repeat(scale, np.diff(count.indptr))
        count.data *= scale[count.indices]
        self._matrix, self._data = count, data

    def scores(self, users: Ints) -> Matrix:
        return written_out(self._newest(users), self._matrix)

    def block(self, users: Ints) -> Scored:
        return product(self._newest(users), self._matrix)

    def _newest(self, users: Ints) -> csr_matrix:
        return newest(_fitted(self._data), users, self.decay, self.most)

    def between(self, item: Ints, other: Ints) -> Floats:
        """Normalised C[item, other], element by element; 0 for a pair never met."""
        _fitted(self._data)
        if not len(item):
            return np.zeros(0)
        return np.asarray(self._matrix[item, other], np.float64).reshape(-1)

    def both_ways(self) -> csr_matrix:
        """[items, items], sparse: normalised C[a, b] + C[b, a], for "similar items"."""
        return csr_matrix(self._matrix + self._matrix.T)


@dataclass
class Autoencoder:
    """The weights of EASE, for all channels that ask: they are the dearest to learn, and to keep."""

    _data: Interactions | None = field(default=None, repr=False)
    _matrix: Matrix | None = field(default=None, repr=False)

    def on(self, data: Interactions) -> Matrix | None:
        """[items, items] of `data`; None where there are too many items."""
        if self._data is not data:
            self._matrix = None  # before the next one needs the room
            self._data, self._matrix = data, ease(data) if len(data.item_ids) <= EASE_UP_TO else None
        return self._matrix


@dataclass
class Ease:
    """EASE, the closed-form linear autoencoder (Steck, WWW 2019): B = I − P · diag(P)⁻¹, P = (XᵀX + λI)⁻¹.

    X is binary. λ grows with the square root of the shoppers, as the noise of XᵀX does; twice that lies in
    the flat part of the published optima (Beauty 50–200 of 22 thousand users, ML-20M 500 of 136 thousand).
    """

    variant: str = ""
    decay: float = 0.7
    most: int = 100
    weights: Autoencoder = field(default_factory=Autoencoder, repr=False)
    _data: Interactions | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return f"ease_{self.variant}" if self.variant else "ease"

    def fit(self, data: Interactions) -> None:
        self._data = data
        self.weights.on(data)

    def scores(self, users: Ints) -> Matrix:
        data = _fitted(self._data)
        matrix = self.weights.on(data)
        if matrix is None:
            return np.zeros((len(users), len(data.item_ids)), np.float32)
        scores = newest(data, users, self.decay, self.most) @ matrix
        return np.maximum(scores, 0)

    def block(self, users: Ints) -> Scored:
        data = _fitted(self._data)
        if self.weights.on(data) is None:
            return sparse(csr_matrix((len(users), len(data.item_ids)), dtype=np.float32))
        return Dense(self.scores(users))


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
    _search: InnerProducts | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return "text"

    def fit(self, data: Interactions) -> None:
        self._data, self._search = data, None

    def scores(self, users: Ints) -> Matrix:
        profile = self.profiles(users)
        cosine = profile @ _fitted(self._data).vectors.T
        near = np.exp((np.clip(cosine, -1, 1) - 1) / self.temperature)
        return np.where(profile.any(axis=1, keepdims=True), near, 0).astype(np.float32)

    def block(self, users: Ints) -> Scored:
        if self._search is None:
            self._search = searched(_fitted(self._data).vectors)
        return Products(self.profiles(users), self._search, self.temperature)

    def profiles(self, users: Ints) -> Matrix:
        """[len(users), D], rows of length 1 (or 0)."""
        data = _fitted(self._data)
        mean = newest(data, users, self.decay, self.most) @ data.vectors
        return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), np.float32(1e-9))


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
        self._search = searched(data.vectors, self._new)

    def scores(self, users: Ints) -> Matrix:
        return self.text.scores(users) * self._new

    def block(self, users: Ints) -> Scored:
        return Products(self.text.profiles(users), self._search, self.text.temperature)


@dataclass
class Foresight:
    """A sequence model on the items of a day, for all channels that ask it."""

    model: SequenceModel
    _data: Interactions | None = field(default=None, repr=False)
    _last: tuple[Interactions, bytes, Matrix] | None = field(default=None, repr=False)

    def on(self, data: Interactions) -> None:
        """Put the model on the items of `data`, unless it is."""
        if self._data is data:
            return
        self._data, self.model = data, self.model.on(data)
        self._items = self.model.vectors()
        self.vectors = self._items.float().cpu().numpy()
        self.search, self._last = searched(self.vectors), None

    def asked(self, data: Interactions, users: Ints, level: int) -> Matrix:
        """[len(users), D], whose products with the items' vectors are the logits of behaviour `level`.

        Args:
            data: whose events count: they may be later than those of the items.
            users: numbers of users. The last ones' states are kept, for the next channel will ask for them.
            level: one of `LEVELS`.
        """
        key = users.tobytes()
        if self._last is None or self._last[0] is not data or self._last[1] != key:
            self._last = data, key, self.model.states(data, users, self._items)
        return self._last[2] + self.model.asking(level)


@dataclass
class SequenceChannel:
    """What the sequence model expects next, when asked for one behaviour: e^(logit − the user's largest)."""

    name: str
    foresight: Foresight
    level: int
    """The behaviour, one of `LEVELS`."""
    _data: Interactions | None = field(default=None, repr=False)

    def fit(self, data: Interactions) -> None:
        """Nothing is learnt here, but the model is put on the items of `data`."""
        self._data = data
        self.foresight.on(data)

    def scores(self, users: Ints) -> Matrix:
        logits = self._asked(users) @ self.foresight.vectors.T
        logits -= logits.max(axis=1, keepdims=True, initial=-np.inf)
        return np.exp(logits)

    def block(self, users: Ints) -> Scored:
        return Products(self._asked(users), self.foresight.search)

    def _asked(self, users: Ints) -> Matrix:
        return self.foresight.asked(_fitted(self._data), users, self.level)


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
        stands_with = np.bincount(self._tags.indices, minlength=self._tags.shape[1])
        self._common = stands_with > COMMON * len(data.item_ids)
        self._with_common = self._tags[:, self._common].toarray().T.copy()
        self._with_rare = csr_matrix(self._tags[:, ~self._common].T)

    def scores(self, users: Ints) -> Matrix:
        profile = newest(_fitted(self._data), users, self.decay, self.most) @ self._tags
        length = np.sqrt(np.asarray(profile.multiply(profile).sum(axis=1))).reshape(-1)
        profile = csr_matrix(diags((1 / np.maximum(length, 1e-9)).astype(np.float32)) @ profile)
        scores = profile[:, self._common].toarray() @ self._with_common
        return written_out(profile[:, ~self._common], self._with_rare, onto=scores)

    def block(self, users: Ints) -> Scored:
        return Dense(self.scores(users))


def channels() -> dict[str, Channel]:
    """All channels by name, unfitted; the first of equals explains a recommendation."""
    autoencoder = Autoencoder()
    every: list[Channel] = [
        Revisit(),
        Habit(),
        CoVisitation(),
        CoVisitation("wide", backward=1.0, alpha=0.3, decay=0.9, window=30, fading=0.95),
        CoVisitation("bought", backward=0.0, alpha=0.3, decay=0.9, window=30, fading=0.95, to="purchase"),
        Ease(weights=autoencoder),
        Ease("long", decay=0.97, weights=autoencoder),
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


def searched(vectors: Matrix, among: NDArray[np.bool_] | None = None) -> InnerProducts:
    """Items' vectors made ready to be searched, all or some of them."""
    from assets.model.mips import InnerProducts

    return InnerProducts(vectors, among)


def newest(data: Interactions, users: Ints, decay: float, most: int) -> csr_matrix:
    """[len(users), items], sparse: decay^age at each user's `most` newest items."""
    row, age, position = data.histories.expand(users, most)
    weight = (decay**age).astype(np.float32)
    return csr_matrix((weight, (row, data.histories.item[position])), (len(users), len(data.item_ids)))


def co_visits(data: Interactions, window: int, fading: float, backward: float, to: int) -> csr_matrix:
    """[items, items]: Σ fading^(gap − 1) over pairs of meetings of one shopper at most `window` steps apart.

    A step is one item met; looking at, putting in the cart and buying one item in a row is one step. The gap
    is counted in moments, so that the order within one basket, which means nothing, makes no difference.
    """
    log, items = data.events, len(data.item_ids)
    order = np.lexsort((log.item, log.at, log.user))
    user, item, at, level = log.user[order], log.item[order], log.at[order], log.level[order]
    first = np.append(True, (user[1:] != user[:-1]) | (item[1:] != item[:-1]))[: len(user)]
    strongest = np.maximum.reduceat(level, np.flatnonzero(first)) if len(user) else level
    user, item, at = user[first], item[first], at[first]
    moment = np.cumsum(np.append(True, (user[1:] != user[:-1]) | (at[1:] != at[:-1]))[: len(user)])
    near = np.concatenate([np.arange(-window, 0), np.arange(1, window + 1)])
    faded = fading ** np.arange(window)
    # By how many moments later, from −window on, something else was met.
    weight = np.concatenate([faded[::-1], [1], backward * faded]).astype(np.float32)

    def met_around(steps: Ints) -> csr_matrix:
        """[steps, items] the weight with which each item leads to what was met in a step."""
        around, own = steps[:, None] + near, item[steps, None]
        other = item.take(around, mode="clip")
        pair = (user.take(around, mode="clip") == user[steps, None]) & (other != own)
        pair &= (around >= 0) & (around < len(item))
        later = moment.take(around, mode="clip") - moment[steps, None]
        weights = weight.take(later + window, mode="clip") * pair
        # Every row has as many cells; to leave some out would take longer than to add zeros to one.
        start = np.arange(len(steps) + 1) * len(near)
        return csr_matrix(
            (weights.reshape(-1), np.where(pair, other, own).reshape(-1), start), (len(steps), items)
        )

    # By the item met, so that each row of the result comes of one portion; SciPy's product adds up equal
    # pairs in a row of accumulators, where a sum of matrices would sort them.
    wanted = np.flatnonzero(strongest >= to)
    wanted = wanted[np.argsort(item[wanted], kind="stable")]
    start = np.searchsorted(item[wanted], np.arange(items + 1))
    portions = np.flatnonzero(np.diff(start[1:] * len(near) // PAIRS)) + 1
    parts = [csr_matrix((0, items), dtype=np.float32)]
    most = max(1, 2 * PAIRS // len(near))  # steps at a time: of what everybody has met there are more
    for begin, end in pairwise([0, *portions, items]):
        found = []
        for place in range(start[begin], start[end], most) or [start[begin]]:
            steps = wanted[place : min(place + most, start[end])]
            own_steps = np.clip(start[begin : end + 1] - place, 0, len(steps))
            ones = np.ones(len(steps), np.float32)
            each = csr_matrix((ones, np.arange(len(steps)), own_steps), (end - begin, len(steps)))
            found.append(each @ met_around(steps))
        parts.append(sum(found[1:], found[0]))
    total = csr_matrix(vstack(parts).T)
    total.eliminate_zeros()
    return total


def ease(data: Interactions) -> Matrix:
    """[items, items] weights of EASE, its diagonal 0."""
    log, items = data.events, len(data.item_ids)
    met = csr_matrix((np.ones(len(log.user), np.float32), (log.user, log.item)), (len(data.users), items))
    met.data[:] = 1  # binary: however often
    # In Fortran's order, in which LAPACK works in place: one such matrix may have 900 MB.
    gram = (met.T @ met).toarray(order="F")
    gram[np.diag_indices(items)] += 2 * max(len(data.known_users), 1) ** 0.5
    factor, _ = scipy.linalg.lapack.spotrf(gram, lower=1, overwrite_a=1)
    inverse, _ = scipy.linalg.lapack.spotri(factor, lower=1, overwrite_c=1)
    weights = inverse.T  # its upper half, and the other order
    weights += np.tril(inverse, -1)
    weights /= -np.diag(weights).copy()
    np.fill_diagonal(weights, 0)
    return weights


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
    matrix.eliminate_zeros()  # of words that stand with every item
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
