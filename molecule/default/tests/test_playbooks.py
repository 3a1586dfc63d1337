"""The playbooks: second runs, check mode, deploys, certificates, a reboot."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from testing import Machine, Run, Web, wait_for

testinfra_hosts = ["ansible://webservers"]
Play = Callable[..., Run]
ChangedApp = Callable[..., list[str]]
Running = Callable[[str], list[str]]


@pytest.fixture
def restored(play: Play) -> Iterator[None]:
    """Deploy the state of the inventory again after the test."""
    yield
    assert play("deploy", "-e", "app=blueoctopus").code == 0


@pytest.mark.on("debian13")
def test_second_run_changes_nothing_and_has_few_tasks(play: Play) -> None:
    run = play("site", limit="webservers")
    assert run.code == 0, run.output
    for host in ("debian12", "debian13"):
        assert run.recap(host)["changed"] == 0, run.output
        # Nine roles and other entry points, where Ansible counts the validation of arguments too; eight steps for
        # each of two apps.
        assert run.recap(host)["ok"] <= 57, run.output


@pytest.mark.on("debian13")
def test_check_mode_reports_no_change_on_provisioned_hosts(play: Play) -> None:
    run = play("site", "--check", "--diff", limit="webservers")
    assert run.code == 0, run.output
    assert [run.recap(host)["changed"] for host in ("debian12", "debian13")] == [0, 0], run.output


@pytest.mark.on("debian12")
@pytest.mark.usefixtures("restored")
def test_deploy_makes_new_code_live_and_drops_no_request(
    machine: Machine, running: Running, play: Play, changed_app: ChangedApp, copy_of_app: Path
) -> None:
    page = copy_of_app / "templates/index.html"
    page.write_text(page.read_text().replace("Hello from Flask server", "Hello from the next release"))
    compressed = "/srv/blueoctopus/live/public/static/style.css.br"
    with machine.host.sudo():  # with less effort than the build: it shows whether the next release has a copy
        machine.host.run_expect([0], f"brotli -q 1 -f -o {compressed} {compressed.removesuffix('.br')}")
        packed = machine.host.check_output(f"sha256sum <{compressed}")
    stop = threading.Event()
    answered: list[int] = []
    failures: list[object] = []

    def visit() -> None:
        while not stop.is_set():
            try:
                answer = machine.web.ask("/api2", "POST", body=b"x")
                answered.append(answer.status) if answer.status == 201 else failures.append(answer)
            except Exception as error:
                failures.append(repr(error))
            time.sleep(0.02)

    clients = [threading.Thread(target=visit) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        run = play("deploy", "-e", "app=blueoctopus", *changed_app("blueoctopus", source=str(copy_of_app)))
    finally:
        stop.set()
        for client in clients:
            client.join()
    assert run.code == 0, run.output
    assert "Hello from the next release" in machine.web.ask("/").text
    assert failures == []
    assert len(answered) > 100
    assert running("blueoctopus") == [f"blueoctopus@{machine.live('blueoctopus')}.service"]
    with machine.host.sudo():
        assert machine.host.check_output(f"sha256sum <{compressed}") == packed


def test_site_is_live_after_a_reboot(machine: Machine, running: Running, echo: Web) -> None:
    with machine.host.sudo():
        booted = machine.host.check_output("stat -c %Y /run/systemd/system")
        # Without stopping any service, like a power failure; delayed, so that this command returns.
        machine.host.run_expect([0], "systemd-run --collect sh -c 'sleep 0.5; systemctl reboot --force'")

        def has_restarted() -> bool:
            try:
                return bool(machine.host.check_output("stat -c %Y /run/systemd/system") != booted)
            except (AssertionError, RuntimeError):  # SSH does not work in between
                return False

        wait_for(has_restarted, 90, "the machine has restarted")
        wait_for(lambda: machine.web.ask("/").status == 200, 60, "the site responds")
        wait_for(lambda: echo.ask("/").status == 200, 30, "the second app responds")
        assert "Status: active" in machine.host.check_output("ufw status")
        for app in ("blueoctopus", "echo"):
            assert running(app) == [f"{app}@{machine.live(app)}.service"]
        assert machine.host.check_output("su --login --command='echo $LANG'") == "C.UTF-8"
