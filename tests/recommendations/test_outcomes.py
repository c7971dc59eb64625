"""Yesterday's shelf against today's behaviour, by hand and by a slow reference."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.model.evaluation import evaluate
from assets.recommendations.outcomes import OUTCOMES, outcome_of, outcomes_until, plot_outcomes, write_outcome
from assets.recommendations.scoring import RECOMMENDATIONS
from tests.model.worlds import births, clusters, fit, without
from tests.recommendations.homes import as_of, make_home, make_night, some_world

DAY = date(2026, 1, 9)


def shelf_of(shelves: dict[str, list[str]]) -> pa.Table:
    rows = [
        {"day": DAY - timedelta(days=1), "user_key": u, "rank": n + 1, "item_id": i, "model_version": "v1"}
        for u, items in shelves.items()
        for n, i in enumerate(items)
    ]
    strings = [(name, pa.string()) for name in ("user_key", "item_id", "model_version")]
    schema = pa.schema([("day", pa.date32()), ("rank", pa.int32()), *strings])
    return pa.Table.from_pylist(rows, schema)


def labels_of(rows: list[tuple[str, str, int, float]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [[], [], [], []]
    types = (pa.string(), pa.string(), pa.int32(), pa.float64())
    arrays = [pa.array(c, t) for c, t in zip(columns, types, strict=True)]
    return pa.table(arrays, ["user_key", "item_id", "purchases", "revenue"])


def judge(
    shelf: dict[str, list[str]], labels: list[tuple[str, str, int, float]], k: int = 3, items: int = 10
) -> dict:
    table = outcome_of(shelf_of(shelf), labels_of(labels), day=DAY, k=k, items=items)
    assert table.schema == OUTCOMES and table.num_rows == 1
    return table.to_pylist()[0]


def test_by_hand():
    """anna buys b (second on her shelf) and z. ben meets nothing of his shelf. eve has no shelf."""
    got = judge(
        {"anna": ["a", "b", "c"], "ben": ["a", "d", "e"], "carl": ["a", "b", "c"], "": ["a", "b", "q"]},
        [("anna", "b", 1, 20.0), ("anna", "z", 1, 30.0), ("ben", "z", 0, 0.0), ("eve", "a", 2, 9.0)],
    )
    assert got["day"] == DAY and got["shelf_day"] == DAY - timedelta(days=1) and got["model_version"] == "v1"
    assert (got["users"], got["users_with_shelf"], got["k"]) == (3, 2, 3)
    assert got["recall_at_k"] == pytest.approx((1 / 2 + 0) / 2)
    ideal = 1 / math.log2(2) + 1 / math.log2(3)
    assert got["ndcg_at_k"] == got["ndcg_at_10"] == pytest.approx((1 / math.log2(3)) / ideal / 2)
    assert got["hit_rate"] == 0.5
    assert got["conversion"] == 0.5
    assert got["revenue"] == 20.0
    assert got["revenue_share"] == pytest.approx(20 / 50)
    assert got["coverage"] == pytest.approx(5 / 10)  # a, b, c, d, e; the shelf of everyone does not count


def test_the_order_of_the_rows_moves_no_digit():
    """Sums of prices depend on their order in the last digits, and tables have none."""
    random = np.random.default_rng(0)
    items = [f"i{n}" for n in range(40)]
    shelf = shelf_of({f"u{n}": list(random.permutation(items)[:8]) for n in range(300)})
    labels = labels_of(
        [
            (f"u{n % 300}", items[int(random.integers(40))], 1, float(random.integers(1, 9999)) / 100)
            for n in range(3000)
        ]
    )
    rows = [
        outcome_of(
            s.take(random.permutation(len(s))), x.take(random.permutation(len(x))), day=DAY, k=8, items=40
        )
        for s, x in [(shelf, labels)] * 5
    ]
    assert all(row.equals(rows[0]) for row in rows)


def test_revenue_of_an_item_only_looked_at_is_nothing():
    got = judge({"anna": ["a"]}, [("anna", "a", 0, 5.0)])
    assert (got["revenue"], got["conversion"], got["hit_rate"]) == (0, 0, 1)


def test_a_day_without_shoppers_gives_zeros():
    got = judge({"anna": ["a"]}, [])
    assert got["users"] == got["users_with_shelf"] == got["recall_at_k"] == got["ndcg_at_k"] == 0


items = st.sampled_from("abcdefgh")
shelves = st.dictionaries(
    st.sampled_from(["u", "v", "w"]), st.lists(items, min_size=1, max_size=5, unique=True)
)
met = st.dictionaries(st.tuples(st.sampled_from(["u", "v", "w", "x"]), items), st.integers(0, 2), max_size=12)


@given(shelves, met)
@settings(max_examples=40)
def test_equals_a_slow_reference(shelf, behavior):
    labels = [(u, i, n, 2.0 * n) for (u, i), n in behavior.items()]
    got = judge(shelf, labels, k=5)
    users = [u for u in {u for u, _ in behavior} if u in shelf]
    recall, ndcg, hit, bought, revenue = [], [], [], [], 0.0
    for user in users:
        own = {i for u, i in behavior if u == user}
        ranks = [n for n, i in enumerate(shelf[user], 1) if i in own]
        recall.append(len(ranks) / len(own))
        ideal = sum(1 / math.log2(n + 1) for n in range(1, min(len(own), 5) + 1))
        ndcg.append(sum(1 / math.log2(n + 1) for n in ranks) / ideal)
        hit.append(bool(ranks))
        bought.append(any(behavior.get((user, i), 0) for i in shelf[user]))
        revenue += sum(2.0 * behavior.get((user, i), 0) for i in shelf[user])
    wanted = {"recall_at_k": recall, "ndcg_at_k": ndcg, "hit_rate": hit, "conversion": bought}
    for name, values in wanted.items():
        assert got[name] == pytest.approx(np.mean(values) if values else 0), name
    assert got["revenue"] == pytest.approx(revenue)
    assert got["users_with_shelf"] == len(users)


@pytest.mark.parametrize("world", [births(), some_world(days=6), clusters()], ids=["new", "noise", "tastes"])
def test_the_evaluation_promises_what_the_outcome_measures(world):
    """The `shelf` row of day D is the outcome, on D, of the shelf that the same model makes on D − 1.

    Coverage alone differs: the outcome counts every shelf, the evaluation those of shoppers who came.
    """
    made = fit(world)
    promise = evaluate(made, shelf_size=10).methods["shelf"]
    before = as_of(world, world.days - 1)
    before = without(before, [i for i, day in world.first_seen.items() if day == world.days - 1])
    published = replace(made, data=before.data).recommend(None, 10)
    published = published.append_column("day", pa.array([before.cut_off] * len(published), pa.date32()))
    published = published.append_column("model_version", pa.array(["v1"] * len(published)))
    behaviors = world.table("behaviors")
    labels = behaviors.filter(pc.equal(behaviors["day"], pa.scalar(world.cut_off)))
    found = outcome_of(published, labels, day=world.cut_off, k=10, items=len(before.items)).to_pylist()[0]
    assert found["ndcg_at_10"] > 0
    assert promise["ndcg@10"] == pytest.approx(found["ndcg_at_10"])
    assert promise["recall@10"] == pytest.approx(found["recall_at_k"])
    assert promise["hr@10"] == pytest.approx(found["hit_rate"])


def test_written_by_day_and_read_in_order(tmp_path):
    home, world = make_home(tmp_path), some_world(days=6)
    for days in (4, 5):
        make_night(home, as_of(world, days))
    behaviors = world.table("behaviors")
    for number in (5, 4, 3):
        day = world.day(number)
        labels = behaviors.filter(pa.array([d == day for d in behaviors["day"].to_pylist()]))
        row = write_outcome(home, day, labels)
        assert (row is None) == (number == 3)  # there was no shelf the night before
    read = outcomes_until(home, world.day(5))
    assert read["day"].to_pylist() == [world.day(4), world.day(5)]
    assert outcomes_until(home, world.day(4)).num_rows == 1
    curves = [line for axis in plot_outcomes(read).axes for line in axis.lines]
    drawn = {line.get_label(): list(line.get_ydata()) for line in curves}
    assert set(drawn) == {"ndcg_at_10", "recall_at_k", "hit_rate", "conversion", "coverage", "revenue"}
    for name, values in drawn.items():
        assert values == read[name].to_pylist(), name
    revenue = next(line for line in curves if line.get_label() == "revenue")
    assert list(revenue.axes.lines) == [revenue]  # money has a scale of its own


def test_a_shelf_that_was_right_has_figures_of_one(tmp_path):
    home, world = make_home(tmp_path), some_world(days=4)
    scores = make_night(home, as_of(world, 3))
    shelf = scores.table(RECOMMENDATIONS)
    exact = [
        (u, i, 1, 1.0)
        for u, i in zip(*(shelf[c].to_pylist() for c in ("user_key", "item_id")), strict=True)
        if u
    ]
    row = write_outcome(home, world.day(3), labels_of(exact)).to_pylist()[0]
    for name in ("recall_at_k", "ndcg_at_k", "ndcg_at_10", "hit_rate", "conversion", "revenue_share"):
        assert row[name] == pytest.approx(1), name
    assert row["revenue"] == len(exact)
