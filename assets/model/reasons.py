"""Why an item is recommended, in words a shopper would understand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from assets.model.channels import Channel, CoVisitation, Text
from assets.model.interactions import Floats, Interactions, Ints

BECAUSE = ("Because you viewed", "Because you viewed", "Because you put in your cart", "Because you bought")
"""By the strongest behaviour of the shopper with the item that speaks for this one."""
POPULAR = "Popular this week"
OFFERED = "From our catalogue"
"""Nothing speaks for the item: it fills a place that would else be empty."""

Objects = NDArray[np.object_]


def reasons(
    data: Interactions, fitted: Mapping[str, Channel], lifts: Mapping[str, Floats], users: Ints, items: Ints
) -> tuple[Objects, Objects]:
    """A sentence for each (user, item) pair, and the id of the item it speaks of (None for none).

    The channel that lifts the item most speaks. Whatever else speaks for it, for an item the shopper has seen
    the truest reason is that they came back to it. Where nothing speaks for it, nothing is made up.

    Args:
        data: the interactions that the channels were fitted on.
        fitted: the channels by name.
        lifts: channel → [pairs], how far it raises each pair above a score of nothing.
        users: [pairs] user numbers, each with a history.
        items: [pairs] item numbers.
    """
    names = np.asarray(["nothing", *lifts], object)
    told = names[np.column_stack([np.zeros(len(users)), *lifts.values()]).argmax(axis=1)]
    position = data.position_of(users, items)
    told[position >= 0] = "revisit"
    sentence = np.full(len(users), OFFERED, object)
    sentence[told == "popularity"], sentence[told == "popularity_7d"] = "Popular in this shop", POPULAR
    because = np.full(len(users), None, object)
    again = told == "revisit"
    often = data.histories.events[position[again]] > 1
    sentence[again] = np.where(often, "You came back to this", "You looked at this before")
    because[again] = data.item_ids[items[again]]
    for name, opening in (("co_visitation", None), ("text", "Similar to")):
        for pairs in _chunks(np.flatnonzero(told == name)):
            positions, near = _nearest_in_history(data, fitted[name], users[pairs], items[pairs])
            for pair, place in zip(pairs[near > 0], positions[near > 0], strict=True):
                seen = data.histories.item[place]
                words = opening or BECAUSE[int(data.histories.level[place])]
                sentence[pair], because[pair] = f"{words} {data.titles[seen]}", data.item_ids[seen]
    return sentence, because


def _nearest_in_history(
    data: Interactions, channel: Channel, users: Ints, items: Ints
) -> tuple[Ints, Floats]:
    """Position in `histories` of the user's item that speaks loudest for each new one, and how near it is."""
    history = data.histories
    if isinstance(channel, CoVisitation):
        row, age, position = history.expand(users, channel.most)
        near = channel.between(history.item[position], items[row])
    elif isinstance(channel, Text):
        row, age, position = history.expand(users, channel.most)
        near = np.einsum("ij,ij->i", data.vectors[history.item[position]], data.vectors[items[row]])
    else:
        raise TypeError(f"{channel.name} does not speak through the items of a history")
    order = np.lexsort((age, -(channel.decay**age) * near, row))
    first = order[np.searchsorted(row[order], np.arange(len(users)))]
    return position[first], near[first]


def _chunks(rows: Ints, size: int = 2000) -> list[Ints]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]
