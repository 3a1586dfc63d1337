"""Hosts that set themselves up: script/pull ends with the release of the others, and only then lets requests in."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).resolve().parent.parent
GATE_OPENED = "systemctl stop pull-gate.service"


class Host:
    """A checkout with the tools replaced by ones that write what they do to a log."""

    def __init__(self, folder: Path) -> None:
        self.log, self.state, self.clone = folder / "log", folder / "state", folder / "clone"
        self.origin, self.tools = folder / "origin", folder / "tools"
        for path in (self.state, self.tools, self.origin / "script"):
            path.mkdir(parents=True)
        shutil.copy2(PROJECT / "script/pull", self.origin / "script/pull")
        self.git("init", "--quiet")
        self.commit()
        subprocess.run(["git", "clone", "--quiet", self.origin, self.clone], check=True)
        self.tool(self.clone / ".venv/bin/ansible-pull", self.applying())
        self.tool(self.clone / ".venv/bin/uv", "")
        self.tool(self.tools / "systemctl", f'echo "systemctl $*" >> {self.log}')

    def applying(self) -> str:
        """What stands in for ansible-pull: it fetches as ansible-pull does."""
        return f'git -C {self.clone} fetch --quiet --tags origin || exit; echo "pull $*" >> {self.log}'

    def tool(self, path: Path, body: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def git(self, *args: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        return subprocess.check_output(["git", *identity, *args], cwd=self.origin, text=True).strip()

    def commit(self, live: bool = False) -> str:
        """Add a commit to the repository, and move the branch live to it if asked."""
        self.git("add", ".")
        self.git("commit", "--quiet", "--allow-empty", "--message", "change")
        if live:
            self.git("branch", "--force", "live")
        return self.git("rev-parse", "HEAD")

    def pull(self) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        environment = os.environ | {"PATH": f"{self.tools}:{os.environ['PATH']}", "STATE_DIRECTORY": str(self.state)}
        return subprocess.run([self.clone / "script/pull"], env=environment, capture_output=True, text=True)

    def steps(self) -> list[str]:
        """The commits that were applied, and the opening of the gate, in their order."""
        lines = self.log.read_text().splitlines()
        return [line.split("--checkout ")[1].split()[0] if line.startswith("pull") else line for line in lines]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_commit_of_the_others_is_applied_though_there_are_newer_ones(host: Host) -> None:
    live = host.commit(live=True)
    host.commit()
    done = host.pull()
    assert done.returncode == 0, done.stderr
    assert host.steps() == [live, GATE_OPENED]
    (group,) = yaml.safe_load((host.state / "hosts.yml").read_text()).values()
    ((name, variables),) = group["hosts"].items()
    assert f"--limit {name} playbooks/site.yml" in host.log.read_text()
    assert variables["ansible_connection"] == "local"


def test_a_deploy_to_the_others_in_the_meantime_is_applied_before_the_host_gets_requests(host: Host) -> None:
    first = host.commit(live=True)
    second = host.commit()
    moved = host.state / "moved"
    host.tool(
        host.clone / ".venv/bin/ansible-pull",
        f"{host.applying()}; [ -e {moved} ] || git -C {host.origin} branch --force live {second}; touch {moved}",
    )
    assert host.pull().returncode == 0
    assert host.steps() == [first, second, GATE_OPENED]


def test_after_a_failure_the_host_gets_no_requests_and_the_next_run_tries_again(host: Host) -> None:
    live = host.commit(live=True)
    working = (host.clone / ".venv/bin/ansible-pull").read_text()
    host.tool(host.clone / ".venv/bin/ansible-pull", "exit 2")
    assert host.pull().returncode == 2
    assert host.steps() == []
    (host.clone / ".venv/bin/ansible-pull").write_text(working)
    assert host.pull().returncode == 0
    assert host.steps() == [live, GATE_OPENED]


def test_without_a_new_commit_only_the_gate_opens(host: Host) -> None:
    host.commit(live=True)
    host.pull()
    assert host.pull().returncode == 0
    assert host.steps() == [GATE_OPENED]


def test_a_rollback_of_the_others_is_followed(host: Host) -> None:
    first = host.commit(live=True)
    host.commit(live=True)
    host.pull()
    host.git("branch", "--force", "live", first)
    host.pull()
    assert host.steps() == [first, GATE_OPENED]


def test_a_repository_without_the_branch_is_an_error_that_says_what_to_do(host: Host) -> None:
    done = host.pull()
    assert done.returncode != 0
    assert "git push --force origin HEAD:live" in done.stderr
    assert host.steps() == []


def test_a_lost_repository_is_an_error_and_keeps_the_gate_closed(host: Host) -> None:
    host.commit(live=True)
    shutil.rmtree(host.origin)
    done = host.pull()
    assert done.returncode != 0
    assert "git push" not in done.stderr
    assert host.steps() == []


def test_the_example_for_cloud_init_closes_the_gate_at_each_boot_and_runs_the_script() -> None:
    example = yaml.safe_load((PROJECT / "examples/pull/cloud-init.yml").read_text())
    files = {file["path"]: file["content"] for file in example["write_files"]}
    gate = files["/etc/systemd/system/pull-gate.service"]
    assert "Before=nginx.service" in gate
    # Opening the gate must not stop nginx, and a restart of nginx must not close it.
    assert "nginx" not in gate.replace("Before=nginx.service", "")
    assert "ExecStart=/opt/site/script/pull" in files["/etc/systemd/system/pull.service"]
    assert example["runcmd"][-1] == ["systemctl", "enable", "--now", "pull-gate.service", "pull.timer"]
