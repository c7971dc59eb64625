"""What a training asks of whichever executor runs it, as op tags.

All of them are always there, and each executor reads its own: so the setting `executor` alone says where the
same assets run. They are tags of the op and not of the job, which do not reach the pods of steps.
"""

from __future__ import annotations

from typing import Any

from resources.devices import TAG
from resources.home import Training

GRACE = 3
"""Seconds that a pod has to end when its run is terminated: a checkpoint is whole at any moment."""

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - a mount, no file


def training_tags(training: Training) -> dict[str, Any]:
    """Tags of a step that trains.

    `nightshelf/devices` is how many devices the step leases where it runs, and what the executor `devices`
    counts; `dagster-k8s/config` and `dagster-ray/config` are read by Dagster's executors of those names.
    """
    gpus = str(training.devices)
    # A cluster would look for a node with GPUs also where none is asked for by a limit of 0.
    container: dict[str, Any] = {}
    if training.devices:
        container["resources"] = {"limits": {training.gpu_resource: gpus}}
    pod: dict[str, Any] = {
        "node_selector": training.node_selector,
        "tolerations": [toleration.content for toleration in training.tolerations],
        "termination_grace_period_seconds": GRACE,
    }
    if training.devices > 1:
        # NCCL passes gradients on through shared memory, of which a pod has 64 MiB without this.
        container["volume_mounts"] = [{"name": "shared-memory", "mount_path": SHARED_MEMORY}]
        pod["volumes"] = [{"name": "shared-memory", "empty_dir": {"medium": "Memory"}}]
    return {
        TAG: gpus,
        "dagster-k8s/config": {"container_config": container, "pod_spec_config": pod},
        "dagster-ray/config": {"num_gpus": training.devices},
    }
