"""A home and a Dagster instance of their own for the tests: never the developer's."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

from resources.home import Home, Shop
from tests.servers import mail, safe_mail, web

if TYPE_CHECKING:
    import dagster as dg

__all__ = ["mail", "safe_mail", "web"]

# Set before anything is imported, since the partitions take their first day from the home's shop.yaml.
_ROOT = tempfile.TemporaryDirectory(prefix="nightshelf-tests-")
os.environ["NIGHTSHELF_HOME"] = str(Path(_ROOT.name) / "home")
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"
os.environ.pop("DAGSTER_HOME", None)
# Two workers share the cores, and what tests compute is small: more threads would only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Machines that test are noisy: how long an example takes says nothing.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

SHARED = {
    **dict.fromkeys(("test_backtest.py", "test_chain.py", "test_ui.py"), "shop"),
    "warehouse": "weekend",
}
"""Files and folders that share what is dear to make."""


class Sharing(LoadScopeScheduling):
    """Tests that share something dear go to one worker, the largest group first; the others wherever there is
    room. xdist's own groups have no effect with pytest 9.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        return SHARED.get(file.name) or SHARED.get(file.parent.name) or nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sharing:
    """Where several workers share the tests."""
    return Sharing(config, log)


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """A process of ours says in its environment which home it works on, and keeps it; one that runs many
    tests must not. Nor does a test leave it in another folder.
    """
    with mock.patch.dict(os.environ):
        yield
    assert Path.cwd() == request.config.invocation_params.dir


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home folder of this test's own, in the environment, with the default shop's days."""
    found = Home(tmp_path / "home")
    found.write_shop(Shop(first_day=date(2026, 1, 5), first_night=date(2026, 1, 12)))
    monkeypatch.setenv("NIGHTSHELF_HOME", str(found.root))
    yield found


@pytest.fixture(scope="session")
def empty_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SQLite storage of an instance on which nothing has happened."""
    import dagster as dg

    storage = tmp_path_factory.mktemp("dagster")
    with dg.DagsterInstance.local_temp(str(storage)) as instance:
        assert not instance.all_instigator_state()  # asking makes the last of the tables
    return storage


@pytest.fixture
def instance(empty_storage: Path, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance with SQLite storage in a folder that goes away; copied, for to make it takes longer
    than most tests.
    """
    import dagster as dg

    storage = tmp_path / "dagster"
    shutil.copytree(empty_storage, storage)
    with dg.DagsterInstance.local_temp(str(storage)) as found:
        yield found
