"""The model store: what is sealed is what is loaded, and every night has its verdict."""

from __future__ import annotations

import json
import tempfile
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.home import Home
from resources.model_store import BundleError, ModelStore, RollbackError, TamperedBundleError

D = date(2026, 1, 20)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(Home(tmp_path))


def sealed(store: ModelStore, day: date = D, content: str = "a") -> str:
    with store.stage() as folder:
        (folder / "encoder").mkdir()
        (folder / "encoder" / "model.safetensors").write_bytes(b"weights " + content.encode())
        (folder / "config.json").write_text(json.dumps({"content": content}))
        (folder / "README.md").write_text("# card")
        return store.seal(folder, day)


def test_a_bundle_comes_back_as_it_was_sealed(store: ModelStore) -> None:
    version = sealed(store)
    assert version.startswith("2026-01-20-")
    assert (store.path(version) / "encoder" / "model.safetensors").read_bytes() == b"weights a"
    assert store.candidate(D) == version
    assert store.versions() == [version]
    assert not any((store.folder / ".staging").iterdir())


def test_the_version_is_the_content(store: ModelStore) -> None:
    one = sealed(store)
    assert sealed(store) == one
    two = sealed(store, content="b")
    other_day = sealed(store, D + timedelta(1))
    assert len({one, two, other_day}) == 3
    assert store.candidate(D) == two
    assert sealed(store) == one
    assert store.candidate(D) == one
    assert store.versions()[-1] == other_day


@pytest.mark.parametrize("name", ["encoder/model.safetensors", "config.json", "README.md", "manifest.json"])
def test_a_changed_byte_is_refused_by_name_and_sealing_again_mends_it(store: ModelStore, name: str) -> None:
    version = sealed(store)
    file = store.path(version) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(TamperedBundleError, match=name):
        store.path(version)
    assert sealed(store) == version
    assert store.path(version)


def test_a_rewritten_manifest_does_not_help_a_forger(store: ModelStore) -> None:
    version = sealed(store)
    folder = store.path(version)
    with store.stage() as forged:
        (forged / "config.json").write_text("{}")
        other = store.path(store.seal(forged, D))
    (folder / "manifest.json").write_bytes((other / "manifest.json").read_bytes())
    with pytest.raises(TamperedBundleError, match=r"manifest\.json is not the one"):
        store.path(version)


def test_missing_and_added_files_are_refused(store: ModelStore) -> None:
    version = sealed(store)
    folder = store.path(version)
    (folder / "extra.json").write_text("{}")
    with pytest.raises(TamperedBundleError, match=r"extra\.json was added"):
        store.path(version)
    (folder / "extra.json").unlink()
    (folder / "README.md").unlink()
    with pytest.raises(TamperedBundleError, match=r"README\.md is missing"):
        store.path(version)
    with pytest.raises(FileNotFoundError, match=f"it holds {version}"):
        store.path("2026-01-01-00000000")
    with pytest.raises(FileNotFoundError, match="materialize fine_tuned_model for 2026-02-01"):
        store.candidate(date(2026, 2, 1))


def test_a_copy_that_has_lost_its_manifest_makes_way_for_a_sound_one(store: ModelStore) -> None:
    version = sealed(store)
    (store.path(version) / "manifest.json").unlink()
    assert sealed(store) == version
    assert store.path(version).name == version


@pytest.mark.parametrize(
    "name", ["model.pkl", "pytorch_model.bin", "model.pt", "head.joblib", "vectors.npy", "run.py"]
)
def test_what_could_run_code_is_refused(store: ModelStore, name: str) -> None:
    with store.stage() as folder:
        (folder / name).write_bytes(b"x")
        with pytest.raises(BundleError, match=name):
            store.seal(folder, D)
    version = sealed(store)
    (store.path(version) / name).write_bytes(b"x")
    with pytest.raises(TamperedBundleError, match=name):
        store.path(version)


def test_links_and_nothing_are_refused(store: ModelStore, tmp_path: Path) -> None:
    with store.stage() as folder:
        with pytest.raises(BundleError, match="empty"):
            store.seal(folder, D)
        (tmp_path / "elsewhere.json").write_text("{}")
        (folder / "link.json").symlink_to(tmp_path / "elsewhere.json")
        with pytest.raises(BundleError, match="no links"):
            store.seal(folder, D)


def test_a_training_sweeps_what_a_killed_one_left_and_nothing_of_one_at_work(store: ModelStore) -> None:
    staging = store.folder / ".staging"
    (left := staging / ".work.0123abcd.work" / "bundle").mkdir(parents=True)
    (staging / ".work.0123abcd.making").touch()
    with store.stage() as one, store.stage() as other:
        assert one.exists() and other.exists() and not left.exists()
    assert not any(staging.iterdir())


def test_nobody_serves_before_the_first_promotion(store: ModelStore) -> None:
    assert store.champion() is None
    version = sealed(store)
    assert store.promote(D, version, False, ["worse than popularity"]) is None
    assert store.champion() is None
    champion = store.promote(D, version, True, ["better"])
    assert champion == store.champion() == store.champion(D)
    assert (champion.version, champion.promoted, champion.reasons) == (version, True, ("better",))
    assert store.champion(D - timedelta(1)) is None
    assert store.champion_before(D) is None
    assert store.champion_before(D + timedelta(1)) == champion
    with pytest.raises(FileNotFoundError):
        store.promote(D, "2026-01-20-ffffffff", True, [])


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=12))
def test_the_champion_is_the_last_candidate_promoted(verdicts: list[tuple[int, bool]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = ModelStore(Home(Path(folder)))
        version = {n: sealed(store, D + timedelta(n)) for n, _ in verdicts}
        for n, promoted in sorted(verdicts):  # nights in order; a night done again is judged again
            store.promote(D + timedelta(n), version[n], promoted, [])
        last = dict(sorted(verdicts))
        for asked in range(6):
            expected = [version[n] for n, promoted in sorted(last.items()) if promoted and n <= asked]
            champion = store.champion(D + timedelta(asked))
            assert (champion.version if champion else None) == (expected[-1] if expected else None)


def promoted(store: ModelStore, nights: int) -> list[str]:
    """A champion for each of so many nights from `D` on."""
    versions = [sealed(store, D + timedelta(n)) for n in range(nights)]
    for n, version in enumerate(versions):
        store.promote(D + timedelta(n), version, True, [f"better on night {n}"])
    return versions


def test_a_rollback_puts_the_model_before_back_from_the_newest_night_on(store: ModelStore) -> None:
    first, second, third = promoted(store, 3)
    done = store.roll_back(reason="too many lamps")
    assert (done.version, done.instead_of, done.day) == (second, third, D + timedelta(2))
    now = store.champion()
    assert (now.version, now.promoted, now.candidate) == (second, False, third)
    assert "too many lamps" in now.reasons[0] and now.reasons[1] == "better on night 2"
    assert store.champion(D + timedelta(1)).version == second  # and earlier nights keep theirs
    assert store.champion(D).version == first
    assert store.champion(D + timedelta(1)).rollback is None


def test_rolling_back_again_goes_back_a_model_at_a_time_until_there_is_none(store: ModelStore) -> None:
    first, second, third = promoted(store, 3)
    assert [store.roll_back().version for _ in range(2)] == [second, first]
    with pytest.raises(RollbackError, match=rf"no older model served before {first}.*{third}"):
        store.roll_back()
    assert store.roll_back(third).instead_of == first  # and forward again, by name
    assert store.champion().version == third and store.champion().promoted
    assert [done.version for done in store.rollbacks(D + timedelta(2))] == [second, first, third]


def test_nights_in_which_the_incumbent_stayed_are_passed_over(store: ModelStore) -> None:
    first, second = promoted(store, 2)
    for n in (2, 3):
        store.promote(D + timedelta(n), sealed(store, D + timedelta(n)), False, ["worse"])
    assert store.champion().version == second
    assert store.roll_back().version == first


def test_judging_the_night_again_does_not_undo_a_rollback_and_the_next_candidate_does(
    store: ModelStore,
) -> None:
    _, second, third = promoted(store, 3)
    store.roll_back()
    again = store.promote(D + timedelta(2), third, True, ["better still"])
    assert (again.version, again.promoted) == (second, False)
    assert "put back by hand" in again.reasons[0] and again.reasons[1] == "better still"
    night = D + timedelta(3)
    assert store.champion_before(night).version == second  # the one that the next candidate has to beat
    refused = store.promote(night, sealed(store, night), False, ["worse"])
    assert (refused.version, refused.rollback) == (second, None)
    better = store.promote(night, sealed(store, night), True, ["better"])
    assert (better.version, better.rollback) == (store.candidate(night), None)


def test_what_cannot_be_put_back_is_said(store: ModelStore) -> None:
    with pytest.raises(RollbackError, match="no model serves yet"):
        store.roll_back()
    first, second = promoted(store, 2)
    with pytest.raises(RollbackError, match=rf"no model '2026-01-01-00000000'; there are: {first}, {second}"):
        store.roll_back("2026-01-01-00000000")
    with pytest.raises(RollbackError, match="serves already"):
        store.roll_back(second)
    ahead = sealed(store, D + timedelta(2))
    with pytest.raises(RollbackError, match="learnt from days after 2026-01-21"):
        store.roll_back(ahead)
    (store.path(first) / "config.json").write_text("{}")
    with pytest.raises(TamperedBundleError, match=r"config\.json was changed"):
        store.roll_back()
    assert store.champion().version == second and store.rollbacks(D + timedelta(1)) == []
