"""What a training asks of each executor, as op tags."""

from __future__ import annotations

from resources.home import Shop
from resources.placement import training_tags


def test_a_training_asks_every_executor_for_as_many_devices() -> None:
    tags = training_tags(
        Shop.model_validate(
            {
                "training": {
                    "devices": 4,
                    "gpu_resource": "amd.com/gpu",
                    "node_selector": {"pool": "gpu"},
                    "tolerations": [{"key": "gpu", "operator": "Equal", "value": "yes"}],
                }
            }
        ).training
    )
    assert tags == {
        "nightshelf/devices": "4",
        "dagster-k8s/config": {
            "container_config": {
                "resources": {"limits": {"amd.com/gpu": "4"}},
                "volume_mounts": [{"name": "shared-memory", "mount_path": "/dev/shm"}],
            },
            "pod_spec_config": {
                "node_selector": {"pool": "gpu"},
                "tolerations": [{"key": "gpu", "operator": "Equal", "value": "yes"}],
                "termination_grace_period_seconds": 3,
                "volumes": [{"name": "shared-memory", "empty_dir": {"medium": "Memory"}}],
            },
        },
        "dagster-ray/config": {"num_gpus": 4},
    }


def test_one_gpu_passes_nothing_on_through_shared_memory() -> None:
    tags = training_tags(Shop.model_validate({"training": {"devices": 1}}).training)
    config = tags["dagster-k8s/config"]
    assert config["container_config"] == {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    assert "volumes" not in config["pod_spec_config"]


def test_a_training_on_the_cpu_asks_no_cluster_for_a_gpu() -> None:
    tags = training_tags(Shop.model_validate({"training": {"devices": 0}}).training)
    assert tags["nightshelf/devices"] == "0"
    assert tags["dagster-k8s/config"]["container_config"] == {}
    assert tags["dagster-ray/config"] == {"num_gpus": 0}
