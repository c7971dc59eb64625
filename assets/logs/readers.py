"""Having files parsed by processes of their own (`assets.logs.reader`).

To load DuckDB and NumPy takes longer than to parse a small file. So there is a server for each file that is
read at the same time, which has loaded them, has seen no file, and forks a reader off for each.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from multiprocessing.connection import wait
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, cast

from assets.logs.lines import FileRefusedError
from assets.logs.sources import FileSpec, Source
from resources.home import Home
from resources.identity import IdentityKey
from resources.parent import PARENT
from resources.room import lack

READER_FAILED = "reader_failed"
"""Reason of a refusal that may be the machine's fault: something hangs on it."""

SECONDS = 6 * 3600
"""Wall-clock time after which a reader is ended."""


class StoppedError(BaseException):
    """The readers were stopped, so nothing is known of the file. No `Exception`: the file is not to blame."""


class Readers:
    """Read as many files at the same time as there are servers, for any thread that asks, until they are
    closed. The servers start at once, and load while other things are done.
    """

    def __init__(self, servers: int) -> None:
        self._servers = [_Server() for _ in range(servers)]
        self._idle: SimpleQueue[_Server] = SimpleQueue()
        self._stopped = False
        for server in self._servers:
            self._idle.put(server)

    def read(
        self,
        copy: Path,
        out: Path,
        spec: FileSpec,
        source: Source,
        *,
        load_id: str,
        file: str,
        home: Home,
        key: IdentityKey,
        verbatim: bool = False,
    ) -> dict[str, Any]:
        """Have a file parsed.

        Args:
            copy: the bytes to read, under a name of ours.
            out: an empty folder for what comes of them.
            spec: the section of the source that the file falls under.
            source: the source.
            load_id: goes into every row.
            file: path that the publisher's file has in the drop folder.
            home: whose shop's day and time zone apply.
            key: what pseudonyms are made with.
            verbatim: whether rejects show values as they are. Never where they are kept.

        Returns:
            Its tally: Outcome's counts, days and `notes`.

        Raises:
            FileRefusedError: the file as a whole cannot be taken in, or the reader died of it.
            OSError: there is no room left, on the disk or in memory.
            StoppedError: `stop` was called meanwhile.
        """
        latest = spec.window.latest or datetime.now(home.shop.zone).date() + timedelta(days=1)
        return self._answer(
            {
                "copy": str(copy),
                "file": Path(file).name,
                "path": file,
                "source": source.name,
                "spec": spec.model_dump(mode="json"),
                "zone": source.timezone or home.shop.timezone,
                "shop_zone": home.shop.timezone,
                "namespace": source.namespace,
                "key": key.hex,
                "load_id": load_id,
                "latest": latest.isoformat(),
                "out": str(out),
                "threads": max(1, (os.cpu_count() or 1) // len(self._servers)),
                "verbatim": verbatim,
            }
        )

    def lines(self, copy: Path, file: str) -> int:
        """Lines of a file that is not parsed, for nothing else looks into one; 0 where the reader dies of
        it.
        """
        try:
            return int(self._answer({"copy": str(copy), "file": Path(file).name})["lines"])
        except FileRefusedError:
            return 0

    def _answer(self, job: dict[str, Any]) -> dict[str, Any]:
        server = self._idle.get()
        try:
            answer = {} if self._stopped else server.answer(job)
        finally:
            self._idle.put(server)
        if self._stopped:
            raise StoppedError
        if "ended" in answer:
            raise _ended(answer["ended"])
        if "lack" in answer:
            code = errno.ENOSPC if answer["lack"] == "disk" else errno.ENOMEM
            raise OSError(code, os.strerror(code))
        if "refused" in answer:
            raise FileRefusedError(answer["refused"], answer["detail"], answer["field"], answer.get("lines"))
        return answer

    def stop(self) -> None:
        """End whatever is being read, for any thread; `close` is for when nobody waits for it any more."""
        self._stopped = True
        for server in self._servers:
            server.kill()

    def close(self) -> None:
        for server in self._servers:
            server.close()


class _Server:
    """A process that forks readers off, one at a time; a new one where it has died."""

    def __init__(self) -> None:
        self._process = self._started()

    def _started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "assets.logs.reader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # Ctrl-C is for us, and no failure of theirs
            cwd=Path(__file__).parents[2],
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", PARENT: str(os.getpid())},
        )

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        if self._process.poll() is not None:
            self.close()
            self._process = self._started()
        asked, answers = cast("IO[bytes]", self._process.stdin), cast("IO[bytes]", self._process.stdout)
        try:
            asked.write(json.dumps(job).encode() + b"\n")
            asked.flush()
        except BrokenPipeError:
            return self._end()
        if not wait([answers.fileno()], SECONDS):
            self.close()
            raise FileRefusedError(READER_FAILED, f"reading took over {SECONDS} s. Split the file.")
        answer = answers.readline()
        return dict(json.loads(answer)) if answer.endswith(b"\n") else self._end()

    def _end(self) -> dict[str, Any]:
        """How the server itself has ended: it could not even begin, or was killed."""
        told = self._process.communicate()[1].decode(errors="replace")
        lacking = lack(told) if self._process.returncode > 0 else None
        return {"lack": lacking} if lacking else {"ended": self._process.returncode}

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        self.kill()
        self._process.communicate()


def _ended(code: int) -> FileRefusedError:
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return FileRefusedError(
        READER_FAILED, f"the reader {how}. If that goes on, drop the file in parts to find what does it."
    )
