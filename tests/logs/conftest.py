"""Ways to drop files into it and to look at what came of them."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from assets.logs import raw_zone
from resources.home import Home

Drop = Callable[..., Path]
Rows = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def drop(home: Home) -> Drop:
    """drop(source, name, content) puts a file that is old enough to be whole into the drop folder."""

    def put(source: str, name: str, content: str | bytes) -> Path:
        file = home.drop / source / name
        file.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        file.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        os.utime(file, (1_700_000_000, 1_700_000_000))
        return file

    return put


@pytest.fixture
def rows(home: Home) -> Rows:
    """rows("events" | "products" | "rejects", load_id=…), by load and line, as the warehouse sees them."""

    def read(kind: str, load_id: str | None = None) -> list[dict[str, Any]]:
        raw_zone.prepare(home)
        glob = {"events": "*/events/*/*.parquet"}.get(kind, f"*/{kind}.parquet")
        query = f"SELECT * FROM read_parquet('{home.loads}/{glob}', hive_partitioning = {kind == 'events'})"
        with duckdb.connect() as db:
            result = db.execute(
                f"{query} WHERE load_id = coalesce($1, load_id) ORDER BY load_id, line", [load_id]
            )
            names = [column[0] for column in result.description]
            return [dict(zip(names, row, strict=True)) for row in result.fetchall()]

    return read
