"""An app that leaves the inventory, and the removal of an app."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from testing import Machine, Run, Web

testinfra_hosts = ["ansible://debian12"]


@pytest.fixture
def without_echo(inventory: Path, tmp_path: Path) -> list[str]:
    """Options that remove the app echo from the inventory."""
    group_vars = yaml.safe_load((inventory / "group_vars/webservers.yml").read_text())
    apps = [app for app in group_vars["apps"] if app["name"] != "echo"]
    extra = tmp_path / "apps.yml"
    extra.write_text(yaml.safe_dump({"apps": apps}))
    return ["-e", f"@{extra}"]


def test_an_app_removed_from_the_inventory_is_stopped_and_a_deploy_starts_it_again(
    play: Callable[..., Run],
    machine: Machine,
    echo: Web,
    without_echo: list[str],
    changed_app: Callable[..., list[str]],
) -> None:
    jobs = changed_app(
        "echo",
        processes=[{"name": "idle", "command": "sleep infinity"}],
        timers=[{"name": "tick", "command": "true", "on_calendar": "hourly"}],
    )
    started = play("deploy", "-e", "app=echo", *jobs)
    assert started.code == 0, started.output
    live = machine.live("echo")
    units = machine.host.check_output("ls /etc/systemd/system | grep '^echo[@.]'")
    assert "echo.idle" in units
    assert "echo.tick" in units
    machine.host.run_expect([0], "pgrep -u echo sleep")
    with machine.host.sudo():
        machine.host.check_output("touch /srv/echo/data/kept")
    assert "echo" in play("provision", *without_echo, "--check").output
    assert echo.ask("/").status == 200

    stopped = play("provision", *without_echo)
    assert stopped.code == 0, stopped.output
    assert "playbooks/remove.yml -i molecule/default/inventory -e app=echo" in " ".join(stopped.output.split())
    with machine.host.sudo():
        assert machine.host.check_output("ls /etc/systemd/system | grep '^echo[@.]' || true") == ""
        assert machine.host.check_output("pgrep -u echo || true") == ""
        assert machine.host.file("/srv/echo/data/kept").exists
    with pytest.raises(OSError, match=r"."):
        echo.ask("/")
    assert "not in the inventory; to remove it" in play("status", *without_echo).output
    assert play("provision", *without_echo).recap(machine.name)["changed"] == 0

    back = play("deploy", "-e", "app=echo", *jobs)
    assert back.code == 0, back.output
    assert machine.live("echo") == live
    assert echo.ask("/").status == 200


def test_a_removed_app_is_gone_and_its_data_only_on_request(
    play: Callable[..., Run],
    machine: Machine,
    echo: Web,
    without_echo: list[str],
    at_task: Callable[[str, str], dict[str, str]],
) -> None:
    with machine.host.sudo():
        machine.host.check_output("touch /srv/echo/data/kept")
    unknown = play("remove", "-e", "app=shop")
    assert "No host has an app shop. Installed apps: blueoctopus, echo" in unknown.output

    killing = at_task("Remove the app's site, units and releases", "KILL")
    killed = play("remove", "-e", "app=echo", "-e", "data=delete", *without_echo, environment=killing)
    assert killed.code == -9, killed.output
    with pytest.raises(OSError, match=r"."):
        echo.ask("/")
    with machine.host.sudo():
        assert machine.host.file("/srv/echo/data/kept").exists

    removed = play("remove", "-e", "app=echo", *without_echo)
    assert removed.code == 0, removed.output
    assert "add -e data=delete" in removed.output
    with machine.host.sudo():
        assert machine.host.check_output("ls /srv/echo") == "data\nhistory.jsonl"
        # As after a removal that was interrupted between two of its steps.
        machine.host.check_output("mkdir -p /srv/echo/releases/.removed-1")

    gone = play("remove", "-e", "app=echo", "-e", "data=delete", *without_echo)
    assert gone.code == 0, gone.output
    with machine.host.sudo():
        assert machine.host.check_output("find / -xdev -user echo -o -xdev -path '*/echo' -path '/srv/*' || true") == ""
        assert machine.host.check_output("getent passwd echo || true") == ""
        assert machine.host.check_output("ls /etc/nginx/sites") == "blueoctopus.conf"

    assert play("deploy", "-e", "app=echo").code == 0
    assert echo.ask("/").status == 200
