"""The notifier: says what happened where people will see it.

The log always; a webhook and an e-mail address beside it, where they are set. A channel that does not take
the message is logged with its cause and does not keep the others from being told.
"""

from __future__ import annotations

import http.client
import json
import logging
import smtplib
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from email.message import EmailMessage

import dagster as dg
from pydantic import Field

PAUSES = (0.5, 2.0)
"""Seconds before each further attempt to reach a service."""

TIMEOUT = 10.0
"""Seconds that a channel has to answer."""


class NotificationError(RuntimeError):
    """A channel did not take the message; the error names each such channel, its cause and the next step."""


class Notifier(dg.ConfigurableResource):
    """Tells people through every channel that is set."""

    webhook_url: str = Field(
        "", description="Takes a JSON POST {title, text, link}; Slack and Teams read `text`."
    )
    smtp_url: str = Field(
        "",
        description="smtp://user:password@host:port (STARTTLS where offered) or smtps://… (TLS at once).",
    )
    mail_from: str = Field("nightshelf@localhost", description="Sender of e-mails.")
    mail_to: str = Field("", description="Receivers of e-mails, separated by commas.")

    ui_url: str = Field(
        "http://127.0.0.1:3000", description="Where people reach the web UI; links begin with it."
    )

    def notify(self, title: str, text: str, link: str = "", log: logging.Logger | None = None) -> list[str]:
        """Send through every channel that is set.

        Args:
            title: one line.
            text: what happened and what to do next.
            link: where to look: a path of the web UI, or nothing.
            log: where to log; Nightshelf's own logger where absent.

        Returns:
            the channels that took the message, the log first.

        Raises:
            NotificationError: after all channels were tried, if one of them failed.
        """
        log = log or logging.getLogger("nightshelf")
        link = f"{self.ui_url.rstrip('/')}{link}" if link else ""
        log.warning("%s: %s %s", title, text, link)
        reached, failed = ["log"], []
        for channel, send in self._channels().items():
            try:
                _patiently(send, title, text, link)
                reached.append(channel)
            except (OSError, ValueError, smtplib.SMTPException, http.client.HTTPException) as error:
                failed.append(f"{channel}: {type(error).__name__}: {error}")
                log.error("The notifier's %s did not take %r: %s", channel, title, error)
        if failed:
            raise NotificationError(
                f"{title!r} did not get through. {'; '.join(failed)}. Check the notifier's settings "
                "(NIGHTSHELF_WEBHOOK_URL, NIGHTSHELF_SMTP_URL, NIGHTSHELF_MAIL_TO) and that the service "
                "answers."
            )
        return reached

    def _channels(self) -> dict[str, Callable[[str, str, str], None]]:
        channels: dict[str, Callable[[str, str, str], None]] = {}
        if self.webhook_url:
            channels["webhook"] = self._post
        if self.smtp_url and self.mail_to:
            channels["e-mail"] = self._mail
        return channels

    def _post(self, title: str, text: str, link: str) -> None:
        if urllib.parse.urlsplit(self.webhook_url).scheme not in ("http", "https"):
            raise ValueError("the webhook's address must begin with http:// or https://")
        body = json.dumps({"title": title, "text": f"{title}\n{text}\n{link}".strip(), "link": link}).encode()
        request = urllib.request.Request(  # noqa: S310 - the scheme is checked above
            self.webhook_url, data=body, headers={"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT):  # noqa: S310
            pass

    def _mail(self, title: str, text: str, link: str) -> None:
        server = urllib.parse.urlsplit(self.smtp_url)
        if server.scheme not in ("smtp", "smtps") or not server.hostname:
            raise ValueError("the mail server must read smtp://host:port or smtps://host:port")
        message = EmailMessage()
        message["Subject"], message["From"], message["To"] = title, self.mail_from, self.mail_to
        # Quoted-printable: not every mail server takes eight bits.
        message.set_content(f"{text}\n\n{link}\n" if link else f"{text}\n", cte="quoted-printable")
        with _connected(server.scheme, server.hostname, server.port or 0) as smtp:
            smtp.ehlo()
            # A password goes over an encrypted line or not at all, whatever the server says it can do.
            if server.scheme == "smtp" and (server.username or smtp.has_extn("starttls")):
                # Where there is no password, a stranger's encryption is better than none (RFC 7435).
                smtp.starttls(context=ssl.create_default_context() if server.username else None)
            if server.username:
                smtp.login(urllib.parse.unquote(server.username), urllib.parse.unquote(server.password or ""))
            smtp.send_message(message)


def _connected(scheme: str, host: str, port: int) -> smtplib.SMTP:
    if scheme == "smtps":
        return smtplib.SMTP_SSL(host, port, timeout=TIMEOUT, context=ssl.create_default_context())
    return smtplib.SMTP(host, port, timeout=TIMEOUT)


def _patiently(send: Callable[[str, str, str], None], title: str, text: str, link: str) -> None:
    """A sensor asks once for each failure: a service that is away for a moment must not swallow the news."""
    for pause in PAUSES:
        try:
            return send(title, text, link)
        except (OSError, smtplib.SMTPException, http.client.HTTPException):
            time.sleep(pause)
    send(title, text, link)
