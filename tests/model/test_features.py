"""What the ranker looks at: the right candidates, and figures made of the past and of nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.model.channels import Channel, Revisit, Text, channels
from assets.model.features import EPSILON, OWN, PER_CHANNEL, Candidates, Features, _ranks
from assets.model.interactions import Counts, Interactions, Log
from tests.model.worlds import Event, World, births, little_worlds, random_world, unit

DAY = 86_400_000_000


def features(data: Interactions, *chosen: Channel) -> Features:
    """With all channels, or only these."""
    every = {channel.name: channel for channel in chosen} or channels()
    for channel in every.values():
        channel.fit(data)
    return Features(data, every)


def everything(data: Interactions) -> tuple[np.ndarray, np.ndarray]:
    """All users, and what is known allowed to each."""
    users = np.arange(len(data.users))
    return users, np.broadcast_to(data.known_items, (len(users), len(data.item_ids)))


def column(made: Features, found: Candidates, name: str) -> np.ndarray:
    return found.features[:, made.names.index(name)]


@settings(max_examples=25)
@given(little_worlds(), st.integers(0, 1000), st.integers(0, 6))
def test_candidates_are_allowed_and_as_many_as_are_asked_for(world, seed, least):
    """Each once, by user and item, with one figure for each name; as many of each shopper as there may be."""
    data = world.data
    users = np.arange(len(data.users))
    allowed = np.random.default_rng(seed).random((len(users), 5)) < 0.6
    made = features(data)
    found = made.candidates(users, allowed, least)
    assert allowed[found.row, found.item].all()
    assert (np.diff(found.row * 5 + found.item) > 0).all()
    assert found.features.shape == (len(found.row), len(made.names)) and len(set(made.names)) == len(
        made.names
    )
    assert np.isfinite(found.features).all()
    count = np.bincount(found.row, minlength=len(users))
    assert (count >= np.minimum(allowed.sum(axis=1), least)).all()
    own = np.zeros(allowed.shape, bool)
    own[data.events.user, data.events.item] = True
    assert (own & allowed)[found.row, found.item].sum() == (own & allowed).sum()
    assert np.unique(found.row).tolist() == np.flatnonzero(count).tolist()


def test_the_newest_of_many_own_items_and_the_best_of_each_channel_are_candidates():
    """Of what the shopper has met, the newest; of what they have not, the first of each channel."""
    things = OWN + PER_CHANNEL + 60
    items = [f"i{n:03d}" for n in range(things)]
    events = [Event(n // 1000, "u", items[n], minute=n) for n in range(OWN + 20)]
    alike = unit(np.abs(np.random.default_rng(0).normal(size=(things, 4))))
    data = World(events, items, 1, alike).data
    users, allowed = everything(data)
    text = Text()
    found = features(data, Revisit(), text).candidates(users, allowed)
    unmet = np.where(np.arange(things) < OWN + 20, -1, text.scores(users)[0])
    wanted = {*range(20, OWN + 20), *np.argsort(-unmet)[:PER_CHANNEL].tolist()}
    assert set(found.item.tolist()) == wanted


def test_where_the_channels_say_too_little_the_most_popular_others_join():
    events = [Event(0, "u", "i0"), *(Event(0, f"v{n}", f"i{2 + n % 3}") for n in range(7))]
    data = World(events, [f"i{n}" for n in range(6)], 1, np.eye(6, dtype=np.float32)).data
    users, allowed = everything(data)
    found = features(data, Revisit()).candidates(users[:1], allowed[:1], 4)
    assert found.item.tolist() == [0, 2, 3, 4]


@pytest.mark.parametrize("seed", range(3))
def test_a_block_has_the_figures_of_one_by_one(seed):
    data = random_world(seed).data
    made = features(data)
    users = np.random.default_rng(seed).permutation(len(data.users))
    _, allowed = everything(data)
    together = made.candidates(users, allowed, 10)
    for place, user in enumerate(users):
        alone = made.candidates(np.array([user]), allowed[:1], 10)
        mine = together.row == place
        assert together.item[mine].tolist() == alone.item.tolist()
        np.testing.assert_allclose(together.features[mine], alone.features, atol=2e-2)
        exact = np.isclose(together.features[mine], alone.features, atol=1e-5)
        assert exact.mean() > 0.99  # a score rounded the other way is one step of the rounding


@pytest.mark.parametrize("seed", range(2))
def test_the_future_changes_nothing(seed):
    world = random_world(seed)
    cut = world.day(3)
    planted = [Event(day, f"u{n % 15:02d}", "i03", "purchase", n) for day in (4, 5) for n in range(200)]
    figures = []
    for told in (world, random_world(seed, extra=planted)):
        data = told.data.until(cut)
        figures.append(features(data).candidates(*everything(data)))
    one, other = figures
    assert one.item.tolist() == other.item.tolist()
    np.testing.assert_array_equal(one.features, other.features)


def test_what_is_not_known_yet_changes_nothing():
    """Neither its words nor its price, and not even by being the nearest."""
    world = births()
    data = world.data.until(world.day(world.days - 2))
    late = ~data.known_items
    words, vectors = np.where(late, "Thing thing new", data.titles), data.vectors.copy()
    vectors[late] = -vectors[~late].mean(axis=0)
    price = np.where(np.arange(len(late)) % 2 == 0, 5.0 + np.arange(len(late)), np.nan)
    plain = replace(data, price=price)
    other = replace(data, price=np.where(late, 1e6, price), titles=words, categories=words, vectors=vectors)
    other = replace(other, categories=np.where(late, words, data.categories))
    users = data.known_users[:40]
    allowed = np.broadcast_to(~late, (len(users), len(late)))
    one, told = (features(d).candidates(users, allowed) for d in (plain, other))
    assert late.any() and one.item.tolist() == told.item.tolist()
    np.testing.assert_allclose(one.features, told.features, atol=1e-5)


def bare(data: Interactions, **columns: object) -> Interactions:
    """Without words, prices and vectors."""
    nothing = np.full(len(data.item_ids), "", object)
    return replace(
        data,
        titles=nothing,
        categories=nothing,
        brands=nothing,
        price=np.full(len(nothing), np.nan),
        vectors=np.zeros((len(nothing), 0), np.float32),
        **columns,  # type: ignore[arg-type]
    )


def in_order_only(data: Interactions) -> Interactions:
    """Times are places in a row; everything is of one day."""
    log, today = data.events, data.as_of.toordinal()
    order = np.argsort(np.argsort(log.at, kind="stable"))
    same = np.full(len(log.day), today)
    events = Log(same, log.user, log.item, log.level, order)
    return replace(data, events=events).only(np.ones(len(order), bool))


def silent(data: Interactions) -> Interactions:
    nothing = np.zeros(0, np.int64)
    return replace(
        data, events=Log(*[nothing] * 5), behaviors=Log(*[nothing] * 5), counts=Counts(*[nothing] * 3)
    )


ODD = {
    "bare": bare(random_world(0).data),
    "order only": in_order_only(random_world(1).data),
    "bare, in order only": bare(in_order_only(random_world(1).data)),
    "prices of nothing": replace(random_world(2).data, price=np.zeros(25)),
    "one user": random_world(3, shoppers=1, events=20).data,
    "one item": random_world(4, things=1, events=20).data,
    "one of each": random_world(5, shoppers=1, things=1, events=1, days=1).data,
    "nobody has come": silent(random_world(6).data),
    "nothing is known": random_world(7).data.until(random_world(7).day(-1)),
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD.keys())
def test_figures_are_finite_in_any_world(data):
    made = features(data)
    users, allowed = everything(data)
    found = made.candidates(users, allowed, 3)
    assert found.features.shape == (len(found.row), len(made.names))
    assert np.isfinite(found.features).all()
    assert len(found.row) >= len(users) * min(3, int(data.known_items.sum()))


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2)), max_size=20))
def test_equal_scores_have_the_worst_of_their_ranks(pairs):
    pairs = sorted(pairs, key=lambda pair: pair[0])
    row, score = np.array([r for r, _ in pairs], np.int64), np.array([s for _, s in pairs], np.float32)
    wanted = [sum(r == row[n] and s >= score[n] for r, s in pairs) - 1 for n in range(len(pairs))]
    np.testing.assert_allclose(_ranks(row, np.searchsorted(row, row), score), np.log1p(wanted), rtol=1e-6)


def test_figures_by_hand():
    """u looks at a on the first day, buys a and looks at b on the third, looks at c on the ninth; d is new to
    them. a and d are lamps of 10, b and c have no category and cost 40."""
    events = [Event(0, "u", "a"), Event(2, "u", "a", "purchase"), Event(2, "u", "b"), Event(8, "u", "c")]
    prices = {"a": 10.0, "b": 40.0, "c": 40.0, "d": 10.0}
    world = World(events, list("abcd"), 10, np.eye(4, dtype=np.float32), prices)
    data = replace(world.data, categories=np.asarray(["Lamps", "", "", "Lamps"], object))
    made = features(data)
    found = made.candidates(*everything(data), 4)
    assert found.item.tolist() == [0, 1, 2, 3]
    wanted = {
        "times met": [2, 1, 1, 0],
        "strongest": [4, 1, 1, 0],
        "days since met": np.append(np.log1p([6, 6, 0]), 9),
        "moments since met": np.append(np.log1p([1, 1, 0]), 9),
        "category share": [1 / 3, 0, 0, 1 / 3],
        "category of newest": [0, 0, 0, 0],  # it has none
        "price against own": np.log([10 / 40, 1, 1, 10 / 40]),
        "items met": np.full(4, np.log1p(3)),
        "events a day": np.full(4, np.log1p(3) - np.log1p(3)),
        "days away": np.full(4, np.log1p(1)),
        "busy": np.full(4, np.log1p(1)),
        "comes back": np.full(4, 1.1 / 4),
        "popularity": np.log(np.array([1, 0.5, 0.5, 0]) + 1e-4),
        "age": np.log1p([9, 7, 1, 0]),
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(column(made, found, name), values, atol=1e-5, err_msg=name)
    revisit = np.array([0.9, 0.9, 1, 0])
    np.testing.assert_allclose(column(made, found, "log revisit"), np.log(revisit + EPSILON), atol=1e-5)
    np.testing.assert_allclose(column(made, found, "rank revisit"), np.log1p([2, 2, 0, 3]), atol=1e-5)
