"""One process at a time has the warehouse open; the others queue."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from resources.home import Home
from resources.leases import LeaseTimeoutError
from resources.warehouse import Warehouse, WarehouseError


@contextmanager
def another_process(code: str, home: Home) -> Iterator[subprocess.Popen[str]]:
    """Runs `code` with `home` and `Warehouse` in scope; yields once it has printed a line."""
    prelude = f"""
        import time, duckdb
        from pathlib import Path
        from resources.home import Home
        from resources.warehouse import Warehouse
        home = Home(Path({str(home.root)!r}))
    """
    process = subprocess.Popen(
        [sys.executable, "-uc", textwrap.dedent(prelude) + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with Warehouse(home).write() as connection:
        connection.execute("create table t (writer integer)")
    count = """
        print("ready")
        for _ in range(10):
            with Warehouse(home).write() as connection:
                connection.execute("insert into t values (1)")
    """
    with another_process(count, home) as one, another_process(count, home) as two:
        for process in (one, two):
            assert process.wait(timeout=60) == 0
    with Warehouse(home).read() as connection:
        assert connection.sql("select count(*) from t").fetchall() == [(20,)]


def test_whoever_waits_is_told_for_whom(tmp_path: Path) -> None:
    home = Home(tmp_path)
    told: list[str] = []
    hold = """
        with Warehouse(home).lease():
            print("ready")
            time.sleep(1)
    """
    with another_process(hold, home) as holder:
        with Warehouse(home, log=told.append).write():
            pass
        assert told == [f"waiting for warehouse.lock (held by process {holder.pid})"]


@pytest.mark.parametrize("mode", ["read", "write"])
def test_tools_that_take_no_lease_are_waited_for_too(tmp_path: Path, mode: str) -> None:
    home = Home(tmp_path)
    with Warehouse(home).write() as connection:
        connection.execute("create table t as select 42 as answer")
    hold = """
        with duckdb.connect(str(home.warehouse)):
            print("ready")
            time.sleep(1)
    """
    with another_process(hold, home), getattr(Warehouse(home), mode)() as connection:
        assert connection.sql("select answer from t").fetchall() == [(42,)]


def test_a_lease_begins_when_nobody_has_the_file_open(tmp_path: Path) -> None:
    """Such as a dbt whose parent was killed."""
    home = Home(tmp_path)
    with Warehouse(home).write():
        pass
    hold = """
        with duckdb.connect(str(home.warehouse)):
            print("ready")
            time.sleep(1)
    """
    with another_process(hold, home), Warehouse(home).lease():
        duckdb.connect(str(home.warehouse)).close()


def test_who_waits_in_vain_is_told_what_to_do(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with Warehouse(home).write():
        pass
    hold = """
        with duckdb.connect(str(home.warehouse)):
            print("ready")
            time.sleep(60)
    """
    with another_process(hold, home):
        began = time.monotonic()
        message = r"warehouse\.duckdb is open elsewhere.*Close it there"
        with pytest.raises(LeaseTimeoutError, match=message), Warehouse(home, timeout=0.3).read():
            pass
        assert time.monotonic() - began < 5


def test_a_damaged_warehouse_is_not_waited_for(tmp_path: Path) -> None:
    """Wherever it lies: DuckDB's message quotes the path."""
    home = Home(tmp_path / "clocks")
    home.root.mkdir()
    home.warehouse.write_text("no database " * 1000)
    with pytest.raises(duckdb.IOException, match="not a valid DuckDB"), Warehouse(home, timeout=60).read():
        pass


def test_a_killed_holder_leaves_no_lease_behind(tmp_path: Path) -> None:
    home = Home(tmp_path)
    hold = """
        with Warehouse(home).write() as connection:
            connection.execute("create table t as select 1 as a")
            print("ready")
            time.sleep(60)
    """
    with another_process(hold, home) as holder:
        holder.kill()
        with Warehouse(home, timeout=10).write() as connection:
            assert connection.sql("select a from t").fetchall() == [(1,)]


def test_reading_cannot_write(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with Warehouse(home).write():
        pass
    with Warehouse(home).read() as connection, pytest.raises(duckdb.Error, match="read-only"):
        connection.execute("create table t (a integer)")


def test_without_a_warehouse_the_next_step_is_named(tmp_path: Path) -> None:
    with pytest.raises(WarehouseError, match="materialise the group"), Warehouse(Home(tmp_path)).read():
        pass
    assert not Home(tmp_path).warehouse.exists()
