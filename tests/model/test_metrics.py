"""Laws of the ranking metrics, and values computed by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.model.metrics import coverage, list_metrics, ranking_metrics, top_k

NAMES = ("ndcg", "hr", "recall", "mrr")


@st.composite
def rankings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    users, items = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    # Few distinct scores: ties are the hard part.
    scores = draw(st.lists(st.integers(0, 3), min_size=users * items, max_size=users * items))
    relevant = draw(st.lists(st.booleans(), min_size=users * items, max_size=users * items))
    shape = (users, items)
    return np.reshape(scores, shape).astype(float), np.reshape(relevant, shape), draw(st.integers(1, 10))


def by_enumeration(scores: np.ndarray, relevant: np.ndarray, k: int) -> dict[str, float]:
    """Mean over every order of the items that the scores allow: the definition, taken literally."""
    values = []
    for order in itertools.permutations(range(len(scores))):
        if any(scores[a] < scores[b] for a, b in itertools.pairwise(order)):
            continue
        gains = [relevant[i] for i in order][:k]
        ideal = sum(1 / math.log2(n + 2) for n in range(min(int(relevant.sum()), k)))
        ndcg = sum(g / math.log2(n + 2) for n, g in enumerate(gains)) / ideal
        first = next((1 / (n + 1) for n, g in enumerate(gains) if g), 0.0)
        values.append((ndcg, float(any(gains)), sum(gains) / relevant.sum(), first))
    return dict(zip(NAMES, np.mean(values, axis=0), strict=True))


@given(rankings())
@settings(max_examples=60)
def test_equals_the_mean_over_all_orders_of_tied_items(case):
    scores, relevant, k = case
    scores, relevant = scores[:, :6], relevant[:, :6]
    got = ranking_metrics(scores, relevant, k)
    for user in range(len(scores)):
        if relevant[user].any():
            wanted = by_enumeration(scores[user], relevant[user], k)
            for name in NAMES:
                assert got[f"{name}@{k}"][user] == pytest.approx(wanted[name], abs=1e-12)


@given(rankings(), st.integers(1, 8))
def test_lists_have_the_figures_of_the_rankings_they_were_cut_from(case, places):
    """With ties broken as `top_k` breaks them; and a shorter list is a ranking that ends there."""
    scores, relevant, k = case
    scores = scores - np.arange(scores.shape[1]) / 100
    lists = top_k(scores, places)
    whole = ranking_metrics(scores, relevant, k)
    for name, values in list_metrics(lists, relevant, k).items():
        if places >= min(k, scores.shape[1]):
            assert values == pytest.approx(whole[name], nan_ok=True), name
    by_hand = [sum(relevant[u, i] for i in row if i >= 0) for u, row in enumerate(lists[:, :k])]
    wanted = relevant.sum(axis=1)
    recall = list_metrics(lists, relevant, k)[f"recall@{k}"]
    assert [r * w for r, w in zip(recall, wanted, strict=True) if w] == pytest.approx(
        [n for n, w in zip(by_hand, wanted, strict=True) if w]
    )


@given(rankings())
def test_every_metric_lies_between_nothing_and_one(case):
    scores, relevant, k = case
    for values in ranking_metrics(scores, relevant, k).values():
        judged = relevant.any(axis=1)
        assert np.isnan(values[~judged]).all()
        assert ((values[judged] >= 0) & (values[judged] <= 1)).all()


@given(rankings(), st.randoms(use_true_random=False))
def test_the_order_of_items_and_users_does_not_matter(case, random):
    scores, relevant, k = case
    items = random.sample(range(scores.shape[1]), scores.shape[1])
    users = random.sample(range(scores.shape[0]), scores.shape[0])
    straight = ranking_metrics(scores, relevant, k)
    shuffled = ranking_metrics(scores[users][:, items], relevant[users][:, items], k)
    for name, values in straight.items():
        np.testing.assert_allclose(shuffled[name], values[users], atol=1e-12)


@given(rankings())
def test_relevant_items_first_is_perfect(case):
    scores, relevant, k = case
    got = ranking_metrics(scores + 10 * relevant, relevant, k)
    judged = relevant.any(axis=1)
    for name in ("ndcg", "hr", "mrr"):
        np.testing.assert_allclose(got[f"{name}@{k}"][judged], 1)
    wanted = np.minimum(relevant.sum(axis=1), k)[judged] / relevant.sum(axis=1)[judged]
    np.testing.assert_allclose(got[f"recall@{k}"][judged], wanted)


@given(rankings(), st.integers(0, 3), st.integers(0, 7))
def test_lifting_a_relevant_item_never_hurts(case, user, item):
    scores, relevant, k = case
    user, item = user % scores.shape[0], item % scores.shape[1]
    relevant[user, item] = True
    lifted = scores.copy()
    lifted[user, item] += 1.5
    before, after = ranking_metrics(scores, relevant, k), ranking_metrics(lifted, relevant, k)
    for name in before:
        assert after[name][user] >= before[name][user] - 1e-12


@given(rankings())
def test_masking_items_equals_leaving_them_out(case):
    scores, relevant, k = case
    keep = np.arange(scores.shape[1]) % 2 == 0
    allowed = np.broadcast_to(keep, scores.shape)
    masked = ranking_metrics(scores, relevant, k, allowed)
    cut = ranking_metrics(scores[:, keep], relevant[:, keep], k)
    for name, values in cut.items():
        np.testing.assert_allclose(masked[name], values)


def test_values_by_hand():
    scores = np.array([[0.9, 0.8, 0.7, 0.6]])
    relevant = np.array([[False, True, False, True]])
    got = ranking_metrics(scores, relevant, 3)
    # Item 1 is second: DCG = 1/log2(3); ideal = 1/log2(2) + 1/log2(3).
    assert got["ndcg@3"][0] == pytest.approx(0.6309297535714575 / 1.6309297535714575)
    assert (got["hr@3"][0], got["recall@3"][0], got["mrr@3"][0]) == (1, 0.5, 0.5)


def test_ties_by_hand():
    # Three items share the first place; one of them is relevant, k = 1: it is first in one order of three.
    got = ranking_metrics(np.array([[1.0, 1.0, 1.0, 0.0]]), np.array([[True, False, False, False]]), 1)
    assert [got[f"{name}@1"][0] for name in NAMES] == pytest.approx([1 / 3] * 4)


def test_a_constant_score_is_worth_what_chance_is_worth():
    relevant = np.zeros((1, 1000), bool)
    relevant[0, :5] = True
    got = ranking_metrics(np.zeros((1, 1000)), relevant, 10)
    assert got["recall@10"][0] == pytest.approx(10 / 1000)
    none_in_ten = math.prod((995 - n) / (1000 - n) for n in range(10))
    assert got["hr@10"][0] == pytest.approx(1 - none_in_ten)


def test_wrong_input_is_refused_in_words():
    good = np.zeros((2, 3))
    with pytest.raises(ValueError, match="k is 0"):
        ranking_metrics(good, good > 0, 0)
    with pytest.raises(ValueError, match="relevant is"):
        ranking_metrics(good, np.zeros((2, 4), bool))
    bad = good.copy()
    bad[1, 2] = np.nan
    with pytest.raises(ValueError, match="user 1 and item 2"):
        ranking_metrics(bad, good > 0)


@given(rankings())
def test_top_k_is_a_stable_sort(case):
    scores, allowed, k = case
    best = top_k(scores, k, allowed)
    for user in range(len(scores)):
        order = [i for i in np.argsort(-scores[user], kind="stable") if allowed[user, i]][:k]
        assert best[user].tolist() == order + [-1] * (k - len(order))


def test_coverage_counts_each_shown_item_once():
    assert coverage(np.array([[0, 1], [1, -1]]), 4) == 0.5
    assert coverage(np.zeros((0, 2), np.int64), 0) == 0
