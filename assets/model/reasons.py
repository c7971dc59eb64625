"""Why an item is recommended, in words a shopper would understand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from assets.model.channels import Channel, meetings
from assets.model.interactions import Floats, Interactions, Ints, places
from assets.model.rules import Mask, new_items

BECAUSE = ("Because you viewed", "Because you viewed", "Because you put in your cart", "Because you bought")
"""By the strongest behaviour of the shopper with the item that speaks for this one."""
SIMILAR = "Similar to"
POPULAR = "Popular this week"
POPULAR_EVER = "Popular in this shop"
OFFERED = "From our catalogue"
"""Nothing speaks for the item: it fills a place that would else be empty."""

LOOKED_BACK = 50
"""Newest items of a shopper that may speak for another one."""
FADING = 0.8
"""What an item says counts for so much less with every newer one."""
MOST_POPULAR = 10
"""Items that may be called popular in their category."""
ALIKE = 0.95
"""Share of the pairs of items that are less alike than two of which one is called similar to the other."""

Objects = NDArray[np.object_]
Between = Callable[[Ints, Ints], Floats]


@runtime_checkable
class Connecting(Protocol):
    """A channel that knows what connects two items."""

    def between(self, item: Ints, other: Ints) -> Floats:
        """How much each `item` speaks for each `other`; 0 where nothing connects them."""
        ...


def reasons(
    data: Interactions, fitted: Mapping[str, Channel], lifts: Mapping[str, Floats], users: Ints, items: Ints
) -> tuple[Objects, Objects]:
    """A sentence for each (user, item) pair, and the id of the item it speaks of (None for none).

    The channel that lifts the item most speaks, and is believed only where what it says is true:

    1. an item the shopper has seen: they came back to it, whatever else speaks for it;
    2. a channel that goes by the shopper's items: the one of them that is most connected with this one, met
       near it by others ("Because you viewed …") or else alike in words ("Similar to …");
    3. a new item: "New in its category", unless others met it near one of the shopper's items;
    4. popularity: "Popular in its category" where it is and the shopper knows the category, or in the shop.

    Where nothing of this holds, nothing is made up.

    Args:
        data: the interactions that the channels were fitted on.
        fitted: the channels by name; how they connect two items is asked of those that are `Connecting`.
        lifts: channel → [pairs], how far it raises each pair above a score of nothing.
        users: [pairs] user numbers, each with a history.
        items: [pairs] item numbers.
    """
    # The first of equals speaks, and nothing does before a lift of 0.
    names = np.asarray(["nothing", *lifts])
    told = names[np.column_stack([np.zeros(len(users)), *lifts.values()]).argmax(axis=1)]
    sentence, because = np.full(len(users), OFFERED, object), np.full(len(users), None, object)
    category, new, position = data.categories[items], new_items(data)[items], data.position_of(users, items)
    crowd = np.char.startswith(told, "popularity")

    sentence[crowd & (meetings(data, 7) > 0)[items]] = POPULAR
    sentence[told == "popularity"] = POPULAR_EVER
    popular = (told != "nothing") & _popular_in_category(data)[items] & _category_known(data, users, items)
    sentence[popular] = [f"Popular in {name}" for name in category[popular]]
    sentence[new] = [f"New in {name or 'this shop'}" for name in category[new]]

    open_still = (told != "nothing") & ~crowd & (position < 0)
    for speaks, between, opening in _ways(data, fitted, told, new):
        for pairs in _chunks(np.flatnonzero(open_still & speaks)):
            places, near = _nearest_in_history(data, between, users[pairs], items[pairs])
            for pair, place in zip(pairs[near > 0], places[near > 0], strict=True):
                met = data.histories.item[place]
                words = opening or BECAUSE[int(data.histories.level[place])]
                sentence[pair], because[pair] = f"{words} {data.titles[met]}", data.item_ids[met]
            open_still[pairs[near > 0]] = False

    seen = position >= 0
    often = data.histories.events[position[seen]] > 1
    sentence[seen] = np.where(often, "You came back to this", "You looked at this before")
    because[seen] = data.item_ids[items[seen]]
    return sentence, because


def _ways(
    data: Interactions, fitted: Mapping[str, Channel], told: NDArray[np.str_], new: Mask
) -> Iterator[tuple[Mask, Between, str]]:
    """Ways to find the shopper's item that speaks for a pair, the best first: for which pairs, how near two
    items are, and the words to begin with.

    A channel that cannot say what connects two items borrows the eyes of the first that can.
    """
    connecting = {name: channel for name, channel in fitted.items() if isinstance(channel, Connecting)}
    for name, channel in connecting.items():
        yield told == name, channel.between, ""
    if connecting:
        yield ~np.isin(told, ("text", "attributes")), next(iter(connecting.values())).between, ""
    yield ~new, _alike(data), SIMILAR


def _alike(data: Interactions) -> Between:
    """The cosine of two items' words, and 0 below that of `ALIKE` of all pairs (of a sample of items)."""
    some = data.vectors[np.unique(np.linspace(0, len(data.vectors) - 1, 500).astype(np.int64))]
    cosines = (some @ some.T)[np.triu_indices(len(some), 1)]
    usual = max(float(np.quantile(cosines, ALIKE)), 0.0) if len(cosines) else 0.0

    def between(item: Ints, other: Ints) -> Floats:
        cosine = np.einsum("ij,ij->i", data.vectors[item], data.vectors[other]).astype(np.float64)
        return np.where(cosine >= usual - 1e-6, cosine, 0.0)

    return between


def _nearest_in_history(
    data: Interactions, between: Between, users: Ints, items: Ints
) -> tuple[Ints, Floats]:
    """Position in `histories` of the user's item that speaks loudest for each new one, and how near it is."""
    row, age, position = data.histories.expand(users, LOOKED_BACK)
    near = between(data.histories.item[position], items[row])
    order = np.lexsort((age, -(FADING**age) * near, row))
    first = order[np.searchsorted(row[order], np.arange(len(users)))]
    return position[first], near[first]


def _popular_in_category(data: Interactions) -> Mask:
    """[items] among the most met of their category this week, and met more than its average item."""
    met, category = meetings(data, 7), data.category_groups
    mean = np.bincount(category, met) / np.maximum(np.bincount(category), 1)
    order = np.lexsort((-met, category))
    place = np.empty(len(order), np.int64)
    place[order] = places(category[order])
    return (place < MOST_POPULAR) & (met > mean[category]) & (category > 0)


def _category_known(data: Interactions, users: Ints, items: Ints) -> Mask:
    """[pairs] whether the user has ever met anything of the item's category."""
    category = data.category_groups
    asked, many = np.unique(users), int(category.max(initial=0)) + 1
    row, _, position = data.histories.expand(asked, most=np.iinfo(np.int64).max)
    known = asked[row] * many + category[data.histories.item[position]]
    return np.isin(users * many + category[items], known)


def _chunks(rows: Ints, size: int = 2000) -> list[Ints]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]
