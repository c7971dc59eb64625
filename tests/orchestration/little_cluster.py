"""A Kubernetes API of one node, which runs the containers of jobs as processes of this machine.

It knows as much of batch/v1 as Dagster asks for: to make a job, to look after it, to delete it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

JOBS = "/apis/batch/v1/namespaces/shop/jobs"


class LittleCluster(ThreadingHTTPServer):
    """Jobs as they were asked for, by name, and the process that each became."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Api)
        self.folder = folder
        self.jobs: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, subprocess.Popen[bytes]] = {}

    def kubeconfig(self) -> Path:
        server = f"http://127.0.0.1:{self.server_port}"
        context = {"name": "little", "context": {"cluster": "little", "user": "little", "namespace": "shop"}}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "little", "cluster": {"server": server}}],
            "users": [{"name": "little", "user": {}}],
            "contexts": [context],
            "current-context": "little",
        }
        file = self.folder / "kubeconfig.yaml"
        file.write_text(json.dumps(content))
        return file

    def make(self, job: dict[str, Any]) -> None:
        name = job["metadata"]["name"]
        (container,) = job["spec"]["template"]["spec"]["containers"]
        given = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        log = (self.folder / f"{name}.log").open("wb")
        # A pod knows what its manifest says, and nothing of this machine.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"PATH": path, "OMP_NUM_THREADS": "1", **given}
        self.jobs[name] = job
        self.pods[name] = subprocess.Popen(container["args"], env=environment, stdout=log, stderr=log)

    def status(self, name: str) -> dict[str, int]:
        code = self.pods[name].poll()
        return {"active": 1} if code is None else {"succeeded": 1} if code == 0 else {"failed": 1}


class _Api(BaseHTTPRequestHandler):
    server: LittleCluster

    def do_POST(self) -> None:
        assert self.path.startswith(JOBS)
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.make(job)
        self._answer(job)

    def do_GET(self) -> None:
        if not self.path.startswith(f"{JOBS}/"):
            self.send_error(404, self.path)
            return
        name = self.path.removeprefix(f"{JOBS}/").split("/")[0]
        self._answer({**self.server.jobs[name], "status": self.server.status(name)})

    def do_DELETE(self) -> None:
        name = self.path.removeprefix(f"{JOBS}/").split("?")[0]
        self.server.pods[name].terminate()  # as the kubelet does
        self._answer({"kind": "Status", "status": "Success"})

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def little_cluster(folder: Path) -> Iterator[LittleCluster]:
    cluster = LittleCluster(folder)
    Thread(target=cluster.serve_forever, daemon=True).start()
    try:
        yield cluster
    finally:
        cluster.shutdown()
        cluster.server_close()
        for pod in cluster.pods.values():
            pod.kill()
            pod.wait(10)
