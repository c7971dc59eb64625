"""From a bundle on disk to a recommender that stands on a day's items and behaviour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from assets.model.recommender import Recommender

if TYPE_CHECKING:
    from assets.model.snapshot import Snapshot


def open_recommender(
    bundle: Path, snapshot: Snapshot, cache: Path, log: Callable[[str], None] = lambda message: None
) -> Recommender:
    """The bundle's recommender on the snapshot's items, their texts encoded by the bundle's own encoder.

    Args:
        bundle: a verified bundle folder (`ModelStore.path`).
        snapshot: whose items are recommended, and whose behaviour is looked back on.
        cache: folder of cached item vectors (`Home.vectors`); only unseen texts are encoded.
        log: told the progress.
    """
    from assets.model.vectors import item_vectors

    items = snapshot.table("items").select(["item_id", "text"]).to_pydict()
    vectors = item_vectors(bundle / "encoder", [text or "" for text in items["text"]], cache, log)
    return Recommender.load(bundle, snapshot, vectors, items["item_id"])
