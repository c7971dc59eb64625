"""The warehouse file: one DuckDB file, one process at a time.

DuckDB lets one process write a file and shuts out all others, readers included. So whoever opens it holds a
lease while it is open: processes queue instead of failing. Keep it short, and never hold it while training or
scoring.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from resources.home import Home
from resources.leases import LeaseTimeoutError, lease_one_of
from resources.room import duckdb_config

if TYPE_CHECKING:
    import duckdb


class WarehouseError(RuntimeError):
    """The warehouse cannot be opened; the message says what to do."""


class Warehouse:
    """Opens `warehouse.duckdb` of a home, one holder at a time.

    Args:
        home: whose warehouse.
        timeout: seconds to wait for others, None for ever.
        log: told once, in words, when there is somebody to wait for.
    """

    def __init__(
        self,
        home: Home,
        *,
        timeout: float | None = 3600,
        log: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.home = home
        self._timeout = timeout
        self._log = log

    @contextmanager
    def lease(self) -> Iterator[int]:
        """Hold the warehouse without opening it here, for a tool that opens it itself, such as dbt.

        Nobody has it open when the block begins, not even somebody without a lease.

        Yields:
            File descriptor that carries the lock, inheritable.

        Raises:
            LeaseTimeoutError: others held it for longer than the timeout. It is not re-entrant: within the
                block, neither `read` nor `write` ever get it.
        """
        with self._lease() as fd:
            if self.home.warehouse.exists():
                self._connect(read_only=False).close()
                # What a killed process had moved out of its memory; DuckDB leaves it for good.
                shutil.rmtree(f"{self.home.warehouse}.tmp", ignore_errors=True)
            yield fd

    @contextmanager
    def read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A read-only connection.

        Raises:
            WarehouseError: there is no warehouse yet.
            LeaseTimeoutError: others held it for longer than the timeout.
        """
        if not self.home.warehouse.exists():
            raise WarehouseError(
                f"{self.home.warehouse} does not exist yet: materialise the group `warehouse` first."
            )
        with self._lease(), self._connect(read_only=True) as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A read-write connection; the file is made where there is none.

        Raises:
            LeaseTimeoutError: others held it for longer than the timeout.
        """
        self.home.root.mkdir(parents=True, exist_ok=True)
        with self._lease(), self._connect(read_only=False) as connection:
            yield connection

    @contextmanager
    def _lease(self) -> Iterator[int]:
        file = self.home.leases / "warehouse.lock"
        with lease_one_of([file], timeout=self._timeout, on_wait=self._log) as (_, fd):
            yield fd

    def _connect(self, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        """Also waits for those who take no lease: a database tool, or a dbt whose parent was killed."""
        import duckdb

        began, told = time.monotonic(), False
        while True:
            try:
                return duckdb.connect(str(self.home.warehouse), read_only=read_only, config=duckdb_config())
            except duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise
                if self._timeout is not None and time.monotonic() - began > self._timeout:
                    raise LeaseTimeoutError(
                        f"{self.home.warehouse} is open elsewhere: {error}. Close it there and try again."
                    ) from error
            if not told:
                self._log(f"waiting for whoever has {self.home.warehouse.name} open")
                told = True
            time.sleep(0.1)
