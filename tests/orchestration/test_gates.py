"""Blocking checks block across runs, per day, until a run in which they pass."""

import re
from pathlib import Path

import dagster as dg
import pytest

from assets.gates import require_passed

days = dg.DailyPartitionsDefinition("2026-01-01", end_date="2026-02-01")
day_before = dg.TimeWindowPartitionMapping(start_offset=-1, end_offset=-1)
week = dg.TimeWindowPartitionMapping(start_offset=-6, allow_nonexistent_upstream_partitions=True)


@pytest.fixture
def bad(tmp_path: Path) -> Path:
    """Days written into this file are what the check rejects; `crash` makes it raise."""
    return tmp_path / "bad_days"


@pytest.fixture
def defs(bad: Path) -> dg.Definitions:
    @dg.asset(partitions_def=days, backfill_policy=dg.BackfillPolicy.single_run())
    def source() -> dg.MaterializeResult:
        return dg.MaterializeResult()

    @dg.asset_check(asset=source, blocking=True)
    def balanced(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        found = bad.read_text().split() if bad.exists() else []
        if "crash" in found:
            raise RuntimeError("the check itself broke")
        window = context.partition_key_range
        hit = [day for day in found if window.start <= day <= window.end]
        return dg.AssetCheckResult(passed=not hit, description=f"{len(hit)} days do not balance")

    @dg.asset_check(asset=source, blocking=False)
    def pretty() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False)

    def downstream(name: str, mapping: dg.PartitionMapping | None) -> dg.AssetsDefinition:
        @dg.asset(
            name=name,
            partitions_def=days,
            deps=[dg.AssetDep(source, partition_mapping=mapping)],
            backfill_policy=dg.BackfillPolicy.single_run(),
        )
        def made(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
            require_passed(context)
            return dg.MaterializeResult()

        return made

    @dg.asset(deps=[source])
    def summary(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        require_passed(context, "source")
        return dg.MaterializeResult()

    return dg.Definitions(
        assets=[
            source,
            downstream("same_day", None),
            downstream("next_day", day_before),
            downstream("looks_back", week),
            summary,
        ],
        asset_checks=[balanced, pretty],
        jobs=[
            dg.define_asset_job("make", "source"),
            *(dg.define_asset_job(f"use_{name}", name) for name in ("same_day", "next_day", "looks_back")),
            dg.define_asset_job("use_summary", "summary"),
        ],
    )


def run(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    job: str,
    day: str | None = None,
    to: str | None = None,
) -> dg.ExecuteInProcessResult:
    tags = (
        {"dagster/asset_partition_range_start": day, "dagster/asset_partition_range_end": to}
        if day and to
        else {}
    )
    return defs.resolve_job_def(job).execute_in_process(
        instance=instance, partition_key=None if to else day, tags=tags, raise_on_error=False
    )


def refusal(result: dg.ExecuteInProcessResult) -> str:
    (event,) = result.get_step_failure_events()
    return event.step_failure_data.user_failure_data.description


def test_a_check_that_failed_in_another_run_stops_the_step_until_it_passes(
    defs: dg.Definitions, instance: dg.DagsterInstance, bad: Path
) -> None:
    bad.write_text("2026-01-05")
    made = run(defs, instance, "make", "2026-01-05")
    assert not made.success
    refused = run(defs, instance, "use_same_day", "2026-01-05")
    assert not refused.success
    words = refusal(refused)
    assert "balanced of source failed for 2026-01-05" in words
    assert made.run_id[:8] in words
    assert "1 days do not balance" in words
    assert re.search(r"materialise source .* again", words)

    bad.unlink()
    assert run(defs, instance, "make", "2026-01-05").success
    assert run(defs, instance, "use_same_day", "2026-01-05").success


def test_only_the_rejected_day_is_stopped(
    defs: dg.Definitions, instance: dg.DagsterInstance, bad: Path
) -> None:
    bad.write_text("2026-01-05")
    run(defs, instance, "make", "2026-01-04")
    run(defs, instance, "make", "2026-01-05")
    assert run(defs, instance, "use_same_day", "2026-01-04").success
    assert not run(defs, instance, "use_same_day", "2026-01-05").success
    # where a mapping leads to yesterday, yesterday's verdict counts
    assert not run(defs, instance, "use_next_day", "2026-01-06").success
    assert run(defs, instance, "use_next_day", "2026-01-05").success


def test_every_day_of_a_look_back_window_counts(
    defs: dg.Definitions, instance: dg.DagsterInstance, bad: Path
) -> None:
    bad.write_text("2026-01-05")
    for day in ("2026-01-05", "2026-01-06"):
        run(defs, instance, "make", day)
    assert run(defs, instance, "use_looks_back", "2026-01-04").success
    for day in ("2026-01-05", "2026-01-06", "2026-01-11"):
        assert "for 2026-01-05 in run" in refusal(run(defs, instance, "use_looks_back", day))
    assert run(defs, instance, "use_looks_back", "2026-01-12").success


def test_a_day_that_passes_does_not_speak_for_another_one(
    defs: dg.Definitions, instance: dg.DagsterInstance, bad: Path
) -> None:
    bad.write_text("2026-01-05")
    run(defs, instance, "make", "2026-01-05")
    run(defs, instance, "make", "2026-01-06")
    refused = run(defs, instance, "use_same_day", "2026-01-05", "2026-01-06")
    assert "for 2026-01-05 in run" in refusal(refused)


def test_what_the_upstream_was_made_from_in_the_same_step_counts_too(
    instance: dg.DagsterInstance, bad: Path
) -> None:
    @dg.multi_asset(
        specs=[dg.AssetSpec("rows"), dg.AssetSpec("beside"), dg.AssetSpec("table", deps=["rows"])],
        partitions_def=days,
        check_specs=[
            dg.AssetCheckSpec("unique", asset="rows", blocking=True),
            dg.AssetCheckSpec("fine", asset="beside", blocking=True),
        ],
    )
    def build():  # type: ignore[no-untyped-def]
        for key in ("rows", "beside", "table"):
            yield dg.MaterializeResult(key)
        yield dg.AssetCheckResult(check_name="fine", asset_key="beside", passed=False)
        yield dg.AssetCheckResult(check_name="unique", asset_key="rows", passed=not bad.exists())

    @dg.asset(deps=["table"], partitions_def=days)
    def model(context: dg.AssetExecutionContext) -> None:
        require_passed(context)

    jobs = [
        dg.define_asset_job("build_all", dg.AssetSelection.assets(build)),
        dg.define_asset_job("train", "model"),
    ]
    defs = dg.Definitions(assets=[build, model], jobs=jobs)
    bad.touch()
    run(defs, instance, "build_all", "2026-01-05")
    words = refusal(run(defs, instance, "train", "2026-01-05"))
    assert "unique of rows failed" in words and "beside" not in words
    bad.unlink()
    run(defs, instance, "build_all", "2026-01-05")
    assert run(defs, instance, "train", "2026-01-05").success


def test_a_window_is_stopped_by_any_day_in_it_and_freed_by_a_window_that_passes(
    defs: dg.Definitions, instance: dg.DagsterInstance, bad: Path
) -> None:
    bad.write_text("2026-01-05")
    run(defs, instance, "make", "2026-01-03", "2026-01-07")
    assert not run(defs, instance, "use_same_day", "2026-01-05", "2026-01-08").success
    assert not run(defs, instance, "use_same_day", "2026-01-06").success  # the window was judged as a whole
    assert run(defs, instance, "use_same_day", "2026-01-08").success
    bad.unlink()
    assert run(defs, instance, "make", "2026-01-03", "2026-01-07").success
    assert run(defs, instance, "use_same_day", "2026-01-05", "2026-01-08").success


def test_a_check_that_broke_has_not_passed(
    defs: dg.Definitions, instance: dg.DagsterInstance, bad: Path
) -> None:
    assert run(defs, instance, "make", "2026-01-05").success
    bad.write_text("crash")
    assert not run(defs, instance, "make", "2026-01-05").success
    refused = run(defs, instance, "use_same_day", "2026-01-05")
    assert "never gave its verdict" in refusal(refused)


def test_a_day_made_anew_does_not_speak_for_the_others_of_its_window(
    defs: dg.Definitions, instance: dg.DagsterInstance, bad: Path
) -> None:
    bad.write_text("crash")
    assert not run(defs, instance, "make", "2026-01-03", "2026-01-05").success
    bad.unlink()
    assert run(defs, instance, "make", "2026-01-05").success
    assert run(defs, instance, "use_same_day", "2026-01-05").success
    refused = run(defs, instance, "use_looks_back", "2026-01-06")
    assert "never gave its verdict" in refusal(refused)


def test_without_partitions_the_newest_verdict_counts(
    defs: dg.Definitions, instance: dg.DagsterInstance, bad: Path
) -> None:
    assert run(defs, instance, "use_summary").success  # nothing on record: nothing rejected
    bad.write_text("2026-01-05")
    run(defs, instance, "make", "2026-01-05")
    assert not run(defs, instance, "use_summary").success


def test_inside_one_run_a_step_does_not_wait_for_its_own_checks(
    defs: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    together = dg.Definitions.merge(defs, dg.Definitions(jobs=[dg.define_asset_job("all", "*")]))
    assert run(together, instance, "all", "2026-01-05").success


def test_the_verdict_of_a_day_is_found_behind_those_of_many_later_days(
    defs: dg.Definitions, instance: dg.DagsterInstance, bad: Path
) -> None:
    bad.write_text("2026-01-02")
    for day in range(2, 10):  # more than the first page of the record holds
        run(defs, instance, "make", f"2026-01-{day:02}")
    assert not run(defs, instance, "use_same_day", "2026-01-02").success
    assert run(defs, instance, "use_same_day", "2026-01-03").success
