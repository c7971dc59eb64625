"""The dbt project beside the assets: its manifest, always that of the SQL as it is, and its documentation.

Imports no Dagster.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

from resources.aside import replacing, work_folder
from resources.crash import crash_point
from resources.home import Home
from resources.leases import lease_one_of
from resources.parent import LAUNCHER, PARENT
from resources.warehouse import Warehouse

DBT = Path(__file__).parents[2] / "dbt"
COMMAND = (*LAUNCHER, str(Path(sys.executable).parent / "dbt"))
"""The dbt of this Python, whatever PATH says. It ends with the process that starts it: left alone, it would
go on writing when the lease has gone to somebody else."""

PARSED = "partial_parse.msgpack"
"""What dbt has parsed, in its target folder. It says itself what has changed since."""

_COLUMNS = "columns.json"

_SOURCES = ("models", "macros", "seeds", "tests", "dbt_project.yml", "profiles.yml")


class DbtError(RuntimeError):
    """dbt failed; the message is what it said."""


def manifest(project: Path = DBT) -> Path:
    """The manifest of the project as it is, parsed again (about four seconds) where the sources have changed.

    Processes that ask at once wait for the first of them, and each gets a whole manifest: it is put in place
    by one rename.

    Raises:
        DbtError: the project cannot be parsed; the message names file and reason.
    """
    file, stamp = project / "target" / "manifest.json", project / "target" / "manifest.sources"
    wanted = project_version(project)
    if _is_current(file, stamp, wanted):
        return file
    with lease_one_of([project / "target" / "manifest.lock"]):
        if not _is_current(file, stamp, wanted):
            stamp.unlink(missing_ok=True)  # what it says is of the manifest that goes
            _parse(project, file)
            crash_point("manifest.in_place")
            stamp.write_text(wanted, encoding="utf-8")
    return file


def _is_current(file: Path, stamp: Path, wanted: str) -> bool:
    try:
        return file.exists() and stamp.read_text(encoding="utf-8") == wanted
    except FileNotFoundError:
        return False


def project_version(project: Path = DBT) -> str:
    """Hash over names and contents of its files: times of change lie after a checkout."""
    digest = hashlib.sha256(str(project.resolve()).encode())
    for file in _files(project):
        digest.update(f"\0{file.relative_to(project).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _files(project: Path) -> Iterator[Path]:
    for name in _SOURCES:
        path = project / name
        yield from sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def _parse(project: Path, manifest_file: Path) -> None:
    with work_folder(manifest_file.parent) as aside:
        run_dbt(["parse", "--quiet"], Home.current(), target=aside, project=project)
        crash_point("manifest.parsed")
        for made in (PARSED, "manifest.json"):
            (aside / made).replace(manifest_file.parent / made)


def build_args() -> list[str]:
    """Arguments of the dbt run that rebuilds a window of days.

    Unit tests run on made-up rows and say nothing about a night's data: `make test` runs them.
    """
    return ["build", "--exclude-resource-type", "unit_test"]


def window(home: Home, first: date, last: date) -> dict[str, str]:
    """What dbt must know by environment to rebuild the days from `first` to `last`, both included.

    Not by `--vars`, for which dbt would parse the whole project anew, two seconds each time.
    """
    return {
        "NIGHTSHELF_MIN_DAY": first.isoformat(),
        "NIGHTSHELF_MAX_DAY": last.isoformat(),
        "NIGHTSHELF_TIMEZONE": home.shop.timezone,
    }


def run_dbt(
    args: Sequence[str],
    home: Home,
    *,
    target: Path,
    project: Path = DBT,
    more: Mapping[str, str] | None = None,
) -> str:
    """Run dbt to its end.

    Args:
        args: of the command line, after `dbt`.
        home: the data it works on.
        target: folder for what dbt writes about the run.
        project: the dbt project.
        more: environment beside what dbt always needs: the `window`.

    Returns:
        What it printed.

    Raises:
        DbtError: it failed.
    """
    done = subprocess.run(
        [*COMMAND, *args],
        cwd=project,
        env=os.environ
        | environment(home)
        | {"DBT_TARGET_PATH": str(target), "DBT_LOG_PATH": str(target)}
        | dict(more or {}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise DbtError(f"dbt {' '.join(args)} failed:\n{done.stdout.strip()}\n{done.stderr.strip()}".strip())
    return done.stdout


def environment(home: Home) -> Mapping[str, str]:
    """What dbt must know of its surroundings. The home is absolute: dbt works in its own folder."""
    return {
        "NIGHTSHELF_HOME": str(home.root.resolve()),
        PARENT: str(os.getpid()),
        "DBT_PROFILES_DIR": str(DBT),
        "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
        "DBT_USE_COLORS": "false",
    }


def take_parsed(home: Home, target: Path) -> None:
    """Give dbt what it parsed last in this home. Without, it takes what lies in the project's own target
    folder, and parses all again where that is of another home: its warehouse has another path.
    """
    kept = home.dagster / PARSED
    if kept.exists():
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(kept, target / PARSED)


def keep_parsed(home: Home, target: Path) -> None:
    """Keep what dbt has parsed for this home's next run."""
    if (target / PARSED).exists():
        with replacing(home.dagster / PARSED) as aside:
            shutil.copy(target / PARSED, aside)


def known_columns(home: Home, made_of: str) -> dict[str, dict[str, str]]:
    """What was kept of the tables' columns, by dbt's name of the table; nothing where it was made of else."""
    try:
        kept = json.loads((home.dagster / _COLUMNS).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return kept["columns"] if kept["made_of"] == made_of else {}


def keep_columns(home: Home, made_of: str, columns: Mapping[str, Mapping[str, str]]) -> None:
    """Keep what is told of the tables' columns for the next run."""
    with replacing(home.dagster / _COLUMNS) as aside:
        aside.write_text(json.dumps({"made_of": made_of, "columns": columns}), encoding="utf-8")


def rows_by_day(home: Home, first: date, last: date) -> dict[tuple[str, str], dict[date, int]]:
    """Rows of every table with a day, by (schema, table) and day; days without rows are absent.

    Of views only the marts' are counted. The caller holds the lease.
    """
    import duckdb

    with duckdb.connect(str(home.warehouse), read_only=True) as connection:
        tables = connection.execute(
            """
            select table_schema, table_name
            from information_schema.columns
            inner join information_schema.tables using (table_schema, table_name)
            where column_name = 'day' and (table_type = 'BASE TABLE' or table_schema = 'marts')
            """
        ).fetchall()
        return {
            (schema, table): dict(
                connection.execute(
                    f'select day, count(*) from "{schema}"."{table}" where day between ? and ? group by day',
                    [first, last],
                ).fetchall()
            )
            for schema, table in tables
        }


def write_docs(home: Home, project: Path = DBT) -> Path:
    """The documentation of every table and column, with the lineage graph, as one HTML file without a server.

    Returns:
        `docs/index.html` of the home. Columns and types are those of its warehouse, which must exist.

    Raises:
        DbtError: dbt failed.
    """
    docs = home.root / "docs" / "index.html"
    with work_folder(docs.parent) as aside:
        with Warehouse(home).lease():
            run_dbt(["docs", "generate", "--static"], home, target=aside, project=project)
        (aside / "static_index.html").replace(docs)
    return docs
