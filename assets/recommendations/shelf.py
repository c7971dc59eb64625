"""The published file: built aside, audited, put in place by one rename, kept for undo.

`home/shelves/<day>-<8 hex>.duckdb` are the shelves; `home/published.duckdb` is a hard link to the one being
read. A reader who has it open goes on reading the old one; who opens it next gets the new one; nobody meets a
lock.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from assets.logs.canonical import literal
from assets.logs.sources import read_sources
from assets.model.snapshot import snapshot_of
from assets.recommendations.outcomes import outcomes_until
from assets.recommendations.scoring import RECOMMENDATIONS, SIMILAR, Scores, audit_scores
from resources.aside import fsync
from resources.crash import crash_point
from resources.home import Home
from resources.identity import IdentityKey
from resources.leases import lease_one_of
from resources.room import duckdb_config

EVERYONE = ""
"""User key of the shelf for shoppers nobody knows yet."""


class ShelfAuditError(RuntimeError):
    """A shelf failed its audit and was not put in place; the message lists what is wrong."""


class NoShelfError(LookupError):
    """There is no shelf to read, or none to go back to; the message names the next step."""


@dataclass(frozen=True)
class Shelf:
    """A published shelf that is kept."""

    path: Path
    day: date
    current: bool
    """Whether it is the one that `published.duckdb` shows."""


@dataclass(frozen=True)
class Publication:
    """What `publish` did."""

    shelf: Path
    day: date
    model_version: str
    rows: dict[str, int]
    """Rows of each table."""
    served: bool
    """False where a newer shelf is being read and stays."""
    removed: list[str]
    """Names of the old shelves no longer kept."""


def publish(home: Home, day: date, log: Callable[[str], None] = lambda message: None) -> Publication:
    """Build, audit and publish the shelf of a night; keep the last `Shop.keep_shelves`.

    A shelf older than the one being read is built and kept but does not replace it. It is kept, however old,
    until the next one is published.

    Raises:
        FileNotFoundError: the night has no scores.
        ShelfAuditError: the scores or the built file are not whole; what was published before stays.
    """
    scores = Scores.of(home, day)
    with lease_one_of([home.leases / "shelf.lock"], on_wait=log):
        home.shelves.mkdir(parents=True, exist_ok=True)
        _settle(home)
        aside = home.shelves / f".building-{uuid.uuid4().hex[:8]}.duckdb"
        try:
            wrong = audit_scores(home, day)
            if not wrong:
                build(home, scores, aside)
                crash_point("publish.built")
                wrong = audit(aside, scores)
            if wrong:
                raise ShelfAuditError(
                    f"the shelf of {day} was not published: {'; '.join(wrong)}. What was published before "
                    "stays; put the cause right and materialize published_shelf again."
                )
            crash_point("publish.audited")
            rows = _rows(aside)
            shelf = home.shelves / f"{day}-{_fingerprint(scores)}.duckdb"
            current = _current(home)
            aside.chmod(0o444)  # an open that would write, and so lock readers out, is refused instead
            crash_point("publish.read_only")
            fsync(aside)
            aside.replace(shelf)
            crash_point("publish.kept")
            fsync(home.shelves)
        finally:
            _sweep(home)
        served = current is None or day >= _day_of(current)
        if served:
            _serve(home, shelf)
        log(f"{shelf.name} {'is published' if served else 'is kept; a newer shelf is being read'}")
        removed = _prune(home, spare={shelf})
    return Publication(shelf, day, scores.manifest["model_version"], rows, served, removed)


def build(home: Home, scores: Scores, file: Path) -> None:
    """Write the shelf of a night to `file`, which must not exist."""
    items = snapshot_of(home, scores.day).table("items")
    sources = {
        "scored": scores.table(RECOMMENDATIONS),
        "neighbors": scores.table(SIMILAR),
        "catalogue": items.select(
            ["item_id", "title", "description", "category", "brand", "price", "in_stock", "first_seen_day"]
        ),
        "past_outcomes": outcomes_until(home, scores.day),
        "refused": _rejects(home),
        "night": pa.table(
            {
                "day": pa.array([scores.day], pa.date32()),
                "model_version": [scores.manifest["model_version"]],
                "snapshot_id": [scores.manifest["snapshot_id"]],
                "published_at": pa.array([datetime.now(UTC).replace(tzinfo=None)], pa.timestamp("us")),
                "rows": [scores.manifest["rows"][RECOMMENDATIONS]],
            }
        ),
    }
    with duckdb.connect(str(file), config=duckdb_config()) as connection:
        for name, table in sources.items():
            connection.register(name, table)
        for statement in _TABLES:
            connection.execute(statement)
        crash_point("publish.tables_written")
        connection.execute("CHECKPOINT")


_TABLES = (
    """CREATE TABLE items AS SELECT * FROM catalogue ORDER BY item_id""",
    """CREATE TABLE recommendations AS
       SELECT scored.day, user_key, rank, item_id, title, brand, category, price,
           score, p_browse, p_click, p_purchase, value, reason, reason_item_id, model_version, snapshot_id
       FROM scored JOIN items USING (item_id) ORDER BY user_key, rank""",
    """CREATE TABLE similar_items AS
       SELECT s.item_id, s.rank, s.similar_item_id, items.title AS similar_title, s.similarity
       FROM neighbors AS s JOIN items ON items.item_id = s.similar_item_id ORDER BY s.item_id, s.rank""",
    "CREATE TABLE outcomes AS SELECT * FROM past_outcomes ORDER BY day",
    "CREATE TABLE nights AS SELECT * FROM night",
    """CREATE TABLE rejects AS SELECT source, reason, field, sum(rows)::BIGINT AS rows FROM refused
       GROUP BY ALL ORDER BY ALL""",
    "COMMENT ON TABLE recommendations IS 'One row per shopper and rank: the shelf of the night.'",
    "COMMENT ON COLUMN recommendations.user_key IS 'Pseudonym; empty for shoppers nobody knows yet.'",
    """COMMENT ON COLUMN recommendations.p_browse IS
       'Chance that the shopper does at least this with the item on the next day.'""",
    "COMMENT ON TABLE outcomes IS 'How earlier shelves did on the day after, one row per day.'",
)


def audit(file: Path, scores: Scores) -> list[str]:
    """What is wrong with a built shelf, in words: it opens read-only and holds every row that was scored."""
    try:
        rows = _rows(file)
    except Exception as error:  # whatever the engine finds wrong with the file is the finding
        return [f"{file.name} does not open: {error}"]
    wanted = {
        "recommendations": scores.manifest["rows"][RECOMMENDATIONS],
        "similar_items": scores.manifest["rows"][SIMILAR],
        "items": scores.manifest["items"],
        "nights": 1,
    }
    return [
        f"{table} has {rows.get(table, 0):,} rows where {count:,} were scored"
        for table, count in wanted.items()
        if rows.get(table) != count
    ]


def audit_published(home: Home, day: date) -> list[str]:
    """What is wrong with the shelf of a night as it lies there, and with the file being read.

    Nothing is wrong with a shelf that made way for newer ones (`made_way`).
    """
    scores = Scores.of(home, day)
    shelf = home.shelves / f"{day}-{_fingerprint(scores)}.duckdb"
    if made_way(home, day):
        return []
    if not shelf.exists():
        return [f"{shelf.name} is not there, though the night has scores"]
    wrong = audit(shelf, scores)
    current = _current(home)
    if current is None:
        return [*wrong, f"{home.published.name} is none of the shelves kept"]
    if _day_of(current) < day:
        wrong.append(f"{home.published.name} still shows the shelf of {_day_of(current)}")
    return wrong


def made_way(home: Home, day: date) -> bool:
    """Whether the shelf of a night is no longer kept because so many newer ones are (`Shop.keep_shelves`)."""
    kept = [_day_of(shelf) for shelf in _kept(home)]
    return day not in kept and sum(other > day for other in kept) >= home.shop.keep_shelves


def shelves(home: Home) -> list[Shelf]:
    """The shelves kept, newest first (by day, then by time of building)."""
    current = _current(home)
    return [Shelf(path, _day_of(path), path == current) for path in reversed(_kept(home))]


def undo(home: Home) -> Shelf:
    """Put the shelf before the one being read back in place.

    Raises:
        NoShelfError: nothing is published, or nothing older is kept.
    """
    if not home.published.exists():
        raise _nothing_published(home)  # before the lease, which would leave a file behind
    with lease_one_of([home.leases / "shelf.lock"]):
        _settle(home)
        current, kept = _current(home), _kept(home)
        if current is None:
            raise NoShelfError(f"{home.published} is none of the shelves kept: publish a night first")
        older = kept[: kept.index(current)]
        if not older:
            raise NoShelfError(f"{current.name} is the oldest shelf kept: there is nothing to go back to")
        crash_point("undo.chosen")
        _serve(home, older[-1])
        crash_point("undo.shown")
        return Shelf(older[-1], _day_of(older[-1]), current=True)


@contextmanager
def published(home: Home) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection to the published file.

    Raises:
        NoShelfError: nothing is published yet.
    """
    if not home.published.exists():
        raise _nothing_published(home)
    with duckdb.connect(str(home.published), read_only=True) as connection:
        yield connection


def _nothing_published(home: Home) -> NoShelfError:
    if not home.shop_file.exists():
        return NoShelfError(
            f"{home.root} is no shop yet. Run: nightshelf demo, to look at one; or for your own: "
            "nightshelf init"
        )
    return NoShelfError(f"{home.root} has no shelf yet: publish a night first (`nightshelf night`)")


def user_key_of(home: Home, user: str) -> str:
    """The pseudonym of a shopper: `user` itself where it is one, else that of the raw id, in the first
    namespace in which the shelf knows it (the default namespace where it knows none).

    Raises:
        NoShelfError: nothing is published yet.
    """
    if user == EVERYONE or user.startswith("k1:"):
        return user
    with published(home) as connection:
        key = IdentityKey.load(home)  # made on first use: not where there is no shelf
        candidates = [key.pseudonym(user, namespace) for namespace in _namespaces(home)]
        found = connection.execute(
            "SELECT DISTINCT user_key FROM recommendations "
            f"WHERE user_key IN ({', '.join(map(literal, candidates))})"
        ).fetchall()
    known = {key for (key,) in found}
    return next((one for one in candidates if one in known), candidates[0])


def shelf_of(connection: duckdb.DuckDBPyConnection, user_key: str) -> pa.Table:
    """The rows of a shelf, best first; those of everyone for a shopper the shelf does not know."""
    for key in (user_key, EVERYONE):
        # A literal: the first bound parameter makes DuckDB import pandas, which takes a quarter of a second.
        query = f"SELECT * FROM recommendations WHERE user_key = {literal(key)} ORDER BY rank"
        rows = connection.execute(query).to_arrow_table()
        if rows.num_rows:
            break
    return rows


def recommendations_for(home: Home, user: str) -> pa.Table:
    """The published shelf of a shopper, best first.

    Args:
        home: whose published file is read.
        user: a raw id, or a `k1:` pseudonym.

    Returns:
        Rows of `recommendations`. For a shopper the shelf does not know, the rows of everyone (`user_key` is
        empty), and the schema's metadata says so under `note`.

    Raises:
        NoShelfError: nothing is published yet.
    """
    key = user_key_of(home, user)
    with published(home) as connection:
        rows = shelf_of(connection, key)
    if rows.num_rows and rows["user_key"][0].as_py() == key:
        return rows
    return rows.replace_schema_metadata(
        {"note": f"The shelf knows no shopper {user!r}; these are this week's popular items."}
    )


def _namespaces(home: Home) -> list[str]:
    sources, _ = read_sources(home)
    return ["shop", *sorted({source.namespace for source in sources.values()} - {"shop"})]


def _rows(file: Path) -> dict[str, int]:
    with duckdb.connect(str(file), read_only=True) as connection:
        tables = [name for (name,) in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        return {
            name: _one(connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()) for name in tables
        }


def _one(row: tuple[Any, ...] | None) -> int:
    return int(row[0]) if row else 0


def _rejects(home: Home) -> pa.Table:
    """How many rows of each source were ever refused, by reason and field."""
    names = ["source", "reason", "field"]
    parts = [pa.schema([*((name, pa.string()) for name in names), ("rows", pa.int64())]).empty_table()]
    for file in sorted(home.loads.glob("*/rejects.parquet")):
        refused = pq.read_table(file, columns=names, partitioning=None)
        strings = pa.table({name: pc.cast(refused[name], pa.string()) for name in names})
        counted = strings.group_by(names).aggregate([([], "count_all")])
        parts.append(counted.rename_columns([*names, "rows"]))
    return pa.concat_tables(parts)


def _fingerprint(scores: Scores) -> str:
    return hashlib.sha256((scores.path / "manifest.json").read_bytes()).hexdigest()[:8]


def _day_of(shelf: Path) -> date:
    return date.fromisoformat(shelf.name[:10])


def _kept(home: Home) -> list[Path]:
    """Oldest first; shelves of the same day by the time they were built."""
    return sorted(
        home.shelves.glob("[0-9]*.duckdb"), key=lambda p: (p.name[:10], p.stat().st_mtime_ns, p.name)
    )


def _current(home: Home) -> Path | None:
    """The kept shelf that `published.duckdb` shows."""
    if not home.published.exists():
        return None
    return next((shelf for shelf in _kept(home) if shelf.samefile(home.published)), None)


def _settle(home: Home) -> None:
    """Take away, or finish, what a killed publication has left. The caller holds the lease.

    One that was killed when it had replaced the file of the very shelf that is being read, and not shown it
    yet, leaves readers with a file that is none of those kept.
    """
    _sweep(home)
    if home.published.exists() and _current(home) is None:
        try:
            with published(home) as connection:
                [(day,)] = connection.execute("SELECT day FROM nights").fetchall()
        except (duckdb.Error, ValueError):
            return  # not a shelf of ours; the next publication takes its place
        again = [shelf for shelf in _kept(home) if _day_of(shelf) == day]
        if again:
            _serve(home, again[-1])


def _sweep(home: Home) -> None:
    """Remove files that are not finished: with the lease held, they are nobody's."""
    for folder, pattern in ((home.shelves, ".building-*"), (home.root, ".published-*.duckdb")):
        for left in folder.glob(pattern):
            left.unlink()


def _serve(home: Home, shelf: Path) -> None:
    """Show `shelf` as `published.duckdb`: one rename, whatever was there."""
    aside = home.root / f".published-{uuid.uuid4().hex[:8]}.duckdb"
    os.link(shelf, aside)
    crash_point("publish.linked")
    aside.replace(home.published)
    crash_point("publish.shown")
    # Renaming a link onto another link of the same file does nothing, and leaves the first.
    aside.unlink(missing_ok=True)
    fsync(home.root)


def _prune(home: Home, spare: set[Path]) -> list[str]:
    current = _current(home)
    old = _kept(home)[: -home.shop.keep_shelves]
    removed = [shelf for shelf in old if shelf != current and shelf not in spare]
    crash_point("publish.before_pruning")
    for shelf in removed:
        shelf.unlink()
        crash_point("publish.pruned")
    return [shelf.name for shelf in removed]
