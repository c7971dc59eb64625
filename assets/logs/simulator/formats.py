"""The two formats in which the shop's trackers write events, and what can go wrong with a line of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from assets.logs.simulator.behavior import Events
from assets.logs.simulator.catalogue import pick
from assets.logs.simulator.clock import iso_times
from assets.logs.simulator.dirt import EVENT_FAULTS, RATES
from assets.logs.simulator.shoppers import user_id
from resources.home import BEHAVIORS

WEB, APP = "nightshelf_csv", "shop_app_jsonl"
"""Sources: the web shop's tracker writes CSV, the app's JSON lines."""

WEB_COLUMNS = ("event_id", "event_time", "user_id", "session_id", "item_id", "behavior", "price", "quantity")
APP_ACTIONS = ("impression", "tap", "add_to_basket", "order")
"""The app's words for browse, click, cart, purchase."""
_UNKNOWN = {WEB: ("wishlist_add", "compare", "share"), APP: ("long_press", "ar_view", "share")}

_LINE_FAULTS = ("missing_field", "wrong_type", "price_out_of_range", "broken_line", "unknown_behavior")


@dataclass(frozen=True)
class Fault:
    """One thing that was done to one line of a file."""

    line: int
    """Physical line, the first being 1."""
    kind: str
    field: str | None
    """Field of the format that was spoilt, None where the whole line or event is meant."""
    readable: bool
    """False where no reader can make an event of the line, so that it has to be refused."""
    detail: str
    event_id: str
    user_id: str
    happened_at: int
    """Epoch milliseconds by a clock that is right."""


@dataclass(frozen=True)
class LogFile:
    """What one log file says, and what is wrong with it."""

    source: str
    header: str
    lines: list[str]
    faults: list[Fault]

    @property
    def text(self) -> str:
        return self.header + "".join(line + "\n" for line in self.lines)


def web_file(events: Events, item_ids: list[str], zone: ZoneInfo, rng: np.random.Generator) -> LogFile:
    """The web shop's events as CSV: local times with offset, prices with two decimals."""
    columns = zip(
        _event_ids(events),
        iso_times(events.stamped, zone),
        _user_ids(events),
        [f"w{number:015x}" for number in events.session.tolist()],
        [item_ids[item] for item in events.item.tolist()],
        [BEHAVIORS[code] for code in events.behavior.tolist()],
        [f"{price:.2f}" for price in events.price.tolist()],
        map(str, events.quantity.tolist()),
        strict=True,
    )
    lines = [",".join(row) for row in columns]
    return _soil(WEB, events, lines, header=",".join(WEB_COLUMNS) + "\n", rng=rng, spoil=_spoil_csv)


def app_file(events: Events, item_ids: list[str], rng: np.random.Generator) -> LogFile:
    """The app's events as JSON lines.

    `ts` is the device's clock, `sent_at` the collector's (both epoch milliseconds): their distance shows a
    clock that is wrong, and an event that waited.
    """
    columns = zip(
        _event_ids(events),
        events.stamped.tolist(),
        events.arrived.tolist(),
        _user_ids(events),
        events.session.tolist(),
        [APP_ACTIONS[code] for code in events.behavior.tolist()],
        [item_ids[item] for item in events.item.tolist()],
        events.price.tolist(),
        events.quantity.tolist(),
        strict=True,
    )
    lines = [
        f'{{"id": "{event}", "ts": {at}, "sent_at": {sent}, "user": {{"id": "{user}"}}, '
        f'"session": "a{session:015x}", "action": "{action}", '
        f'"product": {{"sku": "{item}", "price": {price!r}}}, "qty": {quantity}}}'
        for event, at, sent, user, session, action, item, price, quantity in columns
    ]
    return _soil(APP, events, lines, header="", rng=rng, spoil=_spoil_json)


_Spoilt = tuple[str, str | None, bool, str]
"""The line as it is written, the field that was spoilt, whether it can still be read, and a sentence."""


def _soil(
    source: str,
    events: Events,
    lines: list[str],
    *,
    header: str,
    rng: np.random.Generator,
    spoil: Callable[[np.random.Generator, str, str], _Spoilt],
) -> LogFile:
    """Spoil some lines, repeat some others, and write down which."""
    count = len(lines)
    chosen = _choose_line_faults(rng, events)
    # A retry comes some lines after the first try, so lines are put in order by where they would stand.
    repeated = np.flatnonzero(chosen == -2)
    retried = repeated + rng.integers(1, 30, len(repeated)) + 0.5
    position = np.concatenate([np.arange(count, dtype=float), retried])
    order = np.argsort(position, kind="stable").tolist()
    origin = np.concatenate([np.arange(count), repeated]).tolist()
    line_of = {row: line for line, row in enumerate(order, start=1 + bool(header)) if row < count}
    written: list[str] = []
    faults: list[Fault] = []
    for line, row in enumerate(order, start=1 + bool(header)):
        event = origin[row]
        text, kind = lines[event], ""
        field: str | None = None
        readable, detail = True, ""
        if row >= count:
            kind, detail = "duplicate", f"repeats line {line_of[event]}"
        elif chosen[event] >= 0:
            kind = _LINE_FAULTS[chosen[event]]
            text, field, readable, detail = spoil(rng, text, kind)
        elif events.fault[event]:
            kind = EVENT_FAULTS[events.fault[event]]
            detail = _shift(events, event)
        written.append(text)
        if kind:
            faults.append(
                Fault(
                    line,
                    kind,
                    field,
                    readable,
                    detail,
                    f"{events.event[event]:016x}",
                    user_id(int(events.user[event])),
                    int(events.at[event]),
                )
            )
    return LogFile(source, header, written, faults)


def _choose_line_faults(rng: np.random.Generator, events: Events) -> np.ndarray:
    """For each event: a position in `_LINE_FAULTS`, −2 to have its line repeated, −1 for neither.

    Events that something else befell are spared, so that every line has one fault at most.
    """
    limits = np.cumsum([getattr(RATES, kind) for kind in _LINE_FAULTS])
    roll = rng.random(len(events))
    chosen = np.where(roll < limits[-1], np.searchsorted(limits, roll, side="right"), -1)
    chosen[roll >= 1 - RATES.duplicate] = -2
    return np.where(events.fault == 0, chosen, -1)


def _shift(events: Events, event: int) -> str:
    if EVENT_FAULTS[events.fault[event]] == "clock_skew":
        return f"device clock wrong by {(events.stamped[event] - events.at[event]) / 3_600_000:+.0f} h"
    if EVENT_FAULTS[events.fault[event]] == "late":
        return f"arrived {(events.arrived[event] - events.at[event]) / 3_600_000:.0f} h after it happened"
    return ""


def _spoil_csv(rng: np.random.Generator, line: str, kind: str) -> _Spoilt:
    row = line.split(",")
    if kind == "broken_line":
        cut = ",".join(row[: int(rng.integers(2, 7))])
        return cut[: len(cut) - 1], None, False, "cut off in the middle"
    if kind == "unknown_behavior":
        field, value, readable = "behavior", pick(rng, _UNKNOWN[WEB]), False
    elif kind == "price_out_of_range":
        field, value, readable = "price", f"{_wrong_price(rng, float(row[6])):.2f}", True
    elif kind == "missing_field":
        field = pick(rng, ("user_id", "item_id", "event_time", "behavior", "session_id", "price"))
        value, readable = "", field in ("session_id", "price")
    else:
        field, value = pick(
            rng, (("event_time", "yesterday"), ("price", "n/a"), ("quantity", "one"), ("price", "EUR 9,-"))
        )
        value, readable = value.replace(",", "."), False
    row[WEB_COLUMNS.index(field)] = value
    return ",".join(row), field, readable, f"{field} is {value!r}"


def _spoil_json(rng: np.random.Generator, line: str, kind: str) -> _Spoilt:
    if kind == "broken_line":
        return line[: int(rng.integers(20, len(line) - 5))], None, False, "cut off in the middle"
    row: dict[str, Any] = json.loads(line)
    readable = False
    if kind == "unknown_behavior":
        field = "action"
        row["action"] = pick(rng, _UNKNOWN[APP])
    elif kind == "price_out_of_range":
        field, readable = "product.price", True
        row["product"]["price"] = round(_wrong_price(rng, row["product"]["price"]), 2)
    elif kind == "missing_field":
        field = pick(rng, ("user", "product.sku", "ts", "action", "session", "product.price"))
        readable = field in ("session", "product.price")
        holder, _, key = field.rpartition(".")
        del (row[holder] if holder else row)[key]
    else:
        wrong: tuple[tuple[str, object], ...] = (
            ("ts", "a while ago"),
            ("product.price", "9,99 €"),
            ("qty", "one"),
            ("product", []),
        )
        field, value = pick(rng, wrong)
        holder, _, key = field.rpartition(".")
        (row[holder] if holder else row)[key] = value
    return json.dumps(row, ensure_ascii=False), field, readable, f"{kind.replace('_', ' ')}: {field}"


def _wrong_price(rng: np.random.Generator, price: float) -> float:
    return (0.0, -price, price * 1000)[int(rng.integers(3))]


def _event_ids(events: Events) -> list[str]:
    return [f"{number:016x}" for number in events.event.tolist()]


def _user_ids(events: Events) -> list[str]:
    numbers, row = np.unique(events.user, return_inverse=True)
    ids = [user_id(number) for number in numbers.tolist()]
    return [ids[place] for place in row.tolist()]
