"""The gate: whether a candidate may serve, and why, in words."""

from __future__ import annotations

from dataclasses import dataclass

from assets.model.evaluation import CANDIDATE, INCUMBENT, Evaluation, K

NOT_WORSE = 0.02
"""Share of the incumbent's NDCG@10 that a candidate may lie below it: it has seen newer days, and one day is
noisy. A share, because NDCG@10 is 0.03 in one shop and 0.3 in the next."""


@dataclass(frozen=True)
class Decision:
    """What the gate says."""

    promote: bool
    """The candidate serves from this night on."""
    passed: bool
    """It passed the gate; a first candidate may serve without (`promote` and not `passed`)."""
    reasons: list[str]


def decide(evaluation: Evaluation, not_worse: float = NOT_WORSE) -> Decision:
    """Promote a candidate that is no worse than the incumbent and better than the best baseline.

    - *No worse than the incumbent*: the mean paired difference in NDCG@10 is at least −`not_worse` times the
      incumbent's NDCG@10, and it is not below zero beyond doubt (the upper end of its 95 % interval is at
      least 0).
    - *Better than the best baseline*: the mean paired difference in NDCG@10 is above 0.

    Without any incumbent the candidate serves even if it fails, provisionally: the shop wants a shelf, and
    Nightshelf has no other. `passed` then says no, and the check on `champion_model` warns.
    """
    if not evaluation.users:
        return _without_users(evaluation)
    reasons, passed = [], True
    ndcg = {name: figures[f"ndcg@{K}"] for name, figures in evaluation.methods.items()}
    if evaluation.incumbent is not None:
        against, allowed = evaluation.comparisons[INCUMBENT], -not_worse * ndcg[INCUMBENT]
        worse = against.mean < allowed or against.high < 0
        passed &= not worse
        verb = "is worse than" if worse else "is no worse than"
        reasons.append(
            f"The candidate {verb} the incumbent {evaluation.incumbent}: NDCG@{K} {ndcg[CANDIDATE]:.4f} "
            f"against {ndcg[INCUMBENT]:.4f}, difference {against} (allowed: {allowed:+.4f}, "
            f"{not_worse:.0%} of the incumbent's, and not below 0 beyond doubt)."
        )
    best = evaluation.best_baseline
    better = (
        evaluation.comparisons[best].mean > 1e-9
    )  # equal rankings can differ in the last bit of their sums
    passed &= better
    verb = "is better than" if better else "does not beat"
    reasons.append(
        f"The candidate {verb} the best baseline, {best}: NDCG@{K} {ndcg[CANDIDATE]:.4f} "
        f"against {ndcg[best]:.4f}, difference {evaluation.comparisons[best]}."
    )
    if evaluation.incumbent is None and not passed:
        reasons.append("No model has served before, so it serves provisionally until a better one comes.")
    elif not passed:
        reasons.append(f"The incumbent {evaluation.incumbent} goes on serving.")
    return Decision(promote=passed or evaluation.incumbent is None, passed=passed, reasons=reasons)


def _without_users(evaluation: Evaluation) -> Decision:
    nobody = (
        f"On {evaluation.day} no shopper with a history met anything that was known before, so the candidate "
        "could not be measured."
    )
    if evaluation.incumbent is None:
        return Decision(True, False, [nobody, "No model has served before, so it serves provisionally."])
    return Decision(False, False, [nobody, f"The incumbent {evaluation.incumbent} goes on serving."])
