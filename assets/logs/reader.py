"""The processes that parse files, each a single one: `python -m assets.logs.reader` forks them off.

Foreign bytes can kill a parser, so nothing but such a process ever looks into a file. It works on a private
copy under a name of ours, within limits of memory, time and disk that the kernel holds, and writes to a
folder that counts only once its parent has renamed it. Jobs come on standard input, a line of JSON each (the
identity key with it: it is in no argument and no file); results go to standard output, a line of JSON each:
`ended`, an exit code, where the process died of the file. A job without a `spec` asks for no more than the
number of lines.

Nothing of the file's content goes anywhere else: a parser's own messages quote rows, and rows hold user ids.
"""

from __future__ import annotations

import difflib
import gc
import json
import os
import re
import resource
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import duckdb
import numpy as np

from assets.logs import canonical
from assets.logs.canonical import Fault, Mapping
from assets.logs.lines import (
    LONGEST_LINE,
    MOST_COLUMNS,
    FileRefusedError,
    Layout,
    Lines,
    check_growth,
    count_lines,
    opened,
)
from resources.crash import crash_point
from resources.identity import IdentityKey, pseudonym_sql
from resources.parent import PARENT, die_with
from resources.room import lack

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

MEMORY = 6 << 30
"""Bytes of address space; DuckDB itself is held to `WORKING_MEMORY` and spills beyond it."""
WORKING_MEMORY = "1500MB"
LARGEST_OUTPUT = 64 << 30
"""Bytes of one file that may be written."""
SECONDS, SECONDS_PER_MIB = 120, 10
"""Processor time that a file may take."""

TEXT_BYTES = 64 << 20
"""Bytes of a text file that are parsed at once."""
PARQUET_ROWS = 500_000
"""Rows of a Parquet file that are parsed at once."""
EVENTS_FORMAT = "FORMAT parquet, PARQUET_VERSION v2, ROW_GROUP_SIZE 40960"
"""Of event files: version 2 makes them a sixth smaller and is read as fast; a third of DuckDB's usual rows in
a group is written quicker, for they stay in the processor's cache.
"""
_OPEN_FILES = 4096

_MOST_NAMED, _LONGEST_NAME = 20, 100
"""Columns that one sentence names, and the characters of a name that are kept."""


@dataclass
class Tally:
    """What has become of the lines so far."""

    lines: int = 0
    header_lines: int = 0
    blank_lines: int = 0
    lines_loaded: int = 0
    lines_refused: int = 0
    rows_loaded: int = 0
    rows_refused: int = 0
    days: Counter[str] = field(default_factory=Counter)
    extra: set[str] = field(default_factory=set)
    """Columns, or members of the JSON objects, that nothing is made of."""
    notes: list[str] = field(default_factory=list)


class Reader:
    """Parses the file of one job into `events/day=…/*.parquet` or `products.parquet`, and
    `rejects.parquet`.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        """
        Args:
            job: copy (path), file (its own name), spec (file section of the source), source, zone (of times
                without offset), shop_zone, namespace, key (hexadecimal), load_id, latest (ISO day), out
                (folder), threads, verbatim (whether rejects keep a value as it is, not its shape only).
        """
        self.job, self.spec, self.form = job, job["spec"], job["spec"]["format"]
        self.out = Path(job["out"])
        self.tally = Tally()
        self.parts = 0
        self.db = _locked_down(self.out, job["zone"], job["threads"])
        IdentityKey(bytes.fromhex(job["key"])).give_to(self.db)
        self.db.execute(f"CREATE TEMP TABLE rejects AS {canonical.empty(canonical.REJECTS)}")
        for name in canonical.IDENTIFIERS:
            self.db.execute(f"CREATE TEMP TABLE key_{name} (id VARCHAR, key VARCHAR)")

    def read(self) -> dict[str, Any]:
        """Parse the whole file.

        Returns:
            The tally, as a mapping; its lines are header + blank + loaded + refused.

        Raises:
            FileRefusedError: the file as a whole cannot be taken in.
        """
        {"csv": self._read_csv, "jsonl": self._read_jsonl, "parquet": self._read_parquet}[self.form["type"]]()
        self._write_rest()
        crash_point("reader.all_written")
        found = self.tally
        if found.lines != found.header_lines + found.blank_lines + found.lines_loaded + found.lines_refused:
            raise AssertionError(f"lines do not add up: {found}")
        extra = sorted(found.extra)[:MOST_COLUMNS]
        if extra:
            found.notes.append(f"kept in extra: {_listed(extra)}")
        return vars(found) | {"days": dict(sorted(found.days.items())), "extra": extra}

    def _read_csv(self) -> None:
        form = self.form
        with opened(Path(self.job["copy"]), self.job["file"]) as stream:
            lines = Lines(stream, form["encoding"], form["delimiter"])
            names = form["columns"] or lines.header(form["quote"])
            self.tally.header_lines = 0 if form["columns"] else 1
            self.tally.blank_lines = lines.blank_before_header
            self._check_columns(names)
            layout = Layout(len(names), form["delimiter"], form["quote"], form["encoding"])
            column = {name: f"c{n}" for n, name in enumerate(names)}
            mapping = self._mapping(column, canonical.leftover(self._unmapped(column)))
            for numbers, blanks in self._texts(lines, list(column.values()), layout):
                self.db.execute("CREATE OR REPLACE TEMP VIEW raw AS SELECT 0 AS line, * FROM text")
                # Taking off blanks that are not there would be a third of the mapping's work.
                self._take(replace(mapping, trimmed=not blanks), numbers)
            self.tally.lines = lines.read

    def _read_jsonl(self) -> None:
        root = self.form["explode"]
        inside = f"{root}."
        paths = _paths(self.spec)
        outer = [path for path in paths if not root or not path.startswith(inside)]
        inner = [path.removeprefix(inside) for path in paths if root and path.startswith(inside)]
        column = {path: f"o[{n}]" for n, path in enumerate(outer, 1)}
        column |= {f"{inside}{path}": f"i[{n}]" for n, path in enumerate(inner, 1)}
        gone = [*paths, *self.spec["ignore"]]
        rest = canonical.leftover_json(
            "j", [path for path in gone if not root or not path.startswith(inside)] + ([root] if root else [])
        )
        if root:
            element = canonical.leftover_json(
                "e", [path.removeprefix(inside) for path in gone if path.startswith(inside)]
            )
            both = f"CAST(json_merge_patch({rest}, {element}) AS VARCHAR)"
            rest = (
                f"CASE WHEN {rest} IS NULL THEN {element} WHEN {element} IS NULL THEN {rest} ELSE {both} END"
            )
        broken = [Fault("j IS NULL", "bad_json", "line", "NULL", "the line is no JSON object")]
        if root:
            broken.append(
                Fault("e IS NULL", "missing_value", root, "NULL", f"{root} is no array with elements")
            )
        mapping = self._mapping(column, rest, broken)
        with opened(Path(self.job["copy"]), self.job["file"]) as stream:
            lines = Lines(stream, "utf-8")
            for numbers, _ in self._texts(lines, ["c0"], Layout(0, "\x01", None)):
                self.db.execute("CREATE OR REPLACE TEMP TABLE documents AS SELECT * FROM text")
                self._extract(self._numbered("documents", numbers), outer, inner, root)
                self._take(mapping)
                self._note_members()
            self.tally.lines = lines.read
        if not self.tally.lines:
            raise FileRefusedError(
                "empty_file", "there is nothing in the file. Drop it again when it is written."
            )

    def _extract(self, documents: str, outer: list[str], inner: list[str], root: str | None) -> None:
        """Parse each line once: from these (line, c0) to `raw` (line, j, o, and e, i of array elements)."""
        objects = f"""
            SELECT line, CASE WHEN json_type(d) = 'OBJECT' THEN d END AS j
            FROM (SELECT line, try_cast(c0 AS JSON) AS d FROM ({documents}))
        """
        if root:
            path = canonical.literal(canonical.json_path(root))
            objects = f"""
                SELECT line, j, unnest(
                    CASE WHEN json_array_length(j, {path}) > 0
                    THEN json_extract(j, {path.removesuffix("'")}[*]') ELSE [CAST(NULL AS JSON)] END
                ) AS e FROM ({objects})
            """
        self.db.execute(
            f"CREATE OR REPLACE TEMP TABLE objects AS SELECT *, {_extracted('j', outer)} AS o"
            + (f", {_extracted('e', inner)} AS i" if root else "")
            + f" FROM ({objects})"
        )
        self.db.execute("CREATE OR REPLACE TEMP VIEW raw AS SELECT * FROM objects")

    def _read_parquet(self) -> None:
        import pyarrow.parquet as pq
        from pyarrow import ArrowException

        try:
            file = pq.ParquetFile(self.job["copy"])
            schema = file.schema_arrow
        except (ArrowException, OSError) as error:
            raise FileRefusedError(
                "bad_parquet", "its footer cannot be read: it is cut off, or no Parquet file. Write it again."
            ) from error
        self._check_size(file)
        self._check_columns(schema.names)
        self._check_types(schema)
        column = {name: f"c{n}" for n, name in enumerate(schema.names)}
        texts = {name: f"CAST({sql} AS VARCHAR)" for name, sql in column.items()}
        mapping = self._mapping(texts, canonical.leftover(self._unmapped(column)), [_too_long(schema, texts)])
        try:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                first = self.tally.lines + 1
                self._count_lines(batch.num_rows, 0, [])
                self.tally.lines += batch.num_rows
                table = batch.rename_columns(list(column.values()))
                self.db.register("batch", table)
                self.db.execute(
                    f"CREATE OR REPLACE TEMP VIEW raw AS SELECT {first - 1} + row_number() OVER () AS line, "
                    "* FROM batch"
                )
                self._take(mapping)
        except MemoryError:
            raise
        except (ArrowException, OSError) as error:
            raise FileRefusedError("bad_parquet", "a page of it cannot be read. Write it again.") from error

    def _check_size(self, file: pq.ParquetFile) -> None:
        """Refuse what would grow out of proportion, by what the footer says of it. Of nesting, Arrow itself
        allows a hundred levels.
        """
        found = file.metadata
        if found.num_columns > MOST_COLUMNS:
            raise FileRefusedError(
                "too_many_columns", f"there are {found.num_columns:,} columns, more than {MOST_COLUMNS:,}."
            )
        pages = sum(found.row_group(n).total_byte_size for n in range(found.num_row_groups))
        # Equal values take no room in a page; as rows they do.
        check_growth(max(pages, found.num_rows * found.num_columns), Path(self.job["copy"]).stat().st_size)

    def _check_types(self, schema: pa.Schema) -> None:
        """Refuse a file in which a column that something is made of has become of another type."""
        wrong = {
            name: f"{name} holds {schema.field(name).type}, not {wanted}"
            for name, kind in _kinds(self.spec).items()
            if name in schema.names and (wanted := _unfit(schema.field(name).type, kind))
        }
        if wrong:
            raise FileRefusedError(
                "wrong_type",
                f"column {'; column '.join(wrong.values())}. Write the file as before, or correct source "
                f"{self.job['source']}.",
                next(iter(wrong)),
            )

    def _check_columns(self, names: list[str]) -> None:
        """Refuse a file whose rows would all be refused, and note columns that are absent."""
        needed = {
            column: name for name in _needed(self.spec) for column in self.spec["columns"].get(name, [])
        }
        if self.spec["kind"] == "events":
            needed |= dict.fromkeys(self.spec["time"]["column"], "time")
        missing = [column for column in needed if column not in names]
        if missing:
            # Not just any name that is there: where the header is missing, they are somebody's data.
            words = {name.casefold(): name for name in names if _is_word(name)}
            near = {column: difflib.get_close_matches(column.casefold(), words, n=1) for column in missing}
            is_text = self.form["type"] != "parquet"
            raise FileRefusedError(
                "missing_column",
                "; ".join(
                    f"there is no column {column!r}, from which {needed[column]} is made"
                    + (f": is it {words[near[column][0]]!r}?" if near[column] else "")
                    for column in missing
                )
                + ("" if any(near.values()) else ". Is its first line a header?" if is_text else ".")
                + f" Correct the columns of source {self.job['source']}, or the file.",
                missing[0],
            )
        twice = [name for name, count in Counter(names).items() if count > 1]
        if twice:
            raise FileRefusedError("bad_header", f"column {twice[0]!r} is there twice.", twice[0])
        absent = [column for column in _paths(self.spec) if column not in names]
        if absent:
            self.tally.notes.append(f"no column {', '.join(absent)}")

    def _unmapped(self, column: dict[str, str]) -> dict[str, str]:
        gone = {*_paths(self.spec), *self.spec["ignore"]}
        rest = {name: sql for name, sql in column.items() if name not in gone}
        self.tally.extra.update(name[:_LONGEST_NAME] for name in rest)
        return rest

    def _note_members(self) -> None:
        """Note which members of the block's objects nothing is made of."""
        if len(self.tally.extra) < MOST_COLUMNS:
            found = self._all("SELECT DISTINCT unnest(json_keys(extra)) FROM block WHERE fault = 0")
            self.tally.extra.update(name for (name,) in found if _is_name(name))

    def _mapping(self, column: dict[str, str], extra: str, broken: Iterable[Fault] = ()) -> Mapping:
        return Mapping(self.spec, column, extra, self.job["shop_zone"], self.job["latest"], tuple(broken))

    def _count_lines(self, lines: int, blank: int, refused: list[tuple[int, str, str]]) -> None:
        self.tally.blank_lines += blank
        self.tally.lines_refused += len(refused)
        self.tally.rows_refused += len(refused)
        if refused:
            found = [{"line": line, "reason": reason, "detail": detail} for line, reason, detail in refused]
            shape = '[{"line": "BIGINT", "reason": "VARCHAR", "detail": "VARCHAR"}]'
            self._reject(
                "SELECT r.line, r.reason, NULL AS field, NULL AS value, r.detail FROM "
                f"(SELECT unnest(from_json({_given(json.dumps(found))}, {_given(shape)})) AS r)"
            )

    def _reject(self, query: str) -> None:
        load_id, source, file = (canonical.literal(self.job[name]) for name in ("load_id", "source", "path"))
        self.db.execute(
            f"INSERT INTO rejects SELECT {load_id}, {source}, {file}, line, reason, field, value, detail "
            f"FROM ({query})"
        )

    def _texts(self, lines: Lines, columns: list[str], layout: Layout) -> Iterator[tuple[np.ndarray, bool]]:
        """For about `TEXT_BYTES` of well-formed records at a time, of which `text` (c0, c1, …) consists then:
        their physical lines, and whether a field may begin or end with a blank.

        They go by way of a file, for DuckDB reads one in parallel; it lies in the private folder.
        """
        file = self.out / "block.csv"
        blocks = lines.blocks(layout)
        for first in blocks:
            numbers, blanks = [], False
            with file.open("wb") as out:
                for block in chain([first], blocks):
                    self._count_lines(block.lines, block.blank, block.refused)
                    out.write(block.data)
                    numbers.append(block.numbers)
                    blanks |= block.blanks
                    if out.tell() >= TEXT_BYTES:
                        break
            found = np.concatenate(numbers)
            if len(found):
                self._read_text(file, columns, layout)
                yield found, blanks
            file.unlink()

    def _read_text(self, file: Path, columns: list[str], layout: Layout) -> None:
        kinds = ", ".join(f"'{name}': 'VARCHAR'" for name in columns)
        quote = _given(layout.quote or "")
        self.db.execute(
            f"CREATE OR REPLACE TEMP VIEW text AS SELECT * FROM read_csv({_given(str(file))}, "
            f"columns = {{{kinds}}}, auto_detect = false, header = false, "
            f"delim = {_given(layout.cut_at)}, quote = {quote}, escape = {quote}, new_line = '\\n', "
            f"strict_mode = true, null_padding = false, max_line_size = {4 * LONGEST_LINE}, "
            f"buffer_size = {4 * LONGEST_LINE})"
        )

    def _numbered(self, table: str, numbers: np.ndarray) -> str:
        """Query: the rows of a table made of `text`, with their physical lines.

        Lines run on but for the few left out, so it is enough to know by how much they are ahead from which
        row on.
        """
        found = self._one(f"SELECT count(*) FROM {table}")
        if found != len(numbers):
            raise AssertionError(f"DuckDB reads {found} records where there are {len(numbers)}")
        ahead = numbers - np.arange(len(numbers))
        turns = np.flatnonzero(np.diff(ahead, prepend=-1))
        if len(turns) == 1:
            return f"SELECT rowid + {int(ahead[0])} AS line, * FROM {table}"
        rows, by = (_given(",".join(map(str, values.tolist()))) for values in (turns, ahead[turns]))
        self.db.execute(
            f"CREATE OR REPLACE TEMP TABLE turns AS SELECT unnest(string_split({rows}, ','))::BIGINT AS row, "
            f"unnest(string_split({by}, ','))::BIGINT AS ahead"
        )
        return (
            "SELECT b.row + turns.ahead AS line, b.* EXCLUDE (row) "
            f"FROM (SELECT rowid AS row, * FROM {table}) AS b ASOF JOIN turns ON b.row >= turns.row"
        )

    def _take(self, mapping: Mapping, numbers: np.ndarray | None = None) -> None:
        """Make canonical rows of `raw`, write them, count them.

        Args:
            mapping: what they are made by.
            numbers: physical lines of the rows of `raw`, where it does not have them itself. Texts are
                written down once less if rows get their lines only when they have been parsed.
        """
        self.db.execute(f"CREATE OR REPLACE TEMP TABLE block AS {mapping.parsed()}")
        rows = "SELECT * FROM block"
        if numbers is not None:
            self.db.execute("ALTER TABLE block DROP line")
            rows = self._numbered("block", numbers)
        offset = self._all(mapping.offset())[0][0] if mapping.is_events else None
        self.db.execute(
            f"CREATE OR REPLACE TEMP VIEW parsed AS SELECT *, {mapping.day(offset)} AS day FROM ({rows})"
        )
        loaded, refused, lines_loaded, lines = self._all(
            "SELECT count(*) FILTER (fault = 0), count(*) FILTER (fault > 0), "
            "count(DISTINCT line) FILTER (fault = 0), count(DISTINCT line) FROM block"
            if self.form.get("explode")
            else "SELECT count(*) FILTER (fault = 0) AS good, count(*) FILTER (fault > 0), good, count(*) "
            "FROM block"
        )[0]
        self.tally.rows_loaded += loaded
        self.tally.rows_refused += refused
        self.tally.lines_loaded += lines_loaded
        self.tally.lines_refused += lines - lines_loaded
        if refused:
            self._reject(mapping.rejects(verbatim=self.job["verbatim"]))
        crash_point("reader.block_parsed")
        if loaded:
            self._write(mapping)
            crash_point("reader.block_written")

    def _write(self, mapping: Mapping) -> None:
        source, load_id = self.job["source"], self.job["load_id"]
        self.parts += 1
        if not mapping.is_events:
            target = self.out / f"products-{self.parts}.parquet"
            self._copy(mapping.products(source, load_id), target, "FORMAT parquet")
            return
        for name in mapping.identifiers():
            self._make_keys(name)
        days = dict(
            self._all("SELECT CAST(day AS VARCHAR), count(*) FROM parsed WHERE fault = 0 GROUP BY day")
        )
        self.tally.days.update(days)
        events = mapping.events(source, load_id)
        if len(days) == 1:  # the usual file: nothing to be told apart
            folder = self.out / "events" / f"day={next(iter(days))}"
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / f"part-{self.parts}-0.parquet"
            self._copy(f"SELECT * EXCLUDE (day) FROM ({events})", target, EVENTS_FORMAT)
            return
        self._copy(
            f"{events} ORDER BY day, line",  # else each day's rows are written in scraps
            self.out / "events",
            f"{EVENTS_FORMAT}, PARTITION_BY (day), FILENAME_PATTERN 'part-{self.parts}-{{i}}', "
            "OVERWRITE_OR_IGNORE",
        )

    def _make_keys(self, name: str) -> None:
        """Create `key_<name>` (id, key). Few ids stand in many rows, so each is hashed once and joined; those
        of the block before are hashed already.
        """
        namespace = self.job["namespace"]
        if name != "user_id":
            namespace += f"/{name.removesuffix('_id')}"
        self.db.execute(
            f"CREATE OR REPLACE TEMP TABLE key_{name} AS "
            f"SELECT id, coalesce(key, {pseudonym_sql('id', namespace)}) AS key FROM "
            f"(SELECT DISTINCT t_{name} AS id FROM block WHERE fault = 0 AND t_{name} IS NOT NULL) "
            f"LEFT JOIN key_{name} USING (id)"
        )

    def _write_rest(self) -> None:
        if self.spec["kind"] == "products":
            parts = sorted(self.out.glob("products-*.parquet"))
            target = self.out / "products.parquet"
            if len(parts) == 1:
                parts[0].rename(target)
            else:
                found = f"SELECT * FROM read_parquet({[str(part) for part in parts]})" if parts else None
                self._copy(found or canonical.empty(canonical.PRODUCTS), target, "FORMAT parquet")
                for part in parts:
                    part.unlink()
        self._copy("SELECT * FROM rejects ORDER BY line", self.out / "rejects.parquet", "FORMAT parquet")

    def _copy(self, query: str, target: Path, options: str) -> None:
        self.db.execute(f"COPY ({query}) TO {canonical.literal(str(target))} ({options})")

    def _all(self, query: str) -> list[tuple[Any, ...]]:
        return self.db.execute(query).fetchall()

    def _one(self, query: str) -> int:
        return int(self._all(query)[0][0])


_given = canonical.literal
"""Values go into SQL as literals: the first bound parameter makes DuckDB import pandas, half of a small
file's time.
"""


def _is_word(name: str) -> bool:
    """Letters and what joins words: no id, address or number."""
    return re.fullmatch(r"[^\W\d]+([ .-][^\W\d]+)*", name) is not None


def _is_name(name: str) -> bool:
    """Looks like the name of a column; objects can have anything for a key, addresses too."""
    return len(name) <= _LONGEST_NAME and re.fullmatch(r"[^\W\d][\w .:$-]*", name) is not None


def _listed(names: list[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _kinds(spec: dict[str, Any]) -> dict[str, str]:
    """What each column that something is made of is read as: number, time, epoch, flag or text."""
    kinds = dict.fromkeys(spec["category_flags"], "flag")
    for name, columns in spec["columns"].items():
        kind = "number" if name in canonical.NUMBERS else "flag" if name == "in_stock" else "text"
        kinds |= dict.fromkeys(columns, kind)
    for time in (spec["time"], spec["received"]):
        if time:
            unit = time["unit"][0]
            kind = "epoch" if unit in canonical.EPOCHS else "text" if "%" in unit else "time"
            kinds |= dict.fromkeys(time["column"], kind if len(time["column"]) == 1 else "text")
    return kinds


def _unfit(kind: pa.DataType, wanted: str) -> str | None:
    """In words what a column would have to hold, where this type of Parquet cannot be read as it."""
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_null(kind) or types.is_string(kind) or types.is_large_string(kind):
        return None
    whole = types.is_integer(kind) or (types.is_decimal(kind) and kind.scale == 0)
    if wanted in ("number", "epoch"):
        fits = whole or types.is_floating(kind) or types.is_decimal(kind)
        return None if fits else "numbers"
    dated = types.is_timestamp(kind) or types.is_date(kind) or types.is_time(kind)
    if wanted == "time":
        return None if dated and not types.is_time(kind) else "times"
    if wanted == "flag":
        return None if types.is_boolean(kind) or whole else "true and false"
    # An id that has become a float reads 17.0: another shopper, and a silent one.
    return None if whole or dated or types.is_boolean(kind) else "text or whole numbers"


def _too_long(schema: pa.Schema, texts: dict[str, str]) -> Fault:
    """The fault of a row that is longer than any line of a text file may be."""
    from pyarrow import types

    sizes = [f"coalesce(strlen({texts[one.name]}), 0)" for one in schema if not types.is_primitive(one.type)]
    return Fault(
        f"{' + '.join(sizes or ['0'])} > {LONGEST_LINE}",
        "line_too_long",
        "line",
        "NULL",
        f"the row has more than {LONGEST_LINE} bytes",
    )


def _paths(spec: dict[str, Any]) -> list[str]:
    """Every column that something is made of."""
    named = [column for name in ("time", "received") if spec[name] for column in spec[name]["column"]]
    mapped = [column for columns in spec["columns"].values() for column in columns]
    return list(dict.fromkeys([*named, *mapped, *spec["category_flags"]]))


def _needed(spec: dict[str, Any]) -> list[str]:
    return [*canonical.ESSENTIAL[spec["kind"]], *spec["required"]]


def _extracted(document: str, paths: list[str]) -> str:
    if not paths:
        return "CAST([] AS VARCHAR[])"
    listed = ", ".join(canonical.literal(canonical.json_path(path)) for path in paths)
    return f"json_extract_string({document}, [{listed}])"


def _locked_down(folder: Path, zone: str, threads: int) -> duckdb.DuckDBPyConnection:
    """A connection that can reach nothing but `folder`, and cannot be talked into more."""
    db = duckdb.connect()
    spill = folder / "spill"
    for setting in (
        f"TimeZone = {canonical.literal(zone)}",
        f"threads = {threads}",
        f"memory_limit = '{WORKING_MEMORY}'",
        f"temp_directory = {canonical.literal(str(spill))}",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "allow_community_extensions = false",
        "allow_persistent_secrets = false",
        f"allowed_directories = [{canonical.literal(str(folder))}]",
        "enable_external_access = false",
        "lock_configuration = true",
    ):
        db.execute(f"SET {setting}")
    return db


def _limit(copy: Path) -> None:
    """Let the kernel hold this process to its means."""
    seconds = SECONDS + SECONDS_PER_MIB * (copy.stat().st_size >> 20)
    _lower(resource.RLIMIT_AS, MEMORY)
    _lower(resource.RLIMIT_CPU, seconds)
    _lower(resource.RLIMIT_FSIZE, LARGEST_OUTPUT)
    _lower(resource.RLIMIT_CORE, 0)
    # A file that reaches over years writes a file for each of its days.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _lower(what: int, limit: int) -> None:
    hard = resource.getrlimit(what)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(what, (limit, hard))


def _answer(job: dict[str, Any]) -> dict[str, Any]:
    try:
        _limit(Path(job["copy"]))
        crash_point("reader.started")
        if "spec" not in job:
            return {"lines": count_lines(Path(job["copy"]), job["file"])}
        return Reader(job).read()
    except FileRefusedError as error:
        lines = count_lines(Path(job["copy"]), job["file"])
        return {"refused": error.reason, "field": error.field, "detail": error.detail, "lines": lines}
    except Exception as error:
        lacking = lack(error)
        if lacking == "disk" or (lacking and _is_held_to_less()):
            return {"lack": lacking}
        if lacking:
            return {
                "refused": "too_large",
                "field": None,
                "detail": "it needs more memory than a file may take. Split it.",
            }
        return _failed(error)


def _failed(error: Exception) -> dict[str, Any]:
    # Not the message: it may quote the row that was the trouble.
    where = error.__traceback__
    while where and where.tb_next:
        where = where.tb_next
    line = where.tb_lineno if where else 0
    detail = f"the reader failed with {type(error).__name__} (line {line}). Please report it."
    return {"refused": "reader_failed", "field": None, "detail": detail}


def _is_held_to_less() -> bool:
    """Whether it may use less memory than `MEMORY`: then the machine is to blame, and not the file."""
    return resource.getrlimit(resource.RLIMIT_AS)[0] < MEMORY


def _in_child(line: str) -> str:
    """What a process of its own answers to the job, or how it ended."""
    server = os.getpid()
    read, write = os.pipe()
    child = os.fork()
    if not child:
        _answer_and_end(line, write, server)
    os.close(write)
    with os.fdopen(read, encoding="utf-8") as answers:
        answer = answers.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return json.dumps({"ended": code}) if code else answer


def _answer_and_end(line: str, to: int, server: int) -> NoReturn:
    """Within the child. Its memory is the kernel's to take back: to free it piece by piece takes a while."""
    code = 1
    try:
        die_with(server)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(nowhere, standard)
        with os.fdopen(to, "w", encoding="utf-8") as answers:
            json.dump(_answer(json.loads(line)), answers)
        code = 0
    finally:
        os._exit(code)


def main() -> None:
    """Do the jobs on standard input one after the other, answer them on standard output."""
    die_with(int(os.environ.pop(PARENT, os.getppid())))
    gc.freeze()  # else the children's garbage collection would copy all that has been loaded
    for line in sys.stdin:
        print(_in_child(line), flush=True)


if __name__ == "__main__":
    main()
