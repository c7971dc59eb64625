"""From raw logs to a published shelf by the command line, and the same by another way."""

from __future__ import annotations

import re
import shutil
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from assets.recommendations.scoring import RECOMMENDATIONS, SIMILAR, Scores
from resources.home import Home
from resources.model_store import ModelStore
from tests.orchestration.shops import FIRST, LAST, nightshelf

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def night(untouched_shop: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The shop as its nights make it: the tables of the days before, then the last day as a night."""
    home = Home(tmp_path_factory.mktemp("night") / "home")
    shutil.copytree(untouched_shop.root, home.root)
    nightshelf(home, "backfill", str(FIRST), str(LAST - timedelta(days=1)), "--tables")
    nightshelf(home, "night", str(LAST))
    return home


@pytest.mark.soak
def test_a_backfill_gives_what_the_night_gives(shop: Home, night: Home) -> None:
    backfilled, nightly = Scores.of(shop, LAST), Scores.of(night, LAST)
    assert backfilled.table(RECOMMENDATIONS).num_rows > 1000
    for file in (RECOMMENDATIONS, SIMILAR):
        assert backfilled.table(file).equals(nightly.table(file)), file
    assert ModelStore(shop).champion(LAST) == ModelStore(night).champion(LAST)
    assert rows(shop.published) == rows(night.published)


def rows(file: Path) -> list[tuple]:
    with duckdb.connect(str(file), read_only=True) as shelf:
        return shelf.execute("SELECT * FROM recommendations ORDER BY ALL").fetchall()


def test_a_night_that_is_run_again_changes_nothing(shop: Home) -> None:
    before = rows(shop.published)
    version = Scores.of(shop, LAST).manifest
    nightshelf(shop, "night", str(LAST))
    assert rows(shop.published) == before
    assert Scores.of(shop, LAST).manifest == version


def test_a_recommendation_is_followed_back_to_its_file_and_line(shop: Home) -> None:
    with duckdb.connect(str(shop.published), read_only=True) as shelf:
        user, item = shelf.execute(
            "SELECT user_key, item_id FROM recommendations "
            "WHERE reason LIKE 'You came back%' ORDER BY ALL LIMIT 1"
        ).fetchone()
    assert item in " ".join(nightshelf(shop, "why", user, item).split())
    told = nightshelf(shop, "why", user, item)
    (file, line) = re.search(r"(\S+\.(?:csv|jsonl))\D+(\d+)", told).groups()
    text = (shop.drop / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
    assert item in text
    assert "title" in nightshelf(shop, "recommend", user)


def test_an_unknown_shopper_is_told_apart(shop: Home) -> None:
    assert "knows no shopper 'nobody'" in nightshelf(shop, "recommend", "nobody")


def test_status_and_docs(shop: Home) -> None:
    told = nightshelf(shop, "status")
    assert f"of the night of {LAST}" in told and re.search(r"nights missing\s+none", told)
    nightshelf(shop, "docs")
    page = (shop.root / "docs" / "index.html").read_text(encoding="utf-8")
    assert "lbl_behaviors" in page
