"""Tiny worlds with known answers, as the tables of a snapshot."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import cache

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

from assets.model.interactions import HeldOut, Interactions, dev_day, hold_out
from assets.model.recommender import Fitted, Recommender, fit_recommender

FIRST = date(2026, 1, 5)
LEVELS = ["browse", "click", "cart", "purchase"]
VALUES = {"browse": 0.05, "click": 0.2, "purchase": 1.0}


@dataclass(frozen=True)
class Event:
    day: int
    user: str
    item: str
    behavior: str = "browse"
    minute: int = 0


@dataclass
class World:
    """Events, and what a warehouse would make of them; computed here in plain Python, apart from the SQL."""

    events: list[Event]
    items: Sequence[str]
    days: int
    vectors: np.ndarray
    prices: dict[str, float] = field(default_factory=dict)
    out_of_stock: frozenset[str] = frozenset()
    first_seen: dict[str, int] = field(default_factory=dict)
    """Day on which catalogue or shoppers first knew an item; the first where absent."""
    id: str = "tiny"

    @property
    def cut_off(self) -> date:
        return FIRST + timedelta(days=self.days - 1)

    def day(self, number: int) -> date:
        return FIRST + timedelta(days=number)

    def table(self, name: str) -> pa.Table:
        return getattr(self, f"_{name}")()

    @property
    def data(self) -> Interactions:
        return Interactions.of(self, self.vectors, self.items)

    @property
    def held(self) -> HeldOut:
        """What a night's recommender learns from."""
        return hold_out(self.data, dev_day(self.data))

    def _events(self) -> pa.Table:
        rows = self.events
        at = [
            datetime.combine(self.day(e.day), datetime.min.time()) + timedelta(minutes=e.minute) for e in rows
        ]
        return pa.table(
            {
                "day": pa.array([self.day(e.day) for e in rows], pa.date32()),
                "event_at": pa.array(at, pa.timestamp("us")),
                "user_key": pa.array([e.user for e in rows], pa.string()),
                "item_id": pa.array([e.item for e in rows], pa.string()),
                "behavior": pa.array([e.behavior for e in rows], pa.string()),
                "weight": pa.array([1.0] * len(rows), pa.float64()),
                "price": pa.array([self.prices.get(e.item) for e in rows], pa.float64()),
                "event_id": pa.array([f"e{n}" for n in range(len(rows))], pa.string()),
                "session_id": pa.array([f"{e.user}/{e.day}" for e in rows], pa.string()),
                "load_id": pa.array([f"load{e.day}" for e in rows], pa.string()),
                "line": pa.array([n + 2 for n in range(len(rows))], pa.int64()),
            }
        )

    def _behaviors(self) -> pa.Table:
        groups: dict[tuple[int, str, str], list[str]] = defaultdict(list)
        for e in self.events:
            groups[e.day, e.user, e.item].append(e.behavior)
        rows = []
        for (day, user, item), what in sorted(groups.items()):
            count = Counter(what)
            rows.append(
                {
                    "day": self.day(day),
                    "user_key": user,
                    "item_id": item,
                    "behavior": max(what, key=LEVELS.index),
                    "weight": float(len(what)),
                    "browses": count["browse"],
                    "clicks": count["click"],
                    "carts": count["cart"],
                    "purchases": count["purchase"],
                    "revenue": count["purchase"] * self.prices.get(item, 0.0),
                }
            )
        names = ["user_key", "item_id", "behavior"]
        schema = pa.schema(
            [("day", pa.date32()), *((n, pa.string()) for n in names), ("weight", pa.float64())]
            + [(n, pa.int32()) for n in ("browses", "clicks", "carts", "purchases")]
            + [("revenue", pa.float64())]
        )
        return pa.Table.from_pylist(rows, schema)

    def _items(self) -> pa.Table:
        n = len(self.items)
        return pa.table(
            {
                "item_id": pa.array(self.items, pa.string()),
                "title": pa.array([f"Thing {i}" for i in self.items], pa.string()),
                "description": pa.array([""] * n, pa.string()),
                "category": pa.array(["Things"] * n, pa.string()),
                "brand": pa.array(["Brand"] * n, pa.string()),
                "price": pa.array([self.prices.get(i) for i in self.items], pa.float64()),
                "in_stock": pa.array([i not in self.out_of_stock for i in self.items], pa.bool_()),
                "first_seen_day": pa.array(
                    [self.day(self.first_seen.get(i, 0)) for i in self.items], pa.date32()
                ),
                "text": pa.array([f"Thing {i}." for i in self.items], pa.string()),
            }
        )

    def _popularity(self) -> pa.Table:
        users: dict[tuple[int, str], set[str]] = defaultdict(set)
        for e in self.events:
            users[e.day, e.item].add(e.user)
        keys = sorted(users)
        return pa.table(
            {
                "day": pa.array([self.day(d) for d, _ in keys], pa.date32()),
                "item_id": pa.array([i for _, i in keys], pa.string()),
                "events": pa.array([len(users[k]) for k in keys], pa.int64()),
                "users": pa.array([len(users[k]) for k in keys], pa.int64()),
                **{name: pa.array([0] * len(keys), pa.int64()) for name in ("browses", "clicks", "carts")},
                "purchases": pa.array([0] * len(keys), pa.int64()),
                "weight": pa.array([0.0] * len(keys), pa.float64()),
            }
        )


def fit(world: World, data: Interactions | None = None) -> Recommender:
    """The recommender of the world's last night, on all it knows by then (or on other data)."""
    return Recommender(fit_recommender(world.held, VALUES), data or world.data)


@cache
def tastes() -> Recommender:
    """The recommender of `clusters()`, with trees, fitted once for all who look at it."""
    return fit(clusters())


def weighed(made: Recommender, **weights: float) -> Recommender:
    """The same recommender, but what ranks is a blend of these channels and nothing else."""
    names = made.features.names
    blend = [weights.get(name.removeprefix("log "), 0.0) for name in names]
    rankers = {behavior: {"names": names, "weights": blend} for behavior in made.params["rankers"]}
    return replace(made, fitted=Fitted({**made.params, "rankers": rankers, "new_near": None}, {}))


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def checkerboard(size: int = 12, days: int = 6) -> World:
    """User u meets the items of u's own colour (u + i even), all but item u; on the last two days item u.

    Whoever has understood the board puts the held-out diagonal first among what the user has not met.
    """
    users, items = [f"u{n:02d}" for n in range(size)], [f"i{n:02d}" for n in range(size)]
    events = []
    for u, user in enumerate(users):
        own = [items[i] for i in range(size) if (u + i) % 2 == 0 and i != u]
        for day in range(days - 2):
            turn = own[day % len(own) :] + own[: day % len(own)]
            events += [Event(day, user, item, minute=n) for n, item in enumerate(turn)]
        events += [Event(day, user, items[u]) for day in (days - 2, days - 1)]
    color = np.array([[1.0, 0.0] if i % 2 == 0 else [0.0, 1.0] for i in range(size)])
    return World(events, items, days, unit(color))


def clusters(
    seed: int = 0, tastes: int = 4, per_taste: int = 30, shoppers: int = 120, days: int = 8
) -> World:
    """Shoppers who like one of four kinds. Of each kind, some items are sold on the last day but one only,
    some on the last day only: nobody has met them before, so only their words can lead to them.
    """
    random = np.random.default_rng(seed)
    items = [f"i{n:03d}" for n in range(tastes * per_taste)]
    kind = np.arange(len(items)) % tastes
    sold_on = np.select(
        [np.arange(len(items)) % 5 == 0, np.arange(len(items)) % 5 == 1], [days - 2, days - 1], 0
    )
    events = []
    for u in range(shoppers):
        for day in range(days):
            own = np.flatnonzero((kind == u % tastes) & (sold_on == (day if day >= days - 2 else 0)))
            for n, item in enumerate(random.choice(own, 3, replace=False)):
                behavior = LEVELS[int(random.choice(4, p=[0.6, 0.25, 0.05, 0.1]))]
                events.append(Event(day, f"u{u:03d}", items[item], behavior, minute=n))
    centers = np.eye(tastes, 16)[kind]
    vectors = unit(centers + 0.1 * random.normal(size=(len(items), 16)))
    return World(events, items, days, vectors, prices={item: 1.0 + n for n, item in enumerate(items)})


def births(seed: int = 0, tastes: int = 6, shoppers: int = 150, days: int = 10) -> World:
    """A shop without a catalogue: every day brings new items, and shoppers fall for those of their taste.

    An item is known from the day on which it was first met. What is new on a day is met more than anything
    else on it, so whoever may rank the items of tomorrow wins by their words alone.
    """
    random = np.random.default_rng(seed)
    born = np.repeat(np.arange(days), [120, *[24] * (days - 1)])
    kind = np.arange(len(born)) % tastes
    items = [f"i{n:03d}" for n in range(len(born))]
    events = []
    for u, day in np.ndindex(shoppers, days):
        own = np.flatnonzero((kind == u % tastes) & (born <= day))
        draw = np.where(born[own] == day, 12.0, 1.0)
        if random.random() < 0.7:
            chosen = random.choice(own, 3, replace=False, p=draw / draw.sum())
            events += [Event(day, f"u{u:03d}", items[i], minute=n) for n, i in enumerate(chosen)]
    first: dict[str, int] = {}
    for e in events:
        first[e.item] = min(e.day, first.get(e.item, e.day))
    met = [n for n, item in enumerate(items) if item in first]
    vectors = unit(np.eye(tastes, 16)[kind] + 0.3 * random.normal(size=(len(items), 16)))
    return World(events, [items[n] for n in met], days, vectors[met], first_seen=first)


def without(world: World, items: Iterable[str]) -> World:
    """The same world, in which nobody ever hears of `items`."""
    gone = set(items)
    stay = [n for n, item in enumerate(world.items) if item not in gone]
    return replace(
        world,
        events=[e for e in world.events if e.item not in gone],
        items=[world.items[n] for n in stay],
        vectors=world.vectors[stay],
    )


def random_world(
    seed: int,
    shoppers: int = 15,
    things: int = 25,
    days: int = 6,
    events: int = 300,
    extra: Iterable[Event] = (),
) -> World:
    """No pattern at all."""
    random = np.random.default_rng(seed)
    items = [f"i{n:02d}" for n in random.permutation(things)]
    met = [
        Event(
            int(random.integers(days)),
            f"u{random.integers(shoppers):02d}",
            items[int(random.integers(things))],
            LEVELS[int(random.choice(4, p=[0.6, 0.2, 0.1, 0.1]))],
            minute=int(random.integers(1440)),
        )
        for _ in range(events)
    ]
    return World([*met, *extra], items, days, unit(random.normal(size=(things, 8))))


@st.composite
def little_worlds(draw: st.DrawFn) -> World:
    """Few shoppers, items and times, so that repeats and baskets are common; some items come later."""
    event = st.builds(
        Event,
        day=st.integers(0, 3),
        user=st.sampled_from(["u0", "u1", "u2"]),
        item=st.sampled_from(["i0", "i1", "i2", "i3", "i4"]),
        behavior=st.sampled_from(LEVELS),
        minute=st.integers(0, 2),
    )
    events = draw(st.lists(event, max_size=25))
    seen = {item: min((e.day for e in events if e.item == item), default=0) for item in ("i0", "i1", "i2")}
    return World(events, [f"i{n}" for n in range(5)], 4, np.eye(5, dtype=np.float32), first_seen=seen)
