"""The simulated shop: its bytes, its dirt against its truth, and whether there is anything in it to learn."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import time
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow.parquet as pq
import pytest

from assets.logs.raw_zone import prepare, take_in_all
from assets.logs.simulator import APP, CATALOGUE, KINDS, RATES, WEB, Simulation, SimulationError, simulate
from resources.home import BEHAVIORS, Home, Shop

ROOT = Path(__file__).resolve().parents[2]
BERLIN = ZoneInfo("Europe/Berlin")
START, DAYS, SEED = date(2026, 1, 5), 10, 7
ACTIONS = dict(zip(("impression", "tap", "add_to_basket", "order"), BEHAVIORS, strict=True))


class Event(NamedTuple):
    source: str
    event_id: str
    at: datetime
    user: str
    session: str
    item: str
    behavior: str
    price: float
    quantity: int


class World(NamedTuple):
    home: Home
    simulation: Simulation
    cpu_seconds: float
    lines: dict[tuple[str, int], str]
    """Every line of the log files by file and number, headers excluded."""
    faults: list[dict]
    catalogue: dict[str, dict[date, dict]]
    """Rows by product and the day from which they hold."""

    @property
    def faulty(self) -> dict[tuple[str, int], dict]:
        return {(fault["file"], fault["line"]): fault for fault in self.faults}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    home = Home(tmp_path_factory.mktemp("world"))
    began = time.process_time()
    simulation = simulate(home, start=START, days=DAYS, seed=SEED)
    cpu_seconds = time.process_time() - began
    lines: dict[tuple[str, int], str] = {}
    for source in (WEB, APP):
        for file in sorted((home.drop / source).iterdir()):
            for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
                if source == APP or number > 1:
                    lines[(f"{source}/{file.name}", number)] = line
    catalogue: dict[str, dict[date, dict]] = defaultdict(dict)
    for file in sorted((home.drop / CATALOGUE).iterdir()):
        with file.open(encoding="utf-8", newline="") as rows:
            for row in csv.DictReader(rows):
                catalogue[row["item_id"]][date.fromisoformat(row["valid_from"])] = row
    faults = pq.read_table(home.truth / "faults.parquet").to_pylist()
    return World(home, simulation, cpu_seconds, lines, faults, dict(catalogue))


@pytest.fixture(scope="module")
def clean(world: World) -> list[Event]:
    """What a strict reader makes of the lines that the truth calls clean, by time."""
    faulty = world.faulty
    events = [read(place[0], line) for place, line in world.lines.items() if place not in faulty]
    return sorted(events, key=lambda event: (event.at, event.event_id))


def read(file: str, line: str) -> Event:
    """A reader of its own, as strict as the formats allow; raises where the line is no event."""
    if file.startswith(WEB):
        event_id, at, user, session, item, behavior, price, quantity = line.split(",")
        moment = datetime.fromisoformat(at)
        if moment.tzinfo is None or not (event_id and user and session and item):
            raise ValueError(line)
        event = Event(WEB, event_id, moment, user, session, item, behavior, float(price), int(quantity))
    else:
        row = json.loads(line)
        moment = datetime.fromtimestamp(row["ts"] / 1000, UTC)
        if not isinstance(row["product"]["price"], float) or not isinstance(row["qty"], int):
            raise TypeError(line)
        event = Event(
            APP,
            row["id"],
            moment,
            row["user"]["id"],
            row["session"],
            row["product"]["sku"],
            ACTIONS[row["action"]],
            row["product"]["price"],
            row["qty"],
        )
    if event.behavior not in BEHAVIORS:
        raise ValueError(line)
    return event


def prices_at(world: World, item: str, at: datetime) -> set[float]:
    """What the product costs; a visit over midnight still shows yesterday's price for a while."""
    rows = world.catalogue[item]
    days = {moment.astimezone(BERLIN).date() for moment in (at, at - timedelta(hours=2))}
    known = [max((one for one in rows if one <= day), default=None) for day in days]
    return {float(rows[day]["price"]) for day in known if day}


def file_day(file: str) -> date:
    return date.fromisoformat(Path(file).stem[-10:])


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }


# --- bytes ------------------------------------------------------------------------------------------------


def test_same_seed_gives_same_bytes_in_another_process(world: World, tmp_path: Path) -> None:
    code = (
        "from datetime import date; from pathlib import Path; from resources.home import Home\n"
        "from assets.logs.simulator import simulate\n"
        f"simulate(Home(Path({str(tmp_path)!r})), start=date({START:%Y,%-m,%-d}), days={DAYS}, seed={SEED})"
    )
    other = {
        **os.environ,
        "PYTHONHASHSEED": "4711",
        "OMP_NUM_THREADS": "1",
        "TZ": "Asia/Tokyo",
        "LC_ALL": "C",
    }
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=other)
    assert digests(tmp_path) == digests(world.home.root)


def test_fewer_days_are_a_prefix(world: World, tmp_path: Path) -> None:
    simulate(Home(tmp_path), start=START, days=7, seed=SEED)
    short, long = digests(tmp_path / "drop"), digests(world.home.drop)
    assert len(short) == 3 * 7
    assert short == {name: digest for name, digest in long.items() if name in short}


def test_another_seed_is_another_shop(world: World, tmp_path: Path) -> None:
    simulate(Home(tmp_path), start=START, days=1, seed=SEED + 1)
    here = digests(world.home.drop)
    assert all(here[name] != digest for name, digest in digests(tmp_path / "drop").items())


def test_repeating_with_more_days_adds_days(tmp_path: Path) -> None:
    home, seen = Home(tmp_path), []
    settings = {"start": START, "seed": 3, "shoppers": 100, "products": 120}
    simulate(home, days=2, **settings)
    before = digests(home.drop)
    simulation = simulate(home, days=3, on_day=seen.append, **settings)
    after = digests(home.drop)
    assert before.items() < after.items()
    assert seen == list(simulation.events) == [START + timedelta(days=n) for n in range(3)]
    assert set(after) == {path.relative_to(home.drop).as_posix() for path in simulation.files}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drop", "shop.yaml", "truth"]


def test_shop_file_is_written_once_and_its_zone_is_used(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.write_shop(Shop(name="Mine", timezone="America/New_York", currency="USD", first_day=START))
    written = home.shop_file.read_bytes()
    simulate(home, start=START, days=1, seed=1, shoppers=100, products=120)
    assert home.shop_file.read_bytes() == written
    web = (home.drop / WEB / f"{WEB}-{START}.csv").read_text(encoding="utf-8")
    assert "-05:00," in web
    assert "+01:00," not in web
    assert ",USD," in (home.drop / CATALOGUE / f"{CATALOGUE}-{START}.csv").read_text(encoding="utf-8")

    fresh = Home(tmp_path / "fresh")
    simulate(fresh, start=START, days=1, seed=1, shoppers=100, products=120)
    assert (fresh.shop.first_day, fresh.shop.timezone) == (START, "Europe/Berlin")


def test_refuses_what_makes_no_shop(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(SimulationError, match="at least one"):
        simulate(home, start=START, days=0, seed=1)
    with pytest.raises(SimulationError, match="at least 10 shoppers and 20 products"):
        simulate(home, start=START, days=1, seed=1, products=3)
    assert not any(tmp_path.iterdir())
    simulate(home, start=START, days=1, seed=1, shoppers=50, products=60)
    with pytest.raises(SimulationError, match=r"another simulated shop.*NIGHTSHELF_HOME"):
        simulate(home, start=START, days=1, seed=2, shoppers=50, products=60)


def test_a_home_with_logs_of_its_own_is_left_alone(tmp_path: Path) -> None:
    settings = {"start": START, "days": 1, "seed": 1, "shoppers": 50, "products": 60}
    waiting = Home(tmp_path / "waiting")
    log = waiting.drop / "mine" / "log.csv"
    log.parent.mkdir(parents=True)
    log.write_text("real\n")
    with pytest.raises(SimulationError, match=r"not simulated.*nightshelf --home"):
        simulate(waiting, **settings)
    assert [path for path in waiting.root.rglob("*") if path.is_file()] == [log]

    log.unlink()
    prepare(waiting)  # as the first night does where there are no logs: nothing has been given yet
    simulate(waiting, **settings)

    taken = Home(tmp_path / "taken")
    (taken.drop / WEB).mkdir(parents=True)
    file = taken.drop / WEB / "log.csv"
    file.write_text("event_id\n")
    os.utime(file, (1_700_000_000, 1_700_000_000))
    assert len(take_in_all(taken)) == 1
    file.unlink()
    with pytest.raises(SimulationError, match=r"not simulated.*nightshelf --home"):
        simulate(taken, **settings)


def test_a_simulation_that_was_interrupted_can_be_repeated(tmp_path: Path) -> None:
    def interrupted(day: date) -> None:
        raise KeyboardInterrupt

    home, settings = Home(tmp_path), {"start": START, "days": 2, "shoppers": 50, "products": 60}
    with pytest.raises(KeyboardInterrupt):
        simulate(home, seed=1, on_day=interrupted, **settings)
    with pytest.raises(SimulationError, match="another simulated shop"):
        simulate(home, seed=2, **settings)
    assert simulate(home, seed=1, **settings).events


# --- size and time ----------------------------------------------------------------------------------------


def test_volume_and_speed(world: World, clean: list[Event]) -> None:
    assert all(12_000 <= count <= 22_000 for count in world.simulation.events.values())
    assert 12_000 <= np.mean(list(world.simulation.events.values())) <= 20_000
    assert sum(world.simulation.events.values()) == len(world.lines)
    assert world.cpu_seconds < 8
    truth = pq.read_table(world.home.truth / "shoppers.parquet")
    assert truth.num_rows > 3000
    assert {event.user for event in clean} <= set(truth["user_id"].to_pylist())
    joined = Counter(truth["joined"].to_pylist())
    assert joined[START] == 3000
    assert all(5 <= joined[START + timedelta(days=n)] <= 50 for n in range(1, DAYS))


@pytest.mark.parametrize(
    ("day", "hours", "first", "last"),
    [(date(2026, 3, 29), 23, "+01:00", "+02:00"), (date(2026, 10, 25), 25, "+02:00", "+01:00")],
)
def test_days_of_clock_change(tmp_path: Path, day: date, hours: int, first: str, last: str) -> None:
    home = Home(tmp_path)
    simulate(home, start=day, days=1, seed=5, shoppers=1500, products=200)
    faults = pq.read_table(home.truth / "faults.parquet").to_pylist()
    spoilt = {fault["line"] for fault in faults if fault["file"].startswith(WEB)}
    lines = (home.drop / WEB / f"{WEB}-{day}.csv").read_text(encoding="utf-8").splitlines()
    times = [
        line.split(",")[1]
        for number, line in enumerate(lines, start=1)
        if number > 1 and number not in spoilt
    ]
    moments = [datetime.fromisoformat(text) for text in times]
    midnight = datetime(day.year, day.month, day.day, tzinfo=BERLIN).timestamp()
    assert all(0 <= moment.timestamp() - midnight < hours * 3600 for moment in moments)
    # What stands there is what a clock on the wall of the shop shows.
    assert all(m.astimezone(BERLIN).replace(tzinfo=None) == m.replace(tzinfo=None) for m in moments)
    assert (times[0][-6:], times[-1][-6:]) == (first, last)
    assert any(moment.timestamp() - midnight > (hours - 1) * 3600 for moment in moments)


# --- catalogue --------------------------------------------------------------------------------------------


def test_catalogue_reads_like_a_shop(world: World) -> None:
    first = [rows[START] for rows in world.catalogue.values() if START in rows]
    assert len(first) == 2000
    assert len({row["title"] for row in first}) == 2000
    assert len({row["description"] for row in first}) > 1900
    paths = [row["category"].split(" > ") for row in first]
    assert all(len(path) == 3 and all(path) for path in paths)
    assert len({path[0] for path in paths}) == 10
    assert len({tuple(path) for path in paths}) > 100
    assert len({row["brand"] for row in first}) > 60
    assert 0 < sum(not row["brand"] for row in first) < 0.03 * len(first)
    assert all(20 < len(row["title"]) < 110 and len(row["description"]) > 60 for row in first)
    printed = [row["title"] + row["description"] for row in first]
    assert not any(mark in text for text in printed for mark in ("{", "  ", " ,", "None", ".."))
    prices = np.array([float(row["price"]) for row in first])
    assert prices.min() > 0.4
    assert 15 < np.median(prices) < 60
    assert prices.max() < 2500
    endings = Counter(row["price"][-2:] for row in first)
    assert endings["99"] > 0.6 * len(first)
    assert set(endings) == {"99", "50", "95", "49", "00"}


def test_price_depends_on_kind_and_brand(world: World) -> None:
    truth = pq.read_table(world.home.truth / "products.parquet").to_pylist()
    prices = {item: float(rows[min(rows)]["price"]) for item, rows in world.catalogue.items()}
    by_kind = defaultdict(list)
    for row in truth:
        by_kind[row["category"]].append(np.log(prices[row["item_id"]]))
    within = np.mean([np.var(values) for values in by_kind.values()])
    assert within < 0.3 * np.var(np.log(list(prices.values())))
    tiers = np.array([row["price_tier"] for row in truth])
    assert abs(np.median(tiers)) < 0.5
    assert 0.6 < tiers.std() < 1.4


def test_catalogue_changes_day_by_day(world: World) -> None:
    launched = pq.read_table(
        world.home.truth / "products.parquet", columns=["item_id", "launched"]
    ).to_pylist()
    for row in launched:
        assert min(world.catalogue[row["item_id"]]) == row["launched"]
    new = Counter(row["launched"] for row in launched)
    assert all(1 <= new[START + timedelta(days=n)] <= 25 for n in range(1, DAYS))
    changes = 0
    for rows in world.catalogue.values():
        for before, after in pairwise(rows[day] for day in sorted(rows)):
            assert (before["price"], before["in_stock"]) != (after["price"], after["in_stock"])
            assert before["title"] == after["title"]
            changes += 1
    assert changes > 10 * DAYS
    assert {row["in_stock"] for rows in world.catalogue.values() for row in rows.values()} == {
        "true",
        "false",
    }


# --- dirt and truth ---------------------------------------------------------------------------------------


def test_truth_names_every_faulty_line(world: World, clean: list[Event]) -> None:
    """What the truth does not name is an event without blemish, to a reader that knows only the formats."""
    bots = set(pq.read_table(world.home.truth / "bots.parquet")["user_id"].to_pylist())
    faulty = world.faulty
    assert len(faulty) == len(world.faults)
    assert faulty.keys() <= world.lines.keys()
    assert len(clean) + len(faulty) == len(world.lines)
    assert len({event.event_id for event in clean}) == len(clean)
    assert not bots & {event.user for event in clean}
    assert all(event.price in prices_at(world, event.item, event.at) for event in clean)
    for place, line in world.lines.items():
        if place not in faulty:
            assert read(place[0], line).at.astimezone(BERLIN).date() == file_day(place[0])


def test_every_fault_is_what_the_truth_says(world: World) -> None:
    for fault in world.faults:
        file, line = fault["file"], world.lines[(fault["file"], fault["line"])]
        unreadable = False
        try:
            event = read(file, line)
        except (ValueError, KeyError, TypeError):
            unreadable, event = True, None
        match fault["kind"]:
            case "duplicate":
                first = int(fault["detail"].rsplit(" ", 1)[1])
                assert first < fault["line"]
                assert world.lines[(file, first)] == line
                assert (file, first) not in world.faulty
            case "late":
                days = (file_day(file) - event.at.astimezone(BERLIN).date()).days
                assert 1 <= days <= 4
            case "clock_skew":
                assert event.source == APP
                away = abs(event.at - fault["happened_at"].replace(tzinfo=UTC))
                assert timedelta(hours=1) <= away <= timedelta(days=3)
                assert abs(json.loads(line)["sent_at"] / 1000 - event.at.timestamp()) > 3000
            case "price_out_of_range":
                true = prices_at(world, event.item, event.at)
                wrong = {0.0} | {-price for price in true} | {round(price * 1000, 2) for price in true}
                assert event.price in wrong - true
            case "bot":
                assert event.user == fault["user_id"]
            case "missing_field":
                assert unreadable
                spoilt = fault["field"]
                if fault["readable"]:
                    assert spoilt in ("session_id", "price", "session", "product.price")
                assert '""' not in line and (",," in line or file.startswith(APP))
            case "wrong_type" | "broken_line" | "unknown_behavior":
                assert unreadable
        if not fault["readable"]:
            assert unreadable


def test_files_add_up(world: World) -> None:
    files = pq.read_table(world.home.truth / "files.parquet").to_pylist()
    on_disk = digests(world.home.drop)
    assert {row["file"]: row["sha256"] for row in files} == on_disk
    unreadable = Counter(fault["file"] for fault in world.faults if not fault["readable"])
    kinds = Counter((fault["file"], fault["kind"]) for fault in world.faults)
    for row in files:
        assert row["lines"] == row["header_lines"] + row["clean"] + sum(row[kind] for kind in KINDS)
        assert row["lines"] >= (world.home.drop / row["file"]).read_text(encoding="utf-8").count("\n") > 0
        assert row["unreadable"] == unreadable[row["file"]]
        assert all(row[kind] == kinds[row["file"], kind] for kind in KINDS)
    assert world.simulation.faults == {kind: sum(row[kind] for row in files) for kind in KINDS}


def test_dirt_comes_at_the_stated_rates(world: World) -> None:
    faults, total = world.simulation.faults, len(world.lines)
    in_app = sum(file.startswith(APP) for file, _ in world.lines)
    for kind in KINDS:
        share = faults[kind] / (in_app if kind == "clock_skew" else total)
        # Late and skewed sessions come whole and bots run for hundreds of lines, so those scatter more.
        width = 0.5 if kind in ("late", "clock_skew", "bot") else 0.2
        assert share == pytest.approx(getattr(RATES, kind), rel=width), kind


def test_bots_are_faster_than_people(world: World, clean: list[Event]) -> None:
    """Twenty products in a minute is more than anybody looks at, and every bot does."""

    def fastest(moments: list[datetime]) -> int:
        ordered = sorted(moments)
        ends = np.searchsorted(
            [at.timestamp() for at in ordered], [at.timestamp() + 60 for at in ordered], side="left"
        )
        return int((ends - np.arange(len(ordered))).max())

    people, bots = defaultdict(list), defaultdict(list)
    for event in clean:
        if event.behavior == "browse":
            people[event.user].append(event.at)
    for fault in world.faults:
        if fault["kind"] == "bot":
            bots[fault["user_id"]].append(fault["happened_at"])
    assert min(map(fastest, bots.values())) > 40
    assert max(map(fastest, people.values())) <= 20
    assert min(map(len, bots.values())) >= 100


# --- behaviour --------------------------------------------------------------------------------------------


def test_funnel_and_sessions(clean: list[Event]) -> None:
    share = {behavior: count / len(clean) for behavior, count in Counter(e.behavior for e in clean).items()}
    assert 0.52 < share["browse"] < 0.66
    assert 0.25 < share["click"] < 0.34
    assert 0.05 < share["cart"] < 0.10
    assert 0.02 < share["purchase"] < 0.045
    sessions = defaultdict(list)
    for event in clean:
        sessions[event.session].append(event)
    assert all(len({event.user for event in events}) == 1 for events in sessions.values())
    seen = Counter(len({event.item for event in events}) for events in sessions.values())
    assert seen[1] > 50
    assert max(seen) >= 15
    # A click follows its browse, but for the few browses that the dirt swallowed.
    lost = clicks = 0
    for events in sessions.values():
        browsed = set()
        for event in events:
            browsed |= {event.item} if event.behavior == "browse" else set()
            clicks += event.behavior == "click"
            lost += event.behavior == "click" and event.item not in browsed
    assert lost < 0.02 * clicks


def test_shoppers_use_one_channel_or_both_under_one_id(clean: list[Event]) -> None:
    web, app = ({event.user for event in clean if event.source == source} for source in (WEB, APP))
    assert 0.1 < len(web & app) / len(web | app) < 0.3
    assert len(web - app) > len(app - web) > 300


def test_activity_has_a_heavy_tail_and_hours_a_shape(clean: list[Event]) -> None:
    counts = np.sort(list(Counter(event.user for event in clean).values()))[::-1]
    assert counts[: len(counts) // 10].sum() > 0.3 * counts.sum()
    hours = Counter(event.at.astimezone(BERLIN).hour for event in clean)
    assert sum(hours[hour] for hour in range(1, 6)) < 0.05 * len(clean)
    assert max(hours, key=lambda hour: hours[hour]) in range(18, 23)


def test_consumables_are_bought_again(clean: list[Event]) -> None:
    bought = Counter((event.user, event.item) for event in clean if event.behavior == "purchase")
    again = {item for (_, item), times in bought.items() if times > 1}
    assert len(again) > 30


# --- is there anything to learn? --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def matrices(
    clean: list[Event],
) -> tuple[list[str], np.ndarray, np.ndarray, dict[int, set[int]], np.ndarray]:
    """Products; clicks by user before the last day; pairs in a session; last day's clicks; popularity."""
    last = START + timedelta(days=DAYS - 1)
    clicks = [event for event in clean if event.behavior != "browse"]
    items = sorted({event.item for event in clicks})
    place = {item: number for number, item in enumerate(items)}
    past = [event for event in clicks if event.at.astimezone(BERLIN).date() < last]
    users = {user: number for number, user in enumerate(sorted({event.user for event in past}))}
    history = np.zeros((len(users), len(items)), np.float32)
    sessions = defaultdict(list)
    for event in past:
        history[users[event.user], place[event.item]] += 1
        sessions[event.session].append(place[event.item])
    pairs = np.zeros((len(items), len(items)), np.float32)
    for seen in sessions.values():
        for one, other in pairwise(seen):
            pairs[one, other] += one != other
            pairs[other, one] += one != other
    wanted = defaultdict(set)
    for event in clicks:
        if event.at.astimezone(BERLIN).date() == last and event.user in users:
            wanted[users[event.user]].add(place[event.item])
    return items, history, pairs, dict(wanted), history.sum(axis=0)


def hit_rate(scores: np.ndarray, wanted: list[set[int]]) -> float:
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    return float(np.mean([bool(set(row) & these) for row, these in zip(best.tolist(), wanted, strict=True)]))


def test_co_visitation_beats_popularity(matrices) -> None:
    _, history, pairs, wanted, popularity = matrices
    users = sorted(wanted)
    strength = pairs.sum(axis=1) + 1
    scores = history[users] @ (pairs / np.sqrt(strength[:, None] * strength[None, :]))
    everybody = np.tile(popularity, (len(users), 1))
    targets = [wanted[user] for user in users]
    assert hit_rate(scores, targets) > 2 * hit_rate(everybody, targets)
    # So it does for products that the shopper has not clicked before.
    known = history[users] > 0
    new = [wanted[user] - set(np.flatnonzero(history[user])) for user in users]
    unseen = np.where(known, -1, scores), np.where(known, -1, everybody)
    assert hit_rate(unseen[0], new) > 2 * hit_rate(unseen[1], new)
    assert hit_rate(unseen[1], new) > 0.02


def test_text_tells_who_likes_new_products(world: World, clean: list[Event]) -> None:
    """The words of the old products that shoppers clicked rank the new ones that they meet."""
    since = START + timedelta(days=1)
    first = {item: min(rows) for item, rows in world.catalogue.items()}
    items = sorted(first)
    place = {item: number for number, item in enumerate(items)}
    rows = [world.catalogue[item][first[item]] for item in items]
    by_text = _vectors([f"{row['title']} {row['description']} {row['brand']}" for row in rows])
    taste: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(by_text.shape[1], np.float32))
    for event in clean:
        if event.behavior == "click" and first[event.item] < since:
            taste[event.user] += by_text[place[event.item]]
    new = [number for number, item in enumerate(items) if first[item] >= since]
    where = {number: position for position, number in enumerate(new)}
    ranks = []
    for event in clean:
        if event.behavior == "click" and first[event.item] >= since and event.user in taste:
            scores = by_text[new] @ taste[event.user]
            mine = scores[where[place[event.item]]]
            ranks.append(((scores < mine).sum() + 0.5 * ((scores == mine).sum() - 1)) / (len(new) - 1))
    assert len(ranks) > 200
    assert np.mean(ranks) > 0.65


def test_style_in_the_text_drives_clicks_within_a_category(world: World, clean: list[Event]) -> None:
    """Shoppers click products of the styles they like more often than others, whatever they are."""
    styles = {
        row["user_id"]: set(row["styles"])
        for row in pq.read_table(
            world.home.truth / "shoppers.parquet", columns=["user_id", "styles"]
        ).to_pylist()
    }
    style = {
        row["item_id"]: row["style"]
        for row in pq.read_table(
            world.home.truth / "products.parquet", columns=["item_id", "style"]
        ).to_pylist()
    }
    seen, clicked = Counter(), Counter()
    for event in clean:
        liked = style[event.item] in styles[event.user]
        seen[liked] += event.behavior == "browse"
        clicked[liked] += event.behavior == "click"
    assert clicked[True] / seen[True] > 1.3 * clicked[False] / seen[False]


def _vectors(texts: list[str]) -> np.ndarray:
    """TF-IDF of single words, rows of length 1."""
    words = [text.lower().replace(",", " ").replace(".", " ").split() for text in texts]
    frequency = Counter(word for text in words for word in set(text))
    column = {word: number for number, word in enumerate(sorted(frequency))}
    found = np.zeros((len(texts), len(column)), np.float32)
    for row, text in enumerate(words):
        for word in text:
            found[row, column[word]] += np.log(len(texts) / frequency[word])
    return found / np.linalg.norm(found, axis=1, keepdims=True)
