"""The ranker: the blend is the optimum it claims to be, and trees grow only where they help strangers."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from assets.model.metrics import ranking_metrics
from assets.model.ranker import FEWEST, PRIOR, RIDGE, Pairs, Ranker, fit_ranker, ndcg

NAMES = ["log sequence", "log ease", "trend", "price"]


def shoppers(seed: int, users: int, law: str = "noise", candidates: int = 40, relevant: int = 2) -> Pairs:
    """Each meets the best two of their candidates by a law, and by luck (Gumbel: a conditional logit)."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(users, candidates, len(NAMES))).astype(np.float32)
    laws = {
        "noise": 0 * x[..., 0],
        "blend": x[..., 0] - x[..., 2],
        "both": 3 * np.sign(x[..., 0] * x[..., 1]),
    }
    score = laws[law] + random.gumbel(size=(users, candidates))
    best = np.argsort(np.argsort(-score, axis=1), axis=1) < relevant
    user = np.repeat(np.arange(users), candidates)
    return Pairs(user, x.reshape(-1, len(NAMES)), best.ravel(), np.full(len(user), float(relevant)))


def quality(ranker: Ranker, pairs: Pairs) -> float:
    return float(ndcg(ranker.scores(pairs.features), pairs).mean())


# ---- the blend


def slow_loss(weights: np.ndarray, pairs: Pairs) -> float:
    """−log of the chance that each shopper meets what they met, and the prior; shopper by shopper."""
    scale = pairs.features.astype(float).std(axis=0)
    loss = (
        RIDGE
        / 2
        * sum(((w - PRIOR.get(name, 0.0)) * s) ** 2 for w, name, s in zip(weights, NAMES, scale, strict=True))
    )
    for user in set(pairs.user.tolist()):
        own = pairs.user == user
        score = pairs.features[own].astype(float) @ weights
        met = score[pairs.relevant[own]]
        loss += math.log(sum(math.exp(s) for s in score)) - sum(met) / len(met)
    return float(loss)


@settings(max_examples=15)
@given(st.integers(0, 10_000), st.integers(1, 12), st.sampled_from(["noise", "blend", "both"]))
def test_the_blend_is_the_conditional_logit(seed, users, law):
    """No step in any direction makes it better, nor does a general optimiser find anything better."""
    pairs = shoppers(seed, users, law, candidates=8)
    weights = fit_ranker(pairs, NAMES)[0].weights
    least = slow_loss(weights, pairs)
    for step in 1e-3 * np.eye(len(NAMES)):
        slope = (slow_loss(weights + step, pairs) - slow_loss(weights - step, pairs)) / 2e-3
        assert abs(slope) < 1e-2 * users
    found = minimize(slow_loss, np.zeros(len(NAMES)), pairs, method="BFGS")
    assert least <= found.fun + 1e-3 * users
    np.testing.assert_allclose(weights, found.x, atol=0.05)


def test_a_law_is_learnt_from_many_and_the_prior_stands_where_there_are_few():
    many, few = (fit_ranker(shoppers(1, n, "blend"), NAMES)[0].weights for n in (400, 1))
    assert many[0] > 4 * abs(many[1]) and many[2] < -4 * abs(many[1])
    prior = np.array([PRIOR.get(name, 0.0) for name in NAMES])
    assert np.abs(few - prior).max() < 0.5 < np.abs(many - prior).max()


def test_where_there_is_nothing_to_learn_the_prior_ranks():
    nobody = shoppers(0, 0)
    in_vain = shoppers(0, 30)
    for pairs in (nobody, Pairs(in_vain.user, in_vain.features, in_vain.relevant & False, in_vain.wanted)):
        ranker, folds, figures = fit_ranker(pairs, NAMES)
        for each in (ranker, *folds):
            assert each.weights.tolist() == [PRIOR.get(name, 0.0) for name in NAMES] and not each.trees
        assert figures == {"blend": 0.0}
    assert not len(ranker.scores(nobody.features))


def test_the_scale_of_a_figure_does_not_matter_and_a_constant_one_says_nothing():
    pairs = shoppers(2, 60, "blend")
    scaled = Pairs(pairs.user, pairs.features * np.float32([1, 1, 100, 0]) + 5, pairs.relevant, pairs.wanted)
    plain, other = fit_ranker(pairs, NAMES)[0], fit_ranker(scaled, NAMES)[0]
    assert other.weights[2] == pytest.approx(plain.weights[2] / 100, rel=0.1)
    assert np.isfinite(other.scores(scaled.features)).all()
    assert quality(other, scaled) == pytest.approx(quality(plain, pairs), abs=0.03)


def test_weights_go_by_the_channels_name():
    ranker = Ranker(NAMES, np.array([0.1, 0.2, 0.3, 0.4]))
    assert ranker.weight_of("ease") == 0.2
    assert ranker.like([0.1, 0.2, 0.3, 0.4], "") and not ranker.like([0.1, 0.2, 0.3, 0.4], "tree")


# ---- trees


def test_noise_grows_no_trees():
    """But by luck: a standard error lets one of six through, and does little harm then."""
    fitted = [fit_ranker(shoppers(seed, FEWEST + 20), NAMES) for seed in range(12)]
    assert sum(bool(ranker.trees) for ranker, _, _ in fitted) <= 3
    gains = [figures["trees"] - figures["blend"] for _, _, figures in fitted]
    assert np.mean(gains) < 2 * np.std(gains) / len(gains) ** 0.5  # nor do they look good


def test_a_blend_suffices_where_the_law_is_one():
    ranker, _, figures = fit_ranker(shoppers(3, 200, "blend"), NAMES)
    assert not ranker.trees and figures["blend"] > 0.3


def test_trees_find_what_no_blend_can_and_their_figure_is_what_strangers_see():
    """The law is a product of two figures: neither says anything alone."""
    ranker, _, figures = fit_ranker(shoppers(4, 300, "both"), NAMES)
    strangers = shoppers(5, 1000, "both")
    blend, trees = quality(Ranker(NAMES, ranker.weights), strangers), quality(ranker, strangers)
    assert ranker.trees and trees > blend + 0.1
    assert figures["blend"] == pytest.approx(blend, abs=0.03)
    assert figures["trees"] == pytest.approx(trees, abs=0.05)


def test_few_shoppers_grow_no_trees():
    ranker, _, figures = fit_ranker(shoppers(4, FEWEST - 2, "both"), NAMES)
    assert not ranker.trees and "trees" not in figures


def test_without_lightgbm_the_blend_ranks_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)  # what an import of it fails on
    told: list[str] = []
    ranker, _, figures = fit_ranker(shoppers(4, 300, "both"), NAMES, log=told.append)
    assert not ranker.trees and "trees" not in figures
    assert told[0].startswith("ranker: no trees, for LightGBM cannot be loaded")


def test_the_same_seed_gives_the_same_trees():
    one, other = (fit_ranker(shoppers(4, 150, "both"), NAMES, seed=3) for _ in range(2))
    assert one[0].trees == other[0].trees != ""
    assert [fold.trees for fold in one[1]] == [fold.trees for fold in other[1]]


@pytest.mark.parametrize("users", [40, 200], ids=["blend", "trees"])
@pytest.mark.parametrize("parity", [0, 1])
def test_a_fold_never_saw_the_shoppers_it_judges(users, parity):
    """Whatever they do: of the trees, no more than their number may change."""
    pairs = shoppers(6, users, "both")
    mine = pairs.user % 2 == parity
    swapped = pairs.relevant.copy()
    swapped[mine] = np.roll(pairs.relevant[mine], 7)
    other = Pairs(pairs.user, pairs.features, swapped, pairs.wanted)
    one, told = (fit_ranker(p, NAMES)[1][parity] for p in (pairs, other))  # as `fit_recommender` takes them
    np.testing.assert_array_equal(one.weights, told.weights)
    changed = fit_ranker(other, NAMES)[1][1 - parity]
    assert not np.array_equal(changed.weights, fit_ranker(pairs, NAMES)[1][1 - parity].weights)
    if one.trees and told.trees:
        first, second = (fold.trees.split("\nTree=")[1:] for fold in (one, told))
        both = min(len(first), len(second)) - 1  # behind the last one stands more than trees
        assert both > 0 and first[:both] == second[:both]


# ---- its measure


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 15), st.integers(0, 3), st.integers(1, 10))
def test_ndcg_is_that_of_the_full_ranking(seed, users, candidates, missed, k):
    """Relevant items that are no candidates stand behind all others: they are missed."""
    random = np.random.default_rng(seed)
    scores = random.permuted(np.tile(np.arange(float(candidates)), (users, 1)), axis=1)
    relevant = random.random((users, candidates)) < 0.3
    assume((relevant.any(axis=1)).all())
    wanted = relevant.sum(axis=1) + missed
    user = np.repeat(np.arange(users) * 2, candidates)
    pairs = Pairs(user, np.zeros((len(user), 0), np.float32), relevant.ravel(), np.repeat(wanted, candidates))
    behind = np.full((users, k + missed), -1.0) - np.arange(k + missed)
    late = np.broadcast_to(np.arange(k + missed) >= k, behind.shape)
    whole = ranking_metrics(np.hstack([scores, behind]), np.hstack([relevant, late]), k)[f"ndcg@{k}"]
    np.testing.assert_allclose(ndcg(scores.ravel(), pairs, k), whole, atol=1e-12)
