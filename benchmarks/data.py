"""Anybody's behaviour log and catalogue, as the arrays that the model reads.

A data set is two files, Parquet or CSV. `interactions` has user_id, item_id and timestamp, and maybe
behavior; `items` has item_id and maybe words and a price. Rows that cannot be used are counted by reason and
left out; the others go on. What makes a file unusable as a whole is an error that names file, column or line,
and the next step.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from assets.model.interactions import LEVELS, Interactions

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

NO_DAY = date(2000, 1, 1)
"""The one day of a log that has order but no time."""
CSV = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
PARQUET = (".parquet", ".pq")
WORDS = ("title", "description", "category", "brand")
EXAMPLES = 3
"""Unusable values or lines that are shown for each reason."""

# The ranges of the units do not meet, so a number in one of them says which unit it counts: 1990 to 2100.
UNITS = {"seconds": 1_000_000.0, "milliseconds": 1_000.0, "microseconds": 1.0, "nanoseconds": 1e-3}
EARLIEST, LATEST = 631_152_000e6, 4_102_444_800e6
"""Microseconds since 1970."""
WHOLE = 2.0**53
"""Up to here a floating-point number holds every whole number."""


class DataError(ValueError):
    """A file cannot be used; the message names file, column or line, and the next step."""


@dataclass(frozen=True)
class Dataset:
    """What was read, and what was not."""

    interactions: Interactions
    timed: bool
    """Whether timestamps are real times. If not, they only order the events."""
    facts: dict[str, Any]
    """For the report: files, rows, users, items, left-out rows by reason, how time was read, notes."""


@dataclass(frozen=True)
class Table:
    """A file as DuckDB sees it."""

    path: Path
    name: str
    columns: dict[str, str]
    """Name in lower case → DuckDB's type."""
    rows: int
    """Readable ones."""
    broken: int
    """Lines of a CSV that do not have its columns."""


class _Tables:
    """The two files as the tables of a snapshot."""

    def __init__(self, events: pa.Table, items: pa.Table, cut_off: date) -> None:
        self.cut_off = cut_off
        # `Interactions.only` makes the tables that are not here from the events.
        self._tables = {
            "events": events,
            "items": items,
            "behaviors": _empty(
                day=pa.date32(), user_key=pa.string(), item_id=pa.string(), behavior=pa.string()
            ),
            "popularity": _empty(day=pa.date32(), item_id=pa.string(), users=pa.int64()),
        }

    def table(self, name: str) -> pa.Table:
        return self._tables[name]


def read(
    interactions: Path, items: Path | None = None, log: Callable[[str], None] = lambda message: None
) -> Dataset:
    """Read a data set.

    Args:
        interactions: Parquet or CSV with user_id, item_id and timestamp (a time, or any number that sorts),
            and maybe behavior (browse, click, cart, purchase; purchase where empty or absent). Other columns
            are not read.
        items: Parquet or CSV with item_id and any of title, description, category, brand, price, attributes
            (a list of strings; in a CSV a JSON list, or words divided by `|`). None, or a path where nothing
            is: the items are those that were met, without words.
        log: told what is read and what is left out.

    Raises:
        DataError: a file or column is missing, unreadable, or has no usable row.
    """
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_progress_bar = false")
        events, facts, timed = _events(connection, interactions)
        catalogue, told = _items(connection, items, events)
    facts["files"] |= told.pop("files")
    facts["left_out"] |= told.pop("left_out")
    facts["notes"] += told.pop("notes")
    facts |= told
    days = events["day"]
    cut_off = pa.compute.max(days).as_py()
    ids = catalogue["item_id"].to_pylist()
    vectors = np.zeros((len(ids), 1), np.float32)
    data = Interactions.of(_Tables(events, catalogue, cut_off), vectors, ids)
    data = data.only(np.ones(len(data.events.item), bool))
    facts |= {"users": len(data.users), "items": len(data.item_ids), "events": len(data.events.item)}
    log(
        f"{facts['rows']:,} rows: {facts['events']:,} events of {facts['users']:,} users with "
        f"{facts['items']:,} items ({facts['items_never_met']:,} never met); {facts['time']}"
    )
    for reason, left in facts["left_out"].items():
        shown = f", such as {', '.join(left['examples'])}" if left["examples"] else ""
        log(f"left out {left['rows']:,} rows: {reason}{shown}")
    for note in facts["notes"]:
        log(note)
    return Dataset(data, timed, facts)


def _events(connection: DuckDBPyConnection, path: Path) -> tuple[pa.Table, dict[str, Any], bool]:
    """day, event_at, user_key, item_id, behavior by time, user, item; what is told of them; whether timed."""
    table = _open(connection, path, "interactions", needed=("user_id", "item_id", "timestamp"))
    if "behavior" in table.columns:
        behavior = "coalesce(nullif(lower(trim(CAST(behavior AS VARCHAR))), ''), 'purchase')"
    else:
        behavior = "'purchase'"
    connection.execute(f"""
        CREATE TEMP TABLE raw_events AS SELECT
            {_key(connection, table, "user_id")} AS user_key, {_key(connection, table, "item_id")} AS item_id,
            {behavior} AS behavior, timestamp AS raw_time
        FROM {table.name}
    """)
    timed, told = _moments(connection, table)
    reasons = {
        "no user_id": "user_key IS NULL",
        "no item_id": "item_id IS NULL",
        "no timestamp, or one that cannot be read": "moment IS NULL",
        f"a behaviour that is none of {', '.join(LEVELS)}": f"behavior NOT IN ({_quoted(LEVELS)})",
    }
    case = " ".join(f"WHEN {test} THEN '{reason}'" for reason, test in reasons.items())
    connection.execute(f"CREATE TEMP TABLE judged AS SELECT *, CASE {case} END AS reason FROM moments")
    left = _left_out(connection, table)
    events = connection.execute("""
        SELECT CAST(make_timestamp(moment) AS DATE) AS day, make_timestamp(moment) AS event_at,
            user_key, item_id, behavior
        FROM judged WHERE reason IS NULL
        ORDER BY moment, user_key, item_id, behavior
    """).to_arrow_table()
    if not len(events):
        why = "; ".join(f"{row['rows']:,} with {reason}" for reason, row in left.items()) or "it is empty"
        raise DataError(f"{path}: no usable row ({why}). See the columns in --help")
    if not timed:
        day = pa.array([NO_DAY], pa.date32()).take(pa.array(np.zeros(len(events), np.int64)))
        events = events.set_column(0, "day", day)
    facts = {
        "files": {"interactions": {"path": str(path), "rows": table.rows + table.broken}},
        "rows": table.rows + table.broken,
        "left_out": left,
        "notes": ["No column `behavior`: every event counts as a purchase."]
        if "behavior" not in table.columns
        else [],
        "time": told,
        "timed": timed,
        "behaviors": dict(
            connection.execute(
                "SELECT behavior, count(*) FROM judged WHERE reason IS NULL GROUP BY 1 ORDER BY 1"
            ).fetchall()
        ),
    }
    return events, facts, timed


def _moments(connection: DuckDBPyConnection, table: Table) -> tuple[bool, str]:
    """Make `moments`: raw_events with `moment`, µs since 1970 or, where there is no real time, a place in
    order.

    A number counts as a time where at least 99 % of all lie between 1990 and 2100 in one unit; the others are
    then no times. Numbers that only order start at 0; fractions are stretched to keep their proportions.
    """
    kind = table.columns["timestamp"].upper()
    if kind.startswith(("TIMESTAMP", "DATE")):
        # Nanoseconds go to a time zone by way of microseconds only.
        value = "raw_time" if "TIME ZONE" in kind else "CAST(raw_time AS TIMESTAMP)"
        return _real_times(connection, f"CAST({value} AS TIMESTAMPTZ)", f"column of type {kind}")
    if kind not in NUMBERS and not kind.startswith("DECIMAL"):
        numbers, times, filled = _one(
            connection,
            "SELECT count(TRY_CAST(raw_time AS DOUBLE)), count(TRY_CAST(raw_time AS TIMESTAMPTZ)), "
            "count(nullif(trim(CAST(raw_time AS VARCHAR)), '')) FROM raw_events",
        )
        if filled and not numbers and not times:
            example = _one(connection, "SELECT CAST(any_value(raw_time) AS VARCHAR) FROM raw_events")[0]
            raise DataError(
                f"{table.path}: column timestamp holds neither numbers nor times (such as {example!r}). "
                "Write times as 2026-01-31 13:45:00, or as seconds since 1970"
            )
        if times > numbers:
            return _real_times(connection, "TRY_CAST(raw_time AS TIMESTAMPTZ)", "written as times")
    connection.execute("""
        CREATE TEMP TABLE numbered AS
        SELECT * EXCLUDE number, CASE WHEN isfinite(number) THEN number END AS number
        FROM (SELECT *, TRY_CAST(raw_time AS DOUBLE) AS number FROM raw_events)
    """)
    total = _one(connection, "SELECT count(number) FROM numbered")[0]
    for unit, factor in UNITS.items():
        inside = f"number * {factor} BETWEEN {EARLIEST} AND {LATEST}"
        if _one(connection, f"SELECT count(*) FROM numbered WHERE {inside}")[0] >= max(0.99 * total, 1):
            connection.execute(f"""
                CREATE TEMP TABLE moments AS
                SELECT *, CASE WHEN {inside} THEN CAST(round(number * {factor}) AS BIGINT) END AS moment
                FROM numbered
            """)
            return True, f"timestamps are {unit} since 1970"
    least, most, whole = _one(
        connection, "SELECT min(number), max(number), bool_and(number = floor(number)) FROM numbered"
    )
    fits = whole and max(abs(least), abs(most)) < WHOLE
    shift = min(least or 0.0, 0.0) if fits else least
    scale = 1.0 if fits or most == least else 1e12 / (most - least)
    connection.execute(
        "CREATE TEMP TABLE moments AS SELECT *, CAST(round((number - $shift) * $scale) AS BIGINT) AS moment "
        "FROM numbered",
        {"shift": shift or 0.0, "scale": scale},
    )
    return False, "timestamps order the events but are no times"


NUMBERS = {
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"),
    *("FLOAT", "DOUBLE"),
}


def _real_times(connection: DuckDBPyConnection, value: str, told: str) -> tuple[bool, str]:
    connection.execute(f"""
        CREATE TEMP TABLE moments AS
        SELECT *, CASE WHEN isfinite(stamp) AND stamp >= TIMESTAMPTZ '1970-01-01 00:00:00+00'
            AND stamp < TIMESTAMPTZ '2200-01-01 00:00:00+00' THEN epoch_us(stamp) END AS moment
        FROM (SELECT *, {value} AS stamp FROM raw_events)
    """)
    return True, f"timestamps are real times ({told})"


def _left_out(connection: DuckDBPyConnection, table: Table) -> dict[str, dict[str, Any]]:
    """Reason → rows and a few examples."""
    left: dict[str, dict[str, Any]] = {}
    if table.broken:
        left["lines without the header's columns"] = {
            "rows": table.broken,
            "examples": _lines(connection, table),
        }
    for reason, rows in connection.execute(
        "SELECT reason, count(*) FROM judged WHERE reason IS NOT NULL GROUP BY 1 ORDER BY 1"
    ).fetchall():
        column = "behavior" if "behaviour" in reason else "raw_time" if "timestamp" in reason else None
        examples = []
        if column:
            examples = connection.execute(
                f"SELECT DISTINCT CAST({column} AS VARCHAR) AS v FROM judged WHERE reason = $reason "
                f"AND {column} IS NOT NULL ORDER BY v LIMIT {EXAMPLES}",
                {"reason": reason},
            ).fetchall()
        left[reason] = {"rows": rows, "examples": [repr(value) for (value,) in examples]}
    return left


def _items(
    connection: DuckDBPyConnection, path: Path | None, events: pa.Table
) -> tuple[pa.Table, dict[str, Any]]:
    """The catalogue of a snapshot: what the file describes, and what was met without being described."""
    connection.register("events", events)
    facts: dict[str, Any] = {"files": {}, "left_out": {}, "notes": [], "items_never_met": 0}
    if path is None or not path.exists():
        said = "No file of items" if path is None else f"No file of items at {path}"
        facts["notes"].append(f"{said}: items have no words and no prices.")
        connection.execute("CREATE TEMP TABLE described AS SELECT NULL::VARCHAR AS item_id LIMIT 0")
        columns: dict[str, str] = {}
    else:
        table = _open(connection, path, "items", needed=("item_id",))
        columns = table.columns
        facts["files"]["items"] = {"path": str(path), "rows": table.rows + table.broken}
        if table.broken:
            facts["left_out"]["lines of items without the header's columns"] = {
                "rows": table.broken,
                "examples": _lines(connection, table),
            }
        connection.execute(f"""
            CREATE TEMP TABLE described AS
            SELECT * EXCLUDE item_id, {_key(connection, table, "item_id")} AS item_id FROM {table.name}
        """)
        unnamed, again = _one(
            connection,
            "SELECT count(*) - count(item_id), count(item_id) - count(DISTINCT item_id) FROM described",
        )
        for reason, rows in (("items without item_id", unnamed), ("items described twice", again)):
            if rows:
                facts["left_out"][reason] = {"rows": rows, "examples": []}
    words = {name: _text(name) if name in columns else "NULL::VARCHAR" for name in WORDS}
    price = "TRY_CAST(price AS DOUBLE)" if "price" in columns else "NULL::DOUBLE"
    attributes = "attributes" if "attributes" in columns else "NULL"
    items = connection.execute(f"""
        WITH once AS (
            SELECT item_id, {", ".join(f"{value} AS {name}" for name, value in words.items())},
                CASE WHEN isfinite({price}) THEN {price} END AS price, {attributes} AS attributes
            FROM described WHERE item_id IS NOT NULL
            QUALIFY row_number() OVER (PARTITION BY item_id ORDER BY rowid) = 1
        ), met AS (SELECT DISTINCT item_id FROM events)
        SELECT item_id, {", ".join(WORDS)}, price, attributes, NULL::BOOLEAN AS in_stock,
            NULL::DATE AS first_seen_day
        FROM once FULL JOIN met USING (item_id) ORDER BY item_id
    """).to_arrow_table()
    facts["items_never_met"] = len(items) - len(events["item_id"].unique())
    facts["items_without_words"] = int(np.sum([not title for title in items["title"].to_pylist()]))
    facts["catalogue_columns"] = sorted({*WORDS, "price", "attributes"} & set(columns))
    lists = [_listed(value) for value in items["attributes"].to_pylist()]
    items = items.set_column(
        items.column_names.index("attributes"), "attributes", pa.array(lists, pa.list_(pa.string()))
    )
    return items.append_column("text", pa.array(texts_of(items), pa.string())), facts


def texts_of(items: pa.Table) -> list[str]:
    """Title, brand, category, attributes (where there are any) and description of each item as one text, as a
    snapshot writes it."""
    columns = [
        items[name].to_pylist() if name in items.column_names else [()] * len(items)
        for name in ("title", "brand", "category", "attributes", "description")
    ]
    texts = []
    for title, brand, category, attributes, description in zip(*columns, strict=True):
        parts = [title, brand, category, ", ".join(attributes), description]
        texts.append(" ".join(". ".join(part for part in parts if part).split()))
    return texts


def _listed(value: Any) -> list[str]:
    """Attributes as a list: as it is, or from a JSON list, or from words divided by `|`."""
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                value = json.loads(value)
            except json.JSONDecodeError:
                value = value.strip().strip("[]").split(",")
        else:
            value = value.split("|")
    if isinstance(value, dict):
        value = [f"{name} {word}" for name, word in value.items() if word not in (None, "")]
    words = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return [text for word in words if word is not None and (text := str(word).strip(" '\""))]


def _open(connection: DuckDBPyConnection, path: Path, name: str, needed: tuple[str, ...]) -> Table:
    """Make the table `name` of a file.

    Raises:
        DataError: no such file, not Parquet or CSV, unreadable, or a needed column is missing.
    """
    import duckdb

    if not path.exists():
        raise DataError(f"{path}: no such file. Name a Parquet or CSV file")
    lower = path.name.lower()
    if lower.endswith(CSV):
        # Everything as text, so that item "007" stays what it is; broken lines are kept apart, not fatal.
        source = (
            "read_csv($path, all_varchar = true, header = true, ignore_errors = true, store_rejects = true, "
            f"rejects_table = 'rejects_{name}', rejects_scan = 'scan_{name}', rejects_limit = 0)"
        )
    elif lower.endswith(PARQUET):
        source = "read_parquet($path)"
    else:
        raise DataError(f"{path}: neither {', '.join(CSV)} nor {', '.join(PARQUET)}")
    try:
        connection.execute(f"CREATE TEMP TABLE {name} AS SELECT * FROM {source}", {"path": str(path)})
    except duckdb.Error as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    described = connection.execute(f"DESCRIBE {name}").fetchall()
    for column, *_ in described:
        plain = column.strip().lower()
        if plain != column:
            connection.execute(f'ALTER TABLE {name} RENAME "{column}" TO "{plain}"')
    columns = {column.strip().lower(): kind for column, kind, *_ in described}
    missing = [column for column in needed if column not in columns]
    if missing:
        raise DataError(
            f"{path}: no column {' and no column '.join(missing)}; it has {', '.join(columns) or 'none'}. "
            f"Rename the columns to {', '.join(needed)}"
        )
    broken = 0
    if lower.endswith(CSV):
        broken = _one(connection, f"SELECT count(DISTINCT line) FROM rejects_{name}")[0]
    return Table(path, name, columns, _one(connection, f"SELECT count(*) FROM {name}")[0], broken)


def _lines(connection: DuckDBPyConnection, table: Table) -> list[str]:
    """The first broken lines of a CSV, by number."""
    rows = connection.execute(
        f"SELECT DISTINCT line FROM rejects_{table.name} ORDER BY line LIMIT {EXAMPLES}"
    ).fetchall()
    return [f"line {line}" for (line,) in rows]


def _key(connection: DuckDBPyConnection, table: Table, column: str) -> str:
    """SQL of an id as text: 12.0, which pandas makes of 12 beside an empty cell, is 12; blank is none."""
    kind = table.columns[column].upper()
    value = f'CAST("{column}" AS VARCHAR)'
    if kind in ("FLOAT", "DOUBLE"):
        whole = _one(
            connection,
            f'SELECT bool_and("{column}" = floor("{column}")) FROM {table.name} WHERE isfinite("{column}")',
        )[0]
        inner = f'CAST(CAST("{column}" AS BIGINT) AS VARCHAR)' if whole else value
        value = f'CASE WHEN isfinite("{column}") THEN {inner} END'
    return f"nullif(trim({value}), '')"


def _text(name: str) -> str:
    return f"nullif(trim(CAST({name} AS VARCHAR)), '')"


def _quoted(words: Any) -> str:
    return ", ".join(f"'{word}'" for word in words)


def _one(connection: DuckDBPyConnection, sql: str) -> tuple[Any, ...]:
    row = connection.execute(sql).fetchone()
    return row if row is not None else ()


def _empty(**columns: pa.DataType) -> pa.Table:
    return pa.table({name: pa.array([], kind) for name, kind in columns.items()})
