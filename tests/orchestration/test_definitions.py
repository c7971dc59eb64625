"""The graph, the jobs and what starts them, as the UI shows them: a change of any shows here first."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest
from syrupy.assertion import SnapshotAssertion

from orchestration.definitions import defs
from orchestration.stages import stage_of_step

GRAPH = defs.resolve_asset_graph()
REPOSITORY = defs.get_repository_def()


def described(key: dg.AssetKey) -> dict[str, Any]:
    node = GRAPH.get(key)
    made = {
        "group": node.group_name,
        "partitioned": node.partitions_def is not None,
        "pools": sorted(node.pools or ()),
        "needs": sorted(parent.to_user_string() for parent in node.parent_keys),
        "checks": sorted(check.name for check in node.check_keys if GRAPH.get(check).blocking),
    }
    return {name: value for name, value in made.items() if value}


def test_the_asset_graph(snapshot: SnapshotAssertion) -> None:
    """Blocking checks only: the others change too often to be worth a look here."""
    keys = sorted(GRAPH.materializable_asset_keys)
    assert {key.to_user_string(): described(key) for key in keys} == snapshot


def test_jobs_schedules_and_sensors(snapshot: SnapshotAssertion) -> None:
    jobs = {
        job.name: {
            "makes": sorted(key.to_user_string() for key in job.asset_layer.selected_asset_keys),
            "tags": dict(job.tags),
            "partitioned": job.partitions_def is not None,
        }
        for job in REPOSITORY.get_all_jobs()
        if not job.name.startswith("__")
    }
    starts = {
        made.name: made.default_status.value for made in (*REPOSITORY.schedule_defs, *REPOSITORY.sensor_defs)
    }
    assert {"jobs": jobs, "starts": starts} == snapshot


def test_the_night_makes_everything() -> None:
    nightly = defs.resolve_job_def("nightly")
    assert nightly.asset_layer.selected_asset_keys == GRAPH.materializable_asset_keys
    assert nightly.partitions_def is not None


def test_every_step_has_a_stage() -> None:
    stages = stage_of_step()
    steps = set(defs.resolve_job_def("nightly").graph.node_names())
    assert steps <= set(stages)
    assert set(stages.values()) == {"logs", "warehouse", "model", "recommendations"}


@pytest.mark.parametrize("name", ["published_shelf", "recommendation_outcomes", "raw_behavior_events"])
def test_what_people_wait_for_has_a_deadline(name: str) -> None:
    policy = GRAPH.get(dg.AssetKey(name)).freshness_policy_or_from_metadata
    assert policy is not None and policy.deadline_cron.endswith("* * *")  # type: ignore[attr-defined]
    assert policy.timezone == "Europe/Berlin"  # type: ignore[attr-defined]


def test_sql_stages_take_a_window_in_one_run_and_models_a_day_each() -> None:
    for key in GRAPH.materializable_asset_keys:
        node = GRAPH.get(key)
        if node.partitions_def is None:
            continue
        policy = node.backfill_policy
        single = policy is not None and policy.policy_type is dg.BackfillPolicy.single_run().policy_type
        assert single == (node.group_name in ("logs", "warehouse")), key


def test_every_run_can_be_made_into_a_plan() -> None:
    for job in REPOSITORY.get_all_jobs():
        assert job.get_job_index().job_snapshot.name == job.name
