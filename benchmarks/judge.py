"""The figures of a method: full ranking, block by block, with intervals over users.

Nothing is sampled: each held-out item is ranked against all items that may be recommended. Figures are means
over users, each with a 95 % percentile bootstrap interval; one set of resamples serves all methods, so that
their differences are paired.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from assets.model.calibration import expected_calibration_error
from assets.model.interactions import LEVELS, Floats, HeldOut, Ints, blocks, sample
from assets.model.metrics import coverage, ranking_metrics, top_k
from benchmarks.methods import Calibrated, Log, Matrix

K = 10
COLD_K = (10, 100)
OUTCOMES = ("browse", "click", "purchase")
SHELF = 100
"""First items of each user whose probabilities are judged."""
RESAMPLES = 1000
CELLS = 4_000_000
"""Scores held at a time."""


@dataclass(frozen=True)
class Judged:
    """The figures of one method, user by user."""

    per_user: dict[str, Floats]
    """Figure → [users], NaN for a user to whom it does not apply."""
    top: Ints
    """[users, K] items shown; -1 is an empty place."""
    cold: dict[str, float | None]
    """cold_recall@k; None where no cold item was held out."""
    seconds: float
    """Scoring alone, without the measuring."""


def judge(scores: Callable[[Ints], Matrix], held: HeldOut, log: Log = lambda message: None) -> Judged:
    """Rank every item that may be recommended for every judged user.

    Args:
        scores: [len(users), items] for a block of users.
        held: what counts. With `repeats` there is a figure for new items only.
        log: told the progress every five seconds.

    Returns:
        ndcg@10, hr@10 and mrr@10; with repeats also new_ndcg@10 and purchase_ndcg@10.
    """
    parts: dict[str, list[Floats]] = {}
    shown, cold_hits = [np.zeros((0, K), np.int64)], dict.fromkeys(COLD_K, 0.0)
    cold_pairs, seconds, told = 0, 0.0, time.monotonic()
    done = 0
    for block in blocks(held.users, len(held.past.item_ids), CELLS):
        began = time.monotonic()
        score = scores(block)
        seconds += time.monotonic() - began
        relevant, allowed = held.relevant(block), held.allowed(block)
        figures = {n: v for n, v in ranking_metrics(score, relevant, K, allowed).items() if "recall" not in n}
        if held.repeats:
            new = allowed & ~held.past.met(block)
            bought = held.relevant(block, LEVELS["purchase"])
            figures[f"new_ndcg@{K}"] = ranking_metrics(score, relevant, K, new)[f"ndcg@{K}"]
            figures[f"purchase_ndcg@{K}"] = ranking_metrics(score, bought, K, allowed)[f"ndcg@{K}"]
        for name, values in figures.items():
            parts.setdefault(name, []).append(values)
        shown.append(top_k(score, K, allowed))
        cold = relevant & held.past.unmet_items
        pairs, rows = cold.sum(axis=1), cold.any(axis=1)
        cold_pairs += int(pairs.sum())
        for k in COLD_K if rows.any() else ():
            recall = ranking_metrics(score[rows], cold[rows], k, allowed[rows])[f"recall@{k}"]
            cold_hits[k] += float(np.nansum(recall * pairs[rows]))
        done += len(block)
        if time.monotonic() - told > 5:
            told = time.monotonic()
            log(f"ranked {done:,} of {len(held.users):,} users")
    return Judged(
        per_user={name: np.concatenate(values) for name, values in parts.items()},
        top=np.concatenate(shown),
        cold={f"cold_recall@{k}": hits / cold_pairs if cold_pairs else None for k, hits in cold_hits.items()},
        seconds=seconds,
    )


def mean_ndcg(scores: Callable[[Ints], Matrix], held: HeldOut, most: int = 5000, seed: int = 0) -> float:
    """NDCG@10 on validation, for choosing settings: of all users, or of `most` drawn by `seed`."""
    users = sample(held.users, most, seed)
    values = [np.zeros(0)]
    for block in blocks(users, len(held.past.item_ids), CELLS):
        figures = ranking_metrics(scores(block), held.relevant(block), K, held.allowed(block))
        values.append(figures[f"ndcg@{K}"])
    every = np.concatenate(values)
    return float(every.mean()) if len(every) else 0.0


def resampled_means(figures: Floats, seed: int, resamples: int = RESAMPLES) -> Floats:
    """Means over users drawn with replacement.

    Args:
        figures: [users, figures]; a NaN is left out of its mean.
        seed: the same seed draws the same users.
        resamples: how often.

    Returns:
        [resamples, figures]; NaN where nobody drawn has the figure.
    """
    users = len(figures)
    applies = np.isfinite(figures)
    values, random = np.where(applies, figures, 0.0), np.random.default_rng(seed)
    means = np.empty((resamples, figures.shape[1]))
    at_once = max(1, 8_000_000 // max(users, 1))
    for first in range(0, resamples, at_once):
        rows = min(at_once, resamples - first)
        times = np.empty((rows, users))  # how often each user is drawn
        for row in range(rows):
            times[row] = np.bincount(random.integers(0, users, users), minlength=users) if users else 0
        with np.errstate(invalid="ignore"):
            means[first : first + rows] = (times @ values) / (times @ applies)
    return means


def interval(means: Floats) -> list[float] | None:
    """95 % percentile interval of resampled means; None where there are none."""
    means = means[np.isfinite(means)]
    return [float(v) for v in np.quantile(means, [0.025, 0.975])] if len(means) else None


def coverage_interval(top: Ints, items: int, seed: int, resamples: int = RESAMPLES) -> list[float] | None:
    """95 % interval of coverage over users, around the estimate.

    Fewer distinct users are in a resample than in the sample, and they see fewer distinct items. So the
    spread of the resamples counts, not where they lie: their interval is moved by their mean's distance from
    the estimate.
    """
    if not len(top) or not items:
        return None
    random, users, values = np.random.default_rng(seed), len(top), []
    for _ in range(min(resamples, max(100, 1_000_000_000 // top.size))):
        shown = np.zeros(items + 1, bool)  # the last place takes -1
        shown[top[random.integers(0, users, users)]] = True
        values.append(shown[:-1].sum() / items)
    low, high = np.quantile(values, [0.025, 0.975])
    share = coverage(top, items)
    moved = share - np.mean(values)
    return [float(np.clip(low + moved, 0.0, share)), float(np.clip(high + moved, share, 1.0))]


def calibration(
    method: Calibrated, scores: Callable[[Ints], Matrix], held: HeldOut, most: int = 5000, seed: int = 0
) -> dict[str, dict[str, float | None]]:
    """Log-loss, AUC and expected calibration error per behaviour, on the first items of each judged user.

    Happened is what the user did with the item in the test, at least as strong as the behaviour.
    """
    users = held.users
    if len(users) > most:
        users = np.sort(np.random.default_rng(seed).choice(users, most, replace=False))
    told: list[Floats] = [np.zeros((0, len(OUTCOMES)))]
    happened = [np.zeros((0, len(OUTCOMES)), bool)]
    for block in blocks(users, len(held.past.item_ids), CELLS):
        top = top_k(scores(block), SHELF, held.allowed(block))
        row, place = np.nonzero(top >= 0)
        item = top[row, place]
        told.append(np.asarray(method.probabilities(block[row], item), np.float64))
        did = [held.relevant(block, LEVELS[name])[row, item] for name in OUTCOMES]
        happened.append(np.stack(did, axis=1))
    p, y = np.concatenate(told), np.concatenate(happened)
    return {
        name: {
            "pairs": len(p),
            "rate": float(y[:, n].mean()) if len(y) else None,
            "mean_p": float(p[:, n].mean()) if len(p) else None,
            "log_loss": log_loss(p[:, n], y[:, n]),
            "auc": auc(p[:, n], y[:, n]),
            "ece": expected_calibration_error(p[:, n], y[:, n]) if len(p) else None,
        }
        for n, name in enumerate(OUTCOMES)
    }


def log_loss(p: Floats, happened: NDArray[np.bool_]) -> float | None:
    """−mean log of the probability of what happened; None without pairs. Probabilities end at 1e-12."""
    if not len(p):
        return None
    p = np.clip(p, 1e-12, 1 - 1e-12)
    return float(-np.where(happened, np.log(p), np.log1p(-p)).mean())


def auc(p: Floats, happened: NDArray[np.bool_]) -> float | None:
    """Chance that what happened was told a higher probability than what did not, ties counted half.

    (Mann and Whitney, 1947.) None where all happened or nothing did.
    """
    positive = int(happened.sum())
    negative = len(happened) - positive
    if not positive or not negative:
        return None
    _, where, times = np.unique(p, return_inverse=True, return_counts=True)
    rank = np.cumsum(times) - (times - 1) / 2  # mean rank of each value, from 1
    return float((rank[where][happened].sum() - positive * (positive + 1) / 2) / (positive * negative))
