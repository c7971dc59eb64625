"""Runs a job from the command line, in the home's own instance, and says step by step what happens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from resources.home import Home

if TYPE_CHECKING:
    import dagster as dg
    from dagster_shared.error import SerializableErrorInfo


QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Dagster would print every event; here the caller shows progress. The run's record keeps them all."""


@dataclass(frozen=True)
class StepChange:
    """A step of a run began (`seconds` is None) or ended."""

    run_id: str
    step: str
    seconds: float | None = None
    ok: bool = True
    cause: str = ""


@dataclass(frozen=True)
class FailedCheck:
    """A check did not pass; what it checked may be used all the same."""

    check: str
    found: str


@dataclass
class Outcome:
    """What became of a run."""

    run_id: str
    job: str
    succeeded: bool = False
    wall: float = 0.0
    """Seconds from before the run was made to after its last event."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of each step that ended, by its key."""
    began: dict[str, float] = field(default_factory=dict)
    """When each step began, on this process's clock."""
    causes: dict[str, str] = field(default_factory=dict)
    """Why each failed step failed, in its own words; "run" where no step was to blame."""


class RunFailedError(RuntimeError):
    """A run did not succeed; the message says which step, why, and what to do."""

    def __init__(self, outcome: Outcome, what: str) -> None:
        causes = (
            "; ".join(f"{step}: {cause}" for step, cause in outcome.causes.items()) or "no cause on record"
        )
        super().__init__(
            f"{what} failed in run {outcome.run_id[:8]}: {causes.rstrip('.')}. "
            "The run's log is in the web UI: nightshelf ui"
        )
        self.outcome = outcome


def run_job(
    instance: dg.DagsterInstance,
    job: str,
    tags: Mapping[str, str] | None = None,
    on_step: Callable[[StepChange | FailedCheck], None] = lambda change: None,
) -> Outcome:
    """Run `job` now, in this process and step processes of its executor, past queue and daemon.

    Pools, leases, gates and retries of steps hold as they do in any run. It does not wait in the queue.

    Args:
        instance: keeps the record.
        job: a job of the definitions.
        tags: partition tags and the like.
        on_step: told of every step that begins or ends, and of checks that do not pass.
    """
    from dagster._core.definitions.reconstruct import ReconstructableRepository
    from dagster._core.execution.api import execute_run_iterator
    from dagster._core.utils import make_new_run_id

    from orchestration.launcher import driver_lease
    from orchestration.preload import start_step_server

    began, home = time.monotonic(), Home.current()
    start_step_server(home.shop)
    definition = ReconstructableRepository.for_module("orchestration.definitions", "defs")
    recon = definition.get_reconstructable_job(job)
    definition_of_job = recon.get_definition()
    outcome = Outcome(run_id=make_new_run_id(), job=job)
    with driver_lease(home, outcome.run_id), _ended_in_any_case(instance, outcome.run_id):
        run = instance.create_run_for_job(
            definition_of_job,
            run_id=outcome.run_id,
            run_config=QUIET,
            # The job's own tags are what the queue of a daemon beside us counts.
            tags={**definition_of_job.run_tags, **(tags or {})},
            job_code_origin=recon.get_python_origin(),
        )
        for event in execute_run_iterator(recon, run, instance):
            change = _change(event, outcome)
            if change:
                on_step(change)
    finished = instance.get_run_by_id(outcome.run_id)
    outcome.succeeded = finished is not None and finished.is_success
    outcome.wall = time.monotonic() - began
    return outcome


@contextmanager
def _ended_in_any_case(instance: dg.DagsterInstance, run_id: str) -> Iterator[None]:
    """What ends us before Dagster has taken the run over would leave it under way for ever."""
    try:
        yield
    except BaseException as error:
        run = instance.get_run_by_id(run_id)
        if run and not run.is_finished:
            instance.report_run_failed(run, str(error) or "it was interrupted")
        raise


def of_day(day: object) -> dict[str, str]:
    """Tags of a run of one partition."""
    return {"dagster/partition": str(day)}


def of_window(first: object, last: object) -> dict[str, str]:
    """Tags of one run over a window of partitions, both ends included."""
    return {
        "dagster/asset_partition_range_start": str(first),
        "dagster/asset_partition_range_end": str(last),
    }


def _change(event: dg.DagsterEvent, outcome: Outcome) -> StepChange | FailedCheck | None:
    step, run_id = event.step_key or "", outcome.run_id
    if event.is_step_start:
        outcome.began[step] = time.monotonic()
        return StepChange(run_id, step)
    if event.event_type_value == "ASSET_CHECK_EVALUATION":
        found = event.asset_check_evaluation_data
        return None if found.passed else FailedCheck(found.check_name, found.description or "see its run")
    if event.is_step_success:
        seconds = (event.event_specific_data.duration_ms or 0) / 1000  # type: ignore[union-attr]
        outcome.seconds[step] = seconds
        return StepChange(run_id, step, seconds)
    if event.is_step_failure:
        cause = cause_of(event)
        outcome.causes[step] = cause
        now = time.monotonic()
        return StepChange(run_id, step, now - outcome.began.get(step, now), ok=False, cause=cause)
    if event.is_run_failure and not outcome.causes:
        outcome.causes["run"] = _spoken(event.job_failure_data.error) or event.message or "no cause on record"
    return None


def cause_of(event: dg.DagsterEvent) -> str:
    """Why a step failed, in the words of the error that it raised."""
    failure = event.step_failure_data
    if failure.user_failure_data and failure.user_failure_data.description:
        return failure.user_failure_data.description
    return _spoken(failure.error) or event.message or "no cause on record"


def _spoken(error: SerializableErrorInfo | None) -> str:
    """What the step itself raised, without what Dagster wraps around it."""
    while error and error.cause and (error.cls_name or "").startswith(("Dagster", "RetryRequested")):
        error = error.cause
    message = error.message.split("\n\nStack Trace:")[0].strip() if error else ""
    return "it was interrupted" if message.endswith("ExecutionInterruptedError") else message
