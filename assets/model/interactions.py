"""A snapshot as arrays: who met what, when, as of a day.

Items and users are numbered once, in the order of their ids, so that "ties broken by item_id" is "ties broken
by index". `until(day)` cuts every table at a day and keeps the numbering: the same channel code then fits on
the days before yesterday to choose weights, on those before today to be measured, on all of them to serve.
Items first seen later keep their numbers, but `known_items` leaves them out: nobody could have shown them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

LEVELS = {"browse": 0, "click": 1, "cart": 2, "purchase": 3}
"""Strength of a behaviour. `at least click` is level ≥ 1, so a cart counts as a click."""

GAPS = 24
"""Buckets of the time since the event before: bucket b holds gaps of about 2^b seconds, up to half a year."""

QUIET = 0.2
"""Share of the shoppers that come back on a day, of the median, below which a day is no day like others."""

EPOCH = date(1970, 1, 1).toordinal()

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Tables(Protocol):
    """What a snapshot offers: its cut-off day and its tables by name."""

    @property
    def cut_off(self) -> date: ...

    def table(self, name: str) -> pa.Table:
        """events, behaviors, items or popularity, with the columns of the snapshot."""
        ...


@dataclass(frozen=True)
class Log:
    """Rows of one table as equal-length arrays; `day` is the proleptic ordinal (`date.toordinal`)."""

    day: Ints
    user: Ints
    item: Ints
    level: Ints
    at: Ints
    """Microseconds since 1970 in UTC; zeros where the table has no time."""

    def where(self, keep: NDArray[np.bool_]) -> Log:
        return Log(self.day[keep], self.user[keep], self.item[keep], self.level[keep], self.at[keep])


@dataclass(frozen=True)
class Counts:
    """Daily popularity: shoppers who met the item on the day."""

    day: Ints
    item: Ints
    users: Floats


@dataclass(frozen=True)
class Histories:
    """Each user's distinct items, most recent first, as one compressed row per user."""

    start: Ints
    """[users + 1]: user u's items are `item[start[u]:start[u + 1]]`."""
    item: Ints
    level: Ints
    """Strongest behaviour of the user with the item so far."""
    events: Ints
    """How often the user met the item."""
    age: Ints
    """Moments (times at which the user met something for the last time) since: the newest is 0. What was
    bought in one basket has one age."""
    at: Ints
    """When the user met the item last."""

    def expand(self, users: Ints, most: int) -> tuple[Ints, Ints, Ints]:
        """The `most` newest items of each user, flat: row (place in `users`), age in moments, position."""
        length = np.minimum(self.start[users + 1] - self.start[users], most)
        row, position = _spread(self.start[users], length)
        return row, self.age[position], position


@dataclass(frozen=True)
class Sequences:
    """Events of all users, end to end, in order of time; equal times in order of item."""

    start: Ints
    """[users + 1]: user u's events are `start[u]:start[u + 1]`."""
    item: Ints
    level: Ints
    gap: Ints
    """Bucket of the time since the event before; 0 for a user's first."""
    again: NDArray[np.bool_]
    """Whether the user had met the item before."""

    @classmethod
    def of(cls, data: Interactions) -> Sequences:
        log = data.events
        order = np.lexsort((log.item, log.at, log.user))
        user, item, at = log.user[order], log.item[order], log.at[order]
        start = np.searchsorted(user, np.arange(len(data.users) + 1))
        seconds = np.diff(at, prepend=at[:1]) // 1_000_000
        gap = 1 + np.minimum(np.log2(np.maximum(seconds, 1)).astype(np.int64), GAPS - 2)
        gap[start[:-1][start[:-1] < start[1:]]] = 0
        _, first = np.unique(user * max(len(data.item_ids), 1) + item, return_index=True)
        again = np.ones(len(user), bool)
        again[first] = False
        return cls(start, item, log.level[order], gap, again)

    @cached_property
    def events(self) -> Ints:
        """Events of each item, up to the last one that has any."""
        return np.bincount(self.item)

    def newest(self, users: Ints, length: int) -> tuple[Ints, Ints]:
        """First and last-plus-one event of each user's newest `length`."""
        return np.maximum(self.start[users], self.start[users + 1] - length), self.start[users + 1]

    def pieces(self, length: int, random: np.random.Generator) -> tuple[Ints, Ints]:
        """All events in pieces of at most `length` + 1 that overlap by one, the cuts elsewhere each time."""
        first, last = [], []
        for begin, end in zip(self.start[:-1], self.start[1:], strict=True):
            if end - begin < 2:
                continue
            cut = end if end - begin <= length + 1 else end - random.integers(0, max(length // 2, 1))
            cuts = [*range(cut - 1, begin, -length), begin][::-1]
            first += cuts[:-1]
            last += [c + 1 for c in cuts[1:]]
            if cut < end:
                first.append(max(cut - 1, end - length - 1))
                last.append(end)
        return np.asarray(first, np.int64), np.asarray(last, np.int64)

    def padded(self, first: Ints, last: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """[pieces, longest] places of their events, padded at the end, and which of them are real."""
        length = last - first
        real = np.arange(length.max(initial=0)) < length[:, None]
        return np.where(real, first[:, None] + np.arange(real.shape[1]), 0), real


@dataclass(frozen=True)
class Interactions:
    """Everything the recommender looks at, as of `as_of` (inclusive)."""

    as_of: date
    users: NDArray[np.object_]
    item_ids: NDArray[np.object_]
    titles: NDArray[np.object_]
    categories: NDArray[np.object_]
    """"" where the shop names none."""
    brands: NDArray[np.object_]
    """"" where the shop names none."""
    attributes: NDArray[np.object_]
    """Lists of further words about an item (colour, size, …); empty ones where the shop names none."""
    texts: NDArray[np.object_]
    """What the text encoder reads."""
    price: Floats
    """NaN where the shop names none."""
    in_stock: NDArray[np.bool_]
    """An item whose stock is unknown counts as in stock."""
    first_seen: Ints
    """Ordinal of the day on which shoppers or catalogue first knew the item; 0 where none is on record."""
    vectors: NDArray[np.float32]
    """[items, dimensions], rows of length 1 (or 0 where there is no text)."""
    events: Log
    behaviors: Log
    counts: Counts

    @classmethod
    def of(cls, snapshot: Tables, vectors: NDArray[np.float32], item_ids: Sequence[str]) -> Interactions:
        """Read a snapshot.

        Args:
            snapshot: its `events`, `behaviors`, `items` and `popularity` are read.
            vectors: [len(item_ids), dimensions], in the order of `item_ids`.
            item_ids: the items to recommend from. Rows about other items are left out.

        Raises:
            ValueError: an item twice, an item the snapshot does not hold, or not one vector per item.
        """
        if len(vectors) != len(item_ids):
            raise ValueError(f"{len(vectors)} vectors for {len(item_ids)} items; there must be one for each")
        order = np.argsort(np.asarray(item_ids, object), kind="stable")
        ids = np.asarray(item_ids, object)[order]
        items = snapshot.table("items")
        place = pc.index_in(pa.array(ids, pa.string()), value_set=_strings(items["item_id"]))
        if place.null_count or len(np.unique(ids)) != len(ids):
            wrong = ids[place.is_null().to_numpy(zero_copy_only=False)][:3]
            raise ValueError(f"items that the snapshot does not hold, or that come twice: {list(wrong)}")
        items = items.take(place)
        events, behaviors = snapshot.table("events"), snapshot.table("behaviors")
        users = np.asarray(sorted(set(pc.unique(_strings(events["user_key"])).to_pylist()) - {None}), object)
        popularity = snapshot.table("popularity")
        day_c, c, met = _known(
            _days(popularity), _index(popularity["item_id"], ids), _floats(popularity["users"])
        )
        stock = pc.fill_null(pc.cast(items["in_stock"], pa.bool_()), True)
        first = pc.fill_null(pc.cast(pc.cast(items["first_seen_day"], pa.date32()), pa.int32()), -EPOCH)
        return cls(
            as_of=snapshot.cut_off,
            users=users,
            item_ids=ids,
            titles=np.asarray([t or i for t, i in zip(items["title"].to_pylist(), ids, strict=True)], object),
            categories=_words(items, "category"),
            brands=_words(items, "brand"),
            attributes=_lists(items, "attributes"),
            texts=_words(items, "text"),
            price=_floats(items["price"]),
            in_stock=stock.to_numpy().astype(bool),
            first_seen=_ints(first.to_numpy()) + EPOCH,
            vectors=np.ascontiguousarray(np.asarray(vectors, np.float32)[order]),
            events=_log(events, users, ids, timed=True),
            behaviors=_log(behaviors, users, ids, timed=False),
            counts=Counts(_ints(day_c), _ints(c), met),
        )

    def until(self, day: date) -> Interactions:
        """The same users and items, with nothing later than `day`."""
        last = day.toordinal()
        counts = self.counts
        c = counts.day <= last
        return replace(
            self,
            as_of=min(day, self.as_of),
            events=self.events.where(self.events.day <= last),
            behaviors=self.behaviors.where(self.behaviors.day <= last),
            counts=Counts(counts.day[c], counts.item[c], counts.users[c]),
        )

    def only(self, keep: NDArray[np.bool_]) -> Interactions:
        """The same users and items, with some of the events; all other tables are made of these.

        Args:
            keep: [events].
        """
        events = self.events.where(keep)
        items = max(len(self.item_ids), 1)
        pair = events.user * items + events.item
        order = np.lexsort((events.level, pair, events.day))
        day, pair, level = events.day[order], pair[order], events.level[order]
        strongest = np.ones(len(order), bool)  # the last of each (day, pair) is its strongest
        strongest[:-1] = (day[1:] != day[:-1]) | (pair[1:] != pair[:-1])
        day, pair, level = day[strongest], pair[strongest], level[strongest]
        behaviors = Log(day, pair // items, pair % items, level, np.zeros(len(day), np.int64))
        met, users = np.unique(day * items + behaviors.item, return_counts=True)
        counts = Counts(met // items, met % items, users.astype(np.float64))
        return replace(self, events=events, behaviors=behaviors, counts=counts)

    @cached_property
    def histories(self) -> Histories:
        """Events of each user folded to distinct items; equal times in order of item id."""
        log, items = self.events, max(len(self.item_ids), 1)
        key = log.user * items + log.item
        order = np.lexsort((log.at, key))
        pair, first = np.unique(key[order], return_index=True)
        if not len(pair):
            nothing = np.zeros(0, np.int64)
            return Histories(np.zeros(len(self.users) + 1, np.int64), *[nothing] * 5)
        latest = np.maximum.reduceat(log.at[order], first)
        level = np.maximum.reduceat(log.level[order], first)
        events = np.diff(np.append(first, len(key)))
        user, item = pair // items, pair % items
        newest = np.lexsort((item, -latest, user))
        user, item, at = user[newest], item[newest], latest[newest]
        start = np.searchsorted(user, np.arange(len(self.users) + 1))
        moment = np.cumsum(np.append(1, (user[1:] != user[:-1]) | (at[1:] != at[:-1])))
        age = moment - moment[start[user]]
        return Histories(start, item, level[newest], events[newest], age, at)

    @cached_property
    def sequences(self) -> Sequences:
        """Events of all users in order of time, sorted once."""
        return Sequences.of(self)

    def position_of(self, users: Ints, items: Ints) -> Ints:
        """Position in `histories` of each (user, item) pair, -1 for a pair that never met."""
        key, order = self._pairs_met
        place = find(key, users * max(len(self.item_ids), 1) + items)
        return np.where(place >= 0, order[place] if len(key) else -1, -1)

    @cached_property
    def _pairs_met(self) -> tuple[Ints, Ints]:
        user = np.repeat(np.arange(len(self.users)), np.diff(self.histories.start))
        key = user * max(len(self.item_ids), 1) + self.histories.item
        order = np.argsort(key)
        return key[order], order

    def met(self, users: Ints, most: int = np.iinfo(np.int64).max) -> NDArray[np.bool_]:
        """[len(users), items]: among the `most` newest items of the user's own history."""
        row, _, position = self.histories.expand(users, most)
        matrix = np.zeros((len(users), len(self.item_ids)), bool)
        matrix[row, self.histories.item[position]] = True
        return matrix

    @cached_property
    def known_users(self) -> Ints:
        """Users with any history."""
        return np.flatnonzero(np.diff(self.histories.start))

    @cached_property
    def known_items(self) -> NDArray[np.bool_]:
        """[items]: first seen on or before `as_of`."""
        return self.first_seen <= self.as_of.toordinal()

    @cached_property
    def times_met(self) -> Ints:
        """[items] meetings (shoppers and days) on record."""
        return np.bincount(self.behaviors.item, minlength=len(self.item_ids))

    @cached_property
    def category_groups(self) -> Ints:
        """[items] the category as a number; 0 where the shop names none."""
        return _numbered(self.categories)

    @cached_property
    def brand_groups(self) -> Ints:
        """[items] the brand as a number; 0 where the shop names none."""
        return _numbered(self.brands)

    @cached_property
    def unmet_items(self) -> NDArray[np.bool_]:
        """[items] that nobody has met by then."""
        return np.bincount(self.events.item, minlength=len(self.item_ids)) == 0

    def numbers_of(self, keys: Sequence[str]) -> Ints:
        """User numbers of pseudonyms, -1 for one that the snapshot does not hold."""
        place = pc.index_in(pa.array(list(keys), pa.string()), value_set=pa.array(self.users, pa.string()))
        return _ints(pc.fill_null(place, -1).to_numpy())

    def met_on(self, day: date, at_least: int = 0) -> tuple[Ints, Ints]:
        """(user, item) pairs with a behaviour of that strength on `day`, each once."""
        log = self.behaviors
        on = (log.day == day.toordinal()) & (log.level >= at_least)
        pair = np.unique(log.user[on] * max(len(self.item_ids), 1) + log.item[on])
        return pair // max(len(self.item_ids), 1), pair % max(len(self.item_ids), 1)


@dataclass(frozen=True)
class HeldOut:
    """What a method may know, and what it is judged by."""

    past: Interactions
    users: Ints
    """Who is judged, in order: they have a history in `past` and met something held out."""
    user: Ints
    """The held-out pairs in order of users, each once, of items known by then: user, item and strongest
    behaviour."""
    item: Ints
    level: Ints
    repeats: bool = True
    """Whether items of a user's own history may be recommended (and count). If not, they are masked."""

    def relevant(self, users: Ints, at_least: int = 0) -> NDArray[np.bool_]:
        """[len(users), items] held-out pairs of at least that behaviour."""
        strong = self.level >= at_least
        return pair_matrix(users, (self.user[strong], self.item[strong]), len(self.past.item_ids))

    def relevant_counts(self, at_least: int = 0) -> Floats:
        """[all users] held-out pairs of at least that behaviour."""
        strong = self.level >= at_least
        return np.bincount(self.user[strong], minlength=len(self.past.users)).astype(np.float64)

    def allowed(self, users: Ints) -> NDArray[np.bool_]:
        """[len(users), items]: known by then and, without `repeats`, not in the user's own history."""
        known = np.broadcast_to(self.past.known_items, (len(users), len(self.past.item_ids)))
        return known if self.repeats else known & ~self.past.met(users)


def hold_out(data: Interactions, day: date) -> HeldOut:
    """The days before `day`, and what shoppers with a history in them met on `day`.

    What was first seen on the day itself nobody could have recommended: it is no pair.
    """
    past, log = data.until(day - timedelta(days=1)), data.behaviors
    on = (log.day == day.toordinal()) & past.known_items[log.item]
    user, item, level = strongest_of(log.where(on), len(data.item_ids))
    return HeldOut(past, np.intersect1d(past.known_users, user), user, item, level)


def dev_day(data: Interactions) -> date:
    """The newest day before the cut-off on which shoppers with a history came; the one before it if none.

    Days with less than `QUIET` of the usual number are asked last: from the one shopper of a day on which the
    shop was closed nothing could be learnt.
    """
    log, users = data.behaviors, max(len(data.users), 1)
    first = np.full(users, np.iinfo(np.int64).max)
    np.minimum.at(first, log.user, log.day)
    back = (first[log.user] < log.day) & (log.day < data.as_of.toordinal())
    days, came = np.unique(np.unique(log.day[back] * users + log.user[back]) // users, return_counts=True)
    quiet = came < QUIET * np.median(came) if len(came) else np.zeros(0, bool)
    for day in (*days[~quiet][::-1], *days[quiet][::-1]):
        if len(hold_out(data, date.fromordinal(int(day))).users):
            return date.fromordinal(int(day))
    return data.as_of - timedelta(days=1)


def strongest_of(log: Log, items: int) -> tuple[Ints, Ints, Ints]:
    """User, item and strongest behaviour of each pair in a log, by user and item."""
    pair = log.user * max(items, 1) + log.item
    order = np.lexsort((log.level, pair))
    pair, level = pair[order], log.level[order]
    last = np.append(pair[1:] != pair[:-1], True) if len(pair) else np.zeros(0, bool)
    return pair[last] // max(items, 1), pair[last] % max(items, 1), level[last]


def blocks(users: Ints, items: int, cells: int = 4_000_000, most: int | None = None) -> list[Ints]:
    """Users in blocks of at most `cells` scores, which bounds the memory of a [users, items] matrix.

    Args:
        users: any numbers.
        items: columns of the matrix.
        cells: of the matrix.
        most: users of a block, where something else grows with them.
    """
    size = max(1, min(cells // max(items, 1), most or len(users)))
    return [users[first : first + size] for first in range(0, len(users), size)]


def sample(users: Ints, most: int, seed: int = 0) -> Ints:
    """At most so many users, drawn with a fixed seed, in order."""
    if len(users) <= most:
        return users
    return np.sort(np.random.default_rng(seed).choice(users, most, replace=False))


def find(keys: Ints, wanted: Ints) -> Ints:
    """Where each wanted key stands among keys in order; -1 for one that is not there."""
    if not len(keys):
        return np.full(len(wanted), -1)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)


def places(row: Ints) -> Ints:
    """[pairs] place of each within its row, from 0; rows are in order."""
    return np.arange(len(row)) - np.searchsorted(row, row)


def pair_matrix(users: Ints, pairs: tuple[Ints, Ints], items: int) -> NDArray[np.bool_]:
    """[users, items] with True at the given (user, item) pairs, which must be in order of users."""
    user, item = pairs
    start = np.searchsorted(user, users)
    length = np.searchsorted(user, users, "right") - start
    row, place = _spread(start, length)
    matrix = np.zeros((len(users), items), bool)
    matrix[row, item[place]] = True
    return matrix


def _spread(start: Ints, length: Ints) -> tuple[Ints, Ints]:
    """Every position of ranges, end to end: which range, and the position."""
    row = np.repeat(np.arange(len(length)), length)
    return row, np.arange(len(row)) + np.repeat(start - (np.cumsum(length) - length), length)


def _log(table: pa.Table, users: NDArray[np.object_], items: NDArray[np.object_], timed: bool) -> Log:
    level = _index(table["behavior"], np.asarray(list(LEVELS), object))
    at = np.zeros(len(table), np.int64)
    if timed:
        at = _ints(pc.cast(pc.cast(table["event_at"], pa.timestamp("us")), pa.int64()).to_numpy())
    day, user, item, level, at = _known(
        _days(table), _index(table["user_key"], users), _index(table["item_id"], items), level, at
    )
    return Log(_ints(day), _ints(user), _ints(item), _ints(level), _ints(at))


def _known(*columns: NDArray) -> tuple[NDArray, ...]:
    """Rows in which every index is known (none is -1); only integer columns are looked at."""
    keep = np.ones(len(columns[0]), bool)
    for column in columns:
        if column.dtype.kind == "i":
            keep &= column >= 0
    return tuple(column[keep] for column in columns)


def _index(column: pa.ChunkedArray, values: NDArray[np.object_]) -> Ints:
    found = pc.index_in(_strings(column), value_set=pa.array(values, pa.string()))
    return _ints(pc.fill_null(found, -1).to_numpy())


def _strings(column: pa.ChunkedArray) -> pa.Array:
    column = pc.cast(column, pa.string())
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _words(table: pa.Table, name: str) -> NDArray[np.object_]:
    """A column of strings; empty ones where there is no such column or no value."""
    if name not in table.column_names:
        return np.full(len(table), "", object)
    return np.asarray([word or "" for word in _strings(table[name]).to_pylist()], object)


def _lists(table: pa.Table, name: str) -> NDArray[np.object_]:
    lists = np.empty(len(table), object)
    values = table[name].to_pylist() if name in table.column_names else [None] * len(table)
    for row, value in enumerate(values):  # one by one: lists of equal length would become a matrix
        lists[row] = value or []
    return lists


def _numbered(words: NDArray[np.object_]) -> Ints:
    """Equal numbers for equal words, in order of appearance: cheaper than by sorting. 0 for the empty one."""
    numbers: dict[str, int] = {"": 0}
    return np.fromiter((numbers.setdefault(word, len(numbers)) for word in words), np.int64, len(words))


def _days(table: pa.Table) -> Ints:
    days = pc.cast(pc.cast(table["day"], pa.date32()), pa.int32()).to_numpy()
    return _ints(days) + EPOCH


def _floats(column: pa.ChunkedArray) -> Floats:
    return np.asarray(pc.cast(column, pa.float64()).to_numpy(), np.float64)


def _ints(values: NDArray) -> Ints:
    return np.ascontiguousarray(values, np.int64)
