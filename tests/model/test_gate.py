"""The gate's rule, on evaluations with given figures."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from assets.model.evaluation import BASELINES, CANDIDATE, INCUMBENT, Evaluation, paired_bootstrap
from assets.model.gate import ENOUGH, decide

FLAT = "popularity"
"""Shows everybody the same."""


def evaluation(
    candidate: float, incumbent: float | None, baseline: float, *, users: int = 500, spread: float = 0.02
) -> Evaluation:
    """Users whose NDCG@10 varies around the given means, by the same draw for each method."""
    draw = np.random.default_rng(0).normal(0, spread, users)
    draw -= draw.mean() if users else 0
    ndcg = {name: np.full(users, baseline / 2) for name in BASELINES} | {CANDIDATE: candidate + draw}
    ndcg["co_visitation"] = np.full(users, baseline)
    if incumbent is not None:
        ndcg[INCUMBENT] = np.full(users, incumbent)
    return Evaluation(
        day=date(2026, 1, 12),
        candidate="2026-01-12-new",
        incumbent=None if incumbent is None else "2026-01-11-old",
        users=users,
        methods={
            n: {"ndcg@10": float(v.mean()) if users else 0.0, "coverage@10": 0.02 if n == FLAT else 0.4}
            for n, v in ndcg.items()
        },
        comparisons={n: paired_bootstrap(ndcg[CANDIDATE] - v) for n, v in ndcg.items() if n != CANDIDATE},
        calibration={
            "browse": {"mean_p": 0.1, "rate": 0.08, "ece": 0.02},
            "purchase": {"mean_p": 0.004, "rate": 0.002, "ece": 0.003},
        },
        per_user=pa.table({}),
    )


@pytest.mark.parametrize(
    ("candidate", "incumbent", "baseline", "promote", "words"),
    [
        (0.30, 0.28, 0.20, True, "no worse than the incumbent 2026-01-11-old"),
        (0.30, 0.30, 0.20, True, "no worse than the incumbent"),
        (0.299, 0.30, 0.20, True, "no worse than the incumbent"),
        (0.29, 0.30, 0.20, False, "is worse than the incumbent"),
        (0.30, 0.28, 0.31, False, "does not beat the best baseline, co_visitation"),
        (0.30, 0.28, 0.30, False, "does not beat the best baseline, co_visitation"),
        (0.30, None, 0.20, True, "is better than the best baseline, co_visitation"),
    ],
)
def test_the_rule(candidate, incumbent, baseline, promote, words):
    decision = decide(evaluation(candidate, incumbent, baseline))
    assert decision.promote is decision.passed is promote
    assert words in " ".join(decision.reasons)


def test_a_small_loss_beyond_doubt_is_a_loss():
    """0.003 below is within the margin, but not where every resample says so."""
    assert not decide(evaluation(0.297, 0.30, 0.2, spread=0.001)).promote
    assert decide(evaluation(0.297, 0.30, 0.2, spread=0.05)).promote


@pytest.mark.parametrize("level", [0.02, 0.3])
def test_the_margin_is_a_share_of_the_incumbents_figure(level):
    """At any level, a loss of one hundredth passes and one of a tenth does not."""
    assert decide(evaluation(0.99 * level, level, level / 2, spread=0.2)).promote
    refused = decide(evaluation(0.90 * level, level, level / 2, spread=0.2))
    assert refused.reasons[0].startswith("The candidate is worse than the incumbent")
    assert f"(allowed: {-0.02 * level:+.4f}, 2% of the incumbent's" in refused.reasons[0]
    assert not refused.promote


def test_the_first_model_serves_provisionally_and_the_gate_says_no():
    decision = decide(evaluation(0.2, None, 0.3))
    assert decision.promote and not decision.passed
    assert "provisionally" in decision.reasons[-1]


@pytest.mark.parametrize(("incumbent", "promote"), [(None, True), (0.3, False)])
def test_nobody_to_measure_on_changes_nothing(incumbent, promote):
    decision = decide(evaluation(0.3, incumbent, 0.2, users=0))
    assert decision.promote is promote and not decision.passed
    assert "could not be measured" in decision.reasons[0]


def with_figures(
    method: str, users: int = 500, incumbent: float | None = 0.28, **figures: float
) -> Evaluation:
    """A candidate that is better than all, but for one figure of a method, or of a behaviour."""
    made = evaluation(0.30, incumbent, 0.20, users=users)
    for part in (made.methods, made.calibration):
        if method in part:
            part[method] = {**part[method], **figures}
    return made


@pytest.mark.parametrize(
    ("behavior", "rate", "error", "passed"),
    [
        ("browse", 0.08, 0.079, True),
        ("browse", 0.08, 0.081, False),
        ("purchase", 0.002, 0.009, True),  # a tiny rate is no reason to refuse
        ("purchase", 0.002, 0.011, False),
        ("purchase", 0.0, 0.5, False),
    ],
)
def test_probabilities_have_to_be_near_what_happens(behavior, rate, error, passed):
    decision = decide(with_figures(behavior, rate=rate, ece=error))
    assert decision.promote is decision.passed is passed
    (told,) = (reason for reason in decision.reasons if f"P({behavior})" in reason)
    assert ("is calibrated" in told) is passed
    assert f"off by {error:.4f} on average where {rate:.4f} was observed" in told
    assert passed or "2026-01-11-old goes on serving" in decision.reasons[-1]


@pytest.mark.parametrize(
    ("coverage", "incumbent", "flattest", "passed"),
    [
        (0.21, 0.4, 0.02, True),
        (0.19, 0.4, 0.02, False),  # below half of the incumbent's
        (0.19, None, 0.02, True),
        (0.03, None, 0.02, False),  # little more than one list for all
        (0.05, None, 0.02, True),
        (0.6, None, 0.9, True),  # so small a shop that ten items are nearly all
    ],
)
def test_the_catalogue_has_to_be_shown(coverage, incumbent, flattest, passed):
    made = with_figures(CANDIDATE, incumbent=None if incumbent is None else 0.28, **{"coverage@10": coverage})
    made.methods[FLAT]["coverage@10"] = flattest
    if incumbent is not None:
        made.methods[INCUMBENT]["coverage@10"] = incumbent
    decision = decide(made)
    assert decision.passed is passed
    told = "shows enough of the catalogue" if passed else "shows too little of the catalogue"
    assert any(told in reason for reason in decision.reasons)
    assert decision.promote is (passed or incumbent is None)


def test_on_a_day_with_few_shoppers_the_limits_are_not_judged():
    made = with_figures("purchase", users=ENOUGH - 1, ece=0.5)
    made.methods[CANDIDATE]["coverage@10"] = 0.0
    decision = decide(made)
    assert decision.passed
    assert "are not judged (from 50 on)" in decision.reasons[-1]
    assert not decide(with_figures("purchase", users=ENOUGH, ece=0.5)).passed


def test_every_condition_is_told_even_where_one_fails():
    decision = decide(with_figures("purchase", ece=0.5))
    words = ("incumbent", "best baseline", "P(browse)", "P(purchase)", "catalogue", "goes on serving")
    assert len(decision.reasons) == len(words)
    assert all(word in reason for word, reason in zip(words, decision.reasons, strict=True))
