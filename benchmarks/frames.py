"""Raw events to labels and marts with polars: the same rows as `bare.sql`, for `benchmarks.warehouse`.

All in memory, as one would write it there. Two things differ in form: a session's id is a text that names
shopper, day and number, not a hash of it, and weights are doubles, not decimals.
"""

from __future__ import annotations

import time
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

MOST_ACTIONS_PER_MINUTE, MOST_ACTIONS_PER_DAY = 40, 600
HIGHEST_PRICE, HIGHEST_QUANTITY = 1_000_000, 1_000_000
ITEM_RATIO, CATEGORY_RATIO = 10, 100
GAP, TRAILING_DAYS, HISTORY_DAYS, HISTORY, GAPS = timedelta(minutes=30), 28, 7, 20, 10
WORDS = {"impression": "browse", "tap": "click", "add_to_basket": "cart", "order": "purchase"}
WEIGHTS = {"browse": 1.0, "click": 2.0, "cart": 5.0, "purchase": 10.0}
EVENT, MOMENT = ["day", "event_id", "item_id"], ["event_at", "event_id", "item_id"]


def with_polars(loads: Path, out: Path) -> float:
    """Read the raw zone below `loads`, write one Parquet file per result into `out`; the seconds it took."""
    import polars as pl

    began = time.monotonic()
    products = _products(loads)
    flagged = _flagged(_raw(loads), products)
    events = _sessions(flagged.filter(pl.col("removed_because").is_null()))
    tables = {
        "quality_funnel": _funnel(flagged),
        "lbl_behaviors": _behaviors(events),
        "lbl_next_item": _histories(events),
        "fct_events": _standardised(events),
        "fct_item_pairs": _pairs(events),
        "fct_popularity": events.group_by("day", "item_id").agg(
            *_counts(), pl.col("user_key").n_unique().alias("users"), pl.col("weight").sum()
        ),
        "dim_users": events.group_by("user_key").agg(
            pl.col("day").min().alias("first_day"),
            pl.col("day").max().alias("last_day"),
            *_counts(),
            _revenue(),
        ),
        "dim_items": _items(events, products),
    }
    for name, table in tables.items():
        table.write_parquet(out / f"{name}.parquet")
    return time.monotonic() - began


def _products(loads: Path) -> pl.DataFrame:
    import polars as pl

    since = pl.col("valid_from").fill_null(date(1970, 1, 1))
    price = pl.when(pl.col("price").is_between(0, HIGHEST_PRICE, closed="right")).then(pl.col("price"))
    return (
        pl.scan_parquet(f"{loads}/*/products.parquet")
        .filter(pl.col("item_id").is_not_null())
        .with_columns(since, price)
        .sort("load_id", "line", descending=True)
        .unique(["item_id", "valid_from"], keep="first", maintain_order=True)
        .sort("valid_from")
        .collect()
    )


def _raw(loads: Path) -> pl.DataFrame:
    import polars as pl

    behavior = pl.col("behavior").str.strip_chars().str.to_lowercase().replace(WORDS).alias("behavior")
    return (
        pl.scan_parquet(f"{loads}/*/events/*/*.parquet", hive_partitioning=True, hive_schema={"day": pl.Date})
        .drop("session_key", "order_key", "rating", "extra")
        .with_columns(behavior)
        .collect()
    )


def _flagged(raw: pl.DataFrame, products: pl.DataFrame) -> pl.DataFrame:
    """Every row with `removed_because`."""
    import polars as pl

    repeated = pl.struct(EVENT).is_duplicated()
    order = ["received_at", "event_at", "user_key", "behavior", "price", "quantity", "load_id", "line"]
    copies = raw.filter(repeated).sort(order, nulls_last=True)
    copies = copies.with_columns(pl.int_range(pl.len()).over(EVENT).alias("copy"))
    rows = pl.concat([raw.filter(~repeated).with_columns(pl.lit(0, pl.Int64).alias("copy")), copies])
    known = products.select("item_id", "valid_from", own_category="category", own_price="price")
    rows = rows.sort("day").join_asof(
        known, left_on="day", right_on="valid_from", by="item_id", check_sortedness=False
    )
    rows = rows.with_columns(pl.coalesce("own_category", "category").alias("category"))
    once = rows.filter(pl.col("copy") == 0)
    priced = once.filter(pl.col("price").is_between(0, HIGHEST_PRICE, closed="right"))
    for of, least in (("item_id", 3), ("category", 30)):
        usual = priced.filter(pl.col(of).is_not_null()).group_by("day", of, "currency").agg(
            pl.col("price").median().alias(f"usual_{of}"), pl.len().alias("n")
        )  # fmt: skip
        usual = usual.filter(pl.col("n") >= least).drop("n")
        rows = rows.join(usual, on=["day", of, "currency"], how="left", nulls_equal=True)
    rows = rows.join(
        _robots(once).with_columns(pl.lit(True).alias("robot")), on=["day", "user_key"], how="left"
    )
    apart = [
        pl.max_horizontal(pl.col("price") / pl.col(usual), pl.col(usual) / pl.col("price")) > most
        for usual, most in (("usual_item_id", ITEM_RATIO), ("usual_category", CATEGORY_RATIO))
    ]
    price, quantity, bought = pl.col("price"), pl.col("quantity"), pl.col("behavior") == "purchase"
    reasons = {
        "duplicate": pl.col("copy") > 0,
        "missing_key": pl.col("user_key").is_null() | pl.col("item_id").is_null(),
        "unknown_behavior": ~pl.col("behavior").is_in(list(WEIGHTS)),
        "refund": quantity < 0,
        "bot": pl.col("robot"),
        "price_out_of_range": (price < 0) | (price > HIGHEST_PRICE) | ((price == 0) & bought),
        "quantity_out_of_range": (quantity == 0) | (quantity > HIGHEST_QUANTITY),
        "price_outlier": (price > 0) & pl.coalesce(*apart),
    }
    found = [pl.when(condition).then(pl.lit(reason)) for reason, condition in reasons.items()]
    return rows.with_columns(pl.coalesce(*found).alias("removed_because"))


def _robots(once: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    key = ["day", "user_key"]
    busy = once.group_by(key).len().filter(pl.col("len") > MOST_ACTIONS_PER_MINUTE)
    actions = once.join(busy, on=key, how="semi").unique([*key, "behavior", "event_at"])
    paces = actions.group_by(*key, pl.col("event_at").dt.truncate("1m").alias("minute")).len()
    most = paces.group_by(key).agg(
        pl.col("len").sum().alias("of_day"), pl.col("len").max().alias("of_minute")
    )
    too_many = (pl.col("of_day") > MOST_ACTIONS_PER_DAY) | (pl.col("of_minute") > MOST_ACTIONS_PER_MINUTE)
    return most.filter(too_many).select(key)


def _sessions(kept: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    key = ["day", "user_key"]
    same = (pl.col("user_key") == pl.col("user_key").shift()) & (pl.col("day") == pl.col("day").shift())
    begins = ~(same & (pl.col("event_at") - pl.col("event_at").shift() <= GAP)).fill_null(False)
    return (
        kept.sort("user_key", *MOMENT)
        .with_columns(begins.alias("begins"))
        .with_columns(pl.col("begins").cast(pl.Int64).cum_sum().over(key).alias("number"))
        .with_columns(
            pl.format("{}|{}|{}", "user_key", "day", "number").alias("session_id"),
            pl.col("behavior").replace_strict(WEIGHTS, return_dtype=pl.Float64).alias("weight"),
            pl.when(pl.col("price") > 0).then(pl.col("price")).otherwise(pl.col("own_price")).alias("price"),
        )
        .select(
            *(
                "day",
                "event_id",
                "source",
                "event_at",
                "user_key",
                "session_id",
                "item_id",
                "title",
                "category",
            ),
            *("brand", "behavior", "weight", "price", "quantity", "load_id", "line"),
        )
    )


def _counts() -> list[pl.Expr]:
    import polars as pl

    each = [(pl.col("behavior") == word).sum().alias(f"{word}s") for word in WEIGHTS]
    return [pl.len().alias("events"), *each]


def _revenue() -> pl.Expr:
    import polars as pl

    paid = pl.col("price") * pl.col("quantity").fill_null(1)
    return paid.filter(pl.col("behavior") == "purchase").sum().alias("revenue")


def _funnel(flagged: pl.DataFrame) -> pl.DataFrame:
    """A day of which nothing is kept has a row that says so."""
    import polars as pl

    key, removed = ["day", "source"], pl.col("removed_because")
    whole = flagged.group_by(key).agg(pl.len().alias("raw"), removed.is_null().sum().alias("kept"))
    parts = flagged.filter(removed.is_not_null()).group_by(*key, removed.alias("step")).len("rows")
    return pl.concat([whole.unpivot(index=key, variable_name="step", value_name="rows"), parts])


def _behaviors(events: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    strongest = pl.col("behavior").sort_by("weight").last()
    return events.group_by("day", "user_key", "item_id").agg(
        strongest, pl.col("weight").max(), *_counts()[1:], _revenue()
    )


def _histories(events: pl.DataFrame) -> pl.DataFrame:
    """The rows are sorted by shopper and time, so what came before is so many rows up."""
    import polars as pl

    def before(column: str) -> pl.Expr:
        places = []
        for place in range(HISTORY, 0, -1):
            fits = (pl.col("user_key").shift(place) == pl.col("user_key")) & (
                pl.col("day").shift(place) >= pl.col("day") - timedelta(days=HISTORY_DAYS)
            )
            places.append(pl.when(fits).then(pl.col(column).shift(place)))
        return pl.concat_list(places).list.drop_nulls()

    return (
        events.sort("user_key", *MOMENT, "behavior")
        .select(
            "day", "event_id", "user_key", "event_at",
            before("item_id").alias("history_items"), before("behavior").alias("history_behaviors"),
            "item_id", "behavior",
        )
        .filter(pl.col("history_items").list.len() > 0)
    )  # fmt: skip


def _standardised(events: pl.DataFrame) -> pl.DataFrame:
    import polars as pl

    def recent(daily: pl.DataFrame, key: str) -> pl.DataFrame:
        sums = [
            pl.col(name).rolling_sum_by("day", window_size=f"{TRAILING_DAYS}d").over(key)
            for name in ("n", "s", "q")
        ]
        return daily.sort("day").with_columns(sums)

    def z(x: str, to: str) -> pl.Expr:
        mean, square = pl.col("s") / pl.col("n"), pl.col("q") / pl.col("n")
        variance = square - mean * mean
        return (
            pl.when(pl.col(x).is_null()).then(None).when(variance <= 1e-9 * square).then(0.0)
            .otherwise((pl.col(x) - mean) / variance.sqrt()).alias(to)
        )  # fmt: skip

    category, price = pl.col("category").fill_null("(none)"), pl.col("price")
    prices = (
        events.filter(price.is_not_null())
        .group_by("day", category)
        .agg(pl.len().cast(pl.Float64).alias("n"), price.sum().alias("s"), (price**2).sum().alias("q"))
    )
    users = events.group_by("day", "user_key").agg(pl.len().cast(pl.Float64).alias("activity"))
    users = users.with_columns(
        pl.lit(1.0).alias("n"), pl.col("activity").alias("s"), (pl.col("activity") ** 2).alias("q")
    )
    rows = events.with_columns(category).drop("title", "brand")
    rows = rows.join(recent(prices, "category"), on=["day", "category"], how="left")
    rows = rows.with_columns(z("price", "price_z")).drop("n", "s", "q", "category")
    rows = rows.join(recent(users, "user_key"), on=["day", "user_key"], how="left")
    return rows.with_columns(z("activity", "activity_z")).drop("n", "s", "q", "activity")


def _pairs(events: pl.DataFrame) -> pl.DataFrame:
    """Sorted by session and time, what follows is so many rows down."""
    import polars as pl

    session = pl.col("session_id")
    steps = events.sort("session_id", *MOMENT).select("day", "session_id", "item_id")
    same = (session == session.shift()) & (pl.col("item_id") == pl.col("item_id").shift())
    steps = steps.filter(~same.fill_null(False))
    parts = []
    for gap in range(1, GAPS + 1):
        other = pl.col("item_id").shift(-gap)
        paired = (session.shift(-gap) == session) & (other != pl.col("item_id"))
        parts.append(
            steps.select("day", "item_id", other.alias("other_item_id"), paired.alias("paired"))
            .filter(pl.col("paired"))
            .select("day", "item_id", "other_item_id", pl.lit(0.8 ** (gap - 1)).alias("weight"))
        )
    key = ["day", "item_id", "other_item_id"]
    forward = pl.concat(parts).group_by(key).agg(pl.len().alias("pairs"), pl.col("weight").sum())
    back = forward.rename({"item_id": "other_item_id", "other_item_id": "item_id"})
    back = back.with_columns(pl.col("weight") / 2).select(forward.columns)
    return pl.concat([forward, back]).group_by(key).agg(pl.col("pairs", "weight").sum())


def _items(events: pl.DataFrame, products: pl.DataFrame) -> pl.DataFrame:
    """Items of the catalogue; those that only events name are told by these."""
    import polars as pl

    seen = events.group_by("item_id").agg(
        pl.col("day").min().alias("first_seen_day"), pl.col("day").max().alias("last_seen_day")
    )
    told = ["item_id", "title", "description", "category", "brand", "price", "in_stock"]
    newest = products.sort("valid_from").unique("item_id", keep="last").select(told)
    strange = events.sort("day").unique("item_id", keep="last").join(newest, on="item_id", how="anti")
    strange = strange.select("item_id", "title", "category", "brand", "price")
    return pl.concat([newest, strange], how="diagonal_relaxed").join(seen, on="item_id", how="left")
