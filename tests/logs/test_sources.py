"""Source files: what they may say, and how a wrong one is told of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from assets.logs.sources import (
    SHIPPED,
    FileSpec,
    Ignored,
    SourceError,
    Time,
    load_source,
    read_sources,
)
from resources.home import Home

GOOD: dict[str, Any] = {
    "name": "mine",
    "description": "our own",
    "timezone": "Europe/Vienna",
    "files": [
        {
            "match": "*.csv",
            "format": {"type": "csv", "delimiter": ";"},
            "time": {"column": "when", "unit": "iso"},
            "columns": {"user_id": "who", "item_id": "what"},
            "constants": {"behavior": "purchase"},
        }
    ],
}


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def changed(path: str, value: object) -> dict[str, Any]:
    """GOOD with one value set; `files.` stands for its only file section."""
    whole = yaml.safe_load(yaml.safe_dump(GOOD))
    *holders, last = path.split(".")
    inner: Any = whole
    for holder in holders:
        inner = inner["files"][0] if holder == "files" else inner.setdefault(holder, {})
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return whole


def test_the_good_one_is_good(tmp_path: Path) -> None:
    source = load_source(written(tmp_path, yaml.safe_dump(GOOD)))
    assert source.files[0].columns == {"user_id": ["who"], "item_id": ["what"]}
    assert len(source.contract) == 64


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("timezone", "Mars/Olympus", "Europe/Berlin"),
        ("colour", "red", "no such field"),
        ("files.colums", {"a": "b"}, "did you mean 'columns'"),
        ("files.format.delimeter", ";", "did you mean 'delimiter'"),
        ("files.format.type", "xml", "format"),
        ("files.time.unit", "minutes", "'minutes' is neither"),
        ("files.time.unit", ["iso", "%Y"], "strptime"),
        ("files.time.unit", "%Y-%m-%d %Q", "'%Y-%m-%d %Q' is no format that times are read by"),
        ("files.time.unit", ["%d.%m.%Y", "%d.%m.%Y %"], "'%d.%m.%Y %' is no format"),
        ("files.received", {"column": "got", "unit": "%s"}, "files.0.received.unit: '%s' is no format"),
        ("files.time", None, "events need one"),
        ("files.columns.usr_id", "who", "did you mean 'user_id'"),
        ("files.columns.user_id", None, "nothing is mapped to user_id"),
        ("files.columns.user_id", [], "user_id"),
        ("files.constants.behavior", None, "nothing is mapped to behavior"),
        ("files.required", ["session_id"], "nothing is mapped to session_id"),
        ("files.behavior", {"buy": "purchas"}, "did you mean 'purchase'"),
        ("files.window", {"earliest": "2026-02-01", "latest": "2026-01-01"}, "before earliest"),
        ("files.format.columns", ["who", "wat", "when"], "did you mean 'wat'"),
        ("files.format.delimiter", "::", "quote: null"),
        ("files.format.encoding", "ebcdic", "utf-8"),
        # Numbers in JSON and Parquet are numbers: a comma for a point would make 999 of 9.99.
        ("files.format", {"type": "jsonl", "decimal": ","}, "format.decimal: no such field"),
        ("files.format", {"type": "parquet", "decimal": ","}, "format.decimal: no such field"),
        ("files", [], "files"),
        ("name", None, "name"),
        ("name", "Mine!", "name"),
        ("name", "other", "rename the file"),
        ("namespace", "a/b", "namespace"),
    ],
)
def test_a_wrong_field_is_told_with_file_field_and_next_step(
    tmp_path: Path, path: str, value: object, says: str
) -> None:
    file = written(tmp_path, yaml.safe_dump(changed(path, value)))
    with pytest.raises(SourceError) as caught:
        load_source(file)
    message = str(caught.value)
    assert message.startswith(f"{file}:")
    assert says in message
    assert "nightshelf sources check" in message or "rename" in message


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("name: mine\ndescription: x\nfiles:\n  - match: '*.csv'\n    kind: sales\n", 5, "kind"),
        ("name: mine\ndescription: x\n\n\ntimezone: Nowhere\nfiles: []\n", 5, "timezone"),
        ("name: mine\nfiles:\n  - match: [\n", 4, "not valid YAML"),
        ("- a\n- b\n", 1, "mapping"),
        ("", 1, "mapping"),
        ("name: mine\nfiles: 2026-13-01\n", 2, "2026-13-01 cannot be read as timestamp"),
        ("name: mine\nfiles: !!bool perhaps\n", 2, "perhaps cannot be read as bool"),
    ],
)
def test_the_line_is_named(tmp_path: Path, text: str, line: int, says: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(SourceError) as caught:
        load_source(file)
    assert any(
        part.startswith(f"{file}:{line}: ") and says in part for part in str(caught.value).splitlines()
    )


@given(st.text(max_size=300))
def test_no_text_breaks_the_reading_of_sources(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("any") / "mine.yaml"
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(SourceError, match=r"mine\.yaml"):
        load_source(file)


def test_a_file_that_is_no_utf8_or_nested_without_end_is_told(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_bytes("name: mine\ndescription: Tür\n".encode("latin-1"))
    with pytest.raises(SourceError, match=r"mine\.yaml:2: not UTF-8 text"):
        load_source(file)
    file.write_text("[" * 10_000)
    with pytest.raises(SourceError, match=r"mine\.yaml: .*nested too deeply"):
        load_source(file)


def test_one_broken_source_keeps_no_other_out(home: Home) -> None:
    home.sources.mkdir()
    (home.sources / "dd.yaml").write_text("files: 2026-13-01\n")
    (home.sources / "mine.yaml").write_text(yaml.safe_dump(GOOD))
    sources, faults = read_sources(home)
    assert {"mine", "rees46"} < set(sources)
    assert list(faults) == ["dd"]
    assert faults["dd"].startswith(f"{home.sources / 'dd.yaml'}:1: ")


def test_a_source_under_another_ending_is_told_and_never_passed_over(home: Home) -> None:
    home.sources.mkdir()
    for name in ("mine.yml", "rees46.YAML"):
        (home.sources / name).write_text(yaml.safe_dump(GOOD))
    sources, faults = read_sources(home)
    assert not {"mine", "rees46"} & set(sources)
    assert (
        faults["mine"] == f"{home.sources / 'mine.yml'}: is not taken for a source. Rename it to mine.yaml."
    )
    assert "Rename it to rees46.yaml" in faults["rees46"]
    with pytest.raises(SourceError, match=r"Rename it to mine\.yaml"):
        load_source(home.sources / "mine.yml")


@pytest.mark.parametrize("unit", ["%d.%m.%Y %H:%M", "%Y-%m-%dT%H:%M:%S.%f%z", "%-d/%-m/%y %I:%M %p", "%Y%%"])
def test_formats_that_times_are_read_by_are_taken(tmp_path: Path, unit: str) -> None:
    source = load_source(written(tmp_path, yaml.safe_dump(changed("files.time.unit", unit))))
    assert isinstance(source.files[0].time, Time)
    assert source.files[0].time.unit == [unit]


def test_sources_are_quick_to_import() -> None:
    code = "import sys, assets.logs.sources; print([m for m in ('duckdb', 'numpy') if m in sys.modules])"
    assert subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout == ("[]\n")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"none\.yaml"):
        load_source(tmp_path / "none.yaml")


def test_the_shops_own_source_wins_over_a_shipped_one(home: Home) -> None:
    home.sources.mkdir()
    text = (SHIPPED / "rees46.yaml").read_text().replace("timezone: UTC", "timezone: Europe/Moscow")
    (home.sources / "rees46.yaml").write_text(text)
    (home.sources / "mine.yaml").write_text(yaml.safe_dump(GOOD))
    sources, faults = read_sources(home)
    assert not faults
    assert sources["rees46"].timezone == "Europe/Moscow"
    assert sources["mine"].path == home.sources / "mine.yaml"
    (home.sources / "mine.yaml").write_text("name: 5\n")
    (home.sources / "rees46.yaml").write_text("name: 5\n")
    sources, faults = read_sources(home)
    assert set(faults) == {"mine", "rees46"} and not set(faults) & set(sources)
    assert f"{home.sources / 'mine.yaml'}:1: " in faults["mine"]


def test_the_contract_changes_with_the_file(tmp_path: Path) -> None:
    one = load_source(written(tmp_path, yaml.safe_dump(GOOD))).contract
    assert load_source(written(tmp_path, yaml.safe_dump(GOOD) + "# again\n")).contract != one


def test_a_files_name_chooses_its_section() -> None:
    source = load_source(SHIPPED / "movielens_100k.yaml")
    events, products = source.spec_for("u.data.gz"), source.spec_for("u.item")
    assert isinstance(events, FileSpec)
    assert isinstance(products, FileSpec)
    assert (events.kind, products.kind) == ("events", "products")
    assert isinstance(source.spec_for("u.user"), Ignored)
    assert source.spec_for("v.data") is None
