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

from resources.home import Home

if TYPE_CHECKING:
    from dagster import DagsterInstance

PROJECT = Path(__file__).parents[1]
"""The folder with `dagster.yaml` and `workspace.yaml`."""

POOL_LIMITS = {"warehouse": 1}
"""Steps at a time by pool. DuckDB lets one process write; the lease in `resources.warehouse` is the guard."""


def prepare_instance(home: Home) -> Path:
    """Make `home/dagster` ready: `dagster.yaml` (kept where there is one) and the pool limits. Idempotent.

    Returns:
        the folder, which is the instance's DAGSTER_HOME.
    """
    home.dagster.mkdir(parents=True, exist_ok=True)
    settings = home.dagster / "dagster.yaml"
    if not settings.exists():
        aside = settings.with_suffix(".tmp")
        aside.write_text((PROJECT / "dagster.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        aside.replace(settings)
    with instance_of(home) as instance:
        for pool in broken_limits(instance):
            instance.event_log_storage.set_concurrency_slots(pool, POOL_LIMITS[pool])
    return home.dagster


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
