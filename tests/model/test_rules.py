"""What may stand on a shelf, and in which order."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.model.interactions import Interactions
from assets.model.rules import (
    FEW,
    NEW_DAYS,
    WITHOUT_EVIDENCE,
    Rules,
    allowed,
    arrange,
    fit_rules,
    held_back,
    new_items,
    show_new,
)
from tests.model.worlds import Event, World, random_world, unit

ITEMS = 12
DECIDED = {"most_per_brand": None, "diversity": 0.0, "new_items": 0.0, "bought_again": {}}


def shop(brands: list[str] | None = None, new: int = 0) -> Interactions:
    """Twelve items of some brands, the last `new` of them new, in a shop watched for a month."""
    items = [f"i{n:02d}" for n in range(ITEMS)]
    vectors = unit(np.random.default_rng(0).normal(size=(ITEMS, 6)))
    first_seen = dict.fromkeys(items[ITEMS - new :], 28)
    world = World([Event(0, "u", "i00")], items, 30, vectors, first_seen=first_seen)
    data = Interactions.of(world, world.vectors, world.items)
    return replace(data, brands=np.asarray(brands or ["Brand"] * ITEMS, object))


def candidates(scores: list[list[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, item and score of ragged rows of scores, where the n-th score of a row is that of item n."""
    row = np.repeat(np.arange(len(scores)), [len(s) for s in scores])
    item = np.concatenate([np.zeros(0, np.int64), *(np.arange(len(s)) for s in scores)]).astype(np.int64)
    return row, item, np.array([v for s in scores for v in s])


def shelves(data: Interactions, scores: list[list[float]], k: int, rules: Rules) -> list[list[int]]:
    """The items on each shelf."""
    row, item, score = candidates(scores)
    chosen = arrange(data, row, item, score, k, rules)
    assert (np.diff(row[chosen]) >= 0).all()
    return [item[chosen][row[chosen] == n].tolist() for n in range(len(scores))]


def one(data: Interactions, scores: list[float], k: int, rules: Rules) -> list[int]:
    (shelf,) = shelves(data, [scores], k, rules)
    return shelf


SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.7, 0.9]), max_size=ITEMS)
BRANDS = st.lists(st.sampled_from(["", "a", "b", "c"]), min_size=ITEMS, max_size=ITEMS)
RULES = st.builds(
    Rules,
    most_per_brand=st.none() | st.integers(1, 4),
    diversity=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    new_items=st.sampled_from([0.0, 0.1, 0.4]),
)


@settings(max_examples=150)
@given(st.lists(SCORES, max_size=5), BRANDS, st.integers(0, 5), st.integers(1, 14), RULES)
def test_a_batch_is_one_by_one_and_no_rule_makes_a_shelf_shorter(scores, brands, new, k, rules):
    data = shop(brands, new)
    together = shelves(data, scores, k, rules)
    assert together == [one(data, each, k, rules) for each in scores]
    for shelf, each in zip(together, scores, strict=True):
        assert len(shelf) == len(set(shelf)) == min(k, len(each))


@settings(max_examples=100)
@given(SCORES, BRANDS, st.integers(1, 14), RULES, st.randoms())
def test_the_order_of_the_candidates_does_not_matter_where_scores_differ(scores, brands, k, rules, random):
    data, score = shop(brands, new=3), np.array(scores) + np.arange(len(scores)) * 1e-3
    row, item = np.zeros(len(scores), np.int64), np.arange(len(scores))
    mixed = np.array(random.sample(range(len(scores)), len(scores)), np.int64)
    plain = item[arrange(data, row, item, score, k, rules)]
    other = item[mixed][arrange(data, row, item[mixed], score[mixed], k, rules)]
    assert plain.tolist() == other.tolist()


@settings(max_examples=100)
@given(SCORES, BRANDS, st.integers(1, 14), st.none() | st.just(ITEMS))
def test_without_diversity_the_shelf_is_in_order_of_scores(scores, brands, k, most):
    """With a limit that nobody reaches, too; equal scores stay in the order given."""
    wanted = np.argsort(-np.array(scores), kind="stable")[:k].tolist()
    assert one(shop(brands), scores, k, Rules(most_per_brand=most)) == wanted


@settings(max_examples=150)
@given(SCORES, BRANDS, st.integers(1, 14), st.integers(1, 4), st.sampled_from([0.0, 0.3]))
def test_a_brand_goes_above_its_limit_only_where_nothing_else_is_left(scores, brands, k, most, diversity):
    data = shop(brands)
    shelf = one(data, scores, k, Rules(most_per_brand=most, diversity=diversity))
    within = sum(
        min(count, most) if brand else count for brand, count in Counter(brands[: len(scores)]).items()
    )
    shown: Counter[str] = Counter()
    for place, item in enumerate(shelf):
        shown[brands[item]] += 1
        above = bool(brands[item]) and shown[brands[item]] > most
        assert above == (place >= within)


def test_a_brand_is_cut_at_its_limit():
    data = shop(["a"] * 6 + ["b"] * 6)
    scores = np.linspace(1, 0, ITEMS).tolist()
    assert one(data, scores, 5, Rules(most_per_brand=3)) == [0, 1, 2, 6, 7]
    assert one(data, scores[:7], 6, Rules(most_per_brand=3)) == [0, 1, 2, 6, 3, 4]
    assert one(shop([""] * ITEMS), scores, 5, Rules(most_per_brand=1)) == [0, 1, 2, 3, 4]


def test_diversity_brings_what_is_unlike_forward():
    """Items 0 and 1 are the same thing, 2 is another; the more diversity, the sooner 2 comes."""
    vectors = np.zeros((ITEMS, 6), np.float32)
    vectors[np.arange(ITEMS), [0, 0, 1, *[2] * 9]] = 1
    data = replace(shop(), vectors=vectors)
    scores = [0.9, 0.8, 0.1]
    assert one(data, scores, 3, Rules()) == [0, 1, 2]
    assert one(data, scores, 3, Rules(diversity=0.4)) == [0, 1, 2]
    assert one(data, scores, 3, Rules(diversity=0.5)) == [0, 2, 1]
    assert one(data, scores, 3, Rules(diversity=1.0)) == [0, 2, 1]


@pytest.mark.parametrize("diversity", [0.1, 0.4, 0.8])
def test_diversity_is_maximal_marginal_relevance(diversity):
    """Place by place, in plain Python."""
    data = shop()
    scores = np.random.default_rng(1).random(ITEMS)
    relevance = (scores - scores.min()) / (scores.max() - scores.min())
    shelf: list[int] = []
    while len(shelf) < 8:
        left = [i for i in range(ITEMS) if i not in shelf]
        near = {i: max((float(data.vectors[i] @ data.vectors[j]) for j in shelf), default=0.0) for i in left}
        shelf.append(max(left, key=lambda i: (1 - diversity) * relevance[i] - diversity * near[i]))
    assert one(data, scores.tolist(), 8, Rules(diversity=diversity)) == shelf


def test_new_items_get_their_share_at_the_end_of_the_shelf():
    data = shop(new=3)
    scores = [*np.linspace(1, 0.5, 9), 0.1, 0.3, 0.2]
    assert one(data, scores, 5, Rules(new_items=0.2)) == [0, 1, 2, 3, 10]
    assert one(data, scores, 5, Rules(new_items=0.4)) == [0, 1, 2, 10, 11]
    assert one(data, scores, 4, Rules(new_items=0.2)) == [0, 1, 2, 3]  # not a whole place
    assert one(data, scores[:9], 5, Rules(new_items=0.4)) == [0, 1, 2, 3, 4]  # none among the candidates


def test_new_items_that_stand_there_anyway_are_their_share():
    data = shop(new=3)
    assert one(data, [*np.linspace(1, 0.5, 9), 0.95, 0, 0], 5, Rules(new_items=0.2)) == [0, 9, 1, 2, 3]


def test_the_limit_of_a_brand_goes_before_new_items():
    data = shop(["a"] * 9 + ["b", "c", "a"], new=3)
    scores = [*np.linspace(1, 0.5, 9), 0.1, 0.2, 0.3]
    assert one(data, scores, 3, Rules(most_per_brand=2, new_items=0.4)) == [0, 1, 10]


@given(
    st.integers(1, 3),
    st.integers(1, 30),
    st.lists(st.booleans(), min_size=30, max_size=30),
    st.integers(2, 6),
    st.randoms(use_true_random=False),
)
def test_a_place_in_every_few_is_for_items_that_nobody_has_met(users, items, unmet, every, random):
    """Against a loop over places: others keep their order, the best of the new come first."""
    scores = np.array([random.sample(range(100), items) for _ in range(users)], np.float32)
    liked = np.array([random.sample(range(1, 100), items) for _ in range(users)], np.float32)
    fresh = liked * np.array(unmet[:items])
    after = show_new(scores, fresh, every, upto=12)
    for before, like, now in zip(scores, fresh, after, strict=True):
        ranking, top = list(np.argsort(-before)), set(np.argsort(-before)[:12])
        waiting = [n for n in np.argsort(-like) if like[n] > 0 and n not in top]
        for last in range(every - 1, min(12, items), every):
            if waiting and not any(like[n] > 0 for n in ranking[last - every + 1 : last + 1]):
                ranking.remove(waiting[0])
                ranking.insert(last, waiting.pop(0))
        assert list(np.argsort(-now, kind="stable")) == ranking


def test_new_is_what_came_lately_to_a_shop_long_known_and_was_met_by_few():
    items = ["old", "new", "hit", "later"]
    first_seen = {"old": 0, "new": 30, "hit": 30, "later": 36}
    events = [Event(31, f"u{n}", "hit") for n in range(FEW)]
    world = World(events, items, 36, np.eye(4, dtype=np.float32), first_seen=first_seen)
    data = Interactions.of(world, world.vectors, world.items)
    assert data.item_ids[new_items(data)].tolist() == ["new"]
    assert data.item_ids[new_items(data.until(world.day(30 - 1)))].tolist() == []
    young = replace(world, first_seen={**first_seen, "old": 31 - NEW_DAYS})
    assert not new_items(Interactions.of(young, young.vectors, young.items)).any()
    undated = replace(young, first_seen={**young.first_seen, "later": (date(1970, 1, 1) - world.day(0)).days})
    assert not new_items(Interactions.of(undated, undated.vectors, undated.items)).any()


# Bought already -------------------------------------------------------------------------------------------


def market(seed: int, again: dict[str, float], shoppers: int = 120, days: int = 28) -> Interactions:
    """Shoppers come every other day, buy one of twenty things, and each thing of a category that they have
    bought before with the chance named for it.
    """
    random = np.random.default_rng(seed)
    category = {f"i{n:02d}": list(again)[n % len(again)] for n in range(20)}
    items = list(category)
    events = []
    for u in range(shoppers):
        mine: dict[str, None] = {}
        for day in range(u % 2, days, 2):
            anew = [i for i in mine if random.random() < again[category[i]]]
            fresh = [i for i in items if i not in mine]
            one = [str(random.choice(fresh))] if fresh and random.random() < 0.7 else []
            events += [Event(day, f"u{u:03d}", item, "purchase") for item in [*anew, *one]]
            events.append(Event(day, f"u{u:03d}", "i00", minute=1))
            mine |= dict.fromkeys(one)
    world = World(events, items, days, unit(random.normal(size=(20, 4))))
    data = Interactions.of(world, world.vectors, world.items)
    return replace(data, categories=np.asarray([category[i] for i in data.item_ids], object))


def test_what_is_bought_again_at_once_is_never_held_back():
    assert fit_rules(market(0, {"Food": 0.3}), DECIDED).days("Food") == 0


def test_what_is_never_bought_again_is_held_back_for_long():
    assert fit_rules(market(1, {"Wardrobes": 0.0}), DECIDED).days("Wardrobes") >= 14


def test_each_category_has_its_own_days():
    rules = fit_rules(market(2, {"Food": 0.3, "Wardrobes": 0.0}), DECIDED)
    assert rules.days("Food") == 0
    assert rules.days("Wardrobes") >= 14


def test_without_evidence_a_purchase_holds_back_for_a_week():
    for events in ([], [Event(0, "u", "i00", "purchase"), Event(1, "u", "i00")]):
        world = World(events, ["i00", "i01"], 20, np.eye(2, dtype=np.float32))
        rules = fit_rules(Interactions.of(world, world.vectors, world.items), DECIDED)
        assert (dict(rules.held), rules.days("Things")) == ({}, WITHOUT_EVIDENCE)


def test_a_category_without_evidence_follows_the_shop():
    data = market(3, {"Food": 0.3})
    categories = data.categories.copy()
    never_bought = np.bincount(data.behaviors.item, minlength=20).argmin()
    categories[never_bought] = "Rare"
    lone = data.behaviors.where(data.behaviors.item != never_bought)
    rules = fit_rules(replace(data, categories=categories, behaviors=lone), DECIDED)
    assert rules.days("Rare") == rules.days("Never heard of") == 0


def test_the_shop_has_the_last_word():
    rules = fit_rules(market(4, {"Food": 0.3, "Wardrobes": 0.0}), {**DECIDED, "bought_again": {"Food": 3}})
    assert rules.days("Food") == 3 and rules.days("Wardrobes") >= 14
    assert rules.under({**DECIDED, "bought_again": {"*": 5}}).days("Wardrobes") == 5
    assert rules.under(DECIDED).days("Food") == 0


def test_rules_survive_json():
    rules = fit_rules(
        market(5, {"Food": 0.3, "Wardrobes": 0.0}),
        {"most_per_brand": 3, "diversity": 0.1, "new_items": 0.05, "bought_again": {"Food": 2}},
    )
    assert Rules.from_dict(json.loads(json.dumps(rules.to_dict()))) == rules
    assert Rules.from_dict({}) == Rules()


def test_allowed_is_known_in_stock_and_not_held_back():
    world = World(
        [
            Event(2, "u", "i00", "purchase"),
            Event(5, "u", "i01", "purchase"),
            Event(9, "u", "i02", "purchase"),
            Event(9, "v", "i03", "purchase"),
            Event(9, "v", "i00", "cart"),
        ],
        [f"i{n:02d}" for n in range(6)],
        10,
        np.eye(6, dtype=np.float32),
        out_of_stock=frozenset({"i04"}),
        first_seen={"i05": 10},
    )
    data = Interactions.of(world, world.vectors, world.items)
    data = replace(data, categories=np.asarray(["x", "x", "y", "y", "x", "x"], object))

    def left_off(rules: Rules, users: list[int]) -> list[list[int]]:
        return [
            np.flatnonzero(~row).tolist() for row in allowed(data, np.array(users), held_back(data, rules))
        ]

    assert left_off(Rules(), [0, 1]) == [[1, 2, 4, 5], [3, 4, 5]]
    assert left_off(Rules(), [1, 0]) == [[3, 4, 5], [1, 2, 4, 5]]
    assert left_off(Rules(held={"y": 0}), [0, 1]) == [[1, 4, 5], [4, 5]]
    assert left_off(Rules(held={"y": 1}, held_else=8), [0, 1]) == [[0, 1, 2, 4, 5], [3, 4, 5]]
    assert left_off(Rules(held_else=4), [0]) == [[2, 4, 5]]
    assert left_off(Rules(held_else=0), [0]) == [[4, 5]]


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_counting_is_what_plain_python_counts(seed):
    """Exposures and what was bought again, visit by visit."""
    from assets.model import rules

    world = random_world(seed, shoppers=4, things=5, days=40, events=200)
    data = Interactions.of(world, world.vectors, world.items)
    bought, expected = rules._again(data, np.zeros(5, np.int64), 1)
    visits = {(int(u), int(d)) for u, d in zip(data.behaviors.user, data.behaviors.day, strict=True)}
    log = rules._purchases(data)
    buys = set(zip(log.user.tolist(), log.item.tolist(), log.day.tolist(), strict=True))
    seen, again = Counter[int](), Counter[int]()
    for user, day in visits:
        for item in range(5):
            earlier = [d for u, i, d in buys if (u, i) == (user, item) and d < day]
            if earlier:
                ago = day - max(earlier)
                bucket = next((n for n, (a, b) in enumerate(rules.BUCKETS) if a < ago <= b), None)
                seen[bucket] += 1
                again[bucket] += (user, item, day) in buys
    rate = rules._typical_rate(log, np.unique(data.behaviors.user * rules._DAYS + data.behaviors.day), 5)
    for n in range(len(rules.BUCKETS)):
        assert bought[0, n] == again[n]
        assert expected[0, n] == pytest.approx(seen[n] * rate)
