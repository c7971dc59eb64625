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

Objects = NDArray[np.object_]


def reasons(
    data: Interactions, fitted: Mapping[str, Channel], lifts: Mapping[str, Floats], users: Ints, items: Ints
) -> tuple[Objects, Objects]:
    """A sentence for each (user, item) pair, and the id of the item it speaks of (None for none).

    The channel that lifts the item most speaks. Whatever else speaks for it, for an item the shopper has seen
    the truest reason is that they came back to it.

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
    if "revisit" in fitted:
        told[position >= 0] = "revisit"
    sentence = np.where(told == "popularity", "Popular in this shop", POPULAR).astype(object)
    because = np.full(len(users), None, object)
    again = told == "revisit"
    often = data.histories.events[position[again]] > 1
    sentence[again] = np.where(often, "You came back to this", "You looked at this before")
    because[again] = data.item_ids[items[again]]
    for name, opening in (("co_visitation", None), ("text", "Similar to")):
        for pairs in _chunks(np.flatnonzero(told == name)):
            positions = _nearest_in_history(data, fitted[name], users[pairs], items[pairs])
            for pair, place in zip(pairs, positions, strict=True):
                seen = data.histories.item[place]
                words = opening or BECAUSE[int(data.histories.level[place])]
                sentence[pair], because[pair] = f"{words} {data.titles[seen]}", data.item_ids[seen]
    return sentence, because


def _nearest_in_history(data: Interactions, channel: Channel, users: Ints, items: Ints) -> Ints:
    """Position in `histories` of the user's item, other than the item itself, that speaks loudest for it."""
    history = data.histories
    if isinstance(channel, CoVisitation):
        row, age, position = history.expand(users, channel.most)
        near = channel.between(history.item[position], items[row])
    elif isinstance(channel, Text):
        row, age, position = history.expand(users, channel.most)
        near = np.einsum("ij,ij->i", data.vectors[history.item[position]], data.vectors[items[row]])
    else:
        raise TypeError(f"{channel.name} does not speak through the items of a history")
    itself = history.item[position] == items[row]
    # An item with no near neighbour but itself still has a first place: the sort never leaves a user out.
    strength = np.where(itself, -np.inf, channel.decay**age * near)
    order = np.lexsort((age, -strength, row))
    return position[order][np.searchsorted(row[order], np.arange(len(users)))]


def _chunks(rows: Ints, size: int = 2000) -> list[Ints]:
    return [rows[first : first + size] for first in range(0, len(rows), size)]
