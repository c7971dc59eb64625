"""Blocking checks that block across runs.

Dagster stops what lies downstream of a failed blocking check inside the *same* run. A later run, a backfill
or a hand-started step would go on with the bad data. Steps call `require_passed` first, and so do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta

import dagster as dg
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph
from dagster._core.definitions.assets.job.asset_job import JobScopedAssetGraph
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecord,
    AssetCheckExecutionRecordStatus,
)
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

PAGES = (5, 50, 500)
"""Evaluations looked through per check, step by step: the newest is nearly always the one, and all of them
together are more than a year of nights."""


def require_passed(context: dg.AssetExecutionContext, *keys: dg.CoercibleToAssetKey) -> None:
    """Refuse to run on data that a blocking check has rejected, in whichever run that was.

    The verdict that counts for an upstream asset is its newest one for the days this step builds on: the same
    days, or the days that a fixed partition mapping leads to (of a look-back window, its last day). A check
    that was planned, but never gave its verdict on what its run materialised, has not passed either.

    Args:
        context: of the running step.
        keys: the upstream assets to ask about; all direct upstream assets where none is named.

    Raises:
        dagster.Failure: names every check that did not pass, its run and the next step. Not retried, since
            the data will not get better by waiting.
    """
    graph = _whole_graph(context)
    upstream = [dg.AssetKey.from_coercible(key) for key in keys] or _upstream(context)
    objections = [
        objection
        for check in sorted(graph.get_check_keys_for_assets(set(upstream)), key=str)
        if graph.get(check).blocking
        for objection in [_objection(context, graph, check)]
        if objection
    ]
    if objections:
        raise dg.Failure(
            description="This step does not run on rejected data. " + " ".join(objections),
            metadata={"rejected_by": dg.MetadataValue.json(objections)},
            allow_retries=False,
        )


def _whole_graph(context: dg.AssetExecutionContext) -> AssetGraph:
    """The graph of the code location: a job's own graph leaves out what the job does not run."""
    graph = context.job_def.asset_layer.asset_graph
    return graph.source_asset_graph if isinstance(graph, JobScopedAssetGraph) else graph


def _upstream(context: dg.AssetExecutionContext) -> list[dg.AssetKey]:
    own = context.assets_def
    found = {key for asset in own.keys for key in own.asset_deps[asset]} - set(own.keys)
    return sorted(found)


def _objection(context: dg.AssetExecutionContext, graph: AssetGraph, check: dg.AssetCheckKey) -> str | None:
    """Why `check` forbids this step, in words; None where it does not."""
    wanted = _days_built_on(context, graph, check.asset_key)
    for record in _history(context, check, wanted):
        if record.status is AssetCheckExecutionRecordStatus.PLANNED:
            if _left_without_verdict(context, record, wanted):
                return _sentence(check, record, wanted, "never gave its verdict")
            continue
        verdict = record.evaluation
        if verdict is None or verdict.passed or verdict.severity is not dg.AssetCheckSeverity.ERROR:
            return None
        return _sentence(check, record, wanted, "failed", verdict.description)
    return None


def _sentence(
    check: dg.AssetCheckKey,
    record: AssetCheckExecutionRecord,
    wanted: Sequence[str] | None,
    what: str,
    why: str | None = None,
) -> str:
    days = f" for {wanted[0]}" + (f" to {wanted[-1]}" if len(wanted) > 1 else "") if wanted else ""
    because = f" ({why.strip().rstrip('.')})" if why else ""
    asset = check.asset_key.to_user_string()
    return (
        f"The blocking check {check.name} of {asset} {what}{days} in run {record.run_id[:8]}{because}. "
        f"Put the cause right, materialise {asset}{days} again so that the check passes, "
        "then run this step again."
    )


def _days_built_on(
    context: dg.AssetExecutionContext, graph: AssetGraph, upstream: dg.AssetKey
) -> list[str] | None:
    """Partition keys of `upstream` whose verdict counts here; None where it, or this step, has none."""
    if graph.get(upstream).partitions_def is None:
        return None
    if not (context.has_partition_key or context.has_partition_key_range):
        return None
    window = context.partition_key_range
    mapping = context.assets_def.get_partition_mapping(upstream)
    shift = mapping.end_offset if isinstance(mapping, dg.TimeWindowPartitionMapping) else 0
    first, last = date.fromisoformat(window.start), date.fromisoformat(window.end)
    return [(first + timedelta(days=n + int(shift))).isoformat() for n in range((last - first).days + 1)]


def _history(
    context: dg.AssetExecutionContext, check: dg.AssetCheckKey, wanted: Sequence[str] | None
) -> Iterator[AssetCheckExecutionRecord]:
    """What is on record about the wanted days, newest first, this run's own open checks left out."""
    storage, cursor = context.instance.event_log_storage, None
    for page in PAGES:
        records = storage.get_asset_check_execution_history(check, limit=page, cursor=cursor)
        for record in records:
            open_here = (
                record.run_id == context.run_id and record.status is AssetCheckExecutionRecordStatus.PLANNED
            )
            if not open_here and _covers(context.instance, record, wanted):
                yield record
        if len(records) < page:
            return
        cursor = records[-1].id


def _covers(
    instance: dg.DagsterInstance, record: AssetCheckExecutionRecord, wanted: Sequence[str] | None
) -> bool:
    """A record names its day itself, or its run does: checks without partitions run in partitioned runs."""
    if wanted is None:
        return True
    if record.partition is not None:
        return record.partition in wanted
    run = instance.get_run_by_id(record.run_id)
    tags = run.tags if run else {}
    first = tags.get(ASSET_PARTITION_RANGE_START_TAG) or tags.get(PARTITION_NAME_TAG)
    last = tags.get(ASSET_PARTITION_RANGE_END_TAG) or first
    return first is None or last is None or any(first <= day <= last for day in wanted)


def _left_without_verdict(
    context: dg.AssetExecutionContext, record: AssetCheckExecutionRecord, wanted: Sequence[str] | None
) -> bool:
    """The run is over, and what it materialised is still what lies there, unchecked."""
    run = context.instance.get_run_by_id(record.run_id)
    if run is None or not run.is_finished:
        return False
    newest = context.instance.fetch_materializations(
        dg.AssetRecordsFilter(
            asset_key=record.key.asset_key, asset_partitions=list(wanted) if wanted else None
        ),
        limit=1,
    ).records
    return bool(newest) and newest[0].run_id == record.run_id
