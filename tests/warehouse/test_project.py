"""The dbt project itself: what it says of its tables, and its manifest."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from assets.warehouse.project import (
    DBT,
    DbtError,
    build_args,
    keep_parsed,
    manifest,
    run_dbt,
    take_parsed,
    window,
)
from resources.home import Home, Shop
from tests.warehouse.raw_rows import dbt, query


@pytest.fixture(scope="module")
def nodes() -> dict[str, Any]:
    return json.loads(manifest().read_text())


def test_every_table_says_what_a_row_is(nodes: dict[str, Any]) -> None:
    tables = [*nodes["nodes"].values(), *nodes["sources"].values()]
    described = {
        t["name"]: t["description"] for t in tables if t["resource_type"] in ("model", "seed", "source")
    }
    assert len(described) > 25
    assert [name for name, text in described.items() if not text.startswith("One row per ")] == []


def test_every_column_that_is_there_is_described(nodes: dict[str, Any], weekend: Home) -> None:
    told = {
        (node["schema"], node["name"], column["name"])
        for node in [*nodes["nodes"].values(), *nodes["sources"].values()]
        for column in node["columns"].values()
        if column["description"]
    }
    there = query(weekend, "select table_schema, table_name, column_name from information_schema.columns")
    assert sorted(set(there) ^ told) == []


def test_labels_and_marts_have_contracts_and_an_owner(nodes: dict[str, Any]) -> None:
    for node in nodes["nodes"].values():
        if node["resource_type"] == "model":
            final = node["schema"] in ("labels", "marts")
            assert node["config"]["contract"]["enforced"] is final, node["name"]
            assert node["config"]["access"] == ("public" if final else "private"), node["name"]
            assert node["group"] == "warehouse"


def test_every_table_with_a_grain_is_held_to_it(nodes: dict[str, Any]) -> None:
    tested = {
        node["attached_node"].split(".")[-1]
        for node in nodes["nodes"].values()
        if node["resource_type"] == "test"
        and node.get("test_metadata", {}).get("name") in ("unique_together", "unique")
    }
    tables = {
        node["name"]
        for node in nodes["nodes"].values()
        if node["config"].get("materialized") == "incremental" and node["name"] != "int_events__flagged"
    }
    # Two take their rows one for one: int_events__flagged from the raw zone, lbl_next_item from its events.
    assert tables - tested == {"lbl_next_item"}


def test_a_window_of_days_is_one_run_without_unit_tests(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.write_shop(Shop(timezone="Asia/Shanghai"))
    args = build_args()
    assert args[0] == "build"
    assert args[args.index("--exclude-resource-type") + 1] == "unit_test"
    assert window(home, date(2026, 1, 5), date(2026, 4, 4)) == {
        "NIGHTSHELF_MIN_DAY": "2026-01-05",
        "NIGHTSHELF_MAX_DAY": "2026-04-04",
        "NIGHTSHELF_TIMEZONE": "Asia/Shanghai",
    }


def test_another_window_of_the_same_home_does_not_have_dbt_parse_again(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.write_shop(Shop())
    for day in (date(2026, 1, 5), date(2026, 1, 6)):
        target = tmp_path / f"dbt-{day}"
        take_parsed(home, target)
        said = run_dbt(["compile", "--log-level", "debug"], home, target=target, more=window(home, day, day))
        keep_parsed(home, target)
    assert "Partial parsing enabled, no changes found, skipping parsing" in said, said[:3000]
    compiled = [file.read_text() for file in (target / "compiled").rglob("*.sql")]
    assert any("2026-01-06" in sql for sql in compiled)
    assert not any("2026-01-05" in sql for sql in compiled)


def test_the_manifest_is_that_of_the_sql_as_it_is(tmp_path: Path) -> None:
    project = tmp_path / "dbt"
    shutil.copytree(DBT, project, ignore=shutil.ignore_patterns("target", "logs"))
    with ThreadPoolExecutor(2) as both:
        first, second = both.map(manifest, [project, project])
    assert first == second == project / "target" / "manifest.json"
    made = first.stat().st_mtime_ns
    manifest(project)
    assert first.stat().st_mtime_ns == made, "parsed again, and nothing had changed"

    model = project / "models" / "marts" / "dim_users.yml"
    model.write_text(model.read_text().replace("One row per shopper", "One row per soul"))
    nodes = json.loads(manifest(project).read_text())["nodes"]
    assert nodes["model.nightshelf.dim_users"]["description"].startswith("One row per soul")
    assert sorted(p.name for p in (project / "target").iterdir()) == [
        "manifest.json",
        "manifest.lock",
        "manifest.sources",
        "partial_parse.msgpack",
    ]


def test_sql_that_cannot_be_parsed_is_named(tmp_path: Path) -> None:
    project = tmp_path / "dbt"
    shutil.copytree(DBT, project, ignore=shutil.ignore_patterns("target", "logs"))
    (project / "models" / "marts" / "dim_users.sql").write_text("select * from {{ ref('nowhere') }}")
    with pytest.raises(DbtError, match=r"dim_users.*nowhere"):
        manifest(project)


def test_dedupe_sessions_labels_and_the_days_of_clock_changes_hold_on_small_tables(weekend: Home) -> None:
    """The unit tests in the project's own YAML, whatever window is asked for."""
    days = {"min_day": "2026-03-28", "max_day": "2026-03-28"}
    told = dbt(weekend, "test", None, None, "--select", "test_type:unit", **days)
    assert "PASS=16 WARN=0 ERROR=0 SKIP=0" in told  # fourteen of them, and the two hooks at the start
