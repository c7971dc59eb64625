"""The simulated shoppers: what they like, how often they come, and what they remember."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from assets.logs.simulator.catalogue import DIMENSIONS, Catalogue, latent, unit
from assets.logs.simulator.clock import Floats, Ints, random

JOINS = 0.008
"""New shoppers a day as a share of the shop's first shoppers: 24 of 3,000."""
_VISITS, _VISITS_SPREAD, _MOST_VISITS = 0.36, 0.85, 3.0
"""Sessions a shopper and day: mean, sigma of the logarithm (heavy tail), and what no human exceeds."""
_WEB_ONLY, _APP_ONLY = 0.45, 0.30
"""Shares of shoppers with one channel; the rest use both."""

_MEMORY, _PANTRY = 12, 4
"""Products a shopper remembers having looked at, and consumables bought again."""


def user_id(number: int) -> str:
    """A customer number that does not give away who came first. Different numbers give different ids."""
    return f"C{1_000_000 + (number * 7_368_787 + 421_337) % 9_000_000}"


@dataclass
class Shoppers:
    """All shoppers so far, one array position a shopper."""

    first: int
    """How many there were on the first day."""
    likes: Floats
    """[shoppers, types]: how much of their shopping goes to each product type; rows sum to 1."""
    vector: Floats
    """[shoppers, DIMENSIONS]: taste in styles, brands and what no text tells."""
    tier: Floats
    """Preferred dearness, on the scale of `Catalogue.tier`."""
    visits: Floats
    """Expected sessions on an average day."""
    app_share: Floats
    """Share of sessions in the app: 0 web only, 1 app only."""
    joined: Ints
    styles: list[list[str]]
    brands: list[list[str]]
    mission: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """The product type they are after at present, −1 for none."""
    seen: Ints = field(default_factory=lambda: np.zeros((0, _MEMORY), np.int64))
    seen_day: Ints = field(default_factory=lambda: np.zeros((0, _MEMORY), np.int64))
    pull: Floats = field(default_factory=lambda: np.zeros((0, _MEMORY)))
    """How strongly each remembered product draws them back; 0 for an empty place."""
    pantry: Ints = field(default_factory=lambda: np.zeros((0, _PANTRY), np.int64))
    used_up: Ints = field(default_factory=lambda: np.zeros((0, _PANTRY), np.int64))
    """Day on which each consumable has to be bought again."""

    @classmethod
    def open(cls, catalogue: Catalogue, count: int) -> Shoppers:
        """The shoppers whom the shop has on its first day."""
        return _draw(random(catalogue.seed, 2, 0), catalogue, count, first=count, day=0)

    def __len__(self) -> int:
        return len(self.tier)

    def join(self, catalogue: Catalogue, day: int) -> None:
        """Let the new shoppers of day number `day` in."""
        rng = random(catalogue.seed, 2, day)
        more = _draw(rng, catalogue, int(rng.poisson(JOINS * self.first)), first=self.first, day=day)
        for name in ("likes", "vector", "tier", "visits", "app_share", "joined", "mission"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(more, name)]))
        for name in ("seen", "seen_day", "pull", "pantry", "used_up"):
            setattr(self, name, np.concatenate([getattr(self, name), getattr(more, name)]))
        self.styles += more.styles
        self.brands += more.brands

    def remember(self, who: Ints, items: Ints, pull: Floats, day: int) -> None:
        """They looked closely at `items`; what is known is refreshed, else the weakest memory goes."""
        known = self.seen[who] == items[:, None]
        faded = self.pull[who] * 0.8 ** (day - self.seen_day[who])
        place = np.where(known.any(axis=1), known.argmax(axis=1), faded.argmin(axis=1))
        self.pull[who, place] = np.maximum(np.where(known.any(axis=1), self.pull[who, place], 0), pull)
        self.seen[who, place] = items
        self.seen_day[who, place] = day

    def forget(self, who: Ints, items: Ints) -> None:
        """What is bought draws nobody back."""
        row, place = np.nonzero(self.seen[who] == items[:, None])
        self.pull[who[row], place] = 0

    def recall(self, rng: np.random.Generator, who: Ints, day: int) -> Ints:
        """A product they come back to, −1 for those who remember none."""
        weights = np.cumsum(self.pull[who] * 0.8 ** (day - self.seen_day[who]), axis=1)
        place = (weights <= rng.random((len(who), 1)) * weights[:, -1:]).sum(axis=1)
        found: Ints = np.where(weights[:, -1] > 0, self.seen[who, np.minimum(place, _MEMORY - 1)], -1)
        return found

    def stock_up(self, who: Ints, items: Ints, due: Ints) -> None:
        """They bought consumables that will be used up on day `due`."""
        known = self.pantry[who] == items[:, None]
        place = np.where(known.any(axis=1), known.argmax(axis=1), self.used_up[who].argmin(axis=1))
        self.pantry[who, place] = items
        self.used_up[who, place] = due

    def needs(self, who: Ints, day: int) -> Ints:
        """The consumable that ran out first by `day`, −1 for those who lack nothing."""
        due = np.where(self.pantry[who] >= 0, self.used_up[who], np.iinfo(np.int64).max)
        place = due.argmin(axis=1)
        row = np.arange(len(who))
        found: Ints = np.where(due[row, place] <= day, self.pantry[who, place], -1)
        return found


def _draw(rng: np.random.Generator, catalogue: Catalogue, count: int, *, first: int, day: int) -> Shoppers:
    seed = catalogue.seed
    departments = sorted({kind.department for kind in catalogue.types})
    department = np.array([departments.index(kind.department) for kind in catalogue.types])
    weight = np.array([catalogue.vocabulary.department_weight[name] for name in departments])
    # A few favourite departments, in them a few favourite types; what goes together is liked together.
    likes = rng.gamma(0.35 * weight, size=(count, len(departments)))[:, department]
    likes *= rng.gamma(0.22, size=(count, len(catalogue.types)))
    likes += 1e-9
    likes /= likes.sum(axis=1, keepdims=True)
    together = np.zeros((len(catalogue.types), len(catalogue.types)))
    for kind, others in enumerate(catalogue.goes_with):
        together[kind, others] = 1 / len(others)
    likes = 0.72 * likes + 0.25 * np.einsum("ut,tv->uv", likes, together) + 0.03 / len(catalogue.types)

    favourite = np.argsort(-likes, axis=1)[:, :3]
    vectors, styles, brands = np.zeros((count, DIMENSIONS)), [], []
    style_count, makers = len(catalogue.vocabulary.styles), catalogue.vocabulary.brands
    for who in range(count):
        look = rng.permutation(style_count)[:2]
        wanted = {catalogue.types[int(kind)].department for kind in favourite[who]}
        loyal = [n for n, brand in enumerate(makers) if brand.department in wanted and rng.random() < 0.2]
        taste = 1.9 * latent(seed, 1, int(look[0])) + 0.8 * latent(seed, 1, int(look[1]))
        for brand in loyal:
            taste = taste + 1.1 / np.sqrt(len(loyal)) * latent(seed, 2, brand)
        vectors[who] = taste + 0.8 * unit(rng.normal(size=DIMENSIONS))
        styles.append([catalogue.vocabulary.styles[int(n)].name for n in look])
        brands.append([makers[n].name for n in loyal])

    visits = _VISITS * np.exp(rng.normal(-(_VISITS_SPREAD**2) / 2, _VISITS_SPREAD, count))
    roll, mix = rng.random(count), rng.beta(2, 2, count)
    return Shoppers(
        first=first,
        likes=likes,
        vector=vectors,
        tier=rng.normal(0, 0.8, count),
        visits=np.minimum(visits, _MOST_VISITS),
        app_share=np.where(roll < _WEB_ONLY, 0.0, np.where(roll < _WEB_ONLY + _APP_ONLY, 1.0, mix)),
        joined=np.full(count, day),
        styles=styles,
        brands=brands,
        mission=np.full(count, -1),
        seen=np.full((count, _MEMORY), -1),
        seen_day=np.zeros((count, _MEMORY), np.int64),
        pull=np.zeros((count, _MEMORY)),
        pantry=np.full((count, _PANTRY), -1),
        used_up=np.zeros((count, _PANTRY), np.int64),
    )


def channel(rng: np.random.Generator, app_share: Floats) -> NDArray[np.bool_]:
    """True where a session takes place in the app."""
    drawn: NDArray[np.bool_] = rng.random(len(app_share)) < app_share
    return drawn
