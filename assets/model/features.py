"""What the ranker looks at: candidates of each user, and some fifty figures of each.

A candidate is an item among the first of any channel. Its figures are made of the interactions as of a day
and of nothing else, by the same code when the ranker learns (histories cut before the held-out days) and when
it serves: training on histories cut exactly as at serving was worth fifteen times more than new features to
the winners of OTTO.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from assets.model.channels import Channel, popularity
from assets.model.interactions import Floats, Interactions, Ints, find
from assets.model.scored import Chosen, Matrix, Scored, best_of

EPSILON = 1e-4
"""Score, as a share of the user's best, below which a channel has nothing to say."""
NOTHING = np.float64(np.log(np.float32(EPSILON)))
"""What then stands in its column "log …"."""
PER_CHANNEL = 40
"""Candidates from each channel that the user has not met."""
OWN = 100
"""Of the user's own items, the newest that are candidates."""


@dataclass(frozen=True)
class Candidates:
    """Candidates of a block of users, flat, by user and item."""

    row: Ints
    """[pairs] place of the user in the block."""
    item: Ints
    features: Matrix
    """[pairs, features]."""


@dataclass(frozen=True)
class Features:
    """Figures of (user, item) pairs as of `data.as_of`."""

    data: Interactions
    channels: Mapping[str, Channel]
    """Fitted on `data`."""

    @cached_property
    def names(self) -> list[str]:
        """What stands in which column: first the log-scores of the channels, in their order."""
        return [
            *(f"log {name}" for name in self.channels),
            *(f"rank {name}" for name in self.channels),
            *self._of_items,
            *("price against own", "times met", "days since met", "moments since met", "strongest"),
            *("category share", "brand share", "category of newest"),
            *("items met", "events a day", "days away", "busy", "comes back"),
        ]

    def candidates(self, users: Ints, allowed: NDArray[np.bool_], least: int = 0) -> Candidates:
        """The first items of each channel that are allowed.

        Args:
            users: numbers of users.
            allowed: [len(users), items].
            least: candidates of each user; where the channels have fewer, the most popular others join.
        """
        met = self.data.met(users)
        unmet, own = Chosen(allowed & ~met), Chosen(allowed & met)
        chosen = self.data.met(users, OWN) & allowed
        told: list[tuple[Scored, Matrix]] = []
        for channel in self.channels.values():
            scored = channel.block(users)
            first = scored.first(PER_CHANNEL, unmet)
            best = best_of(len(users), scored, first, own)
            heard = scored.share(first.score, best[first.row]) > EPSILON
            chosen[first.row[heard], first.item[heard]] = True
            told.append((scored, best))
        for short in np.flatnonzero(np.count_nonzero(chosen, axis=1) < least):
            free = allowed[short] & ~chosen[short]
            others = self._by_popularity[free[self._by_popularity]]
            chosen[short, others[: least - np.count_nonzero(chosen[short])]] = True
        pairs = Chosen(chosen)
        row, item = pairs.places
        # A matrix product rounds differently in a block of another size; rounding makes ties of that noise.
        shares = [np.round(scored.share(scored.at(pairs), best[row]), 6) for scored, best in told]
        logs = [np.log(share + np.float32(EPSILON)) for share in shares]
        begins = np.searchsorted(row, row)
        columns = [*logs, *(_ranks(row, begins, log) for log in logs)]
        columns += [values[item] for values in self._of_items.values()]
        columns += self._of_pairs(users, row, item)
        return Candidates(row, item, np.column_stack([column.astype(np.float32) for column in columns]))

    @cached_property
    def _by_popularity(self) -> Ints:
        return np.argsort(-popularity(self.data, None), kind="stable")

    @cached_property
    def _of_items(self) -> dict[str, Matrix]:
        data, today = self.data, self.data.as_of.toordinal()
        ever, week, month = (popularity(data, days) for days in (None, 7, 28))
        first = np.full(len(data.item_ids), today)
        np.minimum.at(first, data.events.item, data.events.day)
        met = np.bincount(data.histories.item, minlength=len(data.item_ids))
        again = np.bincount(data.histories.item, data.histories.events > 1, len(data.item_ids))
        bought = np.bincount(data.histories.item, data.histories.level >= 3, len(data.item_ids))
        columns = {
            "popularity": np.log(ever + 1e-4),
            "popularity this week": np.log(week + 1e-4),
            "trend": np.log((week + 1e-3) / (month + 1e-3)),
            "rise": np.log((month + 1e-3) / (ever + 1e-3)),
            "age": np.log1p(today - first),
            "price": np.log(self._price),
            "met again": (again + 0.1) / (met + 1),
            "bought": (bought + 0.1) / (met + 1),
        }
        return {name: values.astype(np.float32) for name, values in columns.items()}

    def _of_pairs(self, users: Ints, row: Ints, item: Ints) -> list[NDArray]:
        data, history = self.data, self.data.histories
        place = data.position_of(users[row], item)
        seen = place >= 0
        at = np.maximum(place, 0)
        if not len(history.item):
            return [np.zeros(len(row))] * 13
        last_day = history.at // 86_400_000_000
        newest_day = last_day.max(initial=0)
        length = np.diff(history.start)[users]
        days_away, busy, days = (values[users] for values in self.of_users)
        category, brand = self.data.category_groups, self.data.brand_groups
        shares = [self._share(users, row, item, of) for of in (category, brand)]
        return [
            np.log(self._price[item] / self._usual_price[users][row]),
            np.where(seen, history.events[at], 0),
            np.where(seen, np.log1p(newest_day - last_day[at]), 9.0),
            np.where(seen, np.log1p(history.age[at]), 9.0),
            np.where(seen, history.level[at] + 1, 0),
            *shares,
            self._newest_category(users)[row] == category[item],
            np.log1p(length)[row],
            (np.log1p(length) - np.log1p(days))[row],
            np.log1p(days_away)[row],
            np.log1p(busy)[row],
            self._comes_back[users][row],
        ]

    @cached_property
    def of_users(self) -> tuple[Floats, Floats, Floats]:
        """Days since each user's last event, events in the last seven days, and days with events."""
        log, today, users = self.data.events, self.data.as_of.toordinal(), len(self.data.users)
        last = np.zeros(users)
        np.maximum.at(last, log.user, log.day)
        busy = np.bincount(log.user[log.day > today - 7], minlength=users).astype(np.float64)
        day = np.unique(log.user * 10_000_000 + log.day) // 10_000_000
        return np.where(last > 0, today - last, 365.0), busy, np.bincount(day, minlength=users).astype(float)

    @cached_property
    def _price(self) -> Floats:
        """[items] prices; in place of what is unknown or nothing, the median of the items known by then."""
        price = self.data.price
        told = np.isfinite(price) & (price > 0)
        known = price[told & self.data.known_items]
        return np.where(told, price, np.median(known) if len(known) else 1.0)

    @cached_property
    def _usual_price(self) -> Floats:
        """[users] median price of the items they met, in logarithms; the catalogue's for who met none."""
        price, history = np.log(self._price), self.data.histories
        user = np.repeat(np.arange(len(self.data.users)), np.diff(history.start))
        order = np.lexsort((price[history.item], user))
        middle = (history.start[:-1] + history.start[1:]) // 2
        known = price[self.data.known_items]
        usual = np.full(len(self.data.users), np.median(known) if len(known) else 0.0)
        some = history.start[1:] > history.start[:-1]
        usual[some] = price[history.item[order]][middle[some]]
        return np.exp(usual)

    @cached_property
    def _comes_back(self) -> Floats:
        """[users] share of their items that they met more than once."""
        history, users = self.data.histories, len(self.data.users)
        user = np.repeat(np.arange(users), np.diff(history.start))
        return (np.bincount(user, history.events > 1, users) + 0.1) / (np.bincount(user, minlength=users) + 1)

    def _share(self, users: Ints, row: Ints, item: Ints, of: Ints) -> Floats:
        """[pairs] share of the user's items that are of the candidate's group; 0 for an unnamed one."""
        groups = int(of.max(initial=0)) + 1
        owner, _, position = self.data.histories.expand(users, most=100)
        key = owner * groups + of[self.data.histories.item[position]]
        known, count = np.unique(key, return_counts=True)
        wanted = row * groups + of[item]
        place = find(known, wanted)
        found = np.where(place >= 0, count[place], 0) if len(known) else np.zeros(len(row))
        total = np.maximum(np.bincount(owner, minlength=len(users)), 1)
        return np.where(of[item] > 0, found / total[row], 0.0)

    def _newest_category(self, users: Ints) -> Ints:
        history = self.data.histories
        some = history.start[users + 1] > history.start[users]
        newest = self.data.category_groups[history.item[np.where(some, history.start[users], 0)]]
        return np.where(some & (newest > 0), newest, -1)


def _ranks(row: Ints, begins: Ints, score: Matrix) -> Matrix:
    """log(1 + how many of the user's candidates lie before it), ties with the last of theirs.

    Args:
        row: [candidates] whose each is, in order.
        begins: [candidates] where the candidates of its user begin.
        score: [candidates] float32.
    """
    # One key of user and score, whole numbers that order as the floats do: sorting those is vectorised.
    bits = (-score + np.float32(0)).view(np.int32)
    key = row << 32 | (np.where(bits < 0, bits ^ 0x7FFFFFFF, bits).astype(np.int64) + 2**31)
    order = np.argsort(key)
    tied = np.append(np.diff(key[order]) != 0, True)
    last = np.flatnonzero(tied)
    worst = last[np.cumsum(tied) - tied]
    rank = np.empty(len(row), np.float32)
    rank[order] = np.log1p(worst - begins)
    return rank
