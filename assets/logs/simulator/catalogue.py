"""The simulated shop's products: what they are, what they cost today, and which go together.

Text carries taste: a product's style picks its adjectives, colour and one sentence of its description, its
brand and line stand in the title. The same style, brand and line make up most of its latent vector, so a
model that reads the text can tell who will like a product that nobody has met yet. The rest is hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from assets.logs.simulator.clock import Floats, Ints, random
from assets.logs.simulator.vocabulary import Brand, ProductType, Style, Thing, Vocabulary

T = TypeVar("T")

DIMENSIONS = 12
"""Length of the latent vectors of products and shoppers."""

# Shares of a product's latent vector; each part has length 1 before. Text gives away all but the last.
_STYLE, _BRAND, _LINE, _HIDDEN = 1.25, 0.9, 0.8, 0.7

LAUNCHES = 0.004
"""New products a day as a share of the catalogue: 8 of 2,000."""
_SALES, _REPRICED, _SOLD_OUT = 0.010, 0.003, 0.006
"""Products a day that go on sale, change their price for good, run out of stock."""

_PRODUCTS_A_TYPE = 6
"""Smaller catalogues have fewer product types rather than types without choice."""


@dataclass(frozen=True)
class Words:
    """What the shop prints about one product."""

    title: str
    description: str


@dataclass
class Catalogue:
    """All products so far, one array position a product. Prices are in the shop's currency."""

    seed: int
    vocabulary: Vocabulary
    types: tuple[ProductType, ...]
    words: list[Words] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    type: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    brand: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Position in `vocabulary.brands`."""
    style: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    tier: Floats = field(default_factory=lambda: np.zeros(0))
    """Dearness among its kind: log(price / median of such things) / 0.6."""
    vector: Floats = field(default_factory=lambda: np.zeros((0, DIMENSIONS)))
    quality: Floats = field(default_factory=lambda: np.zeros(0))
    trend: Floats = field(default_factory=lambda: np.zeros(0))
    full_price: Floats = field(default_factory=lambda: np.zeros(0))
    price: Floats = field(default_factory=lambda: np.zeros(0))
    in_stock: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    launched: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    """Number of the day on which it came into the shop."""
    _sale_ends: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    _restocked: Ints = field(default_factory=lambda: np.zeros(0, np.int64))
    _titles: set[str] = field(default_factory=set)
    _shelf: Ints = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    _shelf_vectors: Floats = field(default_factory=lambda: np.zeros((0, 0, DIMENSIONS)))

    @classmethod
    def open(cls, seed: int, vocabulary: Vocabulary, products: int) -> Catalogue:
        """The catalogue of the first day."""
        rng = random(seed, 1, 0)
        kept = min(len(vocabulary.types), max(8, products // _PRODUCTS_A_TYPE))
        catalogue = cls(seed, vocabulary, vocabulary.types[:kept])
        # Two of each, so that every product has an alternative; the rest by the departments' weights.
        both = np.tile(np.arange(kept), 2)[:products]
        rest = rng.choice(kept, size=products - len(both), p=catalogue._type_weights())
        catalogue._add(rng, np.sort(np.concatenate([both, rest])), day=0)
        catalogue._restack()
        return catalogue

    def __len__(self) -> int:
        return len(self.words)

    def item_ids(self) -> list[str]:
        return [f"P{10_000 + position}" for position in range(len(self))]

    def brand_name(self, item: int) -> str:
        """The brand's name; empty for the few products that the shop lists without one."""
        brand = int(self.brand[item])
        return self.vocabulary.brands[brand].name if brand >= 0 else ""

    @property
    def goes_with(self) -> list[list[int]]:
        """For each type, the types that sell together with it; itself where there is none."""
        place = {kind.leaf: position for position, kind in enumerate(self.types)}
        found = [[place[leaf] for leaf in kind.sells_with if leaf in place] for kind in self.types]
        return [others or [position] for position, others in enumerate(found)]

    def pass_night(self, day: int) -> Ints:
        """Turn to day number `day`: launches, sales, prices, stock, trends.

        Returns:
            Positions of the products that are new or whose price or stock changed, in order.
        """
        rng = random(self.seed, 1, day)
        before, price, stock = len(self), self.price.copy(), self.in_stock.copy()
        self._reprice(rng, day)
        self._restock(rng, day)
        self.trend = 0.9 * self.trend + rng.normal(0, 0.12, before)
        launched = rng.choice(len(self.types), size=rng.poisson(LAUNCHES * before), p=self._type_weights())
        self._add(rng, launched, day)
        self._restack()
        changed = np.flatnonzero((self.price[:before] != price) | (self.in_stock[:before] != stock))
        return np.concatenate([changed, np.arange(before, len(self))])

    def appeal(self) -> Floats:
        """Log attractiveness of each product to everybody today."""
        sale = np.log(self.full_price / self.price) * 2
        return self.quality + self.trend + sale - 1.5 * ~self.in_stock

    def choose(
        self,
        rng: np.random.Generator,
        types: Ints,
        wish: Floats,
        tier: Floats,
        *,
        appeal: Floats,
        other_than: Ints,
    ) -> Ints:
        """One product of each type asked for, by P ∝ exp(wish · vector − 0.8 |tier − tier| + appeal).

        Args:
            types, tier, other_than: [n]; `other_than` is a product not to choose, or −1.
            wish: [n, DIMENSIONS].
            appeal: [products], as `appeal()` gives it.
        """
        shelf = self._shelf[types]
        score = np.einsum("nd,nmd->nm", wish, self._shelf_vectors[types])
        score += appeal[shelf] - 0.8 * np.abs(tier[:, None] - self.tier[shelf])
        score[(shelf < 0) | (shelf == other_than[:, None])] = -np.inf
        weights = np.cumsum(np.exp(score - score.max(axis=1, keepdims=True)), axis=1)
        drawn = (weights <= rng.random((len(types), 1)) * weights[:, -1:]).sum(axis=1)
        chosen: Ints = shelf[np.arange(len(types)), np.minimum(drawn, shelf.shape[1] - 1)]
        return chosen

    def _type_weights(self) -> Floats:
        weights = np.array([self.vocabulary.department_weight[kind.department] for kind in self.types])
        return weights / weights.sum()

    def _reprice(self, rng: np.random.Generator, day: int) -> None:
        count = len(self)
        ended = self._sale_ends == day
        self.price[ended] = self.full_price[ended]
        for item in np.flatnonzero(rng.random(count) < _REPRICED):
            factor = 0.92 if rng.random() < 0.4 else 1.08
            self.full_price[item] = self.price[item] = shop_price(rng, self.full_price[item] * factor)
            self._sale_ends[item] = 0
        for item in np.flatnonzero((rng.random(count) < _SALES) & (self._sale_ends <= day)):
            reduced = self.full_price[item] * (1 - 0.05 * rng.integers(2, 7))
            self.price[item] = min(shop_price(rng, reduced), self.full_price[item])
            self._sale_ends[item] = day + rng.integers(3, 8)

    def _restock(self, rng: np.random.Generator, day: int) -> None:
        self.in_stock[self._restocked == day] = True
        gone = np.flatnonzero((rng.random(len(self)) < _SOLD_OUT) & self.in_stock)
        self.in_stock[gone] = False
        self._restocked[gone] = day + rng.integers(2, 7, len(gone))

    def _add(self, rng: np.random.Generator, types: Ints, day: int) -> None:
        made = [self._make(rng, int(kind)) for kind in types]
        count = len(made)
        if not count:
            return
        self.words += [one.words for one in made]
        self.lines += [one.line for one in made]
        self.type = np.concatenate([self.type, types])
        self.brand = np.append(self.brand, [one.brand for one in made])
        self.style = np.append(self.style, [one.style for one in made])
        self.tier = np.append(self.tier, [one.tier for one in made])
        self.vector = np.vstack([self.vector, [one.vector for one in made]])
        self.quality = np.append(self.quality, [one.quality for one in made])
        # What is new stands on the front page for a while.
        self.trend = np.append(self.trend, np.full(count, 1.2) if day else rng.normal(0, 0.25, count))
        prices = [one.price for one in made]
        self.full_price = np.append(self.full_price, prices)
        self.price = np.append(self.price, prices)
        self.in_stock = np.append(self.in_stock, np.ones(count, bool) if day else rng.random(count) > 0.02)
        self.launched = np.append(self.launched, np.full(count, day))
        self._sale_ends = np.append(self._sale_ends, np.zeros(count, np.int64))
        back = np.where(self.in_stock[-count:], 0, rng.integers(1, 6, count))
        self._restocked = np.append(self._restocked, back)

    def _make(self, rng: np.random.Generator, kind: int) -> _Product:
        product_type = self.types[kind]
        names = self.vocabulary.brands
        brands = [n for n, one in enumerate(names) if one.department == product_type.department]
        brand = int(pick(rng, brands))
        style = int(rng.integers(len(self.vocabulary.styles)))
        line = pick(rng, self.vocabulary.lines[product_type.department])
        maker = names[brand]
        thing = pick(rng, product_type.things)
        price = thing.price * (0.62, 1.0, 1.95)[maker.tier] * np.exp(rng.normal(0, 0.28))
        price = shop_price(rng, float(price))
        words = self._describe(rng, product_type, thing, maker, look=self.vocabulary.styles[style], line=line)
        vector = (
            _STYLE * latent(self.seed, 1, style)
            + _BRAND * latent(self.seed, 2, brand)
            + _LINE * latent(self.seed, 3, brand, self.vocabulary.lines[product_type.department].index(line))
            + _HIDDEN * unit(rng.normal(size=DIMENSIONS))
        )
        # Some brands and looks sell better than others with everybody, which text can tell; not so the rest.
        department = list(self.vocabulary.lines).index(product_type.department)
        quality = (
            0.45 * rng.normal()
            + 0.4 * fame(self.seed, 4, brand)
            + 0.4 * fame(self.seed, 5, style, department)
        )
        # Market stalls' own imports come without a brand.
        listed = brand if rng.random() > 0.02 or maker.name in words.title else -1
        tier = float(np.log(price / thing.price) / 0.6)
        return _Product(words, listed, style, line, tier, vector, quality, price)

    def _describe(
        self,
        rng: np.random.Generator,
        kind: ProductType,
        thing: Thing,
        brand: Brand,
        *,
        look: Style,
        line: str,
    ) -> Words:
        while True:
            slots = {
                "brand": brand.name,
                "line": line,
                "adjective": pick(rng, look.adjectives[kind.words]),
                "noun": thing.noun,
                "material": pick(rng, thing.made_of) if thing.made_of else "",
                "variant": pick(rng, thing.kinds or look.colors),
                "size": pick(rng, thing.sizes),
            }
            if _repeats(slots["material"], slots["noun"]):
                slots["material"] = ""
            if _repeats(slots["adjective"], f"{slots['material']} {slots['variant']} {slots['noun']}"):
                continue
            templates = _TITLES if slots["material"] else _TITLES_WITHOUT_MATERIAL
            title = " ".join(pick(rng, templates).format_map(slots).split())
            if title not in self._titles:
                self._titles.add(title)
                partner = pick(rng, kind.sells_with).lower()
                return Words(title, _description(rng, thing, look.says[kind.words], partner, slots))

    def _restack(self) -> None:
        """Lay the products out by type, [types, most products of a type], padded with −1."""
        order = np.argsort(self.type, kind="stable")
        counts = np.bincount(self.type, minlength=len(self.types))
        place = np.arange(len(self)) - np.repeat(np.cumsum(counts) - counts, counts)
        self._shelf = np.full((len(self.types), int(counts.max())), -1, np.int64)
        self._shelf[self.type[order], place] = order
        self._shelf_vectors = self.vector[self._shelf]


@dataclass(frozen=True)
class _Product:
    words: Words
    brand: int
    style: int
    line: str
    tier: float
    vector: Floats
    quality: float
    price: float


_TITLES = (
    "{brand} {adjective} {material} {noun}, {variant}",
    "{brand} {adjective} {material} {noun}, {size}, {variant}",
    "{brand} {line} {material} {noun}, {size}, {variant}",
    "{brand} {line} {adjective} {noun}, {variant}",
    "{brand} {line} {adjective} {noun}, {material}, {size}",
    "{adjective} {material} {noun} {line}, {size}, {variant}",
)
_TITLES_WITHOUT_MATERIAL = (
    "{brand} {adjective} {noun} {variant}, {size}",
    "{brand} {line} {adjective} {noun}, {variant}, {size}",
    "{brand} {adjective} {variant} {noun}, {size}",
    "{adjective} {noun} {line}, {variant}, {size}",
)
# Selling points are phrases and clauses alike, so that they stand after a colon.
_OPENINGS = (
    "{noun}: {first}, {second}.",
    "Two good reasons for this {adjective} {noun}: {first}, and {second}.",
    "From the {line} range by {brand}: {first}, {second}.",
    "What the {line} {noun} is praised for: {first}, {second}.",
    "Our buyers' pick from {brand}. They like this about it: {first}.",
)
_VERSIONS = (
    "This is the {material} version in {variant}.",
    "Shown here: {material}, {variant}.",
    "Also available in other sizes than {size}.",
)
_CLOSINGS = (
    "Size: {size}.",
    "Delivered in two to three days.",
    "{size}, {variant}.",
    "Goes well with our {partner}.",
    "Customers also like it as a gift.",
    "Thirty days to return it.",
    "Often bought together with {partner}.",
)


def _description(
    rng: np.random.Generator, thing: Thing, says: Sequence[str], partner: str, slots: dict[str, str]
) -> str:
    first, second = (thing.points[int(n)] for n in rng.permutation(len(thing.points))[:2])
    filled = {**slots, "first": first, "second": second, "partner": partner}
    sentences = [pick(rng, _OPENINGS), pick(rng, says)]
    if slots["material"]:
        sentences.append(pick(rng, _VERSIONS))
    sentences.append(pick(rng, _CLOSINGS))
    written = [" ".join(sentence.format_map(filled).split()) for sentence in sentences]
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in written)


def _repeats(material: str, noun: str) -> bool:
    """Nobody sells a 'Linen Linen Shirt' or 'Foldable Folding Bench'."""
    stems = {word[:4].lower() for word in noun.replace("-", " ").split()}
    return any(word[:4].lower() in stems for word in material.replace("-", " ").split())


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def unit(vector: Floats) -> Floats:
    scaled: Floats = vector / np.sqrt((vector * vector).sum())
    return scaled


@lru_cache(maxsize=4096)
def latent(seed: int, *what: int) -> Floats:
    """The direction that a style, a brand or a brand's line stands for in this world; length 1."""
    return unit(random(seed, 0, *what).normal(size=DIMENSIONS))


def fame(seed: int, *what: int) -> float:
    """How much more than others everybody likes a brand, or a style in a department; standard normal."""
    return float(latent(seed, *what)[0] * np.sqrt(DIMENSIONS))


def shop_price(rng: np.random.Generator, amount: float) -> float:
    """A price as shops write them: mostly .99, some .50, .95 and .49, whole tens above 200."""
    roll = rng.random()
    if amount >= 200 and roll < 0.35:
        return float(round(amount / 10) * 10 - (1 if roll < 0.2 else 0))
    cents = 0.99 if roll < 0.7 else 0.50 if roll < 0.85 else 0.95 if roll < 0.95 else 0.49
    return round(max(0.0, np.floor(amount - cents + 0.5)) + cents, 2)
