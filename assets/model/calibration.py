"""From a ranking score to a probability: Platt scaling with a few covariates.

p = σ(w · z(x) + b), fitted to Platt's smoothed targets (N₊ + 1)/(N₊ + 2) and 1/(N₋ + 2) (Platt,
"Probabilistic outputs for support vector machines", 1999), by Newton's method with
backtracking (Lin, Lin and Weng, 2007), with a small ridge on w. The first feature is the ranking score and
its weight is kept positive, so a better score never means a lower probability.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
LEAST = 1e-3
"""Weight that the standardised ranking score has at least."""
FLAT = 1e-6
"""Standard deviation up to which a feature counts as constant."""
TOLERANCE = 1e-9
"""Slope per candidate at which the optimum counts as reached."""


class Curve(TypedDict):
    """A fitted curve, as it stands in recommender.json."""

    mean: list[float]
    scale: list[float]
    weights: list[float]
    intercept: float


def fit_curve(features: Floats, happened: NDArray[np.bool_], ridge: float = 1.0) -> Curve:
    """Fit one behaviour's curve.

    Args:
        features: [candidates, features], the ranking score first.
        happened: [candidates], whether the behaviour followed.
        ridge: penalty on the weights of the standardised features.

    Returns:
        A curve; without any candidates one that says 0.5 % everywhere, rising gently with the score.
    """
    count, width = features.shape
    if not count:
        return Curve(
            mean=[0.0] * width, scale=[1.0] * width, weights=[0.1] + [0.0] * (width - 1), intercept=-5.3
        )
    mean, spread = features.mean(axis=0), features.std(axis=0)
    scale = np.where(spread > FLAT, spread, 1.0)  # what never varied tells nothing, and must not begin to
    x = np.column_stack([(features - mean) / scale, np.ones(count)])
    positive = int(happened.sum())
    target = np.where(happened, (positive + 1) / (positive + 2), 1 / (count - positive + 2))
    penalty = np.append(np.full(width, ridge), 1e-6)
    rate = float(target.mean())
    start = np.append(np.zeros(width), np.log(rate / (1 - rate)))
    weights = _minimum(x, target, penalty, start)
    if weights[0] < LEAST:
        # The problem is convex, so the best that the bound allows lies on the bound.
        start[0] = LEAST
        weights = _minimum(x, target, penalty, start, free=slice(1, None))
    return Curve(
        mean=mean.tolist(), scale=scale.tolist(), weights=weights[:-1].tolist(), intercept=float(weights[-1])
    )


def apply_curve(curve: Curve, features: Floats) -> Floats:
    """[candidates] probabilities in (0, 1)."""
    z = (features - np.asarray(curve["mean"])) / np.asarray(curve["scale"])
    return _sigmoid(z @ np.asarray(curve["weights"]) + curve["intercept"])


def expected_calibration_error(p: Floats, happened: NDArray[np.bool_], bins: int = 10) -> float:
    """Σ_bins share · |mean p − observed rate|, over bins of equally many candidates; 0 without candidates.

    (Naeini et al., "Obtaining well calibrated probabilities using Bayesian binning", 2015; equal-mass bins,
    because almost all probabilities of a shop are small.)
    """
    if not len(p):
        return 0.0
    order = np.argsort(p, kind="stable")
    parts = np.array_split(order, min(bins, len(p)))
    return float(sum(len(b) / len(p) * abs(p[b].mean() - happened[b].mean()) for b in parts))


def _minimum(
    x: Floats, target: Floats, penalty: Floats, weights: Floats, free: slice = slice(None)
) -> Floats:
    """The weights with the least penalised log-loss Σ log(1 + e^z) − t·z + ½ Σ penalty·w², z = x · w.

    Args:
        weights: where to start; those outside `free` stay as they are.

    A Newton step that overshoots is halved until the loss falls as far as its slope promises (Armijo), so the
    loss never rises, and convexity does the rest.
    """

    def loss(tried: Floats) -> float:
        z = x @ tried
        return float((np.logaddexp(0, z) - target * z).sum() + (penalty * tried**2).sum() / 2)

    weights, inside = weights.copy(), x[:, free]
    for _ in range(100):
        p = _sigmoid(x @ weights)
        slope = inside.T @ (p - target) + (penalty * weights)[free]
        if np.abs(slope).max() <= TOLERANCE * len(x):
            break
        curvature = (inside * (p * (1 - p))[:, None]).T @ inside + np.diag(penalty[free])
        step = np.zeros_like(weights)
        step[free] = np.linalg.solve(curvature, slope)
        here, promised, share = loss(weights), float(slope @ step[free]), 1.0
        while loss(weights - share * step) > here - 1e-4 * share * promised and share > 1e-9:
            share /= 2
        weights = weights - share * step
    return weights


def _sigmoid(z: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(z, -50, 50)))
