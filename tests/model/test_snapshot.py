"""A snapshot holds what was known on its day, no more, and is what was written."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import pytest

from assets.model.snapshot import TABLES, Snapshot, SnapshotError, snapshot_of, write_snapshot
from resources.home import Home
from tests.model.little_shop import D, LittleWarehouse, little_warehouse

FUTURE = D + timedelta(days=1)
LATER = {
    "events": f"""INSERT INTO marts.fct_events SELECT * REPLACE (DATE '{FUTURE}' AS day, 'late' AS event_id,
        event_at + INTERVAL 1 DAY AS event_at) FROM marts.fct_events WHERE day = DATE '{D}'""",
    "behaviors": f"INSERT INTO labels.lbl_behaviors SELECT * REPLACE (DATE '{FUTURE}' AS day) "
    f"FROM labels.lbl_behaviors WHERE day = DATE '{D}'",
    "versions": f"INSERT INTO marts.dim_item_versions SELECT * REPLACE (DATE '{FUTURE}' AS valid_from, "
    "0.01 AS price, 'sold out' AS title, false AS in_stock) FROM marts.dim_item_versions",
    "new item": f"INSERT INTO marts.dim_item_versions VALUES "
    f"('new', DATE '{FUTURE}', 'new', NULL, NULL, NULL, 1, true)",
    "popularity": f"INSERT INTO marts.fct_popularity VALUES ('{FUTURE}', 'new', 9, 9, 9, 0, 0, 0, 9)",
}


@pytest.fixture
def warehouse(tmp_path: Path) -> LittleWarehouse:
    return little_warehouse(tmp_path)


@pytest.mark.parametrize("what", LATER)
def test_nothing_later_than_the_cut_off_gets_in(
    warehouse: LittleWarehouse, tmp_path: Path, what: str
) -> None:
    before = write_snapshot(warehouse, D, 7, tmp_path / "a")
    warehouse.run(LATER[what])
    assert write_snapshot(warehouse, D, 7, tmp_path / "a").id == before.id
    # The plant is real: on the next day it makes a difference to what that day's snapshot would else hold.
    after = write_snapshot(warehouse, FUTURE, 7, tmp_path / "a")
    pristine = tmp_path / "pristine"
    pristine.mkdir()
    assert after.id != write_snapshot(little_warehouse(pristine), FUTURE, 7, tmp_path / "b").id


def test_it_holds_the_look_back_days_in_order(warehouse: LittleWarehouse, tmp_path: Path) -> None:
    snapshot = write_snapshot(warehouse, D, 5, tmp_path / "snapshots")
    wanted = {D - timedelta(days=n) for n in range(5)}
    for name in ("events", "behaviors", "popularity"):
        days = snapshot.table(name)["day"].to_pylist()
        assert set(days) == wanted
        assert days == sorted(days)
        assert snapshot.manifest["rows"][name] == len(days)
    with warehouse.read() as connection:
        query = "SELECT count(*), sum(line) FROM marts.fct_events WHERE day BETWEEN $1 AND $2"
        count, lines = connection.execute(query, [min(wanted), D]).fetchall()[0]
    events = snapshot.table("events")
    assert (len(events), sum(events["line"].to_pylist())) == (count, lines)
    assert (snapshot.cut_off, snapshot.manifest["first_day"]) == (D, min(wanted).isoformat())
    assert set(events.column_names) == {
        "day", "event_at", "user_key", "item_id", "behavior", "weight", "price", "event_id", "session_id",
        "load_id", "line",
    }  # fmt: skip


def test_items_look_as_they_did_on_the_cut_off(warehouse: LittleWarehouse, tmp_path: Path) -> None:
    warehouse.run(f"""
        INSERT INTO marts.dim_item_versions VALUES
            ('i00000', DATE '{D}', ' Red   shoe', 'For\n runners.', 'home > shoes', NULL, 7.5, false),
            ('i00000', DATE '{FUTURE}', 'Gone', NULL, NULL, NULL, 0, false),
            ('always', NULL, 'Old hat', NULL, NULL, '', 3, true);
        INSERT INTO marts.fct_popularity VALUES (DATE '{D}', 'wordless', 1, 1, 1, 0, 0, 0, 1);
    """)
    items = write_snapshot(warehouse, D, 5, tmp_path / "s").table("items").to_pylist()
    item = {row["item_id"]: row for row in items}
    assert len(items) == len(item) == 42
    assert item["i00000"]["text"] == "Red shoe. home > shoes. For runners."
    assert (item["i00000"]["price"], item["i00000"]["in_stock"]) == (7.5, False)
    assert item["i00000"]["first_seen_day"] == date(2025, 12, 1)
    assert item["i00001"]["text"] == "red lamp 1. brand 1. home > lamps"
    assert item["always"]["text"] == "Old hat"
    assert (item["wordless"]["text"], item["wordless"]["title"]) == ("", None)
    assert item["wordless"]["first_seen_day"] == D


def test_the_same_content_is_the_same_folder(warehouse: LittleWarehouse, tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = write_snapshot(warehouse, D, 7, home.snapshots)
    # The order in which rows lie in the warehouse is no content.
    warehouse.run("""
        CREATE TABLE shuffled AS SELECT * FROM marts.fct_events ORDER BY hash(event_id);
        DELETE FROM marts.fct_events; INSERT INTO marts.fct_events SELECT * FROM shuffled;
    """)
    again = write_snapshot(warehouse, D, 7, home.snapshots)
    assert again.path == first.path
    assert sorted(p.name for p in home.snapshots.iterdir()) == sorted([first.id, "by_day"])
    assert snapshot_of(home, D).id == first.id
    warehouse.run(
        "UPDATE marts.fct_events SET price = 1 WHERE event_id = (SELECT max(event_id) FROM marts.fct_events)"
    )
    assert write_snapshot(warehouse, D, 7, home.snapshots).id != first.id
    assert snapshot_of(home, D).id != first.id


def test_writing_at_the_same_time_gives_one_sound_snapshot(
    warehouse: LittleWarehouse, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: write_snapshot(warehouse, D, 7, tmp_path / "s").id, range(8)))
    assert len(set(found)) == 1
    assert Snapshot.load(tmp_path / "s" / found[0]).id == found[0]
    assert not [p for p in (tmp_path / "s").iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("name", TABLES)
def test_a_changed_byte_is_noticed_and_a_new_run_mends_it(
    warehouse: LittleWarehouse, tmp_path: Path, name: str
) -> None:
    snapshot = write_snapshot(warehouse, D, 7, tmp_path / "s")
    file = snapshot.path / f"{name}.parquet"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(SnapshotError, match=f"{name}.parquet was changed"):
        Snapshot.load(snapshot.path)
    assert Snapshot.load(write_snapshot(warehouse, D, 7, tmp_path / "s").path).id == snapshot.id


def test_a_manifest_of_other_files_and_a_missing_file_are_noticed(
    warehouse: LittleWarehouse, tmp_path: Path
) -> None:
    snapshot = write_snapshot(warehouse, D, 7, tmp_path / "s")
    manifest = snapshot.path / "manifest.json"
    sound = manifest.read_text()
    manifest.write_text(sound.replace(f'"cut_off": "{D}"', f'"cut_off": "{FUTURE}"'))
    with pytest.raises(SnapshotError, match=r"manifest\.json was changed"):
        Snapshot.load(snapshot.path)
    manifest.write_text(sound)
    (snapshot.path / "events.parquet").unlink()
    with pytest.raises(SnapshotError, match=r"events\.parquet is missing"):
        Snapshot.load(snapshot.path)


def test_days_without_events_are_an_error_in_words(warehouse: LittleWarehouse, tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match=r"nothing from 2024-01-04 to 2024-01-10.*backfill"):
        write_snapshot(warehouse, date(2024, 1, 10), 7, tmp_path / "s")
    assert not any((tmp_path / "s").iterdir())
    with pytest.raises(FileNotFoundError, match="materialize training_snapshot for 2024-01-10"):
        snapshot_of(Home(tmp_path), date(2024, 1, 10))
