"""The words of the simulated shop: product types, brands and styles, from `vocabulary.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

TIERS = ("budget", "middle", "premium")
"""Price tiers of brands, cheapest first."""


@dataclass(frozen=True)
class Thing:
    """What a product is called, and what things of that name are made of, come in and are praised for."""

    noun: str
    made_of: tuple[str, ...]
    sizes: tuple[str, ...]
    kinds: tuple[str, ...]
    """Flavours, scents or editions; where there are none, things come in the colours of their style."""
    points: tuple[str, ...]
    price: float
    """Median price of a middle-tier brand's."""


@dataclass(frozen=True)
class ProductType:
    """One leaf of the category tree, the things in it, and how they sell."""

    path: str
    department: str
    things: tuple[Thing, ...]
    sells_with: tuple[str, ...]
    repeat_days: int
    """Days until it is bought again; 0 where it is no consumable."""
    season: str
    words: str

    @property
    def leaf(self) -> str:
        return self.path.rsplit(" > ", 1)[1]


@dataclass(frozen=True)
class Style:
    """A look that some products have and some shoppers like; its words are what gives it away."""

    name: str
    adjectives: dict[str, tuple[str, ...]]
    colors: tuple[str, ...]
    says: dict[str, tuple[str, ...]]
    """Sentences about it, like `adjectives` by `ProductType.words`."""


@dataclass(frozen=True)
class Brand:
    name: str
    department: str
    tier: int
    """Index into `TIERS`."""


@dataclass(frozen=True)
class Vocabulary:
    types: tuple[ProductType, ...]
    styles: tuple[Style, ...]
    brands: tuple[Brand, ...]
    lines: dict[str, tuple[str, ...]]
    """Names of product lines, by department."""
    department_weight: dict[str, float]


@cache
def vocabulary() -> Vocabulary:
    """The shipped vocabulary, read once."""
    text = Path(__file__).with_name("vocabulary.yaml").read_text(encoding="utf-8")
    raw: dict[str, Any] = yaml.safe_load(text)
    departments = raw["departments"]
    return Vocabulary(
        types=tuple(_product_type(fields, raw["exceptions"]) for fields in raw["types"]),
        styles=tuple(_style(name, fields) for name, fields in raw["styles"].items()),
        brands=tuple(
            Brand(name, department, tier)
            for department, fields in departments.items()
            for tier, key in enumerate(TIERS)
            for name in fields[key]
        ),
        lines={department: tuple(fields["lines"]) for department, fields in departments.items()},
        department_weight={department: fields["weight"] for department, fields in departments.items()},
    )


def _product_type(fields: dict[str, Any], exceptions: dict[str, Any]) -> ProductType:
    return ProductType(
        path=fields["path"],
        department=fields["path"].split(" > ")[0],
        things=tuple(_thing(noun, {**fields, **exceptions.get(noun, {})}) for noun in fields["nouns"]),
        sells_with=tuple(fields["with"]),
        repeat_days=int(fields.get("repeat", 0)),
        season=fields.get("season", ""),
        words=fields.get("words", "things"),
    )


def _thing(noun: str, fields: dict[str, Any]) -> Thing:
    keys = ("made_of", "sizes", "kinds", "points")
    made_of, sizes, kinds, points = (tuple(fields.get(key, ())) for key in keys)
    return Thing(noun, made_of, sizes, kinds, points, float(fields["price"]))


def _style(name: str, fields: dict[str, Any]) -> Style:
    words = ("things", "food", "care")
    return Style(
        name,
        adjectives={key: tuple(fields[key]) for key in words},
        colors=tuple(fields["colors"]),
        says={key: tuple(fields["says"][key]) for key in words},
    )
