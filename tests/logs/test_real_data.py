"""The publishers' own files, where they are at hand."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assets.logs import raw_zone
from resources.home import Home

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason="the real data sets are not part of the project (../shared/data)"
)


def taken_in(home: Home, source: str, file: Path) -> raw_zone.Outcome:
    target = home.drop / source / file.name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)
    os.utime(target, (0, 0))  # not touched for long, so whole
    (outcome,) = raw_zone.take_in_all(home)
    return outcome


def test_rees46(home: Home, rows: Callable[..., list[dict[str, Any]]]) -> None:
    outcome = taken_in(home, "rees46", DATA / "rees46-fragment" / "2019-Oct.csv.gz")
    # The fragment's last line is cut off in the middle.
    assert (outcome.lines, outcome.rows_loaded, outcome.rows_refused) == (17_436, 17_434, 1)
    assert [(row["line"], row["reason"]) for row in rows("rejects")] == [(17_436, "column_count")]
    found = rows("events")
    # The data's README counts 4,505 users: one of them stands on that last line only.
    assert len({row["user_key"] for row in found}) == 4_504
    assert sum(row["behavior"] == "purchase" for row in found) == 214


def test_movielens_100k(home: Home, rows: Callable[..., list[dict[str, Any]]]) -> None:
    ratings = taken_in(home, "movielens_100k", DATA / "ml-100k" / "u.data")
    films = taken_in(home, "movielens_100k", DATA / "ml-100k" / "u.item")
    assert (ratings.status, ratings.rows_loaded) == (films.status, 100_000) == ("loaded", 100_000)
    assert films.rows_loaded == 1_682
    products = rows("products")
    assert {row["item_id"] for row in products} >= {row["item_id"] for row in rows("events")}
    assert any(row["title"] == "Misérables, Les (1995)" for row in products)
