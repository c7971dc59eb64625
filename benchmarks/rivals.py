"""What `benchmarks.warehouse` compares, each to be run in a process of its own.

python -m benchmarks.rivals NAME FOLDER

runs one of them on the files in FOLDER and prints {"seconds", "start_up"} as JSON. `seconds` begins when the
libraries are loaded; DuckDB, polars and pandas have nothing else to start, dbt has.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path

from benchmarks.raw_events import COLUMNS, FIRST_DAY, ZONE, days

INGEST = ("nightshelf_ingest", "duckdb_ingest", "polars_ingest", "pandas_ingest")
MARTS = ("nightshelf_marts", "duckdb_marts", "polars_marts")
RESULTS = (
    *("labels.lbl_behaviors", "labels.lbl_next_item", "marts.fct_events", "marts.fct_item_pairs"),
    *("marts.fct_popularity", "marts.quality_funnel", "marts.dim_items", "marts.dim_item_versions"),
    "marts.dim_users",
)
"""Tables and views that ours and the bare script both make, row for row."""

BARE = Path(__file__).with_name("bare.sql")


@dataclass(frozen=True)
class Place:
    """Where the files of one size lie."""

    folder: Path

    @property
    def csv(self) -> Path:
        return self.folder / "csv"

    @property
    def catalogue(self) -> Path:
        return self.folder / "catalogue" / "products.csv"

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def loads(self) -> Path:
        return self.home / "raw" / "loads"

    @property
    def warehouse(self) -> Path:
        return self.home / "warehouse.duckdb"

    @property
    def bare(self) -> Path:
        return self.folder / "bare.duckdb"

    @property
    def polars(self) -> Path:
        return self.folder / "polars"

    @property
    def aside(self) -> Path:
        """Of what only takes time to write, and nobody reads."""
        return self.folder / "aside"

    def files(self) -> list[Path]:
        """The event files, oldest first."""
        return sorted(self.csv.glob("*.csv"))


@dataclass(frozen=True)
class Took:
    """Seconds of the work, and of what the tool needs around it."""

    seconds: float
    start_up: float = 0.0


def missing_package(name: str) -> str | None:
    """The package that a contestant needs and that is not installed."""
    package = name.partition("_")[0]
    return package if package in ("polars", "pandas") and find_spec(package) is None else None


def nightshelf_ingest(place: Place) -> Took:
    """Every file taken in anew: hashed, copied, parsed in a child process, pseudonyms, rejects, ledger."""
    from assets.logs.raw_zone import take_in_all
    from resources.home import Home, Shop

    shutil.rmtree(place.home, ignore_errors=True)
    home = Home(place.home)
    home.write_shop(Shop(timezone=ZONE, first_day=FIRST_DAY))
    for file, source in [
        *((file, "nightshelf_csv") for file in place.files()),
        (place.catalogue, "nightshelf_catalogue"),
    ]:
        dropped = home.drop / source / file.name
        dropped.parent.mkdir(parents=True, exist_ok=True)
        os.link(file, dropped)
        os.utime(dropped, (time.time() - 3600,) * 2)  # a file that has just come would be waited for
    began = time.monotonic()
    outcomes = take_in_all(home)
    took = Took(time.monotonic() - began)
    if bad := [outcome.file for outcome in outcomes if not outcome.rows_loaded]:
        raise RuntimeError(f"nothing was loaded of {', '.join(bad)}")
    return took


def nightshelf_marts(place: Place) -> Took:
    """The dbt project over all thirty days, on a warehouse that is not there yet."""
    place.warehouse.unlink(missing_ok=True)
    return _dbt(place, days()[0], days()[-1])


def night(place: Place) -> Took:
    """One night more: the last day's file is taken in, and the day's tables are made."""
    from assets.logs.raw_zone import outcomes, take_in_all
    from resources.home import Home

    home = Home(place.home)
    last = place.files()[-1].name
    (load,) = [one.load_id for one in outcomes(home) if one.file.endswith(last)]
    shutil.rmtree(home.loads / load)
    began = time.monotonic()
    if len(take_in_all(home)) != 1:
        raise RuntimeError(f"{last} was not taken in again")
    taken_in = time.monotonic() - began
    built = _dbt(place, days()[-1], days()[-1])
    return Took(taken_in + built.seconds, built.start_up)


def _dbt(place: Place, first: date, last: date) -> Took:
    from assets.warehouse.project import build_args, keep_parsed, run_dbt, take_parsed, window
    from resources.home import Home

    home = Home(place.home)
    target = place.aside / "dbt"
    shutil.rmtree(target, ignore_errors=True)
    take_parsed(home, target)
    began = time.monotonic()
    run_dbt(build_args(), home, target=target, more=window(home, first, last))
    whole = time.monotonic() - began
    keep_parsed(home, target)
    told = json.loads((target / "run_results.json").read_text(encoding="utf-8"))
    return Took(told["elapsed_time"], whole - told["elapsed_time"])


def duckdb_ingest(place: Place) -> Took:
    """DuckDB's COPY of the same files to Parquet, columns named and typed, without what it cannot read."""
    import duckdb

    out = _empty(place.aside)
    began = time.monotonic()
    with duckdb.connect() as db:
        for source, columns, target in (
            (place.csv / "*.csv", f"columns = {COLUMNS}, auto_detect = false", "events"),
            (place.catalogue, "auto_detect = true", "products"),
        ):
            db.execute(
                f"COPY (SELECT * FROM read_csv('{source}', header = true, {columns}, ignore_errors = true)) "
                f"TO '{out / target}.parquet'"
            )
    return Took(time.monotonic() - began)


def duckdb_marts(place: Place) -> Took:
    """`bare.sql` over the raw zone, into a file of its own."""
    import duckdb

    place.bare.unlink(missing_ok=True)
    script = BARE.read_text(encoding="utf-8").replace("$loads", str(place.loads))
    began = time.monotonic()
    with duckdb.connect(str(place.bare), config={"storage_compatibility_version": "v1.4.0"}) as db:  # as ours
        db.execute(f"SET TimeZone = '{ZONE}'")
        db.execute("SET preserve_insertion_order = false")
        db.execute(script)
    return Took(time.monotonic() - began)


def polars_ingest(place: Place) -> Took:
    """The same files to Parquet with polars, streamed; what it cannot read becomes null."""
    import polars as pl

    out = _empty(place.aside)
    texts = dict.fromkeys(COLUMNS, pl.String) | {"price": pl.Float64, "quantity": pl.Float64}
    began = time.monotonic()
    events = pl.scan_csv(place.csv / "*.csv", schema=texts, ignore_errors=True)
    when = [
        pl.col(name).str.to_datetime(time_zone="UTC", strict=False) for name in ("event_time", "received_at")
    ]
    events.with_columns(when).sink_parquet(out / "events.parquet")
    pl.scan_csv(place.catalogue).sink_parquet(out / "products.parquet")
    return Took(time.monotonic() - began)


def pandas_ingest(place: Place) -> Took:
    """The same files to Parquet with pandas, one after the other, with pyarrow's CSV reader."""
    import pandas as pd
    import pyarrow as pa

    out = _empty(place.aside)
    began = time.monotonic()
    for file in [*place.files(), place.catalogue]:
        frame = pd.read_csv(
            file, engine="pyarrow", dtype_backend="pyarrow", dtype={"quantity": "double[pyarrow]"}
        )
        # A column in which all can be read has its type already.
        for name in frame.columns[frame.dtypes == pd.ArrowDtype(pa.string())]:
            if COLUMNS.get(name) == "TIMESTAMP":
                frame[name] = pd.to_datetime(frame[name], errors="coerce", utc=True, format="ISO8601")
            elif COLUMNS.get(name) == "DOUBLE":
                frame[name] = pd.to_numeric(frame[name], errors="coerce")
        frame.to_parquet(out / f"{file.stem}.parquet")
    return Took(time.monotonic() - began)


def polars_marts(place: Place) -> Took:
    """`benchmarks.frames` over the raw zone, into Parquet files."""
    from benchmarks.frames import with_polars

    return Took(with_polars(place.loads, _empty(place.polars)))


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


CONTESTANTS: dict[str, Callable[[Place], Took]] = {
    found.__name__: found
    for found in (
        *(nightshelf_ingest, duckdb_ingest, polars_ingest, pandas_ingest),
        *(nightshelf_marts, duckdb_marts, polars_marts, night),
    )
}


def main() -> None:
    """Run the contestant that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.rivals", description="Run one of what benchmarks.warehouse compares."
    )
    parser.add_argument("name", choices=CONTESTANTS, metavar="NAME", help=f"of {', '.join(CONTESTANTS)}")
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="where benchmarks.warehouse put its files"
    )
    asked = parser.parse_args()
    took = CONTESTANTS[asked.name](Place(asked.folder))
    print(json.dumps({"seconds": took.seconds, "start_up": took.start_up}))


if __name__ == "__main__":
    main()
