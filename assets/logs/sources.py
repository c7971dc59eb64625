"""Sources: what a publisher's files look like, one YAML file each.

A source maps a publisher's columns, codes, time unit and zone onto the canonical event or product. Those that
Nightshelf ships lie in `assets/logs/sources/`; a shop's own lie in `home/sources/` and win over a shipped one
of the same name.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterator, Sequence
from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import available_timezones

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from assets.logs.canonical import ESSENTIAL, literal
from resources.home import BEHAVIORS, Home
from resources.yaml_file import YamlError, complaint, parsed

SHIPPED = Path(__file__).parent / "sources"

EVENT_FIELDS = (
    *("event_id", "user_id", "session_id", "item_id", "behavior", "title", "category", "brand"),
    *("price", "currency", "quantity", "order_id", "rating"),
)
"""What a column can become in an event; the time has a section of its own."""

PRODUCT_FIELDS = ("item_id", "title", "description", "category", "brand", "price", "currency", "in_stock")

FIELDS = {"events": EVENT_FIELDS, "products": PRODUCT_FIELDS}

UNITS = ("iso", "date", "s", "ms", "us", "ns")
COMPRESSIONS = (".gz", ".zip")


class SourceError(ValueError):
    """A source file cannot be used; the message names file, line, field and the next step."""


@cache  # the same few formats are in many sources
def _check_format(one: str) -> None:
    """Ask DuckDB, which reads times by it: else every file would be refused for a format it does not know.

    Raises:
        ValueError: it does not know it.
    """
    import duckdb  # takes as long to import as all the rest

    try:
        with duckdb.connect() as db:
            db.execute(f"SELECT try_strptime('', {literal(one)})")
    except (duckdb.InvalidInputException, duckdb.ParserException) as error:
        reason = str(error).rpartition(f"{one}: ")[2].partition("\n")[0]
        raise ValueError(f"{one!r} is no format that times are read by ({reason})") from error


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str | int) else value


OneOrMore = Annotated[list[str], BeforeValidator(_as_list), Field(min_length=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", coerce_numbers_to_str=True, frozen=True)


class Csv(_Section):
    """Delimited text, one record per line."""

    type: Literal["csv"]
    delimiter: Annotated[str, Field(min_length=1, max_length=4)] = ","
    quote: Annotated[str, Field(min_length=1, max_length=1)] | None = '"'
    """Null where the publisher never quotes: a quotation mark is then part of the text."""
    encoding: Literal["utf-8", "latin-1", "cp1252"] = "utf-8"
    columns: list[str] | None = None
    """Names of the columns of a file without a header line."""
    decimal: Literal[".", ","] = "."
    """With a comma, dots may stand between thousands: 1.234,50."""

    @model_validator(mode="after")
    def _plain_split(self) -> Csv:
        if self.quote is not None and len(self.delimiter) > 1:
            raise ValueError("delimiter: one of several characters goes with `quote: null` only")
        return self


class Jsonl(_Section):
    """One JSON object per line. Columns are dotted paths, such as `user.id`."""

    type: Literal["jsonl"]
    explode: str | None = None
    """Path of an array: each of its elements is a record, and paths that begin with it lie in the element."""


class Parquet(_Section):
    type: Literal["parquet"]


class Time(_Section):
    """When something happened, and how that is written."""

    column: OneOrMore
    """Several columns are read as one text, joined by a blank: a date and a time of day."""
    unit: OneOrMore = ["iso"]
    """iso, date, seconds or parts of one since 1970 (s, ms, us, ns), or strptime formats, tried in order."""

    @field_validator("unit")
    @classmethod
    def _known_unit(cls, unit: list[str]) -> list[str]:
        for one in unit:
            if "%" not in one and one not in UNITS:
                raise ValueError(
                    f"{one!r} is neither one of {', '.join(UNITS)} nor a format such as '%d.%m.%Y %H:%M'"
                )
        if len(unit) > 1 and not all("%" in one for one in unit):
            raise ValueError("only strptime formats can be listed side by side")
        for one in unit:
            if "%" in one:
                _check_format(one)
        return unit


class Window(_Section):
    """Days, on the shop's clock, that events can be from; rows of other days are refused."""

    earliest: date = date(1990, 1, 1)
    latest: date | None = None
    """Tomorrow where absent: clocks of other time zones are ahead, wrong ones are far ahead."""

    @field_validator("latest")
    @classmethod
    def _after_earliest(cls, latest: date | None, info: Any) -> date | None:
        if latest and latest < info.data.get("earliest", latest):
            raise ValueError("lies before earliest")
        return latest


class FileSpec(_Section):
    """One kind of file that a source consists of."""

    match: OneOrMore
    """Patterns of the file's name (`*`, `?`, `[…]`); `.gz` and `.zip` at its end are left out of account."""
    kind: Literal["events", "products"] = "events"
    format: Annotated[Csv | Jsonl | Parquet, Field(discriminator="type")]
    time: Time | None = None
    """When the event happened; of a product, the day from which it looked so."""
    received: Time | None = None
    """When the publisher's collector got the event."""
    columns: dict[str, OneOrMore] = {}
    """Canonical field ← the publisher's column, or columns that are joined by a blank."""
    constants: dict[str, str] = {}
    required: list[str] = []
    """Fields without which a row is refused, besides the essential ones."""
    behavior: dict[str, str] = {}
    """The publisher's code → browse, click, cart or purchase. Other codes are kept as they are."""
    window: Window = Window()
    ignore: list[str] = []
    """Columns that are not kept. All other columns that nothing is made of go to `extra`."""
    category_separator: str | None = None
    """What stands between the levels of a category."""
    category_flags: list[str] = []
    """Columns whose `1` puts the item into the category of their name."""

    @model_validator(mode="after")
    def _consistent(self) -> FileSpec:
        fields = FIELDS[self.kind]
        for section in ("columns", "constants", "required"):
            for name in getattr(self, section):
                if name not in fields:
                    raise ValueError(f"{section}: {_unknown(name, fields)}")
        for name in self.needed:
            if name not in self.columns and name not in self.constants:
                raise ValueError(f"columns: nothing is mapped to {name}, which every row needs")
        if self.kind == "events" and self.time is None:
            raise ValueError("time: events need one; name its column and unit")
        for code, meaning in self.behavior.items():
            if meaning not in BEHAVIORS:
                raise ValueError(f"behavior: {code} → {_unknown(meaning, BEHAVIORS)}")
        headerless = self.format.columns if isinstance(self.format, Csv) else None
        for column in self.publisher_columns():
            if headerless is not None and column not in headerless:
                raise ValueError(f"format.columns: {_unknown(column, headerless)}")
        return self

    @property
    def needed(self) -> list[str]:
        """Fields without which a row is refused."""
        return list(dict.fromkeys([*ESSENTIAL[self.kind], *self.required]))

    def publisher_columns(self) -> list[str]:
        """Every column that something is made of, in the order in which the file names them."""
        named = [*(self.time.column if self.time else ()), *(self.received.column if self.received else ())]
        mapped = [column for columns in self.columns.values() for column in columns]
        return list(dict.fromkeys([*named, *mapped, *self.category_flags]))


class Ignored(_Section):
    """Files that come with a source and are not taken in."""

    match: OneOrMore
    reason: str


class Source(_Section):
    """A publisher's format: what its YAML file says."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
    description: str
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")] = "shop"
    """Sources that share a namespace share their shoppers: the same id is the same person."""
    timezone: str | None = None
    """IANA zone of times that carry no offset; the shop's own where absent."""
    files: Annotated[list[FileSpec], Field(min_length=1)]
    ignored: list[Ignored] = []

    _contract: str = PrivateAttr(default="")
    _path: Path = PrivateAttr(default=Path())

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, zone: str | None) -> str | None:
        if zone is not None and zone not in available_timezones():
            raise ValueError(f"{zone!r} is no IANA time zone; write one like Europe/Berlin")
        return zone

    @property
    def contract(self) -> str:
        """SHA-256 of the YAML file, hexadecimal: the version of this mapping."""
        return self._contract

    @property
    def path(self) -> Path:
        return self._path

    def spec_for(self, file_name: str) -> FileSpec | Ignored | None:
        """The first section whose patterns fit the name, files before ignored; None where none does."""
        sections: Sequence[FileSpec | Ignored] = [*self.files, *self.ignored]
        return next((section for section in sections if _fits(file_name, section.match)), None)


def load_source(file: Path) -> Source:
    """Read and check one source file.

    Raises:
        SourceError: the file is not named *.yaml, cannot be read, is no YAML mapping, or a field in it is
            wrong.
    """
    if file.suffix != ".yaml":
        raise SourceError(f"{file}: is not taken for a source. Rename it to {file.stem}.yaml.")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise SourceError(f"{file}: {error.strerror}. Name a YAML file that is there.") from error
    try:
        values, tree = parsed(file, content)
    except YamlError as error:
        raise SourceError(str(error)) from error
    try:
        source = Source.model_validate(values)
    except ValidationError as error:
        raise SourceError("\n".join(_complaints(file, tree, error))) from error
    if source.name != file.stem:
        raise SourceError(
            complaint(file, tree, ("name",), f"{source.name!r} is not the file's own name. ")
            + f"Write `name: {file.stem}`, or rename the file to {source.name}.yaml."
        )
    source._contract = hashlib.sha256(content).hexdigest()
    source._path = file
    return source


def read_sources(home: Home) -> tuple[dict[str, Source], dict[str, str]]:
    """The sources that can be used, and what is wrong with the others; both by name."""
    sources: dict[str, Source] = {}
    faults: dict[str, str] = {}
    for folder in (SHIPPED, home.sources):
        for file in sorted(file for file in folder.glob("*") if file.suffix.lower() in (".yaml", ".yml")):
            try:
                sources[file.stem] = load_source(file)
            except SourceError as error:
                sources.pop(file.stem, None)
                faults[file.stem] = str(error)
    return sources, faults


def _fits(file_name: str, patterns: Sequence[str]) -> bool:
    names = {file_name}
    for ending in COMPRESSIONS:
        names.add(file_name.removesuffix(ending))
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _unknown(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"{name!r} is not known; {hint}"


def _complaints(file: Path, tree: yaml.Node | None, error: ValidationError) -> Iterator[str]:
    for fault in error.errors():
        where = tuple(part for part in fault["loc"] if part not in _FORMATS)
        message = fault["msg"]
        if fault["type"] == "extra_forbidden":
            message = f"no such field; {_siblings(fault['loc'])}"
        elif fault["type"] == "missing":
            message = "has to be there"
        elif fault["type"] == "model_type":
            message = "has to be a mapping of fields"
        told = complaint(file, tree, where, message)
        yield f"{told}. Correct it, then run: nightshelf sources check {file} SAMPLE"


_FORMATS: dict[str, type[BaseModel]] = {"csv": Csv, "jsonl": Jsonl, "parquet": Parquet}
_MODELS: dict[str, type[BaseModel]] = _FORMATS | {
    "files": FileSpec,
    "time": Time,
    "received": Time,
    "window": Window,
    "ignored": Ignored,
}


def _siblings(where: tuple[int | str, ...]) -> str:
    names = [part for part in where[:-1] if isinstance(part, str)]
    known = list((_MODELS.get(names[-1], Source) if names else Source).model_fields)
    return _unknown(str(where[-1]), known).removeprefix(f"{str(where[-1])!r} is not known; ")
