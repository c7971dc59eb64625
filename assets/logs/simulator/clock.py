"""Randomness, the shop's hours and its seasons: all that depends on the calendar alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MINUTE = 60_000
DAY = 86_400_000
"""Milliseconds."""

# Relative traffic by hour of the wall clock. Desktop shoppers buy at work and after dinner; phones come out
# on the way to work, at lunch and on the sofa.
_HOURS = {
    "web": "1.0 .5 .3 .2 .2 .4 .9 1.8 2.9 3.9 4.6 4.8 4.6 4.5 4.6 4.5 4.3 4.2 4.4 5.0 5.6 5.3 3.8 2.0",
    "app": "1.4 .7 .4 .2 .2 .6 1.8 3.6 3.7 3.0 2.9 3.2 4.2 3.8 3.1 3.2 3.6 4.2 4.6 5.4 6.3 6.5 5.2 2.9",
}
HOURS: dict[str, Floats] = {channel: np.array(curve.split(), float) for channel, curve in _HOURS.items()}

WEEKDAYS = (1.02, 0.98, 0.97, 1.0, 0.92, 0.95, 1.16)
"""Relative traffic, Monday first: online shops are busiest on Sunday evening."""

_PEAKS = {"winter": 15, "spring": 105, "summer": 190, "autumn": 285, "gifts": 345}
"""Day of the year on which what belongs to a season sells best."""


def random(seed: int, *key: int) -> np.random.Generator:
    """A generator of its own for every purpose and day, so that no draw shifts another's."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=key)))


def season(name: str, day: date) -> float:
    """How well things of a season sell on a day, 1 being average: a bump of ± 3 weeks for gifts, else ± 9."""
    if not name:
        return 1.0
    away = (day.timetuple().tm_yday - _PEAKS[name] + 182) % 365 - 182
    width = 21 if name == "gifts" else 63
    height = 1.6 if name == "gifts" else 1.1
    return float(0.75 + height * np.exp(-0.5 * (away / width) ** 2))


def traffic(day: date) -> float:
    """The day's traffic relative to an average day: week, Christmas business, summer lull."""
    return WEEKDAYS[day.weekday()] * (0.9 + 0.2 * season("gifts", day) - 0.08 * season("summer", day))


@dataclass(frozen=True)
class ShopDay:
    """One day of the shop, from midnight to midnight of its own zone: 23, 24 or 25 hours."""

    day: date
    zone: ZoneInfo

    @property
    def began_at(self) -> int:
        """Epoch milliseconds of local midnight."""
        return _midnight(self.day, self.zone)

    @property
    def ended_at(self) -> int:
        """Epoch milliseconds of the next local midnight."""
        return _midnight(self.day + timedelta(days=1), self.zone)

    def times(self, rng: np.random.Generator, curve: Floats, count: int) -> Ints:
        """`count` moments of this day in epoch ms, thick where the 24-hour `curve` is high.

        Minutes are drawn from those that the day really has, so that an hour skipped by the clock change gets
        no visits and an hour that comes twice gets them twice.
        """
        began_at = self.began_at
        minutes = np.arange(began_at, self.ended_at, MINUTE, dtype=np.int64)
        hours = (minutes + offsets(minutes, self.zone)) // (60 * MINUTE) % 24
        cumulative = np.cumsum(curve[hours])
        drawn = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
        moments: Ints = began_at + drawn * MINUTE + rng.integers(0, MINUTE, count)
        return moments


def offsets(at_ms: Ints, zone: ZoneInfo) -> Ints:
    """The zone's distance from UTC in milliseconds at each moment (epoch ms)."""
    # Every clock change of today's zones falls on a quarter of an hour.
    quarters, place = np.unique(at_ms // (15 * MINUTE), return_inverse=True)
    found = [_offset(int(quarter) * 900, zone) for quarter in quarters]
    return np.array(found, dtype=np.int64)[place] if found else np.zeros(0, dtype=np.int64)


def iso_times(at_ms: Ints, zone: ZoneInfo) -> list[str]:
    """Local times as ISO 8601 with offset, to the millisecond: `2026-03-29T03:00:00.000+02:00`."""
    away = offsets(at_ms, zone)
    local = np.datetime_as_string((at_ms + away).astype("datetime64[ms]"), unit="ms").tolist()
    suffix = {int(value): _suffix(int(value)) for value in np.unique(away)}
    return [text + suffix[value] for text, value in zip(local, away.tolist(), strict=True)]


def _midnight(day: date, zone: ZoneInfo) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1000


def _offset(seconds: int, zone: ZoneInfo) -> int:
    distance = datetime.fromtimestamp(seconds, UTC).astimezone(zone).utcoffset() or timedelta()
    return int(distance.total_seconds()) * 1000


def _suffix(offset_ms: int) -> str:
    hours, minutes = divmod(abs(offset_ms) // MINUTE, 60)
    return f"{'-' if offset_ms < 0 else '+'}{hours:02d}:{minutes:02d}"
