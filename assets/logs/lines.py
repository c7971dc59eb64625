"""Physical lines of a text file, counted one by one, and the records on them.

A record is one physical line. That is what makes the accounting exact (lines = header + blank + loaded +
refused), and what keeps one unbalanced quotation mark from swallowing the thousand good lines behind it, as
it does in CSV readers that allow line breaks within quotes. Lines that are plain to read are passed on as
they are, block by block; the few others are looked at one by one.
"""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

BLOCK = 2 << 20
"""Bytes that are looked through at once: few enough to stay in the processor's cache, which takes half the
time.
"""

LONGEST_LINE = 1 << 20
"""Bytes of the longest line that is read; a longer one is refused."""

NO_TEXT = 32 << 20
"""Bytes of a line for which its whole file is refused: it will be no text file."""

LARGEST = 64 << 30
"""Bytes of the largest file that is read, decompressed."""

LARGEST_RATIO, RATIO_FROM = 200, 256 << 20
"""A compressed file that grows past `RATIO_FROM` bytes and to more than so many times its size is a bomb."""

MOST_COLUMNS = 2000
"""Columns of the widest table that is read; no log has as many, and DuckDB would need gigabytes for some."""

DEEP = 512
"""Levels of nested JSON that are read. Only long lines are checked: a short one cannot do harm."""
LONG_JSON = 4096

UNIT = "\x1f"
"""Stands for a delimiter of several characters; no text file has it otherwise (ASCII "unit separator")."""

_NOT_TEXT = {
    rb"\x1f\x8b\x08": "compressed by gzip. Rename it so that its name ends with .gz, or unpack it",
    rb"PK\x03\x04": "a ZIP archive. Rename it so that its name ends with .zip, or unpack it; a workbook of "
    "Excel, which is one too, save as CSV",
    rb"BZh[1-9](1AY&SY|\x17rE8P\x90)": "compressed by bzip2. Unpack it",
    rb"\x28\xb5\x2f\xfd": "compressed by zstd. Unpack it",
    rb"PAR1\x15": "Parquet. Write it as text, or give its source a section with `format: {type: parquet}`",
}
"""What files of other formats begin with, as regular expressions, and what to do. A word alone, such as PAR1,
could begin a text as well.
"""

_TAB, _NEWLINE, _BLANK = 9, 10, 32
_FIRST_PRINTABLE = 32

_CHUNK = 4 << 20
_MOST_COUNTED = 1 << 30
"""Decompressed bytes of a refused file whose lines are still counted."""


class FileRefusedError(Exception):
    """The file as a whole cannot be taken in; `lines` is how many it has, where they were counted."""

    def __init__(self, reason: str, detail: str, field: str | None = None, lines: int | None = None) -> None:
        super().__init__(detail)
        self.reason, self.detail, self.field, self.lines = reason, detail, field, lines


@dataclass(frozen=True)
class Layout:
    """How a line is cut into fields; `columns` is 0 for lines that are not cut, such as JSON."""

    columns: int
    delimiter: str = ","
    quote: str | None = '"'
    encoding: str = "utf-8"

    @property
    def cut_at(self) -> str:
        """The delimiter after `Lines` has read the file: always one character."""
        return self.delimiter if len(self.delimiter) == 1 else UNIT


@dataclass
class Block:
    """Records ready to be parsed, and what became of the other lines."""

    data: bytes
    """UTF-8, one record per line; every line well-formed, with the right number of fields."""
    numbers: np.ndarray
    """int64: physical line of each record, the first line of the file being 1."""
    lines: int
    blank: int
    refused: list[tuple[int, str, str]] = field(default_factory=list)
    """(line, reason, detail)"""
    blanks: bool = True
    """Whether a field may begin or end with a blank."""


@contextmanager
def opened(copy: Path, file_name: str) -> Iterator[IO[bytes]]:
    """The file's bytes, decompressed as the end of its name asks for.

    Raises:
        FileRefusedError: it is no such archive, is cut off, holds several files or grows out of proportion.
    """
    with ExitStack() as stack:
        if file_name.endswith((".gz", ".zip")):
            with _told_as_refused():
                stream = _decompressed(copy, file_name, stack)
            yield _Bounded(stream, copy.stat().st_size)  # type: ignore[misc]
        else:
            yield stack.enter_context(copy.open("rb"))


def _decompressed(copy: Path, file_name: str, stack: ExitStack) -> Any:
    if file_name.endswith(".gz"):
        return stack.enter_context(gzip.open(copy))
    archive = stack.enter_context(zipfile.ZipFile(copy))
    members = [member for member in archive.infolist() if not member.is_dir()]
    if len(members) != 1:
        raise FileRefusedError(
            "bad_archive",
            f"the archive holds {len(members)} files, not one. Unpack it and drop the files that are meant.",
        )
    return stack.enter_context(archive.open(members[0]))


@contextmanager
def _told_as_refused() -> Iterator[None]:
    """Whatever a decompressor says of foreign bytes means that the archive is bad."""
    try:
        yield
    except (
        EOFError,
        zlib.error,
        lzma.LZMAError,
        zipfile.BadZipFile,
        RuntimeError,
        ValueError,
        OSError,
    ) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # the disk's fault, not the archive's
        raise FileRefusedError(
            "bad_archive", f"cannot be decompressed ({type(error).__name__}). Drop a complete file."
        ) from error


class _Bounded:
    """Reads until what comes out is out of all proportion to what went in."""

    def __init__(self, stream: Any, compressed: int) -> None:
        self._stream, self._compressed, self._out = stream, compressed, 0

    def read(self, size: int) -> bytes:
        with _told_as_refused():
            part = bytes(self._stream.read(size))
        self._out += len(part)
        check_growth(self._out, self._compressed)
        return part


def check_growth(expanded: int, compressed: int) -> None:
    """Whether a compressed file stays in proportion; both in bytes.

    Raises:
        FileRefusedError: it is a bomb, or larger than any file may be.
    """
    if expanded > LARGEST:
        raise FileRefusedError("too_large", f"grows to more than {LARGEST >> 30} GiB. Split it.")
    if expanded > RATIO_FROM and expanded > LARGEST_RATIO * compressed:
        raise FileRefusedError(
            "bad_archive",
            f"grows to more than {LARGEST_RATIO} times its size. Drop it as plain text if it is sound.",
        )


def count_lines(copy: Path, file_name: str) -> int:
    """Physical lines of a file; 0 where it has none that could be counted."""
    if file_name.endswith(".parquet"):
        return 0
    lines, size, last = 0, 0, b"\n"
    try:
        with opened(copy, file_name) as stream:
            while part := stream.read(_CHUNK):
                lines += part.count(b"\n")
                size, last = size + len(part), part[-1:]
                if size > _MOST_COUNTED:
                    return 0
    except FileRefusedError:
        return 0
    return lines + (last != b"\n")


def raw_blocks(stream: IO[bytes], size: int = BLOCK) -> Iterator[bytes]:
    """The stream in pieces of about `size` bytes that end with a line end.

    Raises:
        FileRefusedError: a line runs on and on.
    """
    rest = b""
    while part := stream.read(size):
        end = part.rfind(b"\n") + 1
        if not end:
            rest += part
            if len(rest) > NO_TEXT:
                raise FileRefusedError(
                    "line_too_long",
                    f"a line is longer than {NO_TEXT >> 20} MiB. Is this a text file with line ends?",
                )
            continue
        yield b"".join((rest, memoryview(part)[:end]))
        rest = part[end:]
    if rest:
        yield rest + b"\n"


class Lines:
    """Reads a text file block by block. Wants its header, if there is one, before its records."""

    def __init__(self, stream: IO[bytes], encoding: str, delimiter: str = ",", size: int = BLOCK) -> None:
        self._encoding, self._delimiter = encoding, delimiter
        self._blocks = raw_blocks(stream, size)
        self._pending = b""
        self.read = 0
        """Physical lines handed out so far."""
        self.blank_before_header = 0

    def header(self, quote: str | None) -> list[str]:
        """The names on the first line that is not blank.

        Raises:
            FileRefusedError: there is no such line, or it cannot be read.
        """
        for raw in self._blocks:
            self._pending += self._text(raw)
            begun = self._pending.lstrip(b" \t\n")
            blank = self._pending[: len(self._pending) - len(begun)].count(b"\n")
            self.read += blank
            self.blank_before_header += blank
            if begun:
                line, _, self._pending = begun.partition(b"\n")
                self.read += 1
                return self._names(line, quote)
            self._pending = b""
        raise FileRefusedError(
            "empty_file", "there is nothing in the file. Drop it again when it is written."
        )

    def _names(self, line: bytes, quote: str | None) -> list[str]:
        fields = split(line, self._cut_at, quote)
        if isinstance(fields, tuple):
            raise FileRefusedError("bad_header", f"line {self.read}: the header: {fields[1]}.")
        if len(fields) > MOST_COLUMNS:
            raise FileRefusedError(
                "too_many_columns", f"there are {len(fields):,} columns, more than {MOST_COLUMNS:,}."
            )
        return [name.strip() for name in fields]

    @property
    def _cut_at(self) -> str:
        return self._delimiter if len(self._delimiter) == 1 else UNIT

    def blocks(self, layout: Layout) -> Iterator[Block]:
        """All records after the header."""
        if self._pending:
            pending, self._pending = self._pending, b""
            yield self._sorted_out(pending, layout)
        for raw in self._blocks:
            yield self._sorted_out(self._text(raw), layout)

    def _sorted_out(self, text: bytes, layout: Layout) -> Block:
        block = sort_out(text, self.read + 1, layout)
        self.read += block.lines
        return block

    def _text(self, raw: bytes) -> bytes:
        """UTF-8 with `\\n` as line end; what cannot be decoded stays invalid and is found line by line."""
        if self.read == 0 and not self._pending:
            if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                raise FileRefusedError("bad_encoding", "the file is UTF-16. Export it as UTF-8.")
            for begins, what in _NOT_TEXT.items():
                if re.match(begins, raw):
                    raise FileRefusedError("not_text", f"the file is no text: it is {what}.")
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        if self._encoding != "utf-8":
            raw = raw.decode(self._encoding, "surrogateescape").encode("utf-8", "surrogatepass")
        if b"\r" in raw:  # a single byte is looked for much faster than two
            raw = raw.replace(b"\r\n", b"\n")
        if len(self._delimiter) > 1:
            # A stray separator becomes a character that gets its line refused.
            raw = raw.replace(UNIT.encode(), b"\0").replace(self._delimiter.encode(), UNIT.encode())
        return raw


def sort_out(text: bytes, first: int, layout: Layout) -> Block:
    """Tell plain records from blank lines and from lines to look at, and look at those.

    Args:
        text: whole lines, each ending with a newline.
        first: number of the first of them.
        layout: how a record is cut into fields.
    """
    buffer, starts, ends = _cut(text)
    lines = len(ends)
    empty = starts == ends
    numbers = np.flatnonzero(~empty) + first
    if len(numbers) < lines:
        text = np.delete(buffer, ends[empty]).tobytes()
        buffer, starts, ends = _cut(text)
    block = Block(text, numbers, lines, lines - len(numbers))
    suspect = _suspect(buffer, text, ends, layout)
    if not layout.columns:
        suspect = np.union1d(suspect, np.asarray(_places_of_no_numbers(text), np.int64))
    plain = _count(suspect, ends) == 0
    if layout.columns:
        cuts = np.flatnonzero(buffer == ord(layout.cut_at))
        marks = np.flatnonzero(buffer == ord(layout.quote)) if layout.quote else cuts[:0]
        fields = _count(cuts, ends) + 1
        if len(marks):
            well, marks = _well_quoted(buffer, marks, ends, layout)
            plain &= well
            fields -= _within(cuts, marks, ends)
        plain &= fields == layout.columns
        plain &= ends - starts <= LONGEST_LINE
        block.blanks = _has_blanks(text, buffer, marks, layout)
    else:
        plain &= (ends - starts <= LONG_JSON) & (buffer[starts] == ord("{"))
    kept = plain.copy()
    pieces: list[bytes] = []
    done = 0
    for index in np.flatnonzero(~plain).tolist():
        pieces.append(text[done : starts[index]])
        done = int(ends[index]) + 1
        record = _look_at(text[starts[index] : ends[index]], layout)
        if record is None:
            block.blank += 1
        elif isinstance(record, tuple):
            block.refused.append((int(numbers[index]), *record))
        else:
            pieces.append(record)
            kept[index] = True
            block.blanks |= b" " in record
    if pieces:
        block.data = b"".join([*pieces, text[done:]])
        block.numbers = numbers[kept]
    return block


def _has_blanks(text: bytes, buffer: np.ndarray, marks: np.ndarray, layout: Layout) -> bool:
    """Whether a field may begin or end with a blank; `marks` are those of well quoted lines. Of other
    alphabets, which have more blanks, always.
    """
    if not text.isascii():
        return True
    blanks = np.flatnonzero(buffer == _BLANK)
    # What is before the first byte is the newline at the end.
    before, after = buffer[blanks - 1], buffer[blanks + 1]
    edge = np.zeros(256, bool)
    edge[[_NEWLINE, *(ord(sign) for sign in layout.quote or "")]] = True
    if (edge[before] | edge[after]).any():
        return True
    cut = ord(layout.cut_at)
    beside_cut = blanks[(before == cut) | (after == cut)]
    return bool((np.searchsorted(marks, beside_cut) % 2 == 0).any())


def _cut(text: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The bytes, and where each line starts and ends (at its newline)."""
    buffer = np.frombuffer(text, np.uint8)
    ends = np.flatnonzero(buffer == _NEWLINE)
    return buffer, np.concatenate([[0], ends[:-1] + 1])[: len(ends)], ends


def _suspect(buffer: np.ndarray, text: bytes, ends: np.ndarray, layout: Layout) -> np.ndarray:
    """Where bytes are that keep a line from being plain: control characters, broken UTF-8."""
    broken = not _is_utf8(text)
    # Besides newlines; the delimiter may be a tab, or `UNIT`.
    allowed = {_TAB, *(layout.cut_at.encode() if layout.columns else b"")}
    found = sum(text.count(sign) for sign in allowed if sign < _FIRST_PRINTABLE and sign in text)
    if np.count_nonzero(buffer < _FIRST_PRINTABLE) == len(ends) + found and not broken:
        return np.zeros(0, np.int64)  # nearly always
    suspect = (buffer < _FIRST_PRINTABLE) & ~np.isin(buffer, [_NEWLINE, *allowed])
    if broken:
        suspect |= buffer >= 128
    return np.flatnonzero(suspect)


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _well_quoted(
    buffer: np.ndarray, marks: np.ndarray, ends: np.ndarray, layout: Layout
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each line's quotation marks stand as RFC 4180 has them; and the marks of those lines: one
    without its partner would turn all lines behind it inside out.

    Counted along the line, the first mark opens, the second closes, and so on; two in a row within a field,
    which stand for one, close and open again. So every mark that opens must follow a delimiter, the line's
    start or a mark, and every one that closes must come before a delimiter, the line's end or a mark.
    """
    line = np.searchsorted(ends, marks)
    first = np.searchsorted(line, line)
    closes = (np.arange(len(marks)) - first) % 2 == 1
    # The text ends with a newline, and what is before its first byte is a start as well.
    beside = buffer[np.where(closes, marks + 1, marks - 1)]
    edge = (beside == ord(layout.cut_at)) | (beside == _NEWLINE) | (beside == ord(layout.quote or ""))
    well = np.bincount(line, minlength=len(ends)) % 2 == 0
    well[line[~edge]] = False
    return well, marks[well[line]]


def _within(cuts: np.ndarray, marks: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """How many cuts of each line are no cuts, for they lie between quotation marks."""
    opens = np.searchsorted(cuts, marks[::2])
    cuts_between = np.searchsorted(cuts, marks[1::2]) - opens
    line = np.searchsorted(ends, marks[::2])
    return np.bincount(line, cuts_between, len(ends)).astype(np.int64)


def _count(places: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """How many of these places, in their order, lie in each line."""
    return np.diff(np.searchsorted(places, ends), prepend=0)


def _look_at(line: bytes, layout: Layout) -> bytes | tuple[str, str] | None:
    """The record in a form that is plain to parse; (reason, detail) where it is refused; None where it is
    blank.
    """
    if not line.strip(b" \t"):
        return None
    if len(line) > LONGEST_LINE:
        return "line_too_long", f"the line has {len(line)} bytes, more than {LONGEST_LINE}"
    if not layout.columns:
        return _look_at_json(line)
    return _look_at_fields(line, layout)


def _look_at_fields(line: bytes, layout: Layout) -> bytes | tuple[str, str]:
    fields = split(line, layout.cut_at, layout.quote)
    if isinstance(fields, tuple):
        return fields
    if len(fields) != layout.columns:
        return "column_count", f"the line has {len(fields)} fields, not {layout.columns}"
    if layout.quote is None:
        return line + b"\n"
    out = io.StringIO()
    csv.writer(out, delimiter=layout.cut_at, quotechar=layout.quote, lineterminator="\n").writerow(fields)
    return out.getvalue().encode()


def split(line: bytes, delimiter: str, quote: str | None) -> list[str] | tuple[str, str]:
    """The fields of one line (RFC 4180, one record per line), or (reason, detail) where it has none."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        return "bad_encoding", f"byte {error.start + 1} of the line does not belong to its encoding"
    odd = next((sign for sign in text if sign < " " and sign not in ("\t", delimiter)), None)
    if odd is not None:
        return "control_character", f"the line holds the control character {odd!r}"
    if quote is None:
        return text.split(delimiter)
    options: dict[str, Any] = {"delimiter": delimiter, "quotechar": quote, "strict": True}
    try:
        return next(csv.reader((text,), **options))
    except csv.Error as error:
        return "unbalanced_quote", f"quotation marks do not fit together ({error}); a record is one line"


_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"')

_NO_NUMBER = re.compile(rb"[:,\[][ \t]*[-+]?(?:nan|inf)", re.IGNORECASE)
"""NaN or an infinity as a value, which JSON does not have; DuckDB reads them as if it had."""


def _places_of_no_numbers(text: bytes) -> list[int]:
    lower = text.lower()
    if b"nan" not in lower and b"inf" not in lower:
        return []  # by far the quickest way to know
    return [match.start() for match in _NO_NUMBER.finditer(text)]


def _look_at_json(line: bytes) -> bytes | tuple[str, str]:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return "bad_encoding", f"byte {error.start + 1} of the line does not belong to its encoding"
    if any(sign < _FIRST_PRINTABLE and sign != _TAB for sign in line):
        return "bad_json", "the line holds a control character, which JSON does not allow"
    bare = _STRINGS.sub(b"", line)
    if _NO_NUMBER.search(bare):
        return "bad_json", "the line holds NaN or an infinity, which JSON does not have"
    depth = deepest = 0
    for sign in bare:
        if sign in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif sign in b"]}":
            depth -= 1
    if deepest > DEEP:
        return "bad_json", f"the line is nested {deepest} levels deep, more than {DEEP}"
    return line + b"\n"


csv.field_size_limit(LONGEST_LINE)
