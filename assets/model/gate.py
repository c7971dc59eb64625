"""The gate: whether a candidate may serve, and why, in words.

It judges one day, the candidate's own cut-off day: the newest one, of which the candidate knew nothing.
Earlier days would make a calmer figure, but the candidate was trained on them (its encoder, its weights and
its curves have seen what people did), while the incumbent was not, or on fewer of them: pooled, the newer
model would win by having seen the answers. Those days were judged in their own nights, each by a candidate of
its own. What one day leaves in doubt is for the interval to say: shoppers are resampled in pairs, so whatever
is special about the day befalls both sides of a comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from assets.model.evaluation import BASELINES, CANDIDATE, INCUMBENT, Evaluation, K

NOT_WORSE = 0.02
"""Share of the incumbent's NDCG@10 that a candidate may lie below it: it has seen newer days, and one day is
noisy. A share, because NDCG@10 is 0.03 in one shop and 0.3 in the next."""
ENOUGH = 50
"""Shoppers of a day from which on calibration and coverage are judged: a thousand places of a shelf. Of
fewer, a handful of purchases decides whether a rate is 0.001 or 0.005."""
CALIBRATION = 0.01
"""Expected calibration error that is always allowed. Where more than that happened, the error may be as large
as the observed rate: days differ, and a Sunday with half the visits of the Friday before it is no broken
model."""
COVERAGE = 0.5
"""Share of the incumbent's coverage@10 that the candidate has at least."""
NOT_ONE_LIST = 2.0
"""Times the coverage@10 of the baseline that shows the fewest items (popularity: ten) that the candidate has
at least, up to half of the catalogue: a model that shows the same to all has learnt nothing of anybody."""


@dataclass(frozen=True)
class Decision:
    """What the gate says."""

    promote: bool
    """The candidate serves from this night on."""
    passed: bool
    """It passed the gate; a first candidate may serve without (`promote` and not `passed`)."""
    reasons: list[str]


@dataclass(frozen=True)
class _Verdict:
    """One condition of the gate: whether it holds, and in words."""

    holds: bool
    words: str


def decide(evaluation: Evaluation, not_worse: float = NOT_WORSE) -> Decision:
    """Promote a candidate that is no worse than the incumbent, better than the best baseline, and sane.

    - *No worse than the incumbent*: the mean paired difference in NDCG@10 is at least −`not_worse` times the
      incumbent's NDCG@10, and it is not below zero beyond doubt (the upper end of its 95 % interval is at
      least 0).
    - *Better than the best baseline*: the mean paired difference in NDCG@10 is above 0. That it be so beyond
      doubt is not asked: with the hundred shoppers of a small shop the interval is wider than what there is
      to win, no candidate would ever pass, and the shop would be left with its oldest model.
    - *Calibrated*: for each behaviour, the expected calibration error is at most `CALIBRATION`, or the
      observed rate where that is more.
    - *Covering*: its coverage@10 is at least `COVERAGE` of the incumbent's, and `NOT_ONE_LIST` times that of
      the baseline that shows the fewest items.

    The last two are judged on days with `ENOUGH` shoppers only.

    Without any incumbent, or with one that is gone or that this version of Nightshelf cannot open, the
    candidate serves even if it fails, provisionally: the shop wants a shelf, and Nightshelf has no other.
    `passed` then says no, and the check on `champion_model` warns.
    """
    if not evaluation.users:
        return _without_users(evaluation)
    verdicts = [*_incumbent(evaluation, not_worse), _baseline(evaluation), *_limits(evaluation)]
    passed = all(verdict.holds for verdict in verdicts)
    reasons = [verdict.words for verdict in verdicts]
    if not passed:
        reasons.append(_who_serves(evaluation))
    return Decision(promote=passed or not _can_serve(evaluation), passed=passed, reasons=reasons)


def _can_serve(evaluation: Evaluation) -> bool:
    """Whether the incumbent can."""
    return INCUMBENT in evaluation.methods


def _who_serves(evaluation: Evaluation) -> str:
    if _can_serve(evaluation):
        return f"The incumbent {evaluation.incumbent} goes on serving."
    none = "No other model can serve" if evaluation.incumbent else "No model has served before"
    return f"{none}, so it serves provisionally until a better one comes."


def _incumbent(evaluation: Evaluation, not_worse: float) -> Iterator[_Verdict]:
    if evaluation.incumbent is None:
        return
    if not _can_serve(evaluation):
        yield _Verdict(
            True,
            f"The incumbent {evaluation.incumbent} was made by another version of Nightshelf, which this one "
            "cannot open, or is no longer there: there is nothing to compare with.",
        )
        return
    against, reached = evaluation.comparisons[INCUMBENT], _ndcg(evaluation, INCUMBENT)
    allowed = -not_worse * reached
    worse = against.mean < allowed or against.high < 0
    verb = "is worse than" if worse else "is no worse than"
    yield _Verdict(
        not worse,
        f"The candidate {verb} the incumbent {evaluation.incumbent}: NDCG@{K} "
        f"{_ndcg(evaluation, CANDIDATE):.4f} against {reached:.4f}, difference {against} (allowed: "
        f"{allowed:+.4f}, {not_worse:.0%} of the incumbent's, and not below 0 beyond doubt).",
    )


def _baseline(evaluation: Evaluation) -> _Verdict:
    best = evaluation.best_baseline
    against = evaluation.comparisons[best]
    better = against.mean > 1e-9  # equal rankings can differ in the last bit of their sums
    verb = "is better than" if better else "does not beat"
    return _Verdict(
        better,
        f"The candidate {verb} the best baseline, {best}: NDCG@{K} {_ndcg(evaluation, CANDIDATE):.4f} "
        f"against {_ndcg(evaluation, best):.4f}, difference {against}.",
    )


def _limits(evaluation: Evaluation) -> Iterator[_Verdict]:
    if evaluation.users < ENOUGH:
        yield _Verdict(
            True,
            f"With {evaluation.users} shoppers on the day, calibration and coverage are not judged "
            f"(from {ENOUGH} on).",
        )
        return
    for behavior, figures in evaluation.calibration.items():
        error, limit = figures["ece"], max(CALIBRATION, figures["rate"])
        calibrated = error <= limit
        yield _Verdict(
            calibrated,
            f"Its P({behavior}) is {'calibrated' if calibrated else 'not calibrated'}: off by {error:.4f} on "
            f"average where {figures['rate']:.4f} was observed (allowed: {limit:.4f}).",
        )
    yield _coverage(evaluation)


def _coverage(evaluation: Evaluation) -> _Verdict:
    covered = {name: figures[f"coverage@{K}"] for name, figures in evaluation.methods.items()}
    fewest = min(covered[name] for name in BASELINES if name in covered)
    limit = min(NOT_ONE_LIST * fewest, 0.5)
    if _can_serve(evaluation):
        limit = max(limit, COVERAGE * covered[INCUMBENT])
    enough = covered[CANDIDATE] >= limit
    return _Verdict(
        enough,
        f"It shows {'enough' if enough else 'too little'} of the catalogue: {covered[CANDIDATE]:.1%} of the "
        f"items are among somebody's first {K} (at least {limit:.1%}).",
    )


def _ndcg(evaluation: Evaluation, method: str) -> float:
    return evaluation.methods[method][f"ndcg@{K}"]


def _without_users(evaluation: Evaluation) -> Decision:
    nobody = (
        f"On {evaluation.day} no shopper with a history met anything that was known before, so the candidate "
        "could not be measured."
    )
    return Decision(not _can_serve(evaluation), False, [nobody, _who_serves(evaluation)])
