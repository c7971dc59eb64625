"""Synthetic raw events for benchmarks of speed: as many as asked for, the same every time, with some dirt.

The simulator knows tastes and seasons, and walks each visit; that is worth its time where quality is judged.
Here only sizes and shapes count: sessions of one to seventeen events, few items and shoppers that do much and
many that do little, texts that need quotation marks, rows sent twice, programs, typing errors, rows that
cannot be read.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

DAYS = 30
FIRST_DAY = date(2025, 5, 1)
ZONE = "UTC"
"""Of the shop: then each file holds the events of one of its days."""

COLUMNS = {
    "event_id": "VARCHAR",
    "event_time": "TIMESTAMP",
    "received_at": "TIMESTAMP",
    "user_id": "VARCHAR",
    "session_id": "VARCHAR",
    "item_id": "VARCHAR",
    "behavior": "VARCHAR",
    "category": "VARCHAR",
    "price": "DOUBLE",
    "currency": "VARCHAR",
    "quantity": "DOUBLE",
    "order_id": "VARCHAR",
    "page": "VARCHAR",
}
"""Columns of an event file, in their order, with the types they are meant to have."""

_LENGTHS = (1, 2, 3, 5, 8, 12, 16, 17)
"""Events of the sessions that each block of 64 events consists of."""
_BLOCK = sum(_LENGTHS)
_GROUPS = 40
"""Categories; an item's number says which."""
_ROBOT = 500
"""One block in so many is a program: 64 actions, one a second."""


def days(count: int = DAYS) -> list[date]:
    """The days that the events are spread over."""
    return [FIRST_DAY + timedelta(days=number) for number in range(count)]


def write_events(folder: Path, events: int, over: int = DAYS) -> list[Path]:
    """One CSV per day, `events` lines in all and the headers.

    Args:
        folder: made where it is not there.
        events: at least 64 for each day; days are drawn in blocks of so many.
        over: days.

    Returns:
        The files, oldest first.
    """
    import duckdb

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with duckdb.connect() as db:
        db.execute("SET threads = 2")
        for number, day in enumerate(days(over)):
            files.append(folder / f"events-{day}.csv")
            _write(db, _events_of_day(number, day, events, over), files[-1])
    return files


def write_catalogue(file: Path, events: int) -> Path:
    """The products that the events name, all known from the start, as a file of `nightshelf_catalogue`."""
    import duckdb

    file.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as db:
        _write(
            db,
            f"""
            SELECT
                'sku-' || lpad(n::VARCHAR, 7, '0') AS item_id, NULL AS valid_from,
                'Item number ' || n AS title,
                'What is to be said of item number ' || n AS description, {_category("n")} AS category,
                'Brand ' || n % 97 AS brand, {_price("n")} AS price, 'EUR' AS currency, true AS in_stock
            FROM range({_items(events)}) AS r(n)
            """,
            file,
        )
    return file


def _write(db: duckdb.DuckDBPyConnection, query: str, file: Path) -> None:
    db.execute(f"COPY ({query}) TO '{str(file).replace(chr(39), chr(39) * 2)}' (FORMAT csv, HEADER)")


def _items(events: int) -> int:
    """A shop that sells more has more to sell, but not as much more."""
    return _GROUPS * max(2, int(events**0.6) // _GROUPS)


def _category(item: str) -> str:
    """SQL; one in ten has a comma, and so needs quotation marks."""
    group = f"{item} % {_GROUPS}"
    return f"CASE WHEN {group} % 10 = 3 THEN 'Home, garden > Group ' ELSE 'Shop > Group ' END || {group}"


def _price(item: str) -> str:
    return f"round(2 + (hash({item}) % 10000) / 100, 2)"


def _chance(of: str, salt: int) -> str:
    """SQL: a number from 0 to below 1 that depends on `of` alone."""
    return f"((hash({of}, {salt}) % 1000003) / 1000003.0)"


def _events_of_day(number: int, day: date, events: int, over: int) -> str:
    """Query: the lines of one day's file. Of thirty days, every thirtieth block of events is of one day."""
    blocks = -(-events // _BLOCK)
    starts = [sum(_LENGTHS[:n]) for n in range(len(_LENGTHS))]
    session = " + ".join(f"(place >= {start})::INTEGER" for start in starts[1:])
    items, users = _items(events), max(10, events // 40)
    return f"""
        WITH places AS (
            SELECT block, place, block * {_BLOCK} + place AS n
            FROM range({number}, {blocks}, {over}) AS b(block) CROSS JOIN range({_BLOCK}) AS p(place)
            WHERE block * {_BLOCK} + place < {events}
        ),
        -- One row in a hundred is sent twice, as it is.
        repeated AS (
            SELECT n, block, CASE WHEN n % 100 = 50 AND place > 0 THEN place - 1 ELSE place END AS place
            FROM places
        ),
        drawn AS (
            SELECT
                n, block * {_BLOCK} + place AS event, block % {_ROBOT} = 7 AS robot, block, place,
                block * {len(_LENGTHS)} + {session} AS session
            FROM repeated
        ),
        told AS (
            SELECT
                *, floor({_chance("session", 1)} ** 1.5 * {users})::BIGINT AS shopper,
                -- A visit stays with one group of items, and two events in a row are mostly of one item.
                hash(session) % {_GROUPS} + {_GROUPS} * floor(
                    ((hash(session, place // 2) % 1000003) / 1000003.0) ** 2 * {items // _GROUPS}
                )::BIGINT AS item,
                {_chance("event", 3)} AS act,
                CASE
                    WHEN robot THEN floor({_chance("block", 4)} * 80000)::BIGINT + place
                    ELSE floor({_chance("session", 4)} * 84000)::BIGINT + place * 25
                    + (hash(event) % 20)::BIGINT
                END AS second
            FROM drawn
        ),
        meant AS (
            SELECT
                *, CASE WHEN act < 0.6 THEN 'browse' WHEN act < 0.88 THEN 'click' WHEN act < 0.96 THEN 'cart'
                ELSE 'purchase' END AS behavior,
                TIMESTAMP '{day}'
                + to_milliseconds(least(second, 86399) * 1000 + (hash(event) % 1000)::BIGINT) AS moment
            FROM told
        )
        SELECT
            'e' || event AS event_id,
            CASE
                WHEN event % 20011 = 5 THEN 'yesterday' ELSE strftime(moment, '%Y-%m-%dT%H:%M:%S.%gZ')
            END AS event_time,
            strftime(moment + to_seconds(2), '%Y-%m-%dT%H:%M:%SZ') AS received_at,
            CASE
                WHEN event % 10007 = 3 THEN NULL WHEN robot THEN 'robot-' || block ELSE 'user-' || shopper
            END AS user_id,
            's' || session AS session_id,
            'sku-' || lpad(item::VARCHAR, 7, '0') AS item_id,
            behavior,
            {_category("item")} AS category,
            CASE
                WHEN event % 10009 = 4 THEN 'twelve'
                WHEN event % 2003 = 1 THEN ({_price("item")} * 1000)::VARCHAR
                ELSE ({_price("item")})::VARCHAR
            END AS price,
            'EUR' AS currency,
            CASE WHEN behavior IN ('cart', 'purchase') THEN 1 + event % 3 END AS quantity,
            CASE WHEN behavior = 'purchase' THEN 'o' || session END AS order_id,
            '/item/' || item AS page
        FROM meant ORDER BY moment, n
    """
