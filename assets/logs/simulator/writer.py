"""Puts the simulated shop's files into the home: written aside, in place by one rename each."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterable
from datetime import date
from pathlib import Path

from assets.logs.simulator.catalogue import Catalogue

CATALOGUE = "nightshelf_catalogue"
CATALOGUE_COLUMNS = (
    "item_id",
    "valid_from",
    "title",
    "description",
    "category",
    "brand",
    "price",
    "currency",
    "in_stock",
)


def catalogue_text(catalogue: Catalogue, items: Iterable[int], day: date, currency: str) -> str:
    """Nightshelf's catalogue CSV for some products, as they are from `day` on."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(CATALOGUE_COLUMNS)
    ids = catalogue.item_ids()
    for item in items:
        words = catalogue.words[item]
        table.writerow(
            (
                ids[item],
                day.isoformat(),
                words.title,
                words.description,
                catalogue.types[catalogue.type[item]].path,
                catalogue.brand_name(item),
                f"{catalogue.price[item]:.2f}",
                currency,
                "true" if catalogue.in_stock[item] else "false",
            )
        )
    return out.getvalue()


def put(text: str, target: Path, aside: Path) -> str:
    """Write `text` to `target` by way of `aside`, a folder on the same disk.

    Returns:
        SHA-256 of the bytes, hexadecimal.
    """
    content = text.encode("utf-8")
    draft = aside / target.name
    draft.write_bytes(content)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft.replace(target)
    return hashlib.sha256(content).hexdigest()
