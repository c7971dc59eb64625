"""The sentence below a recommendation: true, and about the shopper."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from assets.model.interactions import Floats, Interactions, Ints
from assets.model.reasons import OFFERED, POPULAR, POPULAR_EVER, reasons
from assets.model.rules import FEW, NEW_DAYS
from tests.model.worlds import Event, World

ITEMS = ["lamp", "bulb", "desk", "chair", "rug", "vase"]
CATEGORIES = ["Light", "Light", "Office", "Office", "", "Decor"]
LAST = 2 * NEW_DAYS
"""The last day of a shop that has been watched long enough to know what is new."""


@dataclass
class Net:
    """A channel that knows which items were met together."""

    name: str
    links: dict[tuple[str, str], float] = field(default_factory=dict)

    def between(self, item: Ints, other: Ints) -> Floats:
        ids = sorted(ITEMS)
        return np.array([self.links.get((ids[a], ids[b]), 0.0) for a, b in zip(item, other, strict=True)])


class Deaf:
    """A channel that cannot say what connects two items."""


def shop(*events: Event, vectors: dict[str, list[float]] | None = None, **first_seen: int) -> Interactions:
    """`ann` is the first shopper; items have nothing in common in words where no vectors are given."""
    given = np.array([(vectors or {}).get(item, np.eye(6)[n]) for n, item in enumerate(ITEMS)], np.float32)
    world = World([*events, Event(0, "zoe", "vase")], ITEMS, LAST + 1, given, first_seen=first_seen)
    data = Interactions.of(world, world.vectors, world.items)
    category = dict(zip(ITEMS, CATEGORIES, strict=True))
    return replace(data, categories=np.asarray([category[item] for item in data.item_ids], object))


def told(data: Interactions, item: str, channel: str, *fitted: Net, user: int = 0) -> tuple[str, str | None]:
    """What is said of an item that `channel` alone lifts."""
    number = np.flatnonzero(data.item_ids == item)
    lifts = {channel: np.array([1.0]), "another": np.array([0.5])}
    channels = {"another": Deaf(), **{net.name: net for net in fitted}}
    sentence, because = reasons(data, channels, lifts, np.array([user]), number)
    return sentence[0], because[0]


@pytest.mark.parametrize(
    ("behavior", "words"),
    [
        ("browse", "Because you viewed"),
        ("click", "Because you viewed"),
        ("cart", "Because you put in your cart"),
        ("purchase", "Because you bought"),
    ],
)
def test_what_others_met_together_is_said_by_the_behaviour_of_the_shopper(behavior, words):
    data = shop(Event(LAST, "ann", "lamp", behavior), Event(LAST, "ann", "desk", minute=5))
    net = Net("co_visitation", {("lamp", "bulb"): 1.0})
    assert told(data, "bulb", "co_visitation", net) == (f"{words} Thing lamp", "lamp")


def test_the_nearest_of_the_shoppers_items_speaks_and_a_newer_one_a_little_louder():
    data = shop(Event(LAST, "ann", "lamp"), Event(LAST, "ann", "desk", minute=5))
    net = Net("co_visitation", {("lamp", "bulb"): 1.0, ("desk", "bulb"): 0.9})
    assert told(data, "bulb", "co_visitation", net)[1] == "desk"
    net.links["desk", "bulb"] = 0.1
    assert told(data, "bulb", "co_visitation", net)[1] == "lamp"


@pytest.mark.parametrize("channel", ["ease", "sequence", "habit", "never heard of"])
def test_a_channel_that_cannot_say_why_borrows_the_eyes_of_one_that_can(channel):
    data = shop(Event(LAST, "ann", "lamp"))
    first, second = Net("co_visitation", {("lamp", "bulb"): 1.0}), Net("co_visitation_wide")
    assert told(data, "bulb", channel, first, second) == ("Because you viewed Thing lamp", "lamp")
    assert told(data, "chair", channel, first, second) == (OFFERED, None)


def test_every_channel_that_connects_is_asked_itself_first():
    data = shop(Event(LAST, "ann", "lamp"), Event(LAST, "ann", "desk", minute=5))
    first, wide = (
        Net("co_visitation", {("lamp", "bulb"): 1.0}),
        Net("co_visitation_wide", {("desk", "bulb"): 1}),
    )
    assert told(data, "bulb", "co_visitation_wide", first, wide)[1] == "desk"
    wide.links.clear()
    assert told(data, "bulb", "co_visitation_wide", first, wide)[1] == "lamp"


@pytest.mark.parametrize("channel", ["text", "attributes", "ease"])
def test_likeness_in_words_is_said_where_it_is_uncommon(channel):
    data = shop(Event(LAST, "ann", "lamp"), vectors={"bulb": [0.8, 0.6, 0, 0, 0, 0]})
    assert told(data, "bulb", channel) == ("Similar to Thing lamp", "lamp")
    assert told(data, "chair", channel) == (OFFERED, None)


def test_in_a_shop_where_everything_is_alike_little_likeness_is_nothing():
    base = np.eye(6) * 0.5 + 0.8
    vectors = dict(zip(ITEMS, (base / np.linalg.norm(base, axis=1, keepdims=True)).tolist(), strict=True))
    vectors["desk"] = [-v for v in vectors["rug"]]
    data = shop(Event(LAST, "ann", "lamp"), vectors=vectors)
    assert told(data, "bulb", "text")[0].startswith("Similar to")
    assert told(data, "desk", "text") == (OFFERED, None)


def test_popular_in_a_category_that_the_shopper_knows():
    crowd = [Event(LAST, f"u{n}", "bulb") for n in range(3)] + [
        Event(LAST, f"u{n}", "chair") for n in range(3)
    ]
    data = shop(Event(LAST - 1, "ann", "lamp"), *crowd)
    assert told(data, "bulb", "popularity_7d") == ("Popular in Light", None)
    assert told(data, "bulb", "popularity") == ("Popular in Light", None)
    assert told(data, "bulb", "ease") == ("Popular in Light", None)  # nothing connects it, but this is true
    assert told(data, "chair", "popularity_7d") == (POPULAR, None)  # never met the category
    assert told(data, "desk", "popularity") == (POPULAR_EVER, None)  # not popular in its category
    assert told(data, "desk", "popularity_7d") == (OFFERED, None)  # nor met by anybody this week
    assert told(data, "chair", "ease") == (OFFERED, None)


def test_an_item_without_a_category_is_popular_in_the_shop_only():
    data = shop(Event(LAST, "ann", "vase"), *(Event(LAST, f"u{n}", "rug") for n in range(3)))
    assert told(data, "rug", "popularity_7d") == (POPULAR, None)


@pytest.mark.parametrize("channel", ["text", "popularity_7d", "sequence"])
def test_new_items_are_called_new(channel):
    data = shop(Event(LAST, "ann", "lamp"), bulb=LAST - 1, rug=LAST - 1, vectors={"bulb": [1, 0, 0, 0, 0, 0]})
    assert told(data, "bulb", channel) == ("New in Light", None)
    assert told(data, "rug", channel) == ("New in this shop", None)
    met = shop(Event(LAST, "ann", "lamp"), *(Event(LAST, f"u{n}", "bulb") for n in range(FEW)), bulb=LAST - 1)
    assert told(met, "bulb", "popularity_7d") == ("Popular in Light", None)


def test_a_new_item_that_others_met_near_the_shoppers_own_is_because_of_that():
    data = shop(Event(LAST, "ann", "lamp"), bulb=LAST - 1)
    net = Net("co_visitation", {("lamp", "bulb"): 1.0})
    assert told(data, "bulb", "co_visitation", net) == ("Because you viewed Thing lamp", "lamp")


def test_the_shoppers_own_items_are_what_they_came_back_to():
    data = shop(Event(LAST - 1, "ann", "lamp"), Event(LAST, "ann", "lamp"), Event(LAST, "ann", "desk"))
    net = Net("co_visitation", {("lamp", "desk"): 1.0})
    assert told(data, "lamp", "popularity_7d", net) == ("You came back to this", "lamp")
    assert told(data, "desk", "co_visitation", net) == ("You looked at this before", "desk")


def test_where_nothing_lifts_nothing_is_made_up():
    data = shop(Event(LAST, "ann", "lamp"), *(Event(LAST, f"u{n}", "bulb") for n in range(3)))
    number = np.flatnonzero(data.item_ids == "bulb")
    net = Net("co_visitation", {("lamp", "bulb"): 1.0})
    sentence, because = reasons(
        data, {"co_visitation": net}, {"co_visitation": np.array([-0.1])}, np.array([0]), number
    )
    assert (sentence[0], because[0]) == (OFFERED, None)


def test_many_pairs_at_once_are_one_by_one():
    random = np.random.default_rng(0)
    events = [
        Event(int(random.integers(LAST + 1)), f"u{u}", str(random.choice(ITEMS)), minute=int(m))
        for u in range(5)
        for m in random.integers(0, 1000, 3)
    ]
    data = shop(*events, rug=LAST - 1)
    links = {(a, b): float(random.random()) for a in ITEMS for b in ITEMS if random.random() < 0.3}
    nets = {"co_visitation": Net("co_visitation", links)}
    user, item = (a.ravel() for a in np.meshgrid(np.arange(5), np.arange(6)))
    lifts = {name: random.normal(size=30) for name in ("co_visitation", "text", "popularity_7d", "ease")}
    together = np.column_stack(reasons(data, nets, lifts, user, item))
    for n in range(30):
        alone = {name: lift[n : n + 1] for name, lift in lifts.items()}
        one = np.column_stack(reasons(data, nets, alone, user[n : n + 1], item[n : n + 1]))
        assert one.tolist() == together[n : n + 1].tolist()
    assert len({sentence.split(" Thing")[0] for sentence in together[:, 0]}) >= 4
