"""The gate's rule, on evaluations with given figures."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from assets.model.evaluation import BASELINES, CANDIDATE, INCUMBENT, Evaluation, paired_bootstrap
from assets.model.gate import decide


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
        methods={n: {"ndcg@10": float(v.mean()) if users else 0.0} for n, v in ndcg.items()},
        comparisons={n: paired_bootstrap(ndcg[CANDIDATE] - v) for n, v in ndcg.items() if n != CANDIDATE},
        calibration={},
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
