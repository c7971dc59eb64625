"""One day in the shop: who comes, what they see, and what they do about it.

A session follows a shopper through the shop. At each step they look at a product: one like the last that they
clicked, one that goes with it, one they remember, one of a kind they like, or what everybody is looking at.
Whether they click, fill the basket and pay depends on how well the product meets their taste. So the next
step depends on the one before (co-visitation), the next day on the days before (missions, memories, used-up
coffee), and both on tastes that the products' texts partly give away.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from assets.logs.simulator.catalogue import Catalogue
from assets.logs.simulator.clock import HOURS, Floats, Ints, ShopDay, random, season, traffic
from assets.logs.simulator.shoppers import Shoppers, channel
from resources.home import BEHAVIORS

BROWSE, CLICK, CART, PURCHASE = range(len(BEHAVIORS))

_STEPS, _MOST_STEPS, _MOST_VISITS = 7.9, 30, 5
"""Mean and greatest number of products seen in a session; most sessions of a shopper in a day."""

# What the next product seen is: shares of all steps after the first; the rest is what is popular today.
_ALIKE, _TOGETHER, _REMEMBERED, _LIKED = 0.36, 0.14, 0.09, 0.26

# Log-odds of going a step further down the funnel for a product that meets the taste as well as most do. With
# the slopes they give about 59 % browse, 30 % click, 8 % cart, 3 % purchase of all events.
_CLICKS, _CLICK_SLOPE = -0.84, 0.95
_CARTS, _CART_SLOPE = -1.75, 0.35
_PAYS = -0.45


@dataclass(frozen=True)
class Events:
    """Events as arrays of one length. Times are epoch milliseconds."""

    user: Ints
    """Shopper's number, as `user_id` takes it."""
    item: Ints
    behavior: Ints
    at: Ints
    """When it happened."""
    stamped: Ints
    """When the tracker says that it happened; not `at` where a device's clock is wrong."""
    arrived: Ints
    """When it reached the shop."""
    price: Floats
    quantity: Ints
    app: NDArray[np.bool_]
    session: Ints
    event: Ints
    fault: Ints
    """What is wrong with the whole event: a position in `dirt.EVENT_FAULTS`, 0 for nothing."""

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: NDArray[np.generic]) -> Events:
        """The rows that an index or a mask picks."""
        return Events(*(getattr(self, one.name)[rows] for one in fields(self)))

    @staticmethod
    def joined(parts: list[Events]) -> Events:
        """All rows of at least one part, one after the other."""
        return Events(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Events)))


class Visits:
    """The sessions of one day, walked through side by side, one step at a time."""

    def __init__(self, catalogue: Catalogue, shoppers: Shoppers, number: int, today: ShopDay) -> None:
        self.rng = random(catalogue.seed, 3, number)
        self.catalogue, self.shoppers, self.number = catalogue, shoppers, number
        self.seasons = np.array([season(kind.season, today.day) for kind in catalogue.types])
        self.appeal = catalogue.appeal()
        self.popular = np.cumsum(np.exp(self.appeal) * self.seasons[catalogue.type])
        together = catalogue.goes_with
        self.partners = np.array([len(others) for others in together])
        self.partner = np.zeros((len(together), int(self.partners.max())), np.int64)
        for kind, others in enumerate(together):
            self.partner[kind, : len(others)] = others
        self.shown = np.zeros((0, 0), np.int64)
        self._arrive(today)

    def _arrive(self, today: ShopDay) -> None:
        rng, shoppers = self.rng, self.shoppers
        visits = rng.poisson(shoppers.visits * traffic(today.day))
        visits = np.maximum(visits, (shoppers.joined == self.number) & (self.number > 0))
        self.who = np.repeat(np.arange(len(shoppers)), np.minimum(visits, _MOST_VISITS))
        count = len(self.who)
        self.app = channel(rng, shoppers.app_share[self.who])
        web, app = (today.times(rng, HOURS[name], count) for name in ("web", "app"))
        self.clock = np.where(self.app, app, web)
        self.steps = np.minimum(rng.geometric(1 / _STEPS, count), _MOST_STEPS)
        self.session = _numbers(rng, count)
        self.anchor = np.full(count, -1)
        self.shown = np.full((count, _MOST_STEPS), -1)
        on_mission = (shoppers.mission[self.who] >= 0) & (rng.random(count) < 0.55)
        self.intent = np.where(on_mission, shoppers.mission[self.who], self._kinds_liked(self.who))
        shoppers.mission[self.who] = self.intent

    def walk(self) -> Events:
        """Everything that happens in these sessions; the shoppers remember it afterwards."""
        parts: list[Events] = []
        baskets: list[tuple[Ints, Ints]] = []
        for step in range(int(self.steps.max(initial=0))):
            here = np.flatnonzero(self.steps > step)
            item, wanted = self._next_product(here, first=step == 0)
            item = self._vary(here, item)
            self.shown[here, step] = item
            parts += self._consider(here, item, wanted, baskets)
        if baskets:
            parts.append(self._pay(*(np.concatenate(column) for column in zip(*baskets, strict=True))))
        return Events.joined(parts or [self._events(np.zeros(0, np.int64), np.zeros(0, np.int64), BROWSE)])

    def _next_product(self, here: Ints, first: bool) -> tuple[Ints, Floats]:
        """What each session looks at next, and how much more than usual they want it (log-odds)."""
        rng, catalogue, shoppers = self.rng, self.catalogue, self.shoppers
        who, anchor = self.who[here], self.anchor[here]
        roll = rng.random(len(here))
        following = anchor >= 0
        alike = following & (roll < _ALIKE)
        together = following & ~alike & (roll < _ALIKE + _TOGETHER)
        chain = _ALIKE + _TOGETHER
        remembered = (roll >= chain) & (roll < chain + _REMEMBERED) if not first else roll < 0.32
        popular = (roll >= chain + _REMEMBERED + _LIKED) & (not first)

        kind = np.where(rng.random(len(here)) < 0.6, self.intent[here], self._kinds_liked(who))
        kind = np.where(alike, catalogue.type[anchor], kind)
        partner = self.partner[catalogue.type[anchor], rng.integers(0, self.partners[catalogue.type[anchor]])]
        kind = np.where(together, partner, kind)
        # Along the chain the last product decides more than the taste does.
        pulled = (alike | together)[:, None]
        wish = (
            np.where(pulled, 0.4, 1.0) * shoppers.vector[who]
            + np.where(pulled, 1.6, 0) * catalogue.vector[anchor]
        )
        tier = np.where(pulled[:, 0], 0.5 * (catalogue.tier[anchor] + shoppers.tier[who]), shoppers.tier[who])
        item = catalogue.choose(rng, kind, wish, tier, appeal=self.appeal, other_than=anchor)

        drawn = np.searchsorted(self.popular, rng.random(len(here)) * self.popular[-1], side="right")
        item = np.where(popular, drawn, item)
        back = shoppers.recall(rng, who, self.number)
        remembered &= back >= 0
        item = np.where(remembered, back, item)
        wanted = np.where(remembered, 0.7, 0.0)
        if first:
            lacking = shoppers.needs(who, self.number)
            again = (lacking >= 0) & (rng.random(len(here)) < 0.6)
            item = np.where(again, lacking, item)
            wanted = np.where(again, 2.2, wanted)
        return item, wanted

    def _vary(self, here: Ints, item: Ints) -> Ints:
        """Most of those who saw the product in this session already look at another one that they like."""
        seen = (self.shown[here] == item[:, None]).any(axis=1) & (self.rng.random(len(here)) < 0.85)
        who = self.who[here[seen]]
        shoppers, kinds = self.shoppers, self._kinds_liked(who)
        item = item.copy()
        item[seen] = self.catalogue.choose(
            self.rng,
            kinds,
            shoppers.vector[who],
            shoppers.tier[who],
            appeal=self.appeal,
            other_than=item[seen],
        )
        return item

    def _consider(
        self, here: Ints, item: Ints, wanted: Floats, baskets: list[tuple[Ints, Ints]]
    ) -> list[Events]:
        rng, shoppers = self.rng, self.shoppers
        who = self.who[here]
        liking = self._liking(who, item)
        clicks = rng.random(len(here)) < _chance(_CLICKS + _CLICK_SLOPE * liking + wanted)
        carts = clicks & (rng.random(len(here)) < _chance(_CARTS + _CART_SLOPE * liking + wanted))
        carts &= self.catalogue.in_stock[item]
        seen = self._events(here, item, BROWSE)
        self._wait(here, 3.0, 0.6)
        clicked = self._events(here[clicks], item[clicks], CLICK)
        self._wait(here[clicks], 22.0, 0.9)
        carted = self._events(here[carts], item[carts], CART)
        self._wait(here, 7.0, 0.8)
        # They go on from what they clicked; whoever clicked nothing yet goes on from what they saw.
        moved = clicks | (self.anchor[here] < 0)
        self.anchor[here[moved]] = item[moved]
        shoppers.remember(who[clicks], item[clicks], np.where(carts[clicks], 3.0, 1.0), self.number)
        baskets.append((here[carts], item[carts]))
        return [seen, clicked, carted]

    def _pay(self, here: Ints, item: Ints) -> Events:
        rng, catalogue, shoppers = self.rng, self.catalogue, self.shoppers
        repeat = np.array([kind.repeat_days for kind in catalogue.types])[catalogue.type[item]]
        # What is dear is thought over; what is used up has to be bought.
        dear = np.log(catalogue.price[item] / 25)
        pays = rng.random(len(here)) < _chance(_PAYS + 0.6 * (repeat > 0) - 0.25 * dear)
        here, item, repeat = here[pays], item[pays], repeat[pays]
        order, item, repeat = _once(here, item, repeat)
        self._wait(np.unique(order), 90.0, 0.5)
        quantity = np.where(repeat > 0, 1 + rng.geometric(0.7, len(order)).clip(1, 4) // 2, 1)
        paid = replace(self._events(order, item, PURCHASE), quantity=quantity)
        who = self.who[order]
        shoppers.forget(who, item)
        use = repeat > 0
        lasts = np.rint(repeat * quantity * rng.uniform(0.6, 1.3, len(order))).astype(np.int64)
        due = self.number + np.maximum(2, lasts)
        shoppers.stock_up(who[use], item[use], due[use])
        # The mission is over; often what was bought calls for something that goes with it.
        kind = catalogue.type[item]
        partner = self.partner[kind, rng.integers(0, self.partners[kind])]
        shoppers.mission[who] = np.where(rng.random(len(order)) < 0.5, partner, -1)
        return paid

    def _liking(self, who: Ints, item: Ints) -> Floats:
        """How well products meet tastes; about 0 on average and 1 wide over what shoppers see."""
        shoppers, catalogue = self.shoppers, self.catalogue
        taste = np.einsum("nd,nd->n", shoppers.vector[who], catalogue.vector[item]) / 1.6
        dear = np.abs(shoppers.tier[who] - catalogue.tier[item])
        share = shoppers.likes[who, catalogue.type[item]] * len(catalogue.types)
        return taste - 0.5 * dear + 0.45 * np.log(share.clip(0.05, 30)) + 0.4 * self.appeal[item] - 0.4

    def _kinds_liked(self, who: Ints) -> Ints:
        weights = np.cumsum(self.shoppers.likes[who] * self.seasons, axis=1)
        drawn: Ints = (weights <= self.rng.random((len(who), 1)) * weights[:, -1:]).sum(axis=1)
        return np.minimum(drawn, weights.shape[1] - 1)

    def _wait(self, here: Ints, median: float, spread: float) -> None:
        """Let time pass in these sessions: log-normal, in seconds, at least half a second."""
        seconds = median * np.exp(self.rng.normal(0, spread, len(here)))
        self.clock[here] += (1000 * seconds.clip(0.5, 1200)).astype(np.int64)

    def _events(self, here: Ints, item: Ints, behavior: int) -> Events:
        count, clock = len(here), self.clock[here]
        # The app sends in small batches, so that its events arrive seconds later; the web's come at once.
        delay = np.where(self.app[here], self.rng.integers(300, 20_000, count), 0)
        return Events(
            user=self.who[here],
            item=item,
            behavior=np.full(count, behavior),
            at=clock,
            stamped=clock,
            arrived=clock + delay,
            price=self.catalogue.price[item],
            quantity=np.ones(count, np.int64),
            app=self.app[here],
            session=self.session[here],
            event=_numbers(self.rng, count),
            fault=np.zeros(count, np.int64),
        )


def _numbers(rng: np.random.Generator, count: int) -> Ints:
    """Random identifiers of 62 bits: no two alike in a lifetime of a shop."""
    return rng.integers(0, 2**62, count)


def _chance(log_odds: Floats) -> Floats:
    return 1 / (1 + np.exp(-log_odds))


def _once(here: Ints, item: Ints, repeat: Ints) -> tuple[Ints, Ints, Ints]:
    """Each product once a session, however often it was put into the basket."""
    pair = here * (item.max(initial=0) + 1) + item
    first = np.sort(np.unique(pair, return_index=True)[1])
    return here[first], item[first], repeat[first]
