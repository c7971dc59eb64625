"""Small behaviour logs as files, and as what is read from them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import Dataset, read

SECOND = 1_767_600_000
"""A Monday morning in 2026: numbers from here on are seconds since 1970."""

Row = tuple[str, str, Any, str]
"""User, item, timestamp, behaviour."""


def dataset(rows: Sequence[Row], items: Iterable[str] = ()) -> Dataset:
    """What `read` makes of some rows, with `items` in the catalogue beside those met."""
    with tempfile.TemporaryDirectory() as folder:
        log, catalogue = Path(folder) / "log.parquet", Path(folder) / "items.parquet"
        names = ("user_id", "item_id", "timestamp", "behavior")
        columns = zip(*rows, strict=True) if rows else [()] * len(names)
        pq.write_table(pa.table(dict(zip(names, map(list, columns), strict=True))), log)
        pq.write_table(pa.table({"item_id": pa.array(list(items), pa.string())}), catalogue)
        return read(log, catalogue)


def board(size: int = 12, copies: int = 4, seed: int = 0) -> list[Row]:
    """A checkerboard: user u meets, in any order, the items of u's own colour (u + i even) but item u, then
    item u.

    Whoever has understood the board puts the held-out diagonal first among what the user has not met. There
    are `copies` of each user, who meet the same things in other orders. Hours apart, and all on their own
    time.
    """
    random = np.random.default_rng(seed)
    rows: list[Row] = []
    for u in range(size * copies):
        own = [i for i in range(u % 2, size, 2) if i != u % size]
        for n, i in enumerate([*random.permutation(own), u % size]):
            rows.append((f"u{u:03d}", f"i{i:03d}", SECOND + 3600 * n + u, "purchase" if n % 2 else "browse"))
    return rows


def coming_back(shoppers: int = 24, things: int = 40, days: int = 30, seed: int = 0) -> list[Row]:
    """Shoppers who meet the same three items again and again, and now and then another one."""
    random = np.random.default_rng(seed)
    rows: list[Row] = []
    for u in range(shoppers):
        own = random.choice(things, 3, replace=False)
        for day in range(days):
            if random.random() < 0.6:
                i = int(random.choice(own)) if random.random() < 0.8 else int(random.integers(things))
                what = ("browse", "click", "cart", "purchase")[int(random.integers(4))]
                rows.append((f"u{u:03d}", f"i{i:03d}", SECOND + 86_400 * day + 60 * u, what))
    return rows
