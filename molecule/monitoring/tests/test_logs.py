"""Logs of two webservers that are shipped to a receiver: rsyslog on the monitor."""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import testinfra
from monitoring.monitor import Monitor
from testing import Machine, Run, Web, run_playbook, wait_for

testinfra_hosts = ["ansible://webservers"]
Play = Callable[..., Run]
Root = Callable[[str], str]
HOSTS = ("web12", "web13")  # tests run on web12 first
SENT = 60  # seconds
FOUND, OVER = 180, 240  # seconds; on a busy test machine
CERTIFICATE = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2 -subj /CN=logs.test "
    "-addext subjectAltName=DNS:logs.test -addext extendedKeyUsage=serverAuth -keyout /run/logs.key -out /run/logs.pem"
)
RECEIVER = """
global(workDirectory="/run" maxMessageSize="64k" defaultNetstreamDriverCAFile="/run/logs.pem"
    defaultNetstreamDriverCertFile="/run/logs.pem" defaultNetstreamDriverKeyFile="/run/logs.key")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="anon")
input(type="imtcp" port="6514")
template(name="line" type="string" string="%hostname% %app-name% %msgid% %msg%\\n")
action(type="omfile" file="/run/logs-received" template="line")
"""


class Receiver:
    """The receiver; it runs on the monitor."""

    def __init__(self, monitor: Monitor) -> None:
        self.host = monitor.host
        self.host.run_expect([0], "systemctl mask rsyslog.service syslog.socket")
        self.host.run_expect(
            [0], "apt-get update && apt-get install --yes --no-install-recommends rsyslog rsyslog-gnutls"
        )
        self.host.run_expect([0], CERTIFICATE)
        self.host.run_expect([0], f"cat >/run/receiver.conf <<'END'\n{RECEIVER}END")
        self.host.run_expect([0], "ufw allow 6514/tcp")

    def start(self) -> None:
        self.host.run_expect([0], "systemd-run --unit=receiver --collect rsyslogd -n -iNONE -f /run/receiver.conf")

    def stop(self) -> None:
        self.host.run("systemctl stop receiver")

    @property
    def settings(self) -> list[str]:
        """The options of a playbook that ships logs here."""
        address = self.host.ansible.get_variables()["ansible_host"]
        ship = {"to": f"{address}:6514", "name": "logs.test", "ca": self.host.check_output("cat /run/logs.pem")}
        return ["-e", json.dumps({"logs_ship": ship})]

    def got(self, *parts: str) -> bool:
        """Whether a line with these parts was received."""
        lines = self.host.run("cat /run/logs-received").stdout.splitlines()
        return any(all(part in line for part in parts) for line in lines)


@pytest.fixture(scope="module")
def receiver(monitor: Monitor, pytestconfig: pytest.Config) -> Iterator[Receiver]:
    """A receiver to which both webservers ship their logs."""
    new = Receiver(monitor)
    new.start()
    inventory = Path(pytestconfig.option.ansible_inventory).resolve()
    run = run_playbook(inventory, "provision", *new.settings, limit="webservers")
    assert run.code == 0, run.output
    yield new
    new.stop()
    monitor.host.run("ufw delete allow 6514/tcp; rm -f /run/logs-received")


def test_logs_arrive_and_wait_while_the_receiver_is_down(
    machine: Machine, monitor: Monitor, receiver: Receiver, shown: Web, play: Play, root: Root
) -> None:
    name, sent = machine.name, []
    assert shown.ask("/?squid=1").status == 200
    assert shown.ask("/slow?seconds=x").status == 500
    root("logger --tag=squid 'ink one'")
    wait_for(lambda: receiver.got(f"{name} echo nginx ", "/?squid=1"), SENT, "a request arrives")
    wait_for(lambda: receiver.got(f"{name} echo web ", "ValueError"), SENT, "the exception of the app arrives")
    wait_for(lambda: receiver.got(f"{name} squid - ink one"), SENT, "an entry of the journal arrives")
    assert root("systemctl is-enabled rsyslog.service || true").strip() == "masked"
    assert root("systemctl show --property=User --value logs-ship.service").strip() == "logs"

    receiver.stop()
    for number in range(3):
        sent.append(f"ink waits {number}")
        root(f"logger --tag=squid '{sent[-1]}'")
    shown_problem = re.compile("logs are not sent since .*Connection refused")
    wait_for(lambda: shown_problem.search(play("status").output), SENT, "the status shows the problem")
    # A file without blocks has the size of what waits. The space is 1 GiB.
    root("truncate --size=900M /var/lib/logs/queue/filler")
    # The programs that look for problems are other users than the service.
    both = {"LogsNotSent", "LogsQueueFills"}
    wait_for(lambda: monitor.firing(name) >= both, FOUND, "the monitor knows that logs wait, and that the queue fills")
    # Alertmanager sends nothing about an alert that is over before its first message.
    wait_for(lambda: monitor.received_with("firing", name) >= both, FOUND, "the messages about both are received")
    root("rm /var/lib/logs/queue/filler")
    root("systemctl restart logs-ship.service")
    receiver.start()
    for text in sent:
        wait_for(functools.partial(receiver.got, f"{name} squid - {text}"), SENT, "a line that waited arrives")
    wait_for(lambda: not monitor.firing(name) & both, OVER, "the alerts are over")
    wait_for(lambda: monitor.received_with("resolved", name) >= both, OVER, "their ends are received")
    root("systemctl stop logs-ship.service")
    wait_for(lambda: "LogsNotSent" in monitor.firing(name), FOUND, "a service that does not run is an alert")
    root("systemctl start logs-ship.service")
    wait_for(lambda: "LogsNotSent" not in monitor.firing(name), OVER, "the alert is over")


@pytest.mark.on("web13")
@pytest.mark.usefixtures("machine")
def test_logs_stay_on_the_hosts_without_the_setting(receiver: Receiver, inventory: Path) -> None:
    on_both = functools.partial(run_playbook, inventory, "provision", limit="webservers")
    check = on_both("--check", "--diff", *receiver.settings)
    assert [check.recap(name)["changed"] for name in HOSTS] == [0, 0], check.output
    gone = on_both()
    assert gone.code == 0, gone.output
    for name in HOSTS:
        host = testinfra.get_host(f"ansible://{name}", ansible_inventory=str(inventory))
        for path in ("/etc/logs", "/var/lib/logs", "/etc/systemd/system/logs-ship.service"):
            assert not host.file(path).exists
        assert not host.service("logs-ship").is_running


def test_the_requests_of_an_app_are_removed_after_its_days(machine: Machine, shown: Web, root: Root) -> None:
    def rotate() -> str:
        time.sleep(2)  # nginx writes its log once a second
        root("logrotate --force /etc/logrotate.d/nginx")
        return root("zcat --force /var/log/nginx/access.log*")

    assert shown.ask("/?ink=dried").status == 200
    assert machine.web.ask("/?ink=kept").status == 200
    assert "/?ink=dried" in rotate()
    left = rotate()
    assert "/?ink=dried" not in left
    assert "/?ink=kept" in left


@pytest.mark.usefixtures("machine")
def test_goaccess_writes_a_report_about_the_visitors(shown: Web, play: Play, tmp_path: Path) -> None:
    assert shown.ask("/visited").status in (200, 404)
    run = play("logs", "-e", "app=echo", "-e", f"goaccess={tmp_path}/visits.html")
    assert run.code == 0, run.output
    page = (tmp_path / "visits.html").read_text()
    assert "<title>echo" in page
    assert "/visited" in page.replace("\\/", "/")
