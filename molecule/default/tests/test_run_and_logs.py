"""Commands in the live release of an app, and its log."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from testing import Door, Machine, Run, Web

testinfra_hosts = ["ansible://webservers"]


@pytest.mark.on("debian13")
def test_a_command_runs_like_the_web_service_and_its_secrets_are_hidden(
    play: Callable[..., Run], machine: Machine
) -> None:
    done = play("run", "-e", "app=echo", "-e", "command=sh -c 'id -un; env; pwd; echo 50% %i; touch x'")
    release = machine.live("echo")
    assert done.code == 2, done.output
    for expected in (
        "echo",
        f"RELEASE={release}",
        'GREETING=hello "$HOME" `id` \\n %i é',
        "SECRET_KEY=********",
        f"/srv/echo/releases/{release}/source",
        "50% %i",
        "Read-only file system",
        "exit status 1",
    ):
        assert expected in done.output, done.output
    assert "squid-ink-4711" not in done.output


def test_a_command_gets_a_terminal_and_returns_its_exit_status_and_all_of_its_output(door: Door) -> None:
    numbers = [str(number) for number in range(1, 10001)]
    for _ in range(3):
        shell = door.ssh("sudo app echo sh -c 'tty; id -un; seq 10000; exit 5'", terminal=True)
        terminal, user, *rest = shell.stdout.split()
        assert terminal.startswith("/dev/pts/"), shell.stdout[:300]
        assert (user, rest) == ("echo", numbers), shell.stdout[-300:]
        assert shell.returncode == 5


def test_the_command_app_is_for_root_and_names_the_apps(door: Door) -> None:
    assert "root is required" in door.ssh("/usr/local/sbin/app echo true").stderr
    unknown = door.ssh("sudo app shop true")
    assert unknown.returncode == 2
    assert "Live apps: blueoctopus, echo" in unknown.stderr


@pytest.mark.on("debian13")
def test_the_log_has_lines_of_the_app_and_of_nginx_in_order_of_time(play: Callable[..., Run], echo: Web) -> None:
    echo.ask("/only-in-the-log-of-echo")
    done = play("logs", "-e", "app=echo", "-e", "since=1 day ago", "-e", "lines=100000")
    assert done.code == 0, done.output
    assert re.search(r"nginx +\d+ GET /only-in-the-log-of-echo", done.output), done.output
    assert "Booting worker" in " ".join(done.output.split())
    times = re.findall(r"^ *(\d{4}-\d\d-\d\d [\d:.]+) ", done.output, re.MULTILINE)
    assert len(times) > 3
    assert times == sorted(times)
    other = play("logs", "-e", "app=blueoctopus", "-e", "grep=only-in-the-log")
    assert "Nothing was logged" in other.output
