"""Figures by hand, and the laws of the intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.model.evaluation import paired_bootstrap
from benchmarks.judge import (
    auc,
    calibration,
    coverage_interval,
    interval,
    judge,
    log_loss,
    mean_ndcg,
    resampled_means,
)
from benchmarks.splits import leave_one_out, temporal
from tests.benchmarks.logs import SECOND, board, dataset

DAY = 86_400


def by_item(scores: dict[str, float], data):
    """Everybody gets the same scores."""
    row = np.array([scores[item] for item in data.item_ids], np.float32)
    return lambda users: np.tile(row, (len(users), 1))


def test_leave_one_out_by_hand():
    """ann knows a and b, and c is to be found; d and e are there too. bob knows a and c; d is to be found."""
    rows = [
        *((("ann"), item, n, "purchase") for n, item in enumerate("abc")),
        *((("bob"), item, n, "purchase") for n, item in enumerate("acd")),
    ]
    held = leave_one_out(dataset(rows, "abcde").interactions).test
    # ann: d, then c and e tied on places 2 and 3 (a and b are masked). bob: b and d tied on the first two.
    got = judge(by_item({"a": 9, "b": 3, "c": 2, "d": 3, "e": 2}, held.past), held)
    second, third = 1 / math.log2(3), 1 / math.log2(4)
    assert got.per_user["ndcg@10"] == pytest.approx([(second + third) / 2, (1 + second) / 2])
    assert got.per_user["mrr@10"] == pytest.approx([(1 / 2 + 1 / 3) / 2, (1 + 1 / 2) / 2])
    assert got.per_user["hr@10"].tolist() == [1, 1]
    assert set(got.per_user) == {"ndcg@10", "hr@10", "mrr@10"}
    shown = [{held.past.item_ids[i] for i in row if i >= 0} for row in got.top]
    assert shown == [{"c", "d", "e"}, {"b", "d", "e"}]
    assert mean_ndcg(by_item({"a": 9, "b": 3, "c": 2, "d": 3, "e": 2}, held.past), held) == pytest.approx(
        ((second + third) / 2 + (1 + second) / 2) / 2
    )
    # d was never met before bob's test: one of the two held-out pairs is cold, and it is found.
    assert got.cold == {"cold_recall@10": 1.0, "cold_recall@100": 1.0}


def test_temporal_by_hand():
    """ann comes back to a (a browse) and buys c, which is new to her. cold is x, which nobody has met."""
    rows = [
        ("ann", "a", SECOND, "browse"),
        ("ann", "b", SECOND + DAY, "browse"),
        ("bob", "c", SECOND + DAY, "browse"),
        ("ann", "a", SECOND + 99 * DAY, "browse"),
        ("ann", "c", SECOND + 100 * DAY, "purchase"),
        ("bob", "x", SECOND + 100 * DAY, "cart"),
    ]
    held = temporal(dataset(rows).interactions).test
    got = judge(by_item({"a": 1, "b": 4, "c": 3, "x": 2}, held.past), held)  # b, c, x, a
    second, third, fourth = (1 / math.log2(n) for n in (3, 4, 5))
    assert got.per_user["ndcg@10"] == pytest.approx([(second + fourth) / (1 + second), third])
    assert got.per_user["purchase_ndcg@10"] == pytest.approx([second, math.nan], nan_ok=True)
    # Of what is new to ann, c is first and x second; to bob b, x and a are new.
    assert got.per_user["new_ndcg@10"] == pytest.approx([1.0, second])
    assert got.cold == {"cold_recall@10": 1.0, "cold_recall@100": 1.0}
    assert judge(by_item({"a": 1, "b": 4, "c": 3, "x": 2}, held.past), held).seconds >= 0


def test_cold_items_by_hand():
    """Of two cold pairs one is within the first ten, and both are within the first hundred."""
    many = [(f"x{n}", f"w{n:02d}", SECOND, "browse") for n in range(20)]
    rows = [*many, *(("ann", item, n + SECOND, "browse") for n, item in enumerate(("w00", "w01", "near")))]
    rows += [("bob", item, n + SECOND, "browse") for n, item in enumerate(("w00", "w01", "far"))]
    held = leave_one_out(dataset(rows).interactions).test
    scores = dict.fromkeys(held.past.item_ids, 1.0) | {"near": 2.0, "far": 0.0}
    got = judge(by_item(scores, held.past), held)
    assert got.cold == {"cold_recall@10": 0.5, "cold_recall@100": 1.0}
    warm = [("ann", item, n, "browse") for n, item in enumerate("abc")] + [("bob", "c", 0, "browse")]
    held = leave_one_out(dataset(warm).interactions).test
    assert judge(by_item(dict.fromkeys("abc", 0.0), held.past), held).cold["cold_recall@10"] is None


def test_small_blocks_change_nothing(monkeypatch):
    held = leave_one_out(dataset(board()).interactions).test
    random = np.random.default_rng(0).normal(size=(len(held.past.users), len(held.past.item_ids)))
    whole = judge(lambda users: random[users].astype(np.float32), held)
    monkeypatch.setattr("benchmarks.judge.CELLS", 30)
    parts = judge(lambda users: random[users].astype(np.float32), held)
    for name, values in whole.per_user.items():
        np.testing.assert_array_equal(values, parts.per_user[name])
    np.testing.assert_array_equal(whole.top, parts.top)


def test_perfect_scores_are_perfect_and_the_worst_are_nothing():
    held = leave_one_out(dataset(board(24)).interactions).test
    right = held.relevant(held.users).astype(np.float32)
    place = np.searchsorted(held.users, np.arange(held.users.max() + 1))
    best = judge(lambda users: right[place[users]], held)
    worst = judge(lambda users: -right[place[users]], held)
    for name in ("ndcg@10", "hr@10", "mrr@10"):
        assert (best.per_user[name] == 1).all() and (worst.per_user[name] == 0).all()


@given(st.integers(1, 60), st.integers(0, 5))
@settings(max_examples=15)
def test_resampled_means_are_those_of_the_product(users, seed):
    """The same bootstrap as the nightly evaluation's, for many figures at once."""
    figures = np.random.default_rng(seed).random((users, 3))
    means = resampled_means(figures, seed, 400)
    for column in range(3):
        ours, theirs = interval(means[:, column]), paired_bootstrap(figures[:, column], 400, seed)
        assert ours == pytest.approx([theirs.low, theirs.high], abs=0.6 * (theirs.high - theirs.low) + 1e-9)
        assert ours[0] - 1e-9 <= figures[:, column].mean() <= ours[1] + 1e-9 or users < 10


def test_figures_that_do_not_apply_are_left_out_of_means():
    figures = np.array([[1.0, np.nan], [0.0, 0.5], [1.0, np.nan]])
    means = resampled_means(figures, 0, 200)
    assert (means[np.isfinite(means[:, 1]), 1] == 0.5).all()
    assert interval(means[:, 1]) == [0.5, 0.5]
    assert interval(resampled_means(np.full((3, 1), np.nan), 0, 50)[:, 0]) is None
    assert interval(resampled_means(np.zeros((0, 1)), 0, 50)[:, 0]) is None
    np.testing.assert_array_equal(means, resampled_means(figures, 0, 200))


def test_the_interval_of_coverage_is_around_it():
    top = np.random.default_rng(0).integers(0, 300, (200, 10))
    share = len(np.unique(top)) / 300
    low, high = coverage_interval(top, 300, 0)
    assert 0 <= low <= share <= high <= 1 and high - low < 0.2
    assert coverage_interval(np.full((4, 10), -1), 5, 0) == [0, 0]
    assert coverage_interval(top[:0], 300, 0) is None


def test_log_loss_and_auc_by_hand():
    p, happened = np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])
    assert log_loss(p, happened) == pytest.approx(-(2 * math.log(0.9) + 2 * math.log(0.5)) / 4)
    # Of four pairs of one that happened and one that did not, three are in order and one is tied.
    assert auc(p, happened) == pytest.approx(3.5 / 4)
    assert auc(p, np.ones(4, bool)) is None and auc(p[:0], happened[:0]) is None
    assert log_loss(p[:0], happened[:0]) is None
    assert math.isfinite(log_loss(np.array([0.0, 1.0]), np.array([True, False])))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=40))
def test_auc_is_the_share_of_pairs_in_order(rows):
    p, happened = np.array([n / 4 for n, _ in rows]), np.array([h for _, h in rows])
    together = [(a > b) + (a == b) / 2 for a in p[happened] for b in p[~happened]]
    assert auc(p, happened) == (pytest.approx(np.mean(together)) if together else None)


def test_probabilities_are_judged_on_the_first_items():
    held = temporal(
        dataset(
            [
                ("ann", "a", SECOND, "browse"),
                ("ann", "a", SECOND + 99 * DAY, "click"),
                ("ann", "b", SECOND + 100 * DAY, "purchase"),
            ],
            ["c"],
        ).interactions
    ).test

    class Certain:
        def probabilities(self, users, items):
            did = np.isin(items, [0, 1])
            return np.stack([did, did, items == 1], axis=1).astype(float)

    got = calibration(Certain(), by_item({"a": 3, "b": 2, "c": 1}, held.past), held)
    for name, rate in (("browse", 2 / 3), ("click", 2 / 3), ("purchase", 1 / 3)):
        assert got[name]["rate"] == got[name]["mean_p"] == pytest.approx(rate)
        assert got[name]["auc"] == 1 and got[name]["pairs"] == 3
        assert got[name]["log_loss"] < 1e-9 and got[name]["ece"] == 0
