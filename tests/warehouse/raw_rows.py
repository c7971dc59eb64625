"""A raw zone in the layout that ingestion writes, with rows that the tests make up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import duckdb
import pytest

from assets.logs.canonical import EVENTS, PRODUCTS, REJECTS
from assets.logs.raw_zone import prepare
from assets.warehouse.assets import RESOURCES, dbt_build
from assets.warehouse.project import window
from resources.home import Home

DBT = Path(__file__).parents[2] / "dbt"
ZONE = ZoneInfo("Europe/Berlin")


@dataclass
class RawZone:
    """Writes loads as ingestion does; a load is a folder of Parquet files."""

    home: Home
    loads: int = field(default=0)

    def __post_init__(self) -> None:
        prepare(self.home)

    def add(
        self,
        rows: Sequence[dict[str, Any]],
        *,
        products: Sequence[dict[str, Any]] = (),
        load_id: str | None = None,
    ) -> str:
        """One load of events and of products."""
        self.loads += 1
        load_id = load_id or f"{self.loads:016x}"
        folder = self.home.loads / load_id
        by_day: dict[date, list[dict[str, Any]]] = {}
        for line, given in enumerate(rows, 2):
            row: dict[str, Any] = {
                "event_id": f"{load_id}-{line}",
                "source": "nightshelf_csv",
                "currency": "EUR",
            }
            row |= {"load_id": load_id, "line": line, **given}
            day = row["event_at"].replace(tzinfo=ZoneInfo("UTC")).astimezone(ZONE).date()
            by_day.setdefault(day, []).append(row)
        for day, of_day in by_day.items():
            self._write(folder / "events" / f"day={day}" / "0.parquet", EVENTS, of_day)
        if products:
            full = [
                {"source": "nightshelf_catalogue", "load_id": load_id, "line": line, **product}
                for line, product in enumerate(products, 2)
            ]
            self._write(folder / "products.parquet", PRODUCTS, full)
        self._write(folder / "rejects.parquet", REJECTS, [])
        outcome = {
            "load_id": load_id,
            "source": "nightshelf_csv",
            "status": "loaded",
            "began_at": f"2026-01-01 00:00:{self.loads % 60:02d}",
            "days": {str(day): len(of_day) for day, of_day in by_day.items()},
        }
        (folder / "outcome.json").write_text(json.dumps(outcome))
        return load_id

    def remove(self, load_id: str) -> None:
        folder = self.home.loads / load_id
        for file in sorted(folder.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        folder.rmdir()

    @staticmethod
    def _write(file: Path, columns: Mapping[str, str], rows: Sequence[dict[str, Any]]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        with duckdb.connect() as connection:
            typed = ", ".join(f"{name} {kind}" for name, kind in columns.items())
            connection.execute(f"create table t ({typed})")
            if rows:
                connection.executemany(
                    f"insert into t values ({', '.join('?' * len(columns))})",
                    [[row.get(name) for name in columns] for row in rows],
                )
            connection.execute(f"copy t to '{file}' (format parquet)")


def at(text: str) -> datetime:
    """UTC."""
    return datetime.fromisoformat(text)


def event(when: str, user: str, item: str, behavior: str = "browse", **more: Any) -> dict[str, Any]:
    """An event at `when` UTC."""
    return {"event_at": at(when), "user_key": user, "item_id": item, "behavior": behavior, **more}


def dbt(
    home: Home,
    command: str,
    first: date | None = None,
    last: date | None = None,
    *more: str,
    **variables: object,
) -> str:
    """Run dbt as a person would in a terminal; its output.

    Variables make it parse the project anew, so the days are not among them, unless a test says so.
    """
    target = home.root / "target"
    said = ["--vars", json.dumps(variables)] if variables else []
    done = subprocess.run(
        [Path(sys.executable).parent / "dbt", command, *said, *more],
        cwd=DBT,
        env=os.environ
        | (window(home, first, last or first) if first else {})
        | {
            "NIGHTSHELF_HOME": str(home.root),
            "DBT_TARGET_PATH": str(target),
            "DBT_LOG_PATH": str(target),
            "DBT_USE_COLORS": "false",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout


def materialize(home: Home, first: date, last: date) -> dg.ExecuteInProcessResult:
    """Run the asset for a window of nights as the web UI would, in this process."""
    window = {
        "dagster/asset_partition_range_start": first.isoformat(),
        "dagster/asset_partition_range_end": last.isoformat(),
    }
    with pytest.MonkeyPatch.context() as patch, dg.DagsterInstance.ephemeral() as instance:
        patch.setenv("NIGHTSHELF_HOME", str(home.root))
        return dg.materialize(
            [dbt_build], resources=RESOURCES, instance=instance, tags=window, raise_on_error=False
        )


def query(home: Home, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(home.warehouse), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def fingerprints(file: Path) -> dict[str, tuple[Any, ...]]:
    """Rows and an order-free hash of every table in a DuckDB file, and of the marts' views; not the time of
    publication. Empty where there is no file.
    """
    if not file.exists():
        return {}
    with duckdb.connect(str(file), read_only=True) as connection:
        tables = connection.execute(
            "select table_schema || '.' || table_name from information_schema.tables "
            "where table_type = 'BASE TABLE' or table_schema = 'marts'"
        ).fetchall()
        return {
            table: connection.execute(
                "select count(*), sum(hash(t)::hugeint) "
                f"from (select columns(c -> c <> 'published_at') from {table}) as t"
            ).fetchall()[0]
            for (table,) in tables
        }
