"""Real instances, each with a storage of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from resources.home import Home
from tests.orchestration.shops import LAST, nightshelf, small_shop


@pytest.fixture(scope="session")
def empty_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SQLite storage of an instance on which nothing has happened."""
    storage = tmp_path_factory.mktemp("dagster")
    with dg.DagsterInstance.local_temp(str(storage)) as instance:
        assert not instance.all_instigator_state()  # asking makes the last of the tables
    return storage


@pytest.fixture
def instance(empty_storage: Path, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance with SQLite storage in a folder that goes away; copied, for to make it takes longer
    than most tests.
    """
    storage = tmp_path / "dagster"
    shutil.copytree(empty_storage, storage)
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
