"""The sequence model: what it looks at, what it learns, and that it says the same to everyone alike."""

from __future__ import annotations

import copy
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from assets.model.interactions import GAPS, HeldOut, Interactions, Sequences, hold_out
from assets.model.metrics import ranking_metrics
from assets.model.sequence import SequenceConfig, SequenceModel, SequenceTrainer
from tests.model.worlds import Event, World, little_worlds, random_world, unit

CPU = torch.device("cpu")
TINY = SequenceConfig(
    width=16, length=8, dropout=0.1, learning_rate=1e-2, warmup=10, tokens=128, epochs=12, patience=100
)
"""Small shops are learnt in a second at a higher rate."""
UNTRAINED = replace(TINY, epochs=0)


def held(world: World) -> HeldOut:
    return hold_out(world.data, world.cut_off)


def fit(world: World, **changes: object) -> SequenceModel:
    return SequenceTrainer(replace(TINY, **changes), CPU).fit(held(world))


def logits(model: SequenceModel, data: Interactions, level: int = 0) -> np.ndarray:
    """[users, items] when asked for a behaviour."""
    states = model.states(data, np.arange(len(data.users))) + model.asking(level)
    return states @ model.vectors().numpy().T


def circle(seed: int = 0, things: int = 12, shoppers: int = 40, days: int = 3) -> World:
    """Everybody goes round: a, b, c, …, and begins again; each begins somewhere else."""
    random = np.random.default_rng(seed)
    items = [f"i{n:02d}" for n in range(things)]
    events = []
    for u in range(shoppers):
        place = int(random.integers(things))
        for day in range(days):
            for minute in range(1 if day == days - 1 else 6):
                events.append(Event(day, f"u{u:02d}", items[place % things], minute=minute))
                place += 1
    return World(events, items, days, np.zeros((things, 0), np.float32))


# ---- events in pieces


@settings(max_examples=100)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 12), st.integers(0, 1000))
def test_pieces_hold_every_step_of_every_shopper_once(lengths, length, seed):
    """A step is two events in a row; no piece has more than `length` of them."""
    start = np.concatenate([[0], np.cumsum(lengths)])
    events = int(start[-1])
    sequences = Sequences(start, *[np.arange(events)] * 3, np.zeros(events, bool))
    first, last = sequences.pieces(length, np.random.default_rng(seed))
    steps = [n for a, b in zip(first, last, strict=True) for n in range(a, b - 1)]
    wanted = [n for a, b in pairwise(start) for n in range(a, b - 1)]
    assert sorted(steps) == wanted
    assert ((last - first >= 2) & (last - first <= length + 1)).all()
    place, real = sequences.padded(first, last)
    assert [place[row][real[row]].tolist() for row in range(len(first))] == [
        list(range(a, b)) for a, b in zip(first, last, strict=True)
    ]
    assert not place[~real].any() and (np.diff(real.astype(int), axis=1) <= 0).all()  # padded at the end


def test_the_cuts_lie_elsewhere_each_time():
    sequences = Sequences(np.array([0, 100]), *[np.arange(100)] * 3, np.zeros(100, bool))
    random = np.random.default_rng(0)
    assert len({tuple(sequences.pieces(20, random)[0]) for _ in range(10)}) > 3


@settings(max_examples=50)
@given(little_worlds())
def test_events_stand_by_shopper_time_and_item(world):
    """Each with the time since the one before, and whether the shopper had met the item."""
    data = world.data
    sequences = Sequences.of(data)
    for user, name in enumerate(data.users):
        own = sorted((e.day, e.minute, e.item) for e in world.events if e.user == name)
        part = slice(sequences.start[user], sequences.start[user + 1])
        assert data.item_ids[sequences.item[part]].tolist() == [item for *_, item in own]
        items = [item for *_, item in own]
        assert sequences.again[part].tolist() == [item in items[:n] for n, item in enumerate(items)]
        seconds = [86_400 * day + 60 * minute for day, minute, _ in own]
        gaps = [max(b - a, 1) for a, b in pairwise(seconds)]
        assert sequences.gap[part].tolist() == [0, *(1 + int(np.log2(gap)) for gap in gaps)][: len(own)]
        assert sequences.newest(np.array([user]), 3)[0] == max(part.start, part.stop - 3)


def test_a_gap_of_years_has_the_last_bucket():
    world = World([Event(0, "u", "a"), Event(3000, "u", "a")], ["a"], 3001, np.ones((1, 1), np.float32))
    assert Sequences.of(world.data).gap.tolist() == [0, GAPS - 1]


# ---- states


def test_a_later_event_does_not_change_an_earlier_state():
    world = random_world(0)
    network = fit(world, epochs=1, blocks=2).network.eval()
    vectors = network.items(torch.arange(25))
    random = torch.Generator().manual_seed(0)
    item, other = (torch.randint(25, (4, 8), generator=random) for _ in range(2))
    level, gap = torch.randint(4, (4, 8), generator=random), torch.randint(GAPS, (4, 8), generator=random)
    states = network(vectors, item, level, gap)
    for n in range(1, 8):
        late = torch.arange(8) >= n
        changed = network(vectors, torch.where(late, other, item), torch.where(late, 3 - level, level), gap)
        torch.testing.assert_close(changed[:, :n], states[:, :n])
        assert not torch.allclose(changed[:, n:], states[:, n:])


@pytest.mark.parametrize("seed", range(2))
def test_states_do_not_depend_on_who_else_is_in_the_batch(seed):
    world = random_world(seed, extra=[Event(0, "alone", "i00")])
    model, data = fit(world, epochs=1), world.data
    users = np.random.default_rng(seed).permutation(len(data.users))
    together = model.states(data, users)
    np.testing.assert_allclose(model.states(data, users, batch=3), together, atol=1e-4)
    vectors = model.vectors()
    one_by_one = np.concatenate([model.states(data, np.array([user]), vectors) for user in users])
    np.testing.assert_allclose(one_by_one, together, atol=1e-4)


def test_only_the_newest_events_count():
    world = circle(days=2)
    model, length = fit(world, epochs=1), TINY.length
    long = World(
        [Event(0, "u", world.items[n % 12], minute=n) for n in range(30)], world.items, 1, world.vectors
    )
    short = replace(long, events=long.events[-length - 1 :])  # the first of them tells how long ago it was
    np.testing.assert_allclose(*(model.states(w.data, np.array([0])) for w in (long, short)), atol=1e-5)


def test_who_has_met_nothing_has_a_state_of_nothing():
    world = random_world(0)
    early = world.data.until(world.day(-1))
    states = fit(world, epochs=1).states(early, np.arange(len(early.users)))
    assert states.shape == (len(early.users), TINY.width) and not states.any()


# ---- what is learnt


def test_what_always_comes_next_is_learnt():
    world = circle()
    day = held(world)
    scores = logits(fit(world), day.past)
    assert np.nanmean(ranking_metrics(scores, day.relevant(day.users))["ndcg@10"]) > 0.95


def test_what_is_bought_next_is_another_question_than_what_is_looked_at_next():
    """Whoever has looked at one thing looks at the next one, or buys what belongs to the first."""
    random, circle_of = np.random.default_rng(0), 6
    items = [*(f"look{n}" for n in range(circle_of)), *(f"take{n}" for n in range(circle_of))]
    events = []
    for u in range(60):
        place, minute = int(random.integers(circle_of)), 0
        for _ in range(6):
            events.append(Event(0, f"u{u:02d}", f"look{place}", minute=(minute := minute + 1)))
            if random.random() < 0.5:
                events.append(
                    Event(0, f"u{u:02d}", f"take{place}", "purchase", minute=(minute := minute + 1))
                )
            place = (place + 1) % circle_of
    world = World(events, items, 2, np.zeros((len(items), 0), np.float32))
    model = fit(world, epochs=20)
    asked = World([Event(0, f"u{n}", f"look{n}") for n in range(6)], items, 1, world.vectors).data
    looked, bought = (logits(model, asked, level).argmax(axis=1).tolist() for level in (0, 3))
    assert [asked.item_ids[n] for n in looked] == [f"look{(n + 1) % circle_of}" for n in range(6)]
    assert [asked.item_ids[n] for n in bought] == [f"take{n}" for n in range(6)]


def two_tastes() -> World:
    """Shoppers keep to one of two kinds of words; of each kind there is an item that nobody has ever met."""
    random = np.random.default_rng(0)
    items = [f"{kind}{n}" for kind in "ab" for n in range(8)]
    events = [
        Event(0, f"u{u:02d}", f"{'ab'[u % 2]}{random.integers(7)}", minute=minute)
        for u in range(60)
        for minute in range(6)
    ]
    kind = np.array([[1.0, 0.0] if item[0] == "a" else [0.0, 1.0] for item in items])
    return World(events, items, 2, unit(np.hstack([kind, 0.3 * random.normal(size=(16, 6))])))


def test_an_item_that_nobody_has_met_is_ranked_by_its_words():
    world = two_tastes()
    for user, row in enumerate(logits(fit(world, id_dropout=0.3), world.data)):
        own, other = row.reshape(2, 8)[:: 1 if user % 2 == 0 else -1]
        assert own[7] > other.max()


def test_repeats_are_not_learnt_where_only_new_items_count():
    """Everybody looks at one thing five times, and then at one that belongs to it."""
    items = [f"{kind}{n}" for kind in ("again", "then") for n in range(5)]
    events = [
        Event(0, f"u{u:02d}", f"again{u % 5}" if minute < 5 else f"then{u % 5}", minute=minute)
        for u in range(50)
        for minute in range(6)
    ]
    world = World(events, items, 2, np.zeros((10, 0), np.float32))
    asked = World([Event(0, f"u{n}", f"again{n}") for n in range(5)], items, 1, world.vectors).data
    every, new = (logits(fit(world, new_only=only), asked).argmax(axis=1).tolist() for only in (False, True))
    assert every == [0, 1, 2, 3, 4]
    assert new == [5, 6, 7, 8, 9]


# ---- the sampled softmax


@pytest.mark.parametrize("length", [1, 20], ids=["a step each", "whole pieces"])
def test_the_sampled_softmax_is_the_full_one_in_expectation(length):
    """Loss and gradient over many batches, against the softmax over all items, written down once more."""
    world = random_world(0, shoppers=60, things=500, events=3000, days=2)
    world = replace(world, vectors=np.zeros((500, 0), np.float32))
    trainer = SequenceTrainer(replace(UNTRAINED, negatives=240, length=20, dropout=0.0), CPU)
    network = trainer.fit(held(world)).network.train()
    torch.nn.init.normal_(network.ids.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    sequences, random = Sequences.of(world.data), np.random.default_rng(2)
    first, last = sequences.pieces(length, np.random.default_rng(1))
    losses, slopes = np.zeros(2), torch.zeros(2, *network.ids.weight.shape)
    for _ in range(100):
        rows = random.choice(len(first), 120 // length)
        place, real = sequences.padded(first[rows], last[rows])
        batch = (place[:, :-1], place[:, 1:][real[:, 1:]], real[:, 1:])
        for n, loss in enumerate(one(network, sequences, *batch) for one in (trainer._loss, slow_loss)):
            losses[n] += loss.item() / 100
            slopes[n] += torch.autograd.grad(loss, network.ids.weight)[0] / 100
    assert losses[1] > np.log(500)
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    assert functional.cosine_similarity(slopes[0].flatten(), slopes[1].flatten(), dim=0) > 0.97
    assert slopes[0].norm() == pytest.approx(float(slopes[1].norm()), rel=0.1)


def test_what_nobody_has_met_is_nobody_s_negative():
    """Its words would become a reason not to be met."""
    world = two_tastes()
    trainer = SequenceTrainer(replace(UNTRAINED, id_dropout=0.0), CPU)
    network = trainer.fit(held(world)).network.train()
    sequences = Sequences.of(world.data)
    place, real = sequences.padded(*sequences.pieces(20, np.random.default_rng(0)))
    loss = trainer._loss(network, sequences, place[:, :-1], place[:, 1:][real[:, 1:]], real[:, 1:])
    slope = torch.autograd.grad(loss, network.ids.weight)[0]
    met = np.isin(np.arange(16), sequences.item)
    assert not met.all()
    assert np.array_equal(slope.abs().sum(dim=1).numpy() > 0, met)


def slow_loss(network, sequences: Sequences, inputs, targets, learnt) -> torch.Tensor:
    """−log P of each next event among all items."""
    every = network.items(torch.arange(len(network.ids.weight)))
    columns = (
        torch.from_numpy(column[inputs]) for column in (sequences.item, sequences.level, sequences.gap)
    )
    states = network(every, *columns)[learnt] + network.wanted(torch.from_numpy(sequences.level[targets]))
    chance = torch.log_softmax(states @ every.T, dim=1)
    return -chance[torch.arange(len(targets)), torch.from_numpy(sequences.item[targets])].mean()


def test_with_few_items_the_softmax_is_the_full_one():
    world = random_world(0)
    trainer = SequenceTrainer(replace(UNTRAINED, dropout=0.0, id_dropout=0.0), CPU)
    network = trainer.fit(held(world)).network.train()
    sequences = Sequences.of(world.data)
    place, real = sequences.padded(*sequences.pieces(8, np.random.default_rng(1)))
    batch = (place[:, :-1], place[:, 1:][real[:, 1:]], real[:, 1:])
    found, wanted = trainer._loss(network, sequences, *batch), slow_loss(network, sequences, *batch)
    assert found.item() == pytest.approx(wanted.item(), abs=0.01)  # bfloat16 where the processor has it


# ---- training


def state(model: SequenceModel) -> dict[str, torch.Tensor]:
    return model.network.state_dict()


def test_the_same_seed_gives_the_same_weights():
    one, same, other = (state(fit(circle(), epochs=2, seed=seed)) for seed in (7, 7, 8))
    for name, weight in one.items():
        assert torch.equal(weight, same[name]), name
    assert not torch.equal(one["ids.weight"], other["ids.weight"])


def test_cooling_down_changes_nothing_of_what_is_kept():
    world = circle()
    trainer = SequenceTrainer(replace(TINY, epochs=3), CPU)
    first = trainer.fit(held(world))
    kept = copy.deepcopy(trainer.kept)
    second = trainer.cooled(world.data)
    for before, after in zip(kept, trainer.kept, strict=True):
        assert str(before) == str(after)
    for name, weight in kept[0].items():
        assert torch.equal(weight, trainer.kept[0][name])
    assert trainer.steps > 0
    assert not torch.equal(state(first)["ids.weight"], state(second)["ids.weight"])
    assert not torch.equal(state(first)["ids.weight"], kept[0]["ids.weight"])


def test_training_ends_where_the_held_out_ranking_no_longer_improves(monkeypatch):
    monkeypatch.setattr("assets.model.sequence.MEASURE_EVERY", 1)
    told: list[str] = []
    trainer = SequenceTrainer(replace(TINY, epochs=1000, patience=2), CPU, log=told.append)
    trainer.fit(held(circle()))
    assert 0 < trainer.steps < 500
    assert told[-1].startswith(f"sequence model: {trainer.steps:,} steps to NDCG@10")


def test_a_budget_of_no_time_still_gives_a_model():
    trainer = SequenceTrainer(replace(TINY, epochs=1000), CPU, seconds=0.0)
    assert np.isfinite(logits(trainer.fit(held(circle())), circle().data)).all()


@pytest.mark.parametrize(
    "events",
    [
        [],
        [Event(0, "u", "a")],
        [Event(0, "u", "a"), Event(1, "v", "b")],
        [Event(0, "u", "a"), Event(1, "u", "a")],
    ],
    ids=["nobody", "one event", "one event each", "one step"],
)
def test_a_shop_with_next_to_nothing_gets_a_model(events):
    world = World(events, ["a", "b"], 2, np.eye(2, dtype=np.float32))
    config = SequenceConfig.for_shop(world.data, width=8, epochs=2)
    trainer = SequenceTrainer(config, CPU)
    for model in (trainer.fit(held(world)), trainer.cooled(world.data)):
        assert np.isfinite(logits(model, world.data)).all()


def test_sizes_suit_the_shop():
    """Lengths that hold nine of ten histories, within bounds; less dropout where items are met more often."""
    quick, slow = (
        random_world(0, shoppers=2, things=5, events=1000),
        random_world(0, shoppers=100, things=200),
    )
    few, many = SequenceConfig.for_shop(slow.data), SequenceConfig.for_shop(quick.data, width=64)
    assert (few.length, many.length) == (10, 200) and many.width == 64
    assert 0.2 <= many.dropout < few.dropout == 0.5
    middle = SequenceConfig.for_shop(random_world(0, shoppers=10, events=300).data)
    counts = np.bincount(random_world(0, shoppers=10, events=300).data.events.user)
    assert (counts <= middle.length + 1).mean() >= 0.9


# ---- on other items


def test_what_is_saved_is_what_is_loaded_on_whatever_items_there_are(tmp_path: Path):
    """Items that are known keep their scores; new ones are there too; gone ones are gone."""
    world = two_tastes()
    priced = replace(world, prices={item: 1.0 + n for n, item in enumerate(world.items)})
    model = fit(priced, epochs=2)
    model.save(tmp_path / "sequence.safetensors")
    plain = logits(model, priced.data)
    same = SequenceModel.load(tmp_path / "sequence.safetensors", priced.data)
    np.testing.assert_array_equal(logits(same, priced.data), plain)
    vectors = np.vstack([world.vectors, world.vectors[:1]])
    more = replace(priced, items=[*world.items, "a9"], vectors=vectors)
    on_more, where = SequenceModel.load(tmp_path / "sequence.safetensors", more.data), np.arange(17) != 8
    np.testing.assert_allclose(logits(on_more, more.data)[:, where], plain, atol=1e-5)
    fewer = replace(priced, items=world.items[:-1], vectors=world.vectors[:-1])
    np.testing.assert_allclose(logits(model.on(fewer.data), fewer.data), plain[:, :-1], atol=1e-5)


def test_what_is_cheap_is_told_by_the_items_known_by_then():
    shop = two_tastes()
    prices = {item: 1.0 + n for n, item in enumerate(shop.items)}
    world = replace(shop, prices=prices, first_seen={"a7": 5, "b7": 5})
    dearer = replace(world, prices={**prices, "a7": 1e6, "b7": 1e6})
    one, other = (fit(w, epochs=0).edges for w in (world, dearer))
    assert one == other and len(one) == 9


def test_an_item_it_never_saw_has_its_words_and_price():
    world = two_tastes()
    model = fit(world, epochs=2)
    twin = replace(world, items=[*world.items, "c"], vectors=np.vstack([world.vectors, world.vectors[:1]]))
    vectors = model.on(twin.data).vectors()
    network = model.network
    words = network.words(torch.from_numpy(world.vectors[:1])) + network.prices(torch.tensor([0]))
    np.testing.assert_allclose(vectors[16:].numpy(), words.detach().numpy(), atol=1e-6)
