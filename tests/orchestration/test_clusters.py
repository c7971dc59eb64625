"""The same assets on Kubernetes and on Ray: one setting, and what a training asks of the cluster."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from assets.model.snapshot import write_snapshot
from resources.home import Home
from resources.model_store import ModelStore
from tests.model.little_shop import D, little_warehouse, tiny_encoder
from tests.orchestration.little_cluster import little_cluster

PROJECT = Path(__file__).parents[2]
TRAIN = f"""
import sys
import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository

defs = ReconstructableRepository.for_module("orchestration.definitions", "defs")
job = defs.get_reconstructable_job("training").get_subset(asset_selection={{dg.AssetKey("fine_tuned_model")}})
with dg.DagsterInstance.get() as instance:
    with dg.execute_job(job, instance, tags={{"dagster/partition": "{D}"}}) as result:
        for record in instance.all_logs(result.run_id):
            print(record.user_message)
        assert not {{"torch", "transformers"}} & sys.modules.keys()  # they are loaded where the step runs
        sys.exit(not result.success)
"""
"""One step of the definitions, on whatever executor they have."""


def shop(folder: Path, **settings: Any) -> Home:
    """A home with a snapshot to train on."""
    home = Home(folder / "home")
    home.root.mkdir()
    write_snapshot(little_warehouse(home.root), D, 12, home.snapshots)
    recipe = (
        f"encoder: {tiny_encoder(home.root / 'tiny')}\nmax_length: 32\nmax_steps: 20\nsequence_epochs: 0\n"
    )
    (home.root / "quick.yaml").write_text(recipe)
    content = {"recipe": "quick.yaml", "history_days": 12, **settings}
    home.write_shop(home.shop.model_validate({**home.shop.model_dump(), **content}))
    home.dagster.mkdir()
    return home


def train(home: Home, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", TRAIN],
        cwd=PROJECT,
        env=os.environ
        | {"NIGHTSHELF_HOME": str(home.root), "DAGSTER_HOME": str(home.dagster), "HOSTNAME": ""}
        | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_training_runs_in_a_pod_that_asks_for_what_the_shop_has_set(tmp_path: Path) -> None:
    pytest.importorskip("dagster_k8s", reason="dagster-k8s is not installed: pip install 'nightshelf[k8s]'")
    home = shop(
        tmp_path,
        executor="k8s",
        training={"devices": 2, "node_selector": {"accelerator": "l4"}},
    )
    with little_cluster(tmp_path) as cluster:
        launcher = {
            "load_incluster_config": False,
            "kubeconfig_file": str(cluster.kubeconfig()),
            "job_namespace": "shop",
            "job_image": "nightshelf:1",
            "service_account_name": "dagster",
            "instance_config_map": "dagster-instance",
            "env_vars": [f"NIGHTSHELF_HOME={home.root}", "NIGHTSHELF_DEVICES=fake:1"],
            "volumes": [{"name": "home", "persistentVolumeClaim": {"claimName": "nightshelf-home"}}],
            "volume_mounts": [{"name": "home", "mountPath": "/home-of-the-shop"}],
        }
        run_launcher = {"module": "dagster_k8s", "class": "K8sRunLauncher", "config": launcher}
        (home.dagster / "dagster.yaml").write_text(json.dumps({"run_launcher": run_launcher}))
        done = train(home)
        logs = "\n".join(file.read_text() for file in tmp_path.glob("*.log"))
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:] + logs[-3000:]
        (job,) = cluster.jobs.values()
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "2"}
    assert container["image"] == "nightshelf:1"
    assert pod["nodeSelector"] == {"accelerator": "l4"}
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["terminationGracePeriodSeconds"] < 5
    claim = {"name": "home", "persistentVolumeClaim": {"claimName": "nightshelf-home"}}
    assert claim in pod["volumes"]
    assert {"name": "home", "mountPath": "/home-of-the-shop"} in container["volumeMounts"]
    assert {"name": "shared-memory", "emptyDir": {"medium": "Memory"}} in pod["volumes"]
    assert {"name": "shared-memory", "mountPath": "/dev/shm"} in container["volumeMounts"]
    # What ran in the pod is what runs anywhere.
    assert "Training on device fake:0 (of fake:0; 2 were asked for)" in done.stdout
    assert "step 20 of 20: loss" in done.stdout
    assert ModelStore(home).candidate(D)


RAY = """
import sys, ray
context = ray.init(num_cpus=1, num_gpus=0, include_dashboard=True, dashboard_port=0, _temp_dir=sys.argv[1],
    object_store_memory=80_000_000, logging_level="ERROR")
print(context.dashboard_url, flush=True)
sys.stdin.read()
ray.shutdown()
"""
"""A Ray cluster of this machine, for as long as standard input is open."""


@contextmanager
def little_ray() -> Iterator[dict[str, str]]:
    """What the environment of its clients needs: where its job server is, and the word it lets them in by."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    entry = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # socket paths must be short
        head = subprocess.Popen(
            [sys.executable, "-c", RAY, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | entry | {"RAY_USAGE_STATS_ENABLED": "0", "PATH": path},
            text=True,
        )
        try:
            yield entry | {"RAY_ADDRESS": f"http://{head.stdout.readline().strip()}"}
        finally:
            head.communicate(timeout=60)


def test_a_training_runs_on_a_ray_cluster(tmp_path: Path) -> None:
    pytest.importorskip("dagster_ray", reason="dagster-ray is not installed: pip install 'nightshelf[ray]'")
    home = shop(tmp_path, executor="ray", training={"devices": 0})
    with little_ray() as entry:
        done = train(home, **entry)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "in Ray job dagster-step-" in done.stdout
    assert "No GPU was asked for: training on the CPU." in done.stdout
    assert "step 20 of 20: loss" in done.stdout
    assert ModelStore(home).candidate(D)
