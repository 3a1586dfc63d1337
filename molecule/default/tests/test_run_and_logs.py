"""Commands in the live release of an app, its log, and its removal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from testing import Door, Machine, Run, Web

testinfra_hosts = ["debian12", "debian13"]


@pytest.fixture
def without_echo(inventory: Path, tmp_path: Path) -> list[str]:
    """Options that remove the app echo from the inventory."""
    group_vars = yaml.safe_load((inventory / "group_vars/webservers.yml").read_text())
    apps = [app for app in group_vars["apps"] if app["name"] != "echo"]
    extra = tmp_path / "apps.yml"
    extra.write_text(yaml.safe_dump({"apps": apps}))
    return ["-e", f"@{extra}"]


def test_a_command_runs_like_the_web_service_and_its_secrets_are_hidden(
    play: Callable[..., Run], machine: Machine
) -> None:
    done = play("run", "-e", "app=echo", "-e", "command=\"sh -c 'id -un; env; pwd; echo 50% $$ %i; touch x'\"")
    release = machine.live("echo")
    assert done.code == 2, done.output
    for expected in (
        "echo",
        f"RELEASE={release}",
        'GREETING=hello "$HOME" `id` \\n %i é',
        "SECRET_KEY=********",
        f"/srv/echo/releases/{release}/source",
        "50% $$ %i",
        "Read-only file system",
        "exit status 1",
    ):
        assert expected in done.output, done.output
    assert "squid-ink-4711" not in done.output


def test_the_command_app_opens_a_shell_in_a_terminal(door: Door) -> None:
    shell = door.ssh("printf 'tty && echo user-$(id -un); exit 5\\n' | script -qec 'sudo app echo' /dev/null")
    assert "user-echo" in shell.stdout
    assert "/dev/pts/" in shell.stdout
    assert shell.returncode == 5


def test_the_command_app_is_for_root_and_names_the_apps(door: Door) -> None:
    assert "root is required" in door.ssh("/usr/local/sbin/app echo true").stderr
    unknown = door.ssh("sudo app shop true")
    assert unknown.returncode == 2
    assert "Live apps: blueoctopus, echo" in unknown.stderr


def test_the_log_has_lines_of_the_app_and_of_nginx_in_order_of_time(play: Callable[..., Run], echo: Web) -> None:
    echo.ask("/only-in-the-log-of-echo")
    done = play("logs", "-e", "app=echo", "-e", "since='1 day ago'", "-e", "lines=100000")
    assert done.code == 0, done.output
    assert re.search(r"nginx +\d+ GET /only-in-the-log-of-echo", done.output), done.output
    assert "Booting worker" in done.output
    times = re.findall(r"^ *- '?(\d{4}-\d\d-\d\d [\d:.]+) ", done.output, re.MULTILINE)
    assert len(times) > 3
    assert times == sorted(times)
    other = play("logs", "-e", "app=blueoctopus", "-e", "grep=only-in-the-log")
    assert "Nothing was logged" in other.output


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
    assert "does not have this app" in play("status", *without_echo).output
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
