"""A simulated shop: what its tracking would write, day by day, with real life's dirt and the truth beside it.

`simulate` fills a home's drop folder with a catalogue and two trackers' logs. The same seed gives the same
bytes, and more days never change those before.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path

import numpy as np

from assets.logs.drop import plain_files
from assets.logs.simulator.behavior import Events, Visits
from assets.logs.simulator.catalogue import Catalogue
from assets.logs.simulator.clock import Ints, ShopDay, random
from assets.logs.simulator.dirt import RATES, DirtRates, bots, delay_and_skew, file_days
from assets.logs.simulator.formats import APP, WEB, LogFile, app_file, web_file
from assets.logs.simulator.shoppers import Shoppers
from assets.logs.simulator.truth import KINDS, Truth, World
from assets.logs.simulator.vocabulary import vocabulary
from assets.logs.simulator.writer import CATALOGUE, catalogue_text, put
from resources.aside import replacing, work_folder
from resources.home import Home, Shop

__all__ = [
    "APP",
    "CATALOGUE",
    "KINDS",
    "RATES",
    "WEB",
    "DirtRates",
    "Simulation",
    "SimulationError",
    "simulate",
]

_FEWEST_PRODUCTS, _FEWEST_SHOPPERS = 20, 10
_REACH = 5
"""Days, the present one included, in whose files an event can stand: late ones by up to three days."""


class SimulationError(ValueError):
    """The shop asked for cannot be simulated here; the message names the next step."""


@dataclass(frozen=True)
class Simulation:
    """What `simulate` wrote."""

    files: tuple[Path, ...]
    """Drop files, in the order of writing."""
    events: dict[date, int]
    """Event lines by the day of the file, faulty ones included."""
    faults: dict[str, int]
    """Injected faults by kind; every kind is present."""


def simulate(
    home: Home,
    *,
    start: date,
    days: int,
    seed: int,
    shoppers: int = 3000,
    products: int = 2000,
    on_day: Callable[[date], None] | None = None,
) -> Simulation:
    """Write `days` days of a shop's logs and catalogue to `home.drop`, and the truth to `home.truth`.

    Writes `<source>/<source>-YYYY-MM-DD.csv|jsonl` for the sources `nightshelf_csv` (web), `shop_app_jsonl`
    (app) and `nightshelf_catalogue` (whole on the first day, then what is new or changed), each in place by
    one rename. Writes `shop.yaml` where there is none. Days begin and end in the shop's time zone.

    Args:
        start: first day. With the seed, the sizes and the shop's zone and currency it fixes every byte.
        shoppers, products: on the first day; each day a few more come.
        on_day: called after each day's files are in place.

    Raises:
        SimulationError: sizes too small, or the home holds another shop, simulated or real.
    """
    _check_sizes(days, shoppers, products)
    world = World(seed, start, shoppers, products, home.shop.timezone, home.shop.currency)
    _claim(home, world)
    if not home.shop_file.exists():
        home.write_shop(Shop(name="Simulated shop", first_day=start))
    with work_folder(home.root) as aside:
        return _Writer(home, world, aside).write(days, on_day)


class _Writer:
    """Plays the days in order and files what happens in them."""

    def __init__(self, home: Home, world: World, aside: Path) -> None:
        self.home, self.world, self.aside = home, world, aside
        self.zone = home.shop.zone
        self.catalogue = Catalogue.open(world.seed, vocabulary(), world.products)
        self.shoppers = Shoppers.open(self.catalogue, world.shoppers)
        self.truth = Truth(world)
        self.waiting: dict[int, list[Events]] = {}
        self.files: list[Path] = []

    def write(self, days: int, on_day: Callable[[date], None] | None) -> Simulation:
        events: dict[date, int] = {}
        for number in range(days):
            day = self.world.start + timedelta(days=number)
            events[day] = self._write_day(number, day)
            if on_day:
                on_day(day)
        self._write_truth(days)
        kinds = Counter(fault.kind for _, fault in self.truth.faults)
        return Simulation(tuple(self.files), events, {kind: kinds[kind] for kind in KINDS})

    def _write_day(self, number: int, day: date) -> int:
        changed = self._pass_night(number)
        text = catalogue_text(self.catalogue, changed.tolist(), day, self.home.shop.currency)
        self._put(f"{CATALOGUE}/{CATALOGUE}-{day}.csv", text, day, lines=len(changed) + 1)
        calendar = [ShopDay(day + timedelta(days=n), self.zone) for n in range(_REACH)]
        seed = self.world.seed
        happened = Visits(self.catalogue, self.shoppers, number, calendar[0]).walk()
        happened = delay_and_skew(happened, random(seed, 4, number), calendar)
        crawled = bots(len(happened), self.catalogue.price, random(seed, 5, number), calendar[0])
        self._file(Events.joined([happened, *crawled]), calendar, number)
        today = Events.joined(self.waiting.pop(number))
        today = today.take(today.arrived.argsort(kind="stable"))
        item_ids = self.catalogue.item_ids()
        web = web_file(today.take(~today.app), item_ids, self.zone, random(seed, 6, number))
        app = app_file(today.take(today.app), item_ids, random(seed, 7, number))
        for log, suffix in ((web, "csv"), (app, "jsonl")):
            lines = len(log.lines) + bool(log.header)
            self._put(f"{log.source}/{log.source}-{day}.{suffix}", log.text, day, lines=lines, log=log)
        return len(web.lines) + len(app.lines)

    def _pass_night(self, number: int) -> Ints:
        """Turn to day `number`; positions of the products that the day's catalogue file has to name."""
        if not number:
            return np.arange(len(self.catalogue))
        changed = self.catalogue.pass_night(number)
        self.shoppers.join(self.catalogue, number)
        return changed

    def _file(self, events: Events, calendar: list[ShopDay], number: int) -> None:
        """Put events where the day's file that they will stand in finds them."""
        filed = file_days(events, calendar)
        for ahead in range(len(calendar)):
            self.waiting.setdefault(number + ahead, []).append(events.take(filed == ahead))

    def _put(self, name: str, text: str, day: date, *, lines: int, log: LogFile | None = None) -> None:
        target = self.home.drop / name
        self.truth.note(name, put(text, target, self.aside), day, lines=lines, log=log)
        self.files.append(target)

    def _write_truth(self, days: int) -> None:
        folder = self.aside / "truth"
        folder.mkdir()
        self.truth.write(folder, days, self.catalogue, self.shoppers)
        self.home.truth.mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.iterdir()):
            file.replace(self.home.truth / file.name)


def _check_sizes(days: int, shoppers: int, products: int) -> None:
    if days < 1:
        raise SimulationError(f"cannot simulate {days} days; ask for at least one")
    if shoppers < _FEWEST_SHOPPERS or products < _FEWEST_PRODUCTS:
        raise SimulationError(
            f"{shoppers} shoppers and {products} products make no shop; "
            f"ask for at least {_FEWEST_SHOPPERS} shoppers and {_FEWEST_PRODUCTS} products"
        )


def _claim(home: Home, world: World) -> None:
    """Take the home for this world, before its first file: two worlds in one drop folder would make one shop
    of strangers who share their ids.
    """
    file = home.truth / "world.json"
    if not file.exists():
        # Folders of the raw zone that begin with an underscore hold no file's rows.
        if plain_files(home.drop) or any(home.loads.glob("[!_]*")):
            raise SimulationError(
                f"{home.root}: the home has been given logs that are not simulated, and simulated ones would "
                "mix with them. Name a home for the simulated shop: nightshelf --home FOLDER simulate"
            )
        with replacing(file) as aside:
            aside.write_text(json.dumps(world.as_json()), encoding="utf-8")
        return
    there = json.loads(file.read_text(encoding="utf-8"))
    other = {key: there.get(key) for key, value in world.as_json().items() if there.get(key) != value}
    if other:
        raise SimulationError(
            f"{file}: the home holds another simulated shop (there: {other}). "
            "Repeat its settings to add days, or point NIGHTSHELF_HOME at an empty folder."
        )
