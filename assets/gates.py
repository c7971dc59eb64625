"""Blocking checks that block across runs.

Dagster stops what lies downstream of a failed blocking check inside the *same* run. A later run, a backfill
or a hand-started step would go on with the bad data. Steps call `require_passed` first, and so do not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cached_property

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
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

    Asked are the checks of the upstream assets, and of what these were made from inside the same step (a dbt
    build is one). What counts is each day's newest verdict, for every day that this step builds on: the same
    days, or all those that a partition mapping leads to. A check that was planned, but never gave its verdict
    on what its run materialised, has not passed either.

    Args:
        context: of the running step.
        keys: the upstream assets to ask about; all direct upstream assets where none is named.

    Raises:
        dagster.Failure: names every check that did not pass, its days, its run and the next step. Not
            retried, since the data will not get better by waiting.
    """
    gate = _Gate(context)
    upstream = [dg.AssetKey.from_coercible(key) for key in keys] or gate.direct_upstream
    objections = [
        objection
        for asset, wanted in sorted(gate.asked(upstream).items())
        for check in sorted(gate.graph.get_check_keys_for_assets({asset}), key=str)
        if gate.graph.get(check).blocking
        for objection in gate.objections(check, wanted)
    ]
    if objections:
        raise dg.Failure(
            description="This step does not run on rejected data. " + " ".join(objections),
            metadata={"rejected_by": dg.MetadataValue.json(objections)},
            allow_retries=False,
        )


Days = frozenset[str] | None
"""Partition keys; None where an asset has no partitions, or the step none."""


@dataclass
class _Gate:
    context: dg.AssetExecutionContext

    def __post_init__(self) -> None:
        self._runs: dict[str, dg.DagsterRun | None] = {}

    @cached_property
    def graph(self) -> AssetGraph:
        """The graph of the code location: a job's own graph leaves out what the job does not run."""
        graph = self.context.job_def.asset_layer.asset_graph
        return graph.source_asset_graph if isinstance(graph, JobScopedAssetGraph) else graph

    @cached_property
    def direct_upstream(self) -> list[dg.AssetKey]:
        own = self.context.assets_def
        return sorted({key for asset in own.keys for key in own.asset_deps[asset]} - set(own.keys))

    def asked(self, upstream: list[dg.AssetKey]) -> dict[dg.AssetKey, Days]:
        """Assets whose checks count, with the days that count of each."""
        found: dict[dg.AssetKey, Days] = {}
        for key in upstream:
            wanted = self._days_built_on(key)
            for asset in (key, *self._inside_the_same_step(key)):
                before = found.get(asset, frozenset())
                found[asset] = None if wanted is None or before is None else before | wanted
        return found

    def objections(self, check: dg.AssetCheckKey, wanted: Days) -> Iterator[str]:
        """Why `check` forbids this step, in words; nothing where it does not."""
        undecided = wanted
        for record in self._history(check):
            days = self._covered(record, undecided)
            if days is not None and not days:
                continue
            if record.status is AssetCheckExecutionRecordStatus.PLANNED:
                if not self._left_without_verdict(record, days):
                    continue
                yield _sentence(check, record, days, "never gave its verdict")
            elif (verdict := record.evaluation) and _rejects(verdict):
                yield _sentence(check, record, days, "failed", verdict.description)
            if undecided is None or days is None:
                return
            undecided = undecided - days
            if not undecided:
                return

    def _inside_the_same_step(self, key: dg.AssetKey) -> set[dg.AssetKey]:
        """Ancestors of `key` that its own step makes too, and so judges."""
        step = self.graph.get(key).assets_def.keys if self.graph.has(key) else {key}
        return set(self.graph.get_ancestor_asset_keys(key) & step) if len(step) > 1 else set()

    def _days_built_on(self, upstream: dg.AssetKey) -> Days:
        if self.graph.get(upstream).partitions_def is None:
            return None
        if not (self.context.has_partition_key or self.context.has_partition_key_range):
            return None
        window = self.context.partition_key_range
        mapping = self.context.assets_def.get_partition_mapping(upstream)
        back, forth = (
            (int(mapping.start_offset), int(mapping.end_offset))
            if isinstance(mapping, dg.TimeWindowPartitionMapping)
            else (0, 0)
        )
        first = date.fromisoformat(window.start) + timedelta(days=back)
        last = date.fromisoformat(window.end) + timedelta(days=forth)
        return frozenset((first + timedelta(days=n)).isoformat() for n in range((last - first).days + 1))

    def _history(self, check: dg.AssetCheckKey) -> Iterator[AssetCheckExecutionRecord]:
        """What is on record, newest first, this run's own open checks left out."""
        storage, cursor = self.context.instance.event_log_storage, None
        for page in PAGES:
            records = storage.get_asset_check_execution_history(check, limit=page, cursor=cursor)
            for record in records:
                planned = record.status is AssetCheckExecutionRecordStatus.PLANNED
                if not (planned and record.run_id == self.context.run_id):
                    yield record
            if len(records) < page:
                return
            cursor = records[-1].id

    def _covered(self, record: AssetCheckExecutionRecord, wanted: Days) -> Days:
        """Those of `wanted` that a record speaks of.

        It names its day itself, or its run does: checks without partitions run in partitioned runs.
        """
        if wanted is None:
            return None
        if record.partition is not None:
            return wanted & {record.partition}
        run = self._run(record.run_id)
        tags = run.tags if run else {}
        first = tags.get(ASSET_PARTITION_RANGE_START_TAG) or tags.get(PARTITION_NAME_TAG)
        last = tags.get(ASSET_PARTITION_RANGE_END_TAG) or first
        return wanted if first is None or last is None else frozenset(d for d in wanted if first <= d <= last)

    def _left_without_verdict(self, record: AssetCheckExecutionRecord, days: Days) -> bool:
        """The run is over, and what it materialised is still what lies there, unchecked."""
        run = self._run(record.run_id)
        if run is None or not run.is_finished:
            return False
        return any(
            self._last_materialised(record.key.asset_key, day) == record.run_id for day in days or [None]
        )

    def _last_materialised(self, asset: dg.AssetKey, day: str | None) -> str | None:
        """The run that did it."""
        wanted = dg.AssetRecordsFilter(asset_key=asset, asset_partitions=[day] if day else None)
        newest = self.context.instance.fetch_materializations(wanted, limit=1).records
        return newest[0].run_id if newest else None

    def _run(self, run_id: str) -> dg.DagsterRun | None:
        if run_id not in self._runs:
            self._runs[run_id] = self.context.instance.get_run_by_id(run_id)
        return self._runs[run_id]


def _rejects(verdict: AssetCheckEvaluation) -> bool:
    return not verdict.passed and verdict.severity is dg.AssetCheckSeverity.ERROR


def _sentence(
    check: dg.AssetCheckKey,
    record: AssetCheckExecutionRecord,
    days: Collection[str] | None,
    what: str,
    why: str | None = None,
) -> str:
    when = f" for {min(days)}" + (f" to {max(days)}" if len(days) > 1 else "") if days else ""
    because = f" ({why.strip().rstrip('.')})" if why else ""
    asset = check.asset_key.to_user_string()
    return (
        f"The blocking check {check.name} of {asset} {what}{when} in run {record.run_id[:8]}{because}. "
        f"Put the cause right, materialise {asset}{when} again so that the check passes, "
        "then run this step again."
    )
