"""Two ways to hold events out, and what may be known beside each.

*Leave-one-out*: a user's items stand in the order of their first meeting; the last is the test, the one
before it validation. A repeat can't be ranked where seen items are masked, so it is nobody's test. What the
user did from the held-out meeting on is unknown to every method (other users' later events are known: that is
this protocol's well-known leak of time, and the reason for the other one).

*Temporal*: the last tenth of the time span is the test, the tenth before it validation; who has an event
before the window and one in it counts, for all distinct items of the window. Nothing later than a moment is
known before it, and items may come again.

Ties in time are broken by item id, whatever the order of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from assets.model.interactions import HeldOut, Interactions, Ints, Log, strongest_of

LEAVE_ONE_OUT, TEMPORAL = "leave-one-out", "temporal"
SPLITS = (LEAVE_ONE_OUT, TEMPORAL)
WINDOW = 0.1
"""Share of the time span that the test takes, and that validation takes."""
FEWEST = 3
"""Distinct items of a user judged by leave-one-out: one to learn from, one for validation, one to test."""


class SplitError(ValueError):
    """Nothing can be judged this way; the message says what to do instead."""


@dataclass(frozen=True)
class Split:
    """What is learned from, and what is judged."""

    name: str
    valid: HeldOut
    """For choosing settings."""
    test: HeldOut
    """For the figures, once. Its `past` holds the validation pairs too."""
    newcomers: HeldOut
    """Users of the test window without any history: `users` are they, and the pairs theirs. None of them in
    leave-one-out."""
    text: str
    """What was done, in words."""


def split(data: Interactions, name: str, timed: bool = True) -> Split:
    """Hold out by `name`, one of SPLITS.

    Args:
        data: everything.
        timed: whether times are real ones; if not, a temporal split cuts their order.

    Raises:
        SplitError: no user can be judged.
    """
    return leave_one_out(data) if name == LEAVE_ONE_OUT else temporal(data, timed)


def leave_one_out(data: Interactions) -> Split:
    """The last new item of each user, and the one before it.

    Raises:
        SplitError: nobody met three different items.
    """
    log = data.events
    order = np.lexsort((log.item, log.at, log.user))
    user, item = log.user[order], log.item[order]
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))  # of each event among all, by user, time and item
    met = np.sort(np.unique(user * max(len(data.item_ids), 1) + item, return_index=True)[1])
    last = np.searchsorted(user[met], np.arange(len(data.users)), side="right") - 1
    judged = np.flatnonzero(np.bincount(user[met], minlength=len(data.users)) >= FEWEST)
    if not len(judged):
        raise SplitError(
            f"no user met {FEWEST} different items: leave-one-out has nobody to judge; use --split temporal"
        )
    # The first event that is unknown, as a place among all events; everything of other users is known.
    tested = _first_unknown(data, judged, met[last[judged]])
    validated = _first_unknown(data, judged, met[last[judged] - 1])
    whole = strongest_of(log, len(data.item_ids))
    before_test = place < tested[log.user]
    known = strongest_of(log.where(before_test), len(data.item_ids))
    test_past, valid_past = data.only(before_test), data.only(place < validated[log.user])
    return Split(
        name=LEAVE_ONE_OUT,
        valid=_of_pairs(valid_past, judged, item[met[last[judged] - 1]], known),
        test=_of_pairs(test_past, judged, item[met[last[judged]]], whole),
        newcomers=HeldOut(test_past, *(np.zeros(0, np.int64),) * 4, repeats=False),
        text=(
            "Leave-one-out: of each user's distinct items in order of first meeting, the last is the test "
            "and the one before it validation; what the user did from that meeting on is unknown. Users with "
            f"fewer than {FEWEST} distinct items are learned from, not judged. All items are ranked except "
            "those the user has met. Ties in time are broken by item id. Papers mostly learn without the "
            "validation items; here every method learns from them before the test, which lifts all figures."
        ),
    )


def temporal(data: Interactions, timed: bool = True) -> Split:
    """The last tenth of the time span, and the tenth before it.

    Raises:
        SplitError: all events have one time, or nobody came both before and in the last tenth.
    """
    at = data.events.at
    first, last = (int(at.min()), int(at.max())) if len(at) else (0, 0)
    if first == last:
        raise SplitError("all timestamps are equal, so there is no time to split; use --split leave-one-out")
    test_from, valid_from = (round(last - share * (last - first)) for share in (WINDOW, 2 * WINDOW))
    test, newcomers = _window(data, test_from, last + 1, timed)
    valid, _ = _window(data, valid_from, test_from, timed)
    if not len(test.users):
        raise SplitError(
            "nobody has an event both before and in the last tenth of the time span, so a temporal split has "
            "nobody to judge; use --split leave-one-out"
        )
    text = (
        f"Temporal: the last tenth of the time span ({_when(test_from, timed)} to {_when(last, timed)}) is "
        f"the test, the tenth before it (from {_when(valid_from, timed)}) validation. Judged is who has an "
        "event before the window and one in it, by all distinct items of the window, each with gain 1. All "
        "items are ranked, those the user has met too: people come back. Ties in time are broken by item id."
    )
    return Split(TEMPORAL, valid, test, newcomers, text)


def _first_unknown(data: Interactions, judged: Ints, place: Ints) -> Ints:
    """[users]: the place of the first event that is unknown of each user; beyond all events if none is."""
    first = np.full(len(data.users), len(data.events.item), np.int64)
    first[judged] = place
    return first


def _of_pairs(past: Interactions, users: Ints, items: Ints, strongest: tuple[Ints, Ints, Ints]) -> HeldOut:
    """One held-out item for each user, with the strongest behaviour among `strongest`."""
    width = max(len(past.item_ids), 1)
    user, item, level = strongest
    found = np.searchsorted(user * width + item, users * width + items)
    # The validation pair is known at the test, and the test pair is among all: both are always found.
    return HeldOut(past, users, users, items, level[found], repeats=False)


def _window(data: Interactions, first: int, end: int, timed: bool) -> tuple[HeldOut, HeldOut]:
    """What is held out from `first` up to but not at `end`: of those with a history, and of newcomers."""
    at = data.events.at
    past = replace(data.only(at < first), as_of=_day_before(data, first, timed))
    user, item, level = strongest_of(_during(data.events, at, first, end), len(data.item_ids))
    known = np.isin(user, past.known_users)
    return (
        HeldOut(past, np.unique(user[known]), user[known], item[known], level[known]),
        HeldOut(past, np.unique(user[~known]), user[~known], item[~known], level[~known]),
    )


def _during(log: Log, at: Ints, first: int, end: int) -> Log:
    inside: NDArray[np.bool_] = (at >= first) & (at < end)
    return log.where(inside)


def _day_before(data: Interactions, moment: int, timed: bool) -> date:
    """The day of the last moment before `moment`: "the last seven days" are counted from it."""
    return _time(moment - 1).date() if timed else data.as_of


def _when(moment: int, timed: bool) -> str:
    return f"{_time(moment):%Y-%m-%d %H:%M:%S}" if timed else f"place {moment:,}"


def _time(moment: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment)
