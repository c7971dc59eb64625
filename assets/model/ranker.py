"""The ranker: one order out of all channels and figures.

1. A log-linear blend: the conditional logit (McFadden, 1974) of which candidates a shopper meets, over the
   standardised figures. Convex, fitted in seconds, and drawn towards a prior where there is little to learn.
2. Trees on top, boosted from the blend (LambdaMART: Burges, 2010; LightGBM: Ke et al., NeurIPS 2017), as many
   as help shoppers that they were not fitted on. Where none helps, it stays with the blend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from assets.model.interactions import Floats, Ints

PRIOR = {
    "log sequence": 0.4,
    "log co_visitation": 0.4,
    "log ease": 0.3,
    "log revisit": 0.3,
    "log habit": 0.3,
    "log text": 0.1,
    "log attributes": 0.1,
    "log popularity_7d": 0.2,
}
"""Weights of the blend for a shop so young that there is nothing to learn them from."""
RIDGE = 3.0
"""Strength of the prior, in shoppers."""
FEWEST = 100
"""Shoppers with a found item below which no trees are tried: they would follow the noise."""
TREES = 300
PATIENCE = 25
"""Trees without improvement on other shoppers after which no more are grown."""
SETTINGS = {
    "objective": "lambdarank",
    "metric": "ndcg",
    "eval_at": [10],
    "lambdarank_truncation_level": 20,  # twice the list, as LightGBM's authors advise
    "learning_rate": 0.05,
    "num_leaves": 15,
    "min_data_in_leaf": 100,
    "feature_fraction": 0.5,  # channels are alike: without the best one, the others are learnt too
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 10.0,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}

Log = Callable[[str], None]


@dataclass(frozen=True)
class Pairs:
    """Candidates of many users, flat and by user."""

    user: Ints
    features: NDArray[np.float32]
    relevant: NDArray[np.bool_]
    wanted: Floats
    """[pairs]: how many relevant items the pair's user has in all, candidates or not."""

    def of(self, keep: NDArray[np.bool_]) -> Pairs:
        return Pairs(self.user[keep], self.features[keep], self.relevant[keep], self.wanted[keep])

    @cached_property
    def start(self) -> Ints:
        return np.flatnonzero(np.diff(self.user, prepend=-1))

    @cached_property
    def count(self) -> Ints:
        return np.diff(np.append(self.start, len(self.user)))


@dataclass(frozen=True)
class Ranker:
    """A fitted ranker."""

    names: list[str]
    weights: Floats
    """[features] of the blend, on the figures as they are."""
    trees: str = ""
    """LightGBM's own text of the model; empty where no tree helps."""

    def scores(self, features: NDArray[np.float32]) -> Floats:
        """[pairs]; only differences between the candidates of one user mean anything."""
        blend = features.astype(np.float64) @ self.weights
        if not self.trees or not len(features):
            return blend
        return blend + np.asarray(self._booster.predict(features), np.float64)

    @cached_property
    def _booster(self) -> Any:
        import lightgbm

        return lightgbm.Booster(model_str=self.trees)

    def like(self, weights: Sequence[float], trees: str) -> bool:
        return trees == self.trees and list(weights) == self.weights.tolist()

    def weight_of(self, channel: str) -> float:
        """Weight of a channel's log-score in the blend."""
        return float(self.weights[self.names.index(f"log {channel}")])


def fit_ranker(
    pairs: Pairs, names: list[str], seed: int = 0, log: Log = lambda message: None
) -> tuple[Ranker, tuple[Ranker, Ranker], dict[str, float]]:
    """Fit on candidates whose relevance is known.

    Args:
        pairs: candidates; users without a relevant one teach nothing and are left out.
        names: of the features.
        seed: of the trees.
        log: told what was chosen.

    Returns:
        The ranker; two more, each fitted without the users of one parity (`user % 2`), whose scores on those
        users are honest; and NDCG@10 of blend and trees on users they were not fitted on.
    """
    pairs = pairs.of(
        np.repeat(np.logical_or.reduceat(pairs.relevant, pairs.start), pairs.count)
        if len(pairs.user)
        else np.zeros(0, bool)
    )
    halves = [pairs.of(pairs.user % 2 == parity) for parity in (1, 0)]
    blends = [_blend(half, names) for half in halves]
    honest = [ndcg(b.scores(half.features), half) for b, half in zip(blends, halves[::-1], strict=True)]
    figures = {"blend": float(np.concatenate(honest).mean()) if len(pairs.user) else 0.0}
    whole = _blend(pairs, names)
    if min(len(half.start) for half in halves) < FEWEST / 2 or not _can_grow(log):
        return whole, (blends[0], blends[1]), figures
    numbers: list[int] = []
    grown, gain = [], []
    for blend, half, other in zip(blends, halves, halves[::-1], strict=True):
        turn = np.repeat(np.arange(len(other.start)), other.count) % 2
        quarters = [other.of(turn == n) for n in (0, 1)]
        booster, best = _boosted(blend, half, quarters, seed)
        grown.append(booster)
        numbers += best
        for quarter, number in zip(quarters, best[::-1], strict=True):
            # Trees as many as suit these very shoppers would look good on noise, too.
            ranker = Ranker(names, blend.weights, booster.model_to_string(num_iteration=number))
            before, after = (ndcg(r.scores(quarter.features), quarter) for r in (blend, ranker))
            gain.append(after - before)
    trees, gained = round(np.mean(numbers)), np.concatenate(gain)
    figures["trees"] = figures["blend"] + float(gained.mean())
    log(f"ranker: NDCG@10 of the blend {figures['blend']:.4f}, with {trees} trees {figures['trees']:.4f}")
    if gained.mean() <= gained.std() / len(gained) ** 0.5:  # a standard error (Breiman et al., 1984)
        return whole, (blends[0], blends[1]), figures
    folds = [
        Ranker(names, blend.weights, booster.model_to_string(num_iteration=trees))
        for blend, booster in zip(blends, grown, strict=True)
    ]
    ranker = Ranker(names, whole.weights, _train(whole, pairs, trees, seed).model_to_string())
    return ranker, (folds[0], folds[1]), figures


def _can_grow(log: Log) -> bool:
    """Whether LightGBM is there; its wheel needs the system's libgomp."""
    try:
        import lightgbm  # noqa: F401
    except (ImportError, OSError) as error:
        log(f"ranker: no trees, for LightGBM cannot be loaded ({error}); the blend alone ranks")
        return False
    return True


def ndcg(scores: Floats, pairs: Pairs, k: int = 10) -> Floats:
    """[users] NDCG@k of candidates in order of their scores; relevant items that are none count as missed."""
    order = np.lexsort((-scores, pairs.user))
    rank = np.arange(len(order)) - np.repeat(pairs.start, pairs.count)
    gain = np.where(rank < k, 1 / np.log2(rank + 2), 0.0) * pairs.relevant[order]
    ideal = np.cumsum(1 / np.log2(np.arange(2, k + 2)))
    best = ideal[np.minimum(np.maximum(pairs.wanted[pairs.start], 1), k).astype(int) - 1]
    return np.add.reduceat(gain, pairs.start) / best if len(order) else np.zeros(0)


def _blend(pairs: Pairs, names: list[str]) -> Ranker:
    """The conditional logit's weights: Σ_users mean over relevant of (s − log Σ e^s), ridge to the prior."""
    from scipy.optimize import minimize

    prior = np.asarray([PRIOR.get(name, 0.0) for name in names])
    if not len(pairs.user):
        return Ranker(names, prior)
    x = pairs.features.astype(np.float64)
    scale = np.maximum(x.std(axis=0), 1e-6)
    x = np.ascontiguousarray((x - x.mean(axis=0)) / scale)
    start, count, users = pairs.start, pairs.count, len(pairs.start)
    share = pairs.relevant / np.repeat(np.add.reduceat(pairs.relevant, start), count)
    wanted, ridge = share @ x, RIDGE

    def loss(weights: Floats) -> tuple[float, Floats]:
        s = x @ weights
        top = np.maximum.reduceat(s, start)
        e = np.exp(s - np.repeat(top, count))
        total = np.add.reduceat(e, start)
        off = weights - prior * scale
        value = (np.log(total) + top).sum() - wanted @ weights + ridge * (off @ off) / 2
        slope = (e / np.repeat(total, count)) @ x - wanted + ridge * off
        return value / users, slope / users

    found = minimize(loss, prior * scale, jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return Ranker(names, found.x / scale)


def _boosted(blend: Ranker, pairs: Pairs, others: Sequence[Pairs], seed: int) -> tuple[Any, list[int]]:
    """Trees on some shoppers, as long as they help all groups of others; how many help each group most."""
    import lightgbm

    known = _dataset(blend, pairs)
    told: dict[str, dict[str, list[float]]] = {}
    booster = lightgbm.train(
        {**SETTINGS, "seed": seed},
        known,
        num_boost_round=TREES,
        valid_sets=[_dataset(blend, group, known) for group in others],
        keep_training_booster=True,  # else LightGBM cuts the trees to what suits one group
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False), lightgbm.record_evaluation(told)],
    )
    return booster, [int(np.argmax(figures["ndcg@10"])) + 1 for figures in told.values()]


def _train(blend: Ranker, pairs: Pairs, trees: int, seed: int) -> Any:
    import lightgbm

    return lightgbm.train({**SETTINGS, "seed": seed}, _dataset(blend, pairs), num_boost_round=trees)


def _dataset(blend: Ranker, pairs: Pairs, like: Any = None) -> Any:
    import lightgbm

    return lightgbm.Dataset(
        pairs.features,
        pairs.relevant.astype(np.int32),
        group=pairs.count,
        init_score=blend.scores(pairs.features),
        reference=like,
        feature_name=[name.replace(" ", "_") for name in blend.names],
        params={"verbosity": -1, "force_row_wise": True},
    )
