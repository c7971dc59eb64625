"""Raw rows with known answers: the weekend on which Berlin's clocks jump, in every publisher's words."""

from __future__ import annotations

from datetime import date
from typing import Any

from tests.warehouse.raw_rows import RawZone, event

FIRST, LAST = date(2026, 3, 27), date(2026, 3, 30)
CUPS = "Home > Cups"


def product(item: str, since: date | None, title: str, price: float, **more: Any) -> dict[str, Any]:
    return {"item_id": item, "valid_from": since, "title": title, "price": price, "category": CUPS} | more


def fill(zone: RawZone) -> None:
    """Nine loads: web, app, a program, a shop's own source, the publishers, a late file, absurd numbers."""
    zone.add(
        [
            event("2026-03-27 09:00:00", "anna", "mug", "browse", event_id="w1", price=10),
            event("2026-03-27 09:01:00", "anna", "mug", "click", event_id="w2", price=10),
            event("2026-03-27 09:02:00", "anna", "mug", "purchase", event_id="w3", price=10, quantity=2),
            event("2026-03-27 09:02:00", "anna", "mug", "purchase", event_id="w3", price=10, quantity=2),
            event("2026-03-27 09:03:00", "anna", "pot", "browse", event_id="w4", price=30),
            event("2026-03-27 10:00:00", "anna", "tea", "browse", event_id="w5"),
            event("2026-03-27 09:00:30", "ben", "mug", "browse", event_id="w6", price=10),
            event("2026-03-27 09:00:40", "ben", "mug", "browse", event_id="w7", price=1000),
            event("2026-03-27 09:00:50", "ben", "mug", "stare", event_id="w8", price=10),
            event("2026-03-28 22:55:00", "anna", "tea", "browse", event_id="w9"),
            event("2026-03-28 23:05:00", "anna", "mug", "cart", event_id="w10"),
            # 01:50 and 03:05 on the clocks of Berlin, fifteen minutes apart.
            event("2026-03-29 00:50:00", "ben", "tea", "click", event_id="w11"),
            event("2026-03-29 01:05:00", "ben", "pot", "purchase", event_id="w12", quantity=1),
        ],
        products=[
            product("mug", date(2026, 3, 27), " Mug ", 10),
            product("pot", date(2026, 3, 27), "Pot", 30),
            product("pot", date(2026, 3, 29), "Pot", 24),
            product("tea", None, "Tea", 4, category="Food"),
            product("jug", date(2026, 3, 28), "Jug", 20),
        ],
    )
    app, own, films = "shop_app_jsonl", "our_own_format", "movielens_latest"
    zone.add(
        [
            event("2026-03-27 20:00:00", "anna", "tea", "add_to_basket", event_id="w1", source=app),
            event("2026-03-27 20:00:10", "anna", "pot", "impression", source=app),
        ]
    )
    # A program: one click a second for a minute.
    zone.add([event(f"2026-03-28 12:00:{s:02d}", "bot", "mug", "click") for s in range(60)])
    zone.add(
        [
            event("2026-03-28 13:00:00", "cleo", "shoe", "purchase", source=own, title="Shoe", price=50),
            event("2026-03-28 13:00:00", "cleo", "sock", "purchase", source=own, title="Sock", price=5),
        ]
    )
    retail = {"source": "online_retail", "currency": "GBP", "price": 2.5}
    zone.add(
        [
            event("2026-03-30 08:00:00", "dan", "85123a", "purchase", quantity=6, title=" HEART  ", **retail),
            event("2026-03-30 08:00:00", "dan", "POST", "purchase", quantity=1, title="POSTAGE", **retail),
            event("2026-03-30 08:05:00", "dan", "85123A", "purchase", quantity=-6, title="HEART", **retail),
            event("2026-03-30 08:10:00", "dan", "85123A", "purchase", quantity=1, **(retail | {"price": 0})),
        ]
    )
    codes = {
        "rees46": ["view", "cart", "purchase", "remove_from_cart"],
        "retailrocket": ["view", "addtocart", "transaction"],
        "otto": ["clicks", "carts", "orders"],
        "taobao": ["pv", "fav", "cart", "buy"],
        "google_merch": ["add_to_cart", "begin_checkout", "purchase"],
    }
    zone.add(
        [
            event(
                f"2026-03-30 1{hour}:{minute:02d}:00",
                f"of {source}",
                f"{source} {code}",
                code,
                source=source,
                price=9,
            )
            for hour, source in enumerate(codes)
            for minute, code in enumerate(codes[source])
        ]
    )
    zone.add(
        [
            event(
                f"2026-03-30 16:0{n}:00",
                "critic",
                f"film {n}",
                "rating",
                source=films,
                rating=stars,
            )
            for n, stars in enumerate([0.5, 2, 3.5, 4, 5])
        ]
    )
    # A day is as good as complete, and then a file comes with a row of it, and with one seen before.
    zone.add(
        [
            event("2026-03-27 09:00:00", "anna", "mug", "browse", event_id="w1", price=10),
            event("2026-03-27 09:04:00", "ben", "pot", "browse", event_id="w13", price=30),
        ]
    )
    # Numbers that nobody means, but that are numbers.
    own = {"source": "absurd", "price": 5}
    zone.add(
        [
            event("2026-03-28 18:00:00", "fay", "gold", "purchase", quantity=1e30, **own),
            event("2026-03-28 18:01:00", "fay", "gold", "purchase", quantity=-1e30, **own),
            event("2026-03-28 18:02:00", "fay", "gold", "purchase", quantity=2, **(own | {"price": 1e300})),
            event("2026-03-28 18:03:00", "fay", "gold", "purchase", quantity=1e6, **(own | {"price": None})),
            event("2026-03-28 18:04:00", "fay", "film 1", "rating", source=films, rating=1e12),
            event("2026-03-28 18:05:00", "fay", "film 1", "rating", source=films),
        ],
        products=[product("gold", None, "Gold", 1e30, category="Metal")],
    )
