"""Training snapshots: what a model of day D may know, frozen under the hash of its content.

A snapshot is a folder of Parquet files and a manifest. Its id is a hash of the files' hashes and the cut-off,
so the same content is the same folder, and whoever loads one gets exactly what was written or an error.
Nothing in it is later than the cut-off.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from resources.aside import replacing, sha256_of, work_folder
from resources.crash import crash_point

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from resources.home import Home

MANIFEST = "manifest.json"
BATCH = 1_024_000
"""Rows held in memory at a time, and rows per Parquet row group: some 100 MB of events."""

EVENTS = """
    SELECT day, event_at, user_key, item_id, behavior, weight, price, event_id, session_id, load_id, line
    FROM marts.fct_events
    WHERE day BETWEEN $first AND $last
    ORDER BY day, event_at, event_id, load_id, line, item_id
"""
BEHAVIORS = """
    SELECT day, user_key, item_id, behavior, weight, browses, clicks, carts, purchases, revenue
    FROM labels.lbl_behaviors
    WHERE day BETWEEN $first AND $last
    ORDER BY day, user_key, item_id
"""
# As the catalogue looked on the last day. Items that were met but never described come too, without words.
ITEMS = r"""
    WITH looked AS (
        SELECT
            item_id,
            min(valid_from) OVER (PARTITION BY item_id) AS first_valid,
            title, description, category, brand, price, in_stock
        FROM marts.dim_item_versions
        WHERE coalesce(valid_from, DATE '0001-01-01') <= $last
        QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY valid_from DESC NULLS LAST) = 1
    ),
    met AS (
        SELECT item_id, min(day) AS first_met
        FROM marts.fct_popularity
        WHERE day <= $last
        GROUP BY item_id
        HAVING max(day) >= $first OR item_id IN (SELECT item_id FROM looked)
    )
    SELECT
        item_id, title, description, category, brand, price, in_stock,
        least(first_met, first_valid) AS first_seen_day,
        regexp_replace(concat_ws('. ',
            nullif(trim(title), ''), nullif(trim(brand), ''), nullif(trim(category), ''),
            nullif(trim(description), '')), '\s+', ' ', 'g') AS text
    FROM looked FULL JOIN met USING (item_id)
    ORDER BY item_id
"""
POPULARITY = """
    SELECT day, item_id, events, users, browses, clicks, carts, purchases, weight
    FROM marts.fct_popularity
    WHERE day BETWEEN $first AND $last
    ORDER BY day, item_id
"""
TABLES = {
    "events": EVENTS,
    "behaviors": BEHAVIORS,
    "items": ITEMS,
    "popularity": POPULARITY,
}


class SnapshotError(RuntimeError):
    """A snapshot cannot be made, or is not what was written; the message names the file and the next step."""


class Reader(Protocol):
    """What `resources.warehouse.Warehouse` offers a snapshot."""

    def read(self) -> AbstractContextManager[DuckDBPyConnection]: ...


@dataclass(frozen=True)
class Snapshot:
    """A verified snapshot on disk."""

    path: Path
    manifest: Mapping[str, Any]
    """id, cut_off, first_day (the first day with events), rows and sha256 of each table."""

    @classmethod
    def load(cls, path: Path) -> Snapshot:
        """Open a snapshot and compare every file with the manifest.

        Raises:
            FileNotFoundError: there is no snapshot at `path`.
            SnapshotError: a file is missing or was changed, or the manifest was; the message names it.
        """
        file = path / MANIFEST
        if not file.is_file():
            raise FileNotFoundError(f"{path} holds no snapshot: materialize training_snapshot first")
        manifest = json.loads(file.read_text(encoding="utf-8"))
        for name in TABLES:
            table = path / f"{name}.parquet"
            if not table.is_file():
                raise _damaged(table, "is missing")
            if sha256_of(table) != manifest["sha256"].get(name):
                raise _damaged(table, "was changed after it was written")
        if manifest["id"] != _identity(manifest["cut_off"], manifest["sha256"]):
            raise _damaged(file, "was changed after it was written")
        return cls(path, manifest)

    @property
    def id(self) -> str:
        return str(self.manifest["id"])

    @property
    def cut_off(self) -> date:
        """The last day the snapshot knows of."""
        return date.fromisoformat(self.manifest["cut_off"])

    def table(self, name: str) -> pa.Table:
        """`events`, `behaviors`, `items` or `popularity`, in memory."""
        return pq.read_table(self.path / f"{name}.parquet", partitioning=None)


def write_snapshot(warehouse: Reader, cut_off: date, history_days: int, snapshots: Path) -> Snapshot:
    """Freeze the last `history_days` days up to and including `cut_off`.

    The warehouse is held for reading while the tables are copied, and no longer.

    Args:
        warehouse: with the marts and labels of those days.
        cut_off: the last day to know of.
        history_days: days to look back on, the cut-off among them.
        snapshots: folder of all snapshots (`Home.snapshots`).

    Returns:
        the snapshot; an existing one where nothing has changed. `by_day/<cut_off>.json` points to it.

    Raises:
        SnapshotError: there are no events in those days.
    """
    first = cut_off - timedelta(days=history_days - 1)
    with work_folder(snapshots) as aside:
        crash_point("snapshot.begun")
        with warehouse.read() as connection:
            connection.begin()  # all tables as of one moment
            rows = {
                name: _copy(connection, sql, first, cut_off, aside / name) for name, sql in TABLES.items()
            }
            connection.rollback()
        if not rows["events"]:
            raise SnapshotError(
                f"marts.fct_events has nothing from {first} to {cut_off}: a model has nothing to learn from. "
                "Materialize the warehouse for those days first (`nightshelf backfill`)"
            )
        manifest = _manifest(aside, cut_off, rows)
        crash_point("snapshot.tables_written")
        (aside / MANIFEST).write_text(_json(manifest), encoding="utf-8")
        crash_point("snapshot.manifest_written")
        snapshot = _put(aside, snapshots / manifest["id"])
    crash_point("snapshot.in_place")
    with replacing(snapshots / "by_day" / f"{cut_off.isoformat()}.json") as pointer:
        pointer.write_text(_json({"id": snapshot.id}), encoding="utf-8")
        crash_point("snapshot.pointer_written")
    return snapshot


def snapshot_of(home: Home, day: date) -> Snapshot:
    """The snapshot with cut-off `day`, verified.

    Raises:
        FileNotFoundError: none was written.
        SnapshotError: it is not what was written.
    """
    file = home.snapshots / "by_day" / f"{day.isoformat()}.json"
    if not file.exists():
        raise FileNotFoundError(
            f"there is no training snapshot of {day}: materialize training_snapshot for {day} first"
        )
    return Snapshot.load(home.snapshots / json.loads(file.read_text(encoding="utf-8"))["id"])


def _copy(connection: DuckDBPyConnection, sql: str, first: date, last: date, target: Path) -> int:
    # Only named parameters that the query uses may be bound.
    days = {name: day for name, day in (("first", first), ("last", last)) if f"${name}" in sql}
    reader = connection.execute(sql, days).to_arrow_reader(BATCH)
    rows = 0
    with pq.ParquetWriter(target.with_suffix(".parquet"), reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch, row_group_size=BATCH)
            rows += batch.num_rows
            crash_point("snapshot.rows_written")
    return rows


def _manifest(folder: Path, cut_off: date, rows: Mapping[str, int]) -> dict[str, Any]:
    sha256 = {name: sha256_of(folder / f"{name}.parquet") for name in rows}
    # Rows are sorted by day, so the first day is in the first row.
    first = next(pq.ParquetFile(folder / "events.parquet").iter_batches(1, columns=["day"]))["day"][0].as_py()
    return {
        "format": 1,
        "id": _identity(cut_off.isoformat(), sha256),
        "cut_off": cut_off.isoformat(),
        "first_day": first.isoformat(),
        "rows": dict(rows),
        "sha256": sha256,
    }


def _identity(cut_off: str, sha256: Mapping[str, str]) -> str:
    lines = [cut_off, *(f"{name} {digest}" for name, digest in sha256.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def _put(aside: Path, target: Path) -> Snapshot:
    try:
        aside.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        try:
            return Snapshot.load(target)
        except (SnapshotError, FileNotFoundError):
            # The copy on disk has been damaged since: it makes way for the sound one.
            target.rename(aside.with_name("damaged"))
            crash_point("snapshot.damaged_moved")
            aside.rename(target)
    return Snapshot.load(target)


def _damaged(file: Path, what: str) -> SnapshotError:
    return SnapshotError(
        f"{file} {what}. The snapshot is not used: materialize training_snapshot for its day again, which "
        "writes it anew"
    )


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"
