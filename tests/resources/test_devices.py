"""Devices: found without torch, held by the process that trains, never by two."""

from __future__ import annotations

import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from resources.devices import DeviceError, devices, lease_devices
from resources.home import Home
from resources.leases import LeaseTimeoutError

HOLDER = """
import subprocess, sys
from pathlib import Path
from resources.devices import lease_devices
from resources.home import Home
def log(message):
    if message.startswith("waiting"):
        print(message, flush=True)
with lease_devices(Home(Path(sys.argv[1])), log) as device:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], pass_fds=device.fds)
    print(device.name, child.pid, flush=True)
    child.wait()
"""
"""A step that leases a device and starts a child that holds on to it."""


FAULTS = """
import resource, sys
import numpy as np
from resources.devices import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(1 << 24)
before = faults()
for _ in range(10):
    np.ones(1 << 24)
print(faults() - before)
"""
"""Pages that ten arrays of 128 MiB ask the system for, after one more of them."""


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings, and a machine of this test's own."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    for name in ("NIGHTSHELF_DEVICES", "NIGHTSHELF_DEVICE", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A program of that name, before any real one."""
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_devices_are_those_of_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, "echo 0, GPU-aa; echo 1, GPU-bb")
    assert devices() == ["0", "1"]
    nvidia_smi(tmp_path, monkeypatch, "echo 'No devices were found'; exit 6")
    assert devices() == []
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert devices() == []


def test_without_nvidia_smi_the_driver_says_which_gpus_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in many a container."""
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    monkeypatch.setattr("resources.devices.DRIVER", tmp_path)
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert devices() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "NoDevFiles")  # of Slurm, for a job without GPUs
    assert devices() == []


def test_a_gpu_has_one_lock_whether_or_not_nvidia_smi_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be busy, or not on the path of one service."""
    nvidia_smi(tmp_path, monkeypatch, "echo 0, GPU-aaaa-1111; echo 1, GPU-bbbb-2222")
    monkeypatch.setattr("resources.devices.DRIVER", tmp_path)
    monkeypatch.setattr("resources.devices.INFORMATION", tmp_path / "gpus")
    told = "Model: \t\t NVIDIA H200\nGPU UUID: \t {}\nBus Type: \t PCIe\nDevice Minor: \t {}\n"
    for bus, uuid, minor in (
        ("0000:19:00.0", "GPU-bbbb-2222", 1),
        ("0000:0f:00.0", "GPU-aaaa-1111", 3),
        ("0000:2a:00.0", "GPU-cccc-3333", 0),  # of another container: its device is not shown here
    ):
        (tmp_path / "gpus" / bus).mkdir(parents=True)
        (tmp_path / "gpus" / bus / "information").write_text(told.format(uuid, minor))
    for name in ("nvidia1", "nvidia3"):
        (tmp_path / name).touch()
    with lease_devices(Home(tmp_path)) as lease:
        assert lease.names == ("0",)
        monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
        assert devices() == ["0", "1"]
        monkeypatch.setenv("NIGHTSHELF_DEVICES", "0")
        with pytest.raises(LeaseTimeoutError), lease_devices(Home(tmp_path), timeout=0.3):
            pass


def test_what_a_cluster_allows_comes_before_and_the_setting_before_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(tmp_path, monkeypatch, "echo 0, GPU-aa; echo 1, GPU-bb; echo 2, GPU-cc")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2")
    assert devices() == ["2"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert devices() == []
    for value, expected in {
        "0,1": ["0", "1"],
        " 1 ": ["1"],
        "GPU-8932f937-d72c": ["GPU-8932f937-d72c"],
        "fake:2": ["fake:0", "fake:1"],
        "none": [],
        "cpu": [],
    }.items():
        monkeypatch.setenv("NIGHTSHELF_DEVICES", value)
        assert devices() == expected


@pytest.mark.parametrize("value", ["all", "0;1", "0,,1", "fake:", "-1", "1,1", "../0"])
def test_a_setting_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("NIGHTSHELF_DEVICES", value)
    with pytest.raises(DeviceError, match=r"NIGHTSHELF_DEVICES=.*Write indices or UUIDs"):
        devices()


def test_a_lease_shows_its_device_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHELF_DEVICES", "3,5")
    told: list[str] = []
    with lease_devices(Home(tmp_path), told.append) as one, lease_devices(Home(tmp_path)) as two:
        assert (one.name, two.name) == ("3", "5")
        assert one.env["CUDA_VISIBLE_DEVICES"] == one.env["NIGHTSHELF_DEVICE"] == "3"
        assert two.env["CUDA_VISIBLE_DEVICES"] == "5"
        assert one.env["PATH"] == os.environ["PATH"]
        with pytest.raises(LeaseTimeoutError), lease_devices(Home(tmp_path), told.append, timeout=0.1):
            pass
    assert told[0] == "Training on device 3 (of 3, 5)."
    assert told[1].startswith("waiting for device-3.lock")


@pytest.mark.parametrize("same", ["1", "GPU-bbbb-2222", "GPU-bb"])
def test_two_homes_do_not_share_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same: str) -> None:
    """By whichever name each calls it."""
    nvidia_smi(tmp_path, monkeypatch, "echo 0, GPU-aaaa-1111; echo 1, GPU-bbbb-2222")
    monkeypatch.setenv("NIGHTSHELF_DEVICES", "1")
    with lease_devices(Home(tmp_path / "one")) as device:
        assert device.env["CUDA_VISIBLE_DEVICES"] == "1"
        monkeypatch.setenv("NIGHTSHELF_DEVICES", same)
        with (
            pytest.raises(LeaseTimeoutError, match="device-GPU-bbbb-2222"),
            lease_devices(Home(tmp_path / "two"), timeout=0.1),
        ):
            pass
        monkeypatch.setenv("NIGHTSHELF_DEVICES", "0")
        with lease_devices(Home(tmp_path / "two"), timeout=0.1) as other:
            assert other.name == "0"
    (folder,) = tmp_path.glob("nightshelf-devices-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_lock_folder_that_leads_elsewhere_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"nightshelf-devices-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("NIGHTSHELF_DEVICES", "0")
    with pytest.raises(DeviceError, match=r"somebody else.*TMPDIR"), lease_devices(Home(tmp_path)):
        pass


def test_without_a_gpu_the_cpu_is_the_one_device_and_the_log_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHELF_DEVICES", "none")
    told: list[str] = []
    with lease_devices(Home(tmp_path), told.append) as device:
        assert (device.name, device.env["CUDA_VISIBLE_DEVICES"]) == ("cpu", "")
        with pytest.raises(LeaseTimeoutError), lease_devices(Home(tmp_path), timeout=0.1):
            pass
    assert told == ["No GPU on this machine: training on the CPU."]


def test_detecting_needs_no_torch() -> None:
    code = "import sys; from resources.devices import devices; devices(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_killed_step_does_not_free_the_device_while_its_child_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHELF_DEVICES", "fake:1")
    step = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    name, child = step.stdout.readline().split()
    assert name == "fake:0"
    step.kill()
    step.wait()
    try:
        with pytest.raises(LeaseTimeoutError), lease_devices(Home(tmp_path), timeout=0.5):
            pass
    finally:
        os.kill(int(child), signal.SIGKILL)
    with lease_devices(Home(tmp_path), timeout=5) as device:
        assert device.name == "fake:0"


def test_two_devices_serve_two_processes_and_the_third_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHELF_DEVICES", "fake:2")
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        started.append(
            subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        )
        return started[-1]

    got = [start().stdout.readline().split() for _ in range(2)]
    assert {name for name, _ in got} == {"fake:0", "fake:1"}
    third = start()
    assert third.stdout.readline().startswith("waiting for device-fake-0.lock")
    assert not select.select([third.stdout], [], [], 0.5)[0]
    name, child = got[0]
    os.kill(int(child), signal.SIGKILL)
    took, last = third.stdout.readline().split()
    assert took == name
    for pid in (got[1][1], last):
        os.kill(int(pid), signal.SIGKILL)
    for step in started:
        step.wait(10)


def test_several_devices_are_one_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHELF_DEVICES", "3,5,7")
    told: list[str] = []
    with lease_devices(Home(tmp_path), told.append, count=2) as two:
        assert two.names == ("3", "5")
        assert two.env["CUDA_VISIBLE_DEVICES"] == two.env["NIGHTSHELF_DEVICE"] == "3,5"
        with lease_devices(Home(tmp_path)) as one:
            assert one.names == ("7",)
        with pytest.raises(LeaseTimeoutError), lease_devices(Home(tmp_path), timeout=0.1, count=2):
            pass
        with lease_devices(Home(tmp_path), timeout=1) as one:  # what was got in vain is free again
            assert one.names == ("7",)
    with lease_devices(Home(tmp_path), told.append, count=4) as all_of_them:
        assert all_of_them.names == ("3", "5", "7")
    assert told == [
        "Training on devices 3, 5 (of 3, 5, 7).",
        "Training on devices 3, 5, 7 (of 3, 5, 7; 4 were asked for).",
    ]


def test_the_cpu_may_be_asked_for_where_there_are_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHELF_DEVICES", "0,1")
    told: list[str] = []
    with lease_devices(Home(tmp_path), told.append, count=0) as lease:
        assert (lease.names, lease.env["CUDA_VISIBLE_DEVICES"]) == (("cpu",), "")
    assert told == ["No GPU was asked for: training on the CPU."]


def test_two_that_need_both_devices_do_not_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would hold one and wait for the other: they come one after the other instead."""
    monkeypatch.setenv("NIGHTSHELF_DEVICES", "fake:2")
    home, running, most = Home(tmp_path), [], []

    def both(n: int) -> None:
        for _ in range(5):
            with lease_devices(home, timeout=20, count=2):
                running.append(n)
                most.append(len(running))
                time.sleep(0.01)
                running.remove(n)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(both, range(3)))
    assert len(most) == 15 and max(most) == 1


def test_a_gpu_by_two_names_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two leases of it would wait for each other for ever."""
    nvidia_smi(tmp_path, monkeypatch, "echo 0, GPU-aaaa-1111; echo 1, GPU-bbbb-2222")
    monkeypatch.setenv("NIGHTSHELF_DEVICES", "1,GPU-bbbb")
    with (
        pytest.raises(DeviceError, match="'GPU-bbbb' is a device that is named already"),
        lease_devices(Home(tmp_path), count=2),
    ):
        pass


def test_an_array_takes_the_memory_of_one_before_it() -> None:
    """A page holds at most 2 MiB, and so each array that is mapped anew takes 64 of them or more."""
    ways = ("give back", "keep")
    pages = {way: int(subprocess.check_output([sys.executable, "-c", FAULTS, way])) for way in ways}
    assert pages["keep"] < 64 <= pages["give back"] / 10
