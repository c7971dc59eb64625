"""The server that steps are forked from: what it loads, and its start.

Imports no Dagster, for the server is to load that at the same time as whoever starts it.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resources.home import Shop

PRELOAD = (
    "dagster._core.executor.multiprocess",  # Dagster wants it to be the first
    "orchestration.definitions",
    # What Dagster loads late, and so in every step anew: instance and storages, with all of SQLAlchemy.
    *("dagster._utils.test.definitions", "dagster._core.instance.factory", "dagster._core.instance.runs"),
    *("dagster._core.storage.root", "dagster._core.storage.local_compute_log_manager"),
    *("dagster._core.secrets.loader", "upath.core", "upath.implementations.local"),
    # What a run is started with, by us and by Dagster: each step loads that again.
    *("orchestration.cli", "dagster._cli"),
    # What nearly every step of ours loads. DuckDB loads pandas for the first value that is bound.
    *("duckdb", "pandas", "pyarrow.dataset", "assets.logs.raw_zone"),
    "orchestration.step_server",  # stays the last: it freezes what has been loaded
)
"""Modules that the server of the steps loads once; one that is not there is passed over."""


def start_step_server(shop: Shop) -> None:
    """Have the server of the steps load its modules beside what this process does until the first of them;
    nothing where steps do not come from it. Steps print to where this process prints at this moment.
    """
    if shop.executor == "devices":
        # Dagster's executor asks for the same server with the same list, and finds it running.
        multiprocessing.set_forkserver_preload(list(PRELOAD))
        forkserver.ensure_running()
