"""Runs of the playbooks that do not depend on the version of Debian. One machine is enough for these tests."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from testing import PROJECT, Machine, Run, Web

testinfra_hosts = ["ansible://debian13"]
Play = Callable[..., Run]
ChangedApp = Callable[..., list[str]]


@pytest.fixture
def restored(play: Play) -> Iterator[None]:
    """Deploy the state of the inventory again after the test."""
    yield
    assert play("deploy", "-e", "app=echo").code == 0


def test_firewall_rule_that_is_not_in_the_inventory_is_removed(machine: Machine, play: Play) -> None:
    with machine.host.sudo():
        machine.host.run_expect([0], "ufw allow from 192.0.2.7 to any port 4321 proto tcp comment 'by hand'")
        run = play("provision", "--diff")
        assert run.code == 0, run.output
        assert "-allow from 192.0.2.7 to any port 4321 proto tcp comment 'by hand'" in run.output
        assert "4321" not in machine.host.run("ufw status").stdout


def test_check_mode_reports_changes_and_makes_none(
    machine: Machine, play: Play, changed_app: ChangedApp, copy_of_app: Path
) -> None:
    (copy_of_app / "new.txt").write_text("new\n")
    live = machine.live("blueoctopus")
    options = changed_app("blueoctopus", source=str(copy_of_app), domains=["other.example"])
    run = play("site", "--check", "--diff", *options, "-e", '{"firewall_allow": [{"port": 7777}]}')
    assert run.code == 0, run.output
    assert run.recap(machine.name)["changed"] == 4, run.output  # firewall, release, switch, site
    for line in ("+allow 7777/tcp", " new.txt\n", f"-{live}\n", "+    server_name other.example;"):
        assert line in run.output, line
    assert machine.live("blueoctopus") == live


def test_renewal_for_an_app_without_https_is_refused(play: Play) -> None:
    run = play("certificate", "-e", "app=blueoctopus", "-e", "operation=renew")
    assert run.code != 0
    assert "blueoctopus has tls: none" in run.output


def test_example_plays_of_the_roles_run_in_check_mode(machine: Machine, play: Play, tmp_path: Path) -> None:
    """Check mode changes nothing; the argument specs of all examples are a test without a machine."""
    shutil.copytree(PROJECT / "app", tmp_path / "shop", ignore=shutil.ignore_patterns("__pycache__"))
    plays = []
    for readme in sorted(PROJECT.glob("roles/*/README.md")):
        # The first example of each role. The scenario releases runs the second one of the role app, which rolls back.
        example = readme.read_text().split("```yaml\n")[1].split("```")[0]
        plays += yaml.safe_load(example.replace("~/.ssh/id_ed25519", machine.variables["ansible_ssh_private_key_file"]))
    for example in plays:
        example["hosts"] = machine.name  # also those for balancers, monitors and hosts that keep backups
    (tmp_path / "examples.yml").write_text(yaml.safe_dump(plays, sort_keys=False))
    run = play(os.path.relpath(tmp_path / "examples", PROJECT / "playbooks"), "--check")
    assert run.code == 0, run.output
    assert run.output.count("\nPLAY [") == len(plays), run.output
    assert "no hosts matched" not in run.output, run.output
    assert machine.web.ask("/").status == 200


def test_output_contains_no_secrets(play: Play, changed_app: ChangedApp) -> None:
    options = changed_app("echo", secrets={"SECRET_KEY": "squid-ink-4712"})
    run = play("deploy", "--check", "--diff", "-vvv", *options)
    assert run.code == 0
    assert "squid-ink" not in run.output


@pytest.mark.usefixtures("restored")
def test_an_encrypted_secret_reaches_the_app(play: Play, changed_app: ChangedApp, echo: Web, tmp_path: Path) -> None:
    password = tmp_path / "vault-password"
    password.write_text("correct horse\n")
    folder = tmp_path / "inventory/group_vars/webservers"
    folder.mkdir(parents=True)
    (tmp_path / "inventory/hosts.yml").write_text("---\n")
    encrypt = [
        "ansible-vault",
        "encrypt",
        "--vault-password-file",
        str(password),
        "--output",
        str(folder / "vault.yml"),
    ]
    subprocess.run(encrypt, input="vault_secret_key: squid-ink-4713\n", text=True, check=True)
    options = [
        "-i",
        str(tmp_path / "inventory"),
        *changed_app("echo", secrets={"SECRET_KEY": "{{ vault_secret_key }}"}),
    ]
    run = play("deploy", *options)
    assert run.code != 0
    assert "this run has no vault password" in run.output
    run = play("deploy", "-vvv", *options, environment={"ANSIBLE_VAULT_PASSWORD_FILE": str(password)})
    assert run.code == 0, run.output
    assert "squid-ink" not in run.output
    assert echo.ask("/").json["secret_digest"] == hashlib.sha256(b"squid-ink-4713").hexdigest()
