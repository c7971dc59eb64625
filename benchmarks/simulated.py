"""A simulated shop's behaviour as files that `benchmarks.quality` reads.

python -m benchmarks.simulated --out DIR --days 60 --shoppers 3000

What is written is what a shop's tracking and catalogue would know: who did what to which item and when, and
what the shop prints about its items. What the simulator knows beyond that (tastes, styles, what goes with
what) stays in it. The dirt of the simulator's log files is not here; ingestion takes care of that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

DAYS, SHOPPERS, PRODUCTS = 60, 3000, 2000
FIRST_DAY = (2026, 1, 5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write interactions.parquet and items.parquet."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.simulated",
        description="Write a simulated shop's interactions.parquet and items.parquet.",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the two files")
    parser.add_argument("--days", type=int, default=DAYS, metavar="N", help="days (default %(default)s)")
    parser.add_argument(
        "--shoppers", type=int, default=SHOPPERS, metavar="N", help="on the first day (default %(default)s)"
    )
    parser.add_argument(
        "--products", type=int, default=PRODUCTS, metavar="N", help="on the first day (default %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of all chance (default %(default)s)"
    )
    asked = parser.parse_args(arguments)
    if asked.days < 1 or asked.shoppers < 10 or asked.products < 20:
        parser.error("a shop has at least 1 day, 10 shoppers and 20 products")
    import pyarrow.parquet as pq

    interactions, items = simulated_shop(asked.days, asked.shoppers, asked.products, asked.seed)
    asked.out.mkdir(parents=True, exist_ok=True)
    for name, table in (("interactions", interactions), ("items", items)):
        pq.write_table(table, asked.out / f"{name}.parquet", compression="zstd")
        print(f"{asked.out / name}.parquet: {len(table):,} rows")
    return 0


def simulated_shop(
    days: int = DAYS, shoppers: int = SHOPPERS, products: int = PRODUCTS, seed: int = 0
) -> tuple[pa.Table, pa.Table]:
    """The shop's behaviour and catalogue; the same arguments give the same tables.

    Returns:
        user_id, item_id, timestamp (UTC), behavior by time; and item_id, title, description, category, brand,
        price of every item that was ever sold, as printed on the last day.
    """
    from datetime import date, timedelta
    from zoneinfo import ZoneInfo

    import numpy as np
    import pyarrow as pa

    from assets.logs.simulator.behavior import Visits
    from assets.logs.simulator.catalogue import Catalogue
    from assets.logs.simulator.clock import ShopDay
    from assets.logs.simulator.shoppers import Shoppers, user_id
    from assets.logs.simulator.vocabulary import vocabulary
    from resources.home import BEHAVIORS

    catalogue = Catalogue.open(seed, vocabulary(), products)
    people = Shoppers.open(catalogue, shoppers)
    days_events = []
    for number in range(days):
        if number:
            catalogue.pass_night(number)
            people.join(catalogue, number)
        today = ShopDay(date(*FIRST_DAY) + timedelta(days=number), ZoneInfo("UTC"))
        events = Visits(catalogue, people, number, today).walk()
        days_events.append((events.at, events.user, events.item, events.behavior))
    at, user, item, behavior = (np.concatenate(column) for column in zip(*days_events, strict=True))
    order = np.lexsort((behavior, item, user, at))
    at, user, item, behavior = at[order], user[order], item[order], behavior[order]
    names = np.asarray([user_id(number) for number in range(len(people))], object)
    ids = np.asarray(catalogue.item_ids(), object)
    interactions = pa.table(
        {
            "user_id": pa.array(names[user], pa.string()),
            "item_id": pa.array(ids[item], pa.string()),
            "timestamp": pa.array(at, pa.timestamp("ms", "UTC")),
            "behavior": pa.array(np.asarray(BEHAVIORS, object)[behavior], pa.string()),
        }
    )
    items = pa.table(
        {
            "item_id": pa.array(ids, pa.string()),
            "title": pa.array([words.title for words in catalogue.words], pa.string()),
            "description": pa.array([words.description for words in catalogue.words], pa.string()),
            "category": pa.array([catalogue.types[kind].path for kind in catalogue.type], pa.string()),
            "brand": pa.array([catalogue.brand_name(n) or None for n in range(len(catalogue))], pa.string()),
            "price": pa.array(np.round(catalogue.price, 2), pa.float64()),
        }
    )
    return interactions, items


if __name__ == "__main__":
    sys.exit(main())
