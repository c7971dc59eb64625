"""YAML that people write: read as PyYAML does, and whatever is wrong is told with file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from resources.yaml_file import YamlError, parsed

FILE = Path("some.yaml")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (b"2026-13-01", "2026-13-01 cannot be read as timestamp"),
        (b"2026-01-01T25:00:00", "cannot be read as timestamp"),
        (b"!!bool perhaps", "perhaps cannot be read as bool"),
        (b"!!timestamp soon", "soon cannot be read as timestamp"),
        (b"!!int ''", "cannot be read as int"),
        (b"1" * 5000, "cannot be read as int"),
        (b"!!python/object:os.system x", "could not determine a constructor"),
        (b"{d: 1, d: 2}", "d is there twice"),
        (b"T\xfcr", "not UTF-8 text"),
        (b"}", "expected the node content"),
    ],
)
def test_what_cannot_be_is_told_with_its_line(wrong: bytes, says: str) -> None:
    with pytest.raises(YamlError, match=r"^some\.yaml:3: ") as caught:
        parsed(FILE, b"a: 1\nb:\n  c: " + wrong + b"\n")
    assert says in str(caught.value)


def test_nesting_without_end_is_told() -> None:
    with pytest.raises(YamlError, match=r"some\.yaml: .*nested too deeply"):
        parsed(FILE, b"[" * 10_000)


@given(st.text("ab1-:.,[]{}&*!|>?#'\"\n 2026é", max_size=60))
def test_all_else_is_read_as_pyyaml_does(text: str) -> None:
    try:
        values, _ = parsed(FILE, text.encode())
    except YamlError as error:
        assert str(error).startswith("some.yaml:")
    else:
        assert repr(values) == repr(yaml.safe_load(text))
