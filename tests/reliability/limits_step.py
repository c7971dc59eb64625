"""`python -m tests.reliability.limits_step STEP FIRST LAST`: one step through Dagster, its error as told.

Prints one line of JSON: ok, message.
"""

from __future__ import annotations

import contextlib
import json
import sys

import dagster as dg

from assets.logs.assets import ingest_outcomes
from assets.model.assets import champion_model, model_evaluation, training_snapshot
from assets.recommendations.assets import published_shelf, scores
from assets.warehouse.assets import RESOURCES, dbt_build
from orchestration.runs import cause_of

STEPS = {
    "ingest": ingest_outcomes,
    "tables": dbt_build,
    "snapshot": training_snapshot,
    "measure": model_evaluation,
    "promote": champion_model,
    "score": scores,
    "publish": published_shelf,
}


def run(name: str, first: str, last: str) -> tuple[bool, str]:
    """Materialize the step; (whether it succeeded, what people are told)."""
    tags = {
        "dagster/asset_partition_range_start": first,
        "dagster/asset_partition_range_end": last,
    }
    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize(
            [STEPS[name]],
            partition_key=first if name not in ("ingest", "tables") else None,
            tags=tags if name == "tables" else None,
            resources=RESOURCES,
            instance=instance,
            raise_on_error=False,
        )
    failures = [event for event in done.all_events if event.is_step_failure]
    return done.success, "; ".join(cause_of(event) for event in failures)


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        ok, message = run(*sys.argv[1:])
    print(json.dumps({"ok": ok, "message": message}))
