"""From a published row back to the publisher's line."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assets.logs.raw_zone import take_in_all
from assets.model.snapshot import SnapshotError
from assets.recommendations.lineage import Explanation, explain
from assets.recommendations.shelf import EVERYONE, NoShelfError, publish, published, recommendations_for
from orchestration.cli import main
from resources.home import Home
from resources.identity import IdentityKey
from resources.model_store import Rollback
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
    text = "\n".join(found.lines())
    assert "(load load" in text and ", which has been removed from the raw zone since)" in text


def test_a_changed_snapshot_explains_nothing(night):
    home, _ = night
    row = recommendations_for(home, KEY).to_pylist()[0]
    (home.snapshots / row["snapshot_id"] / "events.parquet").write_bytes(b"")
    with pytest.raises(SnapshotError, match=r"events\.parquet"):
        explain(home, KEY, row["item_id"])


# From files as publishers send them ------------------------------------------------------------------------

FORMATS = (
    "nightshelf_csv/{day}.csv",
    "nightshelf_csv/{day}.csv.gz",
    "nightshelf_jsonl/{day}.jsonl",
    "nightshelf_jsonl/{day}.jsonl.gz",
    "nightshelf_parquet/{day}.parquet",
)
"""Of the file of each day."""

Row = dict[str, str]


@dataclass
class ReadWorld(World):
    """A world whose events were read from files: where from is what the raw zone says, not what we think."""

    origins: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Event id → (load, line)."""

    def _events(self) -> pa.Table:
        table = super()._events()
        loads, lines = zip(*(self.origins[name] for name in table["event_id"].to_pylist()), strict=True)
        table = table.set_column(table.column_names.index("load_id"), "load_id", pa.array(loads))
        return table.set_column(table.column_names.index("line"), "line", pa.array(lines, pa.int64()))


def row_of(world: World, number: int) -> Row:
    """An event as a publisher would write it."""
    e = world.events[number]
    at = datetime.combine(world.day(e.day), datetime.min.time()).replace(hour=e.minute // 60)
    at = at.replace(minute=e.minute % 60)
    return {
        "event_id": f"e{number}",
        "event_time": f"{at.isoformat()}Z",
        "user_id": e.user,
        "item_id": e.item,
        "behavior": e.behavior,
    }


def written(file: Path, rows: list[Row]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    kind = file.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    else:
        lines = [json.dumps(row) for row in rows]
        if kind == "csv":
            lines = [",".join(rows[0]), "", *(",".join(row.values()) for row in rows)]  # a blank line, too
        text = ("\n".join(lines) + "\n").encode()
        file.write_bytes(gzip.compress(text) if file.name.endswith(".gz") else text)
    os.utime(file, (0, 0))  # not touched for long, so whole


@cache
def found_at(file: Path, line: int) -> Row:
    """What stands on a line of a publisher's file, or in a row of a Parquet file, counted from 1."""
    raw = gzip.decompress(file.read_bytes()) if file.name.endswith(".gz") else file.read_bytes()
    kind = file.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        return dict(pq.read_table(io.BytesIO(raw)).to_pylist()[line - 1])
    lines = raw.decode().split("\n")
    if kind == "csv":
        return dict(zip(lines[0].split(","), lines[line - 1].split(","), strict=True))
    return dict(json.loads(lines[line - 1]))


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Home, World]]:
    """A night published from files of five formats; the world knows the shoppers by their own ids."""
    home = make_home(tmp_path_factory.mktemp("shop") / "home")
    world = as_of(some_world(), 5)
    key = IdentityKey.load(home)
    for day, name in enumerate(FORMATS):
        rows = [row_of(world, n) for n, e in enumerate(world.events) if e.day == day]
        written(home.drop / name.format(day=world.day(day)), rows)
    outcomes = take_in_all(home)
    assert sum(outcome.rows_loaded for outcome in outcomes) == len(world.events)
    with duckdb.connect() as db:
        query = f"SELECT event_id, load_id, line FROM read_parquet('{home.loads}/*/events/*/*.parquet')"
        origins = {event_id: (load, line) for event_id, load, line in db.execute(query).fetchall()}
    known = [replace(e, user=key.pseudonym(e.user)) for e in world.events]
    read = ReadWorld(**{**vars(world), "events": known}, origins=origins)
    publish(home, make_night(home, read).day)
    yield home, world


@pytest.fixture
def own_shop(shop: tuple[Home, World], tmp_path: Path) -> Home:
    """A copy, to remove things from."""
    copy = Home(tmp_path / "home")
    shutil.copytree(shop[0].root, copy.root)
    return copy


def shelf(home: Home) -> list[tuple[str, str, str]]:
    """All published rows: (shopper, item, the reason's item or "")."""
    with published(home) as connection:
        query = "SELECT user_key, item_id, coalesce(reason_item_id, '') FROM recommendations"
        return list(connection.execute(query).fetchall())


def test_every_published_row_leads_to_lines_on_which_the_events_stand(shop: tuple[Home, World]) -> None:
    home, world = shop
    names = {IdentityKey.load(home).pseudonym(e.user): e.user for e in world.events}
    met = {(e.user, e.item) for e in world.events}
    seen, formats = set(), set()
    for shopper, item, because in shelf(home):
        found = explain(home, shopper, item)
        user = names.get(shopper, "")
        assert bool(found.evidence) == bool(because)
        # Whatever the reason, it leads to somebody's events where anybody has met the item.
        assert bool(found.others) == any(i == item and u != user for u, i in met)
        assert found.gone == []
        for event in (*found.evidence, *found.others):
            stands = found_at(home.drop / str(event.file), event.line)
            assert stands["event_time"] == f"{event.event_at.isoformat()}Z" and event.since == ""
            assert stands["behavior"] == event.behavior and stands["item_id"] == event.item_id
            formats.add(str(event.file).partition(".")[2])
            seen.add((shopper == EVERYONE, bool(because)))
        assert all(found_at(home.drop / str(e.file), e.line)["user_id"] == user for e in found.evidence)
        assert all(e.item_id == because for e in found.evidence)
        others = {found_at(home.drop / str(e.file), e.line)["user_id"] for e in found.others}
        assert user not in others and all(e.item_id == item for e in found.others)
        connected = {u for u, i in met if i == item and u != user and (u, because or item) in met}
        assert others <= (connected or others)
        assert len(found.lines()) == len(set(found.lines()))
    assert seen >= {(True, False), (False, True)}
    assert formats == {name.partition(".")[2] for name in FORMATS}


Removal = Callable[[Home, Explanation], None]


def the_load(home: Home, found: Explanation) -> None:
    shutil.rmtree(home.loads / found.evidence[0].load_id)


def the_file(home: Home, found: Explanation) -> None:
    (home.drop / str(found.evidence[0].file)).unlink()


def a_byte_of_the_file(home: Home, found: Explanation) -> None:
    file = home.drop / str(found.evidence[0].file)
    raw = file.read_bytes()
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))


def the_snapshot(home: Home, found: Explanation) -> None:
    shutil.rmtree(home.snapshots / found.snapshot_id)


def the_bundle(home: Home, found: Explanation) -> None:
    shutil.rmtree(home.models / found.model_version)


def the_verdict(home: Home, found: Explanation) -> None:
    shutil.rmtree(home.models / "champions")


def everything_but_the_shelf(home: Home, found: Explanation) -> None:
    for folder in (home.drop, home.loads, home.snapshots, home.models, home.scores):
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("remove", "told"),
    [
        (the_load, ["which has been removed from the raw zone since)"]),
        (the_file, ["; the file has been removed from the drop folder since)"]),
        (a_byte_of_the_file, ["; the file has been changed since, and the line may be another one now)"]),
        (the_snapshot, ["Behaviour snapshot", "has been removed since: which events are behind it can no"]),
        (the_bundle, ["The model's bundle", "has been removed since."]),
        (the_verdict, ["The record of when it became champion, and why, has been removed since."]),
        (everything_but_the_shelf, ["The record of", "The model's bundle", "Behaviour snapshot"]),
    ],
)
def test_what_has_been_removed_since_is_said_and_the_rest_is_told(
    own_shop: Home,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    remove: Removal,
    told: list[str],
) -> None:
    shopper, item, _ = next(row for row in shelf(own_shop) if row[2])
    before = explain(own_shop, shopper, item)
    remove(own_shop, before)
    monkeypatch.setenv("NIGHTSHELF_HOME", str(own_shop.root))
    with pytest.raises(SystemExit) as ended:
        main(["why", shopper, item])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    for words in (*told, before.title, before.reason, "P(purchase)", before.model_version):
        assert words in said
    left = explain(own_shop, shopper, item)
    if left.snapshot_cut_off:
        same = [replace(e, source=None, file=None, since="") for e in left.evidence]
        assert same == [replace(e, source=None, file=None, since="") for e in before.evidence]
        untouched = {event.words for event in left.evidence if event.since == ""}
        assert untouched <= {event.words for event in before.evidence}


def test_a_model_that_only_people_wanted_is_said_to_have_been_put_back_by_hand(own_shop: Home) -> None:
    shopper, item, _ = next(row for row in shelf(own_shop) if row[2])
    before = explain(own_shop, shopper, item)
    the_verdict(own_shop, before)
    done = Rollback(before.day, before.model_version, "another", "it sold more", "2026-01-20T08:00:00")
    (own_shop.models / "rollbacks").mkdir()
    file = own_shop.models / "rollbacks" / f"{before.day}.json"
    file.write_text(json.dumps([{**asdict(done), "day": str(done.day)}]))
    found = explain(own_shop, shopper, item)
    assert (found.promoted_on, found.gate, found.gone) == (before.day, [done.words], [])


def test_an_item_nobody_has_met_is_said_to_be_known_from_the_catalogue(own_shop: Home) -> None:
    """As on the shelf of a shop with more places than items that were met."""
    shopper, item, _ = next(row for row in shelf(own_shop) if row[0] == EVERYONE)
    found = explain(own_shop, shopper, item)
    unmet = replace(found, others=[], evidence=[], shoppers_this_week=0)
    assert unmet.lines()[-1] == (
        "Nobody has met it in the days of the snapshot: it is known from the catalogue."
    )
