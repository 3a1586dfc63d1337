"""A host that sets itself up: cloud-init runs the file of the documentation, and clients get only the live release."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from testing import PROJECT, Door, Web, wait_for

MACHINE = "machine-pull"
DOMAIN = "pull.example"
CLOUD_INIT = """set -e
apt-get update >/dev/null
DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends cloud-init >/dev/null
mkdir -p /var/lib/cloud/seed/nocloud
echo 'instance-id: one' >/var/lib/cloud/seed/nocloud/meta-data
echo 'datasource_list: [NoCloud]' >/etc/cloud/cloud.cfg.d/90-source.cfg
echo 'network: {config: disabled}' >/etc/cloud/cloud.cfg.d/91-network.cfg
echo 'ssh_deletekeys: false' >/etc/cloud/cloud.cfg.d/92-keys.cfg
echo 'policy: enabled' >/etc/cloud/ds-identify.cfg
cat >/var/lib/cloud/seed/nocloud/user-data
"""
# The lines of the file that the documentation says to replace.
SECRET = "your-secret-store-client read site/vault-password"
URL = "https://git.example.org/site.git"


class Repository:
    """The repository of the site: this project, with an app and the administrator's key."""

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        names = subprocess.check_output(["git", "ls-files", "-z"], cwd=PROJECT, text=True).split("\0")
        for name in filter(None, names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, folder / name, follow_symlinks=False)
        app = {"name": "shop", "domains": [DOMAIN], "source": "app", "wsgi": "main:app", "tls": "none"}
        settings = {"apps": [app | {"health_path": "/healthz"}], "admin_keys": [key]}
        (folder / "inventory/production/group_vars/webservers/main.yml").write_text(yaml.safe_dump(settings))
        (folder / "inventory/production/hosts.yml").write_text("webservers: {hosts: {}}\n")
        self.git("init", "--quiet")

    def git(self, *args: str) -> None:
        """Run git."""
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *identity, *args], cwd=self.folder, check=True)

    def commit(self, text: str) -> None:
        """Add a commit whose app responds with a text."""
        (self.folder / "app/templates/index.html").write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", text)


@pytest.fixture
def computer() -> Iterator[dict[str, Any]]:
    """A fresh machine, which no inventory has."""
    program = PROJECT / "script/machine"
    yield json.loads(subprocess.check_output([program, "up", MACHINE], text=True))
    subprocess.run([program, "down", MACHINE], check=True)


@pytest.fixture
def repository(computer: dict[str, Any], tmp_path: Path) -> Iterator[Repository]:
    """The repository, which the machine can reach."""
    key = Path(f"{computer['private_key']}.pub").read_text().strip()
    made = Repository(tmp_path / "site", key)
    listen = [f"--listen={computer['gateway']}", "--port=9419", "--reuseaddr"]
    daemon = subprocess.Popen(["git", "daemon", *listen, "--export-all", f"--base-path={tmp_path}", str(tmp_path)])
    yield made
    daemon.terminate()
    daemon.wait()


def user_data(gateway: str) -> str:
    """The file of the documentation, with the lines replaced that it says to replace."""
    text = (PROJECT / "examples/pull/cloud-init.yml").read_text()
    assert SECRET in text
    assert URL in text
    return text.replace(SECRET, "echo secret").replace(URL, f"git://{gateway}:9419/site")


def first_response(web: Web, seconds: float, why: str) -> str:
    """Wait for the first response of any kind, and return its text."""
    return str(wait_for(lambda: (answer := web.ask()) and f"{answer.status} {answer.text}", seconds, why))


def test_a_host_sets_itself_up_and_after_each_boot_its_first_response_is_of_the_live_release(
    computer: dict[str, Any], repository: Repository
) -> None:
    variables = {
        "ansible_host": computer["address"],
        "ansible_user": "root",
        "ansible_ssh_private_key_file": computer["private_key"],
        "ansible_ssh_common_args": f"-o UserKnownHostsFile={computer['known_hosts']}",
    }
    door, web = Door(variables), Web(computer["address"], 80, DOMAIN)
    repository.commit("the live release")
    repository.git("branch", "live")
    repository.commit("not deployed yet")

    prepared = door.ssh(f"{CLOUD_INIT.strip()} <<'DATA'\n{user_data(computer['gateway'])}\nDATA\nreboot", "root")
    assert prepared.returncode in {0, 255}, prepared.stderr
    try:
        assert first_response(web, 600, "the host serves the app") == "200 the live release"
    except AssertionError:
        shown = door.ssh("cloud-init status --long; journalctl --no-pager --unit pull --unit cloud-final", "root")
        print(shown.stdout, shown.stderr, door.ssh("sudo journalctl --no-pager --unit pull").stdout)
        raise

    # It is off while the others get a new release.
    repository.git("branch", "--force", "live", "HEAD")
    door.ssh("sudo reboot")
    wait_for(lambda: not accepts(web), 30, "the host is off, or its gate is closed")
    assert first_response(web, 300, "the host serves the app again") == "200 not deployed yet"
    assert door.ssh("systemctl is-active pull-gate.service").stdout == "inactive\n"


def accepts(web: Web) -> bool:
    """Whether the host accepts a request."""
    try:
        web.ask()
    except OSError:
        return False
    return True
