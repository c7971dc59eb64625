"""The simulated shop's truth, which the pipeline never reads, against what the pipeline made of its logs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta

import duckdb
import pytest

from assets.logs.raw_zone import outcomes, take_in_all
from assets.logs.simulator import simulate
from assets.warehouse.project import build_args, run_dbt, window
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
    run_dbt(build_args(), home, target=home.root / "dbt", more=window(home, FIRST, last))
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
    wanted = {key.pseudonym(user) for (user,) in bots}
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


@pytest.fixture(scope="module")
def lines(tables: duckdb.DuckDBPyConnection) -> str:
    """A table: every line that became an event, with the fate of the event, and what had been done to it."""
    tables.execute(
        """
        create table memory.truth.lines as
        select
            loads.file, flagged.line, flagged.day, flagged.behavior, flagged.removed_because,
            raw.price as told_price, faults.kind, faults.happened_at
        from intermediate.int_events__flagged as flagged
        inner join raw.ingest_outcomes as loads
            on flagged.load_id = loads.load_id and loads.status <> 'duplicate'
        inner join raw.behavior_events as raw
            on flagged.load_id = raw.load_id and flagged.line = raw.line
        left join memory.truth.faults as faults
            on loads.file = faults.file and flagged.line = faults.line
        """
    )
    return "memory.truth.lines"


def test_clean_events_are_kept(tables: duckdb.DuckDBPyConnection, lines: str) -> None:
    """Nearly all: now and then an honest price is an outlier among the day's others."""
    ((clean,),) = rows(
        tables, "select sum(clean) from memory.truth.files where source <> 'nightshelf_catalogue'"
    )
    ((kept,),) = rows(
        tables,
        """
        select count(*) from marts.fct_events
        inner join raw.ingest_outcomes as loads using (load_id)
        left join memory.truth.faults as faults on loads.file = faults.file and fct_events.line = faults.line
        where faults.kind is null
        """,
    )
    assert 0.999 * clean <= kept <= clean
    others = rows(
        tables, f"select kind, removed_because from {lines} where kind in ('late', 'missing_field')"
    )
    assert {reason for _, reason in others} == {None}  # what is late, or lacks what nobody needs, is clean


def test_prices_out_of_range_are_refused_or_removed_or_known_better(
    tables: duckdb.DuckDBPyConnection, lines: str
) -> None:
    found = rows(
        tables,
        "select removed_because, told_price, behavior, readable "
        f"from memory.truth.faults left join {lines} as lines using (file, line) "
        "where faults.kind = 'price_out_of_range'",
    )
    removed = [row for row in found if row[0] in ("price_out_of_range", "price_outlier")]
    kept = [row for row in found if row[0] is None]
    assert removed and len(removed) + len(kept) == len(found)
    # A site writes 0 for "no price" beside what it shows, and the catalogue knows the price.
    assert all(price == 0 and behavior != "purchase" for _, price, behavior, _ in kept)


def test_late_events_lie_in_the_day_of_their_time(tables: duckdb.DuckDBPyConnection, lines: str) -> None:
    found = rows(
        tables,
        "select day, (happened_at at time zone 'UTC' at time zone 'Europe/Berlin')::date, "
        f"regexp_extract(file, '\\d{{4}}-\\d{{2}}-\\d{{2}}')::date from {lines} where kind = 'late'",
    )
    assert len(found) > 50
    assert all(day == happened < filed for day, happened, filed in found)


def raw_ids_in(connection: duckdb.DuckDBPyConnection, relation: str) -> set[str]:
    """What looks like one of the simulator's customer numbers in any column, decoded."""
    columns = [name for name, *_ in connection.execute(f"describe select * from {relation}").fetchall()]
    texts = " union all ".join(
        f'select cast("{name}" as varchar) as text from {relation}' for name in columns
    )
    query = f"select distinct unnest(regexp_extract_all(text, 'C[0-9]{{7}}')) from ({texts})"
    return {found for (found,) in connection.execute(query).fetchall()}


def test_no_raw_id_is_in_the_warehouse(home: Home, tables: duckdb.DuckDBPyConnection) -> None:
    shoppers = raw_ids_in(tables, f"read_parquet('{home.truth}/shoppers.parquet')")
    assert len(shoppers) > 1500
    dropped = next((home.drop / "nightshelf_csv").glob("*.csv"))
    assert raw_ids_in(tables, f"read_csv('{dropped}', all_varchar = true)") & shoppers  # it would be found

    relations = rows(
        tables,
        "select '\"' || table_schema || '\".\"' || table_name || '\"' from information_schema.tables "
        "where table_catalog = 'warehouse'",
    )
    stored = [
        path
        for path in home.root.rglob("*.parquet")
        if home.drop not in path.parents and home.truth not in path.parents
    ]
    assert len(relations) > 20 and len(stored) > 20
    places = [name for (name,) in relations]
    places += [f"read_parquet('{path}', hive_partitioning = false)" for path in stored]
    found = {place: raw_ids_in(tables, place) & shoppers for place in places}
    assert {place: ids for place, ids in found.items() if ids} == {}
    told = "".join(path.read_text() for path in home.loads.parent.rglob("*.json"))
    assert [user for user in shoppers if user in told] == []
