"""The home folder and the shop's decisions in `shop.yaml`."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.home import Home, Shop, ShopError


def test_a_shop_survives_being_written_and_read(tmp_path: Path) -> None:
    shop = Shop(
        name="鞋店", timezone="Asia/Shanghai", first_day=date(2025, 11, 1), values={"purchase": "price"}
    )
    Home(tmp_path).write_shop(shop)
    assert Home(tmp_path).shop == shop


def test_without_a_file_the_defaults_hold(tmp_path: Path) -> None:
    assert Home(tmp_path / "nowhere").shop == Shop()


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("timezone: Mars/Olympus\n", "timezone"),
        ("shelf_size: 0\n", "shelf_size"),
        ("colour: red\n", "colour: no such field"),
        ("values: {purchase: margin}\n", "values.purchase"),
        ("name: x\nvalues:\n  click: -1\n", "shop.yaml:3: values.click: must be"),
        ("values: {browse: .nan}\n", "values.browse"),
        ("currency: euro\n", "currency"),
        ("name: x\nshelf_size: 5\nname: y\n", ":3: not valid YAML: name is there twice"),
        ("executor: slurm\n", "executor"),
        ("training: {devices: -1}\n", "training.devices"),
        ("training: {tolerations: [{effect: Never}]}\n", "training.tolerations.0.effect"),
        ("rules: {diversity: 2}\n", "rules.diversity"),
        ("rules: {most_per_brand: 0}\n", "rules.most_per_brand"),
        ("rules: {bought_again: {Lamps: soon}}\n", "rules.bought_again.Lamps"),
        ("first_day: 2026-01-05\nfirst_night: 2026-01-05\n", "first_night"),
        ("first_day: 2026-01-05\nlast_day: 2026-01-06\n", "last_day"),
        ("timezone: [\n", "not valid YAML"),
        ("name: x\nfirst_day: 2026-13-01\n", ":2: not valid YAML: 2026-13-01 cannot be read as timestamp"),
        ("- a list\n", "shop"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(tmp_path: Path, text: str, names: str) -> None:
    (tmp_path / "shop.yaml").write_text(text)
    with pytest.raises(ShopError, match=r"shop\.yaml") as caught:
        _ = Home(tmp_path).shop
    assert names in str(caught.value)


def test_a_number_is_one_however_yaml_reads_it(tmp_path: Path) -> None:
    """YAML 1.1 takes 5e-2, without a dot, for a word."""
    (tmp_path / "shop.yaml").write_text("values: {browse: 5e-2, click: 1, purchase: price}\n")
    values = Home(tmp_path).shop.values
    assert (values.browse, values.click, values.purchase) == (0.05, 1, "price")


def test_a_shop_file_that_is_no_utf8_is_told(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_bytes("timezone: UTC\nname: Tür\n".encode("latin-1"))
    with pytest.raises(ShopError, match=r"shop\.yaml:2: not UTF-8 text"):
        _ = Home(tmp_path).shop


@given(st.dates(date(2000, 1, 1), date(2100, 1, 1)))
def test_a_model_has_days_to_learn_from(first_day: date) -> None:
    shop = Shop(first_day=first_day)
    assert shop.first_night is not None
    assert (shop.first_night - first_day).days >= 2


def test_the_first_night_follows_the_first_day_unless_it_was_chosen(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.write_shop(Shop(first_day=date(2026, 3, 10)))
    home.shop_file.write_text(home.shop_file.read_text().replace("2026-03-10", "2026-01-10"))
    assert Home(tmp_path).shop.first_night == date(2026, 1, 17)
    chosen = Shop(first_day=date(2026, 1, 10), first_night=date(2026, 2, 1))
    home.write_shop(chosen)
    assert Home(tmp_path).shop == chosen


def test_the_environment_names_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHELF_HOME", str(tmp_path / "elsewhere"))
    assert Home.current().root == tmp_path / "elsewhere"
