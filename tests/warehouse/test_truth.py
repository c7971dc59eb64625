"""The simulated shop's truth, which the pipeline never reads, against what the pipeline made of its logs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import duckdb
import pytest

from assets.logs.raw_zone import outcomes, take_in_all
from assets.logs.simulator import simulate
from assets.warehouse.project import build_args, run_dbt
from resources.home import Home, Shop
from resources.identity import IdentityKey

FIRST, DAYS = date(2026, 3, 26), 5  # the spring day of Europe/Berlin, 2026-03-29, among them


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home(tmp_path_factory.mktemp("truth") / "home")
    home.write_shop(Shop(first_day=FIRST))
    simulate(home, start=FIRST, days=DAYS, seed=11, shoppers=1500, products=300)
    take_in_all(home)
    last = FIRST + timedelta(days=DAYS - 1)
    run_dbt(build_args(home, FIRST, last), home, target=home.root / "dbt")
    return home


@pytest.fixture(scope="module")
def tables(home: Home) -> Iterator[duckdb.DuckDBPyConnection]:
    """The warehouse, with what the simulator knows beside it in the schema `truth`."""
    with duckdb.connect() as connection:
        connection.execute(
            f"attach '{home.warehouse}' as warehouse (read_only); use warehouse; create schema memory.truth"
        )
        for name in ("faults", "bots", "files"):
            connection.execute(
                f"create table memory.truth.{name} as from read_parquet('{home.truth}/{name}.parquet')"
            )
        yield connection


def rows(tables: duckdb.DuckDBPyConnection, query: str) -> list[tuple]:
    return tables.execute(query).fetchall()


def test_every_line_is_accounted_for_file_by_file(home: Home, tables: duckdb.DuckDBPyConnection) -> None:
    truth = dict(rows(tables, "select file, lines from memory.truth.files"))
    ledger = {outcome.file: outcome for outcome in outcomes(home)}
    assert truth.keys() == ledger.keys()
    for file, lines in truth.items():
        found = ledger[file]
        assert found.lines == lines
        assert found.lines == (
            found.header_lines + found.blank_lines + found.lines_loaded + found.lines_refused
        )


def test_refused_lines_are_the_unreadable_ones(tables: duckdb.DuckDBPyConnection) -> None:
    # A code that nobody knows is read as it is, and removed later. A time outside the window may be refused.
    wanted = set(
        rows(
            tables,
            "select file, line from memory.truth.faults where not readable and kind <> 'unknown_behavior'",
        )
    )
    may = set(rows(tables, "select file, line from memory.truth.faults where kind = 'clock_skew'"))
    refused = set(rows(tables, "select file, line from raw.rejects"))
    assert wanted <= refused
    assert refused - wanted <= may


def test_bots_and_only_bots_are_removed_as_bots(home: Home, tables: duckdb.DuckDBPyConnection) -> None:
    bots = rows(tables, "select distinct user_id from memory.truth.bots")
    key = IdentityKey.load(home)
    wanted = set(key.pseudonyms([user for (user,) in bots], "shop"))
    found = {
        user
        for (user,) in rows(
            tables,
            "select distinct user_key from intermediate.int_events__flagged where removed_because = 'bot'",
        )
    }
    assert found
    assert found <= wanted
    kept = rows(tables, "select distinct user_key from marts.fct_events")
    assert len(wanted & {user for (user,) in kept}) <= len(wanted) // 10  # a bot that began at midnight


def test_as_many_duplicates_and_unknown_codes_go_as_were_put_in(tables: duckdb.DuckDBPyConnection) -> None:
    for kind, step in (("duplicate", "duplicate"), ("unknown_behavior", "unknown_behavior")):
        ((wanted,),) = rows(tables, f"select count(*) from memory.truth.faults where kind = '{kind}'")
        ((found,),) = rows(tables, f"select sum(rows) from marts.quality_funnel where step = '{step}'")
        assert wanted
        # A row can bear two faults, and one that arrives after the last day is not there to be removed.
        assert found == pytest.approx(wanted, rel=0.05)


def test_the_funnel_ends_where_it_should(tables: duckdb.DuckDBPyConnection) -> None:
    ((raw, kept, removed),) = rows(
        tables,
        """
        select
            sum(rows) filter (step = 'raw'),
            sum(rows) filter (step = 'kept'),
            sum(rows) filter (step not in ('raw', 'kept'))
        from marts.quality_funnel
        """,
    )
    assert raw == kept + removed
    ((events,),) = rows(tables, "select count(*) from marts.fct_events")
    assert events == kept


def test_no_raw_id_is_in_the_warehouse(home: Home) -> None:
    shoppers = duckdb.execute(f"select user_id from '{home.truth}/shoppers.parquet' limit 300").fetchall()
    places = [home.warehouse, *(path for path in home.loads.rglob("*") if path.is_file())]
    content = b"".join(Path(place).read_bytes() for place in places)
    assert not [user for (user,) in shoppers if user.encode() in content]
