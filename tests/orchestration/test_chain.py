"""From raw logs to a published shelf by the command line, and the same by another way."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import duckdb
import pytest

from assets.model.snapshot import snapshot_of
from assets.recommendations.scoring import RECOMMENDATIONS, SIMILAR, Scores
from orchestration.nights import days_between
from resources.home import Home
from resources.model_store import ModelStore
from tests.orchestration.shops import FIRST, LAST, nightshelf

pytestmark = pytest.mark.slow


@pytest.mark.soak
def test_a_backfill_gives_what_the_night_gives(shop: Home, untouched_shop: Home, tmp_path: Path) -> None:
    backfilled = Home(tmp_path / "home")
    shutil.copytree(untouched_shop.root, backfilled.root)
    nightshelf(backfilled, "backfill", str(FIRST), str(LAST))
    assert Scores.of(backfilled, LAST).table(RECOMMENDATIONS).num_rows > 1000
    for file in (RECOMMENDATIONS, SIMILAR):
        assert Scores.of(backfilled, LAST).table(file).equals(Scores.of(shop, LAST).table(file)), file
    assert ModelStore(backfilled).champion(LAST) == ModelStore(shop).champion(LAST)
    assert rows(backfilled.published) == rows(shop.published)


def test_a_first_night_learns_from_all_days_before_it(shop: Home) -> None:
    """Files of six days were dropped, and `nightshelf night` was all that was said."""
    with duckdb.connect(str(shop.warehouse), read_only=True) as tables:
        (days,) = tables.execute("SELECT list(DISTINCT day ORDER BY day) FROM marts.fct_events").fetchone()
    assert days == days_between(FIRST, LAST)
    assert snapshot_of(shop, LAST).manifest["first_day"] == str(FIRST)


def rows(file: Path) -> list[tuple]:
    with duckdb.connect(str(file), read_only=True) as shelf:
        return shelf.execute("SELECT * FROM recommendations ORDER BY ALL").fetchall()


@pytest.mark.parametrize(
    "words",
    [
        ("night", str(LAST)),
        pytest.param(("backfill", str(LAST), str(LAST)), marks=pytest.mark.soak),
    ],
)
def test_a_night_that_is_made_again_changes_nothing(shop: Home, words: tuple[str, ...]) -> None:
    before = rows(shop.published)
    version = Scores.of(shop, LAST).manifest
    told = nightshelf(shop, *words)
    served_by = f"The night's model passed the gate and serves: {ModelStore(shop).champion(LAST).version}"
    assert (served_by in told) == (words[0] == "night")
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


def test_status(shop: Home) -> None:
    told = nightshelf(shop, "status")
    assert f"of the night of {LAST}" in told and re.search(r"nights missing\s+none", told)
    assert re.search(r"tables missing\s+none", told)


def test_the_documentation_is_one_page_that_needs_no_server(shop: Home) -> None:
    nightshelf(shop, "docs")
    (page,) = (shop.root / "docs").iterdir()
    assert page.name == "index.html"
    text = page.read_text(encoding="utf-8")
    assert "One row per kept event" in text and "lbl_behaviors" in text
