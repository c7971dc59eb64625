"""Where the steps of a run are executed: in processes of their own, and no more trainings than devices.

One setting (`executor` in shop.yaml) puts Dagster's executor for Kubernetes or dagster-ray's in the place of
this one; what the steps then ask of the cluster is in their op tags (`resources.placement`).

Each step is forked from a server process that has already imported the definitions, which makes it some four
times as quick to start as a fresh interpreter. Nothing that initialises CUDA may be preloaded: the
definitions import no torch, and a test holds that. The bound on trainings is per run; what guards a device
between runs, whatever was killed, is the lease that the training process itself holds (`resources.devices`).
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing import forkserver
from typing import TYPE_CHECKING, cast

import dagster as dg
from dagster._core.definitions.executor_definition import multiple_process_executor_requirements
from dagster._core.execution.retries import RetryMode
from dagster._core.executor.multiprocess import MultiprocessExecutor

from orchestration.launcher import run_lease
from resources.devices import TAG, VARIABLE
from resources.home import Home, Shop

if TYPE_CHECKING:
    from dagster._core.execution.context.system import PlanOrchestrationContext
    from dagster._core.execution.plan.plan import ExecutionPlan

PRELOAD = (
    "dagster._core.executor.multiprocess",  # Dagster wants it to be the first
    "orchestration.definitions",
    # What Dagster loads late, and so in every step anew: instance and storages, with all of SQLAlchemy.
    *("dagster._utils.test.definitions", "dagster._core.instance.factory", "dagster._core.instance.runs"),
    *("dagster._core.storage.root", "dagster._core.storage.local_compute_log_manager"),
    *("dagster._core.secrets.loader", "upath.core", "upath.implementations.local"),
    # What a run is started with, by us and by Dagster: each step loads that again.
    *("orchestration.cli", "dagster._cli"),
    # What nearly every step of ours loads.
    *("duckdb", "assets.logs.raw_zone"),
    "orchestration.step_server",  # stays the last: it freezes what has been loaded
)
"""Modules that the server of the steps loads once; one that is not there is passed over."""


def start_step_server(shop: Shop) -> None:
    """Have the server of the steps load its modules beside what this process does until the first of them;
    nothing where steps do not come from it.
    """
    if executor_of(shop) is device_executor:
        # Dagster's executor asks for the same server with the same list, and finds it running.
        multiprocessing.set_forkserver_preload(list(PRELOAD))
        forkserver.ensure_running()


class LeasedExecutor(MultiprocessExecutor):
    """The process that drives the run holds its lease meanwhile, so that a run that lost it can be told."""

    def execute(
        self, plan_context: PlanOrchestrationContext, execution_plan: ExecutionPlan
    ) -> Iterator[dg.DagsterEvent]:
        with run_lease(Home.current(), plan_context.run_id):
            yield from super().execute(plan_context, execution_plan)


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
    # Asked when a run starts, not when the definitions load: it may have to start nvidia-smi.
    from resources.devices import devices

    return LeasedExecutor(
        retries=RetryMode.ENABLED,
        max_concurrent=_asked(init) or min(4, max(2, os.cpu_count() or 2)),
        # Without any device the CPU is the one device there is. A step that asks for several counts once:
        # it then waits for its lease.
        tag_concurrency_limits=[{"key": TAG, "limit": max(1, len(devices()))}],
        start_method="forkserver",
        explicit_forkserver_preload=list(PRELOAD),
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
    return ray_executor.configured({"ray": {"env_vars": passed_on}})


def _missing(name: str, package: str) -> ImportError:
    return ImportError(
        f"shop.yaml: executor: {name} needs the package {package}: run `pip install 'nightshelf[{name}]'`, "
        "or write `executor: devices`"
    )
