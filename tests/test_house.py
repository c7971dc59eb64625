"""The rules of the house: which way imports run, what definitions load, what every asset says of itself."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from orchestration.definitions import defs
from orchestration.instance import POOL_LIMITS
from resources.io_manager import NoPickle

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "transformers", "pandas", "sklearn", "scipy", "matplotlib", "duckdb", "pyarrow", "numpy")


def python(code: str) -> str:
    """What `code` prints in a fresh interpreter that stands in the repository's root."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_imports_run_one_way() -> None:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_folder_dbt_does_not_hide_the_package_dbt() -> None:
    assert not (ROOT / "dbt" / "__init__.py").exists()
    assert "site-packages" in python("import dbt.cli.main; print(dbt.cli.main.__file__)")


def test_definitions_load_nothing_heavy() -> None:
    loaded = json.loads(
        python("import orchestration.definitions, json, sys; print(json.dumps(sorted(sys.modules)))")
    )
    assert "dagster_dbt" in loaded
    assert [name for name in HEAVY if name in loaded] == []


WORKER = """
from assets.model.train import main
try:
    main(["--nonesuch"])
except SystemExit:
    import assets.model.training
"""


@pytest.mark.parametrize("loading", ["import orchestration.definitions", WORKER])
def test_loading_never_looks_through_all_objects_for_garbage(loading: str) -> None:
    count = "gc.get_stats()[2]['collections']"
    code = f"import gc; before = {count}\n{loading}\nprint({count} - before, len(gc.get_objects()))"
    collections, objects = map(int, python(code).split())
    assert objects > 100_000
    assert collections == 0


def test_the_command_line_loads_nothing_before_it_is_asked_to() -> None:
    loaded = json.loads(python("import orchestration.cli, json, sys; print(json.dumps(sorted(sys.modules)))"))
    assert [name for name in (*HEAVY, "dagster", "rich.table") if name in loaded] == []


def test_the_default_io_manager_pickles_nothing() -> None:
    repository = defs.get_repository_def()
    for job in repository.get_all_jobs():
        with dg.build_resources({"io_manager": job.resource_defs["io_manager"]}) as resources:
            assert isinstance(resources.io_manager, NoPickle), job.name


def sources() -> list[Path]:
    return [file for room in ("orchestration", "assets", "resources") for file in (ROOT / room).rglob("*.py")]


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_nobody_pickles(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = {
        name.name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for name in node.names
    } | {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {"pickle", "cloudpickle", "joblib", "dill", "shelve"}
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not calls & {"torch.load", "torch.save", "np.load", "numpy.load"}


GRAPH = defs.resolve_asset_graph()


@pytest.mark.parametrize("key", sorted(GRAPH.materializable_asset_keys), ids=lambda key: key.to_user_string())
def test_every_asset_says_what_it_is_and_whose(key) -> None:  # type: ignore[no-untyped-def]
    node = GRAPH.get(key)
    assert node.description and len(node.description.split()) >= 3
    assert node.group_name in ("logs", "warehouse", "model", "recommendations")
    assert set(node.owners) <= {"team:data", "team:ml"} and node.owners
    assert node.kinds


def test_every_pool_has_a_limit() -> None:
    pools = {pool for key in GRAPH.materializable_asset_keys for pool in (GRAPH.get(key).pools or ())}
    assert pools == set(POOL_LIMITS)
