"""The confirmation over a new connection: which change it confirms, with and without a password for sudo."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.module_utils.lockout import PROGRAM, STATE, UNDO

PROJECT = Path(__file__).resolve().parent.parent
TOO_LATE = "Too late: the host has undone the change."
# For each host: the tokens of the users, of SSH and of the firewall, the password for sudo, and the confirmed token.
HOSTS = {
    "unchanged": (["", "", ""], "", ""),
    "first": (["a1", "", ""], "", "a1"),
    "last": (["b1", "b2", ""], "", "b2"),
    "password": (["", "", "c1"], "it's secret", "c1"),
    "late": (["d1", "", ""], "", "d1"),
}
# Records the command line that has started it and the password that it reads, and runs the program as its own user.
SUDO = f"""#!/bin/sh
for token; do :; done
tr '\\0' ' ' </proc/$PPID/cmdline >$token.arguments
echo "$*" >>$token.arguments
[ "$1" = -n ] || read -r password
echo "${{password:-}}" >$token.password
while [ "$1" != {PROGRAM} ]; do shift; done
shift
exec ./undo-lockout "$@"
"""


class Run:
    """The task of playbooks/provision.yml that confirms the changes, on this computer, with a cache of facts.

    The program of a host has a folder for each token.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        scripts = {"sudo": SUDO, "systemctl": "#!/bin/sh\n", "undo-lockout": UNDO.replace(str(STATE), '"$2"')}
        for name, text in scripts.items():
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        variables: dict[str, Any] = {}
        for host, (tokens, password, confirmed) in HOSTS.items():
            results = dict(zip(["admin_result", "ssh_result", "firewall_result"], map(as_result, tokens), strict=True))
            variables[host] = results | {"ansible_become_password": password}
            if confirmed:
                (folder / confirmed).mkdir()
                (folder / confirmed / "armed").write_text("other" if host == "late" else confirmed)
        plays = yaml.safe_load((PROJECT / "playbooks/provision.yml").read_text())
        tasks = [task for play in plays for task in play.get("tasks", []) if "blueoctopus.site.confirm_access" in task]
        common = {"administrator": "anna", "sshd_port": 22}
        (folder / "play.yml").write_text(
            yaml.safe_dump([{"hosts": "all", "become": True, "vars": common, "tasks": tasks}])
        )
        (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": variables}}))
        # The module set_fact stores a fact like a module that returns it does.
        self.start(
            "ansible", "all", "-m", "ansible.builtin.set_fact", "-a", "unconfirmed_access=0123abcd cacheable=true"
        )
        self.output = self.start("ansible-playbook", "play.yml")

    def start(self, program: str, *arguments: str) -> str:
        """Run one of Ansible's programs; return its output."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        environment |= {"PATH": f"{self.folder}:{os.environ['PATH']}", "ANSIBLE_CONFIG": f"{PROJECT}/ansible.cfg"}
        environment |= {"ANSIBLE_CACHE_PLUGIN": "jsonfile", "ANSIBLE_CACHE_PLUGIN_CONNECTION": f"{self.folder}/facts"}
        return subprocess.run(
            [program, "-i", "hosts.yml", "-c", "local", *arguments],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ).stdout

    def failed(self, host: str) -> bool:
        return f"fatal: [{host}]" in self.output


def as_result(token: str) -> dict[str, str]:
    """The result of a module."""
    return {"token": token}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("confirm"))


def test_a_run_without_changes_ignores_the_token_of_an_earlier_run(run: Run) -> None:
    assert list(run.folder.glob("facts/*")), run.output
    assert not run.failed("unchanged"), run.output
    assert not (run.folder / "0123abcd.arguments").exists()


@pytest.mark.parametrize("host", ["first", "last", "password"])
def test_the_last_change_is_confirmed(run: Run, host: str) -> None:
    tokens, password, confirmed = HOSTS[host]
    assert not run.failed(host), run.output
    assert [token for token in tokens if (run.folder / f"{token}.arguments").exists()] == [confirmed]
    assert not (run.folder / confirmed / "armed").exists()
    assert (run.folder / f"{confirmed}.password").read_text() == f"{password}\n"
    assert "secret" not in (run.folder / f"{confirmed}.arguments").read_text()


def test_a_change_that_the_host_has_undone_is_an_error(run: Run) -> None:
    assert run.failed("late"), run.output
    assert TOO_LATE in run.output
