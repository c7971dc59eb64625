"""The scored tables of a night: who gets what, in which order, with what probability, and why."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from assets.model.rules import EVERY_CATEGORY, NEW_DAYS, Rules
from assets.model.snapshot import Snapshot, snapshot_of
from resources.aside import sha256_of, work_folder
from resources.crash import crash_point
from resources.home import Home
from resources.model_store import ModelStore

if TYPE_CHECKING:
    from assets.model.recommender import Recommender

RECOMMENDATIONS, SIMILAR = "recommendations.parquet", "similar_items.parquet"
SIMILAR_PER_ITEM = 10


@dataclass(frozen=True)
class Scores:
    """The folder `home/scores/<day>`."""

    path: Path
    manifest: Mapping[str, Any]
    """day, model_version, snapshot_id, shelf_size, rules in force, items (in the catalogue), rows and sha256
    of each file."""

    @classmethod
    def of(cls, home: Home, day: date) -> Scores:
        """The scores of a night.

        Raises:
            FileNotFoundError: there are none.
        """
        path = home.scores / day.isoformat()
        if not (path / "manifest.json").exists():
            raise FileNotFoundError(
                f"{path} holds no scores: materialize scored_recommendations for {day} first "
                f"(`nightshelf night {day}`)"
            )
        return cls(path, json.loads((path / "manifest.json").read_text(encoding="utf-8")))

    @property
    def day(self) -> date:
        return date.fromisoformat(self.manifest["day"])

    def table(self, file: str) -> pa.Table:
        return pq.read_table(self.path / file, partitioning=None)


def score(home: Home, day: date, log: Callable[[str], None] = lambda message: None) -> Scores:
    """Score everyone with the champion of the night and put `home/scores/<day>` in place by one rename.

    Raises:
        FileNotFoundError: no model has been promoted on or before `day`, or there is no snapshot of it.
        TamperedBundleError: the champion's files are not those that were sealed.
    """
    from assets.model.serving import open_recommender

    store = ModelStore(home)
    champion = store.champion(day)
    if champion is None:
        raise FileNotFoundError(
            f"no model serves on {day}: materialize champion_model for {day} first (`nightshelf night {day}`)"
        )
    snapshot = snapshot_of(home, day)
    recommender = open_recommender(store.path(champion.version), snapshot, home, log)
    named = {*home.shop.rules.bought_again} - {EVERY_CATEGORY}
    for category in sorted(named.difference(recommender.data.categories)):
        log(f"{home.shop_file}: rules.bought_again: no item is of the category {category!r}")
    log(f"scoring {len(recommender.data.known_users):,} shoppers with {champion.version}")
    values = home.shop.values.model_dump()
    return write_scores(
        home, day, recommender, model_version=champion.version, snapshot_id=snapshot.id, values=values
    )


def write_scores(
    home: Home,
    day: date,
    recommender: Recommender,
    *,
    model_version: str,
    snapshot_id: str,
    values: Mapping[str, float | str] | None = None,
) -> Scores:
    """Write both tables and their manifest aside, then rename the folder to `home/scores/<day>`."""
    size = home.shop.shelf_size
    recommendations = recommender.recommend(None, size, values)
    tables = {RECOMMENDATIONS: _stamped(recommendations, day, model_version, snapshot_id)}
    tables[SIMILAR] = recommender.similar_items(SIMILAR_PER_ITEM)
    crash_point("score.scored")
    with work_folder(home.scores) as aside:
        for file, table in tables.items():
            pq.write_table(table, aside / file, compression="zstd")
            crash_point("score.table_written")
        manifest = {
            "day": day.isoformat(),
            "model_version": model_version,
            "snapshot_id": snapshot_id,
            "shelf_size": size,
            "rules": recommender.rules.to_dict(),
            "items": len(recommender.data.item_ids),
            "rows": {file: table.num_rows for file, table in tables.items()},
            "sha256": {file: sha256_of(aside / file) for file in tables},
        }
        (aside / "manifest.json").write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        crash_point("score.manifest_written")
        _swap_in(aside, home.scores / day.isoformat())
        crash_point("score.in_place")
    return Scores.of(home, day)


def audit_scores(home: Home, day: date) -> list[str]:
    """What is wrong with the scores of a night, in words; empty where a shop can publish them.

    Checked against the files themselves and the snapshot, not against the code that wrote them: there is a
    recommendation at all; the files are those of the manifest; ranks run from 1 without gap or repetition, to
    the shelf's size unless fewer items are left; no item twice on a shelf; probabilities in [0, 1] and in
    order; scores finite, and never rising but where a rule of the manifest says so; every item known, in
    stock, and not held back because it was bought lately; no brand above its limit before all else is shown;
    every shopper with events has a shelf.
    """
    scores, snapshot = Scores.of(home, day), snapshot_of(home, day)
    wrong = [
        f"{file} is not the file that the manifest names"
        for file, sha256 in scores.manifest["sha256"].items()
        if sha256_of(scores.path / file) != sha256
    ]
    recommendations = scores.table(RECOMMENDATIONS)
    if not recommendations.num_rows:
        wrong.append(
            f"there is not a single recommendation: none of {scores.manifest['items']:,} items is in stock. "
            f"Put `in_stock` right in the catalogue, and run the night again (`nightshelf night {day}`)"
        )
    if scores.manifest["snapshot_id"] != snapshot.id:
        wrong.append(
            f"scored on snapshot {scores.manifest['snapshot_id']}, but that of {day} is {snapshot.id}: "
            "materialize scored_recommendations first"
        )
    rules = Rules.from_dict(scores.manifest.get("rules", {}))
    names = {
        "k": scores.manifest["shelf_size"],
        "day": day,
        "most": rules.most_per_brand,
        "diversity": rules.diversity,
        "kept": rules.places_for_new(scores.manifest["shelf_size"]),
        "new_days": NEW_DAYS,
    }
    with duckdb.connect(":memory:") as connection:
        connection.register("scored", recommendations)
        connection.register("neighbors", scores.table(SIMILAR))
        connection.register("behaviors", snapshot.table("behaviors"))
        connection.register("events", snapshot.table("events"))
        connection.register("items", _with_days_held_back(snapshot, rules))
        for statement in _PREPARED:
            connection.execute(statement, _used(names, statement))
        for sentence, query in _AUDITS:
            found = connection.execute(f"SELECT count(*) FROM ({query})", _used(names, query)).fetchone()
            if found and found[0]:
                wrong.append(f"{found[0]:,} {sentence}")
    return wrong


def _used(names: Mapping[str, Any], query: str) -> dict[str, Any]:
    """Those of the names that a query speaks of: DuckDB takes no others."""
    return {name: value for name, value in names.items() if re.search(rf"\${name}\b", query)}


def _with_days_held_back(snapshot: Snapshot, rules: Rules) -> pa.Table:
    """The items, and for how many days a purchase holds each of them back."""
    items = snapshot.table("items")
    days = [rules.days(category or "") for category in items["category"].to_pylist()]
    return items.append_column("days_held_back", pa.array(days, pa.int32()))


_PREPARED = (
    """CREATE TABLE held AS
        SELECT DISTINCT user_key, item_id FROM behaviors JOIN items USING (item_id)
        WHERE purchases > 0 AND day > $day - days_held_back""",
    """CREATE TABLE recs AS
        SELECT scored.*,
            coalesce(brand, '') <> ''
                AND $most < row_number() OVER (PARTITION BY user_key, brand ORDER BY rank) AS above_limit,
            rank > $k - $kept AND first_seen_day > $day - $new_days::INTEGER AS shown_as_new
        FROM scored LEFT JOIN items USING (item_id)""",
)
_AUDITS = (
    ("row(s) without a key, rank, item, score, probability, value, reason or version", """
        SELECT 1 FROM scored WHERE list_bool_or([c IS NULL FOR c IN [
            day::VARCHAR, user_key, rank::VARCHAR, item_id, score::VARCHAR, p_browse::VARCHAR,
            p_click::VARCHAR, p_purchase::VARCHAR, value::VARCHAR, reason, model_version, snapshot_id]])"""),
    ("shelf/shelves whose ranks do not run 1, 2, 3, …", """
        SELECT user_key FROM recs GROUP BY user_key
        HAVING min(rank) <> 1 OR max(rank) <> count(*) OR count(DISTINCT rank) <> count(*)"""),
    ("item(s) twice on one shelf", "SELECT 1 FROM recs GROUP BY user_key, item_id HAVING count(*) > 1"),
    ("row(s) with a probability outside [0, 1] or P(purchase) ≤ P(click) ≤ P(browse) broken", """
        SELECT 1 FROM recs WHERE NOT (0 <= p_purchase AND p_purchase <= p_click AND p_click <= p_browse
            AND p_browse <= 1)"""),
    ("row(s) whose score is not finite", "SELECT 1 FROM recs WHERE NOT isfinite(score)"),
    ("row(s) whose score is above that of the rank before, though no rule put them there", """
        SELECT 1 FROM (
            SELECT score, CASE WHEN $diversity > 0 THEN first_value(score) OVER shelf
                ELSE lag(score) OVER shelf END AS before
            FROM recs WHERE NOT coalesce(above_limit, false) AND NOT coalesce(shown_as_new, false)
            WINDOW shelf AS (PARTITION BY user_key ORDER BY rank))
        WHERE score > before + 1e-9"""),
    ("row(s) within the limit of their brand behind one above it", """
        SELECT 1 FROM recs
        JOIN (SELECT user_key, min(rank) AS first FROM recs WHERE above_limit GROUP BY ALL) USING (user_key)
        WHERE rank > first AND NOT above_limit"""),
    ("row(s) with an item that the shopper bought too lately", """
        SELECT 1 FROM recs SEMI JOIN held USING (user_key, item_id)"""),
    ("row(s) with an item that the snapshot does not know or that is out of stock", """
        SELECT 1 FROM recs
        ANTI JOIN (SELECT item_id FROM items WHERE coalesce(in_stock, true)) USING (item_id)"""),
    ("row(s) dated otherwise", "SELECT 1 FROM recs WHERE day <> $day"),
    ("shelf/shelves missing, or shorter or longer than they should be", """
        WITH stocked AS (SELECT item_id FROM items WHERE coalesce(in_stock, true)),
        bought AS (
            SELECT user_key, count(*) AS n FROM held SEMI JOIN stocked USING (item_id) GROUP BY user_key),
        shoppers AS (
            SELECT DISTINCT user_key FROM events SEMI JOIN items USING (item_id) WHERE user_key IS NOT NULL
            UNION ALL SELECT ''),
        shelves AS (SELECT user_key, count(*) AS n FROM recs GROUP BY user_key)
        SELECT 1 FROM shoppers FULL JOIN shelves USING (user_key) LEFT JOIN bought USING (user_key)
        WHERE coalesce(shelves.n, 0)
            <> least($k, (SELECT count(*) FROM stocked) - coalesce(bought.n, 0))"""),
    ("similar-item row(s) with an unknown item, itself, or a similarity outside [0, 1]", """
        SELECT 1 FROM neighbors WHERE item_id = similar_item_id OR NOT (similarity BETWEEN 0 AND 1)
            OR item_id NOT IN (SELECT item_id FROM items)
            OR similar_item_id NOT IN (SELECT item_id FROM items)"""),
)  # fmt: skip


def _stamped(table: pa.Table, day: date, model_version: str, snapshot_id: str) -> pa.Table:
    rows = table.num_rows
    table = table.add_column(0, "day", pa.array([day] * rows, pa.date32()))
    table = table.append_column("model_version", pa.array([model_version] * rows, pa.string()))
    return table.append_column("snapshot_id", pa.array([snapshot_id] * rows, pa.string()))


def _swap_in(aside: Path, target: Path) -> None:
    """Rename a finished folder into place; one that is replaced makes way first, into the work folder."""
    if target.exists():
        target.rename(aside.with_name("old"))
        crash_point("score.old_moved")
    aside.rename(target)
