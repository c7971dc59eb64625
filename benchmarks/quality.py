"""How good are the recommendations on a shop's own data, beside what people would use instead?

python -m benchmarks.quality --interactions log.parquet --items items.parquet --split temporal --out
report.json

Every method learns from the same past, chooses its settings on the same validation pairs, and ranks the whole
catalogue for the same users. The report is JSON, a table, and a picture beside the JSON.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.figures import REFUSED, minutes, positive
from resources.devices import share_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from assets.model.interactions import HeldOut
    from benchmarks.data import Dataset
    from benchmarks.judge import Judged
    from benchmarks.methods import Entry, Log, Method
    from benchmarks.splits import Split

# Repeated here, so that --help loads nothing heavy; a test holds them together.
SPLITS = ("leave-one-out", "temporal")
METHODS = (
    *("popularity", "popularity_7d", "revisit", "item_knn", "co_visitation", "ease"),
    *("implicit_bm25", "implicit_als", "sasrec", "nightshelf", "nightshelf_strict"),
)
FAILED = 1
WIDE = 140
"""Columns of a screen that has room for intervals; a file has."""
FOR_FITTING = 0.85
"""Share of a method's time that it may spend on learning; the rest is for ranking."""
FOR_RANKING, CELLS_A_SECOND = 0.3, 15e6
"""Under a budget: share of it that may go into ranking, and how much a core ranks."""


@dataclass
class Run:
    """What one call is asked for, and what came of it so far."""

    out: Path
    seed: int
    budget: float
    """Seconds; infinite without one."""
    began: float = field(default_factory=time.monotonic)
    report: dict[str, Any] = field(default_factory=dict)
    per_user: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    failed: bool = False

    def log(self, message: str) -> None:
        """A line of progress."""
        print(f"[{time.monotonic() - self.began:6.0f} s] {message}", file=sys.stderr, flush=True)

    def left(self) -> float:
        """Seconds of the budget that are left."""
        return self.budget - (time.monotonic() - self.began)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and say what is wrong with the call or the data where something is.

    Returns:
        0; 1 where a method broke (the report holds the others); 2 where nothing could be measured.
    """
    share_cores()
    parser = _parser()
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.methods if name not in METHODS]
    if unknown:
        parser.error(f"no method {', '.join(unknown)}; there are {', '.join(METHODS)}")

    from benchmarks.data import DataError, read
    from benchmarks.splits import SplitError, split

    budget = 60 * asked.budget_minutes if asked.budget_minutes else float("inf")
    run = Run(asked.out, asked.seed, budget)
    try:
        data = read(asked.interactions, asked.items, run.log)
        held = split(data.interactions, asked.split, data.timed)
    except (DataError, SplitError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    measure(run, data, held, [name for name in METHODS if name in asked.methods], asked.max_users)
    _show(run)
    return FAILED if run.failed else 0


def measure(
    run: Run, data: Dataset, split: Split, methods: Sequence[str], max_users: int | None = None
) -> None:
    """Fit and judge the methods one by one; the report on disk is whole after each of them."""
    from benchmarks import report as reports
    from benchmarks.methods import METHODS as ENTRIES
    from benchmarks.methods import CannotRunError

    eligible = len(split.test.users)
    test = _judged(run, split.test, len(methods), max_users)
    split = replace(split, test=test)
    _begin(run, data, split, eligible)
    waiting = {name: ENTRIES[name].share for name in methods}
    for name in methods:
        seconds = max(run.left(), 1.0) * waiting[name] / sum(waiting.values())
        del waiting[name]
        try:
            if ENTRIES[name].timed and not data.timed:
                raise CannotRunError("it goes by days, and the timestamps of this data are no times")
            _one(run, ENTRIES[name], name, split, seconds)
        except CannotRunError as reason:
            run.log(f"{name}: not run, {reason}")
            run.report["skipped"][name] = str(reason)
        except Exception as error:
            # The other methods' figures are worth having; the exit code says that one broke.
            traceback.print_exc()
            run.failed = True
            run.report["skipped"][name] = f"broke: {type(error).__name__}: {error}"
        _compare(run)
        reports.write(run.report, run.out)


def _one(run: Run, entry: Entry, name: str, split: Split, seconds: float) -> None:
    from benchmarks.judge import judge
    from benchmarks.memory import PeakMemory

    log = _named(run, name)
    memory = PeakMemory()
    memory.restart()
    began = time.monotonic()
    method = entry.make()
    method.fit(split.valid, run.seed, FOR_FITTING * seconds, log)
    method.refit(split.test.past)
    fitted = time.monotonic() - began
    if fitted > 5:
        log(f"fitted in {fitted:.0f} s; ranking for {len(split.test.users):,} users")
    judged = judge(method.scores, split.test, log)
    row = _figures(run, name, judged, split.test)
    _more(run, method, row, split.test)
    row |= {
        "fit_seconds": round(fitted, 3),
        "score_seconds": round(judged.seconds, 3),
        "peak_memory_mib": memory.mib(),
        "peak_memory_of": memory.scope,
    }
    run.report["methods"][name] = row
    log(f"NDCG@10 {row['ndcg@10']:.4f}, HR@10 {row['hr@10']:.4f}")


def _figures(run: Run, name: str, judged: Judged, held: HeldOut) -> dict[str, Any]:
    """The means of a method and their intervals."""
    import numpy as np

    from assets.model.metrics import coverage
    from benchmarks.judge import coverage_interval, interval, resampled_means

    run.per_user[name] = judged.per_user
    means = resampled_means(np.stack(list(judged.per_user.values()), axis=1), run.seed)
    row: dict[str, Any] = {}
    for column, (figure, values) in enumerate(judged.per_user.items()):
        row[figure] = float(np.nanmean(values)) if np.isfinite(values).any() else None
        row[f"{figure}_interval"] = interval(means[:, column])
    items = int(held.past.known_items.sum())
    row["coverage@10"] = coverage(judged.top, items)
    row["coverage@10_interval"] = coverage_interval(judged.top, items, run.seed)
    return row | judged.cold


def _more(run: Run, method: Method, row: dict[str, Any], held: HeldOut) -> None:
    """What only some methods can say."""
    from benchmarks.judge import calibration
    from benchmarks.methods import Calibrated, Described

    if isinstance(method, Described):
        row["settings"] = method.settings
    if isinstance(method, Calibrated):
        row["behaviors"] = calibration(method, method.scores, held, seed=run.seed)


def _compare(run: Run) -> None:
    """Ours minus each other method, user by user, on the same resamples."""
    import numpy as np

    from benchmarks.judge import interval, resampled_means
    from benchmarks.methods import OURS

    ours = run.per_user.get(OURS)
    if ours is None:
        return
    for other, theirs in run.per_user.items():
        if other == OURS:
            continue
        gap = np.stack([ours[figure] - theirs[figure] for figure in ours], axis=1)
        means = resampled_means(gap, run.seed)
        row: dict[str, Any] = {}
        for column, figure in enumerate(ours):
            if np.isfinite(gap[:, column]).any():
                row[figure] = float(np.nanmean(gap[:, column]))
                row[f"{figure}_interval"] = interval(means[:, column])
        run.report["comparisons"][other] = row


def _begin(run: Run, data: Dataset, split: Split, eligible: int) -> None:
    """Everything in the report that does not depend on a method."""
    from benchmarks import report as reports

    head, clean = reports.commit()
    run.report = {
        "data": data.facts,
        "split": split.name,
        "protocol": _protocol(split, run.budget),
        "judged_users": len(split.test.users),
        "eligible_users": eligible,
        "held_out_pairs": len(split.test.user),
        "validation_users": len(split.valid.users),
        "users_without_history": _newcomers(run, split),
        "methods": {},
        "comparisons": {},
        "skipped": {},
        "commit": head,
        "clean_tree": clean,
        "seed": run.seed,
        "budget_minutes": None if run.budget == float("inf") else run.budget / 60,
        "versions": reports.versions(),
        "machine": reports.machine(),
    }
    run.log(f"{split.name}: {len(split.test.users):,} users are judged by {len(split.test.user):,} pairs")
    if not len(split.valid.users):
        run.log("nobody is left for validation: every method keeps its defaults")


def _newcomers(run: Run, split: Split) -> dict[str, Any]:
    """Popularity for those of whom nothing is known: apart, since no method can do better by their past."""
    from benchmarks.judge import judge
    from benchmarks.opponents import Popular

    held = split.newcomers
    if not len(held.users):
        return {"users": 0, "pairs": 0, "popularity": None}
    popular = Popular()
    popular.refit(held.past)
    figures = _figures(run, "newcomers", judge(popular.scores, held), held)
    del run.per_user["newcomers"]
    return {"users": len(held.users), "pairs": len(held.user), "popularity": figures}


def _judged(run: Run, held: HeldOut, methods: int, max_users: int | None) -> HeldOut:
    """All users, or as many as were asked for or as a budget lets rank the whole catalogue for."""
    import numpy as np

    items = len(held.past.item_ids)
    most = min(
        max_users or len(held.users),
        max(
            1000,
            int(min(FOR_RANKING * run.budget * CELLS_A_SECOND / (max(methods, 1) * max(items, 1)), 1e12)),
        ),
    )
    if most >= len(held.users):
        return held
    drawn = np.sort(np.random.default_rng(run.seed).choice(held.users, most, replace=False))
    stays = np.isin(held.user, drawn)
    run.log(f"{most:,} of {len(held.users):,} users are drawn to be judged")
    return replace(held, users=drawn, user=held.user[stays], item=held.item[stays], level=held.level[stays])


def _protocol(split: Split, budget: float) -> str:
    told = [
        split.text,
        "Every method is treated alike: settings chosen on the validation pairs only, then learned again "
        "from everything before the test, validation included. Full ranking over the whole catalogue, no "
        "sampled negatives.",
        "Figures are means over users; NDCG and MRR end at rank 10. Tied scores count with the expected "
        "value over all orders of the tied items, which counts a tie as half a rank, exactly.",
        "Intervals: 95 % percentile bootstrap over users, 1000 resamples; comparisons are paired by user. "
        "The interval of coverage is moved to its estimate, since a resample has fewer distinct users.",
        "cold_recall@k is the share of held-out pairs of items without any event in the past that are ranked "
        "within the first k. Probabilities are judged on the first 100 items of each judged user (at most "
        "5,000 users, drawn by the seed), where happened means done in the test at least as strongly.",
        "Peak memory is the highest resident size of the process while the method was learned and judged, "
        "the data that all share included.",
    ]
    if budget != float("inf"):
        told.append(
            f"The whole run was given {budget / 60:g} minutes: about half for nightshelf, a quarter for "
            "SASRec, the rest for the others."
        )
    return " ".join(told)


def _show(run: Run) -> None:
    from rich.console import Console

    from benchmarks import report as reports

    console = Console() if sys.stdout.isatty() else Console(width=WIDE)
    if run.report["methods"]:
        console.print(reports.table(run.report, wide=console.width >= WIDE))
        image = run.out.with_suffix(".png")
        reports.picture(run.report).savefig(image, dpi=120)
        console.print(f"{run.out} and {image}", highlight=False, soft_wrap=True)
    for line in reports.lines(run.report):
        console.print(line, highlight=False, soft_wrap=True)


def _named(run: Run, name: str) -> Log:
    return lambda message: run.log(f"{name}: {message}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description="Measure recommendations on your own data, beside what people would use instead.",
        epilog="Methods: " + ", ".join(METHODS) + ".",
    )
    parser.add_argument(
        "--interactions", type=Path, required=True, metavar="PATH",
        help="Parquet or CSV with user_id, item_id, timestamp (a time, or any number that sorts); optionally "
        "behavior: browse, click, cart or purchase, and purchase where there is none",
    )  # fmt: skip
    parser.add_argument(
        "--items", type=Path, metavar="PATH",
        help="Parquet or CSV with item_id and any of title, description, category, brand, price, attributes "
        "(a list); may be absent",
    )  # fmt: skip
    parser.add_argument(
        "--split", choices=SPLITS, required=True,
        help="leave-one-out: each user's last new item. temporal: the last tenth of the time span",
    )  # fmt: skip
    parser.add_argument(
        "--methods", type=_names, default=list(METHODS), metavar="a,b,…", help="which to run; all by default"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of all chance (default %(default)s)"
    )
    parser.add_argument(
        "--budget-minutes", type=minutes, metavar="M",
        help="about how long the whole run may take; without it, each method takes what it needs",
    )  # fmt: skip
    parser.add_argument(
        "--max-users", type=positive, metavar="N",
        help="judge at most so many users, drawn by the seed; all by default, or what a budget allows",
    )  # fmt: skip
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="REPORT.json",
        help="the report; a picture is put beside it",
    )
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


if __name__ == "__main__":
    sys.exit(main())
