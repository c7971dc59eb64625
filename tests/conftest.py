"""A home of their own for the tests: never the developer's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import pytest

from resources.home import Home, Shop
from tests.servers import mail, web

__all__ = ["mail", "web"]

# Set before anything is imported, since the partitions take their first day from the home's shop.yaml.
_ROOT = tempfile.TemporaryDirectory(prefix="nightshelf-tests-")
os.environ["NIGHTSHELF_HOME"] = str(Path(_ROOT.name) / "home")
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"
os.environ.pop("DAGSTER_HOME", None)
# Two workers share the cores, and what tests compute is small: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


SHARED = {
    **dict.fromkeys(("test_backtest.py", "test_chain.py", "test_ui.py"), "shop"),
    "warehouse": "weekend",
}
"""Files and folders that share what is dear to make."""


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several workers share the tests, those of a group stay with one of them, and go first."""
    for item in items:
        if group := SHARED.get(item.path.name) or SHARED.get(item.path.parent.name):
            item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home folder of this test's own, in the environment, with the default shop's days."""
    found = Home(tmp_path / "home")
    found.write_shop(Shop(first_day=date(2026, 1, 5), first_night=date(2026, 1, 12)))
    monkeypatch.setenv("NIGHTSHELF_HOME", str(found.root))
    yield found
