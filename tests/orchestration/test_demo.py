"""Which homes a demo takes for itself. What it makes of one: test_chain.py's shop, and `make demo`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from orchestration.demo import NotADemoError, _claim
from orchestration.instance import prepare_instance
from resources.home import Home, Shop
from resources.identity import IdentityKey
from resources.leases import lease_one_of

SETTINGS = {"days": 14, "seed": 7, "nights": 2}


def test_what_other_commands_leave_without_a_shop_is_in_nobodys_way(tmp_path: Path) -> None:
    """`dg list defs` makes Dagster's folder, an empty drop folder may wait, too."""
    home = Home(tmp_path)
    prepare_instance(home)
    IdentityKey.load(home)
    with lease_one_of([home.leases / "shelf.lock"]):
        pass
    home.drop.mkdir()
    first = _claim(home, **SETTINGS)
    assert home.shop.first_day == first and (home.root / "demo.json").exists()


def test_a_demo_that_was_killed_before_its_shop_was_open_can_be_repeated(tmp_path: Path) -> None:
    home = Home(tmp_path)
    first = _claim(home, **SETTINGS)
    home.shop_file.unlink()
    again = Home(tmp_path)
    assert _claim(again, **SETTINGS) == first
    assert (again.shop.first_day, again.shop.first_night) == (home.shop.first_day, home.shop.first_night)


def a_shop(home: Home) -> None:
    home.write_shop(Shop(first_day=date(2026, 1, 5)))


def a_dropped_file(home: Home) -> None:
    (home.drop / "web").mkdir(parents=True)


def a_load(home: Home) -> None:
    (home.loads / "a").mkdir(parents=True)


def a_warehouse(home: Home) -> None:
    home.warehouse.touch()


@pytest.mark.parametrize("data", [a_shop, a_dropped_file, a_load, a_warehouse])
def test_a_shop_and_its_data_are_left_alone(tmp_path: Path, data: Callable[[Home], None]) -> None:
    home = Home(tmp_path)
    data(home)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(NotADemoError, match="is in use and no demo; nothing in it was touched"):
        _claim(home, **SETTINGS)
    assert sorted(tmp_path.rglob("*")) == before
