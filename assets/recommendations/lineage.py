"""Why an item stands on a shopper's shelf: from the published row back to the publisher's line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from assets.model.snapshot import Snapshot
from assets.recommendations.shelf import EVERYONE, NoShelfError, published, user_key_of
from resources.home import Home

MOST_EVENTS = 20


@dataclass(frozen=True)
class Evidence:
    """An event of the shopper behind the reason, and where it was read."""

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
    reason_title: str | None
    model_version: str
    promoted_on: date | None
    """Night on which the model was first made champion; None where the record is gone."""
    gate: list[str]
    """What the gate said then."""
    snapshot_id: str
    snapshot_first_day: date | None
    snapshot_cut_off: date
    shoppers_this_week: int
    """Visits (shopper and day) to the item in the last seven days of the snapshot."""
    evidence: list[Evidence]
    """Newest first, at most twenty; empty where the reason is not the shopper's own behaviour."""

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
            f"Behaviour snapshot {self.snapshot_id}: {self.snapshot_first_day} to {self.snapshot_cut_off}; "
            f"{self.shoppers_this_week:,} visits to the item in its last seven days.",
        ]
        for event in self.evidence:
            where = (
                f"{event.source}: {event.file}, line {event.line}" if event.file else f"load {event.load_id}"
            )
            told.append(f"{event.event_at:%Y-%m-%d %H:%M:%S} UTC {event.behavior} {event.title} ({where})")
        return told


def explain(home: Home, user: str, item: str) -> Explanation:
    """Follow a published row back through model and snapshot to the publisher's lines.

    Args:
        home: whose published shelf is explained.
        user: a raw id or a `k1:` pseudonym; a shopper without a shelf of their own has that of everyone.
        item: an item id.

    Raises:
        NoShelfError: nothing is published, or the item is not on the shopper's shelf (it names what is).
        SnapshotError: the snapshot's files are not those its manifest names.
    """
    row = _published_row(home, user_key_of(home, user), item)
    snapshot = Snapshot.load(home.snapshots / row["snapshot_id"])
    titles = dict(zip(*(snapshot.table("items")[c].to_pylist() for c in ("item_id", "title")), strict=True))
    promoted_on, gate = _promotion(home, row["model_version"])
    first_day = snapshot.manifest.get("first_day")
    because = row["reason_item_id"]
    return Explanation(
        **{name: row[name] for name in ("day", "user_key", "item_id", "title", "rank", "score", "reason")},
        **{name: row[name] for name in ("p_browse", "p_click", "p_purchase", "model_version", "snapshot_id")},
        reason_item_id=because,
        reason_title=titles.get(because),
        promoted_on=promoted_on,
        gate=gate,
        snapshot_first_day=date.fromisoformat(str(first_day)) if first_day else None,
        snapshot_cut_off=snapshot.cut_off,
        shoppers_this_week=_visits(snapshot.table("popularity"), item, snapshot.cut_off),
        evidence=_evidence(home, snapshot.table("events"), row["user_key"], because, titles)
        if because
        else [],
    )


def _published_row(home: Home, key: str, item: str) -> dict[str, Any]:
    query = "SELECT * FROM recommendations WHERE user_key = $1 ORDER BY rank"
    with published(home) as connection:
        rows = connection.execute(query, [key]).to_arrow_table().to_pylist()
        rows = rows or connection.execute(query, [EVERYONE]).to_arrow_table().to_pylist()
    for row in rows:
        if row["item_id"] == item:
            return dict(row)
    there = ", ".join(str(row["item_id"]) for row in rows[:10])
    raise NoShelfError(f"{item} is not on the published shelf of {key or 'everyone'}; there are: {there}")


def _promotion(home: Home, version: str) -> tuple[date | None, list[str]]:
    """The first night on which `version` became champion, and the gate's reasons."""
    for file in sorted((home.models / "champions").glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if record["version"] == version and record.get("candidate") in (version, None):
            return date.fromisoformat(str(record["day"])), [str(reason) for reason in record["reasons"]]
    return None, []


def _visits(popularity: pa.Table, item: str, cut_off: date) -> int:
    """Visits in the seven days up to the cut-off."""
    week = [
        users
        for day, item_id, users in zip(
            *(popularity[c].to_pylist() for c in ("day", "item_id", "users")), strict=True
        )
        if item_id == item and 0 <= (cut_off - day).days < 7
    ]
    return int(sum(week))


def _evidence(
    home: Home, events: pa.Table, user_key: str, item: str, titles: dict[str, str]
) -> list[Evidence]:
    own = events.filter(pc.and_(pc.equal(events["user_key"], user_key), pc.equal(events["item_id"], item)))
    newest = own.sort_by([("event_at", "descending"), ("line", "ascending")]).slice(0, MOST_EVENTS)
    return [
        Evidence(
            event_at=event["event_at"],
            behavior=event["behavior"],
            item_id=item,
            title=titles.get(item) or item,
            load_id=event["load_id"],
            line=event["line"],
            **_origin(home, event["load_id"]),
        )
        for event in newest.to_pylist()
    ]


def _origin(home: Home, load_id: str) -> dict[str, str | None]:
    file = home.loads / load_id / "outcome.json"
    if not file.exists():
        return {"source": None, "file": None}
    outcome = json.loads(file.read_text(encoding="utf-8"))
    return {"source": outcome["source"], "file": outcome["file"]}
