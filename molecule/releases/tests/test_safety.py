"""Security of builds and releases, and restarts of a live release."""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from testing import Machine, Run, after_the_switch, wait_for

testinfra_hosts = ["ansible://debian13"]
Deploy = Callable[..., Run]
Play = Callable[..., Run]
Load = Callable[..., Any]
FORBIDDEN = ("/root/owned", "/etc/owned", "/srv/owned", "/usr/local/lib/owned", "/var/cache/uv/owned")
# Tries to write to forbidden places; fails if it runs as root, or can see data of apps.
ATTACK = f"""
import glob, os
for place in {FORBIDDEN}:
    try:
        open(place, "w").write(str(os.getuid()))
    except OSError:
        pass
seen = glob.glob("/srv/*/data") + glob.glob("/srv/*/history.jsonl") + glob.glob("/run/releases/*")
if seen or os.getuid() == 0:
    raise SystemExit(f"seen: {{seen}} by {{os.getuid()}}")
"""


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def put(machine: Machine, files: dict[str, bytes]) -> None:
    """Write files on the machine that every user can read."""
    for name, content in files.items():
        quoted = "".join(f"\\{byte:03o}" for byte in content)
        with machine.host.sudo():
            machine.host.run_expect([0], f"mkdir -p /opt/packages && printf '{quoted}' > /opt/packages/{name}")


def owned(machine: Machine) -> list[str]:
    with machine.host.sudo():
        return machine.host.run(f"ls -d {' '.join(FORBIDDEN)}").stdout.split()


@contextlib.contextmanager
def short_restart_delay(machine: Machine, unit: str) -> Iterator[None]:
    """Make systemd restart a unit after 0.2 seconds each time, without its growing delays; start it at the end."""
    folder = f"/run/systemd/system/{unit}.d"
    settings = "[Service]\\nRestartSec=200ms\\nRestartSteps=0\\n"
    machine.host.run_expect([0], f"mkdir -p {folder} && printf '{settings}' > {folder}/delay.conf")
    machine.host.run_expect([0], "systemctl daemon-reload")
    try:
        yield
    finally:
        machine.host.run_expect([0], f"rm -r {folder} && systemctl daemon-reload")
        machine.host.run(f"systemctl reset-failed {unit}; systemctl start {unit}")  # if systemd has given up


@pytest.mark.parametrize("option", ["", "--no-binary evil"])
def test_source_distribution_is_not_built_as_root_or_as_the_owner_of_the_shared_cache(
    machine: Machine, deploy: Deploy, shop: Path, tmp_path: Path, option: str
) -> None:
    setup = f"from setuptools import setup\n{ATTACK}\nsetup(name='evil', version='1.0', py_modules=['evil'])\n"
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as archive:
        archive.writestr("evil-1.0/setup.py", setup)
        archive.writestr("evil-1.0/evil.py", "BUILT = True\n")
    put(machine, {"evil-1.0.zip": (tmp_path / "evil.zip").read_bytes()})
    with (shop / "requirements.txt").open("a") as requirements:
        requirements.write(f"evil @ file:///opt/packages/evil-1.0.zip\n{option}\n")
    edit(shop / "shop.py", "import os\n", "import os\nimport evil\nassert evil.BUILT\n")
    version = f"with a build, {option or 'as uv chooses'}"
    run = deploy(version)
    assert run.code == 0, run.output
    assert machine.web.ask().json["version"] == version
    assert owned(machine) == []


def test_pth_file_of_a_wheel_runs_only_as_the_user_of_the_app(
    machine: Machine, deploy: Deploy, shop: Path, tmp_path: Path
) -> None:
    # A .pth file runs at each start of the venv's Python. Each run records its user ID.
    attempt = "import os; exec(\"try: open(%s).write(f'{os.getuid()} ')\\nexcept Exception: pass\")\n"
    lines = [attempt % place for place in ("os.environ['HOME'] + '/pth', 'a'", "'/root/owned', 'w'")]
    wheel = tmp_path / "evil-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("evil.pth", "".join(lines))
        archive.writestr("evil-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
        archive.writestr("evil-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("evil-1.0.dist-info/RECORD", "")
    put(machine, {wheel.name: wheel.read_bytes()})
    with (shop / "requirements.txt").open("a") as requirements:
        requirements.write(f"evil @ file:///opt/packages/{wheel.name}\n")
    with machine.host.sudo():
        machine.host.run("rm -f /srv/shop/data/pth /root/pth /tmp/pth")
    assert deploy("with a .pth file").code == 0
    assert owned(machine) == []
    with machine.host.sudo():
        users = set(machine.host.check_output("cat /srv/shop/data/pth").split())
        assert users == {machine.host.check_output("id -u shop")}
        assert not machine.host.file("/root/pth").exists


def test_files_of_a_release_are_owned_and_written_only_by_root(machine: Machine) -> None:
    with machine.host.sudo():
        release = f"/srv/shop/releases/{machine.live('shop')}"
        assert machine.host.check_output(f"find {release}/ ! -user root") == ""
        assert machine.host.check_output(f"find {release}/ -perm /7022 ! -type l") == ""
        assert machine.host.check_output(f"find {release}/source -name '*.pyc'") != ""


def test_dying_workers_fail_the_deploy_although_nginx_retries_requests(
    machine: Machine, deploy: Deploy, shop: Path, load: Load
) -> None:
    version = machine.web.ask().json["version"]
    edit(shop / "shop.py", "    time.sleep(0.02)\n", "    os._exit(1)\n")
    with load() as seen:
        run = deploy("whose workers die", watch_time=5)
    assert run.code != 0
    assert "worker" in run.output, run.output
    assert " died." in run.output, run.output
    assert machine.web.ask().json["version"] == version
    print(seen)


def test_post_is_never_sent_twice_and_get_is_served_by_the_previous_release(
    machine: Machine, deploy: Deploy, shop: Path, at_task: Callable[[str, str], dict[str, str]], tmp_path: Path
) -> None:
    version = machine.web.ask().json["version"]
    edit(
        shop / "shop.py",
        "    time.sleep(0.02)\n",
        "    with open(os.environ['HOME'] + '/posts', 'a') as file:\n        file.write(request.method + ' ')\n"
        "    os._exit(1)\n",
    )
    edit(shop / "shop.py", "from flask import Flask,", "from flask import Flask, request,")
    with machine.host.sudo():
        machine.host.run("rm -f /srv/shop/data/posts")
    curl = f"curl -s -w '%{{http_code}}' -H 'Host: site.example' http://{machine.web.address}/"
    commands = "; ".join(f"{curl} -X {m} -o {tmp_path}/{m} > {tmp_path}/{m}.status" for m in ("POST", "GET"))
    run = deploy("whose workers exit", environment=at_task("Watch the release", commands))
    assert run.code != 0, run.output
    assert (tmp_path / "POST.status").read_text() == "502"
    assert (tmp_path / "GET.status").read_text() == "200"
    assert json.loads((tmp_path / "GET").read_text())["version"] == version
    with machine.host.sudo():
        assert machine.host.check_output("cat /srv/shop/data/posts") == "POST GET "


def test_no_release_is_live_after_a_failed_first_release(
    machine: Machine, play: Play, changed_app: Callable[..., list[str]], shop: Path
) -> None:
    edit(
        shop / "shop.py",
        "app = Flask",
        after_the_switch("os._exit(1)") + "app = Flask",
    )
    options = changed_app("shop", source=str(shop), domains=["novel.example"], watch_time=5)
    edit(Path(options[1].removeprefix("@")), "name: shop", "name: novel")
    run = play("deploy", *options, "-e", "app=novel")
    assert run.code != 0
    assert "No release is live, as before." in run.output, run.output
    with machine.host.sudo():
        assert machine.host.check_output("ls -A /srv/novel/releases") == ""
        assert machine.host.run("ls /srv/novel/live /etc/nginx/sites/novel.conf").stdout == ""
        assert machine.host.run("ls /etc/systemd/system | grep novel").stdout == ""


def test_larger_request_body_than_the_upload_limit_is_refused(machine: Machine, deploy: Deploy) -> None:
    assert deploy("with a small upload limit", upload_limit="1k").code == 0
    assert machine.web.ask(method="POST", body=b"x" * 2000).status == 413
    assert machine.web.ask(method="POST", body=b"x" * 500).status == 200


def test_process_that_exits_at_once_fails_the_deploy(machine: Machine, deploy: Deploy) -> None:
    live = machine.live("shop")
    run = deploy("with a process that fails", processes=[{"name": "mail", "command": "false"}])
    assert run.code != 0
    assert "shop.mail.1@" in run.output, run.output
    assert machine.live("shop") == live


def test_release_command_is_stopped_after_its_timeout(machine: Machine, deploy: Deploy) -> None:
    live = machine.live("shop")
    run = deploy("with a command that hangs", release_command="sleep 1000", release_timeout=3)
    assert run.code != 0
    assert "the release command did not end within 3 s" in run.output, run.output
    assert machine.live("shop") == live


def test_app_with_the_name_of_an_existing_user_is_refused(
    machine: Machine, play: Play, changed_app: Callable[..., list[str]], shop: Path
) -> None:
    options = changed_app("shop", source=str(shop))
    edit(Path(options[1].removeprefix("@")), "name: shop", "name: somebody")
    with machine.host.sudo():
        machine.host.run_expect([0], "useradd --create-home somebody")
        try:
            run = play("deploy", *options, "-e", "app=somebody")
            assert run.code != 0
            assert "user somebody already exists on this host, with the home /home/somebody" in run.output, run.output
            assert not machine.host.file("/srv/somebody").exists
        finally:
            machine.host.run_expect([0], "userdel --remove somebody")


def test_only_root_can_take_the_lock(machine: Machine) -> None:
    with machine.host.sudo():
        assert machine.host.check_output("stat -c '%U %a' /run/releases /run/releases/shop") == "root 700\nroot 700"
        assert machine.host.check_output("find /srv/shop -maxdepth 1 -writable -user shop") == "/srv/shop/data"


def test_build_left_by_a_killed_module_is_stopped_by_the_next_deploy(machine: Machine, deploy: Deploy) -> None:
    with machine.host.sudo():
        machine.host.run_expect([0], "systemd-run --collect --unit=release-build-shop.0.service sleep 600")
        assert deploy("after a killed build").code == 0
        assert machine.host.check_output("systemctl list-units --plain --no-legend 'release-build-shop.*'") == ""


def test_log_rate_of_an_app_is_limited_and_the_log_reports_it(
    machine: Machine, deploy: Deploy, play: Play, shop: Path
) -> None:
    flood = (
        "import threading\n\n\ndef flood():\n    while True:\n"
        "        for _ in range(20000):\n            print('x' * 100)\n"
        "        time.sleep(31)\n\n\nthreading.Thread(target=flood, daemon=True).start()\napp = Flask"
    )
    (shop / "shop.py").write_text((shop / "shop.py").read_text().replace("app = Flask", flood, 1))
    assert deploy("that logs without end").code == 0
    words = f"messages from shop@{machine.live('shop')}.service"
    find = f"journalctl --quiet --since='2 minutes ago' --grep='^Suppressed [0-9]+ {words}'"
    with machine.host.sudo():
        wait_for(lambda: machine.host.run(find).stdout, 90, "the journal has dropped messages")
    run = play("logs", "-e", "app=shop", "-e", "since='2 minutes ago'", "-e", "grep='^Suppressed [0-9]+ messages'")
    assert words in run.output, run.output
    assert machine.web.ask().status == 200


def test_live_release_is_restarted_without_a_limit(
    machine: Machine, deploy: Deploy, play: Play, shop: Path, tmp_path: Path
) -> None:
    needed = "/srv/shop/data/database"
    edit(shop / "shop.py", "app = Flask", f"open({needed!r})\napp = Flask")
    with machine.host.sudo():
        machine.host.run_expect([0], f"install -o shop /dev/null {needed}")
        assert deploy("that needs a database").code == 0
        unit = f"shop@{machine.live('shop')}.service"
        with short_restart_delay(machine, unit):
            machine.host.run_expect([0], f"rm {needed} && systemctl kill --kill-whom=main --signal=KILL {unit}")
            try:
                # More restarts than the five of systemd's default limit.
                wait_for(
                    lambda: int(machine.host.check_output(f"systemctl show --property=NRestarts --value {unit}")) > 5,
                    90,
                    "systemd has restarted it more than five times",
                )
                assert machine.host.run(f"systemctl is-failed {unit}").stdout.strip() != "failed"
                run = play("status", "-e", f"json={tmp_path / 'status.json'}")
            finally:
                machine.host.run_expect([0], f"install -o shop /dev/null {needed}")
            wait_for(lambda: machine.web.ask().status == 200, 60, "the site responds again with its database")
    assert run.code == 2, run.output
    assert "last error: FileNotFoundError" in run.output
    problems = json.loads((tmp_path / "status.json").read_text())["problems"]
    assert any(entry["app"] == "shop" and "FileNotFoundError" in entry["log"] for entry in problems), problems


def test_app_starts_after_databases_on_the_same_host(machine: Machine) -> None:
    after = machine.host.check_output(f"systemctl show --property=After --value shop@{machine.live('shop')}.service")
    assert {"postgresql.service", "mariadb.service", "redis-server.service"} <= set(after.split())
