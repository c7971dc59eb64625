"""The fused, calibrated, explained shelf."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from assets.model.channels import channels
from assets.model.interactions import Interactions, hold_out, pair_matrix
from assets.model.metrics import ranking_metrics
from assets.model.recommender import EVERYONE, RECOMMENDATIONS, Recommender, fit_recommender
from tests.model.worlds import Event, World, births, checkerboard, clusters, random_world, unit, without

VALUES = {"browse": 0.05, "click": 0.2, "purchase": 1.0}


def recommender(world: World) -> Recommender:
    params = fit_recommender(world, world.vectors, world.items, VALUES)
    return Recommender(json.loads(json.dumps(params)), Interactions.of(world, world.vectors, world.items))


def rows_of(table: pa.Table, user: str) -> list[dict[str, object]]:
    return [row for row in table.to_pylist() if row["user_key"] == user]


@pytest.mark.parametrize("seed", range(3))
def test_every_shelf_is_whole(seed):
    world = replace(random_world(seed), out_of_stock=frozenset({"i01", "i02"}))
    table = recommender(world).recommend(None, 5)
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
    table = recommender(random_world(4)).recommend(None, 5)
    for row in table.to_pylist():
        wanted = 0.05 * row["p_browse"] + 0.2 * row["p_click"] + 1.0 * row["p_purchase"]
        assert row["score"] == pytest.approx(wanted)


def test_a_batch_equals_one_by_one():
    world = random_world(5)
    made = recommender(world)
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
    one, other = recommender(world), recommender(shuffled)
    assert one.params == other.params
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
    assert fit_recommender(quiet, world.vectors, world.items, VALUES) == fit_recommender(
        loud, world.vectors, world.items, VALUES
    )


@pytest.mark.parametrize(
    "world", [checkerboard(), clusters(), random_world(8)], ids=["board", "tastes", "noise"]
)
def test_the_blend_is_never_below_a_channel_on_the_dev_day(world):
    """Measured from the returned weights, as they will serve."""
    made = recommender(world)
    dev = world.day(world.days - 2)
    held = hold_out(made.data, dev)
    past, users, met = held.past, held.users, (held.user, held.item)
    relevant = pair_matrix(users, met, len(world.items))

    def ndcg(weights: dict[str, float]) -> float:
        scores = Recommender({**made.params, "weights": weights}, past).scores(users)
        return float(ranking_metrics(scores, relevant)["ndcg@10"].mean())

    reached, told = ndcg(made.params["weights"]), made.params["dev"]["ndcg@10"]
    assert reached == pytest.approx(told["nightshelf"])
    for name in channels():
        assert told[name] == pytest.approx(ndcg({name: 1.0}))
        assert reached >= ndcg({name: 1.0}) - 1e-9, name


def test_a_closed_day_is_not_the_dev_day():
    """Nobody comes on Saturdays: Sunday's model learns from Friday, as Saturday's did."""
    world = clusters()
    friday, saturday, sunday = world.days - 2, world.days - 1, world.days
    closed = replace(world, events=[e for e in world.events if e.day <= friday])
    anyone = [Event(sunday, f"u{n:03d}", f"i{n:03d}") for n in range(50)]
    on_saturday = fit_recommender(replace(closed, days=saturday + 1), world.vectors, world.items, VALUES)
    on_sunday = fit_recommender(
        replace(closed, events=[*closed.events, *anyone], days=sunday + 1), world.vectors, world.items, VALUES
    )
    assert on_sunday["dev"]["day"] == str(world.day(friday))
    assert on_sunday == on_saturday
    assert on_sunday["dev"]["users"] > 0 and on_sunday["weights"]["text"] > 0


def test_items_first_seen_on_the_dev_day_teach_nothing():
    """Nobody could have shown them: the weights are as if they did not exist until the day is over."""
    world = births()
    dev = world.days - 2
    late = [item for item, day in world.first_seen.items() if day >= dev]
    plain = without(world, late)
    got = fit_recommender(world, world.vectors, world.items, VALUES)
    told = fit_recommender(plain, plain.vectors, plain.items, VALUES)
    assert got["dev"] == {**told["dev"], "ndcg@10": pytest.approx(told["dev"]["ndcg@10"])}
    assert got["weights"] == told["weights"]


def test_at_least_five_hundred_shoppers_choose_the_weights():
    """However large the catalogue."""
    days, items = 3, [f"i{n:05d}" for n in range(6_500)]
    events = [Event(d, f"u{u:04d}", items[(7 * u + d) % 40]) for d in range(days) for u in range(700)]
    vectors = unit(np.random.default_rng(0).normal(size=(len(items), 8)))
    world = World(events, items, days, vectors)
    assert fit_recommender(world, world.vectors, world.items, VALUES)["dev"]["users"] == 500


def test_what_is_not_known_yet_is_on_no_shelf():
    world = births()
    made = recommender(world)
    late = {item for item, day in world.first_seen.items() if day == world.days - 1}
    before = made.until(world.day(world.days - 2))
    assert late & set(made.recommend(None, 200)["item_id"].to_pylist())
    assert not late & set(before.recommend(None, 200)["item_id"].to_pylist())
    assert not late & set(before.similar_items(5)["similar_item_id"].to_pylist())


def test_the_words_of_what_is_not_known_yet_move_no_score():
    """Not even by being the nearest, to which all other scores are scaled."""
    world = births()
    late = np.array([world.first_seen[item] == world.days - 1 for item in world.items])
    far = world.vectors.copy()
    far[late] = -far[~late].mean(axis=0)
    params = {**recommender(world).params, "weights": {"text": 1.0}}
    scores = []
    for vectors in (world.vectors, far):
        before = Interactions.of(world, vectors, world.items).until(world.day(world.days - 2))
        scores.append(Recommender(params, before).scores(before.known_users)[:, before.known_items])
    np.testing.assert_array_equal(*scores)


def test_the_shelf_in_numbers_is_the_shelf_in_words():
    world = clusters()
    made = recommender(world)
    users = made.data.known_users
    told = made.recommend(None, 7, {"browse": 0, "click": 0, "purchase": "price"})
    shown = made.shelves(users, 7, {"browse": 0, "click": 0, "purchase": "price"})
    for number, items in zip(users, made.data.item_ids[shown], strict=True):
        assert [row["item_id"] for row in rows_of(told, made.data.users[number])] == list(items)


def test_taste_wins_where_all_items_are_new():
    """On the dev day only new items are bought, to which nothing but words can lead."""
    world = clusters()
    params = fit_recommender(world, world.vectors, world.items, VALUES)
    assert params["weights"]["text"] > 0
    figures = params["dev"]["ndcg@10"]
    assert figures["nightshelf"] > 1.5 * max(v for n, v in figures.items() if n not in ("text", "nightshelf"))


def test_what_was_bought_this_week_is_left_off_and_comes_back_later():
    base = random_world(9, days=12)
    without = [e for e in base.events if not (e.user == "u03" and e.item in ("i04", "i05"))]
    world = replace(
        base, events=[*without, Event(2, "u03", "i04", "purchase"), Event(9, "u03", "i05", "purchase")]
    )
    shelf = {row["item_id"] for row in recommender(world).recommend(["u03"], 25).to_pylist()}
    assert "i05" not in shelf and "i04" in shelf


def test_the_business_objective_is_configuration():
    world = clusters()
    made = recommender(world)
    by_price = made.recommend(None, 10, {"browse": 0.0, "click": 0.0, "purchase": "price"})
    price = dict(zip(world.items, (world.prices[i] for i in world.items), strict=True))
    for row in by_price.slice(0, 50).to_pylist():
        assert row["value"] == price[row["item_id"]]
        assert row["score"] == pytest.approx(row["value"] * row["p_purchase"])
    mean = np.mean([price[i] for i in by_price["item_id"].to_pylist()])
    assert mean > np.mean([price[i] for i in made.recommend(None, 10)["item_id"].to_pylist()])


def test_a_new_shopper_gets_what_is_popular():
    world = random_world(10)
    made = recommender(world)
    everyone, stranger = (made.recommend([key], 5).to_pylist() for key in (EVERYONE, "k1:never-seen"))
    assert {row["user_key"] for row in stranger} == {"k1:never-seen"}
    assert [row["item_id"] for row in everyone] == [row["item_id"] for row in stranger]
    assert {row["reason"] for row in stranger} == {"Popular this week"}
    visits = {(e.user, e.day) for e in world.events}
    for row in stranger:
        met = {(e.user, e.day) for e in world.events if e.item == row["item_id"]}
        assert row["p_browse"] == pytest.approx(len(met) / len(visits))


def test_reasons_speak_of_the_shoppers_own_items():
    world = clusters()
    titles = {f"Thing {i}": i for i in world.items}
    met: dict[str, Counter[str]] = {}
    for e in world.events:
        met.setdefault(e.user, Counter())[e.item] += 1
    made = recommender(world)
    weights = {"revisit": 0.1, "co_visitation": 1.0, "text": 0.5, "popularity_7d": 0.1, "popularity": 0.0}
    rows = Recommender({**made.params, "weights": weights}, made.data).recommend(None, 60).to_pylist()
    kinds: Counter[str] = Counter()
    for row in rows:
        reason, because, own = row["reason"], row["reason_item_id"], met.get(row["user_key"], Counter())
        if reason.startswith("Popular"):
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
    made = recommender(world)
    told = {}
    for name in channels():
        rows = Recommender({**made.params, "weights": {name: 1.0}}, made.data).recommend(["u"], 3).to_pylist()
        told[name] = {row["item_id"]: (row["reason"], row["reason_item_id"]) for row in rows}
        assert told[name]["a"] == ("You came back to this", "a"), name
        assert told[name]["unmet"] == ("From our catalogue", None), name
    assert told["popularity_7d"]["b"] == ("Popular in Things", None)
    assert told["text"]["b"] == told["revisit"]["b"] == ("From our catalogue", None)


def test_a_silent_week_has_no_popular_items():
    """The newcomers' shelf is filled from the catalogue, and says so."""
    world = World([Event(0, "u", "a")], ["a", "b"], 12, np.eye(2, dtype=np.float32))
    quiet = recommender(world).recommend([EVERYONE], 2)
    assert quiet["reason"].to_pylist() == ["From our catalogue"] * 2
    busy = recommender(replace(world, events=[*world.events, Event(11, "u", "b")])).recommend([EVERYONE], 2)
    assert busy["item_id"].to_pylist() == ["b", "a"]
    assert busy["reason"].to_pylist() == ["Popular this week", "From our catalogue"]


def test_because_you_bought_says_so():
    """b is met with a by everyone; u has bought a and nothing else."""
    others = [Event(d, f"v{n}", i, minute=m) for d in range(4) for n in range(5) for m, i in enumerate("ab")]
    world = World([*others, Event(2, "u", "a", "purchase")], list("abcdef"), 4, np.eye(6, dtype=np.float32))
    made = recommender(world)
    made = Recommender({**made.params, "weights": {"co_visitation": 1.0}}, made.data)
    first = made.recommend(["u"], 1).to_pylist()[0]
    assert (first["item_id"], first["reason"], first["reason_item_id"]) == (
        "b",
        "Because you bought Thing a",
        "a",
    )


def test_similar_items_are_near_in_words_and_in_sessions():
    world = checkerboard()
    table = recommender(world).similar_items(3).to_pylist()
    assert Counter(row["item_id"] for row in table) == dict.fromkeys(sorted(world.items), 3)
    for row in table:
        assert int(row["item_id"][1:]) % 2 == int(row["similar_item_id"][1:]) % 2
        assert row["item_id"] != row["similar_item_id"] and 0 <= row["similarity"] <= 1


def test_a_shop_of_two_days_gets_a_shelf_too():
    world = random_world(11, days=2)
    params = fit_recommender(world, world.vectors, world.items, VALUES)
    assert params["dev"]["users"] == 0
    table = Recommender(params, Interactions.of(world, world.vectors, world.items)).recommend(None, 5)
    assert len(table) == 5 * (len({e.user for e in world.events}) + 1)


def test_a_catalogue_smaller_than_the_shelf_is_shown_whole():
    world = random_world(12, things=3, events=60)
    bought = {(e.user, e.item) for e in world.events if e.behavior == "purchase"}
    table = recommender(world).recommend(None, 20)
    for user in {e.user for e in world.events}:
        left = set(world.items) - {i for u, i in bought if u == user}
        assert {row["item_id"] for row in rows_of(table, user)} == left


def test_a_bundle_of_another_format_is_refused(tmp_path):
    world = random_world(0)
    (tmp_path / "recommender.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match=r"recommender\.json: format is 99.*train the model again"):
        Recommender.load(tmp_path, world, world.vectors, world.items)
