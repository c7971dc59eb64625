"""A little shop to train on: a warehouse with the marts that a snapshot reads, and a tiny encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import duckdb
import numpy as np
import torch
from transformers import BertConfig, BertModel, BertTokenizer

D = date(2026, 1, 20)
"""The cut-off day."""
ADJECTIVES = ("red", "blue", "warm", "light", "small", "large", "soft", "strong")
NOUNS = ("shoe", "lamp", "kettle", "book", "tent", "chair", "coat", "drill")
SCHEMA = """
CREATE SCHEMA marts; CREATE SCHEMA labels;
CREATE TABLE marts.fct_events (event_id VARCHAR, day DATE, event_at TIMESTAMP, user_key VARCHAR,
    session_id VARCHAR, item_id VARCHAR, behavior VARCHAR, weight DOUBLE, price DOUBLE, quantity DOUBLE,
    price_z DOUBLE, activity_z DOUBLE, source VARCHAR, load_id VARCHAR, line BIGINT);
CREATE TABLE labels.lbl_behaviors (day DATE, user_key VARCHAR, item_id VARCHAR, behavior VARCHAR,
    weight DOUBLE, browses INTEGER, clicks INTEGER, carts INTEGER, purchases INTEGER, revenue DOUBLE);
CREATE TABLE marts.dim_item_versions (item_id VARCHAR, valid_from DATE, title VARCHAR, description VARCHAR,
    category VARCHAR, brand VARCHAR, price DOUBLE, in_stock BOOLEAN);
CREATE TABLE marts.fct_popularity (day DATE, item_id VARCHAR, events BIGINT, users BIGINT, browses BIGINT,
    clicks BIGINT, carts BIGINT, purchases BIGINT, weight DOUBLE);
"""


class LittleWarehouse:
    """A DuckDB file with `read` as the real warehouse has it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    @contextmanager
    def read(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with duckdb.connect(str(self.file), read_only=True) as connection:
            yield connection

    def run(self, sql: str) -> None:
        with duckdb.connect(str(self.file)) as connection:
            connection.execute(sql)


def little_warehouse(
    folder: Path, *, items: int = 40, users: int = 30, days: int = 12, events_a_day: int = 60, words: int = 0
) -> LittleWarehouse:
    """`days` days of seeded events up to and including `D`; shoes get bought, lamps clicked, others browsed.

    Args:
        words: words of description per item, to make texts as long as a shop's.
    """
    warehouse = LittleWarehouse(folder / "warehouse.duckdb")
    rng = np.random.default_rng(3)
    nouns = [NOUNS[n % len(NOUNS)] for n in range(items)]
    adjectives = [ADJECTIVES[n // len(NOUNS) % len(ADJECTIVES)] for n in range(items)]
    about = [" ".join(rng.choice(ADJECTIVES, words)) if words else None for _ in range(items)]
    versions = [
        (f"i{n:05d}", date(2025, 12, 1), f"{adjectives[n]} {nouns[n]} {n}", about[n],
         f"home > {nouns[n]}s", f"brand {n % 5}", 5.0 + n % 90, n % 13 != 5)
        for n in range(items)
    ]  # fmt: skip
    usual = {"shoe": "purchase", "lamp": "click", "tent": "cart"}
    events = []
    for back in reversed(range(days)):
        day = D - timedelta(days=back)
        for k in range(events_a_day):
            n, user = int(rng.integers(items)), int(rng.integers(users))
            behavior = usual.get(nouns[n], "browse") if rng.random() < 0.9 else "browse"
            events.append((f"e-{day}-{k}", day, user, n, behavior, k))
    with duckdb.connect(str(warehouse.file)) as c:
        c.execute(SCHEMA)
        c.executemany("INSERT INTO marts.dim_item_versions VALUES (?, ?, ?, ?, ?, ?, ?, ?)", versions)
        c.execute("CREATE TEMP TABLE e (event_id VARCHAR, day DATE, u INT, n INT, behavior VARCHAR, k INT)")
        values = ", ".join(f"('{i}', DATE '{d}', {u}, {n}, '{b}', {k})" for i, d, u, n, b, k in events)
        c.execute(f"INSERT INTO e VALUES {values}")
        c.execute("""
            INSERT INTO marts.fct_events
            SELECT event_id, day, day + INTERVAL 8 HOUR + INTERVAL (k * 37) SECOND, printf('k1:%04d', u),
                printf('s-%s-%d', day, u), printf('i%05d', n), behavior,
                1, 5.0 + n % 90, 1, 0, 0, 'web', 'l1', k
            FROM e;
            INSERT INTO labels.lbl_behaviors
            SELECT day, user_key, item_id,
                (['browse', 'click', 'cart', 'purchase'])[max(list_position(
                    ['browse', 'click', 'cart', 'purchase'], behavior))],
                1, count(*) FILTER (behavior = 'browse'), count(*) FILTER (behavior = 'click'),
                count(*) FILTER (behavior = 'cart'), count(*) FILTER (behavior = 'purchase'),
                coalesce(sum(price) FILTER (behavior = 'purchase'), 0)
            FROM marts.fct_events GROUP BY ALL;
            INSERT INTO marts.fct_popularity
            SELECT day, item_id, count(*), count(DISTINCT user_key), count(*) FILTER (behavior = 'browse'),
                count(*) FILTER (behavior = 'click'), count(*) FILTER (behavior = 'cart'),
                count(*) FILTER (behavior = 'purchase'), sum(weight)
            FROM marts.fct_events GROUP BY ALL;
        """)
    return warehouse


def tiny_encoder(folder: Path) -> Path:
    """A random BERT of 2 layers and 32 dimensions with a WordPiece vocabulary of the shop's words."""
    torch.manual_seed(1)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.>"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "home", "brand", *ADJECTIVES, *NOUNS]
    vocabulary += [*letters, *(f"##{letter}" for letter in letters)]
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=64).save_pretrained(folder)
    return folder
