"""The dirt of real life, at stated rates: what happens to events on their way, before anybody writes a line.

Faults of single lines (broken, mistyped, repeated) are in `formats.py`; the rates of all are here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from assets.logs.simulator.behavior import BROWSE, CART, CLICK, Events
from assets.logs.simulator.clock import DAY, HOURS, MINUTE, Floats, Ints, ShopDay

LATE, SKEWED, BOT = 1, 2, 3
EVENT_FAULTS = ("", "late", "clock_skew", "bot")
"""Names of faults of whole events, by `Events.fault`."""

FIRST_BOT = 5_000_000
"""Shopper number of the first bot; their user ids look like anybody's."""
_BOTS = 8
"""Bots that know the shop. Each comes back under its own user id."""
_RUN = (200, 400)
"""Products that a bot looks at in one go: at least, less than."""
_LATEST = 3
"""Days after which nothing late arrives any more: apps drop their queue then."""


@dataclass(frozen=True)
class DirtRates:
    """Share of events that each kind of dirt meets. The faults of a line exclude each other."""

    duplicate: float = 0.010
    """Lines repeated byte for byte by a tracker's retry. UCI Online Retail has 0.97 %."""
    bot: float = 0.020
    """Events by user ids that look at a product a second, for minutes: scrapers and price watchers who say
    they are browsers. What passes for human after a shop's own bot filter is a few per cent."""
    missing_field: float = 0.004
    """A field left empty or out. Large in tables joined by hand (Online Retail lacks 25 % of customers),
    small in a tracker's output, where a version of the tag forgets one field."""
    wrong_type: float = 0.002
    """Words where a number or a time belongs: a front end that sends what it displays."""
    price_out_of_range: float = 0.003
    """Price zero, negative, or a thousandfold. Online Retail has 0.46 % at or below zero."""
    late: float = 0.010
    """Events in the file of one to three days later: phones without a network, tabs put to sleep."""
    clock_skew: float = 0.008
    """App events whose device clock is hours or days wrong; a share of the app's events only."""
    broken_line: float = 0.001
    """Lines cut off in the middle, as a writer that is killed leaves them."""
    unknown_behavior: float = 0.002
    """A behaviour that nobody has announced: a front end ships a feature before it tells the data team."""


RATES = DirtRates()


def delay_and_skew(events: Events, rng: np.random.Generator, calendar: list[ShopDay]) -> Events:
    """Some sessions arrive one to three days late; some come from devices whose clock is wrong.

    Whole sessions are struck, since a device is offline or wrong for all of a visit. `calendar` holds the day
    of the events and at least three more.
    """
    sessions, row = np.unique(events.session, return_inverse=True)
    count = len(sessions)
    roll = rng.random(count)
    late = (roll < RATES.late)[row]
    began = np.array([day.began_at for day in calendar])[rng.integers(1, _LATEST + 1, count)]
    # Phones find a network again in the course of the morning, and send all they have within a minute.
    found = began + rng.integers(5 * 60, 12 * 60, count) * MINUTE
    arrived = np.where(late, found[row] + events.at % MINUTE, events.arrived)
    skewed = ((roll >= 0.5) & (roll < 0.5 + RATES.clock_skew))[row] & events.app
    hours = rng.integers(1, 13, count) * 60 * MINUTE
    days = rng.integers(1, 4, count) * DAY
    wrong = np.where(rng.random(count) < 0.7, hours, days) * np.where(rng.random(count) < 0.5, -1, 1)
    stamped = np.where(skewed, events.at + wrong[row], events.stamped)
    fault = np.where(late, LATE, np.where(skewed, SKEWED, 0))
    return replace(events, arrived=arrived, stamped=stamped, fault=fault)


def bots(humans: int, price_of: Floats, rng: np.random.Generator, today: ShopDay) -> list[Events]:
    """What bots do on a day with `humans` events by humans: walks through the catalogue at inhuman speed.

    A run is hundreds of products in minutes, whatever the size of the shop, so small shops see one every few
    days. All on the web.
    """
    runs = rng.poisson(RATES.bot * humans / np.mean(_RUN))
    return [_run(rng, price_of, int(rng.integers(*_RUN)), today) for _ in range(runs)]


def _run(rng: np.random.Generator, price_of: Floats, length: int, today: ShopDay) -> Events:
    start = int(today.times(rng, np.roll(HOURS["web"], 6), 1)[0])
    gaps = rng.integers(250, 1400, length)
    at = np.minimum(start + np.cumsum(gaps), today.ended_at - 1)
    item = (int(rng.integers(len(price_of))) + np.arange(length)) % len(price_of)
    # Half of them only list; the others open what they list, and a few fill baskets that nobody pays for.
    greedy = rng.random() < 0.5
    roll = rng.random(length)
    behavior = np.where(greedy & (roll < 0.5), CLICK, np.where(greedy & (roll < 0.55), CART, BROWSE))
    return Events(
        user=np.full(length, FIRST_BOT + int(rng.integers(_BOTS))),
        item=item,
        behavior=behavior,
        at=at,
        stamped=at,
        arrived=at,
        price=price_of[item],
        quantity=np.ones(length, np.int64),
        app=np.zeros(length, bool),
        session=np.full(length, rng.integers(0, 2**62)),
        event=rng.integers(0, 2**62, length),
        fault=np.full(length, BOT),
    )


def file_days(events: Events, days: list[ShopDay]) -> Ints:
    """For each event, the position in `days` of the day whose file it stands in, `len(days)` for none.

    Late events stand in the file of the day on which they arrive, all others in that of the day on which they
    happen: trackers close a day's file a little after midnight.
    """
    filed = np.where(events.fault == LATE, events.arrived, events.at)
    found: Ints = np.searchsorted(np.array([day.ended_at for day in days]), filed, side="right")
    return found
