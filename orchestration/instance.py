"""The Dagster instance of a home: its settings file, and the limits of its pools.

A pool without a limit limits nothing, and limits live in Dagster's storage, not in `dagster.yaml`. So whoever
starts something sets them first, and `broken_limits` says whether they hold.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from resources.aside import replacing
from resources.home import Home
from resources.leases import lease_one_of

if TYPE_CHECKING:
    from dagster import DagsterInstance

PROJECT = Path(__file__).parents[1]
"""The folder with `dagster.yaml` and `workspace.yaml`."""

POOL_LIMITS = {"warehouse": 1}
"""Steps at a time by pool. DuckDB lets one process write; the lease in `resources.warehouse` is the guard."""


def prepare_instance(home: Home) -> Path:
    """Make `home/dagster` ready: `dagster.yaml` (kept where there is one) and the pool limits. Idempotent.

    Of several processes that come here on an empty home, one makes the tables and the others wait: Dagster
    itself lets each of them make the tables, and all but one crash.

    Returns:
        the folder, which is the instance's DAGSTER_HOME.
    """
    settings = home.dagster / "dagster.yaml"
    with lease_one_of([home.leases / "instance.lock"]):
        if not settings.exists():
            with replacing(settings) as aside:
                aside.write_text((PROJECT / "dagster.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        with instance_of(home) as instance:
            for pool in broken_limits(instance):
                instance.event_log_storage.set_concurrency_slots(pool, POOL_LIMITS[pool])
            wake_sensors(instance)
    return home.dagster


def wake_sensors(instance: DagsterInstance) -> None:
    """Let sensors tick again whose last tick lies in the future, by a clock that has been put right since.

    Dagster would wait until their interval after that tick is over.
    """
    from dagster._core.scheduler.instigation import SensorInstigatorData
    from dagster._time import get_current_timestamp

    now = get_current_timestamp()
    for state in instance.all_instigator_state():
        data = state.instigator_data
        if not isinstance(data, SensorInstigatorData):
            continue
        if max(data.last_tick_timestamp or 0, data.last_tick_start_timestamp or 0) > now:
            awake = data._replace(last_tick_timestamp=None, last_tick_start_timestamp=None)
            instance.update_instigator_state(state.with_data(awake))


@contextmanager
def instance_of(home: Home) -> Iterator[DagsterInstance]:
    """The instance in `home/dagster`; step processes find it, and the home, in the environment."""
    import dagster as dg

    os.environ["DAGSTER_HOME"] = str(home.dagster)
    os.environ["NIGHTSHELF_HOME"] = str(home.root)
    with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
        yield instance


def broken_limits(instance: DagsterInstance) -> dict[str, int | None]:
    """Pools whose limit is not the one meant: {pool: limit in the instance, None where there is none}."""
    found = {
        pool.name: pool.limit
        for pool in instance.event_log_storage.get_pool_limits()
        if not pool.from_default
    }
    return {pool: found.get(pool) for pool, limit in POOL_LIMITS.items() if found.get(pool) != limit}
