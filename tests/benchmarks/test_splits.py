"""Laws of the two splits, and small ones done by hand."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.model.interactions import HeldOut, Interactions
from benchmarks.splits import LEAVE_ONE_OUT, TEMPORAL, SplitError, leave_one_out, split, temporal
from tests.benchmarks.logs import SECOND, Row, dataset

LEVELS = ("browse", "click", "cart", "purchase")
DAY = 86_400


@st.composite
def logs(draw: st.DrawFn) -> list[Row]:
    """Few users, items and times, so that repeats and ties are common."""
    row = st.tuples(
        st.integers(0, 4).map(lambda n: f"u{n}"),
        st.integers(0, 6).map(lambda n: f"i{n}"),
        st.integers(0, 30).map(lambda n: SECOND + n * DAY),
        st.sampled_from(LEVELS),
    )
    return draw(st.lists(row, min_size=1, max_size=60))


def pairs(held: HeldOut) -> set[tuple[str, str]]:
    data = held.past
    return {(data.users[u], data.item_ids[i]) for u, i in zip(held.user, held.item, strict=True)}


def told(data: Interactions) -> list[tuple[str, str, int, int]]:
    log = data.events
    rows = zip(log.user, log.item, log.at, log.level, strict=True)
    return sorted((data.users[u], data.item_ids[i], int(at) // 10**6, int(level)) for u, i, at, level in rows)


def as_told(rows: list[Row]) -> list[tuple[str, str, int, int]]:
    return sorted((u, i, at, LEVELS.index(what)) for u, i, at, what in rows)


@given(logs())
@settings(max_examples=20)
def test_leave_one_out_is_what_its_words_say(rows):
    """The definition, taken literally in plain Python."""
    last: dict[str, list[str]] = {}
    for user in {row[0] for row in rows}:
        own = sorted((at, item) for u, item, at, _ in rows if u == user)
        last[user] = list(dict.fromkeys(item for _, item in own))
    judged = {user: items for user, items in last.items() if len(items) >= 3}
    data = dataset(rows).interactions
    if not judged:
        with pytest.raises(SplitError, match="leave-one-out has nobody"):
            leave_one_out(data)
        return
    halves = leave_one_out(data)
    for held, place in ((halves.test, -1), (halves.valid, -2)):
        assert pairs(held) == {(user, items[place]) for user, items in judged.items()}
        assert not held.repeats

        def known(row: Row, place: int = place) -> bool:
            items = judged.get(row[0])
            met = [(at, i) for u, i, at, _ in rows if u == row[0] and items and i == items[place]]
            return not met or (row[2], row[1]) < min(met)

        assert told(held.past) == as_told([row for row in rows if known(row)])


@given(logs())
@settings(max_examples=20)
def test_nothing_held_out_is_known(rows):
    data = dataset(rows).interactions
    for name in (LEAVE_ONE_OUT, TEMPORAL):
        try:
            halves = split(data, name)
        except SplitError:
            continue
        for held in (halves.valid, halves.test):
            np.testing.assert_array_equal(held.users, np.unique(held.user))
            assert np.isin(held.users, held.past.known_users).all()
            assert len(pairs(held)) == len(held.user)
            if name == LEAVE_ONE_OUT:
                assert (held.past.position_of(held.user, held.item) == -1).all()
                assert held.relevant(held.users)[held.allowed(held.users)].sum() == len(held.users)
        assert (halves.valid.past.position_of(halves.valid.user, halves.valid.item) == -1).all() or (
            name == TEMPORAL
        )
        assert (halves.test.past.position_of(halves.valid.user, halves.valid.item) >= 0).all()


@given(logs())
@settings(max_examples=20)
def test_temporal_windows_follow_each_other(rows):
    data = dataset(rows).interactions
    try:
        halves = temporal(data)
    except SplitError:
        return
    at = data.events.at
    first, last = at.min(), at.max()
    for held, share in ((halves.test, 0.1), (halves.valid, 0.2)):
        begins = round(int(last) - share * (int(last) - int(first)))
        assert held.past.events.at.max() < begins
        assert len(held.past.events.at) == (at < begins).sum()
        assert held.repeats
    after = at >= round(int(last) - 0.1 * (int(last) - int(first)))
    met = {
        (data.users[u], data.item_ids[i])
        for u, i in zip(data.events.user[after], data.events.item[after], strict=True)
    }
    # Whoever came in the window is either judged or told apart as new; nobody is both or neither.
    assert pairs(halves.test) | pairs(halves.newcomers) == met
    assert not set(halves.test.users) & set(halves.newcomers.users)
    assert not set(halves.newcomers.users) & set(halves.test.past.known_users)


@given(logs(), st.randoms(use_true_random=False))
@settings(max_examples=10)
def test_the_order_of_rows_changes_nothing(rows, random):
    other = random.sample(rows, len(rows))
    for name in (LEAVE_ONE_OUT, TEMPORAL):
        try:
            a = split(dataset(rows).interactions, name)
        except SplitError:
            continue
        b = split(dataset(other).interactions, name)
        assert pairs(a.test) == pairs(b.test) and pairs(a.valid) == pairs(b.valid)
        assert a.test.level.tolist() == b.test.level.tolist()


def test_leave_one_out_by_hand():
    rows = [
        ("ann", "a", 1, "browse"),
        ("ann", "c", 2, "click"),
        ("ann", "b", 2, "browse"),  # at the time of c, and before it by its id
        ("ann", "a", 3, "purchase"),  # a repeat of what was met before: after the test began
        ("ann", "c", 4, "purchase"),
        ("bob", "a", 1, "purchase"),
        ("bob", "b", 2, "purchase"),  # two items are too few to be judged
    ]
    halves = leave_one_out(dataset(rows).interactions)
    assert pairs(halves.test) == {("ann", "c")} and pairs(halves.valid) == {("ann", "b")}
    assert halves.test.level.tolist() == [3]  # bought in the end
    assert halves.valid.level.tolist() == [0]
    assert [row[:2] for row in told(halves.test.past)] == [
        ("ann", "a"), ("ann", "b"), ("bob", "a"), ("bob", "b"),
    ]  # fmt: skip
    assert not len(halves.newcomers.users)


def test_temporal_by_hand():
    rows = [
        ("ann", "a", SECOND, "browse"),
        ("ann", "b", SECOND + 85 * DAY, "click"),
        ("ann", "a", SECOND + 95 * DAY, "browse"),
        ("ann", "a", SECOND + 96 * DAY, "cart"),
        ("new", "c", SECOND + 100 * DAY, "purchase"),
    ]
    halves = temporal(dataset(rows).interactions)
    assert pairs(halves.test) == {("ann", "a")} and halves.test.level.tolist() == [2]
    assert pairs(halves.valid) == {("ann", "b")}
    assert pairs(halves.newcomers) == {("new", "c")}
    # 2026-01-05 and 90 days less a moment: seven days back are counted from there.
    assert halves.test.past.as_of == date(2026, 4, 5)


def test_order_without_time_is_split_by_order():
    rows = [("ann", f"i{n:02d}", n, "purchase") for n in range(21)]
    data = dataset(rows)
    assert not data.timed
    halves = temporal(data.interactions, data.timed)
    assert pairs(halves.test) == {("ann", "i18"), ("ann", "i19"), ("ann", "i20")}
    assert halves.test.past.as_of == data.interactions.as_of


def test_what_cannot_be_split_is_said():
    same = [("ann", item, SECOND, "browse") for item in "abc"]
    with pytest.raises(SplitError, match="all timestamps are equal"):
        temporal(dataset(same).interactions)
    strangers = [("ann", "a", SECOND, "browse"), ("bob", "a", SECOND + DAY, "browse")]
    with pytest.raises(SplitError, match="nobody has an event both"):
        temporal(dataset(strangers).interactions)
    with pytest.raises(SplitError, match="no user met 3"):
        leave_one_out(dataset(strangers).interactions)
