"""A small shop, made once."""

from __future__ import annotations

import shutil

import pytest

from resources.home import Home
from tests.orchestration.shops import LAST, nightshelf, small_shop


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
