"""From a bundle on disk to a recommender that stands on a day's items and behaviour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from assets.model.recommender import Fitted, Recommender
from resources.devices import keep_freed_memory

if TYPE_CHECKING:
    from assets.model.snapshot import Snapshot
    from resources.home import Home


def open_recommender(
    bundle: Path,
    snapshot: Snapshot,
    home: Home,
    log: Callable[[str], None] = lambda message: None,
) -> Recommender:
    """The bundle's recommender on the snapshot's items, their texts encoded by the bundle's own encoder.

    Args:
        bundle: a verified bundle folder (`ModelStore.path`).
        snapshot: whose items are recommended, and whose behaviour is looked back on.
        home: whose cached item vectors are used (only unseen texts are encoded), and whose rules of the shelf
            hold.
        log: told the progress.

    Raises:
        OutdatedModelError: the bundle was made by another version of Nightshelf.
    """
    from assets.model.vectors import item_vectors

    keep_freed_memory()
    Fitted.read(bundle)  # an outdated one is told before its texts are encoded for nothing
    items = snapshot.table("items").select(["item_id", "text"]).to_pydict()
    vectors = item_vectors(bundle / "encoder", [text or "" for text in items["text"]], home.vectors, log)
    recommender = Recommender.load(bundle, snapshot, vectors, items["item_id"])
    return recommender.under(home.shop.rules.model_dump())
