"""The ways of setting up the site that are measured: this project, and what people use instead.

All get the same packages, the same source of the app and, except this project, the same configuration files.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from benchmarks.hosts import ADMIN, BENCHMARKS, PROJECT, BenchError, Command, Done, Lab, Machine

APP = "blueoctopus"
PYINFRA = PROJECT / ".bench/venv/bin/pyinfra"
# Parts of the app's source that no host needs.
NOT_DEPLOYED = shutil.ignore_patterns("__pycache__", "tests", "requirements-dev.*", "*.in")


@functools.cache
def packages() -> list[str]:
    """The Debian packages that site.yml installs on a webserver."""
    base = yaml.safe_load((PROJECT / "roles/base/defaults/main.yml").read_text())
    plays = yaml.safe_load((PROJECT / "playbooks/provision.yml").read_text())
    (variables,) = [play["vars"] for play in plays if "packages_of_roles" in play.get("vars", {})]
    return sorted({*base["base_packages"], *variables["packages_of_roles"], *variables["packages_for_apps"]})


@dataclass
class Site:
    """A machine that becomes the site, and its folder on the control node: files/, source/, key.pub, hosts/.

    Args:
        machine: the machine.
        folder: the folder, made by `prepare`.
        login: the user who can log in: root on a fresh machine, the administrator afterwards.
    """

    machine: Machine
    folder: Path
    login: str = "root"

    @property
    def environment(self) -> dict[str, str]:
        """What each way needs to know."""
        return {
            "ADDRESS": self.machine.address,
            "ADMIN_ADDRESS": self.machine.gateway,
            "FOLDER": str(self.folder),
            "KEY": self.machine.private_key,
            "KNOWN_HOSTS": self.machine.known_hosts,
            "LOGIN_USER": self.login,
            "PACKAGES": " ".join(packages()),
        }

    def set_version(self, version: str) -> None:
        """Change the code of the app; `/version` then answers with this version."""
        (self.folder / "source/version.txt").write_text(f"{version}\n")

    def version(self) -> str:
        """The version in the code."""
        return (self.folder / "source/version.txt").read_text().strip()


def write_inventory(folder: Path, machines: list[Machine], source: Path, domain: str) -> Path:
    """Write the inventory of this project, a folder, for machines that serve the app in `source`."""
    hosts = {
        machine.name: {
            "ansible_host": machine.address,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": machine.private_key,
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={machine.known_hosts}",
        }
        for machine in machines
    }
    app = {
        "name": APP,
        "domains": [domain],
        "source": str(source),
        "wsgi": "bench:app",
        "health_path": "/healthz",
        "tls": "none",
        "limits": {"requests": 0, "burst": 0, "connections": 0},  # all load comes from one client
    }
    variables = {"admin_addresses": [machines[0].gateway], "apps": [app]}
    folder.mkdir(exist_ok=True)
    text = yaml.safe_dump({"webservers": {"hosts": hosts, "vars": variables}}, sort_keys=False)
    (folder / "hosts.yml").write_text(f"---\n{text}")
    return folder


def write_source(folder: Path) -> Path:
    """Copy the app that ships with the project, with the routes for measurements; return the folder."""
    shutil.copytree(PROJECT / "app", folder, ignore=NOT_DEPLOYED, dirs_exist_ok=True)
    shutil.copy(BENCHMARKS / "app/bench.py", folder)
    (folder / "version.txt").write_text("first\n")
    return folder


def prepare(lab: Lab, machine: Machine) -> Site:
    """Write the files of a machine; this is not part of any measured time."""
    folder = lab.folder / machine.name
    shutil.rmtree(folder, ignore_errors=True)
    values = {
        "@ADDRESS@": machine.address,
        "@ADMIN_ADDRESS@": machine.gateway,
        "@WORKERS@": str(2 * len(os.sched_getaffinity(0)) + 1),
    }
    for path in sorted((BENCHMARKS / "files").rglob("*")):
        if path.is_file():
            text = path.read_text()
            for name, value in values.items():
                text = text.replace(name, value)
            target = folder / path.relative_to(BENCHMARKS)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    source = write_source(folder / "source")
    public = Path(f"{machine.private_key}.pub")
    (folder / "key.pub").write_text(public.read_text() if public.exists() else "")
    write_inventory(folder / "hosts", [machine], source, machine.address)
    return Site(machine, folder)


@dataclass(frozen=True)
class Way:
    """One way of setting up the site.

    Args:
        name: its name in the results.
        title: its name for readers.
        provision: the command that makes a fresh machine into the site; run again, it changes nothing.
        unchanged: a pattern in the output of a run that has changed nothing.
        deploy, rollback: the commands for these, if it has them.
        base: the way that sets up its machine, if not itself.
    """

    name: str
    title: str
    provision: Callable[[Site], Command]
    unchanged: str = ""
    deploy: Callable[[Site], Command] | None = None
    rollback: Callable[[Site], Command] | None = None
    base: str = ""

    def check_unchanged(self, done: Done) -> None:
        """Fail if a run has changed something.

        Raises:
            BenchError: with the end of the output.
        """
        output = done.output + done.errors
        if not re.search(self.unchanged, output, re.MULTILINE):
            said = "\n".join(output.strip().splitlines()[-25:])
            raise BenchError(f"The second run of {self.title} changed something, so it is not measured:\n{said}")


def playbook(name: str, *options: str) -> Callable[[Site], Command]:
    """A playbook of this project."""
    program = str(PROJECT / ".venv/bin/ansible-playbook")
    return lambda site: Command((program, f"playbooks/{name}.yml", "-i", str(site.folder / "hosts"), *options))


def script(path: str) -> Callable[[Site], Command]:
    """A script of a competitor."""
    return lambda site: Command((str(BENCHMARKS / path),), environment=site.environment)


def with_pyinfra(site: Site) -> Command:
    """The deploy of benchmarks/pyinfra."""
    argv = (str(PYINFRA), "--yes", "inventory.py", "deploy.py")
    return Command(argv, BENCHMARKS / "pyinfra", site.environment)


def as_in_tutorials(site: Site) -> Command:
    """The playbook of benchmarks/ansible, with Ansible's default settings."""
    machine = site.machine
    values = {"folder": str(site.folder), "admin_address": machine.gateway, "packages": packages()}
    login = ("--user", site.login, "--private-key", machine.private_key)
    known = f"--ssh-common-args=-o UserKnownHostsFile={machine.known_hosts}"
    argv = (str(PROJECT / ".venv/bin/ansible-playbook"), "site.yml", "-i", f"{machine.address},", *login, known)
    return Command((*argv, "--extra-vars", json.dumps(values)), BENCHMARKS / "ansible")


# Of every host.
NO_CHANGES_IN_RECAP = r"\A(?![\s\S]*\b(?:changed|failed|unreachable)=[1-9])(?=[\s\S]*\bchanged=0\b)"
OURS = Way(
    "ours",
    "site.yml",
    playbook("site"),
    NO_CHANGES_IN_RECAP,
    playbook("deploy"),
    playbook("rollback", "-e", f"app={APP}"),
)
SHELL = Way("shell", "one script over SSH", script("shell/run.sh"), r"^changes: 0$")
WITH_PYINFRA = Way("pyinfra", "pyinfra", with_pyinfra, r"^\s*Grand total +\d+ +- +- +\d+ *$")
ANSIBLE = Way("ansible", "Ansible as in tutorials", as_in_tutorials, NO_CHANGES_IN_RECAP)
CAPISTRANO = Way(
    "capistrano",
    "the Capistrano way",
    script("shell/run.sh"),
    deploy=script("capistrano/deploy.sh"),
    rollback=script("capistrano/rollback.sh"),
    base="shell",
)
PROVISIONING = (OURS, SHELL, WITH_PYINFRA, ANSIBLE)
DEPLOYING = (OURS, CAPISTRANO)


def administrator(site: Site) -> None:
    """From now on, log in as the administrator, because root can't log in any more."""
    site.login = ADMIN
