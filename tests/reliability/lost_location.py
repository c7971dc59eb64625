"""A code location with one job: a training that goes on for long, in a step that holds the warehouse's pool.

Executor, device lease and training child are Nightshelf's own.
"""

from datetime import date

import dagster as dg

from orchestration.executors import device_executor
from resources.devices import TAG
from resources.home import Home


@dg.op(pool="warehouse", tags={TAG: "1"})
def train(context: dg.OpExecutionContext) -> None:
    from assets.model.bundle import make_bundle

    make_bundle(Home.current(), date(2026, 1, 20), context.log.info)


@dg.job(executor_def=device_executor)
def training() -> None:
    train()


@dg.sensor(job=training, minimum_interval_seconds=5, default_status=dg.DefaultSensorStatus.RUNNING)
def alive() -> dg.SkipReason:
    """Ticks as long as there is a code server."""
    return dg.SkipReason("alive")


defs = dg.Definitions(jobs=[training], sensors=[alive])
