"""Pseudonyms and the key they are made with."""

from __future__ import annotations

import hashlib
import hmac
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.home import Home
from resources.identity import IdentityKey, IdentityKeyError, pseudonym_sql

IDS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40)


@given(IDS, st.sampled_from(["shop", "other", "shop/session"]), st.binary(min_size=32, max_size=32))
def test_a_pseudonym_is_the_keyed_hash_of_namespace_and_id(raw: str, namespace: str, key: bytes) -> None:
    digest = hmac.new(key, f"{namespace}\0{raw}".encode(), hashlib.sha256).hexdigest()
    assert IdentityKey(key).pseudonym(raw, namespace) == f"k1:{digest[:32]}"


@settings(max_examples=30)
@given(
    st.lists(IDS, max_size=20),
    st.sampled_from(["shop", "it's", "shop/session"]),
    st.binary(min_size=32, max_size=32),
)
def test_sql_makes_the_same_pseudonyms_and_no_statement_after_the_first_holds_the_key(
    ids: list[str], namespace: str, secret: bytes
) -> None:
    key = IdentityKey(secret)
    ids = [raw.replace("\0", "0") for raw in ids]  # no text that DuckDB reads from a file has it
    with duckdb.connect() as db:
        key.give_to(db)
        made = db.execute(
            f"SELECT {pseudonym_sql('id', namespace)} FROM (SELECT unnest(CAST($1 AS VARCHAR[])) AS id)",
            [ids],
        ).fetchall()
    assert [one for (one,) in made] == [key.pseudonym(raw, namespace) for raw in ids]
    assert key.hex not in pseudonym_sql("id", namespace)


@given(st.lists(IDS, unique=True, max_size=50))
def test_different_people_have_different_pseudonyms(ids: list[str]) -> None:
    key = IdentityKey(bytes(32))
    here, elsewhere = ({key.pseudonym(raw, where) for raw in ids} for where in ("shop", "elsewhere"))
    assert len(here) == len(elsewhere) == len(ids)
    assert not here & elsewhere


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = IdentityKey.load(home)
    assert IdentityKey.load(home).hex == first.hex
    (file,) = home.keys.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.keys.stat().st_mode) == 0o700
    assert first.hex not in repr(first)


def test_many_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = {key.hex for key in pool.map(lambda _: IdentityKey.load(Home(tmp_path)), range(16))}
    assert len(keys) == 1


def test_two_shops_have_two_keys(tmp_path: Path) -> None:
    assert IdentityKey.load(Home(tmp_path / "a")).hex != IdentityKey.load(Home(tmp_path / "b")).hex


def test_a_key_that_is_gone_is_asked_for_and_not_made_anew(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = IdentityKey.load(home)
    for name in ("_schema", "0123456789abcdef"):
        (home.loads / name).mkdir(parents=True)
        (home.loads / name / "outcome.json").touch()
    (file,) = home.keys.iterdir()
    aside = file.rename(tmp_path / "backup")
    with pytest.raises(IdentityKeyError, match=r"identity\.k1.*backup.*remove .*raw"):
        IdentityKey.load(home)
    assert not list(home.keys.iterdir())
    aside.rename(file)
    assert IdentityKey.load(home).hex == first.hex


def test_an_empty_raw_zone_needs_no_old_key(tmp_path: Path) -> None:
    home = Home(tmp_path)
    (home.loads / "_schema").mkdir(parents=True)
    (home.loads / "_schema" / "outcome.json").touch()
    assert IdentityKey.load(home)


@pytest.mark.parametrize("text", ["", "not hexadecimal", "ab" * 16])
def test_a_spoilt_key_file_is_named(tmp_path: Path, text: str) -> None:
    home = Home(tmp_path)
    home.keys.mkdir()
    (home.keys / "identity.k1").write_text(text)
    with pytest.raises(IdentityKeyError, match=r"identity\.k1.*backup"):
        IdentityKey.load(home)
