"""From a publisher's columns to canonical events and products, in SQL.

A `Mapping` says where each canonical field comes from, as SQL over a table `raw`. It first makes texts of all
fields, then types them, and gives every row that cannot be used the first fault that is found in it. Column
names of the publisher appear in SQL as quoted literals only; columns themselves are called c0, c1, ….
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

EVENTS = {
    "event_id": "VARCHAR",
    "source": "VARCHAR",
    "event_at": "TIMESTAMP",
    "received_at": "TIMESTAMP",
    "behavior": "VARCHAR",
    "user_key": "VARCHAR",
    "session_key": "VARCHAR",
    "item_id": "VARCHAR",
    "title": "VARCHAR",
    "category": "VARCHAR",
    "brand": "VARCHAR",
    "price": "DOUBLE",
    "currency": "VARCHAR",
    "quantity": "DOUBLE",
    "order_key": "VARCHAR",
    "rating": "DOUBLE",
    "extra": "VARCHAR",
    "load_id": "VARCHAR",
    "line": "BIGINT",
}
PRODUCTS = {
    "item_id": "VARCHAR",
    "source": "VARCHAR",
    "valid_from": "DATE",
    "title": "VARCHAR",
    "description": "VARCHAR",
    "category": "VARCHAR",
    "brand": "VARCHAR",
    "price": "DOUBLE",
    "currency": "VARCHAR",
    "in_stock": "BOOLEAN",
    "extra": "VARCHAR",
    "load_id": "VARCHAR",
    "line": "BIGINT",
}
REJECTS = {
    "load_id": "VARCHAR",
    "source": "VARCHAR",
    "file": "VARCHAR",
    "line": "BIGINT",
    "reason": "VARCHAR",
    "field": "VARCHAR",
    "value": "VARCHAR",
    "detail": "VARCHAR",
}

IDENTIFIERS = {"user_id": "user_key", "session_id": "session_key", "order_id": "order_key"}
"""Fields that never reach the disk as they are, and what stands for them."""

ESSENTIAL = {"events": ("user_id", "item_id", "behavior"), "products": ("item_id",)}
"""Fields without which there is no row."""

NUMBERS = ("price", "quantity", "rating")
YES, NO = ("true", "t", "yes", "y", "1"), ("false", "f", "no", "n", "0")

EPOCHS = {"s": 6, "ms": 3, "us": 0, "ns": -3}
"""Units of times since 1970, and the powers of ten from each to microseconds."""

_CONTROLS = r"[\x00-\x08\x0B\x0C\x0E-\x1F]"
"""Control characters that no text has: all but tab and line ends."""

_LONGEST_VALUE = 100
"""Characters of an offending value that are kept."""

_ISO_DATE = "-".join("[0-9]" * digits for digits in (4, 2, 2))

_DECIMAL_COMMA = r"[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?"

_EMPTY_OBJECTS = r'"[^"\\]*":\{\},?'


def literal(text: str) -> str:
    """The text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def constant(text: str) -> str:
    """SQL of a text that is the same in every row: an ENUM of one value. Parquet has it as text all the same,
    but DuckDB need not look up each row's value to find that it is again that one.
    """
    return f"CAST({literal(text)} AS ENUM ({literal(text)}))"


def shape(text: str) -> str:
    """SQL of what a text looks like: every letter a (or A), every digit 9, all else as it is."""
    for letters, sign in ((r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]", "a"), (r"[\p{Lu}\p{Lt}]", "A"), (r"\p{N}", "9")):
        text = f"regexp_replace({text}, {literal(letters)}, '{sign}', 'g')"
    return text


def empty(columns: dict[str, str]) -> str:
    """A query with these columns and no rows."""
    fields = ", ".join(f"CAST(NULL AS {kind}) AS {name}" for name, kind in columns.items())
    return f"SELECT {fields} WHERE false"


@dataclass(frozen=True)
class Fault:
    """Something that keeps a row out: where `condition` holds, and is the first to."""

    condition: str
    reason: str
    field: str
    value: str
    detail: str


@dataclass(frozen=True)
class Mapping:
    """SQL that makes canonical rows of a table `raw` with a column `line`.

    Args:
        spec: the file section of a source (`FileSpec.model_dump(mode="json")`).
        column: the SQL expression of each of the publisher's columns that are there.
        extra: the SQL expression of what goes to `extra`.
        broken: faults of the record itself, such as JSON that is none.
        shop_zone: the shop's time zone, in which its day begins; the connection's own TimeZone is the
        publisher's.
        latest: last day (ISO) that events can be from.
        trimmed: whether the columns' texts have no blanks around them, and are NULL where they are empty.
    """

    spec: dict[str, Any]
    column: dict[str, str]
    extra: str
    shop_zone: str
    latest: str
    broken: Sequence[Fault] = ()
    trimmed: bool = False

    @property
    def fields(self) -> list[str]:
        """Canonical fields that have a text of their own in this file."""
        return [
            *self.spec["columns"],
            *(name for name in self.spec["constants"] if name not in self.spec["columns"]),
        ]

    @property
    def is_events(self) -> bool:
        return bool(self.spec["kind"] == "events")

    def parsed(self) -> str:
        """Query: line, t_<field> texts, typed fields and `fault` (0 where the row is good) for every row of
        raw. Of what has a type, good rows have no text any more: nothing would read it.
        """
        texts = [f"{self._text(name)} AS t_{name}" for name in self.fields]
        if self.spec["category_flags"]:
            texts.append(f"{self._flags()} AS t_category")
        times = [name for name in ("time", "received") if self.spec[name]]
        texts += [f"{self._joined(self.spec[name]['column'])} AS t_{name}" for name in times]
        typed = [f"{self._instant(self.spec[name], f't_{name}')} AS {name}_at" for name in times]
        typed.append(f"{self._has_controls()} AS odd")
        typed += [f"{self._number(f't_{name}')} AS n_{name}" for name in NUMBERS if name in self.fields]
        if "in_stock" in self.fields:
            typed.append(f"{_boolean('t_in_stock')} AS b_in_stock")
        read = [f"t_{name}" for name in (*times, *NUMBERS, "in_stock") if name in (*times, *self.fields)]
        kept = ", ".join(f"CASE WHEN fault > 0 THEN {text} END AS {text}" for text in read)
        broken = "".join(f"WHEN {fault.condition} THEN {n} " for n, fault in enumerate(self.broken, 1))
        own = "".join(
            f"WHEN {fault.condition} THEN {n} "
            for n, fault in enumerate(self.faults()[len(self.broken) :], len(self.broken) + 1)
        )
        record = f"CASE {broken}ELSE 0 END" if broken else "0"
        return f"""
            WITH texts AS (
                SELECT line, {record} AS broken, {self.extra} AS extra, {", ".join(texts)} FROM raw
            ),
            typed AS (SELECT *, {", ".join([*typed, "NULL AS nothing"])} FROM texts),
            judged AS (SELECT *, CASE WHEN broken > 0 THEN broken {own} ELSE 0 END AS fault FROM typed)
            SELECT *{f" REPLACE ({kept})" if kept else ""} FROM judged
        """

    def offset(self) -> str:
        """Query over `block`, the parsed rows: microseconds that the shop's clocks were ahead of UTC all the
        time between the first good row and the last; NULL where they were changed, or it is over a week.
        """
        ahead = f"epoch_us(timezone('UTC', timezone({literal(self.shop_zone)}, moment))) - epoch_us(moment)"
        # Clocks are changed on the quarter of an hour, and not twice within one.
        return f"""
            WITH ends AS (SELECT min(time_at) AS first, max(time_at) AS last FROM block WHERE fault = 0),
            moments AS (
                SELECT unnest(list_append(generate_series(first, last, INTERVAL 15 MINUTE), last)) AS moment
                FROM ends WHERE last - first < INTERVAL 7 DAY
            )
            SELECT CASE WHEN count(DISTINCT {ahead}) = 1 THEN any_value({ahead}) END FROM moments
        """

    def day(self, offset: int | None) -> str:
        """SQL: the shop's day of `time_at`.

        Args:
            offset: of its clocks, where it is the same in all rows: asking ICU takes fifteen times as long.
        """
        if not self.is_events:
            return "CAST(NULL AS DATE)"
        if offset is None:
            return f"CAST(timezone({literal(self.shop_zone)}, time_at) AS DATE)"
        return f"CAST(make_timestamp(epoch_us(time_at) + {offset}) AS DATE)"

    def faults(self) -> list[Fault]:
        """What can be wrong with a row; the number of a fault is its place, beginning with 1."""
        found = list(self.broken)
        needed = list(dict.fromkeys([*ESSENTIAL[self.spec["kind"]], *self.spec["required"]]))
        for name in needed:
            if name in self.spec["constants"] and name not in self.spec["columns"]:
                continue
            label = self._label(name)
            found.append(
                Fault(f"t_{name} IS NULL", "missing_value", label, "NULL", f"{_both(label, name)} is empty")
            )
        found += self._control_faults()
        found += self._time_faults()
        for name in NUMBERS:
            if name in self.fields:
                label = self._label(name)
                condition = f"t_{name} IS NOT NULL AND (n_{name} IS NULL OR NOT isfinite(n_{name}))"
                found.append(
                    Fault(condition, "bad_number", label, f"t_{name}", f"{_both(label, name)} is no number")
                )
        if "in_stock" in self.fields:
            label = self._label("in_stock")
            found.append(
                Fault(
                    "t_in_stock IS NOT NULL AND b_in_stock IS NULL",
                    "wrong_type",
                    label,
                    "t_in_stock",
                    f"{_both(label, 'in_stock')} is neither true nor false",
                )
            )
        return found

    def rejects(self, *, verbatim: bool = False) -> str:
        """Query over `parsed`: line, reason, field, value, detail of every row with a fault.

        Args:
            verbatim: values as they are. Else their shape, for any column can hold a user id by mistake.
        """
        faults = self.faults()
        reason, field, value, detail = (
            f"CASE fault {' '.join(f'WHEN {n} THEN {sql}' for n, sql in enumerate(options, 1))} END"
            for options in (
                [literal(fault.reason) for fault in faults],
                [literal(fault.field) for fault in faults],
                [fault.value for fault in faults],
                [literal(fault.detail) for fault in faults],
            )
        )
        value = f"left({value}, {_LONGEST_VALUE})"
        return f"""
            SELECT line, {reason} AS reason, {field} AS field, {value if verbatim else shape(value)} AS value,
                {detail} AS detail
            FROM parsed WHERE fault > 0
        """

    def identifiers(self) -> list[str]:
        """Fields of this file that pseudonyms take the place of."""
        return [name for name in IDENTIFIERS if name in self.fields]

    def events(self, source: str, load_id: str) -> str:
        """Query over `parsed` and the tables `key_<field>` (id, key): day and the canonical events."""
        keys = {
            key: f"key_{name}.key" if name in self.fields else "CAST(NULL AS VARCHAR)"
            for name, key in IDENTIFIERS.items()
        }
        columns = {
            "source": constant(source),
            "event_at": _in_utc("time_at"),
            "received_at": _in_utc("received_at") if self.spec["received"] else "CAST(NULL AS TIMESTAMP)",
            "behavior": self._behavior(),
            **keys,
            **{name: self._plain(name) for name in ("item_id", "title", "category", "brand", "currency")},
            **{name: self._typed_number(name) for name in NUMBERS},
            "extra": "parsed.extra",
            "load_id": constant(load_id),
            "line": "line",
        }
        joins = " ".join(
            f"LEFT JOIN key_{name} ON parsed.t_{name} = key_{name}.id" for name in self.identifiers()
        )
        event_id = "event_id" if "event_id" in self.fields else "NULL"
        own = f"parsed.t_{event_id} AS own_id" if event_id != "NULL" else "NULL AS own_id"
        content = [name for name in EVENTS if name not in ("event_id", "received_at", "load_id", "line")]
        # The canonical row itself is what exact duplicates share; when it was received, or its line, is not.
        derived = "left(sha256(concat_ws(chr(31), {})), 32)".format(
            ", ".join(f"coalesce(CAST({name} AS VARCHAR), '')" for name in content)
        )
        others = ", ".join(name for name in EVENTS if name != "event_id")
        return f"""
            WITH canonical AS (
                SELECT parsed.day, {own}, {", ".join(f"{sql} AS {name}" for name, sql in columns.items())}
                FROM parsed {joins} WHERE fault = 0
            )
            SELECT day, coalesce(own_id, {derived}) AS event_id, {others} FROM canonical
        """

    def products(self, source: str, load_id: str) -> str:
        """Query over `parsed`: the canonical products."""
        columns = {
            "item_id": "t_item_id",
            "source": literal(source),
            "valid_from": "CAST(time_at AS DATE)" if self.spec["time"] else "CAST(NULL AS DATE)",
            **{name: self._plain(name) for name in ("title", "description", "category", "brand")},
            "price": self._typed_number("price"),
            "currency": self._plain("currency"),
            "in_stock": "b_in_stock" if "in_stock" in self.fields else "CAST(NULL AS BOOLEAN)",
            "extra": "extra",
            "load_id": literal(load_id),
            "line": "line",
        }
        chosen = ", ".join(f"{columns[name]} AS {name}" for name in PRODUCTS)
        return f"SELECT {chosen} FROM parsed WHERE fault = 0"

    def _text(self, name: str) -> str:
        if name in self.spec["columns"]:
            return self._joined(self.spec["columns"][name])
        return literal(self.spec["constants"][name])

    def _joined(self, columns: Sequence[str]) -> str:
        """Text without blanks around it, NULL where it is empty or any of several columns is."""
        texts = [self.column.get(name, "CAST(NULL AS VARCHAR)") for name in columns]
        if not self.trimmed:
            texts = [f"nullif(trim({text}), '')" for text in texts]
        return texts[0] if len(texts) == 1 else "(" + " || ' ' || ".join(texts) + ")"

    def _flags(self) -> str:
        flags = self.spec["category_flags"]
        names = ", ".join(
            f"CASE WHEN trim({self.column[flag]}) = '1' THEN {literal(flag)} END"
            for flag in flags
            if flag in self.column
        )
        return f"nullif(concat_ws(' > ', {names}), '')"

    def _instant(self, time: dict[str, Any], text: str) -> str:
        units = time["unit"]
        if units[0] in EPOCHS:
            # By way of DOUBLE: a cast of text to BIGINT would round the fraction that an epoch in seconds can
            # have.
            micros = f"try_cast(round(try_cast({text} AS DOUBLE) * 1e{EPOCHS[units[0]]}) AS BIGINT)"
            limit = 10**17  # beyond year 5000; make_timestamp fails further out
            instant = f"timezone('UTC', make_timestamp({micros}))"
            return f"CASE WHEN {micros} BETWEEN {-limit} AND {limit} THEN {instant} END"
        if "%" in units[0]:
            formats = ", ".join(map(literal, units))
            return f"CAST(try_strptime({text}, [{formats}]) AS TIMESTAMPTZ)"
        # A cast to TIMESTAMP would drop the offset; this one honours it, and takes the zone set where there
        # is none.
        # With an offset it wants seconds, which ISO 8601 does not: only what it cannot read is written anew.
        whole = f"regexp_replace({text}, '^(.{{10}}[T ]\\d\\d:\\d\\d)([^\\d:.])', '\\1:00\\2')"
        instant = f"coalesce(try_cast({text} AS TIMESTAMPTZ), try_cast({whole} AS TIMESTAMPTZ))"
        return f"CASE WHEN {text} GLOB '{_ISO_DATE}{'' if units[0] == 'date' else '*'}' THEN {instant} END"

    def _number(self, text: str) -> str:
        if self.spec["format"].get("decimal") != ",":
            return f"try_cast({text} AS DOUBLE)"
        # Of other dots nobody knows whether they are thousands: 12.50 must not become 1250.
        number = f"try_cast(replace(replace({text}, '.', ''), ',', '.') AS DOUBLE)"
        return f"CASE WHEN regexp_full_match({text}, {literal(_DECIMAL_COMMA)}) THEN {number} END"

    def _texts(self) -> list[str]:
        """Fields, and times, whose texts are looked at for control characters: those of JSON and Parquet, for
        of other files no such line comes so far.
        """
        if self.spec["format"]["type"] == "csv":
            return []
        return [*self.fields, *(name for name in ("time", "received") if self.spec[name])]

    def _has_controls(self) -> str:
        """SQL: any text of the row has a control character. One look for nearly all rows."""
        texts = ", ".join(f"t_{name}" for name in self._texts())
        return f"regexp_matches(concat_ws('', {texts}), {literal(_CONTROLS)})" if texts else "false"

    def _control_faults(self) -> list[Fault]:
        return [
            Fault(
                f"odd AND regexp_matches(t_{name}, {literal(_CONTROLS)})",
                "control_character",
                label := self._label(name),
                "NULL",
                f"{_both(label, name)} holds a control character",
            )
            for name in self._texts()
        ]

    def _time_faults(self) -> list[Fault]:
        found = []
        for name in ("time", "received"):
            if not self.spec[name]:
                continue
            label = " ".join(self.spec[name]["column"])
            unit = " or ".join(self.spec[name]["unit"])
            if name == "time" and self.is_events:
                found.append(
                    Fault("t_time IS NULL", "missing_value", label, "NULL", f"{label} (time) is empty")
                )
            condition = f"t_{name} IS NOT NULL AND {name}_at IS NULL"
            found.append(
                Fault(condition, "bad_time", label, f"t_{name}", f"{label} is no time written as {unit}")
            )
        if self.is_events:
            label = " ".join(self.spec["time"]["column"])
            first, last = self.spec["window"]["earliest"], self.latest
            begin, end = (
                f"timezone({literal(self.shop_zone)}, TIMESTAMP {literal(day)}" for day in (first, last)
            )
            condition = f"NOT (time_at >= {begin}) AND time_at < {end} + INTERVAL 1 DAY))"
            found.append(
                Fault(condition, "outside_window", label, "t_time", f"{label} lies outside {first} to {last}")
            )
        return found

    def _label(self, name: str) -> str:
        """What the publisher calls it: that is what can be looked for in the file."""
        if name in ("time", "received"):
            return " ".join(self.spec[name]["column"])
        return " ".join(self.spec["columns"].get(name, [name]))

    def _behavior(self) -> str:
        if not self.spec["behavior"]:
            return "t_behavior"
        codes = " ".join(
            f"WHEN {literal(code)} THEN {literal(to)}" for code, to in self.spec["behavior"].items()
        )
        return f"CASE t_behavior {codes} ELSE t_behavior END"

    def _plain(self, name: str) -> str:
        if name == "category" and (name in self.fields or self.spec["category_flags"]):
            separator = self.spec["category_separator"]
            return f"replace(t_category, {literal(separator)}, ' > ')" if separator else "t_category"
        return f"t_{name}" if name in self.fields else "CAST(NULL AS VARCHAR)"

    def _typed_number(self, name: str) -> str:
        return f"n_{name}" if name in self.fields else "CAST(NULL AS DOUBLE)"


def leftover(columns: dict[str, str]) -> str:
    """SQL of a JSON object of these columns (name → expression), NULLs left out; NULL where nothing is
    left.
    """
    if not columns:
        return "CAST(NULL AS VARCHAR)"
    parts = ", ".join(
        f"CAST(to_json({literal(name)}) AS VARCHAR) || ':' || CAST(to_json({sql}) AS VARCHAR)"
        for name, sql in columns.items()
    )
    some = f"'{{' || nullif(concat_ws(',', {parts}), '') || '}}'"
    # Where none is NULL, which is usual, there is a quicker way.
    members = ", ".join(f"{literal(name)}, {sql}" for name, sql in columns.items())
    all_there = " AND ".join(f"{sql} IS NOT NULL" for sql in columns.values())
    return f"CASE WHEN {all_there} THEN CAST(json_object({members}) AS VARCHAR) ELSE {some} END"


def leftover_json(document: str, paths: Sequence[str]) -> str:
    """SQL of the JSON object without the values at these dotted paths; NULL where nothing is left.

    By JSON Merge Patch (RFC 7396): null in the patch removes a member.
    """
    patch: dict[str, Any] = {}
    for path in sorted(paths, key=len, reverse=True):
        *holders, last = path.split(".")
        inner = patch
        for holder in holders:
            inner = inner.setdefault(holder, {}) if isinstance(inner.get(holder, {}), dict) else {}
        inner[last] = None
    text = f"CAST(json_merge_patch({document}, {literal(json.dumps(patch))}) AS VARCHAR)"
    emptied = f"regexp_replace({text}, {literal(_EMPTY_OBJECTS)}, '', 'g')"
    return f"CASE WHEN {emptied} <> '{{}}' THEN {text} END"


def json_path(path: str) -> str:
    """A dotted path in DuckDB's JSONPath, every part quoted."""
    return "$" + "".join(f'."{part}"' for part in path.split("."))


def _in_utc(instant: str) -> str:
    """TIMESTAMP in UTC of a TIMESTAMPTZ; `timezone('UTC', …)` asks ICU, and takes twenty times as long."""
    return f"make_timestamp(epoch_us({instant}))"


def _both(label: str, name: str) -> str:
    return label if label == name else f"{label} ({name})"


def _boolean(text: str) -> str:
    yes, no = (", ".join(map(literal, words)) for words in (YES, NO))
    return f"CASE WHEN lower({text}) IN ({yes}) THEN true WHEN lower({text}) IN ({no}) THEN false END"
