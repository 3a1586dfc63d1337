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


def test_an_app_that_left_the_inventory_stops_and_a_deploy_brings_it_back(
    play: Callable[..., Run], machine: Machine, echo: Web, without_echo: list[str]
) -> None:
    live = machine.live("echo")
    with machine.host.sudo():
        machine.host.check_output("touch /srv/echo/data/kept")
    assert "echo" in play("provision", *without_echo, "--check").output
    assert echo.ask("/").status == 200

    stopped = play("provision", *without_echo)
    assert stopped.code == 0, stopped.output
    assert "playbooks/remove.yml -e app=echo" in stopped.output
    with machine.host.sudo():
        assert machine.host.check_output("ls /etc/systemd/system | grep '^echo[@.]' || true") == ""
        assert machine.host.check_output("pgrep -u echo || true") == ""
        assert machine.host.file("/srv/echo/data/kept").exists
    with pytest.raises(OSError, match=r"."):
        echo.ask("/")
    assert "not in the inventory; to remove it" in play("status", *without_echo).output
    assert play("provision", *without_echo).recap(machine.name)["changed"] == 0

    back = play("deploy", "-e", "app=echo")
    assert back.code == 0, back.output
    assert machine.live("echo") == live
    assert echo.ask("/").status == 200


def test_a_removed_app_is_gone_and_its_data_only_on_request(
    play: Callable[..., Run], machine: Machine, echo: Web, without_echo: list[str]
) -> None:
    with machine.host.sudo():
        machine.host.check_output("touch /srv/echo/data/kept")
    unknown = play("remove", "-e", "app=shop")
    assert "No host has an app shop. Installed are: blueoctopus, echo" in unknown.output
    assert "one of keep, delete" in play("remove", "-e", "app=echo", "-e", "data=all").output

    removed = play("remove", "-e", "app=echo", *without_echo)
    assert removed.code == 0, removed.output
    assert "add -e data=delete" in removed.output
    with machine.host.sudo():
        assert machine.host.check_output("ls /srv/echo") == "data\nhistory.jsonl"
        # As after a removal that was interrupted.
        machine.host.check_output("mkdir -p /srv/echo/releases/.removed-1")

    gone = play("remove", "-e", "app=echo", "-e", "data=delete", *without_echo)
    assert gone.code == 0, gone.output
    with machine.host.sudo():
        assert machine.host.check_output("find / -xdev -user echo -o -xdev -path '*/echo' -path '/srv/*' || true") == ""
        assert machine.host.check_output("getent passwd echo || true") == ""
        assert machine.host.check_output("ls /etc/nginx/sites") == "blueoctopus.conf"

    assert play("deploy", "-e", "app=echo").code == 0
    assert echo.ask("/").status == 200
