"""The rules of the shelf: what may stand on it, and in which order, once everything has a score.

1. *May it stand there?* Known, in stock, and not held back because the shopper bought it lately. How long a
   purchase holds an item back is a rule per category, learnt from the shop's own log (`fit_rules`):
   wholesalers buy the same again the next day, nobody buys a second wardrobe within the month.
2. *Where?* By score, but at most so many per brand, a little apart from each other (MMR), and with a share of
   places for items too new to have been met by many. What a rule passes over fills the shelf where nothing
   else is left: a rule never makes a shelf shorter.

Numpy only: the training worker runs where there is little else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.model.interactions import EPOCH, LEVELS, Floats, Interactions, Ints, Log, pair_matrix
from assets.model.metrics import top_k

EVERY_CATEGORY = "*"
"""Key of `bought_again` for all categories that it does not name."""
NEW_DAYS = 14
"""An item is new for so many days."""
FEW = 20
"""Meetings (shoppers and days) below which a new item still has to be shown around."""
EXPLORED = 20
"""Of so many places in a ranking one is for an item that nobody has met: the share that `Shop.rules` begins
with. For the quarter of the shoppers whose taste it meets best, twice as many."""

BUCKETS = ((0, 1), (1, 3), (3, 7), (7, 14), (14, 30), (30, 60))
"""Days since a purchase, above the first number and up to the second, within which the rate of buying again
counts as constant."""
WITHOUT_EVIDENCE = 7
"""Days that a purchase holds an item back where the log says nothing of buying again."""
TYPICAL = 20
"""A typical place on a shelf sells as well as one of so many best sellers."""
STRENGTH = 3.0
"""What a category or a shop has to show before it is believed, in purchases expected at the typical rate.
None seen where three were expected is the 5 % level of a Poisson count ("rule of three"), and is believed in
any case."""
CLEARLY_BELOW = 0.5
"""Share of the typical rate below which buying again is clearly rarer."""

_DAYS = 10_000_000  # above any ordinal: user · _DAYS + day is a key in order of user, then day
_CELLS = 64_000_000  # likenesses of the shelves that are arranged at a time: 256 MB

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Rules:
    """The rules in force. As they stand here without arguments, they are those of a shop nobody knows."""

    held: Mapping[str, int] = field(default_factory=dict)
    """Category → days that a purchase holds an item back, learnt; only where it is not `held_else`."""
    held_else: int = WITHOUT_EVIDENCE
    """Days for all other categories, learnt from all of them together."""
    bought_again: Mapping[str, int] = field(default_factory=dict)
    """Category (or `EVERY_CATEGORY`) → days, as the shop has decided; goes before what is learnt."""
    most_per_brand: int | None = None
    """Items of one brand on a shelf; None for no limit. Items without a brand are not limited."""
    diversity: float = 0.0
    """λ of MMR in [0, 1]: 0 is the order of scores, 1 looks at nothing but how unlike the items are."""
    new_items: float = 0.0
    """Share of the places that is given to new items, where there are any."""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Rules:
        """Rules as `to_dict` wrote them; what is absent is as in a shop nobody knows."""
        return cls(**content)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able dict, the same for the same rules."""
        return {
            **asdict(self),
            "held": dict(sorted(self.held.items())),
            "bought_again": dict(sorted(self.bought_again.items())),
        }

    def under(self, config: Mapping[str, Any]) -> Rules:
        """What was learnt, under what the shop decides now (`Shop.rules` as a dict)."""
        return Rules(held=self.held, held_else=self.held_else, **config)

    def days(self, category: str) -> int:
        """Days that a purchase holds an item of `category` back: 1 is the day after it only."""
        for decided in (category, EVERY_CATEGORY):
            if decided in self.bought_again:
                return self.bought_again[decided]
        return self.held.get(category, self.held_else)

    def places_for_new(self, k: int) -> int:
        """Of k places, those kept for new items: the last ones."""
        return int(self.new_items * k + 1e-9)


def fit_rules(data: Interactions, config: Mapping[str, Any]) -> Rules:
    """Learn how long a purchase holds an item back, and add what the shop decides.

    Of the visits (shopper and day) that come d days after a purchase, in how many is the item bought again?
    That is compared with how often a typical item of a shelf is bought in a visit of people who have bought
    before. Where x are bought again and e would be at the typical rate, x / e says how many times as often.
    An item is held back from the day after its purchase on for as long as that lies below `CLEARLY_BELOW`, in
    buckets of days. With little data:

        shop(period)     = drawn(all of it, prior),              prior: 0 in the first week, 1 after it
        shop(bucket)     = drawn(its bucket, shop(period))
        category(period) = drawn(its period, shop(period))
        category(bucket) = drawn(its bucket, shop(bucket) · category(period) / shop(period))

    where drawn(counts, towards) is the mean of a Poisson rate under a gamma prior,

        (x + w · towards) / (e + w)  with  w = min(STRENGTH, CLEARLY_BELOW · STRENGTH / towards),

    so that even where a shop buys everything again at once, a category may be found that does not. A bucket
    without evidence follows its period, a category without evidence the shop, and a shop without evidence
    holds back for `WITHOUT_EVIDENCE` days.

    Args:
        data: what may be known. Nothing later than the day before the test day.
        config: `Shop.rules` as a dict.
    """
    categories, category = np.unique(data.categories.astype(str), return_inverse=True)
    bought, expected = _again(data, category, len(categories))
    shop, each = np.zeros(len(BUCKETS)), np.zeros(bought.shape)
    early = np.array([last <= WITHOUT_EVIDENCE for _, last in BUCKETS])
    for period, prior in ((early, 0.0), (~early, 1.0)):
        x, e = bought[:, period], expected[:, period]
        whole = _drawn(x.sum(), e.sum(), prior)
        shop[period] = _drawn(x.sum(axis=0), e.sum(axis=0), whole)
        own = _drawn(x.sum(axis=1), e.sum(axis=1), whole) / max(whole, 1e-12)
        each[:, period] = _drawn(x, e, shop[period] * own[:, None])
    otherwise = _held_days(shop[None])[0]
    held = {
        str(name): int(days)
        for name, days in zip(categories, _held_days(each), strict=True)
        if days != otherwise
    }
    return Rules(held=held, held_else=int(otherwise)).under(config)


def held_back(data: Interactions, rules: Rules) -> tuple[Ints, Ints]:
    """(user, item) of the purchases that hold an item back on the day after `as_of`, in order of users."""
    bought = _purchases(data)
    days = np.zeros(len(data.item_ids), np.int64)
    some = np.unique(bought.item)
    days[some] = [rules.days(category) for category in data.categories[some]]
    recent = bought.where(bought.day > data.as_of.toordinal() - days[bought.item])
    order = np.argsort(recent.user, kind="stable")
    return recent.user[order], recent.item[order]


def allowed(data: Interactions, users: Ints, held: tuple[Ints, Ints]) -> Mask:
    """[len(users), items]: known, in stock, and not held back because the user bought it already.

    Args:
        data: as of the day of the shelf; the shelf is for the day after.
        users: in any order.
        held: what `held_back` found under the rules in force.
    """
    barred = pair_matrix(users, held, len(data.item_ids))
    return ~barred & (data.in_stock & data.known_items)


def show_new(
    scores: NDArray[np.float32], fresh: NDArray[np.float32], every: int, upto: int = 100
) -> NDArray[np.float32]:
    """Scores under which each `every` places hold an item that nobody has met, for as far as there are some.

    By relevance such items stand low: they had no chance to be met. Some places for them buy what is needed
    to learn which of them are good (ε-greedy, Sutton and Barto 2018, section 2.2).

    Args:
        scores: [users, items], −inf for an item that may not be ranked.
        fresh: [users, items] how good an item that nobody has met is for the user; 0 or less for all others.
        every: places of which the last goes to such an item, unless one stands on an earlier of them.
        upto: first places that this is done for.

    Returns:
        [users, items]; all other items keep their order.
    """
    top, result = top_k(scores, upto), scores.copy()
    row = np.arange(len(scores))
    waiting = fresh.copy()
    waiting[row[:, None], top] = 0
    best = top_k(waiting, upto // every, waiting > 0)
    shown = (np.take_along_axis(fresh, top, 1) > 0) & (top >= 0)
    put = np.zeros(len(scores), np.int64)
    for last in range(every - 1, min(upto, (top >= 0).all(axis=0).sum()), every):
        place = (last - put)[:, None] - np.arange(every)[::-1]  # among the items that were there before
        lacks = ~np.take_along_axis(shown, place.clip(0), 1).any(axis=1)
        item = best[row, put.clip(max=best.shape[1] - 1)]
        chosen = row[lacks & (item >= 0) & (put < best.shape[1])]
        above, below = (top[chosen, place[chosen, n]] for n in (-2, -1))
        result[chosen, item[chosen]] = (scores[chosen, above] + scores[chosen, below]) / 2
        put[chosen] += 1
    return result


def new_items(data: Interactions) -> Mask:
    """[items]: first seen within the last `NEW_DAYS` days, and met fewer than `FEW` times.

    A shop that has been watched for less than `NEW_DAYS` days before an item came cannot say that it is new:
    perhaps it was only met for the first time. A catalogue that names no day, which counts as from 1970 on,
    does not say since when the shop has been watched.
    """
    seen, today = data.first_seen, data.as_of.toordinal()
    since = seen[seen > EPOCH].min(initial=today)
    lately = (seen > today - NEW_DAYS) & (seen <= today) & (seen >= since + NEW_DAYS)
    return lately & (data.times_met < FEW)


def arrange(  # noqa: PLR0917 - the candidates are three arrays
    data: Interactions, row: Ints, item: Ints, score: Floats, k: int, rules: Rules
) -> Ints:
    """The first k of each row under the rules, in the order of the shelf.

    Place by place, the candidate with the best (1 − λ) · relevance − λ · likeness is taken, where relevance
    is the score, scaled to [0, 1] within the row, and likeness the largest cosine with anything taken so far
    (maximal marginal relevance: Carbonell and Goldstein, SIGIR 1998). Candidates above the limit of their
    brand wait until no others are left. In the last `places_for_new(k)` places the best new items come first,
    unless so many stand on the shelf by their own merit.

    Args:
        data: as of the day of the shelf.
        row: [candidates] which shelf; rows in any order.
        item: [candidates]; of a row, each item once.
        score: [candidates]; finite, higher is better. Equal ones stay in the order given.
        k: places of a shelf.
        rules: those in force.

    Returns:
        Positions in the arrays given, by row and place; of each row min(k, its candidates).
    """
    order = np.lexsort((-np.round(score, 12), row))
    rows, start, size = np.unique(row[order], return_index=True, return_counts=True)
    if not (rules.most_per_brand or rules.diversity or rules.places_for_new(k)):
        place = np.arange(len(order)) - np.repeat(start, size)
        return order[place < k]
    brand, new = data.brand_groups, new_items(data)
    parts = [np.zeros(0, np.int64)]
    at_once = max(1, _CELLS // int(size.max(initial=1)) ** 2)
    for first in range(0, len(rows), at_once):
        part = slice(first, first + at_once)
        place = np.arange(size[part].max())
        there = place < size[part, None]
        position = order[np.where(there, start[part, None] + place, 0)]
        items = item[position]
        shelves = _Shelves(
            there=there,
            relevance=_relevance(score[position], there),
            brand=brand[items],
            limited=brand[items] > 0,
            new=new[items],
            likeness=_likeness(data, items, rules),
        )
        parts.append(shelves.fill(position, k, rules))
    return np.concatenate(parts)


@dataclass
class _Shelves:
    """Candidates of some shelves, [shelves, candidates] each, best first."""

    there: Mask
    """False where a shelf has fewer candidates than another."""
    relevance: Floats
    brand: Ints
    limited: Mask
    """The brand is known, so that its limit holds."""
    new: Mask
    likeness: NDArray[np.float32] | None
    """[shelves, candidates, candidates] cosines; None where nobody asks for diversity."""

    def fill(self, position: Ints, k: int, rules: Rules) -> Ints:
        """Positions of the first k of each shelf, by shelf and place."""
        shelf = np.arange(len(position))
        free, of_brand = self.there.copy(), np.zeros(position.shape, np.int64)
        near, shown_new = np.zeros(position.shape, np.float32), np.zeros(len(position), np.int64)
        taken = np.full((len(position), min(k, position.shape[1])), -1, np.int64)
        kept, most = rules.places_for_new(k), rules.most_per_brand
        for place in range(taken.shape[1]):
            eligible = _first_choice(free & (of_brand < most) if most else free, free)
            if place >= k - kept:
                wanted = eligible & self.new & (shown_new < kept)[:, None]
                eligible = _first_choice(wanted, eligible)
            worth = (1 - rules.diversity) * self.relevance - rules.diversity * near
            best = np.where(eligible, worth, -np.inf).argmax(axis=1)
            some = eligible[shelf, best]
            taken[some, place] = position[some, best[some]]
            free[shelf, best] = False
            shown_new += some & self.new[shelf, best]
            if most:
                of_brand += (self.brand == self.brand[shelf, best][:, None]) & self.limited & some[:, None]
            if self.likeness is not None:
                now = self.likeness[shelf, best]
                near = now if place == 0 else np.maximum(near, now)
        return taken[taken >= 0]


def _first_choice(wanted: Mask, otherwise: Mask) -> Mask:
    """Row by row what is wanted, or where there is nothing of it, what there is otherwise."""
    return np.where(wanted.any(axis=1, keepdims=True), wanted, otherwise)


def _relevance(score: Floats, there: Mask) -> Floats:
    """Scores, best first, scaled to [0, 1] within each row; 1 where all are the same."""
    worst = np.where(there, score, np.inf).min(axis=1, keepdims=True)
    spread = score[:, :1] - worst
    return np.where(spread > 0, (score - worst) / np.where(spread > 0, spread, 1), 1.0)


def _likeness(data: Interactions, items: Ints, rules: Rules) -> NDArray[np.float32] | None:
    if not rules.diversity:
        return None
    vectors = data.vectors[items]
    # Products in another batch differ in their last bits; rounding makes ties of that noise.
    likeness = vectors @ vectors.transpose(0, 2, 1)
    return likeness.round(4, out=likeness)


def _purchases(data: Interactions) -> Log:
    return data.behaviors.where(data.behaviors.level == LEVELS["purchase"])


def _again(data: Interactions, category: Ints, categories: int) -> tuple[Floats, Floats]:
    """[categories, buckets] items bought again, and how many would be at the typical rate."""
    log, bought = data.behaviors, _purchases(data)
    visits = np.unique(log.user * _DAYS + log.day)
    rate = _typical_rate(bought, visits, int(data.known_items.sum()))
    order = np.lexsort((bought.day, bought.item, bought.user))
    user, item, day = bought.user[order], bought.item[order], bought.day[order]
    following = np.full(len(day), _DAYS - 1)
    same = (user[1:] == user[:-1]) & (item[1:] == item[:-1])
    following[:-1][same] = day[1:][same]
    counts = np.zeros((2, categories, len(BUCKETS)))
    for bucket, (after, last) in enumerate(BUCKETS):
        until = np.minimum(following, day + last)
        visited = np.searchsorted(
            visits, [user * _DAYS + end for end in (np.minimum(day + after, until), until)], "right"
        )
        again = (following > day + after) & (following <= day + last)
        counts[0, :, bucket] = np.bincount(category[item], again, categories)
        counts[1, :, bucket] = np.bincount(category[item], visited[1] - visited[0], categories) * rate
    return counts[0], counts[1]


def _typical_rate(bought: Log, visits: Ints, items: int) -> float:
    """Share of the visits of people who have bought before in which one of the best sellers is bought.

    Which ones sell best is learnt on the other days than those on which they are counted (every second day):
    the best of a few lucky ones would else promise too much.
    """
    buys = np.unique(bought.user * _DAYS + bought.day)
    earlier = np.searchsorted(buys, visits) > np.searchsorted(buys, visits - BUCKETS[-1][1])
    returning = visits[earlier]
    counted = bought.where(np.isin(bought.user * _DAYS + bought.day, returning))
    best_sellers, sold, chances = min(TYPICAL, items), 0, 0
    for odd in (0, 1):
        learnt = np.bincount(bought.item[bought.day % 2 != odd])
        best = np.argsort(-learnt, kind="stable")[:best_sellers]
        sold += int(np.isin(counted.item[counted.day % 2 == odd], best).sum())
        chances += best_sellers * int((returning % _DAYS % 2 == odd).sum())
    return sold / max(chances, 1)


def _drawn(bought: Any, expected: Any, towards: Any) -> Any:
    """Times the typical rate, drawn towards another figure where little is expected; numbers or arrays."""
    weight = np.minimum(STRENGTH, CLEARLY_BELOW * STRENGTH / np.maximum(towards, 1e-12))
    return (bought + weight * towards) / (expected + weight)


def _held_days(times: Floats) -> Ints:
    """Days until the first bucket in which buying again is not clearly rarer, from [categories, buckets]."""
    ends = np.array([0, *(last for _, last in BUCKETS)])
    return ends[np.logical_and.accumulate(times < CLEARLY_BELOW, axis=1).sum(axis=1)]
