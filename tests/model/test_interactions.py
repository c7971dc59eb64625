"""What is known as of a day, and what is held out of it; against plain Python."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.model.interactions import Counts, HeldOut, Interactions, Log, dev_day, hold_out
from tests.model.worlds import LEVELS, Event, World, clusters, little_worlds, random_world

Row = tuple[int, ...]


def rows(log: Log) -> list[Row]:
    columns = (log.day, log.user, log.item, log.level)
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def counted(counts: Counts) -> dict[Row, float]:
    return {
        (d, i): n for d, i, n in zip(counts.day.tolist(), counts.item.tolist(), counts.users, strict=True)
    }


def strongest(events: list[Row]) -> list[Row]:
    """Of each day, user and item, the strongest behaviour."""
    found: dict[Row, int] = {}
    for *key, level in events:
        found[tuple(key)] = max(level, found.get(tuple(key), 0))
    return sorted((*key, level) for key, level in found.items())


def shoppers(events: list[Row]) -> dict[Row, float]:
    """Of each day and item, how many met it."""
    found: dict[Row, set[int]] = defaultdict(set)
    for day, user, item, _ in events:
        found[day, item].add(user)
    return {key: len(users) for key, users in found.items()}


@settings(max_examples=60)
@given(little_worlds(), st.integers(0, 1000))
def test_all_tables_are_made_of_the_events_that_are_kept(world, seed):
    data = world.data
    keep = np.random.default_rng(seed).random(len(data.events.day)) < 0.6
    found, kept = data.only(keep), rows(data.events.where(keep))
    assert rows(found.events) == kept
    assert rows(found.behaviors) == strongest(kept)
    assert counted(found.counts) == shoppers(kept)


@settings(max_examples=30)
@given(little_worlds())
def test_the_warehouse_makes_the_same_tables_of_all_events(world):
    data = world.data
    whole = data.only(np.ones(len(data.events.day), bool))
    assert rows(whole.behaviors) == rows(data.behaviors)
    assert counted(whole.counts) == counted(data.counts)


@settings(max_examples=30)
@given(little_worlds(), st.integers(-1, 4))
def test_until_a_day_is_what_happened_by_then(world, number):
    data, day = world.data, world.day(number)
    cut, by_then = data.until(day), data.only(data.events.day <= day.toordinal())
    assert rows(cut.events) == rows(by_then.events)
    assert rows(cut.behaviors) == rows(by_then.behaviors)
    assert counted(cut.counts) == counted(by_then.counts)
    assert cut.as_of == min(day, world.cut_off)
    assert cut.known_items.tolist() == [world.first_seen.get(i, 0) <= number for i in world.items]


def own_history(data: Interactions, user: int) -> list[tuple[int, int, int, int]]:
    """Item, strongest behaviour, times met and age in moments, the newest first."""
    log = data.events.where(data.events.user == user)
    met: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for item, at, level in zip(log.item.tolist(), log.at.tolist(), log.level.tolist(), strict=True):
        met[item].append((at, level))
    last = {item: max(at for at, _ in times) for item, times in met.items()}
    moments = sorted(set(last.values()), reverse=True)
    return [
        (item, max(level for _, level in met[item]), len(met[item]), moments.index(last[item]))
        for item in sorted(met, key=lambda item: (-last[item], item))
    ]


@settings(max_examples=60)
@given(little_worlds(), st.integers(1, 4))
def test_histories_are_distinct_items_and_their_age_in_moments(world, most):
    data = world.data
    history, users = data.histories, np.arange(len(data.users))[::-1]
    row, age, position = history.expand(users, most)
    columns = (history.item, history.level, history.events, history.age)
    for place, user in enumerate(users):
        part, own = slice(history.start[user], history.start[user + 1]), own_history(data, user)
        assert list(zip(*(column[part].tolist() for column in columns), strict=True)) == own
        items = [item for item, *_ in own]
        assert history.item[position[row == place]].tolist() == items[:most]
        assert age[row == place].tolist() == [old for *_, old in own][:most]
        found = data.position_of(np.full(5, user), np.arange(5))
        wanted = [history.start[user] + items.index(i) if i in items else -1 for i in range(5)]
        assert found.tolist() == wanted


@settings(max_examples=60)
@given(little_worlds(), st.integers(0, 3), st.booleans())
def test_what_is_held_out_of_a_day(world, number, repeats):
    """Known items of the day, each pair once with its strongest behaviour; judged is who has a history."""
    data = world.data
    held = replace(hold_out(data, world.day(number)), repeats=repeats)
    first = {item: world.first_seen.get(item, 0) for item in world.items}
    level = {name: n for n, name in enumerate(LEVELS)}
    wanted: dict[tuple[str, str], int] = {}
    for e in world.events:
        if e.day == number and first[e.item] < number:
            wanted[e.user, e.item] = max(level[e.behavior], wanted.get((e.user, e.item), 0))
    users, items = data.users[held.user], data.item_ids[held.item]
    assert dict(zip(zip(users, items, strict=True), held.level.tolist(), strict=True)) == wanted
    assert len(held.user) == len(wanted)
    before = {e.user for e in world.events if e.day < number}
    assert data.users[held.users].tolist() == sorted(before & {user for user, _ in wanted})
    assert held.past.as_of == world.day(number - 1)
    judge_laws(held, {(e.user, e.item) for e in world.events if e.day < number}, wanted)


def judge_laws(held: HeldOut, met: set[tuple[str, str]], wanted: dict[tuple[str, str], int]) -> None:
    names, items = held.past.users[held.users], held.past.item_ids
    for at_least in range(4):
        relevant = [[wanted.get((user, item), -1) >= at_least for item in items] for user in names]
        assert held.relevant(held.users, at_least).tolist() == relevant
        assert held.relevant_counts(at_least)[held.users].tolist() == [sum(row) for row in relevant]
    seen = [[(user, item) in met for item in items] for user in names]
    assert held.past.met(held.users).tolist() == seen
    allowed = held.past.known_items & (held.repeats | ~held.past.met(held.users))
    assert held.allowed(held.users).tolist() == allowed.tolist()


def test_the_dev_day_is_the_newest_before_the_cut_off_on_which_somebody_known_came():
    world = random_world(0)
    assert dev_day(world.data) == world.day(4)
    closed = replace(world, events=[e for e in world.events if e.day not in (3, 4)])
    assert dev_day(closed.data) == world.day(2)
    strangers = [Event(4, "nobody knows", world.items[0])]
    assert dev_day(replace(closed, events=[*closed.events, *strangers]).data) == world.day(2)
    first = replace(world, events=[e for e in world.events if e.day in (0, 5)])
    assert dev_day(first.data) == world.day(4)  # nobody ever came back: nobody is judged
    often = [Event(day, f"u{n}", "a") for day in range(4) for n in range(20)]
    lonely = World([*often, Event(4, "u0", "a")], ["a"], 6, np.eye(1, dtype=np.float32))
    assert dev_day(lonely.data) == world.day(3)  # one shopper where twenty come on other days
    assert not len(hold_out(first.data, world.day(4)).users)


def test_nothing_of_the_cut_off_day_is_in_what_is_learnt_from():
    held = clusters().held
    assert held.past.events.day.max() < held.past.as_of.toordinal() + 1 < clusters().cut_off.toordinal()


def test_a_shop_without_events_has_no_histories():
    data = World([], ["a"], 1, np.ones((1, 2), np.float32)).data
    assert data.histories.expand(np.zeros(0, np.int64), 5)[0].tolist() == []
    assert not len(data.known_users) and not len(hold_out(data, data.as_of).users)
