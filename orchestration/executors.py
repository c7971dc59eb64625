"""Where the steps of a run are executed: in processes of their own, and no more trainings than devices.

One setting (`executor` in shop.yaml) puts Dagster's executor for Kubernetes or dagster-ray's in the place of
this one; what the steps then ask of the cluster is in their op tags (`resources.placement`).

Each step is forked from a server process that has already imported the definitions, which makes it some four
times as quick to start as a fresh interpreter. Nothing that initialises CUDA may be preloaded: the
definitions import no torch, and a test holds that. The bound on trainings is per run; what guards a device
between runs, whatever was killed, is the lease that the training process itself holds (`resources.devices`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import dagster as dg
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.multiprocess import MultiprocessExecutor

from orchestration.launcher import run_lease
from orchestration.preload import PRELOAD
from resources.devices import TAG, VARIABLE, devices
from resources.home import Home, Shop

if TYPE_CHECKING:
    from dagster._core.execution.context.system import PlanOrchestrationContext
    from dagster._core.execution.plan.plan import ExecutionPlan
    from dagster._core.execution.step_dependency_config import StepDependencyConfig


class LeasedExecutor(dg.Executor):
    """The process that drives the run holds its lease meanwhile, so that a run that lost it can be told."""

    def __init__(self, steps: dg.Executor) -> None:
        """
        Args:
            steps: executes them.
        """
        self._steps = steps

    @property
    def retries(self) -> RetryMode:
        return self._steps.retries

    @property
    def step_dependency_config(self) -> StepDependencyConfig:
        return self._steps.step_dependency_config

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        with run_lease(Home.current(), plan_context.run_id):
            yield from self._steps.execute(plan_context, execution_plan)


def _asked(init: dg.InitExecutorContext) -> int | None:
    return cast("int | None", init.executor_config["max_concurrent"])


@dg.executor(
    name="devices",
    config_schema={
        "max_concurrent": dg.Field(
            dg.Noneable(int),
            default_value=None,
            description="Steps at a time; one per processor, between two and four, where absent.",
        )
    },
    requirements=multiple_process_executor_requirements(),
)
def device_executor(init: dg.InitExecutorContext) -> LeasedExecutor:
    """Steps in forked processes; those that need a device wait until one of this run's is free."""
    return LeasedExecutor(
        MultiprocessExecutor(
            retries=RetryMode.ENABLED,
            max_concurrent=_asked(init) or min(4, max(2, os.cpu_count() or 2)),
            # Without any device the CPU is the one device there is. A step that asks for several counts once:
            # it then waits for its lease. Asked when a run starts, for it may have to start nvidia-smi.
            tag_concurrency_limits=[{"key": TAG, "limit": max(1, len(devices()))}],
            start_method="forkserver",
            explicit_forkserver_preload=list(PRELOAD),
        )
    )


def executor_of(shop: Shop) -> dg.ExecutorDefinition:
    """The executor that a shop has chosen.

    Raises:
        ImportError: its package is not installed.
    """
    match shop.executor:
        case "k8s":
            return _k8s_executor()
        case "ray":
            return _ray_executor()
        case _:
            return device_executor


def _k8s_executor() -> dg.ExecutorDefinition:
    try:
        from dagster_k8s import k8s_job_executor
    except ModuleNotFoundError as error:
        raise _missing("k8s", "dagster-k8s") from error
    # Image, volumes and environment are the run launcher's (dagster.yaml), and the steps get them too. Owner
    # references, or the pods of steps would outlive that of their run.
    return k8s_job_executor.configured({"enable_owner_references": True})


def _ray_executor() -> dg.ExecutorDefinition:
    try:
        from dagster_ray import ray_executor
    except ModuleNotFoundError as error:
        raise _missing("ray", "dagster-ray") from error
    # Ray starts a step with its own environment, not with that of the run. Secrets stay out: its dashboard
    # shows them.
    names = ("DAGSTER_HOME", "NIGHTSHELF_MEMORY_LIMIT", VARIABLE)
    passed_on = [f"NIGHTSHELF_HOME={Home.current().root}", *(name for name in names if name in os.environ)]

    @dg.executor(
        name="ray", config_schema=ray_executor.config_schema, requirements=ray_executor.get_requirements
    )
    def leased(init: dg.InitExecutorContext) -> LeasedExecutor:
        return LeasedExecutor(ray_executor.executor_creation_fn(init))

    return leased.configured({"ray": {"env_vars": passed_on}})


def _missing(name: str, package: str) -> ImportError:
    return ImportError(
        f"shop.yaml: executor: {name} needs the package {package}: run `pip install 'nightshelf[{name}]'`, "
        "or write `executor: devices`"
    )
