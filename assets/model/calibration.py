"""From a ranking score to a probability: Platt scaling with a few covariates.

p = σ(w · z(x) + b), fitted by Newton's method on Platt's smoothed targets (N₊ + 1)/(N₊ + 2) and 1/(N₋ + 2)
(Platt, "Probabilistic outputs for support vector machines", 1999), with a small ridge on w. The first feature
is the ranking score and its weight is kept positive, so a better score never means a lower probability.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


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
    mean, scale = features.mean(axis=0), np.maximum(features.std(axis=0), 1e-6)
    x = np.column_stack([(features - mean) / scale, np.ones(count)])
    positive = int(happened.sum())
    target = np.where(happened, (positive + 1) / (positive + 2), 1 / (count - positive + 2))
    penalty = np.append(np.full(width, ridge), 1e-6)
    rate = float(target.mean())
    weights = np.append(np.zeros(width), np.log(rate / (1 - rate)))
    for _ in range(30):
        p = _sigmoid(x @ weights)
        slope = x.T @ (p - target) + penalty * weights
        curvature = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(curvature, slope)
        weights = weights - np.clip(step, -2, 2)  # far from the optimum a Newton step can overshoot
        weights[0] = max(weights[0], 1e-3)
        if np.abs(step).max() < 1e-7:
            break
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


def _sigmoid(z: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(z, -50, 50)))
