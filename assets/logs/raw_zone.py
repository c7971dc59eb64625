"""The raw zone: every file taken in once, whole or not at all, with an account of each of its lines.

A file becomes one folder `home/raw/loads/<load_id>/` with its events or products, its rejects and its
outcome, put in place by one rename. The folder's name is made from the source and the file's content, so it
is the ledger as well: what has been taken in, under whichever name, is there already. Nothing is ever changed
in such a folder.

The publisher's file stays where it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, date, datetime
from io import BufferedReader
from pathlib import Path
from typing import Any

import duckdb

from assets.logs import canonical
from assets.logs.drop import (
    CHECKSUM,
    STILL,
    Mark,
    checksum_of,
    is_still,
    mark_of,
    open_plain,
    path_in,
    plain_files,
)
from assets.logs.lines import LARGEST, FileRefusedError
from assets.logs.readers import READER_FAILED, Readers
from assets.logs.sources import FileSpec, Ignored, read_sources
from resources.aside import fsync, replacing, sync
from resources.crash import crash_point
from resources.home import Home
from resources.identity import IdentityKey
from resources.leases import lease_one_of
from resources.room import lack

AT_ONCE = 2
"""Files that are parsed at the same time."""

MOST_ATTEMPTS = 3
"""A reader that fails may have been killed, or the disk was full: the file is not judged by one failure."""

LOADED, PARTLY, REFUSED, DUPLICATE = "loaded", "partly_loaded", "refused", "duplicate"
STILL_WRITTEN, NOT_USED = "still_written", "not_used"
"""Reasons that something hangs on, among those for which whole files are refused; and `READER_FAILED`."""

_CHUNK = 4 << 20
_IS_WRITTEN = "is still being written; it waits for the next time"


@dataclass(frozen=True)
class Outcome:
    """What became of one file: an entry of the ledger.

    Always lines = header_lines + blank_lines + lines_loaded + lines_refused. Rows are records; they differ
    from lines only where one line holds several, and in Parquet, where a row counts as a line.
    """

    load_id: str
    source: str
    file: str
    """Path in the drop folder."""
    sha256: str
    bytes: int
    kind: str
    status: str
    """loaded, partly_loaded (some lines were refused), refused (all were), or duplicate."""
    lines: int = 0
    header_lines: int = 0
    blank_lines: int = 0
    lines_loaded: int = 0
    lines_refused: int = 0
    rows_loaded: int = 0
    rows_refused: int = 0
    days: dict[str, int] = field(default_factory=dict)
    """Rows of each of the shop's days."""
    extra: list[str] = field(default_factory=list)
    """Columns of the file that its source does not name; they are kept in `extra`."""
    contract: str = ""
    """SHA-256 of the source file that the rows were read by."""
    reason: str = ""
    """Why the file as a whole was refused, in one word; empty where it was not."""
    detail: str = ""
    attempts: int = 1
    """How many times in a row the reader has tried it."""
    began_at: str = ""
    """When the ingestion began that took it in, UTC: the same for all of its files."""
    seconds: float = 0.0

    @property
    def adds_up(self) -> bool:
        return self.lines == self.header_lines + self.blank_lines + self.lines_loaded + self.lines_refused


def prepare(home: Home) -> None:
    """Make the folders, and a zero-row file of each kind so that no glob over the raw zone comes up empty."""
    home.drop.mkdir(parents=True, exist_ok=True)
    schema = home.loads / "_schema"
    if (schema / "rejects.parquet").exists():
        return
    home.loads.mkdir(parents=True, exist_ok=True)
    with _work_folder(home, "schema") as work, duckdb.connect() as db:
        (work / "events" / "day=1970-01-01").mkdir(parents=True)
        for columns, name in (
            (canonical.EVENTS, "events/day=1970-01-01/empty.parquet"),
            (canonical.PRODUCTS, "products.parquet"),
            (canonical.REJECTS, "rejects.parquet"),
        ):
            db.execute(
                f"COPY ({canonical.empty(columns)}) TO {canonical.literal(str(work / name))} (FORMAT parquet)"
            )
        (work / "outcome.json").touch()
        crash_point("ingest.schema_written")
        _put(work, schema)
        crash_point("ingest.schema_in_place")


def take_in_all(home: Home, log: Callable[[str], None] = lambda message: None) -> list[Outcome]:
    """Take in every whole file that waits in the drop folder, two at a time.

    What counts as whole, see `assets.logs.drop`. What goes wrong with one file does not touch the others. Who
    interrupts it does not wait for files: those that are not taken in yet wait as if nobody had tried.

    Returns:
        Outcomes of the files that were new, in the order of their names.

    Raises:
        OSError, duckdb.Error: there is no room left, on the disk or in memory (`resources.room` puts it in
            words). The files that were not taken in wait, and none of them counts as tried.
    """
    with at_rest(home, log):
        zone = _RawZone(home, log)
        ready = _settled(zone.waiting(), log)
        if not ready:
            return []
        log(f"{len(ready)} files to take in")
        with _side_by_side(len(ready)) as (parsing, pool):
            # Two names for the same bytes must not be read side by side, so they are told apart first.
            repeats = zone.repeats(ready, pool)
            crash_point("ingest.identified")
            tried = {
                file: pool.submit(zone.take_in, file, mark, parsing)
                for file, mark in ready.items()
                if file not in repeats
            }
            # One that asks for more room than there is does not keep out those after it.
            failed = next((error for one in tried.values() if (error := one.exception())), None)
            done = {file: one.result() for file, one in tried.items() if not one.exception()}
            done |= {file: zone.take_in(file, ready[file], parsing) for file in ready if file in repeats}
        crash_point("ingest.all_taken_in")
        zone.sync()
        zone.remember()
        crash_point("ingest.remembered")
        if failed:
            raise failed
    return [outcome for file in ready if (outcome := done.get(file))]


@contextmanager
def _side_by_side(files: int) -> Iterator[tuple[Readers, ThreadPoolExecutor]]:
    """Readers, and threads that wait for them."""
    with closing(Readers(min(AT_ONCE, files))) as parsing, ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            yield parsing, pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            parsing.stop()
            raise


@contextmanager
def at_rest(home: Home, log: Callable[[str], None] = lambda message: None) -> Iterator[None]:
    """The raw zone does not change within the block but by what the block itself does: nobody else takes
    files in.
    """
    with lease_one_of([home.leases / "ingest.lock"], on_wait=log):
        # What a killed run has left behind is of no use to anybody.
        shutil.rmtree(_incoming(home), ignore_errors=True)
        yield


def outcomes(home: Home) -> list[Outcome]:
    """The ledger: one entry for every file that was ever seen, in the order in which they came."""
    found = [
        Outcome(**json.loads(file.read_text(encoding="utf-8")))
        for folder in (home.loads, home.loads / "_duplicates")
        for file in folder.glob("*/outcome.json")
        if file.parent.name != "_schema"
    ]
    return sorted(found, key=lambda outcome: (outcome.began_at, outcome.file))


def new_columns(ledger: Sequence[Outcome], taken: Iterable[Outcome]) -> dict[str, list[str]]:
    """For each source of the files just taken in, the columns that its source file does not name and none of
    its files had before. A source's first file is no surprise.
    """
    of_interest = {outcome.load_id for outcome in taken}
    known: dict[str, set[str]] = {}
    new: dict[str, list[str]] = {}
    for outcome in ledger:
        if not outcome.rows_loaded:
            continue
        before = known.get(outcome.source)
        if before is None:
            known[outcome.source] = set(outcome.extra)
            continue
        if outcome.load_id in of_interest and (found := sorted(set(outcome.extra) - before)):
            new.setdefault(outcome.source, []).extend(found)
        before.update(outcome.extra)
    return new


def days_of_loads(home: Home) -> dict[date, list[str]]:
    """Each of the shop's days that has rows, and the loads (ids, sorted) that hold them."""
    days: dict[date, list[str]] = {}
    for outcome in outcomes(home):
        for day in outcome.days:
            days.setdefault(date.fromisoformat(day), []).append(outcome.load_id)
    return {day: sorted(days[day]) for day in sorted(days)}


def day_versions(home: Home, days: Iterable[date]) -> dict[date, str]:
    """For each day a name for the rows it has now: another one as soon as another load holds rows of that
    day.
    """
    loads = days_of_loads(home)
    return {day: version_of(loads.get(day, [])) for day in days}


def version_of(parts: Sequence[str]) -> str:
    """A name for these parts in this order."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def rejects_by_reason(
    home: Home, load_ids: Sequence[str]
) -> list[tuple[str, str, str | None, int, str, str]]:
    """Refused rows of some loads: (source, reason, field, rows, file:line of the first, what is wrong), most
    first.

    A file that was refused as a whole counts as one row, on line 0.
    """
    files = [str(home.loads / load_id / "rejects.parquet") for load_id in dict.fromkeys(load_ids)]
    if not files:
        return []
    with duckdb.connect() as db:
        return db.execute(
            "SELECT source, reason, field, count(*) AS rows, arg_min(file || ':' || line, (file, line)), "
            "arg_min(detail, (file, line)) FROM read_parquet($1) GROUP BY source, reason, field ORDER BY "
            "rows DESC",
            [files],
        ).fetchall()


def rows_in_place(home: Home) -> dict[str, int]:
    """Rows of each load (id) as the footers of its Parquet files count them."""
    prepare(home)
    globs = [str(home.loads / "*" / "events" / "*" / "*.parquet"), str(home.loads / "*" / "products.parquet")]
    with duckdb.connect() as db:
        files = db.execute("SELECT file_name, num_rows FROM parquet_file_metadata($1)", [globs]).fetchall()
    rows: dict[str, int] = {}
    for name, count in files:
        load_id = Path(name).relative_to(home.loads).parts[0]
        if load_id == "_schema":
            continue
        rows[load_id] = rows.get(load_id, 0) + count
    return rows


class _RawZone:
    """Taking files in, while nobody else does."""

    def __init__(self, home: Home, log: Callable[[str], None]) -> None:
        prepare(home)
        self.home, self.log = home, log
        self.began_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        self.sources, self.faults = read_sources(home)
        self.key = IdentityKey.load(home)
        self.seen_file = home.loads.parent / "seen.json"
        self.seen: dict[str, list[Any]] = _json(self.seen_file)
        self.placed: list[Path] = []

    def waiting(self) -> list[Path]:
        """Files in the drop folder that are not in the ledger as they are now, in the order of their
        names.
        """
        return [file for file in plain_files(self.home.drop) if not self._is_known(file)]

    def repeats(self, files: Mapping[Path, Mark], pool: ThreadPoolExecutor) -> set[Path]:
        """Files whose content one before them has, in the same source. Only of those with equal sizes the
        content is looked at.
        """
        alike: dict[tuple[str, int], list[Path]] = {}
        for file, (size, _) in files.items():
            alike.setdefault((self._source_name(file), size), []).append(file)
        doubtful = [file for group in alike.values() if len(group) > 1 for file in group]
        firsts: dict[tuple[str, str], Path] = {}
        contents = zip(doubtful, pool.map(self._content, doubtful), strict=True)
        return {file for file, content in contents if content and firsts.setdefault(content, file) != file}

    def take_in(self, file: Path, mark: Mark, parsing: Readers) -> Outcome | None:
        """The outcome of the file; None where it cannot be read, or is no longer what it was when it had this
        mark, and the log says why.

        Raises:
            OSError: there is no room left, on the disk or in memory.
        """
        path = self._path(file)
        try:
            outcome = self._taken_in(file, mark, parsing)
        except OSError as error:
            if lack(error):
                raise
            self.log(f"{path}: cannot be read ({error.strerror}); it waits for the next time")
            return None
        if outcome:
            # A cache only: it saves reading files again that nobody has touched.
            self.seen[path] = [*mark, outcome.sha256]
        return outcome

    def _taken_in(self, file: Path, mark: Mark, parsing: Readers) -> Outcome | None:
        clock = time.monotonic()
        source_name, path = self._source_name(file), self._path(file)
        source = self.sources.get(source_name)
        contract = self._contract(source_name)
        spec = source.spec_for(file.name) if source else None
        with _work_folder(self.home, hashlib.sha256(os.fsencode(file)).hexdigest()[:16]) as work:
            copy, load = work / "copy", work / "load"
            crash_point("ingest.work_folder_made")
            told = checksum_of(self.home.drop, file)
            digest = self._copied(file, mark, copy)
            if digest is None:
                self.log(f"{path} {_IS_WRITTEN}")
                return None
            *_, last_digest = self.seen.get(path, [digest])
            load_id = _load_id(source_name, digest)
            before = _outcome(self.home.loads / load_id)
            blank = Outcome(
                load_id=load_id,
                source=source_name,
                file=path,
                sha256=digest,
                bytes=mark[0],
                kind=spec.kind if isinstance(spec, FileSpec) else "events",
                status=REFUSED,
                contract=contract,
                attempts=before.attempts + 1 if before and _has_failed(before, contract) else 1,
                began_at=self.began_at,
            )
            if before and not _is_to_be_tried_again(before, contract):
                # A catalogue that is again what it was before its last change says what holds now.
                is_back = before.kind == "products" and digest != last_digest
                if before.file == path and not is_back:
                    return before
                return self._duplicate(blank, before, is_back=is_back)
            outcome = self._judged(blank, copy, load, parsing, told)
            outcome = replace(outcome, seconds=round(time.monotonic() - clock, 3))
            crash_point("ingest.rows_written")
            _write_json(load / "outcome.json", asdict(outcome))
            crash_point("ingest.outcome_written")
            self._place(load, self.home.loads / load_id)
            crash_point("ingest.load_in_place")
        self.log(_sentence(outcome))
        return outcome

    def _judged(self, blank: Outcome, copy: Path, load: Path, parsing: Readers, told: str | None) -> Outcome:
        """What comes of the copy, with the rows or the refusal in `load`.

        Raises:
            Exception: there is no room left, on the disk or in memory.
        """
        try:
            _check(blank, is_copied=copy.exists(), told=told)
            return self._read(copy, blank, load, parsing)
        except FileRefusedError as error:
            return _refused(error, copy, blank, load, parsing)
        except Exception as error:
            if lack(error):
                raise
            # Whatever else it is, it is this file's trouble alone.
            failed = FileRefusedError(
                READER_FAILED, f"taking it in failed with {type(error).__name__}. Please report it."
            )
            return _refused(failed, copy, blank, load, parsing)

    def _place(self, folder: Path, target: Path) -> None:
        _put(folder, target)
        self.placed.append(target)

    def sync(self) -> None:
        """Have the disk hold what was put in place, before anybody is told of it: publishers may remove their
        files then. Once and at the end, for with the first file that is to be on the disk at once, ext4
        writes the copies of others, too, which nobody will want.
        """
        for target in self.placed:
            sync(target)
        for folder in {target.parent for target in self.placed}:
            fsync(folder)

    def remember(self) -> None:
        """Forget files that are gone, and put the cache in place."""
        there = {self._path(file) for file in plain_files(self.home.drop)}
        with replacing(self.seen_file) as aside:
            _write_json(aside, {path: mark for path, mark in sorted(self.seen.items()) if path in there})
            crash_point("ingest.cache_written")

    def _content(self, file: Path) -> tuple[str, str] | None:
        """(source, SHA-256 of the content); None where it cannot be read, which is told when it is taken
        in.
        """
        try:
            with open_plain(self.home.drop, file) as stream:
                return self._source_name(file), hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError:
            return None

    def _copied(self, file: Path, mark: Mark, copy: Path) -> str | None:
        """SHA-256 of the content, hexadecimal, which has been copied; of a file that is too large to be read,
        that of its mark, and nothing is copied. None where the file has another mark than this by now: then
        what was copied may be half of one content and half of another.
        """
        if mark[0] > LARGEST:
            return hashlib.sha256(f"{self._path(file)}\0{mark}".encode()).hexdigest()
        with open_plain(self.home.drop, file) as stream:
            digest = _copy(stream, copy)
            # Of what was read, and not of what lies there under that name by now.
            return digest if mark_of(stream) == mark else None

    def _read(self, copy: Path, blank: Outcome, load: Path, parsing: Readers) -> Outcome:
        source = self.sources.get(blank.source)
        if source is None:
            raise self._no_source(blank)
        name = Path(blank.file).name
        spec = source.spec_for(name)
        if spec is None:
            patterns = ", ".join(pattern for one in source.files for pattern in one.match)
            raise FileRefusedError(
                "unknown_file",
                f"source {source.name} has no file of this name; it has {patterns}. Rename the file, or "
                f"add a section to {source.name}.yaml in {self.home.sources}.",
            )
        if isinstance(spec, Ignored):
            raise FileRefusedError(NOT_USED, f"{spec.reason}.")
        load.mkdir()
        crash_point("ingest.copied")
        answer = parsing.read(
            copy, load, spec, source, load_id=blank.load_id, file=blank.file, home=self.home, key=self.key
        )
        crash_point("ingest.reader_done")
        detail = "; ".join(answer.pop("notes"))
        status = LOADED
        if answer["rows_refused"]:
            status = PARTLY if answer["rows_loaded"] else REFUSED
        if status == REFUSED:
            detail = f"every row was refused: see the rejects, correct the source file or the data. {detail}"
        return replace(blank, status=status, detail=detail, **answer)

    def _no_source(self, blank: Outcome) -> FileRefusedError:
        if blank.source in self.faults:
            return FileRefusedError(
                "broken_source", f"its source cannot be used: {self.faults[blank.source]}"
            )
        if not blank.source:
            return FileRefusedError(
                "unknown_source", "it lies in no source's folder. Move it to drop/<source>/."
            )
        return FileRefusedError(
            "unknown_source",
            f"there is no source {blank.source!r}; there are {', '.join(self.sources)}. Move the file to a "
            f"source's folder, or describe its format in {self.home.sources / (blank.source + '.yaml')}.",
        )

    def _duplicate(self, blank: Outcome, before: Outcome, *, is_back: bool) -> Outcome:
        """Note that the content has come again: once for each name, or once more where it is back."""
        name = hashlib.sha256(f"{blank.source}\0{blank.file}\0{blank.sha256}".encode()).hexdigest()[:16]
        target = self.home.loads / "_duplicates" / name
        known = _outcome(target)
        if known and not is_back:
            return known
        outcome = replace(
            blank,
            kind=before.kind,
            status=DUPLICATE,
            detail=f"same content as {before.file}; nothing was loaded",
        )
        with _work_folder(self.home, name) as work:
            _write_json(work / "outcome.json", asdict(outcome))
            crash_point("ingest.duplicate_written")
            self._place(work, target)
            crash_point("ingest.duplicate_in_place")
        self.log(_sentence(outcome))
        return outcome

    def _is_known(self, file: Path) -> bool:
        """As the cache remembers it, and its outcome final."""
        *mark, digest = self.seen.get(self._path(file), [""])
        if tuple(mark) != mark_of(file):
            return False
        source_name = self._source_name(file)
        before = _outcome(self.home.loads / _load_id(source_name, digest))
        return before is not None and not _is_to_be_tried_again(before, self._contract(source_name))

    def _contract(self, source_name: str) -> str:
        """What a file of this source would be read by now; of a source that cannot be used, its fault."""
        if source_name in self.sources:
            return self.sources[source_name].contract
        return hashlib.sha256(self.faults.get(source_name, "").encode()).hexdigest()

    def _path(self, file: Path) -> str:
        return path_in(self.home.drop, file)

    def _source_name(self, file: Path) -> str:
        folder, slash, _ = self._path(file).partition("/")
        return folder if slash else ""


def _refused(error: FileRefusedError, copy: Path, blank: Outcome, load: Path, parsing: Readers) -> Outcome:
    """The outcome of a file of which nothing was taken in: all of its lines are refused, by one reject on
    line 0.
    """
    shutil.rmtree(load, ignore_errors=True)
    load.mkdir()
    detail = _as_text(error.detail)
    row = (blank.load_id, blank.source, blank.file, 0, error.reason, error.field, None, detail)
    with duckdb.connect() as db:
        db.execute(f"CREATE TABLE rejects AS {canonical.empty(canonical.REJECTS)}")
        db.execute(f"INSERT INTO rejects VALUES ({', '.join('?' * len(row))})", row)
        db.execute(f"COPY rejects TO {canonical.literal(str(load / 'rejects.parquet'))} (FORMAT parquet)")
    crash_point("ingest.refusal_written")
    lines = error.lines
    if lines is None:
        lines = parsing.lines(copy, blank.file) if copy.exists() else 0
    return replace(
        blank, lines=lines, lines_refused=lines, rows_refused=lines, reason=error.reason, detail=detail
    )


def _check(blank: Outcome, *, is_copied: bool, told: str | None) -> None:
    """Whether the file is what the publisher says it is, if he does.

    Raises:
        FileRefusedError: it is not, or it was too large to be copied.
    """
    if not is_copied:
        raise FileRefusedError("too_large", f"it has more than {LARGEST >> 30} GiB. Split it.")
    if told is not None and told != blank.sha256:
        name = Path(blank.file).name + CHECKSUM
        raise FileRefusedError(STILL_WRITTEN, f"its content is not what {name} says. It will be tried again.")


def _is_to_be_tried_again(before: Outcome, contract: str) -> bool:
    """A file that was refused gets another chance with another source file, where it had not been whole, and
    where the reader failed.
    """
    return before.status == REFUSED and (
        before.contract != contract
        or before.reason == STILL_WRITTEN
        or (_has_failed(before, contract) and before.attempts < MOST_ATTEMPTS)
    )


def _has_failed(before: Outcome, contract: str) -> bool:
    return before.reason == READER_FAILED and before.contract == contract


def _load_id(source: str, digest: str) -> str:
    return hashlib.sha256(f"{source}\0{digest}".encode()).hexdigest()[:16]


def _incoming(home: Home) -> Path:
    return home.loads.parent / "incoming"


@contextmanager
def _work_folder(home: Home, name: str) -> Iterator[Path]:
    """A private folder on the raw zone's own disk, gone afterwards."""
    work = _incoming(home) / name
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, mode=0o700)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _put(folder: Path, target: Path) -> None:
    """Put a finished folder in place by one rename; one that is there and may be replaced is moved away
    first.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        old = folder.with_name(folder.name + ".old")
        target.rename(old)
        crash_point("ingest.refused_load_moved")
        folder.rename(target)
        crash_point("ingest.refused_load_replaced")
        shutil.rmtree(old)
    else:
        folder.rename(target)


def _settled(files: Sequence[Path], log: Callable[[str], None]) -> dict[Path, Mark]:
    """Files that nobody is writing to any more, in their order, with their marks; waits for young ones, but
    only once.
    """
    now = time.time()
    marks = {file: mark_of(file) for file in files}
    if not all(is_still(file, now) for file in files):
        time.sleep(STILL)
    settled = {file: mark for file, mark in marks.items() if mark and mark == mark_of(file)}
    for file in files:
        if file not in settled:
            log(f"{file.name} {_IS_WRITTEN}")
    return settled


def _copy(stream: BufferedReader, copy: Path) -> str:
    """The SHA-256 of what was copied, hexadecimal."""
    digest = hashlib.sha256()
    with copy.open("xb") as out:
        while (part := stream.read(_CHUNK)) and out.tell() <= LARGEST:
            digest.update(part)
            if not part[0] and part.count(0) == len(part):
                out.seek(len(part), os.SEEK_CUR)  # a hole takes no room, and its copy need not either
            else:
                out.write(part)
        out.truncate()
    return digest.hexdigest()


def _outcome(folder: Path) -> Outcome | None:
    found = _json(folder / "outcome.json")
    return Outcome(**found) if found else None


def _json(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _as_text(text: str) -> str:
    """Without what no file can hold: halves of characters, which foreign names are made of."""
    return text.encode("utf-8", "backslashreplace").decode()


def _sentence(outcome: Outcome) -> str:
    if outcome.status in (REFUSED, DUPLICATE):
        what = ": ".join(part for part in (outcome.status, outcome.reason, outcome.detail) if part)
        return f"{outcome.file}: {what}"
    return (
        f"{outcome.file}: {outcome.rows_loaded:,} rows loaded, {outcome.rows_refused:,} refused, "
        f"{len(outcome.days)} days, {outcome.seconds:.1f} s{outcome.detail and '; '}{outcome.detail}"
    )
