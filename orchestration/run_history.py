"""Dagster's record of runs in SQLite, in which events that come together are written together.

Dagster notes for every table and day what is planned and what was made: some five thousand events for
ninety days. Its own SQLite storage gives each of them two commits; here a batch of them has two in all. Where
it lies and how it looks is as in Dagster's own. Postgres' storage writes batches by itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic.migration import MigrationContext
from dagster._config import UserConfigSchema
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._core.storage.sqlite import create_db_conn_string
from dagster._core.storage.sqlite_storage import (
    DagsterSqliteStorage,
    _event_logs_directory,
    _runs_directory,
    _schedule_directory,
)
from dagster._serdes import ConfigurableClassData
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from resources.home import Home

if TYPE_CHECKING:
    from dagster import EventLogEntry
    from sqlalchemy import Connection, Engine

# Dagster gathers events only where this is set. Every process that opens the storage imports this module.
os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", "1000")


class BatchingEventLog(SqliteEventLogStorage):
    """Dagster's event log in SQLite; a batch is one transaction in the run's file and one in the index."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._open = threading.local()  # before the rest, which may have to make the index anew
        super().__init__(base_dir, inst_data)
        self._db_lock = threading.RLock()  # type: ignore[assignment]  # two files are open at once

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Events of one run, of the kinds that Dagster gathers: `BATCH_WRITABLE_EVENTS`."""
        (run_id,) = {event.run_id for event in events}
        rows = [self._event_to_row(event) for event in events]
        # The run's file is committed first, as for a single event.
        with self._connect(INDEX_SHARD_NAME) as index, self._connect(run_id) as run:
            run.execute(SqlEventLogStorageTable.insert(), rows)
            added = SqlEventLogStorageTable.insert().values(rows).returning(SqlEventLogStorageTable.c.id)
            noted = list(zip(events, index.execute(added).scalars(), strict=True))
            self._open.index = index
            try:
                self._note_assets(index, noted)
                self._note_checks(noted)
            finally:
                self._open.index = None

    def _note_assets(self, index: Connection, noted: Sequence[tuple[EventLogEntry, int]]) -> None:
        """What is known of each asset is what its last event says; the tags are those of every event."""
        about = [(event, number) for event, number in noted if event.dagster_event_type in ASSET_EVENTS]
        if not about:
            return
        self._store_asset_event_tags(index, *zip(*about, strict=True))
        last = {event.get_dagster_event().asset_key: (event, number) for event, number in about}
        for event, number in last.values():
            self._store_asset_event(index, event, number)

    def _note_checks(self, noted: Sequence[tuple[EventLogEntry, int]]) -> None:
        for event, number in noted:
            if event.dagster_event_type in ASSET_CHECK_EVENTS:
                self.store_asset_check_event(event, number)

    def _initdb(self, engine: Engine, for_index_shard: bool = False) -> None:
        if not _has_tables(engine):
            super()._initdb(engine, for_index_shard)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        index = getattr(self._open, "index", None)
        if index and shard == INDEX_SHARD_NAME:
            yield index  # of the batch that is being written: its rows are to be committed together
            return
        with super()._connect(shard) as connection:
            yield connection


class RunHistory(DagsterSqliteStorage):
    """Runs, events and ticks below `DAGSTER_HOME` (a home's `dagster` folder where that is not set)."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        runs, schedules = _runs_directory(base_dir), _schedule_directory(base_dir)
        files = create_db_conn_string(runs, "runs"), create_db_conn_string(schedules, "schedules")
        if Path(runs).exists() and Path(schedules).exists() and all(map(_has_tables, map(_engine, files))):
            self.base_dir, self._inst_data = base_dir, inst_data
            self._run_storage = SqliteRunStorage(files[0])
            self._schedule_storage = SqliteScheduleStorage(files[1])
            DagsterStorage.__init__(self)  # type: ignore[arg-type]
        else:
            super().__init__(base_dir, inst_data)
        self._event_log_storage = BatchingEventLog(_event_logs_directory(base_dir))

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]
    ) -> RunHistory:
        return cls.from_local(os.environ.get("DAGSTER_HOME") or str(Home.current().dagster), inst_data)


def _engine(file: str) -> Engine:
    return create_engine(file, poolclass=NullPool)


def _has_tables(engine: Engine) -> bool:
    """Whether Dagster has made them, which it marks last.

    Dagster itself reads all of its migrations to see that, over half a second in every step of a run.
    """
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision() is not None
