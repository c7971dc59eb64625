"""Why an item stands on a shopper's shelf: from the published row back to the publisher's lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from assets.model.snapshot import Snapshot
from assets.recommendations.shelf import NoShelfError, published, shelf_of, user_key_of
from resources.aside import sha256_of
from resources.home import Home
from resources.model_store import MANIFEST, ModelStore

PUBLISHED = (
    *("day", "user_key", "item_id", "title", "rank", "score", "p_browse", "p_click", "p_purchase"),
    *("reason", "reason_item_id", "model_version", "snapshot_id"),
)
"""Columns of a published row that are told as they are."""
MOST_EVENTS = 20
"""Of the shopper's own events."""
MOST_OTHERS = 5
"""Of the events of others."""


@dataclass(frozen=True)
class Evidence:
    """An event behind the reason, and where it was read."""

    event_at: datetime
    """UTC."""
    behavior: str
    item_id: str
    title: str
    load_id: str
    line: int
    source: str | None
    """Source and file of the load; None where the raw zone no longer holds the load."""
    file: str | None
    since: str
    """What has become of the file since it was read; empty where it lies in the drop folder as it was."""

    @property
    def words(self) -> str:
        where = (
            f"{self.source}: {self.file}, line {self.line}" if self.file else f"load {self.load_id}"
        ) + self.since
        return f"{self.event_at:%Y-%m-%d %H:%M:%S} UTC {self.behavior} {self.title} ({where})"


@dataclass(frozen=True)
class Explanation:
    """One published row and everything it came from."""

    day: date
    user_key: str
    item_id: str
    title: str
    rank: int
    score: float
    p_browse: float
    p_click: float
    p_purchase: float
    reason: str
    reason_item_id: str | None
    model_version: str
    promoted_on: date | None
    """Night on which the model first served; None where the record is gone."""
    gate: list[str]
    """What the gate said then, and that people put it back where they did."""
    snapshot_id: str
    snapshot_first_day: date | None
    snapshot_cut_off: date | None
    """None, as the first day, where the snapshot is gone; then there is no evidence either."""
    shoppers_this_week: int
    """Visits (shopper and day) to the item in the last seven days of the snapshot."""
    evidence: list[Evidence]
    """The shopper's own, newest first, at most twenty; empty where the reason is not the shopper's own
    behaviour."""
    others: list[Evidence] = field(default_factory=list)
    """Of others with the item, newest first, at most five: of those who have met the reason's item as well,
    where there are any."""
    gone: list[str] = field(default_factory=list)
    """What has been removed since, in sentences."""

    def lines(self) -> list[str]:
        """The explanation in sentences, one step back per line."""
        who = self.user_key or "a shopper nobody knows yet"
        told = [
            f"{self.title} ({self.item_id}) is number {self.rank} on the shelf of {self.day} for {who}: "
            f"{self.reason}.",
            f"Score {self.score:.4f} from P(browse) {self.p_browse:.3f}, P(click) {self.p_click:.3f}, "
            f"P(purchase) {self.p_purchase:.3f}.",
            f"Model {self.model_version}"
            + (f", champion since the night of {self.promoted_on}." if self.promoted_on else "."),
            *self.gate,
        ]
        if self.snapshot_cut_off:
            told.append(
                f"Behaviour snapshot {self.snapshot_id}: {self.snapshot_first_day} to "
                f"{self.snapshot_cut_off}; {self.shoppers_this_week:,} visits to the item in its last seven "
                "days."
            )
        told += self.gone
        if self.evidence:
            told += ["The shopper's own events behind it:", *(event.words for event in self.evidence)]
        if self.others:
            told += ["The newest events of others with it:", *(event.words for event in self.others)]
        elif self.snapshot_cut_off and not self.evidence:
            told.append("Nobody has met it in the days of the snapshot: it is known from the catalogue.")
        return told


def explain(home: Home, user: str, item: str) -> Explanation:
    """Follow a published row back through model and snapshot to the publisher's lines.

    What has been removed since (load, file, snapshot, model, record of the gate) is said to be, and the rest
    is told.

    Args:
        home: whose published shelf is explained.
        user: a raw id or a `k1:` pseudonym; a shopper without a shelf of their own has that of everyone.
        item: an item id.

    Raises:
        NoShelfError: nothing is published, or the item is not on the shopper's shelf (it names what is).
        SnapshotError: the snapshot's files are not those its manifest names.
    """
    row = _published_row(home, user_key_of(home, user), item)
    promoted_on, gate = _promotion(home, row["model_version"])
    gone = [] if promoted_on else ["The record of when it became champion, and why, has been removed since."]
    if not (home.models / row["model_version"] / MANIFEST).exists():
        gone.append(f"The model's bundle {row['model_version']} has been removed since.")
    told = {name: row[name] for name in PUBLISHED} | {"promoted_on": promoted_on, "gate": gate}
    try:
        snapshot = Snapshot.load(home.snapshots / row["snapshot_id"])
    except FileNotFoundError:
        gone.append(
            f"Behaviour snapshot {row['snapshot_id']} has been removed since: which events are behind it can "
            "no longer be told."
        )
        return Explanation(
            **told,
            snapshot_first_day=None,
            snapshot_cut_off=None,
            shoppers_this_week=0,
            evidence=[],
            gone=gone,
        )
    because, first_day = row["reason_item_id"], snapshot.manifest.get("first_day")
    titles = dict(zip(*(snapshot.table("items")[c].to_pylist() for c in ("item_id", "title")), strict=True))
    events, witness = snapshot.table("events"), _witness(home, titles)
    own = _of(events, row["user_key"], because) if because else events.slice(0, 0)
    return Explanation(
        **told,
        snapshot_first_day=date.fromisoformat(str(first_day)) if first_day else None,
        snapshot_cut_off=snapshot.cut_off,
        shoppers_this_week=_visits(snapshot.table("popularity"), item, snapshot.cut_off),
        evidence=[witness(event) for event in _newest(own, MOST_EVENTS)],
        others=[
            witness(event)
            for event in _newest(_of_others(events, row["user_key"], item, because), MOST_OTHERS)
        ],
        gone=gone,
    )


def _published_row(home: Home, key: str, item: str) -> dict[str, Any]:
    with published(home) as connection:
        rows = shelf_of(connection, key).to_pylist()
    for row in rows:
        if row["item_id"] == item:
            return dict(row)
    there = ", ".join(str(row["item_id"]) for row in rows[:10])
    raise NoShelfError(f"{item} is not on the published shelf of {key or 'everyone'}; there are: {there}")


def _promotion(home: Home, version: str) -> tuple[date | None, list[str]]:
    """The first night on which `version` served, and why: the gate's reasons, and what was done by hand."""
    nights: list[date] = []
    why: list[str] = []
    for file in sorted((home.models / "champions").glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["version"] == version and record.get("candidate") in (version, None):
            nights.append(date.fromisoformat(str(record["day"])))
            why += [str(reason) for reason in record["reasons"]]
            break
    for done in ModelStore(home).all_rollbacks():
        if done.version == version:
            nights.append(done.day)
            why.append(done.words)
    return min(nights, default=None), why


def _visits(popularity: pa.Table, item: str, cut_off: date) -> int:
    """Visits in the seven days up to the cut-off."""
    of_item = popularity.filter(pc.equal(popularity["item_id"], item)).select(["day", "users"]).to_pylist()
    return int(sum(row["users"] for row in of_item if 0 <= (cut_off - row["day"]).days < 7))


def _of(events: pa.Table, user_key: str, item: str) -> pa.Table:
    return events.filter(pc.and_(pc.equal(events["user_key"], user_key), pc.equal(events["item_id"], item)))


def _of_others(events: pa.Table, user_key: str, item: str, because: str | None) -> pa.Table:
    """Events of others with `item`: of those who have met `because` as well, where there are any."""
    by_others = events.filter(pc.not_equal(events["user_key"], user_key))
    found = by_others.filter(pc.equal(by_others["item_id"], item))
    met = by_others.filter(pc.equal(by_others["item_id"], because or item))["user_key"]
    both = found.filter(pc.is_in(found["user_key"], met.combine_chunks()))
    return both if both.num_rows else found


def _newest(events: pa.Table, most: int) -> list[dict[str, Any]]:
    order = [("event_at", "descending"), ("load_id", "ascending"), ("line", "ascending")]
    return [dict(event) for event in events.sort_by(order).slice(0, most).to_pylist()]


def _witness(home: Home, titles: dict[str, str]) -> Callable[[dict[str, Any]], Evidence]:
    """What turns an event of a snapshot into evidence; each load is looked up once."""
    origin = cache(lambda load_id: _origin(home, load_id))

    def witness(event: dict[str, Any]) -> Evidence:
        source, file, since = origin(event["load_id"])
        return Evidence(
            event_at=event["event_at"],
            behavior=event["behavior"],
            item_id=event["item_id"],
            title=titles.get(event["item_id"]) or event["item_id"],
            load_id=event["load_id"],
            line=event["line"],
            source=source,
            file=file,
            since=since,
        )

    return witness


def _origin(home: Home, load_id: str) -> tuple[str | None, str | None, str]:
    """(source, file, what has become of the file since)."""
    entry = home.loads / load_id / "outcome.json"
    if not entry.exists():
        return None, None, ", which has been removed from the raw zone since"
    outcome = json.loads(entry.read_text(encoding="utf-8"))
    return outcome["source"], outcome["file"], _since(home.drop / outcome["file"], outcome)


def _since(file: Path, outcome: dict[str, Any]) -> str:
    if not file.is_file():
        return "; the file has been removed from the drop folder since"
    if file.stat().st_size == outcome["bytes"] and sha256_of(file) == outcome["sha256"]:
        return ""
    return "; the file has been changed since, and the line may be another one now"
