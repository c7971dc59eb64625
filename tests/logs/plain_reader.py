"""A reader in plain Python that shares nothing with ours: no DuckDB, none of our SQL, none of our parsing.

It is slow and plain, line by line with `csv` and `json`, and says of each line what the documentation
promises: the canonical row, or the reason for which it is refused.
"""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

FIELDS = ("event_id", "user", "item", "code", "title", "at", "got", "price", "many")
"""Columns of the publisher that the tests make up."""

TEXTS = {"event_id": "event_id", "item": "item_id", "code": "behavior", "title": "title"}
NUMBERS = {"price": "price", "many": "quantity"}

_TIME = re.compile(
    r"(\d{4})-(\d{2})-(\d{2})"
    r"(?:(T| +)(\d{1,2}):(\d{1,2})(?::(\d{1,2})(?:\.(\d*))?)?(Z|[+-]\d{2}(?::?\d{2})?)?)?",
    re.ASCII,
)
_NUMBER = re.compile(r"[ \t]*[+-]?(\d+(_\d+)*\.?\d*|\.\d+)([eE][+-]?\d+)?[ \t]*", re.ASCII)
_BLANKS = " \xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
"""Unicode's space separators (category Zs): around a text they mean nothing in any alphabet."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


@dataclass
class Result:
    """What a file comes to."""

    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Line → the canonical row."""
    refused: dict[int, str] = field(default_factory=dict)
    """Line → reason."""
    lines: int = 0
    blank: int = 0


@dataclass(frozen=True)
class PlainReader:
    """Reads events of one publisher.

    Args:
        zone: of times that carry no offset.
        shop_zone: in which days begin.
        first, last: days that events can be from.
    """

    zone: ZoneInfo
    shop_zone: ZoneInfo
    first: date
    last: date

    def csv(self, content: bytes) -> Result:
        """A header line, then one record per line."""
        header, *lines = _lines(content)
        names = next(csv.reader([header.decode()]))
        found = Result(lines=1 + len(lines))
        for number, line in enumerate(lines, start=2):
            if not line.strip(b" \t"):
                found.blank += 1
                continue
            fields = _fields(line)
            if isinstance(fields, str):
                found.refused[number] = fields
            elif len(fields) != len(names):
                found.refused[number] = "column_count"
            else:
                # Nothing between two commas is no value.
                self._add(
                    found, number, {name: text or None for name, text in zip(names, fields, strict=True)}
                )
        return found

    def jsonl(self, content: bytes) -> Result:
        """One object per line."""
        lines = _lines(content)
        found = Result(lines=len(lines))
        for number, line in enumerate(lines, start=1):
            if not line.strip(b" \t"):
                found.blank += 1
                continue
            try:
                text = line.decode()
            except UnicodeDecodeError:
                found.refused[number] = "bad_encoding"
                continue
            try:
                members = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_first_of_each)
                # Half a character can be written as an escape, but is no text.
                json.dumps(members, ensure_ascii=False).encode()
            except (ValueError, RecursionError):
                members = None
            if not isinstance(members, dict):
                found.refused[number] = "bad_json"
                continue
            self._add(found, number, {name: _as_text(value) for name, value in members.items()}, members)
        return found

    def _add(
        self,
        found: Result,
        number: int,
        record: dict[str, str | None],
        members: dict[str, Any] | None = None,
    ) -> None:
        texts = {name: (record.get(name) or "").strip(_BLANKS) or None for name in FIELDS}
        made = self._row(texts, with_controls=members is not None)
        if isinstance(made, str):
            found.refused[number] = made
            return
        rest = {name: value for name, value in (members or record).items() if name not in FIELDS}
        made["extra"] = {name: value for name, value in rest.items() if value is not None} or None
        found.rows[number] = made

    def _row(self, texts: dict[str, str | None], *, with_controls: bool) -> dict[str, Any] | str:
        """The canonical row, or the first reason against it."""
        if any(texts[name] is None for name in ("user", "item", "code")):
            return "missing_value"
        if with_controls and any(_CONTROLS.search(text) for text in texts.values() if text):
            return "control_character"
        at, got = texts["at"], texts["got"]
        if at is None:
            return "missing_value"
        event_at, received_at = self.instant(at), got and self.instant(got)
        if event_at is None or (got is not None and received_at is None):
            return "bad_time"
        day = event_at.replace(tzinfo=UTC).astimezone(self.shop_zone).date()
        if not self.first <= day <= self.last:
            return "outside_window"
        row: dict[str, Any] = {to: texts[name] for name, to in TEXTS.items()}
        for name, to in NUMBERS.items():
            text = texts[name]
            row[to] = None if text is None else number_of(text)
            if text is not None and row[to] is None:
                return "bad_number"
        return row | {"event_at": event_at, "received_at": received_at, "day": day, "user": texts["user"]}

    def instant(self, text: str) -> datetime | None:
        """UTC, without a zone; None where the text is no time."""
        match = _TIME.fullmatch(text)
        if not match:
            return None
        year, month, day, between, hour, minute, second, fraction, offset = match.groups()
        if offset and not second and len(between + hour + minute) != len("T0000"):
            return None
        clock = [int(part or 0) for part in (hour, minute, second, ((fraction or "") + "000000")[:6])]
        at_the_end = clock == [24, 0, 0, 0]  # of the day: ISO 8601 has two names for midnight
        try:
            when = datetime(*map(int, (year, month, day)), *([0] if at_the_end else clock))
            when += timedelta(days=at_the_end)
            if offset is None:
                return _on_the_clock(when, self.zone)
            return when - _offset(offset)
        except (ValueError, OverflowError):
            return None


def number_of(text: str) -> float | None:
    """None where the text is no finite decimal number."""
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if math.isfinite(number) else None


def _lines(content: bytes) -> list[bytes]:
    content = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    lines = content.split(b"\n")
    return lines if lines[-1] else lines[:-1]


def _fields(line: bytes) -> list[str] | str:
    """The fields of a line, or the reason for which it has none."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return "bad_encoding"
    if any(sign < " " and sign != "\t" for sign in text):
        return "control_character"
    try:
        return next(csv.reader([text], strict=True))
    except csv.Error:
        return "unbalanced_quote"


def _first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _on_the_clock(when: datetime, zone: ZoneInfo) -> datetime:
    """UTC of what a clock on the wall shows: of an hour that comes twice, the second time; an hour that is
    left out goes on from the one before.
    """
    early, late = (when.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    twice = early.utcoffset() > late.utcoffset()  # type: ignore[operator]
    return (late if twice else early).astimezone(UTC).replace(tzinfo=None)


def _offset(text: str) -> timedelta:
    if text == "Z":
        return timedelta(0)
    digits = text[1:].replace(":", "") + "00"
    size = timedelta(hours=int(digits[:2]), minutes=int(digits[2:4]))
    return -size if text[0] == "-" else size
