"""A crowd in a large shop, as arrays: any number of shoppers and items, the same every time.

The simulated shop walks every visit, which takes hours for a hundred thousand items. Here only sizes and
shapes count: a few items that many meet, many that few do, shoppers with a taste, and words of which some
stand with many items.
"""

from __future__ import annotations

from datetime import date

import numpy as np

from assets.model.interactions import EPOCH, Counts, Interactions, Log

LAST, DAYS = date(2026, 1, 31), 30
EVENTS = 20
"""Events of a shopper, on average."""
TASTES = 200
"""Groups of items; every shopper has one that they like best."""
WIDTH = 384
"""Dimensions of a text vector, as of the default encoder."""


def crowd(items: int, users: int, seed: int = 0) -> Interactions:
    """What `users` shoppers did in 30 days with `items` items."""
    random = np.random.default_rng(seed)
    events, today, groups = EVENTS * users, LAST.toordinal(), min(TASTES, items)
    popular = random.permutation(items)[(random.random(events) ** 3 * items).astype(np.int64)]
    user = random.integers(0, users, events)
    own = (popular // groups * groups + random.integers(0, groups, users)[user]) % items
    day = today - random.integers(0, DAYS, events)
    seconds = (day - EPOCH) * 86400 + random.integers(0, 86400, events)
    log = Log(
        day=day,
        user=user,
        item=np.where(random.random(events) < 0.7, own, popular),
        level=random.choice(4, events, p=[0.6, 0.25, 0.08, 0.07]),
        at=seconds * 1_000_000,
    )
    vectors = random.normal(size=(groups, WIDTH))[np.arange(items) % groups] + random.normal(
        size=(items, WIDTH)
    )
    words = [f"kind {n % 1000} colour {n % 17} size {n % 9} number {n}" for n in range(items)]
    attributes = np.empty(items, object)
    attributes[:] = [[] for _ in range(items)]
    nothing = np.zeros(0, np.int64)
    return Interactions(
        as_of=LAST,
        users=_named("u", users),
        item_ids=_named("i", items),
        titles=np.asarray(words, object),
        categories=np.asarray([f"Shop > Group {n % groups}" for n in range(items)], object),
        brands=np.asarray([f"Brand {n % 997}" for n in range(items)], object),
        attributes=attributes,
        texts=np.asarray(words, object),
        price=random.lognormal(3, 1, items),
        in_stock=random.random(items) < 0.95,
        first_seen=np.full(items, today - 2 * DAYS),
        vectors=(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32),
        events=log,
        behaviors=log,
        counts=Counts(nothing, nothing, np.zeros(0)),
    ).only(np.ones(events, bool))


def _named(letter: str, many: int) -> np.ndarray:
    return np.asarray([f"{letter}{n:08d}" for n in range(many)], object)
