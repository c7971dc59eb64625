"""Evaluation on the test day."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import numpy as np
import pytest

from assets.model.evaluation import (
    BASELINES,
    CANDIDATE,
    INCUMBENT,
    SHELF,
    Evaluation,
    evaluate,
    paired_bootstrap,
)
from assets.model.promotion import figures_chart, figures_table
from assets.model.recommender import Recommender
from tests.model.worlds import (
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


def fitted(world: World, **weights: float) -> Recommender:
    return weighed(fit(world), **weights) if weights else fit(world)


def test_figures_of_every_method_by_full_ranking():
    evaluation = evaluate(tastes(), weighed(tastes(), popularity=1.0))
    assert set(evaluation.methods) == {*BASELINES, CANDIDATE, INCUMBENT, SHELF}
    names = {"ndcg@10", "hr@10", "recall@10", "mrr@10", "new_ndcg@10", "coverage@10"}
    for name, figures in evaluation.methods.items():
        assert set(figures) == (names - {"new_ndcg@10"} if name == SHELF else names)
        assert all(0 <= value <= 1 for value in figures.values())
    assert evaluation.users == 120
    assert evaluation.methods[INCUMBENT] == pytest.approx(evaluation.methods["popularity"])
    assert evaluation.comparisons[INCUMBENT] == evaluation.comparisons["popularity"]


def test_new_items_are_found_by_taste_alone():
    evaluation = evaluate(tastes())
    best = evaluation.methods[evaluation.best_baseline]["ndcg@10"]
    assert evaluation.methods[CANDIDATE]["ndcg@10"] > best
    assert evaluation.comparisons[evaluation.best_baseline].low > 0


def test_the_checkerboard_by_hand():
    """On the test day everyone meets item u again, their last of the day before: revisit is perfect."""
    evaluation = evaluate(fitted(checkerboard(), revisit=1.0))
    assert evaluation.methods["revisit"]["ndcg@10"] == evaluation.methods[CANDIDATE]["mrr@10"] == 1
    assert evaluation.comparisons["revisit"].mean == 0
    # Each item is met by the six of its colour, so all are equally popular: chance, 10 of 12 places.
    assert evaluation.methods["popularity"]["hr@10"] == pytest.approx(10 / 12)
    assert evaluation.methods["popularity"]["coverage@10"] == pytest.approx(10 / 12)


def test_what_was_first_seen_on_the_test_day_is_ranked_by_nobody():
    """All figures are as if the items of the day did not exist; only the shelf owns up to missing them."""
    world = births()
    last = world.days - 1
    late = [item for item, day in world.first_seen.items() if day == last]
    plain = evaluate(fitted(world))
    told = evaluate(fitted(without(world, late)))
    assert late and plain.users < len({e.user for e in world.events if e.day == last})
    assert plain.users == told.users
    for method in BASELINES:
        assert plain.methods[method] == pytest.approx(told.methods[method]), method
    # Which of equals is the last candidate of a channel is chance, so these may differ a little.
    assert plain.methods[CANDIDATE] == pytest.approx(told.methods[CANDIDATE], rel=0.02)
    assert plain.methods[SHELF]["ndcg@10"] < told.methods[SHELF]["ndcg@10"]


def test_the_shelf_is_judged_as_it_is_ordered_by_value():
    """Dear is what nobody wants on the last day: by price alone, the shelf shows that and nothing else. The
    ranking that the gate asks for stays."""
    world = clusters()
    wanted = {e.item for e in world.events if e.day == world.days - 1}
    made = fitted(replace(world, prices={item: 1.0 if item in wanted else 1e6 for item in world.items}))
    relevance = evaluate(made)
    by_price = evaluate(made, values={"browse": 0.0, "click": 0.0, "purchase": "price"})
    assert by_price.methods[CANDIDATE] == relevance.methods[CANDIDATE]
    assert by_price.methods[SHELF]["ndcg@10"] < relevance.methods[SHELF]["ndcg@10"] / 2
    assert relevance.best_baseline == by_price.best_baseline != SHELF


def test_a_shelf_shorter_than_ten_is_judged_as_it_is():
    one = evaluate(tastes(), shelf_size=1).methods[SHELF]
    assert one["hr@10"] == one["mrr@10"] > one["recall@10"] > 0


def test_the_new_to_the_shopper_figure_masks_what_they_know():
    world = checkerboard()
    quiet = [e for e in world.events if e.day != world.days - 2]  # nobody has met their own item before
    evaluation = evaluate(fitted(replace(world, events=quiet), co_visitation=1.0))
    assert evaluation.methods[CANDIDATE]["new_ndcg@10"] == 1
    assert evaluation.methods[CANDIDATE]["ndcg@10"] < 1


def test_the_test_day_tells_no_method_anything():
    """Changing what strangers do on the test day changes no figure of the others."""
    world = random_world(3)
    last = world.days - 1
    planted = [Event(last, f"stranger{n}", "i00", "purchase", n) for n in range(300)]
    plain, loud = evaluate(fitted(world)), evaluate(fitted(replace(world, events=[*world.events, *planted])))
    assert loud.users == plain.users
    for method, figures in plain.methods.items():
        assert loud.methods[method] == pytest.approx(figures), method


def test_shoppers_without_history_are_not_judged():
    world = random_world(4)
    last = world.days - 1
    users = {e.user for e in world.events if e.day == last} & {e.user for e in world.events if e.day < last}
    new = replace(world, events=[*world.events, Event(last, "new", "i00")])
    evaluation = evaluate(fitted(new))
    assert evaluation.per_user["user_key"].to_pylist() == sorted(users)


def test_calibration_of_a_lawful_world_is_small():
    calibration = evaluate(fitted(random_world(1, shoppers=200, things=40, days=8, events=6000))).calibration
    for behavior, figures in calibration.items():
        assert figures["ece"] < 0.03, behavior


def test_a_day_without_shoppers_has_figures_of_nothing():
    world = random_world(5)
    quiet = replace(world, events=[e for e in world.events if e.day < world.days - 1])
    evaluation = evaluate(fitted(quiet))
    assert evaluation.users == 0 and evaluation.methods[CANDIDATE]["ndcg@10"] == 0
    assert evaluation.comparisons["popularity"].mean == 0


def test_methods_on_different_snapshots_are_not_compared():
    with pytest.raises(ValueError, match="same snapshot"):
        evaluate(fitted(random_world(0)), fitted(random_world(1, things=10)))


def test_what_is_written_is_what_is_read(tmp_path):
    world = random_world(6)
    evaluation = evaluate(fitted(world), candidate_version="new", incumbent_version=None)
    evaluation.write(tmp_path)
    read = Evaluation.load(tmp_path, world.cut_off)
    assert replace(read, per_user=evaluation.per_user) == evaluation
    assert read.per_user.equals(evaluation.per_user)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{world.cut_off}.json", f"{world.cut_off}.parquet"]
    with pytest.raises(FileNotFoundError, match="materialize model_evaluation"):
        Evaluation.load(tmp_path, world.day(0))


def test_an_evaluation_from_before_the_shelf_was_judged_still_loads(tmp_path):
    world = random_world(6)
    file = evaluate(fitted(world)).write(tmp_path)
    record = json.loads(file.read_text())
    del record["methods"][SHELF]
    file.write_text(json.dumps(record))
    old = Evaluation.load(tmp_path, world.cut_off)
    assert SHELF not in old.methods and old.best_baseline in BASELINES
    assert "| shelf |" not in figures_table(old) and "| **nightshelf** |" in figures_table(old)


def test_table_and_chart_show_the_shelf():
    evaluation = evaluate(fitted(random_world(6)))
    row = next(line for line in figures_table(evaluation).splitlines() if line.startswith("| shelf |"))
    assert f"{evaluation.methods[SHELF]['ndcg@10']:.4f}" in row
    assert SHELF in [label.get_text() for label in figures_chart(evaluation).axes[0].get_yticklabels()]


def test_the_bootstrap_is_seeded_quick_and_covers_the_mean():
    random = np.random.default_rng(0)
    began = time.perf_counter()
    big = paired_bootstrap(random.normal(0.02, 0.3, 20_000))
    assert time.perf_counter() - began < 5  # about 0.3 s on an idle machine
    assert big.low < big.mean < big.high
    # The normal approximation of the standard error: σ/√n.
    assert (big.high - big.low) / 2 == pytest.approx(1.96 * 0.3 / 20_000**0.5, rel=0.1)
    sample = random.normal(size=300)
    assert paired_bootstrap(sample) == paired_bootstrap(sample)
    covered = [
        abs(i.low) + abs(i.high) > abs(i.low + i.high)  # zero lies inside
        for i in (paired_bootstrap(random.normal(size=100), 300, seed) for seed in range(200))
    ]
    assert 0.88 < np.mean(covered) < 0.99
