"""From score to probability: the optimum itself, whatever the world looks like."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from assets.model.calibration import Curve, apply_curve, expected_calibration_error, fit_curve


def world(seed: int, count: int, rate: float, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Candidates with four features, and what happened, `rate` of the time or so."""
    random = np.random.default_rng(seed)
    seen = random.random(count) < 0.1
    score = random.normal(size=count)
    if kind == "collinear":  # the score says little but "seen before"
        score = 7.0 * seen + 1e-3 * score
    x = np.column_stack([score, seen, random.exponential(size=count), random.poisson(2, count)])
    z = {"collinear": 3.0 * seen, "lawful": score + seen, "falling": -2 * score, "noise": 0 * score}.get(kind)
    if kind == "separable":
        return x, score > np.quantile(score, 1 - rate)
    if kind == "never":
        return x, np.zeros(count, bool)
    p = np.exp(z) * rate / np.exp(z).mean()
    return x, random.random(count) < p


def targets(happened: np.ndarray) -> np.ndarray:
    positive, count = int(happened.sum()), len(happened)
    return np.where(happened, (positive + 1) / (positive + 2), 1 / (count - positive + 2))


def loss_of(curve: Curve, x: np.ndarray, happened: np.ndarray) -> float:
    """The penalised log-loss, written down once more."""
    z = (x - np.array(curve["mean"])) / np.array(curve["scale"])
    z = z @ np.array(curve["weights"]) + curve["intercept"]
    penalty = np.square(curve["weights"]).sum() + 1e-6 * curve["intercept"] ** 2
    return float((np.logaddexp(0, z) - targets(happened) * z).sum() + penalty / 2)


def reference(curve: Curve, x: np.ndarray, happened: np.ndarray) -> Curve:
    """The same problem by a general optimiser that knows bounds (L-BFGS-B)."""
    z = np.column_stack([(x - np.array(curve["mean"])) / np.array(curve["scale"]), np.ones(len(x))])
    target, penalty = targets(happened), np.array([1, 1, 1, 1, 1e-6])

    def problem(w: np.ndarray) -> tuple[float, np.ndarray]:
        u = z @ w
        slope = z.T @ (1 / (1 + np.exp(-u)) - target) + penalty * w
        return float((np.logaddexp(0, u) - target * u).sum() + (penalty * w**2).sum() / 2), slope

    bounds = [(1e-3, None), *[(None, None)] * 4]
    found = minimize(
        problem,
        np.zeros(5),
        jac=True,
        method="L-BFGS-B",
        bounds=bounds,
        options={"ftol": 1e-14, "gtol": 1e-8},
    ).x
    return Curve(**{**curve, "weights": found[:-1].tolist(), "intercept": float(found[-1])})


@given(
    seed=st.integers(0, 10_000),
    count=st.sampled_from([5, 40, 400, 4000]),
    rate=st.sampled_from([0.0005, 0.005, 0.05, 0.5]),
    kind=st.sampled_from(["lawful", "collinear", "separable", "falling", "noise", "never"]),
)
@settings(max_examples=150)
def test_the_curve_is_the_optimum_and_its_mean_is_the_rate(seed, count, rate, kind):
    x, happened = world(seed, count, rate, kind)
    curve = fit_curve(x, happened)
    assert curve["weights"][0] >= 1e-3
    least = loss_of(reference(curve, x, happened), x, happened)
    assert loss_of(curve, x, happened) <= least + 1e-4 + 1e-6 * least
    # A free intercept makes the mean probability that of the targets: the rate, but for Platt's smoothing.
    assert apply_curve(curve, x).mean() == pytest.approx(targets(happened).mean(), abs=1e-6)


@pytest.mark.parametrize("kind", ["lawful", "separable"])
def test_it_equals_scikit_learn_where_the_bound_does_not_bind(kind):
    """Smoothed targets are a weighted sum of both outcomes, which scikit-learn takes as sample weights."""
    x, happened = world(3, 4000, 0.02, kind)
    curve = fit_curve(x, happened)
    z = (x - np.array(curve["mean"])) / np.array(curve["scale"])
    target = targets(happened)
    model = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
    both, outcome = np.concatenate([z, z]), np.repeat([1, 0], len(z))
    model.fit(both, outcome, np.concatenate([target, 1 - target]))
    assert model.coef_[0][0] > 1e-3, "this world is to leave the bound alone"
    assert curve["weights"] == pytest.approx(model.coef_[0], abs=1e-3)
    assert curve["intercept"] == pytest.approx(model.intercept_[0], abs=1e-3)


@given(st.floats(-3, 3), st.floats(0.2, 2), st.integers(0, 1000))
@settings(max_examples=15)
def test_calibration_recovers_a_logistic_law(intercept, slope, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(20_000, 2))
    truth = 1 / (1 + np.exp(-(intercept + slope * x[:, 0] - 0.5 * x[:, 1])))
    happened = random.random(len(x)) < truth
    p = apply_curve(fit_curve(x, happened), x)
    assert np.abs(p - truth).mean() < 0.02
    assert expected_calibration_error(p, happened) < 0.02


def test_a_better_score_never_means_a_lower_probability():
    """Even where, in the sample, worse scores did better."""
    x = np.linspace(-1, 1, 200)[:, None]
    curve = fit_curve(x, x[:, 0] < 0)
    assert (np.diff(apply_curve(curve, x)) > 0).all()


def test_a_feature_that_never_varied_says_nothing_when_it_does():
    x = np.column_stack([np.full(500, 2.0), np.arange(500) % 2])
    curve = fit_curve(x, np.arange(500) % 10 == 0)
    near, far = apply_curve(curve, np.array([[2.0, 0.0], [3.0, 0.0]]))
    assert far == pytest.approx(near, rel=0.01)


def test_nothing_happened_yet_gives_a_small_probability():
    curve = fit_curve(np.random.default_rng(0).normal(size=(500, 3)), np.zeros(500, bool))
    assert (apply_curve(curve, np.zeros((1, 3))) < 0.01).all()
    assert (apply_curve(fit_curve(np.zeros((0, 3)), np.zeros(0, bool)), np.zeros((1, 3))) < 0.01).all()
