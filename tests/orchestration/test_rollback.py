"""`nightshelf rollback`: one command back to the model before."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pytest

from resources.home import Home
from resources.model_store import ModelStore
from tests.orchestration.test_cli import refused, say

DAY = date(2026, 1, 20)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A shop that is set up, without any model."""
    monkeypatch.setenv("NIGHTSHELF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", "")
    say("init", "--first-day", "2026-01-05")
    return Home(tmp_path / "home")


def champions(home: Home, nights: int) -> list[str]:
    store, versions = ModelStore(home), []
    for n in range(nights):
        with store.stage() as folder:
            (folder / "recommender.json").write_text(f'{{"night": {n}}}')
            versions.append(store.seal(folder, DAY + timedelta(n)))
        store.promote(DAY + timedelta(n), versions[-1], True, ["better"])
    return versions


def test_one_command_puts_the_model_before_back_and_says_what_is_next(place: Home) -> None:
    old, new = champions(place, 2)
    text = " ".join(say("rollback", "--reason", "too many lamps").split())
    assert f"{old} serves from the night of 2026-01-21 on, instead of {new}" in text
    assert "Next: nightshelf night 2026-01-21" in text and "nightshelf undo" in text
    assert ModelStore(place).champion().version == old
    status = " ".join(say("status").split())
    assert (
        f"{old}, as of the night of 2026-01-21, put back by hand instead of {new}: too many lamps" in status
    )
    say("rollback", new)
    assert ModelStore(place).champion().version == new


def test_what_cannot_be_put_back_is_one_message(place: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing to go back from" in refused(capsys, "rollback")
    only, *_ = champions(place, 1)
    assert f"no older model served before {only}" in refused(capsys, "rollback")
    assert f"there are: {only}" in refused(capsys, "rollback", "2025-01-01-abcdef01")
    old, new = champions(place, 2)
    (place.models / old / "recommender.json").write_text("forged")
    assert "recommender.json was changed after sealing" in refused(capsys, "rollback")
    assert ModelStore(place).champion().version == new
