"""The contract that every channel keeps, and what each of them must find in a tiny world."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.model.channels import (
    HARDLY,
    Attributes,
    Channel,
    CoVisitation,
    Ease,
    Foresight,
    Habit,
    Novelty,
    Popularity,
    Revisit,
    Segment,
    SequenceChannel,
    Text,
    channels,
    co_visits,
    ease,
    newest,
    tags,
)
from assets.model.interactions import Interactions
from assets.model.metrics import top_k
from assets.model.rules import NEW_DAYS
from assets.model.scored import Chosen, best_of
from assets.model.sequence import SequenceConfig, SequenceTrainer
from tests.model.worlds import Event, World, checkerboard, clusters, little_worlds, random_world

LAST = NEW_DAYS + 6
"""The last day of a shop that has been watched long enough to know what is new."""
EVERY = {**channels(), "popularity_3d": Popularity(days=3), "sequence": None}


def sequence_channel() -> SequenceChannel:
    """A model that has seen some random world; it is put on the items of any other."""
    config = SequenceConfig(width=8, length=10, epochs=1)
    model = SequenceTrainer(config, torch.device("cpu")).fit(random_world(0).held)
    return SequenceChannel("sequence", Foresight(model), level=0)


@pytest.fixture(params=list(EVERY))
def fitted(request: pytest.FixtureRequest) -> Callable[[Interactions], Channel]:
    def fit(data: Interactions) -> Channel:
        channel = sequence_channel() if request.param == "sequence" else replace(EVERY[request.param])
        channel.fit(data)
        return channel

    return fit


def watched(seed: int) -> World:
    """A random world in which some items are new."""
    world = random_world(seed, days=LAST + 1)
    new = dict.fromkeys(world.items[:5], LAST - 2)
    return replace(world, events=[e for e in world.events if e.item not in new], first_seen=new)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_finite_and_never_negative(fitted, seed):
    data = watched(seed).data
    users = np.arange(len(data.users))
    scores = fitted(data).scores(users)
    assert scores.shape == (len(users), len(data.item_ids))
    assert np.isfinite(scores).all() and (scores >= 0).all() and (scores > 0).any()


@pytest.mark.parametrize("seed", range(3))
def test_a_block_of_users_scores_like_one_by_one(fitted, seed):
    data = random_world(seed).data
    channel = fitted(data)
    shuffled = np.random.default_rng(seed).permutation(len(data.users))
    together = channel.scores(shuffled)
    for row, user in enumerate(shuffled):
        np.testing.assert_allclose(channel.scores(np.array([user]))[0], together[row], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dense_from", [0.0, 2.0])
@pytest.mark.parametrize("seed", range(2))
def test_a_block_says_of_some_what_the_scores_say_of_all(fitted, monkeypatch, seed, dense_from):
    """The same shares of the best, and the same first items, but for what rounding mixes up."""
    monkeypatch.setattr("assets.model.scored.DENSE_FROM", dense_from)
    data = watched(seed).data
    users, channel = np.arange(len(data.users)), fitted(data)
    among = Chosen(np.random.default_rng(seed).random((len(users), len(data.item_ids))) < 0.7)
    scores = channel.scores(users)
    wanted = scores / np.maximum(scores.max(axis=1, keepdims=True), 1e-12)
    np.testing.assert_allclose(shares(channel, users, len(data.item_ids)), wanted, atol=1e-5)
    first = channel.block(users).first(5, among)
    told = np.zeros(scores.shape, bool)
    told[first.row, first.item] = True
    assert told.sum() == len(first.row) and not (told & ~among.mask).any()
    fifth = -np.sort(-np.where(among.mask, scores, 0), axis=1)[:, 4:5]
    assert told[(scores > fifth * (1 + 1e-5) + 1e-7) & among.mask].all()
    assert (scores >= fifth * (1 - 1e-5) - 1e-7)[told].all()
    assert (told.sum(axis=1) == np.minimum(((scores > 0) & among.mask).sum(axis=1), 5)).all()


def shares(channel: Channel, users: np.ndarray, items: int) -> np.ndarray:
    """[users, items] shares of each user's best that a channel's block tells."""
    block, every = channel.block(users), Chosen(np.ones((len(users), items), bool))
    best = best_of(len(users), block, block.first(1, every), every)
    return block.share(block.at(every), best[every.places[0]]).reshape(len(users), items)


def test_fitted_again_it_has_forgotten_what_was_before(fitted):
    one, other = random_world(1).data, random_world(2).data
    users, items = np.arange(len(other.users)), len(other.item_ids)
    channel, fresh = fitted(one), fitted(other)
    shares(channel, users, items)
    channel.fit(other)
    np.testing.assert_array_equal(shares(channel, users, items), shares(fresh, users, items))
    np.testing.assert_array_equal(channel.scores(users), fresh.scores(users))


def test_a_sequence_model_sees_the_events_that_came_since():
    """What it has learnt stays, as does what it knows of items; the histories are longer."""
    world = random_world(3)
    early, late = world.data.until(world.day(2)), world.data
    channel, users = sequence_channel(), np.arange(len(late.users))
    channel.fit(early)
    before = shares(channel, users, len(late.item_ids))
    channel._data = late
    after = shares(channel, users, len(late.item_ids))
    assert not np.allclose(before, after)
    fresh = sequence_channel()
    fresh.fit(late)
    np.testing.assert_allclose(after, shares(fresh, users, len(late.item_ids)), atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_future_changes_nothing(fitted, seed):
    """As of a day, planted rows of later days are not seen, whatever they say."""
    world = random_world(seed)
    cut = world.day(3)
    planted = [
        Event(day, f"u{n % 15:02d}", world.items[0], "purchase", n) for day in (4, 5) for n in range(200)
    ]
    plain, told = world.data, random_world(seed, extra=planted).data
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
    a, b = world.data, other.data
    assert a.item_ids.tolist() == b.item_ids.tolist()
    users = np.arange(len(a.users))
    np.testing.assert_allclose(fitted(a).scores(users), fitted(b).scores(users), rtol=1e-5, atol=1e-6)


def test_a_user_without_history_gets_no_personal_score():
    data = random_world(1).data.until(random_world(1).day(-1))
    for channel in channels().values():
        channel.fit(data)
        assert not channel.scores(np.arange(len(data.users))).any()


@pytest.mark.parametrize("channel", [CoVisitation(), Text()], ids=lambda c: c.name)
def test_the_held_out_diagonal_of_a_checkerboard_is_found(channel):
    """Among what a user has not met, the held-out item of their own colour comes first."""
    world = checkerboard()
    data = world.data
    past = data.until(world.day(3))
    channel.fit(past)
    users = np.arange(len(data.users))
    met = np.zeros((len(users), len(data.item_ids)), bool)
    met[past.events.user, past.events.item] = True
    best = top_k(channel.scores(users), 1, ~met)[:, 0]
    assert best.tolist() == list(range(len(users)))


def test_words_lead_to_items_nobody_has_met():
    world = clusters()
    past = world.data.until(world.day(5))
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
    data = world.data
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


def slow_co_visits(data: Interactions, window: int, fading: float, backward: float, to: int) -> np.ndarray:
    """Step by step in plain Python."""
    count, log = np.zeros((len(data.item_ids),) * 2), data.events
    for user in set(log.user.tolist()):
        own = log.where(log.user == user)
        events = sorted(zip(own.at.tolist(), own.item.tolist(), own.level.tolist(), strict=True))
        runs = [list(run) for _, run in groupby(events, key=lambda event: event[1])]
        steps = [(run[0][0], run[0][1], max(level for _, _, level in run)) for run in runs]
        moments = sorted({at for at, _, _ in steps})
        for first, (at, a, strong) in enumerate(steps):
            for later, b, level in steps[first + 1 : first + 1 + window]:
                gap = moments.index(later) - moments.index(at)
                if a != b:
                    count[a, b] += (level >= to) * fading ** max(gap - 1, 0)
                    count[b, a] += (strong >= to) * fading ** max(gap - 1, 0) * (backward if gap else 1)
    return count


@settings(max_examples=100)
@given(
    little_worlds(), st.sampled_from([1, 3, 10]), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0, 3])
)
def test_co_visits_are_what_plain_python_counts(world, window, backward, to):
    data = world.data
    slow = slow_co_visits(data, window, 0.8, backward, to)
    np.testing.assert_allclose(co_visits(data, window, 0.8, backward, to).toarray(), slow, rtol=1e-5)
    with mock.patch("assets.model.channels.PAIRS", 3):  # in portions, as what is not tiny
        np.testing.assert_allclose(co_visits(data, window, 0.8, backward, to).toarray(), slow, rtol=1e-5)


@settings(max_examples=50)
@given(little_worlds(), st.permutations(range(5)))
def test_the_order_within_a_basket_means_nothing(world, names):
    """Where everything is met once: which of a basket comes first by its name makes no difference."""
    once = {(e.user, e.item): e for e in world.events}
    plain = replace(world, events=list(once.values()))
    renamed = replace(plain, events=[replace(e, item=f"i{names[int(e.item[1:])]}") for e in plain.events])
    one, other = (co_visits(w.data, 10, 0.8, 0.5, 0).toarray() for w in (plain, renamed))
    np.testing.assert_allclose(other[np.ix_(names, names)], one, rtol=1e-5)


def test_what_was_bought_after_is_another_question_than_what_was_met_after():
    """Everybody looks at b after a, and buys c."""
    path = [("a", "browse"), ("b", "browse"), ("c", "purchase")]
    events = [
        Event(0, f"u{u}", item, what, minute) for u in range(3) for minute, (item, what) in enumerate(path)
    ]
    data = World(events, list("abc"), 1, np.eye(3, dtype=np.float32)).data
    met, bought = CoVisitation(), CoVisitation("bought", backward=0.0, to="purchase")
    for channel, best in ((met, 1), (bought, 2)):
        channel.fit(data)
        assert channel.between(np.array([0, 0]), np.array([1, 2])).argmax() + 1 == best


@pytest.mark.parametrize("seed", range(3))
def test_ease_is_the_textbooks(seed):
    data = random_world(seed).data
    met = np.zeros((len(data.users), len(data.item_ids)))
    met[data.events.user, data.events.item] = 1
    gram = met.T @ met + 2 * len(data.users) ** 0.5 * np.eye(len(data.item_ids))
    precision = np.linalg.inv(gram)
    wanted = -precision / np.diag(precision)
    np.fill_diagonal(wanted, 0)
    np.testing.assert_allclose(ease(data), wanted, atol=1e-5)


def test_ease_says_nothing_of_a_catalogue_too_large_for_it(monkeypatch):
    monkeypatch.setattr("assets.model.channels.EASE_UP_TO", 24)
    channel = Ease()
    channel.fit(random_world(0).data)
    assert not channel.scores(np.arange(15)).any()


def shop() -> Interactions:
    """Two brands and two categories; some items are described, one is not at all."""
    events = [Event(8, "u", "red shoe"), Event(9, "u", "blue shoe", minute=1), Event(9, "v", "lamp")]
    events += [Event(9, f"w{n}", "boot") for n in range(3)]
    items = ["blue shoe", "boot", "lamp", "nameless", "red shoe"]
    data = World(events, items, 10, np.eye(5, dtype=np.float32)).data
    words = {
        "titles": ["Blue shoe", "Boot", "Lamp, red", "", "Red shoe"],
        "categories": ["Shoes > Low", "Shoes > High", "Light", "", "Shoes > Low"],
        "brands": ["Acme", "Bolt", "Acme", "", "Bolt"],
    }
    return replace(data, **{name: np.asarray(column, object) for name, column in words.items()})


def test_tags_are_tf_idf_of_what_is_said():
    data = shop()
    said = [
        {"category shoes", "category low", "brand acme", "blue", "shoe"},
        {"category shoes", "category high", "brand bolt", "boot"},
        {"category light", "brand acme", "lamp", "red"},
        set(),
        {"category shoes", "category low", "brand bolt", "red", "shoe"},
    ]
    words = sorted(set().union(*said))
    wanted = np.array([[np.log(5 / sum(w in s for s in said)) * (w in own) for w in words] for own in said])
    wanted /= np.maximum(np.linalg.norm(wanted, axis=1, keepdims=True), 1e-9)
    found = tags(data)
    np.testing.assert_allclose((found @ found.T).toarray(), wanted @ wanted.T, atol=1e-6)


def test_tags_know_nothing_of_what_is_not_known_yet():
    data = replace(shop(), first_seen=np.array([1, 1, 10**9, 1, 1]))
    wiser = replace(data, titles=np.asarray(["Blue shoe", "Boot", "Boot, blue", "", "Red shoe"], object))
    known = data.known_items
    one, other = (tags(d)[known] for d in (data, wiser))
    np.testing.assert_allclose((one @ one.T).toarray(), (other @ other.T).toarray(), atol=1e-6)


def test_items_that_share_rare_words_are_found_without_an_encoder():
    channel = Attributes()
    channel.fit(shop())
    blue_shoe, boot, lamp, nameless, red_shoe = channel.scores(np.array([0]))[0]
    assert 1 >= min(blue_shoe, red_shoe) > max(boot, lamp)
    assert min(boot, lamp) > 0 == nameless


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 1.0])
def test_common_and_rare_words_count_alike(monkeypatch, share):
    """However many words are called common, scores are cosines of what is said."""
    monkeypatch.setattr("assets.model.channels.COMMON", share)
    data = random_world(2).data
    words = [f"word{n % 3} word{n % 10} word{n}" for n in range(len(data.item_ids))]
    data = replace(data, titles=np.asarray(words, object))
    channel, said, users = Attributes(), tags(data).toarray(), np.arange(len(data.users))
    channel.fit(data)
    profile = newest(data, users, channel.decay, channel.most) @ said
    length = np.linalg.norm(profile, axis=1, keepdims=True)
    np.testing.assert_allclose(channel.scores(users), profile / np.maximum(length, 1e-9) @ said.T, atol=1e-6)


def test_habits_are_days_each_worth_half_after_the_half_life():
    events = [Event(0, "u", "a"), Event(0, "u", "a", minute=5), Event(6, "u", "a"), Event(9, "u", "b")]
    world = World(events, list("abc"), 10, np.eye(3, dtype=np.float32))
    channel = Habit(half_life=3)
    channel.fit(world.data)
    np.testing.assert_allclose(channel.scores(np.array([0])), [[0.5**3 + 0.5, 1, 0]])


def test_popular_within_what_the_shopper_cares_for():
    """u's newest item is a blue shoe, the one before it a red one; boots are what everybody looks at."""
    data = shop()
    popular = np.array([1, 3, 1, 0, 1]) / 3  # the red shoe was met the day before
    for by, share in (("category", [1.9, 0, 0, 0, 1.9]), ("brand", [1, 0.9, 1, 0, 0.9])):
        channel = Segment(by)
        channel.fit(data)
        np.testing.assert_allclose(channel.scores(np.array([0]))[0], share * popular, rtol=1e-5)


def test_novelty_is_the_words_of_what_is_new_or_hardly_anybody_has_met():
    """But not of what is not known yet."""
    world = watched(1)
    late = world.items[5]
    events = [e for e in world.events if e.item not in (late, *world.items[6:8])]
    met = [Event(LAST, f"u{n:02d}", world.items[0]) for n in range(HARDLY)]  # new, and met by some
    data = replace(world, events=[*events, *met], first_seen={**world.first_seen, late: LAST + 1}).data
    text, novelty = Text(), Novelty()
    for channel in (text, novelty):
        channel.fit(data)
    users, wanted = np.arange(len(data.users)), np.isin(data.item_ids, [*world.items[:5], *world.items[6:8]])
    np.testing.assert_array_equal(novelty.scores(users), text.scores(users) * wanted)


def test_a_sequence_channel_gives_its_best_item_one_and_asks_for_its_behaviour():
    channel = sequence_channel()
    data, users = random_world(1).data, np.arange(5)
    channel.fit(data)
    scores = channel.scores(users)
    np.testing.assert_array_equal(scores.max(axis=1), 1)
    model = channel.foresight.model
    states = model.states(data, users)
    for level in (0, 3):
        logits = (states + model.asking(level)) @ model.vectors().numpy().T
        asked = replace(channel, level=level)
        asked.fit(data)
        wanted = np.exp(logits - logits.max(axis=1, keepdims=True))
        np.testing.assert_allclose(asked.scores(users), wanted, atol=1e-5)


def test_revisit_goes_by_the_newest_meeting():
    world = World(
        [Event(0, "u", "a"), Event(0, "u", "b", minute=1), Event(1, "u", "a")],
        ["a", "b", "c"], 2, np.eye(3, dtype=np.float32),
    )  # fmt: skip
    data = world.data
    channel = Revisit(decay=0.5)
    channel.fit(data)
    assert channel.scores(np.array([0])).tolist() == [[1.0, 0.5, 0.0]]
    channel.fit(data.until(world.day(0)))
    assert channel.scores(np.array([0])).tolist() == [[0.5, 1.0, 0.0]]


def test_what_was_bought_in_one_basket_is_equally_new():
    events = [Event(0, "u", "a"), Event(0, "u", "b"), Event(1, "u", "c"), Event(1, "u", "d")]
    channel = Revisit(decay=0.5)
    channel.fit(World(events, list("abcd"), 2, np.eye(4, dtype=np.float32)).data)
    assert channel.scores(np.array([0])).tolist() == [[0.5, 0.5, 1.0, 1.0]]


def test_popularity_of_the_last_days_forgets():
    world = World(
        [Event(0, f"u{n}", "old") for n in range(5)] + [Event(9, "u0", "new"), Event(9, "u1", "new")],
        ["new", "old"], 10, np.eye(2, dtype=np.float32),
    )  # fmt: skip
    data = world.data
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
