"""The contract that every channel keeps, and what each of them must find in a tiny world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import assets.model.channels as channels_module
from assets.model.channels import Channel, CoVisitation, Popularity, Revisit, Text, channels
from assets.model.interactions import Interactions
from assets.model.metrics import top_k
from tests.model.worlds import Event, World, checkerboard, clusters, random_world

EVERY = {**channels(), "popularity_3d": Popularity(days=3)}


@pytest.fixture(params=list(EVERY))
def fitted(request: pytest.FixtureRequest) -> Callable[[Interactions], Channel]:
    def fit(data: Interactions) -> Channel:
        channel = replace(EVERY[request.param])  # type: ignore[type-var]
        channel.fit(data)
        return channel

    return fit


def interactions(world: World) -> Interactions:
    return Interactions.of(world, world.vectors, world.items)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_finite_and_never_negative(fitted, seed):
    data = interactions(random_world(seed))
    users = np.arange(len(data.users))
    scores = fitted(data).scores(users)
    assert scores.shape == (len(users), len(data.item_ids))
    assert np.isfinite(scores).all() and (scores >= 0).all() and (scores > 0).any()


@pytest.mark.parametrize("seed", range(3))
def test_a_block_of_users_scores_like_one_by_one(fitted, seed):
    data = interactions(random_world(seed))
    channel = fitted(data)
    shuffled = np.random.default_rng(seed).permutation(len(data.users))
    together = channel.scores(shuffled)
    for row, user in enumerate(shuffled):
        np.testing.assert_allclose(channel.scores(np.array([user]))[0], together[row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_future_changes_nothing(fitted, seed):
    """As of a day, planted rows of later days are not seen, whatever they say."""
    world = random_world(seed)
    cut = world.day(3)
    planted = [
        Event(day, f"u{n % 15:02d}", world.items[0], "purchase", n) for day in (4, 5) for n in range(200)
    ]
    plain, told = interactions(world), interactions(random_world(seed, extra=planted))
    assert plain.item_ids.tolist() == told.item_ids.tolist()
    users = np.arange(len(plain.users))
    np.testing.assert_array_equal(
        fitted(plain.until(cut)).scores(users),
        fitted(told.until(cut)).scores(told.numbers_of(list(plain.users))),
    )
    assert told.until(cut).events.day.max() <= cut.toordinal()


def test_the_order_of_rows_and_of_items_changes_nothing(fitted):
    world = random_world(5)
    order = np.random.default_rng(0).permutation(len(world.items))
    other = replace(
        world, events=world.events[::-1], items=[world.items[n] for n in order], vectors=world.vectors[order]
    )
    a, b = interactions(world), interactions(other)
    assert a.item_ids.tolist() == b.item_ids.tolist()
    users = np.arange(len(a.users))
    np.testing.assert_allclose(fitted(a).scores(users), fitted(b).scores(users), rtol=1e-5, atol=1e-6)


def test_a_user_without_history_gets_no_personal_score():
    data = interactions(random_world(1)).until(random_world(1).day(-1))
    for channel in channels().values():
        channel.fit(data)
        assert not channel.scores(np.arange(len(data.users))).any()


@pytest.mark.parametrize("channel", [CoVisitation(), Text()], ids=lambda c: c.name)
def test_the_held_out_diagonal_of_a_checkerboard_is_found(channel):
    """Among what a user has not met, the held-out item of their own colour comes first."""
    world = checkerboard()
    data = interactions(world)
    past = data.until(world.day(3))
    channel.fit(past)
    users = np.arange(len(data.users))
    met = np.zeros((len(users), len(data.item_ids)), bool)
    met[past.events.user, past.events.item] = True
    best = top_k(channel.scores(users), 1, ~met)[:, 0]
    assert best.tolist() == list(range(len(users)))


def test_words_lead_to_items_nobody_has_met():
    world = clusters()
    past = interactions(world).until(world.day(5))
    new = np.setdiff1d(np.arange(len(world.items)), past.events.item)
    users = past.known_users
    text, together = Text(), CoVisitation()
    text.fit(past)
    together.fit(past)
    own_kind = (new[None] % 4) == (np.arange(len(users))[:, None] % 4)
    near = text.scores(users)[:, new]
    assert (
        np.where(own_kind, near, np.inf).min(axis=1) > np.where(own_kind, -np.inf, near).max(axis=1)
    ).all()
    assert not together.scores(users)[:, new].any()


def test_co_visitation_by_hand():
    """a → b → c in one session: C[a,b] = 1, C[a,c] = 0.8, C[b,a] = 0.5, each item with popularity 1."""
    world = World(
        [Event(0, "u", i, minute=n) for n, i in enumerate("abc")] + [Event(1, "v", "a")],
        list("abcd"), 2, np.eye(4, dtype=np.float32),
    )  # fmt: skip
    data = interactions(world)
    channel = CoVisitation(alpha=0.5, decay=0.5)
    channel.fit(data)
    # v's only item is a, met by u and v: popularity 2, so C[a, ·] is divided by √2.
    np.testing.assert_allclose(channel.scores(np.array([1]))[0], np.array([0, 1, 0.8, 0]) / 2**0.5, rtol=1e-6)
    # u's items, newest first: c, b, a.
    a = 0.5**0 * 0.4 / 2**0.5 + 0.5**1 * 0.5 / 2**0.5
    b = 0.5**0 * 0.5 + 0.5**2 * 1 / 2**0.5
    c = 0.5**1 * 1.0 + 0.5**2 * 0.8 / 2**0.5
    np.testing.assert_allclose(channel.scores(np.array([0]))[0], [a, b, c, 0], rtol=1e-6)
    np.testing.assert_allclose(channel.between(np.array([0, 3]), np.array([1, 0])), [1 / 2**0.5, 0])


def test_the_walk_of_a_large_catalogue_scores_like_the_full_matrix(monkeypatch):
    data = interactions(random_world(2))
    channel = CoVisitation()
    channel.fit(data)
    users = np.arange(len(data.users))
    whole = channel.scores(users)
    monkeypatch.setattr(channels_module, "DENSE_UP_TO", 0)
    channel.fit(data)
    np.testing.assert_allclose(channel.scores(users), whole, rtol=1e-5)
    split = channels_module._split_by
    monkeypatch.setattr(channels_module, "_split_by", lambda sizes, most: split(sizes, 50))
    np.testing.assert_allclose(channel.scores(users), whole, rtol=1e-6)


def test_revisit_goes_by_the_newest_meeting():
    world = World(
        [Event(0, "u", "a"), Event(0, "u", "b", minute=1), Event(1, "u", "a")],
        ["a", "b", "c"], 2, np.eye(3, dtype=np.float32),
    )  # fmt: skip
    data = interactions(world)
    channel = Revisit(decay=0.5)
    channel.fit(data)
    assert channel.scores(np.array([0])).tolist() == [[1.0, 0.5, 0.0]]
    channel.fit(data.until(world.day(0)))
    assert channel.scores(np.array([0])).tolist() == [[0.5, 1.0, 0.0]]


def test_popularity_of_the_last_days_forgets():
    world = World(
        [Event(0, f"u{n}", "old") for n in range(5)] + [Event(9, "u0", "new"), Event(9, "u1", "new")],
        ["new", "old"], 10, np.eye(2, dtype=np.float32),
    )  # fmt: skip
    data = interactions(world)
    for days, wanted in ((None, [0.4, 1.0]), (7, [1.0, 0.0])):
        channel = Popularity(days)
        channel.fit(data)
        np.testing.assert_allclose(channel.scores(np.array([0]))[0], wanted, rtol=1e-6)


def test_scoring_before_fitting_is_refused():
    with pytest.raises(RuntimeError, match="call fit"):
        Revisit().scores(np.array([0]))


def test_items_the_snapshot_does_not_hold_are_refused():
    world = random_world(0)
    with pytest.raises(ValueError, match="does not hold"):
        Interactions.of(world, world.vectors, ["nowhere", *world.items[1:]])
    with pytest.raises(ValueError, match="one for each"):
        Interactions.of(world, world.vectors[1:], world.items)


def test_events_of_items_outside_the_catalogue_are_left_out():
    world = random_world(3)
    fewer = world.items[5:]
    data = Interactions.of(world, world.vectors[5:], fewer)
    assert data.item_ids.tolist() == sorted(fewer)
    assert len(data.events.item) == sum(e.item in set(fewer) for e in world.events)
