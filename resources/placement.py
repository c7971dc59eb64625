"""What a training asks of whichever executor runs it, as op tags.

All of them are always there, and each executor reads its own: so the setting `executor` alone says where the
same assets run. They are tags of the op and not of the job, which do not reach the pods of steps.
"""

from __future__ import annotations

from typing import Any

from resources.devices import TAG
from resources.home import Training


def training_tags(training: Training) -> dict[str, Any]:
    """Tags of a step that trains.

    `nightshelf/devices` is how many devices the step leases where it runs, and what the executor `devices`
    counts; `dagster-k8s/config` and `dagster-ray/config` are read by Dagster's executors of those names.
    """
    spec: dict[str, Any] = {"tolerations": [toleration.content for toleration in training.tolerations]}
    if training.node_selector:
        spec["node_selector"] = dict(training.node_selector)
    gpus = str(training.devices)
    return {
        TAG: gpus,
        "dagster-k8s/config": {
            "container_config": {"resources": {"limits": {training.gpu_resource: gpus}}},
            "pod_spec_config": spec,
        },
        "dagster-ray/config": {"num_gpus": training.devices},
    }
