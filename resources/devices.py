"""Devices to train on, one training at a time on each.

What guards a device is not the step but the training process: the lease is a file lock that it inherits, so
it lasts exactly as long as the process, however step and run were ended. A step says by an op tag how many
devices it asks for. A GPU belongs to the machine, so its
lock is one for all homes of a user, under the GPU's UUID; the CPU and pretended devices are a home's own.
Nothing here imports torch.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from resources.leases import lease_one_of

if TYPE_CHECKING:
    from resources.home import Home

CPU = "cpu"
VARIABLE = "NIGHTSHELF_DEVICES"
TAG = "nightshelf/devices"
"""Op tag of the steps that need devices; its value is how many."""
LEASED = "NIGHTSHELF_DEVICE"
"""Environment variable that tells a child which devices it holds; without it, encoding stays on the CPU."""
LEASES = "NIGHTSHELF_LEASES"
"""Environment variable that tells a child which file descriptors carry the leases."""


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""glibc's malloc.h."""
NONE_VISIBLE = ("", "-1", "NoDevFiles")
"""What CUDA_VISIBLE_DEVICES says of no GPU at all; the last is Slurm's."""
DRIVER, INFORMATION = Path("/dev"), Path("/proc/driver/nvidia/gpus")
"""Where NVIDIA's driver shows a file for each GPU, in containers without nvidia-smi too, and where it says
which GPU that is.
"""


class DeviceError(RuntimeError):
    """The devices named in the environment make no sense; the message says how to write them."""


def share_cores() -> None:
    """Have threads that wait for each other sleep soon instead of spinning, here and in children.

    To be called before torch or LightGBM is imported. On two cores with one neighbour at work, a step of the
    sequence model took 0.94 s spinning and 0.11 s so.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def collect_less_often() -> None:
    """Have this process look for garbage after 50,000 new objects in place of 700.

    Dagster and torch are hundreds of thousands of objects, none of them garbage. To look through them again
    and again was a fifth of the time that loading them took; so it is never done. Memory is the same. To be
    called before they are imported.
    """
    gc.set_threshold(50_000)


def keep_freed_memory() -> None:
    """Have this process keep the memory of freed arrays for new ones; nothing where there is no glibc.

    Else the system takes it back and hands it out again page by page, zeroed: malloc's own threshold for that
    grows to 32 MiB at most. For processes that compute and then end: fine-tuning takes a twentieth less so,
    measuring and scoring a large shop a tenth, with 0.2 GiB more at the highest. What is set: mallopt(3).
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
    mallopt(M_TOP_PAD, 64 << 20)


@dataclass(frozen=True)
class Lease:
    """Leased devices."""

    names: tuple[str, ...]
    """`0` and so on, GPUs' UUIDs, `fake:0` and so on, or `cpu`."""
    env: dict[str, str]
    """Whole environment for the process that trains: it sees these devices and no others."""
    fds: tuple[int, ...]
    """Carry the lease: start the process with `pass_fds=lease.fds`."""

    @property
    def name(self) -> str:
        return ", ".join(self.names)


def devices() -> list[str]:
    """The GPUs of this machine, by the names that CUDA_VISIBLE_DEVICES takes; empty where there is none.

    `NIGHTSHELF_DEVICES` decides where it is set: `0,1` (indices or UUIDs), `fake:2` (two pretended devices
    that train on the CPU, to try out the executor), `none`. Else what CUDA_VISIBLE_DEVICES allows, as a
    cluster sets it; else what nvidia-smi lists, or the driver shows where there is no nvidia-smi. Indices
    count as nvidia-smi does.

    Raises:
        DeviceError: the variable holds anything else.
    """
    wanted = os.environ.get(VARIABLE, "").strip()
    if wanted in ("none", CPU):
        return []
    if fake := re.fullmatch(r"fake:(\d+)", wanted):
        return [f"fake:{n}" for n in range(int(fake[1]))]
    if wanted:
        return _names(VARIABLE, wanted)
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is not None:
        return _names("CUDA_VISIBLE_DEVICES", allowed) if allowed.strip() not in NONE_VISIBLE else []
    return list(_gpus()) or [str(n) for n in range(len(list(DRIVER.glob("nvidia[0-9]*"))))]


@contextmanager
def lease_devices(
    home: Home,
    log: Callable[[str], None] = lambda message: None,
    timeout: float | None = None,
    count: int = 1,
) -> Iterator[Lease]:
    """Wait for devices and hold them.

    Without a GPU, the CPU is the one device there is; where a machine has fewer than asked for, it is all of
    them. The log says so.

    Args:
        home: whose `leases` folder holds the lock files of the CPU and of pretended devices.
        log: told what is waited for and what was got.
        timeout: seconds to wait for each; for ever where absent.
        count: how many; 0 for the CPU, whatever else there is.

    Raises:
        LeaseTimeoutError: no device came free in time.
        DeviceError: `NIGHTSHELF_DEVICES` is malformed, or the machine's lock folder is somebody else's.
    """
    names = (devices() if count else []) or [CPU]
    files, wanted = _lock_files(home, names), min(max(count, 1), len(names))

    def wait(message: str) -> None:
        log(f"{message} to train")

    with ExitStack() as held:
        # One gathers at a time: two that held half of what they need would wait for each other for ever.
        turn = files[0].with_name("queue-for-devices.lock")
        with lease_one_of([turn], timeout=timeout, on_wait=wait, told_after=1, poll=0.2):
            got = [
                held.enter_context(lease_one_of(files, timeout=timeout, on_wait=wait, poll=0.2))
                for _ in range(wanted)
            ]
        mine = tuple(names[n] for n, _ in sorted(got))
        fds = tuple(fd for _, fd in sorted(got))
        if mine == (CPU,):
            log(f"{'No GPU on this machine' if count else 'No GPU was asked for'}: training on the CPU.")
        else:
            fewer = f"; {count} were asked for" if wanted < count else ""
            word = "device" if len(mine) == 1 else "devices"
            log(f"Training on {word} {', '.join(mine)} (of {', '.join(names)}{fewer}).")
        yield Lease(mine, _environment(mine, fds), fds)


def _is_gpu(name: str) -> bool:
    return name != CPU and not name.startswith("fake:")


def _lock_files(home: Home, names: list[str]) -> list[Path]:
    if not any(_is_gpu(name) for name in names):
        return [home.leases / f"device-{name.replace(':', '-')}.lock" for name in names]
    folder, known = _machine_folder(), _gpus()
    # An index, a UUID and its beginning are the same GPU.
    full = [known.get(n) or next((u for u in known.values() if u.startswith(n)), n) for n in names]
    if twice := [name for n, name in enumerate(names) if full[n] in full[:n]]:
        raise DeviceError(f"{VARIABLE}: {twice[0]!r} is a device that is named already. Name each once")
    return [folder / f"device-{uuid.replace('/', '-')}.lock" for uuid in full]


def _machine_folder() -> Path:
    """Where the locks of GPUs lie, for all homes of this user; nobody else may put anything there."""
    folder = Path(tempfile.gettempdir()) / f"nightshelf-devices-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise DeviceError(
            f"{folder} belongs to somebody else: remove it, or set TMPDIR to a folder of your own"
        )
    return folder


def _environment(names: tuple[str, ...], fds: tuple[int, ...]) -> dict[str, str]:
    return {
        **os.environ,
        # CUDA's own order is fastest first; nvidia-smi, and so our names, go by the bus.
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(name for name in names if _is_gpu(name)),
        LEASED: ",".join(names),
        LEASES: ",".join(map(str, fds)),
    }


def _names(variable: str, value: str) -> list[str]:
    names = [name.strip() for name in value.split(",")]
    wrong = [n for n in names if not re.fullmatch(r"\d+|(GPU|MIG)-[0-9A-Za-z/-]+", n)]
    if wrong or len(set(names)) != len(names):
        what = f"{wrong[0]!r} is no device" if wrong else "a device is named twice"
        raise DeviceError(
            f"{variable}={value!r}: {what}. Write indices or UUIDs as in `0,1`, `fake:2` for two pretended "
            "devices, or `none`"
        )
    return names


def _gpus() -> dict[str, str]:
    """UUID of each GPU by its index; empty where nobody can say. Whoever is asked, a GPU has one name: else
    two trainings that asked differently would share it.
    """
    return _nvidia_smi() or _driver()


def _driver() -> dict[str, str]:
    """As the driver itself says of the GPUs it shows; their indices go by the bus, as nvidia-smi's do."""
    found = []
    for folder in sorted(INFORMATION.glob("*")):
        try:
            told = (folder / "information").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        uuid = re.search(r"^GPU UUID:\s*(GPU-[0-9a-f-]+)$", told, re.MULTILINE)
        minor = re.search(r"^Device Minor:\s*(\d+)$", told, re.MULTILINE)
        if minor and (DRIVER / f"nvidia{minor[1]}").exists():
            if not uuid:
                return {}
            found.append(uuid[1])
    return {str(n): uuid for n, uuid in enumerate(found)}


def _nvidia_smi() -> dict[str, str]:
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    rows = [line.replace(" ", "").split(",") for line in answer.stdout.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 2 and row[0].isdigit()}
