"""The evaluation and the gate of a night, on what lies in the home folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from assets.model.evaluation import CANDIDATE, Evaluation, K, evaluate
from assets.model.gate import Decision, decide
from assets.model.snapshot import snapshot_of
from resources.crash import crash_point
from resources.home import Home
from resources.model_store import ModelStore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Log = Callable[[str], None]


def evaluations(home: Home) -> Path:
    """Where the evaluations lie, `<day>.json` and `<day>.parquet` each."""
    return home.models / "evaluations"


def evaluate_night(home: Home, day: date, log: Log = lambda message: None) -> Evaluation:
    """Measure the candidate of `day` beside the incumbent and the baselines, and write the figures down.

    Raises:
        FileNotFoundError: the day has no snapshot, or no candidate.
        TamperedBundleError: a bundle's files are not those that were sealed.
    """
    from assets.model.recommender import OutdatedModelError
    from assets.model.serving import open_recommender

    store, snapshot = ModelStore(home), snapshot_of(home, day)
    version, before = store.candidate(day), store.champion_before(day)
    candidate = open_recommender(store.path(version), snapshot, home, log)
    try:
        incumbent = open_recommender(store.path(before.version), snapshot, home, log) if before else None
    except (OutdatedModelError, FileNotFoundError) as error:  # or somebody has removed it
        log(f"measuring without the incumbent: {error}")
        incumbent = None
    evaluation = evaluate(
        candidate,
        incumbent,
        candidate_version=version,
        incumbent_version=before.version if before else None,
        shelf_size=home.shop.shelf_size,
        values=home.shop.values.model_dump(),
        log=log,
    )
    crash_point("evaluate.measured")
    evaluation.write(evaluations(home))
    crash_point("evaluate.in_place")
    return evaluation


def promote_night(home: Home, day: date, log: Log = lambda message: None) -> tuple[Evaluation, Decision]:
    """Ask the gate and write down who serves from this night on.

    Where another candidate was trained since the evaluation, or another model serves before this night (days
    may be made in any order), it is measured again: the decision is always about what would serve now.
    A model that was put back by hand in this very night serves in any case, and the decision says so.

    Raises:
        FileNotFoundError: the day was not evaluated.
        BundleError, TamperedBundleError: as `evaluate_night`.
    """
    store, evaluation = ModelStore(home), Evaluation.load(evaluations(home), day)
    before = store.champion_before(day)
    now = (store.candidate(day), before.version if before else None)
    if now != (evaluation.candidate, evaluation.incumbent):
        then = f"{evaluation.candidate} with {evaluation.incumbent or 'nothing'}"
        log(
            f"The evaluation of {day} compares {then}, but now they are {now[0]} and {now[1] or 'nothing'}: "
            "measuring again."
        )
        evaluation = evaluate_night(home, day, log)
    decision = decide(evaluation)
    crash_point("promote.judged")
    champion = store.promote(day, evaluation.candidate, decision.promote, decision.reasons)
    if champion and champion.rollback:
        words = [f"The gate's verdict does not count: {champion.rollback.words}", *decision.reasons]
        decision = replace(decision, promote=champion.promoted, reasons=words)
    for reason in decision.reasons:
        log(reason)
    return evaluation, decision


def figures_table(evaluation: Evaluation) -> str:
    """Markdown: a row per method, best NDCG@10 first, with the candidate's lead over it.

    `shelf` is the candidate's list as published; the others are ranked by relevance alone.
    """
    names = [f"{m}@{K}" for m in ("ndcg", "hr", "recall", "mrr", "coverage")] + [f"new_ndcg@{K}"]
    lines = [
        f"| method | {' | '.join(names)} | candidate's lead in ndcg@{K} |",
        f"|---|{'---:|' * (len(names) + 1)}",
    ]
    ordered = sorted(evaluation.methods.items(), key=lambda method: -method[1][names[0]])
    for method, figures in ordered:
        lead = evaluation.comparisons.get(method, "")
        shown = f"**{method}**" if method == CANDIDATE else method
        lines.append(
            f"| {shown} | {' | '.join(f'{figures[n]:.4f}' if n in figures else '' for n in names)} | {lead} |"
        )
    return "\n".join(lines)


def calibration_table(evaluation: Evaluation) -> str:
    """Markdown: mean probability, observed rate and expected calibration error of each behaviour."""
    rows = [
        f"| {behavior} | {f['mean_p']:.4f} | {f['rate']:.4f} | {f['ece']:.4f} |"
        for behavior, f in evaluation.calibration.items()
    ]
    return "\n".join(["| at least | mean P | observed | calibration error |", "|---|---:|---:|---:|", *rows])


def figures_chart(evaluation: Evaluation) -> Figure:
    """NDCG@10 and recall@10 of each method as bars, the worst below."""
    from matplotlib.figure import Figure

    ordered = sorted(evaluation.methods.items(), key=lambda method: method[1][f"ndcg@{K}"])
    figure = Figure(figsize=(7, 0.6 * len(ordered) + 1.2))
    axis = figure.subplots()
    places = range(len(ordered))
    for name, shift, color in ((f"ndcg@{K}", 0.2, "#4455aa"), (f"recall@{K}", -0.2, "#bbccee")):
        values = [figures[name] for _, figures in ordered]
        axis.barh([place + shift for place in places], values, height=0.4, color=color, label=name)
    axis.set_yticks(list(places), [method for method, _ in ordered])
    axis.set_title(
        f"{evaluation.users:,} shoppers of {evaluation.day}, full ranking, and the shelf as published"
    )
    axis.legend(loc="lower right", fontsize="small")
    return figure
