"""From a published row back to the publisher's line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from assets.model.snapshot import SnapshotError
from assets.recommendations.lineage import explain
from assets.recommendations.shelf import NoShelfError, publish, recommendations_for
from resources.home import Home
from resources.identity import IdentityKey
from tests.model.worlds import World
from tests.recommendations.homes import as_of, make_home, make_night, some_world

KEY = "k1:00000000000000000000000000000003"


@pytest.fixture
def night(tmp_path: Path) -> tuple[Home, World]:
    """A published night whose loads are on record."""
    home = make_home(tmp_path)
    IdentityKey.load(home)  # made before the first load, as it is in a shop
    world = as_of(some_world(), 5)
    world = replace(world, events=[replace(e, user=KEY) if e.user == "u03" else e for e in world.events])
    for number in range(5):
        folder = home.loads / f"load{number}"
        folder.mkdir(parents=True)
        outcome = {"load_id": f"load{number}", "source": "web", "file": f"web/web-{world.day(number)}.csv"}
        (folder / "outcome.json").write_text(json.dumps(outcome))
    publish(home, make_night(home, world).day)
    return home, world


def test_every_row_of_a_shelf_leads_back_to_lines_of_files(night):
    home, world = night
    lines = {n + 2: e for n, e in enumerate(world.events)}
    explained = 0
    for row in recommendations_for(home, KEY).to_pylist():
        found = explain(home, KEY, row["item_id"])
        assert (found.rank, found.reason, found.day) == (row["rank"], row["reason"], world.cut_off)
        assert found.gate == ["Better than the best baseline."] and found.promoted_on == world.cut_off
        assert found.snapshot_cut_off == world.cut_off and found.snapshot_id == row["snapshot_id"]
        for event in found.evidence:
            told = lines[event.line]
            assert (told.user, told.item, told.behavior) == (KEY, row["reason_item_id"], event.behavior)
            assert event.file == f"web/web-{world.day(told.day)}.csv" and event.source == "web"
            explained += 1
        wanted = sum(e.user == KEY and e.item == row["reason_item_id"] for e in world.events)
        assert len(found.evidence) == wanted
        visits = {(e.user, e.day) for e in world.events if e.item == row["item_id"]}
        assert found.shoppers_this_week == len(visits)
    assert explained


def test_the_sentences_name_row_model_snapshot_and_line(night):
    home, _ = night
    row = next(r for r in recommendations_for(home, KEY).to_pylist() if r["reason_item_id"])
    text = "\n".join(explain(home, KEY, row["item_id"]).lines())
    for part in (
        row["title"],
        row["reason"],
        row["model_version"],
        row["snapshot_id"],
        "web/web-",
        ", line ",
    ):
        assert part in text


def test_a_stranger_is_told_of_the_shelf_of_everyone(night):
    home, _ = night
    row = recommendations_for(home, "stranger").to_pylist()[0]
    found = explain(home, "stranger", row["item_id"])
    assert (found.user_key, found.reason, found.evidence) == ("", "Popular this week", [])
    assert "a shopper nobody knows yet" in found.lines()[0]


def test_an_item_that_is_not_on_the_shelf_names_those_that_are(night):
    home, _ = night
    there = recommendations_for(home, KEY)["item_id"].to_pylist()
    with pytest.raises(NoShelfError, match=f"i99 is not on the published shelf.*{there[0]}"):
        explain(home, KEY, "i99")


def test_a_load_that_is_gone_is_told_by_its_id(night):
    home, _ = night
    row = next(r for r in recommendations_for(home, KEY).to_pylist() if r["reason_item_id"])
    for outcome in home.loads.glob("*/outcome.json"):
        outcome.unlink()
    found = explain(home, KEY, row["item_id"])
    assert found.evidence and all(e.file is None for e in found.evidence)
    assert "(load load" in "\n".join(found.lines())


def test_a_changed_snapshot_explains_nothing(night):
    home, _ = night
    row = recommendations_for(home, KEY).to_pylist()[0]
    (home.snapshots / row["snapshot_id"] / "events.parquet").write_bytes(b"")
    with pytest.raises(SnapshotError, match=r"events\.parquet"):
        explain(home, KEY, row["item_id"])
