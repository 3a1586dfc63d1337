"""Logs that are shipped: rsyslog with the configuration of the role, a receiver over TLS, the inventory."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.modules.private_certificate import Certificates
from ansible_collections.blueoctopus.site.plugins.plugin_utils.logs import find_log_problems
from ansible_collections.blueoctopus.site.plugins.plugin_utils.settings import machine_settings
from ansible_collections.blueoctopus.site.plugins.plugin_utils.validation import find_problem
from nginx_site import free_port
from programs import find

Render = Callable[..., str]
NAME = "logs.example.org"
RELEASE = "20260102T030405Z-0123abcd"
REQUEST = {"time": "2026-01-02T03:04:05+00:00", "site": "shop", "uri": "/pay", "status": 200}
WAIT = 90  # seconds; on a busy computer
slow = pytest.mark.slow
rsyslog = pytest.mark.needs("rsyslogd")

RECEIVER = """
global(
    workDirectory="{folder}" processInternalMessages="on" maxMessageSize="64k"
    defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="{clients}"
    defaultNetstreamDriverCertFile="{tls}/server.pem" defaultNetstreamDriverKeyFile="{tls}/server.key"
)
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="{mode}")
input(type="imtcp" address="127.0.0.1" port="{port}" ruleset="received")
template(name="line" type="string"
    string="%hostname% %app-name% %procid% %msgid% %timereported:::date-rfc3339% %msg%\\n")
ruleset(name="received") {{ action(type="omfile" file="{folder}/received" template="line") }}
action(type="omfile" file="{folder}/internal")
"""


class Daemon:
    """A process of rsyslogd in the foreground."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [find("rsyslogd"), "-n", "-iNONE", "-f", str(self.config)]
        with self.config.with_suffix(".output").open("ab") as output:
            self.process = subprocess.Popen(command, stdout=output, stderr=output)

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(WAIT)
        self.process = None


class Lab:
    """A host that ships a log file, and a receiver.

    Args:
        folder: folder of everything.
        render: renders the templates of the role.
    """

    def __init__(self, folder: Path, render: Render) -> None:
        self.folder, self.render, self.port = folder, render, free_port()
        for name in ("etc", "state/queue", "receiver"):
            (folder / name).mkdir(parents=True)
        self.log = folder / "access.log"
        self.log.touch()
        self.server = Certificates(folder / "tls", [NAME])
        self.server.create()
        self.sender = Daemon(folder / "etc/ship.conf")
        self.receiver = Daemon(folder / "receiver.conf")
        self.configure_receiver()

    def configure_receiver(self, mode: str = "anon", clients: Path | None = None) -> None:
        values = {"folder": self.folder / "receiver", "tls": self.server.folder, "port": self.port, "mode": mode}
        self.receiver.config.write_text(RECEIVER.format(clients=clients or self.server.ca, **values))

    def configure(self, **settings: Any) -> None:
        """Write the configuration of the host, and check it."""
        settings = {"to": f"127.0.0.1:{self.port}", "name": NAME, "ca": self.server.ca.read_text()} | settings
        text = configuration(self.render, settings, self.log, self.folder / "etc", self.folder / "state")
        (self.folder / "etc/ca.pem").write_text(settings["ca"])
        self.sender.config.write_text(text)
        subprocess.run([find("rsyslogd"), "-N1", "-iNONE", "-f", self.sender.config], check=True, capture_output=True)

    def write(self, *texts: str, site: str = "shop") -> None:
        """Append requests to nginx's log, in one write, as nginx does."""
        lines = [json.dumps(REQUEST | {"site": site, "uri": text}, separators=(",", ":")) + "\n" for text in texts]
        with self.log.open("a") as file:
            file.write("".join(lines))

    @property
    def received(self) -> list[str]:
        """The lines that arrived, each once: a few are sent twice when a connection breaks."""
        path = self.folder / "receiver/received"
        return list(dict.fromkeys(path.read_text().splitlines())) if path.exists() else []

    @property
    def waiting(self) -> int:
        """Bytes in the queue on the disk."""
        return sum(path.stat().st_size for path in (self.folder / "state/queue").iterdir())

    def wait(self, condition: Callable[[], Any], what: str) -> None:
        end = time.monotonic() + WAIT
        while not condition():
            assert time.monotonic() < end, f"{what}\n{self.errors}"
            time.sleep(0.1)

    @property
    def errors(self) -> str:
        """What the two daemons say about themselves."""
        paths = [*self.folder.glob("*.output"), *self.folder.glob("*/*.output"), *self.folder.glob("*/internal")]
        return "".join(path.read_text() for path in paths)


def configuration(
    render: Render, settings: Mapping[str, Any], log: Path, folder: Path, state: Path, host: str = "web1"
) -> str:
    """The configuration of a host, without the journal, which may not exist where the tests run."""
    values = {"logs_ship": dict(settings), "logs_files": {"nginx": str(log)}, "logs_host": host}
    text = render("logs", "ship.conf.j2", **values, __logs_folder=str(folder), __logs_state=str(state))
    # Its own messages go to a file. On a host, they go to the journal.
    own = f'if $syslogtag startswith "rsyslogd" then {{ action(type="omfile" file="{state}/internal") stop }}\n'
    text = text.replace("global(", 'global(\n    processInternalMessages="on"')
    return re.sub(r"^module\(load=.imjournal.*\n", lambda _: own, text, flags=re.M)


@pytest.fixture
def lab(tmp_path: Path, render: Render) -> Iterator[Lab]:
    """A host and a receiver that do not run yet."""
    new = Lab(tmp_path, render)
    yield new
    new.sender.stop()
    new.receiver.stop()


@slow
@rsyslog
def test_lines_arrive_with_host_app_and_time_and_wait_on_the_disk_while_the_receiver_is_down(lab: Lab) -> None:
    lab.configure()
    lab.receiver.start()
    lab.sender.start()
    lab.write("/é\\\t\x1b[31m", "/first")
    lab.wait(lambda: len(lab.received) == 2, "two lines arrive")
    first, second = lab.received
    assert second == f"web1 shop - nginx {REQUEST['time']} " + json.dumps(
        REQUEST | {"uri": "/first"}, separators=(",", ":")
    )
    assert first.startswith(f"web1 shop - nginx {REQUEST['time']} {{")
    assert "\x1b" not in first
    lab.receiver.stop()
    lab.write(*[f"/waiting/{number}" for number in range(8000)])
    lab.wait(lambda: lab.waiting > 100_000, "the queue is on the disk")
    lab.sender.stop()  # a reboot, while the receiver is down
    lab.sender.start()
    lab.write("/last")
    lab.receiver.start()
    # rsyslog may lose a line in each of its two workers when it ends while the receiver is down.
    lab.wait(lambda: len(lab.received) >= 8001, "all lines arrive")


@slow
@rsyslog
def test_a_full_queue_is_bounded_and_empties_when_the_receiver_is_back(lab: Lab) -> None:
    lab.configure(disk="2m")
    lab.sender.start()
    lab.write(*[f"/waiting/{number}" for number in range(20_000)])
    lab.wait(lambda: lab.waiting > 1_900_000, "the queue is full")
    time.sleep(3)
    assert lab.waiting < 2_300_000
    lab.receiver.start()
    # Some are discarded while it is full, one in two seconds and thread.
    lab.wait(lambda: len(lab.received) > 19_900, "the other lines arrive")
    lab.write("/last")
    lab.wait(lambda: '"/last"' in lab.received[-1], "the last line arrives")


@slow
@rsyslog
def test_entries_of_an_app_have_its_name_and_their_source(lab: Lab) -> None:
    units = {
        f"shop@{RELEASE}.service": "shop 7 web",
        f"my-shop.mail.1@{RELEASE}.service": "my-shop 7 mail",
        f"shop.release-command@{RELEASE}.service": "shop 7 release-command",
        "postgresql@17-main.service": "journal 7 -",
        "ssh.service": "journal 7 -",
        "logs-ship.service": None,
        "": "journal 7 -",
    }
    lab.configure()
    # A file in place of the journal, with its fields as JSON.
    (lab.folder / "journal").write_text("".join(f'{{"_SYSTEMD_UNIT":"{unit}","_PID":"7"}}\n' for unit in units))
    inputs = 'module(load="mmjsonparse")\nmodule(load="imfile")\n'
    inputs += f'input(type="imfile" file="{lab.folder}/journal" tag="journal")\n'
    inputs += 'if $syslogtag == "journal" then { action(type="mmjsonparse" cookie="") }\n'
    text = lab.sender.config.read_text().replace('module(load="imfile")\n', inputs)
    lab.sender.config.write_text(text.replace('$inputname == "imjournal"', '$syslogtag == "journal"'))
    lab.receiver.start()
    lab.sender.start()
    expected = [(unit, seen) for unit, seen in units.items() if seen]
    lab.wait(lambda: len(lab.received) == len(expected), "the entries arrive")
    for (unit, seen), line in zip(expected, lab.received, strict=True):
        assert line.startswith(f"web1 {seen} "), (unit, line)


@slow
@rsyslog
@pytest.mark.parametrize("wrong", ["authority", "name", "usage"])
def test_nothing_is_sent_to_a_receiver_whose_certificate_is_wrong(lab: Lab, wrong: str) -> None:
    if wrong == "authority":
        other = Certificates(lab.folder / "other", [NAME])
        other.create()
        lab.configure(ca=other.ca.read_text())
    elif wrong == "name":
        lab.configure(name="other.example.org")
    else:  # a certificate for clients, of the right authority and with the right name
        client = Certificates(lab.server.folder, [NAME], usage="client")
        client.create()
        client.certificate.replace(lab.server.certificate)
        client.key.replace(lab.server.key)
        lab.configure()
    lab.receiver.start()
    lab.sender.start()
    lab.write("/secret")
    reason = {"authority": "signer not found", "name": "peer name not authorized", "usage": "purpose|invalid"}[wrong]
    lab.wait(lambda: re.search(reason, lab.errors), "rsyslog says why")
    lab.sender.stop()
    assert lab.received == []
    assert lab.waiting > 0  # it is sent when the certificate is right


@slow
@rsyslog
def test_a_host_authenticates_with_its_certificate(lab: Lab) -> None:
    client = Certificates(lab.folder / "etc", ["web1"], usage="client")
    client.create()
    authority = client.ca.rename(lab.folder / "clients.pem")
    lab.configure_receiver("x509/certvalid", authority)
    lab.receiver.start()
    lab.configure(certificate=client.certificate.read_text())
    lab.sender.start()
    lab.write("/authenticated")
    lab.wait(lambda: lab.received, "a line arrives")


@rsyslog
def test_rsyslog_accepts_the_configuration_with_the_journal(render: Render, tmp_path: Path) -> None:
    for settings in ({"to": "logs.example.org"}, {"to": "[2001:db8::1]:6515", "name": NAME, "ca": "x", "disk": "200m"}):
        values = {"logs_ship": settings, "logs_files": {"nginx": "/var/log/nginx/access.log"}, "logs_host": "web1"}
        (tmp_path / "ca.pem").touch()
        text = render("logs", "ship.conf.j2", **values, __logs_state=str(tmp_path), __logs_folder=str(tmp_path))
        (tmp_path / "ship.conf").write_text(text)
        command = [find("rsyslogd"), "-N1", "-iNONE", "-f", str(tmp_path / "ship.conf")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert len(done.stderr.splitlines()) == 2, done.stderr  # no warning
        target = ('target="2001:db8::1" port="6515"', f'Peers="{NAME}"') if "name" in settings else (
            'target="logs.example.org" port="6514"', f'Peers="{NAME}"')  # fmt: skip
        assert all(part in text for part in target)


# --- the inventory ----------------------------------------------------------------------------------------------------


def problems(**variables: Any) -> list[str]:
    return [f"{problem.where}: {problem.found}" for _, problem in find_log_problems(["web1"], {"web1": variables})]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate and its key."""
    made = Certificates(tmp_path_factory.mktemp("pair"), ["web1"], usage="client")
    made.create()
    return made.certificate.read_text(), made.key.read_text()


def test_a_receiver_with_and_without_certificates_is_accepted(pair: tuple[str, str]) -> None:
    certificate, key = pair
    assert problems() == problems(logs_ship={}) == []
    assert problems(logs_ship={"to": "logs.example.org"}) == []
    assert problems(logs_ship={"to": "192.0.2.1:6514", "name": NAME, "ca": certificate}) == []
    assert problems(logs_ship={"to": "[2001:db8::1]", "name": NAME, "certificate": certificate}, logs_key=key) == []


def test_a_receiver_that_cannot_work_is_refused(pair: tuple[str, str]) -> None:
    certificate, key = pair
    to = {"to": "logs.example.org"}
    assert problems(logs_ship={"name": NAME}) == ["key logs_ship.to: nothing"]
    assert problems(logs_ship={"to": "logs.example.org:70000"}) == ["key logs_ship.to: the port 70000"]
    for address in ("192.0.2.1", "192.0.2.1:6514"):
        assert problems(logs_ship={"to": address}) == [
            "key logs_ship.name: nothing, and the receiver is the address 192.0.2.1"
        ]
    assert problems(logs_ship={"to": "[2001:db8::1]:6514"}) == [
        "key logs_ship.name: nothing, and the receiver is the address 2001:db8::1"
    ]
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    assert problems(logs_ship=to | {"ca": broken}) == ["key logs_ship.ca: a text that is not a certificate"]
    assert problems(logs_ship=to | {"certificate": certificate}) == ["key logs_key: nothing"]
    assert problems(logs_ship=to, logs_key=key) == ["key logs_ship.certificate: nothing"]
    other = key.replace(key.splitlines()[1][:8], "AAAAAAAA")
    found = problems(logs_ship=to | {"certificate": certificate}, logs_key=other)
    assert found == ["key logs_key: a key that does not match the certificate"]


@pytest.mark.parametrize(
    "value", ["logs example", "https://logs.example.org", "logs.example.org:", 'x"\n', "2001:db8::1"]
)
def test_a_receiver_of_another_form_is_refused(value: str) -> None:
    problem = find_problem("logs_ship", {"to": value}, machine_settings()["logs_ship"], "key logs_ship")
    assert problem
    assert "logs.example.org:6514" in problem.example


def test_the_key_is_not_shown() -> None:
    problem = find_problem("logs_key", "squid-ink", machine_settings()["logs_key"], "key logs_key")
    assert problem
    assert "squid" not in f"{problem}"


# --- the journal ------------------------------------------------------------------------------------------------------


def test_the_journal_has_a_limit_of_days_only_if_it_is_set(render: Render) -> None:
    assert "Retention" not in render("base", "journald.conf.j2")
    limited = render("base", "journald.conf.j2", base_journal_days=7)
    assert "MaxRetentionSec=7day\n" in limited
    assert "MaxFileSec=1day\n" in limited
