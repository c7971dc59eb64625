"""A tiny home with snapshots, a bundle and scores, each written by the stage that owns it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from assets.model.recommender import Recommender
from assets.model.snapshot import Snapshot, write_snapshot
from assets.recommendations.scoring import Scores, write_scores
from resources.home import Home, Shop
from resources.model_store import ModelStore
from tests.model.worlds import FIRST, World, fit, random_world


def make_home(root: Path, **decisions: object) -> Home:
    home = Home(root)
    home.write_shop(
        Shop.model_validate({"first_day": FIRST, "shelf_size": 5, "keep_shelves": 3, **decisions})
    )
    return home


def as_of(world: World, days: int) -> World:
    """The world after its first `days` days."""
    return replace(world, days=days, events=[e for e in world.events if e.day < days])


def make_night(home: Home, world: World) -> Scores:
    """Snapshot, sealed bundle, champion and scores of the world's last day."""
    snapshot = write_snapshot(Marts(world), world.cut_off, 28, home.snapshots)
    store = ModelStore(home)
    with store.stage() as folder:
        fit(world).fitted.write(folder)
        version = store.seal(folder, world.cut_off)
    store.promote(world.cut_off, version, True, ["Better than the best baseline."])
    return score_night(home, world, snapshot, version)


def score_night(home: Home, world: World, snapshot: Snapshot, version: str) -> Scores:
    made = Recommender.load(ModelStore(home).path(version), snapshot, world.vectors, world.items)
    return write_scores(home, world.cut_off, made, model_version=version, snapshot_id=snapshot.id)


def some_world(seed: int = 0, days: int = 6) -> World:
    prices = {f"i{n:02d}": 1.0 + n for n in range(25)}
    return replace(random_world(seed, days=days), prices=prices)


@dataclass
class Marts:
    """The world's marts, as a warehouse offers them."""

    world: World

    @contextmanager
    def read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with duckdb.connect(":memory:") as connection:
            fill(connection, self.world)
            yield connection


def fill(connection: duckdb.DuckDBPyConnection, world: World) -> None:
    """Marts and labels as the dbt project names them, from the world's tables."""
    connection.execute("CREATE SCHEMA marts; CREATE SCHEMA labels")
    tables = {
        "marts.fct_events": world.table("events"),
        "labels.lbl_behaviors": world.table("behaviors"),
        "marts.fct_popularity": world.table("popularity"),
        "marts.dim_item_versions": world.table("items").rename_columns({"first_seen_day": "valid_from"}),
    }
    for name, rows in tables.items():
        connection.register("rows", rows)
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM rows")
        connection.unregister("rows")
