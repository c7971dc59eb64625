"""The web UI, the daemon, and a code server that comes back when it is lost.

`dagster dev` keeps the code server behind a proxy, and starts the proxy anew when that is gone. It does not
notice that the server behind it is gone, which is the one that loads our code and so the one that is killed
when memory runs out: no sensor would tick and no run would start until somebody presses "Reload". So the
proxy is asked every few seconds, and told to reload when nobody answers behind it.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import dagster as dg
import yaml
from dagster._cli.dev import dev_command
from dagster._cli.proxy_server_manager import ProxyServerManager
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._grpc.client import DagsterGrpcClient

POLL = 5.0
"""Seconds between two looks at the code server."""

RELOAD_TIMEOUT = 180
"""Seconds that a code server has to load the definitions."""


class ServerError(RuntimeError):
    """The web server or the daemon came to an end by itself."""


def serve(workspace: Path, port: int) -> None:
    """Run webserver, daemon and code servers until interrupted, in the instance that DAGSTER_HOME names.

    Args:
        workspace: the `workspace.yaml` with the code locations.
        port: of the webserver, on 127.0.0.1.

    Raises:
        ServerError: webserver or daemon ended though nobody interrupted us: whatever keeps services up shall
            start us again.
    """
    interrupted = threading.Event()

    def interrupt(signum: int, frame: object) -> None:
        interrupted.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)  # Dagster has SIGTERM do the same
    os.environ["DAGSTER_IS_DEV_CLI"] = "1"  # as `dagster dev` does, before it starts the code servers
    with (
        dg.DagsterInstance.get() as instance,
        ProxyServerManager(instance, WorkspaceFileTarget([str(workspace)]), "warning") as servers,
        tempfile.TemporaryDirectory() as folder,
    ):
        specs = servers.get_code_server_specs()
        started = Path(folder) / "workspace.yaml"
        started.write_text(yaml.dump({"load_from": specs}), encoding="utf-8")
        for spec in specs:
            threading.Thread(target=_keep_up, args=(spec["grpc_server"],), daemon=True).start()
        arguments = ["-w", str(started), "-h", "127.0.0.1", "-p", str(port)]
        dev_command.main(arguments, prog_name="nightshelf ui", standalone_mode=False)
    if not interrupted.is_set():
        raise ServerError(
            "The web server or the daemon ended by itself, and with it the other; what it said stands above. "
            "Start both again: nightshelf ui"
        )


def _keep_up(address: Mapping[str, object]) -> None:
    """Have the proxy at `address` start the server behind it anew whenever that is gone."""
    where = {name: address.get(name) for name in ("host", "port", "socket")}
    client = DagsterGrpcClient(**where)  # type: ignore[arg-type]
    while True:
        time.sleep(POLL)
        if _answers(client):
            continue
        time.sleep(1)  # perhaps it is being reloaded just now
        if not _answers(client):
            print("The code server is gone; it is started again.", file=sys.stderr, flush=True)
            try:
                client.reload_code(timeout=RELOAD_TIMEOUT)
            except DagsterUserCodeUnreachableError:
                continue  # the proxy itself is gone, and being started


def _answers(client: DagsterGrpcClient) -> bool:
    try:
        client.ping("")
    except DagsterUserCodeUnreachableError:
        return False
    return True
