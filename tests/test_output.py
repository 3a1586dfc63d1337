"""What a person reads at the end of a deploy or rollback: the playbooks and the role, with modules that do nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.module_utils.app_log import explain

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parent.parent
V1, V2 = "20260101T000000Z-00000000aa", "20260102T000000Z-00000000bb"
NEW = re.compile(r"\b20\d{6}T\d{6}Z-(?!0{5})\w+")  # a release that the run has created
# The action part of a module, which answers with the results in a file; it starts no program.
STUB = """
import json
from ansible.plugins.action import ActionBase

class ActionModule(ActionBase):
    _supports_check_mode = True

    def run(self, tmp=None, task_vars=None):
        with open("RESULTS.calls", "a") as file:
            print(json.dumps(["NAME", self._task.args]), file=file)
        with open("RESULTS") as file:
            results = json.load(file).get("NAME", {})
        return results.get(task_vars["inventory_hostname"]) or results.get("all") or {}
"""
LOCK = {
    "app": "shop",
    "token": "t",
    "by": "me",
    "live": V1,
    "confirmed": V1,
    "stopped": False,
    "restored": True,
    "settled": True,
    "stack": [V1],
    "rolled_back": [],
    "releases": {V1: ""},
}
SYSTEM = {"ID": "debian", "VERSION_ID": "13"}
REACHED = {"user": "me", "port": 22, "administrator": "admin", "sshd_port": 22, "python": True, "clock": True}
REACHED |= {"alerts": False, "metrics": False, "logs": False, "cores": 2, "redis": [], "certificates": []}
REACHED |= {"sudo_password_given": False}
CERTIFICATE = {"problem": "", "kept": []}
RESULTS: dict[str, Any] = {
    "reach_host": {"all": REACHED | {"system": SYSTEM}},
    "release_source": {"all": {"package": {"digest": "new", "time": "20260102T000000Z"}}},
    "release_lock": {"all": LOCK},
    "release_build": {"all": {"changed": True}},
    "release_start": {"all": {"changed": True}},
    "release_switch": {"all": {"changed": True, "uptime": 1.0}},
    "site_certificate": {"all": CERTIFICATE},
    "redis_instance": {"all": {"changed": True}},
    "release_undo": {"all": {"changed": True, "live": V1}},
}
Run = Callable[..., str]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project whose modules do nothing."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("ansible.cfg", "galaxy.yml", "meta", "plugins", "roles", "playbooks", "collections", "app"):
        path = PROJECT / name
        if path.is_dir():
            shutil.copytree(path, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, copy / name)
    for path in copy.glob("plugins/modules/*.py"):
        if path.stem == "release_choice":
            continue
        if path.stem.startswith("release_") or path.stem in ("reach_host", "redis_instance", "site_certificate"):
            stub = STUB.replace("RESULTS", str(copy / "results.json")).replace("NAME", path.stem)
            (copy / "plugins/action" / path.name).write_text(stub)
    return copy


@pytest.fixture
def run(project: Path) -> Run:
    """Run a playbook on two hosts; return its output."""

    def play(playbook: str, *options: str, **results: Any) -> str:
        (project / "results.json").write_text(json.dumps(RESULTS | results))
        (project / "results.json.calls").unlink(missing_ok=True)
        app = {"name": "shop", "domains": ["shop.example"], "source": "app", "wsgi": "main:app"}
        variables = {"ansible_connection": "local", "ansible_become": False, "apps": [app]}
        (project / "hosts").mkdir(exist_ok=True)
        webservers = {"hosts": {"web1": {}, "web2": {}}, "vars": variables}
        (project / "hosts/hosts.yml").write_text(yaml.safe_dump({"webservers": webservers}))
        own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        settings = {"ANSIBLE_CONFIG": str(project / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"}
        settings["ANSIBLE_PYTHON_INTERPRETER"] = sys.executable
        program = Path(sys.executable).parent / "ansible-playbook"
        return subprocess.run(
            [str(program), f"playbooks/{playbook}.yml", "-i", "hosts", *options],
            cwd=project,
            env=own | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ).stdout

    return play


def calls(project: Path, module: str) -> list[dict[str, Any]]:
    """The arguments of the calls of a module in the last run."""
    found = [json.loads(line) for line in (project / "results.json.calls").read_text().splitlines()]
    return [args for name, args in found if name == module]


def lines(output: str) -> list[str]:
    """The lines of the last play, without announcements and the recap, in the order of hosts."""
    body = output.partition("\nPLAY RECAP")[0].rpartition("\nPLAY [")[2].splitlines()
    return [re.sub(NEW, "NEW", line) for line in body[1:] if not line.startswith("running")]


def summary(output: str) -> list[str]:
    """The lines after the recap."""
    return output.partition("\nPLAY RECAP")[2].partition("\n\n")[2].splitlines()


SUMMARY = [
    "shop",
    f"  release   {V1} → NEW",
    "  open      https://shop.example/",
    "  log       ansible-playbook playbooks/logs.yml -i hosts -e app=shop",
]


def test_a_deploy_ends_with_missing_certificates_and_then_the_releases_the_address_and_the_log(run: Run) -> None:
    output = run("deploy", site_certificate={"web2": CERTIFICATE | {"problem": "shop: no address"}, "all": CERTIFICATE})
    # One line for each changed step on each host.
    assert [line.split("] ")[1] for line in lines(output)[:6:2]] == [
        "app : Build the release [shop]",
        "app : Start the release and check its health [shop]",
        "app : Switch nginx to the release [shop]",
    ]
    assert lines(output)[6] == "fatal: [web2]: FAILED! => Report missing certificates"
    assert lines(output)[-1] == "  shop: no address"
    assert [re.sub(NEW, "NEW", line) for line in summary(output)] == SUMMARY


def test_the_summary_is_the_last_text_also_when_a_later_play_fails(run: Run, project: Path) -> None:
    fail = {"name": "Fail", "ansible.builtin.fail": {"msg": "no space left"}}
    later = [{"import_playbook": "deploy.yml"}, {"name": "Set up backups", "hosts": "webservers", "tasks": [fail]}]
    (project / "playbooks/later.yml").write_text(yaml.safe_dump(later))
    output = run("later")
    assert "  no space left" in lines(output)
    assert [re.sub(NEW, "NEW", line) for line in summary(output)] == SUMMARY
    assert output.count("playbooks/logs.yml") == 1


def test_no_app_is_deployed_to_any_host_when_one_has_failed_before(run: Run, project: Path) -> None:
    check = {"import_playbook": "check.yml", "vars": {"checked_hosts": ["webservers"]}}
    fail = {"name": "Fail", "ansible.builtin.fail": {"msg": "no space left"}, "when": "inventory_hostname == 'web2'"}
    before = [check, {"name": "Provision", "hosts": "webservers", "tasks": [fail]}, {"import_playbook": "deploy.yml"}]
    (project / "playbooks/before.yml").write_text(yaml.safe_dump(before))
    output = run("before")
    assert "web2 failed before the deploy, so no app was deployed to any host." in output
    assert "--limit '!web2'" in output
    assert calls(project, "release_build") == []
    assert summary(output) == []


def test_an_unchanged_deploy_is_reported_in_a_few_lines(run: Run) -> None:
    state = LOCK | {"live": V2, "confirmed": V2, "releases": {V2: "new"}}
    output = run("deploy", "--limit", "web1", release_lock={"all": state}, release_build={})
    assert lines(output) == []
    assert summary(output)[:2] == ["shop", f"  release   {V2}, nothing to do"]
    assert len(summary(output)) == 4
    assert len([line for line in output.splitlines() if not line.startswith("running")]) <= 15


def test_a_deploy_with_the_name_of_an_account_is_refused_before_any_change(run: Run, project: Path) -> None:
    reached = RESULTS["reach_host"]["all"]
    output = run("deploy", reach_host={"web2": reached | {"accounts": {"shop": "/home/shop"}}, "all": reached})
    assert "No host was changed." in output
    assert "the user shop already exists on this host, with the home /home/shop, but not for this app" in output
    modules = [json.loads(line)[0] for line in (project / "results.json.calls").read_text().splitlines()]
    assert set(modules) == {"reach_host"}
    assert [args["accounts"] for args in calls(project, "reach_host")] == [["shop"], ["shop"]]


def test_check_mode_reports_what_would_change(run: Run) -> None:
    output = run("deploy", "--check", "--limit", "web1")
    assert summary(output) == ["shop", f"  would be  {V1} → a new release"]


KEPT = CERTIFICATE | {"kept": ["old.example"]}


def test_after_a_deploy_certificates_lose_domains_and_the_redis_of_an_app_that_no_longer_uses_it_is_stopped(
    run: Run, project: Path
) -> None:
    reached = RESULTS["reach_host"]["all"]
    redis = {"web1": reached | {"redis": ["shop", "other"]}, "all": reached}
    output = run("deploy", reach_host=redis, site_certificate={"all": KEPT})
    stopped = [line for line in lines(output) if "Redis" in line or "redis" in line]
    assert stopped == ["changed: [web1] redis : Stop the instances: shop"]
    asked = [args["keep_domains"] for args in calls(project, "site_certificate")]
    assert asked == [True, True, False, False], output


def test_a_failed_deploy_shows_the_error_once_then_which_release_is_live_and_certificates_keep_their_domains(
    run: Run, project: Path
) -> None:
    log = f"""Traceback (most recent call last):
  File "/srv/shop/releases/{V2}/source/main.py", line 3, in <module>
    SECRET = os.environ["SECRET_KEY"]
KeyError: 'SECRET_KEY'
"""
    error = explain("shop", f"release {V2} did not become ready. It stopped.", log, 1767225600)
    start = {"web2": {"failed": True, "msg": error}, "all": {"changed": True}}
    output = run("deploy", release_start=start, site_certificate={"all": KEPT})
    assert [args["keep_domains"] for args in calls(project, "site_certificate")] == [True, True], output
    shown = [line for line in lines(output) if not line.startswith("changed: ")]
    assert shown == [
        "fatal: [web2]: FAILED! => app : Start the release and check its health [shop]",
        "  shop: KeyError: 'SECRET_KEY' in main.py, line 3",
        f"  Release {V2} did not become ready. It stopped.",
        "  The end of its log:",
        "    Traceback (most recent call last):",
        '      File "main.py", line 3, in <module>',
        '        SECRET = os.environ["SECRET_KEY"]',
        "    KeyError: 'SECRET_KEY'",
        "  The whole log, on the host: sudo journalctl -u 'shop@*' -u 'shop.*' --since '2026-01-01 00:00 UTC'",
        "fatal: [web1]: FAILED! => app : Report which host failed, and which release is live [shop]",
        "  shop: the deploy failed on web2 and was undone on every host.",
        f"  Release {V1} is live, as before.",
        "  Fix the cause, which is in the error above, and run this again.",
    ]


def test_a_host_that_cannot_restore_the_previous_release_is_named(run: Run) -> None:
    failed = {"failed": True, "msg": "no space left"}
    undo = {"web2": failed, "all": {"changed": True, "live": V1}}
    output = run("deploy", release_start={"web2": failed, "all": {"changed": True}}, release_undo=undo)
    assert "  shop: the deploy failed on web2." in lines(output)
    assert "  web2 could not restore the previous release. The host tries again every ten seconds." in lines(output)
    assert summary(output) == []


def test_a_refused_rollback_changes_nothing_and_prints_the_reason_once(run: Run) -> None:
    output = run("rollback", "-e", "app=shop", "--limit", "web1", release_lock={"all": LOCK})
    assert lines(output) == [
        "fatal: [web1]: FAILED! => app : Refuse a rollback that is not possible on every host",
        "  The host has no good release before the live one. Nothing was changed. Good releases that are kept:",
        f"    web1  {V1}  (live)",
        "  To roll back to one of them: -e release=ID",
        "fatal: [web1]: FAILED! => app : Report which host failed, and which release is live",
        "  shop: the rollback failed on web1.",
        "  Nothing was changed.",
        "  Fix the cause, which is in the error above, and run this again.",
    ]


def test_a_rollback_ends_with_the_releases_too(run: Run) -> None:
    state = LOCK | {"live": V2, "confirmed": V2, "stack": [V1, V2], "releases": {V1: "", V2: ""}}
    output = run("rollback", "-e", "app=shop", "--limit", "web1", release_lock={"all": state})
    assert summary(output)[:2] == ["shop", f"  release   {V2} → {V1}"]


def test_the_status_has_a_row_for_a_host_that_has_only_databases(run: Run, tmp_path: Path) -> None:
    variables = {"ansible_connection": "local", "ansible_become": False}
    app = {"name": "shop", "domains": ["shop.example"], "source": "app", "wsgi": "main:app"}
    databases = {"databases": {"hosts": {"db1": {}}, "vars": variables}, "all": {"vars": {"apps": [app]}}}
    (tmp_path / "databases.yml").write_text(yaml.safe_dump(databases))
    shown = run("status", "-i", str(tmp_path / "databases.yml"))
    rows = [line.removeprefix("!").split() for line in shown.splitlines()]
    assert ["web1", "shop", "absent"] in [row[:3] for row in rows], shown
    assert ["db1", "-"] in [row[:2] for row in rows], shown
    assert not [row for row in rows if row[:2] == ["db1", "shop"]]


# --- webservers that can't be reached ---------------------------------------------------------------------------------


@pytest.fixture
def balanced(run: Run, project: Path, tmp_path: Path) -> Run:
    """Deploy with a balancer, whose roles only print what they get, and without web2, which can't be reached."""
    for role, part, text in (
        ("balancer", "disable", "disabled {{ balancer_disabled }}"),
        ("balancer", "main", "configured {{ balancer_disabled }} {{ balancer_enabled }}"),
        ("certificate", "remove_others", "-"),
    ):
        task = {"name": "Print", "ansible.builtin.debug": {"msg": text}}
        (project / f"roles/{role}/tasks/{part}.yml").write_text(yaml.safe_dump([task]))
    (project / "plugins/action/balancer_servers.py").write_text(
        STUB.replace("RESULTS", str(project / "results.json")).replace("NAME", "balancer_servers")
    )
    variables = {"ansible_connection": "local", "ansible_become": False, "ansible_host": "192.0.2.8"}
    addresses = {f"web{number}": {"ansible_host": f"192.0.2.{number}"} for number in (1, 2)}
    groups = {"balancers": {"hosts": {"lb1": variables}}, "all": {"hosts": addresses}}
    (tmp_path / "balancers.yml").write_text(yaml.safe_dump(groups))
    lost = {"unreachable": True, "msg": "no route to web2"}
    reached = {"web2": lost, "all": RESULTS["reach_host"]["all"]}
    return lambda *options: run("deploy", "-i", str(tmp_path / "balancers.yml"), *options, reach_host=reached)


def test_a_deploy_stops_before_any_change_if_a_webserver_cannot_be_reached(balanced: Run) -> None:
    output = balanced()
    assert "web2 (192.0.2.2) can't be reached: no route to web2" in output
    assert "To continue without this host: -e skip_unreachable=true" in output
    assert "changed: " not in output


def test_a_deploy_goes_on_without_a_webserver_that_the_balancers_have_disabled(balanced: Run) -> None:
    output = balanced("-e", "skip_unreachable=true")
    assert "fatal: [web1]" not in output, output
    disabled, switched = output.index("disabled ['web2']"), output.index("[web1] app : Switch nginx to the release")
    assert "configured ['web2'] ['web1']" in output, output
    assert disabled < switched < output.index("configured")
    assert "changed: [web2]" not in output
    assert re.search(r"^web2 +: ok=1 ", output, re.MULTILINE), output
