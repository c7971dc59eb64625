"""What a source file would make of a sample, without keeping anything."""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from assets.logs.lines import FileRefusedError, opened
from assets.logs.readers import Readers
from assets.logs.sources import COMPRESSIONS, FileSpec, Ignored, Source, load_source
from resources.home import BEHAVIORS, Home
from resources.identity import IdentityKey

ROWS = 10
"""Rows and rejects that are shown."""

SAMPLE_BYTES = 4 << 20
"""So much of a text file is looked at."""


class SampleError(ValueError):
    """What was named as a sample is none; the message names the next step."""


@dataclass(frozen=True)
class Preview:
    """The first rows of a sample as canonical rows, and what is wrong."""

    source: str
    kind: str
    """events or products."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Canonical rows, by column. User, session and order ids are pseudonyms made with a key that is
    forgotten.
    """
    rejects: list[dict[str, Any]] = field(default_factory=list)
    """line, reason, field, value, detail of the first refused rows."""
    problems: list[str] = field(default_factory=list)
    """Sentences: what keeps the sample, or part of it, out, and what to do."""
    notes: list[str] = field(default_factory=list)
    """Sentences: worth knowing, nothing to do."""
    lines: int = 0
    rows_loaded: int = 0
    rows_refused: int = 0

    @property
    def ok(self) -> bool:
        return not self.problems


def check_source(source_file: Path, sample: Path, home: Home) -> Preview:
    """Read the beginning of a sample by a source file.

    Args:
        source_file: YAML file, wherever it lies.
        sample: a file of the publisher's, wherever it lies.
        home: whose shop's time zone applies. Nothing is written to it.

    Raises:
        SourceError: the source file itself is wrong; the message names file, line, field and the next step.
        SampleError: the sample is no file; the message names the next step.
    """
    source = load_source(source_file)
    if sample.is_dir():
        raise SampleError(f"{sample}: is a folder. Name one of the files in it.")
    if not sample.is_file():
        raise SampleError(f"{sample}: no such file. Name a file that the publisher has written.")
    problems: list[str] = []
    spec = source.spec_for(sample.name)
    if isinstance(spec, Ignored):
        return Preview(source.name, "events", problems=[f"{sample.name} is not taken in: {spec.reason}."])
    if spec is None:
        spec = _likely(source, sample)
        problems.append(
            f"{source_file}: files.match: {', '.join(spec.match)} does not fit the name {sample.name}, so "
            "the file "
            "would be refused. It is read here all the same."
        )
    with tempfile.TemporaryDirectory() as folder:
        copy, out = Path(folder) / "sample", Path(folder) / "out"
        out.mkdir()
        try:
            name = _beginning(sample, copy, spec)
            with closing(Readers(1)) as parsing:
                answer = parsing.read(
                    copy,
                    out,
                    spec,
                    source,
                    load_id="preview",
                    file=name,
                    home=home,
                    key=IdentityKey.throwaway(),
                    verbatim=True,
                )
        except FileRefusedError as error:
            where = f"{error.field}: " if error.field else ""
            return Preview(source.name, spec.kind, problems=[*problems, f"{sample}: {where}{error.detail}"])
        rows, rejects, codes = _results(out, spec)
    if answer["rows_refused"]:
        first = rejects[0]
        problems.append(
            f"{sample}:{first['line']}: {first['field'] or 'line'}: {first['detail']} ({first['reason']}). "
            f"{answer['rows_refused']} of {answer['rows_refused'] + answer['rows_loaded']} rows would be "
            "refused: "
            "correct the source file, or leave them out."
        )
    elif not answer["rows_loaded"]:
        problems.append(f"{sample}: there are no records in it. Name a sample with some.")
    notes = list(answer["notes"])
    unknown = sorted(set(codes) - set(BEHAVIORS))
    if unknown:
        notes.append(
            f"behavior: {', '.join(unknown[:20])} are kept as they are. The taxonomy knows the codes of "
            "shipped sources; "
            f"map those of your own under `behavior:` to {', '.join(BEHAVIORS)}."
        )
    return Preview(
        source.name,
        spec.kind,
        rows,
        rejects,
        problems,
        notes,
        answer["lines"],
        answer["rows_loaded"],
        answer["rows_refused"],
    )


def _likely(source: Source, sample: Path) -> FileSpec:
    """The section that reads such files, by the end of the name; the first where none does."""
    kind = next((end for end in Path(_plain_name(sample.name)).suffixes[-1:]), "").removeprefix(".")
    return next((spec for spec in source.files if spec.format.type == kind), source.files[0])


def _plain_name(name: str) -> str:
    for ending in COMPRESSIONS:
        name = name.removesuffix(ending)
    return name


def _beginning(sample: Path, copy: Path, spec: FileSpec) -> str:
    """Copy the first lines, decompressed; a Parquet file whole. The name to read the copy by."""
    if spec.format.type == "parquet":
        copy.write_bytes(sample.read_bytes())
        return sample.name
    with opened(sample, sample.name) as stream:
        head = stream.read(SAMPLE_BYTES)
    if len(head) == SAMPLE_BYTES:
        head = head[: head.rfind(b"\n") + 1] or head
    copy.write_bytes(head)
    return _plain_name(sample.name)


def _results(out: Path, spec: FileSpec) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    import duckdb

    found = out / ("events/*/*.parquet" if spec.kind == "events" else "products.parquet")
    with duckdb.connect() as db:
        rejects = _dicts(
            db.execute(
                "SELECT line, reason, field, value, detail FROM read_parquet($1) ORDER BY line LIMIT $2",
                [str(out / "rejects.parquet"), ROWS],
            )
        )
        if not list(out.glob("events/*/*.parquet" if spec.kind == "events" else "products.parquet")):
            return [], rejects, []
        rows = _dicts(
            db.execute(
                "SELECT * EXCLUDE (load_id) FROM read_parquet($1, hive_partitioning = true) ORDER BY line "
                "LIMIT $2",
                [str(found), ROWS],
            )
        )
        codes: list[str] = []
        if spec.kind == "events":
            query = "SELECT DISTINCT behavior FROM read_parquet($1)"
            codes = [code for (code,) in db.execute(query, [str(found)]).fetchall()]
    return rows, rejects, codes


def _dicts(result: Any) -> list[dict[str, Any]]:
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]
