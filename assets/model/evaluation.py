"""How good a candidate is on the test day, beside the incumbent and the baselines, user by user.

The test day is the snapshot's cut-off D. Every method knows the days before D and nothing of D; it ranks all
items known before D for each shopper who has a history and met one of them on D. Relevant are the distinct
known items of D: people come back to items, so nothing is masked. What was first seen on D itself is neither
ranked nor relevant, for any method: nobody could have shown it. A second figure (`new_ndcg@10`) takes the
shopper's own items out of the ranking and of the relevant items.

These are figures of relevance, which the gate asks for. What a shop publishes is ordered by value and obeys
rules, so one more row, `shelf`, judges the candidate's list as it would have been published the night before,
by the measure of `recommendation_outcomes`: all items met on D are relevant, those first seen on D too. With
it a later outcome can be compared. It still differs from an outcome in two things: the items' words, prices
and stock are those of D, for all methods alike, and the look-back window begins one day later.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from assets.model.calibration import expected_calibration_error
from assets.model.channels import Matrix
from assets.model.interactions import (
    LEVELS,
    Floats,
    Interactions,
    Ints,
    blocks,
    hold_out,
    pair_matrix,
    sample,
)
from assets.model.metrics import coverage, list_metrics, ranking_metrics, top_k
from assets.model.recommender import OUTCOMES, Recommender, Values
from resources.aside import replacing
from resources.crash import crash_point

CANDIDATE, INCUMBENT, SHELF = "nightshelf", "incumbent", "shelf"
BASELINES = ("popularity", "popularity_7d", "co_visitation", "ease", "revisit")
K = 10
JUDGED_ON = 1000
"""Shoppers whose shelves tell the calibration: a mean probability to a tenth of a per cent."""


@dataclass(frozen=True)
class Interval:
    """Mean of a paired difference over users, with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


@dataclass(frozen=True)
class Evaluation:
    """The figures of one test day."""

    day: date
    candidate: str
    """Version of the candidate's bundle."""
    incumbent: str | None
    """Version of the incumbent's bundle; None on the first night. `methods` has no row of an incumbent that
    this version of Nightshelf cannot open."""
    users: int
    methods: dict[str, dict[str, float]]
    """Method → ndcg@10, hr@10, recall@10, mrr@10, coverage@10, new_ndcg@10 (means over users). `shelf` has no
    new_ndcg@10; evaluations written by earlier versions have no `shelf`."""
    comparisons: dict[str, Interval]
    """Method → NDCG@10 of the candidate minus that method's, paired by user."""
    calibration: dict[str, dict[str, float]]
    """Behaviour → mean probability, observed rate and expected calibration error on the candidate's shelf."""
    per_user: pa.Table = field(repr=False)
    """user_key, then NDCG@10 of each method."""

    @property
    def best_baseline(self) -> str:
        """The baseline with the highest NDCG@10 (evaluations of earlier versions have fewer baselines)."""
        known = [name for name in BASELINES if name in self.methods]
        return max(known, key=lambda name: self.methods[name][f"ndcg@{K}"])

    def write(self, folder: Path) -> Path:
        """Put `<day>.json`, and `<day>.parquet` with each user's figures, into `folder`, each by a rename."""
        table, file = folder / f"{self.day}.parquet", folder / f"{self.day}.json"
        with replacing(table) as aside:
            pq.write_table(self.per_user, aside)
            crash_point("evaluate.shoppers_written")
        crash_point("evaluate.shoppers_in_place")
        record = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "per_user"}
        record["day"] = self.day.isoformat()
        record["comparisons"] = {name: asdict(interval) for name, interval in self.comparisons.items()}
        with replacing(file) as aside:
            aside.write_text(json.dumps(record, indent=2), encoding="utf-8")
            crash_point("evaluate.figures_written")
        return file

    @classmethod
    def load(cls, folder: Path, day: date) -> Evaluation:
        """Read what `write` wrote.

        Raises:
            FileNotFoundError: nothing was evaluated for that day.
        """
        file = folder / f"{day}.json"
        if not file.exists():
            raise FileNotFoundError(f"{file} is not there: materialize model_evaluation for {day} first")
        known: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        known["day"] = date.fromisoformat(known["day"])
        known["comparisons"] = {name: Interval(**c) for name, c in known["comparisons"].items()}
        return cls(**known, per_user=pq.read_table(file.with_suffix(".parquet")))


def evaluate(
    candidate: Recommender,
    incumbent: Recommender | None = None,
    *,
    candidate_version: str = "",
    incumbent_version: str | None = None,
    shelf_size: int = K,
    values: Values | None = None,
    resamples: int = 1000,
    log: Callable[[str], None] = lambda message: None,
) -> Evaluation:
    """Measure the candidate, the incumbent and the baselines on the candidate's own cut-off day.

    Args:
        candidate: on the interactions up to and including the test day.
        incumbent: on the same snapshot (its own item vectors), or None where there is none to compare with.
        candidate_version: name of the candidate's bundle, for the record.
        incumbent_version: name of the incumbent's bundle, for the record.
        shelf_size: items on a published shelf.
        values: what a behaviour is worth, where it differs from the candidate's own.
        resamples: bootstrap samples of users, drawn with a fixed seed.
        log: told the progress.

    Returns:
        The evaluation; with no users on the test day, all figures are 0 and `users` is 0.

    Raises:
        ValueError: candidate and incumbent do not stand on the same items, users and day.
    """
    data, day = candidate.data, candidate.data.as_of
    if incumbent and not _same_ground(data, incumbent.data):
        raise ValueError("candidate and incumbent must be loaded on the same snapshot to be compared")
    held = hold_out(data, day)
    past, users, met = held.past, held.users, (held.user, held.item)
    serving = candidate.until(past.as_of)
    # The baselines are channels of the candidate's own, and fitted already.
    methods = {name: serving.channels[name].scores for name in BASELINES}
    methods[CANDIDATE] = serving.scores
    if incumbent:
        methods[INCUMBENT] = incumbent.until(past.as_of).scores
    items = int(past.known_items.sum())
    log(f"{len(users):,} shoppers with a history came on {day}; ranking {items:,} items for each")
    per_user = {name: _measure(scores, past, users, met) for name, scores in methods.items()}
    ndcg = {name: figures[f"ndcg@{K}"] for name, figures in per_user.items()}
    return Evaluation(
        day=day,
        candidate=candidate_version,
        incumbent=incumbent_version,
        users=len(users),
        methods={
            **{name: _means(figures) for name, figures in per_user.items()},
            SHELF: _means(_judge_shelf(serving, data, day, shelf_size, values)),
        },
        comparisons={
            name: paired_bootstrap(ndcg[CANDIDATE] - ndcg[name], resamples)
            for name in ndcg
            if name != CANDIDATE
        },
        calibration=_calibration(serving, data, day),
        per_user=pa.table({"user_key": pa.array(data.users[users], pa.string()), **ndcg}),
    )


def paired_bootstrap(difference: Floats, resamples: int = 1000, seed: int = 0) -> Interval:
    """95 % percentile interval of the mean of paired differences, resampling users.

    (Efron and Tibshirani, 1993; Sakai, SIGIR 2006, for retrieval metrics.)

    Args:
        difference: [users]. Empty: an interval of zeros.
        resamples: number of bootstrap samples.
        seed: of the generator; the same seed gives the same interval.
    """
    if not len(difference):
        return Interval(0.0, 0.0, 0.0)
    random, n = np.random.default_rng(seed), len(difference)
    at_once = max(1, 2_000_000 // n)
    means = np.concatenate(
        [
            difference[random.integers(0, n, (min(at_once, resamples - done), n))].mean(axis=1)
            for done in range(0, resamples, at_once)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(difference.mean()), float(low), float(high))


def _measure(
    scores: Callable[[Ints], Matrix], past: Interactions, users: Ints, met: tuple[Ints, Ints]
) -> dict[str, NDArray[np.float64]]:
    """Per-user figures of one method, and its coverage as an array of one."""
    items, known = len(past.item_ids), past.known_items
    parts: list[dict[str, NDArray[np.float64]]] = []
    shown = []
    for block in blocks(users, items):
        score = np.compress(known, scores(block), axis=1)
        relevant = np.compress(known, pair_matrix(block, met, items), axis=1)
        figures = ranking_metrics(score, relevant, K)
        new = ~np.compress(known, past.met(block), axis=1)
        figures[f"new_ndcg@{K}"] = ranking_metrics(score, relevant, K, allowed=new)[f"ndcg@{K}"]
        parts.append(figures)
        shown.append(top_k(score, K))
    names = [*(f"{m}@{K}" for m in ("ndcg", "hr", "recall", "mrr")), f"new_ndcg@{K}"]
    merged = {name: np.concatenate([np.zeros(0), *(p[name] for p in parts)]) for name in names}
    every = np.concatenate([np.zeros((0, K), np.int64), *shown])
    merged[f"coverage@{K}"] = np.array([coverage(every, int(known.sum()))])
    return merged


def _judge_shelf(
    serving: Recommender, data: Interactions, day: date, size: int, values: Values | None
) -> dict[str, NDArray[np.float64]]:
    """Per-user figures of the list that `serving` publishes, for all who came and had one; its coverage."""
    user, item = data.met_on(day)
    users = np.intersect1d(serving.data.known_users, user)
    lists = serving.shelves(users, size, values)[:, :K]
    had_one = (lists >= 0).any(axis=1)
    users, lists = users[had_one], lists[had_one]
    parts, items = [], len(data.item_ids)
    for rows in blocks(np.arange(len(users)), items):
        parts.append(list_metrics(lists[rows], pair_matrix(users[rows], (user, item), items), K))
    names = [f"{m}@{K}" for m in ("ndcg", "hr", "recall", "mrr")]
    figures = {name: np.concatenate([np.zeros(0), *(p[name] for p in parts)]) for name in names}
    figures[f"coverage@{K}"] = np.array([coverage(lists, int(serving.data.known_items.sum()))])
    return figures


def _means(figures: dict[str, NDArray[np.float64]]) -> dict[str, float]:
    """Means over the users to whom the figure applies (for new items: those who met any); 0 for nobody."""
    return {name: float(np.nanmean(v)) if np.isfinite(v).any() else 0.0 for name, v in figures.items()}


def _calibration(
    serving: Recommender, data: Interactions, day: date, shelf: int = 20
) -> dict[str, dict[str, float]]:
    """The shelves of some with a history, against what they did on the test day."""
    items = len(data.item_ids)
    p, pairs = [np.zeros((0, len(OUTCOMES)))], [np.zeros(0, np.int64)]
    for block in serving.blocks(sample(serving.data.known_users, JUDGED_ON)):
        shown = serving.ranked(block, shelf)
        p.append(shown.p)
        pairs.append(block[shown.row] * items + shown.item)
    told, pair = np.concatenate(p), np.concatenate(pairs)
    result = {}
    for column, name in enumerate(OUTCOMES):
        user, item = data.met_on(day, LEVELS[name])
        happened = np.isin(pair, user * items + item)
        result[name] = {
            "mean_p": float(told[:, column].mean()) if len(told) else 0.0,
            "rate": float(happened.mean()) if len(told) else 0.0,
            "ece": expected_calibration_error(told[:, column], happened),
        }
    return result


def _same_ground(a: Interactions, b: Interactions) -> bool:
    return a.as_of == b.as_of and np.array_equal(a.item_ids, b.item_ids) and np.array_equal(a.users, b.users)
