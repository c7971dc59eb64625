"""A shop in Berlin on the weekend on which its clocks jump, built once for all tests of the tables."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import dagster as dg
import pytest

from resources.home import Home, Shop
from tests.warehouse.raw_rows import RawZone, materialize
from tests.warehouse.weekend import FIRST, LAST, fill


@pytest.fixture(scope="session")
def new_raw_zone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], RawZone]:
    """Makes a fresh home with a shop in Berlin and an empty raw zone."""

    def make() -> RawZone:
        home = Home(tmp_path_factory.mktemp("home"))
        home.write_shop(Shop(timezone="Europe/Berlin", first_day=date(2026, 3, 23)))
        return RawZone(home)

    return make


@pytest.fixture(scope="session")
def weekend_run(new_raw_zone: Callable[[], RawZone]) -> tuple[Home, dg.ExecuteInProcessResult]:
    """The weekend, materialised as one window of four nights."""
    zone = new_raw_zone()
    fill(zone)
    return zone.home, materialize(zone.home, FIRST, LAST)


@pytest.fixture(scope="session")
def weekend(weekend_run: tuple[Home, dg.ExecuteInProcessResult]) -> Home:
    home, run = weekend_run
    assert run.success
    return home


@pytest.fixture
def weekend_copy(weekend: Home, tmp_path: Path) -> Home:
    """For tests that change what is there."""
    home = Home(tmp_path / "home")
    shutil.copytree(weekend.root, home.root)
    return home
