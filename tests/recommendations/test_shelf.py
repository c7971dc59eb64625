"""Scores, audits, publication and undo."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from assets.model.recommender import Recommender
from assets.model.rules import Rules
from assets.model.snapshot import snapshot_of
from assets.recommendations.lineage import explain
from assets.recommendations.scoring import RECOMMENDATIONS, SIMILAR, Scores, audit_scores, write_scores
from assets.recommendations.shelf import (
    NoShelfError,
    ShelfAuditError,
    audit,
    audit_published,
    build,
    made_way,
    publish,
    published,
    recommendations_for,
    shelves,
    undo,
)
from resources.home import Home
from resources.identity import IdentityKey
from resources.model_store import ModelStore
from tests.model.worlds import Event, World
from tests.recommendations.homes import as_of, make_home, make_night, some_world

WORLD = some_world(days=9)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "home")


def day_of_published(home: Home) -> str:
    with published(home) as connection:
        return str(connection.execute("SELECT day FROM nights").fetchall()[0][0])


def test_scores_pass_their_audit(home):
    scores = make_night(home, as_of(WORLD, 4))
    assert audit_scores(home, scores.day) == []
    rows = scores.table(RECOMMENDATIONS)
    assert set(rows["model_version"].to_pylist()) == {scores.manifest["model_version"]}
    assert set(rows["day"].to_pylist()) == {WORLD.day(3)}
    assert rows.num_rows == scores.manifest["rows"][RECOMMENDATIONS]


def test_scoring_again_replaces_the_folder_by_the_same_bytes(home):
    first = make_night(home, as_of(WORLD, 4))
    again = make_night(home, as_of(WORLD, 4))
    assert first.manifest == again.manifest
    assert [p.name for p in home.scores.iterdir()] == [str(WORLD.day(3))]


def edited(column: str, value: object, row: int = 0) -> Callable[[pa.Table], pa.Table]:
    def edit(table: pa.Table) -> pa.Table:
        values = table[column].to_pylist()
        values[row] = value
        at = table.column_names.index(column)
        return table.set_column(
            at, table.schema.field(column), pa.array(values, table.schema.field(column).type)
        )

    return edit


@pytest.mark.parametrize(
    ("edit", "finding"),
    [
        (lambda t: t.slice(1), "ranks do not run"),
        (
            lambda t: t.filter(pc.not_equal(t["user_key"], "u03")),
            "1 shelf/shelves missing",
        ),
        (lambda t: t.filter(pc.not_equal(t["user_key"], "")), "1 shelf/shelves missing"),
        (lambda t: t.filter(pc.less(t["rank"], 5)), "16 shelf/shelves missing, or shorter"),
        (lambda t: pa.concat_tables([t, t.slice(0, 1)]), "twice on one shelf"),
        (edited("p_browse", 1.5), "probability outside"),
        (edited("p_click", -0.1), "probability outside"),
        (edited("p_purchase", 0.999), "probability outside"),
        (edited("score", float("nan")), "not finite"),
        (edited("score", 99.0, row=3), "above that of the rank before"),
        (edited("item_id", "i99"), "does not know"),
        (edited("item_id", None), "without a key"),
        (edited("reason", None), "without a key"),
        (edited("day", WORLD.day(1)), "dated otherwise"),
    ],
)
def test_the_audit_finds_what_is_wrong(home, edit, finding):
    scores = make_night(home, as_of(WORLD, 4))
    pq.write_table(edit(scores.table(RECOMMENDATIONS)), scores.path / RECOMMENDATIONS)
    found = audit_scores(home, scores.day)
    assert any(finding in sentence for sentence in found), found
    assert any("not the file that the manifest names" in sentence for sentence in found)


def test_the_audit_finds_an_item_that_ran_out(home):
    world = as_of(WORLD, 4)
    scores = make_night(home, world)
    favorite = scores.table(RECOMMENDATIONS)["item_id"][0].as_py()
    other = make_home(home.root.parent / "other")
    make_night(other, replace(world, out_of_stock=frozenset({favorite})))
    for file in (RECOMMENDATIONS, SIMILAR):
        pq.write_table(scores.table(file), other.scores / str(scores.day) / file)
    assert any("out of stock" in sentence for sentence in audit_scores(other, scores.day))


class Colourful(World):
    """A shop of two brands and two categories, a month old."""

    def _items(self) -> pa.Table:
        table = super()._items()
        for name, values in (("brand", ["Acme", "Bolt"]), ("category", ["Food", "Wardrobes"])):
            column = pa.array([values[int(item[1:]) % 2] for item in self.items], pa.string())
            table = table.set_column(table.column_names.index(name), name, column)
        return table


def colourful() -> Colourful:
    """Three items are new. Of both categories, u03 bought something two weeks ago and still looks at it."""
    plain = replace(some_world(days=26), first_seen={f"i{n:02d}": 24 for n in (3, 7, 11)})
    fond = [Event(day, "u03", item) for day in range(13, 26) for item in ("i04", "i05")]
    bought = [replace(event, day=12, behavior="purchase") for event in fond[:2]]
    late = [e for e in plain.events if e.item not in plain.first_seen]
    return Colourful(**{**vars(plain), "events": [*late, *fond, *bought]})


def arranged(home: Home, rules: Rules) -> Scores:
    """A night under `rules`."""
    world = colourful()
    scores = make_night(home, world)
    version, snapshot = scores.manifest["model_version"], snapshot_of(home, scores.day)
    made = Recommender.load(ModelStore(home).path(version), snapshot, world.vectors, world.items)
    ruled = replace(made, fitted=replace(made.fitted, params={**made.params, "rules": rules.to_dict()}))
    return write_scores(home, scores.day, ruled, model_version=version, snapshot_id=snapshot.id)


def rewrite(scores: Scores, table: pa.Table, rules: Rules) -> None:
    pq.write_table(table, scores.path / RECOMMENDATIONS)
    digest = hashlib.sha256((scores.path / RECOMMENDATIONS).read_bytes()).hexdigest()
    sha256 = {**scores.manifest["sha256"], RECOMMENDATIONS: digest}
    manifest = {**scores.manifest, "sha256": sha256, "rules": rules.to_dict()}
    (scores.path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("rules", "visible"),
    [
        (Rules(most_per_brand=1), True),
        (Rules(diversity=0.5), True),
        (Rules(new_items=0.4), False),  # they are the last anyway
        (Rules(most_per_brand=1, diversity=0.3, new_items=0.4), True),
    ],
    ids=["brands", "diversity", "new items", "all"],
)
def test_the_audit_passes_what_a_rule_has_moved_and_finds_it_without_the_rule(home, rules, visible):
    scores = arranged(home, rules)
    assert audit_scores(home, scores.day) == []
    rewrite(scores, scores.table(RECOMMENDATIONS), Rules())
    assert visible == any(
        "though no rule put them there" in found for found in audit_scores(home, scores.day)
    )


def test_the_audit_finds_a_brand_above_its_limit(home):
    scores = arranged(home, Rules())
    rewrite(scores, scores.table(RECOMMENDATIONS), Rules(most_per_brand=1))
    assert any("within the limit of their brand" in found for found in audit_scores(home, scores.day))


def test_the_audit_goes_by_the_days_of_each_category(home):
    """Shelves made with seven days for all: too short a time for wardrobes, and too long for food."""
    scores = arranged(home, Rules())
    table = scores.table(RECOMMENDATIONS)
    rewrite(scores, table, Rules(held={"Food": 0}))
    assert audit_scores(home, scores.day) == []
    rewrite(scores, table, Rules(held={"Wardrobes": 30}))
    assert any("bought too lately" in found for found in audit_scores(home, scores.day))
    rewrite(scores, table, Rules(bought_again={"*": 30}))
    assert any("bought too lately" in found for found in audit_scores(home, scores.day))


def test_a_night_without_scores_says_what_to_do(home):
    with pytest.raises(FileNotFoundError, match="materialize scored_recommendations"):
        publish(home, WORLD.day(3))


def test_what_is_published_is_what_was_scored(home):
    scores = make_night(home, as_of(WORLD, 4))
    publication = publish(home, scores.day)
    assert publication.served and audit_published(home, scores.day) == []
    with published(home) as connection:
        rows = connection.execute("SELECT * FROM recommendations ORDER BY user_key, rank").to_arrow_table()
        similar = connection.execute("SELECT count(*) FROM similar_items").fetchall()
    wanted = scores.table(RECOMMENDATIONS).sort_by([("user_key", "ascending"), ("rank", "ascending")])
    for name in wanted.column_names:
        assert rows[name].to_pylist() == wanted[name].to_pylist(), name
    assert rows["title"].to_pylist() == [f"Thing {i}" for i in rows["item_id"].to_pylist()]
    assert rows["price"].to_pylist() == [WORLD.prices[i] for i in rows["item_id"].to_pylist()]
    assert similar == [(scores.manifest["rows"][SIMILAR],)]
    assert not list(home.shelves.glob(".*")) and not list(home.root.glob(".published*"))


def test_rejects_are_told_by_source_and_reason(home):
    for load, reasons in (("a" * 16, ["bad_time", "bad_time"]), ("b" * 16, ["bad_time", "missing_value"])):
        folder = home.loads / load
        folder.mkdir(parents=True)
        table = pa.table(
            {"source": ["web"] * 2, "reason": reasons, "field": pa.array([None, "x"], pa.string())}
        )
        pq.write_table(table, folder / "rejects.parquet")
    publish(home, make_night(home, as_of(WORLD, 4)).day)
    with published(home) as connection:
        found = connection.execute("SELECT reason, sum(rows) FROM rejects GROUP BY 1 ORDER BY 1").fetchall()
    assert found == [("bad_time", 3), ("missing_value", 1)]


def test_a_broken_shelf_is_not_published(home):
    publish(home, make_night(home, as_of(WORLD, 3)).day)
    scores = make_night(home, as_of(WORLD, 4))
    pq.write_table(scores.table(RECOMMENDATIONS).slice(0, 7), scores.path / RECOMMENDATIONS)
    with pytest.raises(ShelfAuditError, match=r"not the file that the manifest names.*stays"):
        publish(home, scores.day)
    assert day_of_published(home) == str(WORLD.day(2))
    assert [shelf.day for shelf in shelves(home)] == [WORLD.day(2)]
    assert not list(home.shelves.glob(".*"))


def test_a_built_file_that_lost_rows_is_found(home, tmp_path):
    scores = make_night(home, as_of(WORLD, 4))
    build(home, scores, tmp_path / "shelf.duckdb")
    assert audit(tmp_path / "shelf.duckdb", scores) == []
    with duckdb.connect(str(tmp_path / "shelf.duckdb")) as connection:
        connection.execute("DELETE FROM recommendations WHERE user_key = 'u03'")
    assert audit(tmp_path / "shelf.duckdb", scores) == ["recommendations has 75 rows where 80 were scored"]
    (tmp_path / "shelf.duckdb").write_bytes(b"half a file")
    assert "does not open" in audit(tmp_path / "shelf.duckdb", scores)[0]


def test_a_shopper_who_has_bought_the_whole_shop_has_no_shelf(home):
    world = as_of(WORLD, 4)
    everything = [Event(3, "u03", item, "purchase") for item in world.items]
    scores = make_night(home, replace(world, events=[*world.events, *everything]))
    assert "u03" not in scores.table(RECOMMENDATIONS)["user_key"].to_pylist()
    assert audit_scores(home, scores.day) == []


def test_undo_goes_back_a_shelf_at_a_time(home):
    for days in (3, 4, 5):
        publish(home, make_night(home, as_of(WORLD, days)).day)
    assert day_of_published(home) == str(WORLD.day(4))
    for number in (3, 2):
        assert undo(home).day == WORLD.day(number)
        assert day_of_published(home) == str(WORLD.day(number))
        assert [s.day for s in shelves(home) if s.current] == [WORLD.day(number)]
    with pytest.raises(NoShelfError, match="oldest shelf kept"):
        undo(home)
    publish(home, WORLD.day(4))
    assert day_of_published(home) == str(WORLD.day(4))


def test_undo_of_a_night_published_twice_gives_its_first_version(home):
    world = as_of(WORLD, 4)
    first = publish(home, make_night(home, world).day)
    late = replace(world, events=[*world.events, Event(3, "u00", "i03", "purchase")])
    second = publish(home, make_night(home, late).day)
    assert first.shelf != second.shelf
    assert undo(home).path == first.shelf


def test_a_past_night_is_kept_but_does_not_replace_a_newer_one(home):
    publish(home, make_night(home, as_of(WORLD, 5)).day)
    past = publish(home, make_night(home, as_of(WORLD, 4)).day)
    assert not past.served and past.shelf.exists()
    assert day_of_published(home) == str(WORLD.day(4))
    assert audit_published(home, WORLD.day(3)) == []


def test_only_the_last_shelves_are_kept(home):
    for days in (3, 4, 5, 6, 7):
        publication = publish(home, make_night(home, as_of(WORLD, days)).day)
    assert [shelf.day for shelf in shelves(home)] == [WORLD.day(n) for n in (6, 5, 4)]
    assert publication.removed == [p for p in publication.removed if p.startswith(str(WORLD.day(3)))]
    undo(home)
    undo(home)
    publish(home, WORLD.day(6))
    assert day_of_published(home) == str(WORLD.day(6))


def test_a_past_nights_shelf_is_kept_until_the_next_is_published(home):
    for days in (5, 6, 7):
        publish(home, make_night(home, as_of(WORLD, days)).day)
    past = publish(home, make_night(home, as_of(WORLD, 3)).day)
    assert past.shelf.exists() and past.removed == []
    assert audit_published(home, past.day) == [] and not made_way(home, past.day)

    publish(home, make_night(home, as_of(WORLD, 8)).day)
    assert not past.shelf.exists()
    assert audit_published(home, past.day) == [] and made_way(home, past.day)
    # One that is missing though it should be kept is still a finding.
    newest = next(shelf for shelf in shelves(home) if shelf.day == WORLD.day(6))
    newest.path.unlink()
    assert audit_published(home, newest.day) == [
        f"{newest.path.name} is not there, though the night has scores"
    ]


def test_a_shelf_without_any_recommendation_does_not_replace_a_good_one(home):
    """The catalogue of the day says that everything is out of stock."""
    publish(home, make_night(home, as_of(WORLD, 3)).day)
    scores = make_night(home, replace(as_of(WORLD, 4), out_of_stock=frozenset(WORLD.items)))
    assert scores.manifest["rows"][RECOMMENDATIONS] == 0
    (finding,) = audit_scores(home, scores.day)
    assert finding.startswith("there is not a single recommendation: none of 25 items is in stock.")
    assert f"nightshelf night {scores.day}" in finding
    with pytest.raises(ShelfAuditError, match="not a single recommendation"):
        publish(home, scores.day)
    assert day_of_published(home) == str(WORLD.day(2))


def test_what_is_published_may_not_be_written(home):
    """An open in DuckDB's default mode would lock every reader out."""
    publication = publish(home, make_night(home, as_of(WORLD, 3)).day)
    for file in (publication.shelf, home.published):
        assert stat.S_IMODE(file.stat().st_mode) == 0o444
    undo_to = publish(home, make_night(home, as_of(WORLD, 4)).day)
    assert undo_to.served and undo(home).path == publication.shelf
    if os.getuid():  # nothing is forbidden to root
        with pytest.raises(duckdb.IOException, match="Permission denied"):
            duckdb.connect(str(home.published))


def test_the_shelf_of_a_shopper_by_pseudonym_and_by_raw_id(home):
    key = IdentityKey.load(home).pseudonym("anna@example.com")
    world = as_of(WORLD, 4)
    world = replace(world, events=[replace(e, user=key) if e.user == "u03" else e for e in world.events])
    publish(home, make_night(home, world).day)
    by_key, by_id = recommendations_for(home, key), recommendations_for(home, "anna@example.com")
    assert by_key.equals(by_id) and set(by_key["user_key"].to_pylist()) == {key}
    assert by_key["rank"].to_pylist() == [1, 2, 3, 4, 5]
    stranger = recommendations_for(home, "nobody@example.com")
    assert set(stranger["user_key"].to_pylist()) == {""}
    assert set(stranger["reason"].to_pylist()) == {"Popular this week"}
    assert b"knows no shopper" in stranger.schema.metadata[b"note"]


def test_reading_before_anything_is_published_says_what_to_do(home):
    for read in (lambda: recommendations_for(home, "k1:x"), lambda: undo(home)):
        with pytest.raises(NoShelfError):
            read()


def test_where_there_is_no_shelf_reading_leaves_nothing_behind(tmp_path):
    place = Home(tmp_path / "home")
    reads = (
        lambda: recommendations_for(place, "1"),
        lambda: recommendations_for(place, "k1:x"),
        lambda: explain(place, "1", "2"),
        lambda: undo(place),
    )
    for read in reads:
        with pytest.raises(NoShelfError, match=r"home is no shop yet\. Run: nightshelf demo"):
            read()
    assert not place.root.exists()
    make_home(place.root)
    for read in reads:
        with pytest.raises(NoShelfError, match=r"no shelf yet: publish a night first \(`nightshelf night`\)"):
            read()
    assert list(place.root.iterdir()) == [place.shop_file]


def test_reading_a_shelf_loads_no_pandas(home):
    """It takes as long as all the rest."""
    publish(home, make_night(home, as_of(WORLD, 3)).day)
    code = (
        "import sys; from pathlib import Path; from resources.home import Home; "
        "from assets.recommendations.shelf import recommendations_for; "
        "assert recommendations_for(Home(Path(sys.argv[1])), 'o\\'brien').num_rows; "
        "assert not {'dagster', 'pandas', 'torch'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(home.root)], check=True)
