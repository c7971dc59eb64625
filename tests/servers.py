"""A web server and a mail server on this machine, which keep what they are sent, and ports for others."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_string
from email.policy import default
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme


@dataclass
class Inbox:
    """What a server was sent."""

    url: str = ""
    status: int = 204
    failures: int = 0
    """So many requests are answered with 503 first."""
    got: list[Any] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    """What a mail server was told in clear text."""


def free_port() -> int:
    """Of this machine; nobody listens there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def web() -> Iterator[Inbox]:
    inbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            inbox.got.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(inbox.status if inbox.failures <= 0 else 503)
            inbox.failures -= 1
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            """Not to the terminal."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    inbox.url = f"http://127.0.0.1:{server.server_port}/hook"
    yield inbox
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def mail() -> Iterator[Inbox]:
    """A mail server."""
    with _mail_server() as inbox:
        yield inbox


@pytest.fixture
def safe_mail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    """One that offers STARTTLS, with a certificate that this machine trusts."""
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    with _mail_server(tls) as inbox:
        yield inbox


@contextmanager
def _mail_server(tls: ssl.SSLContext | None = None) -> Iterator[Inbox]:
    """As small as the protocol allows (RFC 5321: EHLO, MAIL, RCPT, DATA, QUIT; RFC 3207, RFC 4954)."""
    inbox, loop, ready = Inbox(), asyncio.new_event_loop(), threading.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())

        say("220 local")
        safe = False
        while line := (await reader.readline()).decode().rstrip("\r\n"):
            verb = line.split(maxsplit=1)[0].upper()
            if not safe:
                inbox.said.append(line)
            if verb == "EHLO":
                say("250-local\r\n250-AUTH PLAIN\r\n250 " + ("STARTTLS" if tls and not safe else "HELP"))
            elif verb == "STARTTLS":
                say("220 go on")
                await writer.start_tls(tls)
                safe = True
            elif verb == "AUTH":
                say("235 known")
            elif verb == "DATA":
                say("354 go on")
                lines = []
                while (text := (await reader.readline()).decode().rstrip("\r\n")) != ".":
                    lines.append(text.removeprefix(".") if text.startswith("..") else text)
                inbox.got.append(message_from_string("".join(f"{line}\n" for line in lines), policy=default))
                say("250 kept")
            elif verb == "RCPT" and "nobody" in line:
                say("550 no such mailbox")
            elif verb == "QUIT":
                say("221 bye")
                break
            else:
                say("250 local")
        writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        inbox.url = f"smtp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ready.set()
        async with server:
            await server.serve_forever()

    def run() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(serve())
        except asyncio.CancelledError:
            pass
        finally:
            loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(10)
    yield inbox
    loop.call_soon_threadsafe(lambda: [task.cancel() for task in asyncio.all_tasks(loop)])
    thread.join(10)
