"""The fused, calibrated, explained shelf."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from assets.model.channels import channels
from assets.model.interactions import Interactions, hold_out
from assets.model.metrics import ranking_metrics, top_k
from assets.model.recommender import (
    EVERYONE,
    FORMAT,
    OUTCOMES,
    RECOMMENDATIONS,
    Fitted,
    OutdatedModelError,
    Recommender,
    fit_recommender,
)
from assets.model.rules import NEW_DAYS
from assets.model.sequence import SequenceConfig, SequenceModel, SequenceTrainer
from tests.model.worlds import (
    VALUES,
    Event,
    World,
    births,
    checkerboard,
    clusters,
    fit,
    random_world,
    tastes,
    weighed,
    without,
)


def little_sequence_model(world: World) -> SequenceModel:
    return SequenceTrainer(SequenceConfig(width=16, length=10, epochs=1), torch.device("cpu")).fit(world.held)


def of_last_day(made: Recommender) -> float:
    """NDCG@10 on the last day, of which it knows nothing."""
    day = hold_out(made.data, made.data.as_of)
    scores = made.until(day.past.as_of).scores(day.users)
    return float(ranking_metrics(scores, day.relevant(day.users))["ndcg@10"].mean())


def rows_of(table: pa.Table, user: str) -> list[dict[str, object]]:
    return [row for row in table.to_pylist() if row["user_key"] == user]


@pytest.mark.parametrize("seed", range(3))
def test_every_shelf_is_whole(seed):
    world = replace(random_world(seed), out_of_stock=frozenset({"i01", "i02"}))
    table = fit(world).recommend(None, 5)
    assert table.schema == RECOMMENDATIONS
    users = sorted({e.user for e in world.events})
    assert list(dict.fromkeys(table["user_key"].to_pylist())) == [*users, EVERYONE]
    for user in [*users, EVERYONE]:
        shelf = rows_of(table, user)
        assert [row["rank"] for row in shelf] == [1, 2, 3, 4, 5]
        assert len({row["item_id"] for row in shelf}) == 5
        assert [row["score"] for row in shelf] == sorted((row["score"] for row in shelf), reverse=True)
        for row in shelf:
            assert 0 <= row["p_purchase"] <= row["p_click"] <= row["p_browse"] <= 1
            assert row["item_id"] not in world.out_of_stock
            assert row["reason"]


def test_the_score_is_the_sum_of_values_times_probabilities():
    table = fit(random_world(4)).recommend(None, 5)
    for row in table.to_pylist():
        wanted = 0.05 * row["p_browse"] + 0.2 * row["p_click"] + 1.0 * row["p_purchase"]
        assert row["score"] == pytest.approx(wanted)


def test_a_batch_equals_one_by_one():
    world = random_world(5)
    made = fit(world)
    together = made.recommend(None, 6)
    for user in sorted({e.user for e in world.events}):
        alone = made.recommend([user], 6).to_pylist()
        for one, other in zip(alone, rows_of(together, user), strict=True):
            exact = ("rank", "item_id", "reason", "reason_item_id")
            assert [one[name] for name in exact] == [other[name] for name in exact]
            assert one["score"] == pytest.approx(other["score"], rel=1e-5)


def test_the_same_input_gives_the_same_parameters_and_shelf():
    world = random_world(6)
    shuffled = replace(world, events=world.events[::-1])
    one, other = fit(world), fit(shuffled)
    assert one.fitted == other.fitted
    assert one.recommend(None, 5).equals(other.recommend(None, 5))


def test_the_cut_off_day_is_never_looked_at_in_fitting():
    """It is the test day: what happens on it must not reach weights or calibration."""
    world = random_world(7)
    last = world.days - 1
    quiet = replace(world, events=[e for e in world.events if e.day < last])
    loud = replace(
        world,
        events=[*quiet.events, *(Event(last, f"u{n % 15:02d}", "i00", "purchase", n) for n in range(500))],
    )
    assert fit(quiet).fitted == fit(loud).fitted


def test_what_is_learnt_is_no_worse_than_any_channel_on_a_day_it_has_not_seen():
    """On the dev day and on the last day alike, only new items are bought, to which only words can lead."""
    made = tastes()
    reached = of_last_day(made)
    ndcg = {name: of_last_day(weighed(made, **{name: 1.0})) for name in channels()}
    assert reached > max(ndcg.values()) - 0.01
    assert {name for name, value in ndcg.items() if value > 0} == {"text", "novelty"}
    assert made.rankers["browse"].weight_of("novelty") > 0


def test_the_held_out_diagonal_of_a_checkerboard_is_learnt():
    """On the dev day everyone meets the one item of their colour that they have not met before."""
    assert fit(checkerboard()).params["dev"]["ndcg@10 of browse"]["blend"] == 1


def test_noise_teaches_next_to_nothing():
    """Where nothing can be known, the figures on shoppers not fitted on are those of chance."""
    world = random_world(8, shoppers=150, events=2000)
    made = fit(world)
    chance = ranking_metrics(np.zeros((150, 25)), world.held.relevant(np.arange(150)))["ndcg@10"]
    assert made.params["dev"]["ndcg@10 of browse"]["blend"] == pytest.approx(np.nanmean(chance), abs=0.06)


def test_a_closed_day_is_not_the_dev_day():
    """Nobody comes on Saturdays: Sunday's model learns from Friday, as Saturday's did."""
    world = clusters()
    friday, saturday, sunday = world.days - 2, world.days - 1, world.days
    closed = replace(world, events=[e for e in world.events if e.day <= friday])
    anyone = [Event(sunday, f"u{n:03d}", f"i{n:03d}") for n in range(50)]
    on_saturday = fit(replace(closed, days=saturday + 1)).fitted
    on_sunday = fit(replace(closed, events=[*closed.events, *anyone], days=sunday + 1)).fitted
    assert on_sunday.params["dev"]["day"] == str(world.day(friday - 1))  # the last day it knows
    assert on_sunday == on_saturday
    assert on_sunday.params["dev"]["users"] > 0


def test_items_first_seen_on_the_dev_day_teach_nothing():
    """Nobody could have shown them: the ranking is learnt as if they did not exist until the day is over."""
    world = births()
    late = [item for item, day in world.first_seen.items() if day >= world.days - 2]
    got, told = fit(world), fit(without(world, late))
    assert got.params["dev"]["users"] == told.params["dev"]["users"]
    # Which of equals is the last candidate of a channel is chance, so the weights are near, not equal.
    for name in OUTCOMES:
        weights = [m.rankers[name].weights for m in (got, told)]
        np.testing.assert_allclose(*weights, rtol=0.2, atol=0.05)


def test_at_most_so_many_shoppers_teach():
    few = fit_recommender(clusters().held, VALUES, learn_from=60)
    assert few.params["dev"]["users"] == 120 and not few.trees  # too few are left for trees
    assert fit_recommender(clusters().held, VALUES, learn_from=60) == few


def test_what_is_not_known_yet_is_on_no_shelf():
    world = births()
    made = fit(world)
    late = {item for item, day in world.first_seen.items() if day == world.days - 1}
    before = made.until(world.day(world.days - 2))
    assert late and late & set(made.recommend(None, 200)["item_id"].to_pylist())
    assert not late & set(before.recommend(None, 200)["item_id"].to_pylist())
    assert not late & set(before.similar_items(5)["similar_item_id"].to_pylist())


def test_where_shoppers_meet_what_nobody_had_met_it_has_places_in_the_ranking():
    """A catalogue tells of items a day before anybody meets them."""
    world = births()
    told = replace(world, first_seen={item: day - 1 for item, day in world.first_seen.items()})
    made = fit(told)
    before = made.until(world.day(world.days - 2))
    users, unmet = before.data.known_users, before.data.unmet_items & before.data.known_items
    first = top_k(before.scores(users), 20)
    assert unmet.any() and unmet[first].any(axis=1).all()
    near = before.channels["novelty"].scores(users)[:, unmet].max(axis=1) >= made.params["new_near"]
    assert 0 < near.sum() < len(users) and unmet[first[near, :10]].any(axis=1).all()
    assert fit(world).params["new_near"] is None  # there an item is known by being met


def test_the_words_of_what_is_not_known_yet_move_no_score():
    """Not even by being the nearest, to which all other scores are scaled."""
    world = births()
    late = np.array([world.first_seen[item] == world.days - 1 for item in world.items])
    far = world.vectors.copy()
    far[late] = -far[~late].mean(axis=0)
    made = weighed(fit(world), text=1.0)
    scores = []
    for vectors in (world.vectors, far):
        before = Interactions.of(world, vectors, world.items).until(world.day(world.days - 2))
        known = replace(made, data=before).scores(before.known_users)[:, before.known_items]
        scores.append(known)
    np.testing.assert_array_equal(*scores)


def test_the_shelf_in_numbers_is_the_shelf_in_words():
    made = tastes()
    users = made.data.known_users
    told = made.recommend(list(made.data.users[users]), 7, {"browse": 0, "click": 0, "purchase": "price"})
    shown = made.shelves(users, 7, {"browse": 0, "click": 0, "purchase": "price"})
    assert told["item_id"].to_pylist() == made.data.item_ids[shown].ravel().tolist()


def test_the_probabilities_of_any_pairs_are_those_of_the_shelf():
    """In whatever order they are asked for; what no channel speaks for is less likely than anything else."""
    world = births()
    made, random = fit(world), np.random.default_rng(0)
    users = np.repeat(made.data.known_users, len(world.items))
    items = np.tile(np.arange(len(world.items)), len(made.data.known_users))
    order = random.permutation(len(users))
    p = np.zeros((len(users), len(OUTCOMES)))
    p[order] = made.probabilities(users[order], items[order])
    assert ((p >= 0) & (p <= 1)).all() and (np.diff(p, axis=1) <= 0).all()
    shelf = made.recommend(list(made.data.users[made.data.known_users]), 5)
    row = made.data.numbers_of(shelf["user_key"].to_pylist())
    item = np.searchsorted(made.data.item_ids, shelf["item_id"].to_pylist())
    place = np.searchsorted(made.data.known_users, row) * len(world.items) + item
    told = np.column_stack([shelf[f"p_{name}"] for name in OUTCOMES])
    np.testing.assert_allclose(p[place], told, rtol=1e-4)
    found = made.features.candidates(made.data.known_users, made.open_to(made.data.known_users))
    candidate = np.zeros(len(users), bool)
    candidate[found.row * len(world.items) + found.item] = True
    shape = (len(made.data.known_users), len(world.items))
    browse, inside = p[:, 0].reshape(shape), candidate.reshape(shape)
    assert 0 < inside.mean() < 1
    assert (np.where(inside, 0, browse).max(axis=1) < np.where(inside, browse, 1).min(axis=1)).all()


def test_whoever_is_judged_came_so_what_they_do_is_likelier():
    """In a split by shopper, the probabilities need not say whether anybody comes."""
    quiet = [Event(0, f"quiet{n}", "i00") for n in range(60)]
    world = random_world(3, shoppers=60, events=600, extra=quiet)
    usual, judged = (fit_recommender(world.held, VALUES, everyone_comes=comes) for comes in (False, True))
    users, items = world.held.users, np.zeros(len(world.held.users), np.int64)
    p = [Recommender(fitted, world.held.past).probabilities(users, items) for fitted in (usual, judged)]
    assert p[1][:, 0].mean() > 1.2 * p[0][:, 0].mean()


def test_what_was_bought_this_week_is_left_off_and_comes_back_later():
    base = random_world(9, days=12)
    without = [e for e in base.events if not (e.user == "u03" and e.item in ("i04", "i05"))]
    world = replace(
        base, events=[*without, Event(2, "u03", "i04", "purchase"), Event(9, "u03", "i05", "purchase")]
    )
    shelf = {row["item_id"] for row in fit(world).recommend(["u03"], 25).to_pylist()}
    assert "i05" not in shelf and "i04" in shelf


DECIDED = {"most_per_brand": None, "diversity": 0.0, "new_items": 0.0, "bought_again": {}}


def test_what_the_shop_decides_holds_at_once_and_for_strangers_too():
    made = fit(random_world(2))
    brands = np.asarray([f"brand {n % 5}" for n in range(25)], object)
    branded = replace(made, data=replace(made.data, brands=brands))
    brand_of = dict(zip(made.data.item_ids, brands, strict=True))

    def most(shop: Recommender, user: str) -> int:
        return max(
            Counter(brand_of[row["item_id"]] for row in shop.recommend([user], 5).to_pylist()).values()
        )

    limited = branded.under({**DECIDED, "most_per_brand": 1})
    for user in ("u00", "u03", EVERYONE):
        assert most(limited, user) == 1
    assert max(most(branded, user) for user in ("u00", "u03", EVERYONE)) > 1


def test_new_items_reach_their_places_on_every_shelf():
    """Though nobody has met them, and many other items are likelier."""
    days = NEW_DAYS + 10
    world = random_world(4, things=60, days=days, events=1500)
    new = set(world.items[:3])
    events = [e for e in world.events if e.item not in new]
    shop = fit(replace(world, events=events, first_seen=dict.fromkeys(new, days - 2)))
    shop = shop.under({**DECIDED, "new_items": 0.2})
    for user in [*shop.data.users, EVERYONE]:
        shelf = [row["item_id"] for row in shop.recommend([user], 10).to_pylist()]
        assert len(new & set(shelf)) >= 2


def test_the_business_objective_is_configuration():
    world, made = clusters(), tastes()
    by_price = made.recommend(None, 10, {"browse": 0.0, "click": 0.0, "purchase": "price"})
    price = dict(zip(world.items, (world.prices[i] for i in world.items), strict=True))
    for row in by_price.slice(0, 50).to_pylist():
        assert row["value"] == price[row["item_id"]]
        assert row["score"] == pytest.approx(row["value"] * row["p_purchase"])
    mean = np.mean([price[i] for i in by_price["item_id"].to_pylist()])
    assert mean > np.mean([price[i] for i in made.recommend(None, 10)["item_id"].to_pylist()])


def test_a_new_shopper_gets_what_is_popular():
    world = random_world(10)
    made = fit(world)
    everyone, stranger = (made.recommend([key], 5).to_pylist() for key in (EVERYONE, "k1:never-seen"))
    assert {row["user_key"] for row in stranger} == {"k1:never-seen"}
    assert [row["item_id"] for row in everyone] == [row["item_id"] for row in stranger]
    assert {row["reason"] for row in stranger} == {"Popular this week"}
    visits = {(e.user, e.day) for e in world.events}
    for row in stranger:
        met = {(e.user, e.day) for e in world.events if e.item == row["item_id"]}
        assert row["p_browse"] == pytest.approx(len(met) / len(visits))


def test_reasons_speak_of_the_shoppers_own_items():
    world, made = clusters(), tastes()
    titles = {f"Thing {i}": i for i in world.items}
    met: dict[str, Counter[str]] = {}
    for e in world.events:
        met.setdefault(e.user, Counter())[e.item] += 1
    weights = {"revisit": 0.1, "co_visitation": 0.6, "text": 0.6, "popularity_7d": 0.1}
    rows = weighed(made, **weights).recommend(None, 60).to_pylist()
    kinds: Counter[str] = Counter()
    for row in rows:
        reason, because, own = row["reason"], row["reason_item_id"], met.get(row["user_key"], Counter())
        if reason.startswith("Popular") or reason == "From our catalogue":
            assert because is None
        elif reason in ("You came back to this", "You looked at this before"):
            assert because == row["item_id"]
            assert (own[because] > 1) == (reason == "You came back to this")
        else:
            title = next(t for t in titles if reason.endswith(t))
            assert titles[title] == because and own[because] > 0 and because != row["item_id"]
        kinds[reason.split("Thing")[0].strip()] += 1
    wanted = {"Because you viewed", "Because you bought", "Similar to", "You looked at this before"}
    assert wanted < set(kinds), kinds


def test_no_reason_is_made_up():
    """Nobody has ever met `unmet`, nor is it like anything; and u knows a alone, which is not like itself."""
    events = [Event(d, "u", "a") for d in range(3)] + [Event(2, f"v{n}", "b") for n in range(3)]
    world = World(events, ["a", "b", "unmet"], 3, np.eye(3, dtype=np.float32))
    made = fit(world)
    told = {}
    for name in channels():
        rows = weighed(made, **{name: 1.0}).recommend(["u"], 3).to_pylist()
        told[name] = {row["item_id"]: (row["reason"], row["reason_item_id"]) for row in rows}
        assert told[name]["a"] == ("You came back to this", "a"), name
        assert told[name]["unmet"] == ("From our catalogue", None), name
    assert told["popularity_7d"]["b"] == ("Popular in Things", None)
    assert told["revisit"]["b"] == ("From our catalogue", None)  # it says nothing of b


def test_a_silent_week_has_no_popular_items():
    """The newcomers' shelf is filled from the catalogue, and says so."""
    world = World([Event(0, "u", "a")], ["a", "b"], 12, np.eye(2, dtype=np.float32))
    quiet = fit(world).recommend([EVERYONE], 2)
    assert quiet["reason"].to_pylist() == ["From our catalogue"] * 2
    busy = fit(replace(world, events=[*world.events, Event(11, "u", "b")])).recommend([EVERYONE], 2)
    assert busy["item_id"].to_pylist() == ["b", "a"]
    assert busy["reason"].to_pylist() == ["Popular this week", "From our catalogue"]


def test_because_you_bought_says_so():
    """b is met with a by everyone; u has bought a and nothing else."""
    others = [Event(d, f"v{n}", i, minute=m) for d in range(4) for n in range(5) for m, i in enumerate("ab")]
    world = World([*others, Event(2, "u", "a", "purchase")], list("abcdef"), 4, np.eye(6, dtype=np.float32))
    made = weighed(fit(world), co_visitation=1.0)
    first = made.recommend(["u"], 1).to_pylist()[0]
    assert (first["item_id"], first["reason"], first["reason_item_id"]) == (
        "b",
        "Because you bought Thing a",
        "a",
    )


def test_similar_items_are_near_in_words_and_in_sessions():
    world = checkerboard()
    table = fit(world).similar_items(3).to_pylist()
    assert Counter(row["item_id"] for row in table) == dict.fromkeys(sorted(world.items), 3)
    for row in table:
        assert int(row["item_id"][1:]) % 2 == int(row["similar_item_id"][1:]) % 2
        assert row["item_id"] != row["similar_item_id"] and 0 <= row["similarity"] <= 1


@pytest.mark.parametrize("k", [1, 4, 100])
@pytest.mark.parametrize("seed", range(3))
def test_similar_items_are_the_first_of_all_pairs(monkeypatch, seed, k):
    """Half the words, half the sessions, looked at pair by pair; nothing is said of one item in seven."""
    monkeypatch.setattr("assets.model.recommender.MOST_USERS", 3)
    made = fit(random_world(seed))
    number = np.arange(len(made.data.item_ids))
    vectors = np.where(number[:, None] % 7 > 0, made.data.vectors, np.float32(0))
    data = replace(made.data, in_stock=number % 5 > 0, vectors=vectors)
    made = Recommender(made.fitted, data)
    together = made.channels["co_visitation"].both_ways().toarray()
    met = together / np.maximum(together.max(axis=1, keepdims=True), 1e-12)
    likeness = (np.clip(data.vectors @ data.vectors.T, 0, 1) + met) / 2
    wanted: dict[str, list[float]] = {}
    for item, row in zip(data.item_ids, likeness, strict=True):
        others = (data.item_ids != item) & data.in_stock & data.known_items
        wanted[item] = sorted(row[others].tolist(), reverse=True)[:k]
    found: dict[str, list[float]] = {item: [] for item in data.item_ids}
    number = {item: n for n, item in enumerate(data.item_ids)}
    for row in made.similar_items(k).to_pylist():
        found[row["item_id"]].append(row["similarity"])
        assert row["rank"] == len(found[row["item_id"]])
        pair = number[row["item_id"]], number[row["similar_item_id"]]
        assert row["similarity"] == pytest.approx(likeness[pair], abs=2e-6)
    for item, similarities in wanted.items():
        np.testing.assert_allclose(found[item], similarities, atol=2e-6)


def test_of_items_of_which_nothing_is_known_the_first_are_as_similar_as_any():
    world = random_world(0)
    made = fit(world)
    nothing = np.zeros(len(made.data.item_ids), np.int64)
    data = made.data.until(world.day(-1))
    data = replace(data, vectors=np.zeros_like(data.vectors), first_seen=nothing)
    found = Recommender(made.fitted, data).similar_items(3).to_pydict()
    ids = data.item_ids.tolist()
    wanted = [[other for other in ids if other != item][:3] for item in ids]
    assert found["similar_item_id"] == [other for three in wanted for other in three]
    assert not any(found["similarity"])


def test_without_items_nothing_is_similar():
    world = random_world(0)
    nothing = Interactions.of(world, np.zeros((0, 4), np.float32), [])
    assert Recommender(fit(world).fitted, nothing).similar_items(5).num_rows == 0


def test_shelves_are_the_same_in_blocks(monkeypatch):
    made = fit(random_world(4))
    whole = made.recommend(None, 10)
    monkeypatch.setattr("assets.model.recommender.MOST_USERS", 2)
    parts = Recommender(made.fitted, made.data).recommend(None, 10)
    assert parts.select([0, 1, 2]).equals(whole.select([0, 1, 2]))
    np.testing.assert_allclose(parts["score"].to_numpy(), whole["score"].to_numpy(), rtol=1e-6)


def test_a_shop_of_two_days_gets_a_shelf_too():
    world = random_world(11, days=2)
    made = fit(world)
    assert made.params["dev"]["users"] == 0
    table = made.recommend(None, 5)
    assert len(table) == 5 * (len({e.user for e in world.events}) + 1)


def test_so_does_one_that_nobody_came_back_to():
    """Items that the catalogue has long known, and strangers who meet them."""
    world = random_world(11, days=2)
    world.first_seen = dict.fromkeys(world.items, -1)
    made = fit(world)
    assert made.params["dev"]["users"] == 0
    assert len(made.recommend(None, 5)) == 5 * (len({e.user for e in world.events}) + 1)


def test_a_catalogue_smaller_than_the_shelf_is_shown_whole():
    world = random_world(12, things=3, events=60)
    bought = {(e.user, e.item) for e in world.events if e.behavior == "purchase"}
    table = fit(world).recommend(None, 20)
    for user in {e.user for e in world.events}:
        left = set(world.items) - {i for u, i in bought if u == user}
        assert {row["item_id"] for row in rows_of(table, user)} == left


def test_a_ranker_of_other_figures_is_refused():
    made = fit(random_world(0))
    rankers = {**made.params["rankers"], "browse": {"names": ["log luck"], "weights": [1.0]}}
    other = replace(made, fitted=Fitted({**made.params, "rankers": rankers}, {}))
    with pytest.raises(OutdatedModelError, match="train the model again"):
        other.recommend(None, 5)


def test_the_format_tells_which_figures_a_ranker_knows():
    """A home's older models must be told from those that can be asked: with other figures, another FORMAT."""
    names = fit(random_world(0)).features.names
    told = FORMAT, len(names), hashlib.sha256(" | ".join(names).encode()).hexdigest()[:8]
    assert told == (2, 49, "1bd81b98")


def test_a_shop_in_which_everybody_only_browses_has_one_ranker():
    world = random_world(0)
    plain = fit(replace(world, events=[replace(e, behavior="browse") for e in world.events]))
    assert len({id(ranker) for ranker in plain.rankers.values()}) == 1


def test_a_channel_that_is_left_out_is_nowhere():
    world = random_world(0)
    made = Recommender(fit_recommender(world.held, VALUES, without=["ease", "text"]), world.data)
    assert set(made.channels) == set(channels()) - {"ease", "text"}
    assert not {"log ease", "rank text"} & set(made.features.names)
    assert len(made.recommend(["u03"], 5)) == 5


def test_what_a_bundle_holds_is_the_recommender(tmp_path):
    """Its weights, its trees and its sequence model, on the snapshot of another night."""
    world = clusters()
    sequence = little_sequence_model(world)
    fitted = fit_recommender(world.held, VALUES, sequence)
    assert fitted.trees and fitted.params["asks"]
    fitted.write(tmp_path)
    sequence.save(tmp_path / "sequence.safetensors")
    assert Fitted.read(tmp_path) == fitted
    loaded = Recommender.load(tmp_path, world, world.vectors, world.items)
    assert next(iter(loaded.channels)) == "sequence"
    made = Recommender(fitted, world.data, sequence)
    assert loaded.recommend(None, 5).equals(made.recommend(None, 5))
    alone = loaded.recommend(["u003"], 5).to_pylist()
    for one, other in zip(alone, rows_of(loaded.recommend(None, 5), "u003"), strict=True):
        assert one["item_id"] == other["item_id"]


def test_a_bundle_of_another_format_is_refused(tmp_path):
    world = random_world(0)
    (tmp_path / "recommender.json").write_text('{"format": 99}')
    with pytest.raises(OutdatedModelError, match=r"recommender\.json: format is 99.*train the model again"):
        Recommender.load(tmp_path, world, world.vectors, world.items)
