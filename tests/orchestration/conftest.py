"""Real instances, each with a storage of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from resources.home import Home
from tests.orchestration.shops import LAST, nightshelf, small_shop


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance with SQLite storage in a folder that goes away."""
    storage = tmp_path / "dagster"
    storage.mkdir()
    with dg.DagsterInstance.local_temp(str(storage)) as found:
        yield found


@pytest.fixture(scope="session")
def untouched_shop(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Logs in the drop folder, and nothing done with them."""
    return small_shop(tmp_path_factory.mktemp("untouched"))


@pytest.fixture(scope="session")
def shop(untouched_shop: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The same shop after its first night, which makes the tables of the days before."""
    home = Home(tmp_path_factory.mktemp("night") / "home")
    shutil.copytree(untouched_shop.root, home.root)
    nightshelf(home, "night", str(LAST))
    return home
