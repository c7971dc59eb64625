"""What is each channel, and each trick, worth? The whole, and the whole without one part, on the same split.

    python -m benchmarks.ablation --interactions log.csv --items items.csv --split temporal --out a.json

Everything else is learnt again without the part: candidates, ranker and trees. The difference is paired by
user, with its 95 % bootstrap interval. Parts of the sequence model are trained anew, all others share one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.figures import REFUSED, minutes, positive, teller
from resources.devices import share_cores

TRICKS: dict[str, dict[str, Any]] = {
    "text in the sequence model": {"words": False},
    "dropping id residuals": {"id_dropout": 0.0},
}
"""Part of the sequence model → how to do without."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; returns 0, or 2 where nothing could be measured."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--interactions", type=Path, required=True, metavar="PATH", help="as in benchmarks.quality --help"
    )
    parser.add_argument("--items", type=Path, metavar="PATH", help="as there; may be absent")
    parser.add_argument(
        "--split", choices=("leave-one-out", "temporal"), required=True, help="how the test is held out"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of all chance (default %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=minutes, default=5.0, metavar="M",
        help="of training, for each sequence model (default %(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--users", type=positive, default=4000, metavar="N", help="of the test, at most (default %(default)s)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="REPORT.json", help="the report")
    asked = parser.parse_args(arguments)
    share_cores()

    from assets.model.interactions import sample
    from benchmarks import report as reports
    from benchmarks.data import DataError, read
    from benchmarks.splits import SplitError, split

    log = teller()
    try:
        data = read(asked.interactions, asked.items, log)
        held = split(data.interactions, asked.split, data.timed)
    except (DataError, SplitError) as error:
        print(f"error: {error}", file=sys.stderr)
        return REFUSED
    held = replace(held, test=replace(held.test, users=sample(held.test.users, asked.users)))
    report = ablate(held, asked.seed, 60 * asked.minutes, log)
    reports.write(report, asked.out)
    print(markdown(report))
    return 0


def ablate(held: Any, seed: int, seconds: float, log: Callable[[str], None]) -> dict[str, Any]:
    """NDCG@10 of the whole, and what it loses without each part.

    Returns:
        users, `ndcg@10`, and `parts`: name → mean, low and high of (without the part − the whole).
    """
    from assets.model.evaluation import paired_bootstrap
    from benchmarks.nightshelf import Nightshelf

    whole = Nightshelf()
    whole.fit(held.valid, seed, seconds, log)
    whole.refit(held.test.past)
    best = _ndcg(whole, held.test)
    log(f"the whole: NDCG@10 {best.mean():.4f}")
    parts = {}
    for name in [*whole.channels, "trees", *TRICKS]:
        if name in TRICKS:
            other = Nightshelf(**TRICKS[name])
            other.fit(held.valid, seed, seconds, log)
        else:
            other = whole.without(name, held.valid, seed, log)
        other.refit(held.test.past)
        parts[name] = asdict(paired_bootstrap(_ndcg(other, held.test) - best))
        log(f"without {name}: {parts[name]['mean']:+.4f}")
    return {"users": len(best), "ndcg@10": float(best.mean()), "parts": parts}


def markdown(report: dict[str, Any]) -> str:
    """A table, the part that is missed most first."""
    rows = [
        f"| {name} | {part['mean']:+.4f} | {part['low']:+.4f} to {part['high']:+.4f} |"
        for name, part in sorted(report["parts"].items(), key=lambda item: item[1]["mean"])
    ]
    head = f"NDCG@10 of the whole: {report['ndcg@10']:.4f} ({report['users']:,} users)"
    return "\n".join([head, "", "| without | NDCG@10 | 95 % interval |", "|---|---:|---|", *rows])


def _ndcg(method: Any, test: Any) -> Any:
    from benchmarks.judge import judge

    return np.nan_to_num(judge(method.scores, test).per_user["ndcg@10"])


if __name__ == "__main__":
    sys.exit(main())
