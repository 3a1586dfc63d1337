"""Failed deploys under load: the live release stays live, and the run reports the cause with the app's own log."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testing import Machine, Run, after_the_switch, commit_all

testinfra_hosts = ["ansible://debian13"]
SCENARIO = Path(__file__).resolve().parent.parent
Deploy = Callable[..., Run]
Load = Callable[..., Any]
LONGEST = 120  # seconds for a deploy that fails


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def exit_after_the_switch(shop: Path) -> None:
    kill = "print('killing the master'); os.kill(os.getppid(), 9)"
    edit(shop / "shop.py", "app = Flask", after_the_switch(kill) + "app = Flask")


# For each fault: a change of the source, keys of the app, and a part of the error that the run must report.
FAULTS: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "a syntax error": (
        lambda shop: edit(shop / "shop.py", "app = Flask(__name__)", "app = Flask("),
        {"health_timeout": 300},  # the deploy does not wait for it: see LONGEST
        "SyntaxError: '(' was never closed",
    ),
    "a dependency that is not in the lock": (
        lambda shop: edit(shop / "shop.py", "import os\n", "import os\nimport sqlalchemy\n"),
        {"preload": True, "health_timeout": 300},
        "No module named 'sqlalchemy'",
    ),
    "a server of its own": (
        lambda shop: edit(shop / "shop.py", "app = Flask(__name__)", "app = Flask(__name__)\napp.run(port=5077)"),
        {"drain_timeout": 3, "health_timeout": 15},  # its first worker does not end by itself
        "put app.run() under if __name__ == '__main__':",
    ),
    "a server of its own, imported before the fork": (
        lambda shop: edit(shop / "shop.py", "app = Flask(__name__)", "app = Flask(__name__)\napp.run(port=5077)"),
        {"preload": True, "health_timeout": 4},
        "put app.run() under if __name__ == '__main__':",
    ),
    "a patch of Python's modules, as gevent does it": (
        lambda shop: edit(shop / "shop.py", "import os\n", "import os\nimport select\n\ndel select.epoll\n"),
        {"health_timeout": 10},
        "Remove monkey_patch() from the app",
    ),
    "a missing system library": (
        lambda shop: edit(
            shop / "shop.py", "import os\n", "import ctypes\nimport os\n\nctypes.CDLL('libpangocairo-1.0.so.0')\n"
        ),
        {},
        "to the key packages of shop, such as packages: [libpangocairo-1.0-0]",
    ),
    "a hash that does not match": (
        lambda shop: (shop / "requirements.txt").write_text(
            re.sub("sha256:....", "sha256:0000", (SCENARIO.parent.parent / "app/requirements.txt").read_text())
        ),
        {},
        "Hash mismatch for",
    ),
    "a wrong wsgi name": (lambda _shop: None, {"wsgi": "shop:application"}, "Failed to find attribute 'application'"),
    "a health path that answers 500": (
        lambda shop: edit(shop / "shop.py", 'return "ok\\n"', 'raise RuntimeError("the database is gone")'),
        {"health_timeout": 15},
        "RuntimeError: the database is gone",
    ),
    "a health path that never responds": (
        lambda shop: edit(shop / "shop.py", 'return "ok\\n"', 'time.sleep(60)\n    return "ok\\n"'),
        {"health_timeout": 15},  # a busy computer needs some of them to start gunicorn
        "The health check GET /healthz did not succeed within 15 s: the last request failed: timed out",
    ),
    "a dependency without a hash among those with one": (
        lambda shop: (shop / "requirements.txt").write_text(
            (SCENARIO.parent.parent / "app/requirements.txt").read_text() + "tomli==2.0.1\n"
        ),
        {},
        "uv pip failed",
    ),
    "a health check that fails only through nginx": (
        lambda shop: edit(
            shop / "shop.py",
            'return "ok\\n"',
            'from flask import request\n    return ("ok\\n", 500 if "X-Forwarded-For" in request.headers else 200)',
        ),
        {},
        "The health check GET /healthz through nginx failed: the last response had status 500",
    ),
    "a page that fails although the health check succeeds": (
        lambda shop: edit(shop / "shop.py", "    time.sleep(0.02)\n", "    raise RuntimeError('no table visits')\n"),
        {"watch_time": 3},
        "requests of clients got a status of 500 or more, although the health check succeeds",
    ),
    "exit after the switch": (exit_after_the_switch, {"watch_time": 5}, "killing the master"),
    "directives that nginx does not know": (
        lambda _shop: None,
        {"nginx_extra": "location = /ping { retrun 204; }"},
        'unknown directive "retrun"',
    ),
    "a git ref that does not exist": (
        commit_all,
        {"source": "GIT", "version": "v9"},
        "'v9' is not a branch, tag or commit of",
    ),
}

# Faults that show only after the switch. When a process is killed, at most two POST requests fail on each of the four
# connections of the load generator: one that the process was handling, and one that waited in its socket.
MAY_LOSE = {"exit after the switch": 8, "a page that fails although the health check succeeds": 2000}


@contextlib.contextmanager
def unchanged(machine: Machine, load: Load, may_lose: int = 0) -> Iterator[None]:
    """Verify under load that the code in the context changes neither the live release nor any file, unit or lock.

    Args:
        machine: the machine.
        load: the load generator.
        may_lose: number of requests that may fail.
    """
    live = machine.live("shop")
    with machine.host.sudo():
        before = machine.host.check_output("ls -A /srv/shop/releases")
    with load() as seen:
        time.sleep(0.5)
        yield
    print(seen)
    assert seen.failed <= may_lose, seen
    assert seen.answered > 100, seen
    assert machine.live("shop") == live
    with machine.host.sudo():
        assert machine.host.check_output("ls -A /srv/shop/releases") == before
        assert not machine.host.file("/run/releases/shop/token").exists
    units = machine.host.check_output("ls /etc/systemd/system | grep '^shop[@.]'").split()
    assert units == [f"shop@{live}.service", f"shop@{live}.socket"]


@pytest.mark.parametrize("fault", FAULTS)
def test_failed_deploy_reports_the_cause_and_the_live_release_stays(
    machine: Machine, deploy: Deploy, load: Load, shop: Path, fault: str
) -> None:
    break_it, keys, words = FAULTS[fault]
    version = machine.web.ask().json["version"]
    break_it(shop)
    if keys.get("source") == "GIT":
        keys = keys | {"source": f"file://{shop}"}
    with unchanged(machine, load, may_lose=MAY_LOSE.get(fault, 0)):
        began = time.monotonic()
        run = deploy(f"with {fault}", **keys)
        assert run.code != 0, run.output
        assert time.monotonic() - began < LONGEST
        assert words in run.output, run.output
        assert machine.web.ask().json["version"] == version


def test_deploy_to_a_full_disk_fails_and_leaves_no_files(machine: Machine, deploy: Deploy, load: Load) -> None:
    with machine.host.sudo():
        machine.host.run("dd if=/dev/zero of=/srv/shop/filler bs=1M")
        machine.host.run_expect([0], "truncate --size=-2M /srv/shop/filler")
        try:
            with unchanged(machine, load):
                run = deploy("with a full disk")
        finally:
            machine.host.run_expect([0], "rm /srv/shop/filler")
    assert run.code != 0
    assert "No space left on device" in run.output, run.output


def test_unreachable_package_index_is_reported(machine: Machine, deploy: Deploy, load: Load, shop: Path) -> None:
    (shop / "requirements.txt").write_text("flask==3.1.2\ngunicorn==27.0.1\n")
    with machine.host.sudo():
        route = machine.host.check_output("ip route show default")
        machine.host.run_expect([0], "ip route delete default")
        try:
            with unchanged(machine, load):
                run = deploy("without an index")
        finally:
            machine.host.run_expect([0], f"ip route add {route}")
    assert run.code != 0
    assert "uv pip failed" in run.output, run.output


def test_deploy_succeeds_after_failed_ones(machine: Machine, deploy: Deploy) -> None:
    assert deploy("after the faults").code == 0
    assert machine.web.ask().json["version"] == "after the faults"


def test_second_deploy_at_the_same_time_is_refused(machine: Machine, deploy: Deploy) -> None:
    slow: list[Run] = []
    first = threading.Thread(
        target=lambda: slow.append(deploy("the first", release_command="sleep 8", health_timeout=20))
    )
    first.start()
    deadline = time.monotonic() + 20
    with machine.host.sudo():
        while not machine.host.file("/run/releases/shop/token").exists and time.monotonic() < deadline:
            time.sleep(0.2)
    second = deploy("the first")
    first.join()
    assert second.code != 0
    assert "shop has been locked by " in second.output, second.output
    assert "-e take_over_lock=true" in second.output
    assert slow[0].code == 0, slow[0].output
    assert machine.web.ask().json["version"] == "the first"
