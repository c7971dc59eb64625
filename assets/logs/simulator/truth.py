"""What the simulator knows and the pipeline never reads: tastes, bots, every fault by file and line.

All of it lies in `home/truth/`:

- `world.json`: seed, first day, days, sizes, time zone, rates of dirt;
- `shoppers.parquet`: user_id, joined (day), visits (sessions a day), app_share, price_tier, styles, brands,
  favorites (the five category paths they like best) with shares of their likes, mission;
- `products.parquet`: item_id, launched (day), category, brand, line, style, price_tier,
  quality;
- `bots.parquet`: user_id, day, events;
- `faults.parquet`: file (below the drop folder), line (the first is 1), kind, field, readable (False: no
  reader can make an event of it), detail, event_id, user_id, happened_at (UTC);
- `files.parquet`: file, source, day, sha256, lines (header included), header_lines, clean, unreadable, and
  one column for each kind of fault. lines = header_lines + clean + Σ faults.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from assets.logs.simulator.catalogue import Catalogue
from assets.logs.simulator.dirt import RATES
from assets.logs.simulator.formats import Fault, LogFile
from assets.logs.simulator.shoppers import Shoppers, user_id

KINDS = (
    "duplicate",
    "bot",
    "missing_field",
    "wrong_type",
    "price_out_of_range",
    "late",
    "clock_skew",
    "broken_line",
    "unknown_behavior",
)
"""Kinds of faults, in the order of `DirtRates`."""


@dataclass(frozen=True)
class World:
    """What makes one simulated shop; the same world gives the same files."""

    seed: int
    start: date
    shoppers: int
    products: int
    timezone: str
    currency: str

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "start": self.start.isoformat()}


@dataclass
class Truth:
    """Collects the truth day by day."""

    world: World
    files: list[dict[str, Any]] = field(default_factory=list)
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    bots: Counter[tuple[str, date]] = field(default_factory=Counter)

    def note(self, file: str, sha256: str, day: date, *, lines: int, log: LogFile | None) -> None:
        """Enter one file of `lines` lines; `log` is None for catalogue files, which are clean."""
        faults = log.faults if log else []
        kinds = Counter(fault.kind for fault in faults)
        header = 1 if log is None or log.header else 0
        self.faults += [(file, fault) for fault in faults]
        self.bots.update((fault.user_id, day) for fault in faults if fault.kind == "bot")
        self.files.append(
            {
                "file": file,
                "source": file.partition("/")[0],
                "day": day,
                "sha256": sha256,
                "lines": lines,
                "header_lines": header,
                "clean": lines - header - len(faults),
                "unreadable": sum(not fault.readable for fault in faults),
                **{kind: kinds[kind] for kind in KINDS},
            }
        )

    def write(self, folder: Path, days: int, catalogue: Catalogue, shoppers: Shoppers) -> None:
        """Write all truth files into an existing, empty folder."""
        world = {**self.world.as_json(), "days": days, "rates": asdict(RATES)}
        (folder / "world.json").write_text(json.dumps(world, indent=2) + "\n", encoding="utf-8")
        tables = {
            "shoppers": self._shoppers(catalogue, shoppers),
            "products": self._products(catalogue),
            "bots": self._bots(),
            "faults": self._faults(),
            "files": pa.Table.from_pylist(self.files),
        }
        for name, table in tables.items():
            pq.write_table(table, folder / f"{name}.parquet")

    def _shoppers(self, catalogue: Catalogue, shoppers: Shoppers) -> pa.Table:
        favorites = np.argsort(-shoppers.likes, axis=1, kind="stable")[:, :5]
        paths = [kind.path for kind in catalogue.types]
        return pa.table(
            {
                "user_id": [user_id(number) for number in range(len(shoppers))],
                "joined": [self.world.start + timedelta(days=day) for day in shoppers.joined.tolist()],
                "visits": shoppers.visits,
                "app_share": shoppers.app_share,
                "price_tier": shoppers.tier,
                "styles": shoppers.styles,
                "brands": pa.array(shoppers.brands, pa.list_(pa.string())),
                "favorites": [[paths[kind] for kind in row] for row in favorites.tolist()],
                "shares": np.take_along_axis(shoppers.likes, favorites, axis=1).tolist(),
                "mission": [paths[kind] if kind >= 0 else None for kind in shoppers.mission.tolist()],
            }
        )

    def _products(self, catalogue: Catalogue) -> pa.Table:
        styles = [style.name for style in catalogue.vocabulary.styles]
        return pa.table(
            {
                "item_id": catalogue.item_ids(),
                "launched": [self.world.start + timedelta(days=day) for day in catalogue.launched.tolist()],
                "category": [catalogue.types[kind].path for kind in catalogue.type.tolist()],
                "brand": [catalogue.brand_name(item) or None for item in range(len(catalogue))],
                "line": catalogue.lines,
                "style": [styles[style] for style in catalogue.style.tolist()],
                "price_tier": catalogue.tier,
                "quality": catalogue.quality,
            }
        )

    def _bots(self) -> pa.Table:
        rows = sorted(self.bots.items(), key=lambda entry: (entry[0][1], entry[0][0]))
        schema = pa.schema([("user_id", pa.string()), ("day", pa.date32()), ("events", pa.int64())])
        return pa.Table.from_pylist(
            [{"user_id": user, "day": day, "events": events} for (user, day), events in rows], schema
        )

    def _faults(self) -> pa.Table:
        return pa.table(
            {
                "file": pa.array([file for file, _ in self.faults], pa.string()),
                "line": pa.array([fault.line for _, fault in self.faults], pa.int64()),
                "kind": pa.array([fault.kind for _, fault in self.faults], pa.string()),
                "field": pa.array([fault.field for _, fault in self.faults], pa.string()),
                "readable": pa.array([fault.readable for _, fault in self.faults], pa.bool_()),
                "detail": pa.array([fault.detail for _, fault in self.faults], pa.string()),
                "event_id": pa.array([fault.event_id for _, fault in self.faults], pa.string()),
                "user_id": pa.array([fault.user_id for _, fault in self.faults], pa.string()),
                "happened_at": pa.array([fault.happened_at for _, fault in self.faults], pa.timestamp("ms")),
            }
        )
