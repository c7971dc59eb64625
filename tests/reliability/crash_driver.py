"""One stage of a night on one home, in a process that may be killed:

    python -m tests.reliability.crash_driver STAGE HOME DAY

What it is told on the way it prints, so that a death inside a child process can be read from it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

from resources.home import Home


def ingest(home: Home, day: date) -> None:
    from assets.logs.raw_zone import take_in_all

    take_in_all(home, print)


def manifest(home: Home, day: date) -> None:
    from assets.warehouse.project import manifest

    manifest(home.root / "project")


def dbt(home: Home, day: date, *, retries: bool = False) -> None:
    """The days from `day` on, three of them, as the web UI would."""
    import dagster as dg

    from assets.warehouse.assets import RESOURCES, dbt_build

    window = {
        "dagster/asset_partition_range_start": day.isoformat(),
        "dagster/asset_partition_range_end": (day + timedelta(days=2)).isoformat(),
    }
    if not retries:
        dbt_build.op._retry_policy = None  # it would wait for 20 s, and meet the same point again
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([dbt_build], resources=RESOURCES, instance=instance, tags=window)


def snapshot(home: Home, day: date) -> None:
    from assets.model.snapshot import write_snapshot
    from resources.warehouse import Warehouse

    write_snapshot(Warehouse(home), day, home.shop.history_days, home.snapshots)


def train(home: Home, day: date) -> None:
    from assets.model.bundle import make_bundle

    make_bundle(home, day, print)


def evaluate(home: Home, day: date) -> None:
    from assets.model.promotion import evaluate_night

    evaluate_night(home, day, print)


def promote(home: Home, day: date) -> None:
    from assets.model.promotion import promote_night

    promote_night(home, day, print)


def score(home: Home, day: date) -> None:
    from assets.recommendations.scoring import score

    score(home, day, print)


def outcomes(home: Home, day: date) -> None:
    from assets.recommendations.outcomes import labels_of, write_outcome

    write_outcome(home, day, labels_of(home, day))


def publish(home: Home, day: date) -> None:
    from assets.recommendations.shelf import publish

    publish(home, day, print)


def undo(home: Home, day: date) -> None:
    """As somebody does it who looks first: what took effect before it was killed is not done twice."""
    from assets.recommendations.shelf import shelves, undo

    if next(shelf for shelf in shelves(home) if shelf.current).day == day:
        undo(home)


def rollback(home: Home, day: date) -> None:
    """As somebody does it who looks first."""
    from resources.model_store import ModelStore

    store = ModelStore(home)
    if store.champion().version == store.candidate(day):
        store.roll_back(reason="too many lamps")


def night(home: Home, day: date) -> None:
    """From the tables to the published shelf, as Dagster runs it."""
    import dagster as dg

    from assets.model import assets as model
    from assets.model import checks as model_checks
    from assets.recommendations import assets as recommendations
    from assets.recommendations import checks as recommendations_checks

    made = dg.load_assets_from_modules([model, recommendations])
    checks = dg.load_asset_checks_from_modules([model_checks, recommendations_checks])
    with dg.DagsterInstance.ephemeral() as instance:
        dg.materialize([*made, *checks], partition_key=str(day), instance=instance)


STAGES: dict[str, Callable[[Home, date], None]] = {
    "ingest": ingest,
    "manifest": manifest,
    "dbt": dbt,
    "snapshot": snapshot,
    "train": train,
    "evaluate": evaluate,
    "promote": promote,
    "score": score,
    "outcomes": outcomes,
    "publish": publish,
    "undo": undo,
    "rollback": rollback,
    "night": night,
}

if __name__ == "__main__":
    name, root, when = sys.argv[1:]
    os.environ["NIGHTSHELF_HOME"] = root
    STAGES[name](Home(Path(root)), date.fromisoformat(when))
