"""The notifier really sends: to a local web server and a local mail server."""

from __future__ import annotations

import logging

import pytest

from resources.notifier import NotificationError, Notifier
from tests.servers import Inbox, free_port


def test_the_webhook_gets_one_json_post(web: Inbox) -> None:
    told = Notifier(webhook_url=web.url, ui_url="https://ui.shop.test/").notify(
        "nightly failed", "fine_tuned_model: no data", "/runs/1"
    )
    assert told == ["log", "webhook"]
    ((path, kind, body),) = web.got
    assert (path, kind) == ("/hook", "application/json")
    assert body == {
        "title": "nightly failed",
        "text": "nightly failed\nfine_tuned_model: no data\nhttps://ui.shop.test/runs/1",
        "link": "https://ui.shop.test/runs/1",
    }


def test_the_mail_arrives_with_everything_in_it(mail: Inbox) -> None:
    notifier = Notifier(smtp_url=mail.url, mail_from="shelf@shop.test", mail_to="a@shop.test, b@shop.test")
    assert notifier.notify("Nacht fehlgeschlagen: 浏览", "Ursache: größer\n.punkt", "/runs/1") == [
        "log",
        "e-mail",
    ]
    (message,) = mail.got
    assert message["Subject"] == "Nacht fehlgeschlagen: 浏览"
    assert (message["From"], message["To"]) == ("shelf@shop.test", "a@shop.test, b@shop.test")
    assert message.get_content() == "Ursache: größer\n.punkt\n\nhttp://127.0.0.1:3000/runs/1\n"


def test_a_password_goes_to_nobody_else(safe_mail: Inbox, monkeypatch: pytest.MonkeyPatch) -> None:
    here = safe_mail.url.replace("127.0.0.1", "localhost").replace("//", "//user:secret@")
    notifier = Notifier(smtp_url=here, mail_to="a@shop.test")
    notifier.notify("title", "text")
    assert len(safe_mail.got) == 1
    assert [line.split()[0] for line in safe_mail.said] == ["ehlo", "STARTTLS"]
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(NotificationError, match="certificate verify failed"):
        notifier.notify("title", "text")
    Notifier(smtp_url=safe_mail.url, mail_to="a@shop.test").notify("title", "text")
    assert len(safe_mail.got) == 2


def test_a_password_goes_to_no_server_that_offers_no_encryption(mail: Inbox) -> None:
    notifier = Notifier(smtp_url=mail.url.replace("//", "//user:secret@"), mail_to="a@shop.test")
    with pytest.raises(NotificationError, match="STARTTLS extension not supported"):
        notifier.notify("title", "text")
    assert {line.split()[0].upper() for line in mail.said} <= {"EHLO", "QUIT"} and not mail.got


def test_an_address_that_is_none_does_not_keep_the_news_from_the_others(mail: Inbox) -> None:
    notifier = Notifier(webhook_url="http://chat:port/hook", smtp_url=mail.url, mail_to="a@shop.test")
    with pytest.raises(NotificationError, match="webhook: InvalidURL"):
        notifier.notify("title", "text")
    assert len(mail.got) == 1


def test_a_channel_that_fails_is_named_and_the_others_are_told(
    web: Inbox, mail: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    web.status = 500
    notifier = Notifier(webhook_url=web.url, smtp_url=mail.url, mail_to="a@shop.test")
    with caplog.at_level(logging.WARNING), pytest.raises(NotificationError) as error:
        notifier.notify("nightly failed", "why")
    assert len(mail.got) == 1
    assert "webhook: HTTPError: HTTP Error 500" in str(error.value)
    assert "NIGHTSHELF_WEBHOOK_URL" in str(error.value)
    assert "e-mail" not in str(error.value)
    assert any(r.levelname == "ERROR" and "webhook did not take" in r.message for r in caplog.records)


def test_nobody_there_wrong_receiver_wrong_scheme(mail: Inbox) -> None:
    port = free_port()
    for settings, words in [
        ({"webhook_url": f"http://127.0.0.1:{port}/"}, "webhook: .*refused"),
        ({"webhook_url": "file:///etc/passwd"}, "must begin with http"),
        ({"smtp_url": f"smtp://127.0.0.1:{port}", "mail_to": "a@b.test"}, "e-mail: .*refused"),
        ({"smtp_url": mail.url, "mail_to": "nobody@b.test"}, "no such mailbox"),
        ({"smtp_url": "mail.shop.test", "mail_to": "a@b.test"}, "must read smtp://"),
    ]:
        with pytest.raises(NotificationError, match=words):
            Notifier(**settings).notify("title", "text")


def test_without_settings_only_the_log_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert Notifier().notify("title", "text") == ["log"]
    assert "title: text" in caplog.text
