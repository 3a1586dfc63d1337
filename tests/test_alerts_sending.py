"""The receivers of alerts: webhooks and mail servers that answer, and the program as it is installed."""

from __future__ import annotations

import base64
import http.server
import json
import os
import shutil
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, ClassVar

import pytest
from ansible_collections.blueoctopus.site.plugins.filter.programs import PACKAGE, program_files
from ansible_collections.blueoctopus.site.plugins.module_utils.alerts import (
    deliver,
    send_mail,
    send_webhook,
)
from status_examples import NOW

# --- real receivers ---------------------------------------------------------------------------------------------------


class Web(http.server.BaseHTTPRequestHandler):
    """Answers requests with the status in their path, and keeps them."""

    got: list[tuple[str, str, bytes]]
    logins: list[str | None]

    def do_POST(self) -> None:
        type(self).logins.append(self.headers["Authorization"])
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).got.append((self.path, self.headers["Content-Type"], body))
        self.send_response(int(self.path.rpartition("/")[2]))
        self.send_header("Location", "/elsewhere/200")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[str]:
    Web.got, Web.logins = [], []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_webhook_gets_json(web: str) -> None:
    send_webhook(f"{web}/200", {"text": "é"})
    ((path, kind, body),) = Web.got
    assert (path, kind, json.loads(body)) == ("/200", "application/json", {"text": "é"})


@pytest.mark.parametrize(
    ("status", "reason"),
    [("500", "the receiver answered with status 500"), ("302", "the receiver answered with status 302")],
)
def test_a_webhook_that_refuses_or_redirects_is_an_error(web: str, status: str, reason: str) -> None:
    state: dict[str, Any] = {"waiting": [{"time": NOW, "channels": ["webhook"], "message": {"text": "x"}}]}
    deliver(state, {"webhook": lambda content: send_webhook(f"{web}/{status}", content)}, NOW)
    assert state["delivery"]["error"] == f"webhook: {reason}"
    assert len(Web.got) == 1


@pytest.mark.parametrize(
    ("status", "left"), [("400", 0), ("413", 0), ("401", 2), ("404", 2), ("410", 2), ("429", 2), ("500", 2)]
)
def test_only_a_permanently_refused_message_is_dropped(web: str, status: str, left: int) -> None:
    waiting = [{"time": NOW, "channels": ["webhook"], "message": {"text": "x"}} for _ in range(2)]
    state: dict[str, Any] = {"waiting": waiting}
    deliver(state, {"webhook": lambda content: send_webhook(f"{web}/{status}", content)}, NOW)
    assert len(state["waiting"]) == left
    assert f"status {status}" in state["delivery"]["error"]
    assert ("dropped" in state["delivery"]["error"]) == (not left)


def test_the_address_of_a_webhook_is_not_in_the_error() -> None:
    state: dict[str, Any] = {"waiting": [{"time": NOW, "channels": ["webhook"], "message": {"text": "x"}}]}
    deliver(state, {"webhook": lambda content: send_webhook("http://127.0.0.1:9/squid-token", content)}, NOW)
    assert state["delivery"]["error"].startswith("webhook: ")
    assert "squid" not in json.dumps(state)


@pytest.mark.parametrize("login", ["squid:p%40ss", "squid:"])
def test_the_login_in_the_address_of_a_webhook_is_sent_in_a_header(web: str, login: str) -> None:
    send_webhook(f"{web.replace('//', f'//{login}@')}/200", {"text": "x"})
    expected = base64.b64encode(login.replace("%40", "@").encode()).decode()
    assert Web.logins == [f"Basic {expected}"]


@pytest.mark.parametrize(
    "address",
    ["http://squid:ink@127.0.0.1:9/x", "http://squid:in/k@127.0.0.1:9/x", "http://squid:i\u2100nk@127.0.0.1:9/x"],
)
def test_the_password_in_the_address_of_a_webhook_is_not_in_the_error(address: str) -> None:
    state: dict[str, Any] = {"waiting": [{"time": NOW, "channels": ["webhook"], "message": {"text": "x"}}]}
    deliver(state, {"webhook": lambda content: send_webhook(address, content)}, NOW)
    assert state["delivery"]["error"]
    assert "squid" not in json.dumps(state)
    assert "'in'" not in state["delivery"]["error"]


ENVELOPE = {
    b"MAIL FROM:<REFUSED": b"550 we do not know you\r\n",
    b"MAIL FROM:<LARGE": b"552 larger than the limit\r\n",
    b"RCPT TO:<GONE": b"550 no such user\r\n",
}


class Smtp(socketserver.StreamRequestHandler):
    """A mail server that accepts everything, except for a sender, a recipient, or letters that contain a word.

    The sender is REFUSED or LARGE, the recipient is GONE.
    """

    got: list[bytes]
    refusals: ClassVar[dict[bytes, bytes]] = {}  # by a word of the letter

    def handle(self) -> None:
        self.wfile.write(b"220 test\r\n")
        while line := self.rfile.readline():
            word = line.split()[0].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = []
                while (part := self.rfile.readline()) != b".\r\n":
                    lines.append(part)
                letter = b"".join(lines)
                answer = next((answer for text, answer in type(self).refusals.items() if text in letter), b"250 ok")
                if answer.startswith(b"250"):
                    type(self).got.append(letter)
                self.wfile.write(answer + b"\r\n")
                continue
            elif answer := next((answer for begin, answer in ENVELOPE.items() if line.upper().startswith(begin)), b""):
                self.wfile.write(answer)
                continue
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")
            if word == b"QUIT":
                return


@pytest.fixture
def smtp() -> Iterator[dict[str, Any]]:
    Smtp.got, Smtp.refusals = [], {}
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Smtp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        yield {"to": ["a@x.example", "b@x.example"], "from": "me@x.example", "host": "127.0.0.1", "port": port} | {
            "tls": "none", "user": "", "password": ""
        }  # fmt: skip
        server.shutdown()


def test_a_mail_has_the_problem_as_its_subject(smtp: dict[str, Any]) -> None:
    text = "web1 shop: down: é\nBcc: somebody@else.example"
    send_mail(smtp, {"text": text, "since": "s", "time": "t", "log": "KeyError"})
    letter = message_from_bytes(Smtp.got[0], policy=policy.default)
    assert letter["Subject"] == "web1 shop: down: é Bcc: somebody@else.example"
    assert letter["Bcc"] is None
    assert letter["To"] == "a@x.example, b@x.example"
    assert "KeyError" in letter.get_content()


def test_a_mail_with_characters_that_cannot_be_sent_is_sent_without_them(smtp: dict[str, Any]) -> None:
    send_mail(smtp, {"text": "web1: the unit \ud800 has failed", "since": "s", "time": "t", "log": "\udcff ink"})
    assert "ink" in message_from_bytes(Smtp.got[0], policy=policy.default).get_content()


def test_a_mail_that_the_server_refuses_is_an_error(smtp: dict[str, Any]) -> None:
    with pytest.raises(OSError, match="550 we do not know you"):
        send_mail(smtp | {"from": "refused@x.example"}, {"text": "x", "since": "s", "time": "t"})


def send_all(mail: dict[str, Any], *texts: str) -> dict[str, Any]:
    """Send a message for each text, and return the state after it."""
    messages = [{"text": text, "since": "s", "time": "t"} for text in texts]
    state: dict[str, Any] = {
        "waiting": [{"time": NOW, "channels": ["mail"], "message": content} for content in messages]
    }
    deliver(state, {"mail": lambda content: send_mail(mail, content)}, NOW)
    return state


def subjects() -> list[str]:
    return [message_from_bytes(letter, policy=policy.default)["Subject"] for letter in Smtp.got]


@pytest.mark.parametrize("answer", [b"550 it looks like spam", b"554 transaction failed", b"552 too large"])
def test_a_mail_that_the_server_refuses_for_good_is_dropped_and_does_not_delay_others(
    smtp: dict[str, Any], answer: bytes
) -> None:
    Smtp.refusals = {b"squid": answer}
    assert send_all(smtp, "one", "squid", "two")["waiting"] == []
    assert subjects() == ["one", "two"]
    state = send_all(smtp, "squid")
    assert (state["waiting"], "a message was dropped" in state["delivery"]["error"]) == ([], True)
    assert answer.decode() in state["delivery"]["error"]


def test_a_mail_that_the_server_refuses_for_now_waits_and_so_do_later_ones(smtp: dict[str, Any]) -> None:
    Smtp.refusals = {b"squid": b"451 try again later"}
    state = send_all(smtp, "one", "squid", "two")
    assert [entry["message"]["text"] for entry in state["waiting"]] == ["squid", "two"]
    assert state["delivery"]["error"] == "mail: the mail server answered 451 try again later"
    Smtp.refusals = {}
    deliver(state, {"mail": lambda content: send_mail(smtp, content)}, NOW + 120)
    assert subjects() == ["one", "squid", "two"]


@pytest.mark.parametrize(
    ("change", "left"), [({"from": "refused@x"}, 2), ({"to": ["gone@x"]}, 2), ({"from": "large@x"}, 0)]
)
def test_a_mail_is_dropped_for_its_size_and_not_for_addresses_that_all_mails_have(
    smtp: dict[str, Any], change: dict[str, Any], left: int
) -> None:
    assert len(send_all(smtp | change, "one", "two")["waiting"]) == left


def test_a_mail_that_cannot_be_written_is_dropped_and_does_not_delay_others(
    smtp: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = EmailMessage.set_content

    def limited(letter: EmailMessage, text: str) -> None:
        if "squid" in text:
            raise ValueError("unwritable")
        plain(letter, text)

    monkeypatch.setattr(EmailMessage, "set_content", limited)
    state = send_all(smtp, "squid", "one")
    assert (state["waiting"], subjects()) == ([], ["one"])
    assert "unwritable; a message was dropped" in send_all(smtp, "squid")["delivery"]["error"]


# --- the installed program --------------------------------------------------------------------------------------------


def test_the_installed_copies_are_complete_and_run_without_ansible(tmp_path: Path) -> None:
    for name, content in program_files("alerts", f"{tmp_path}/alert").items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(content)
    package = tmp_path / "alert" / PACKAGE.replace(".", "/")
    code = package / "alerts.py"
    text = code.read_text().replace("/etc/alert/settings.json", str(tmp_path / "settings.json"))
    code.write_text(text)
    paths = package / "host_state.py"
    paths.write_text(
        paths.read_text().replace("/run/alert/", f"{tmp_path}/run/").replace("/var/lib/alert/", f"{tmp_path}/lib/")
    )
    (tmp_path / "settings.json").write_text(json.dumps({"host": "web1", "webhook": "", "mail": {}}))
    command = ["/usr/bin/python3", "-I", "-X", f"pycache_prefix={tmp_path}/cache", str(tmp_path / "alert")]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "lib/state.json").read_text())["checked"]


def test_the_settings_and_units_of_the_role_are_valid(render: Callable[..., str], tmp_path: Path) -> None:
    shown = render("alert", "alert.service.j2", alert_groups=["certificates"], alert_deploys=True)
    assert "SupplementaryGroups=adm systemd-journal certificates\n" in shown
    (tmp_path / "alert.service").write_text(shown.replace("{{ __alert_program }}", "/usr/local/lib/alert"))
    (tmp_path / "alert.timer").write_text(render("alert", "alert.timer.j2"))
    if shutil.which("systemd-analyze"):
        files = [str(tmp_path / "alert.service"), str(tmp_path / "alert.timer")]
        done = subprocess.run(["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True)
        own = [line for line in done.stderr.splitlines() if str(tmp_path) in line or "alert." in line]
        assert own == [], done.stderr
    assert "ExecStartPre" not in render("alert", "alert.service.j2")


def test_the_history_of_the_apps_is_copied_for_the_program(render: Callable[..., str], tmp_path: Path) -> None:
    line = next(
        text for text in render("alert", "alert.service.j2", alert_deploys=True).splitlines() if "ExecStartPre" in text
    )
    script = line.partition("sh -c '")[2].removesuffix("'").replace("$$", "$").replace("%%", "%")
    script = script.replace("/run/alert-events", f"{tmp_path}/events").replace("/srv", f"{tmp_path}/srv")
    script = script.replace("-g alert ", "").replace("chgrp alert", "ls")
    for app in ("shop", "blog"):
        (tmp_path / "srv" / app).mkdir(parents=True)
        (tmp_path / "srv" / app / "history.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(9)))
    subprocess.run(["/bin/sh", "-c", script], check=True, capture_output=True)
    lines = (tmp_path / "events/history").read_text().splitlines()
    assert len(lines) == 10
    assert lines[0] == 'blog {"n": 4}'
    assert lines[-1] == 'shop {"n": 8}'


@pytest.mark.needs("root", "systemd-sysusers")
def test_the_groups_of_the_unit_exist_before_other_roles_create_their_users(
    render: Callable[..., str], tmp_path: Path
) -> None:
    groups = ["certificates", "backups"]
    for role in ("alert", "backup"):
        (tmp_path / f"{role}.conf").write_text(render(role, "sysusers.conf.j2", alert_groups=groups))
    (tmp_path / "root/etc").mkdir(parents=True)

    def create(name: str) -> str:
        command = ["systemd-sysusers", f"--root={tmp_path}/root", f"{tmp_path}/{name}.conf"]
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
        return (tmp_path / "root/etc/group").read_text()

    made = {line.partition(":")[0] for line in create("alert").splitlines()}
    shown = render("alert", "alert.service.j2", alert_groups=groups)
    (line,) = [line for line in shown.splitlines() if line.startswith("SupplementaryGroups=")]
    assert set(line.partition("=")[2].split()) - {"adm", "systemd-journal"} <= made  # Debian has these two
    assert create("backup").count("\nbackups:") == 1
    assert "backups:" in (tmp_path / "root/etc/passwd").read_text()
