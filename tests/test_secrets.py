"""Secrets: the commands of docs/secrets.md as they are written, and one clear error when a secret is not readable."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
PROJECT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
SETTINGS = "inventory/production/group_vars/webservers/main.yml"
VAULT = "inventory/production/group_vars/webservers/vault.yml"
DEPLOY = "ansible-playbook playbooks/deploy.yml -i inventory/production"
SITE = "ansible-playbook playbooks/site.yml -i inventory/production -e patience=0"
PRINT_SECRETS = "ansible webservers -i inventory/production -m ansible.builtin.debug -a 'var=apps[0].secrets'"

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, in which no host can be reached."""
    copy = tmp_path / "project"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source = PROJECT / name
        if source.is_symlink() or source.is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy / name, follow_symlinks=False)
    hosts = copy / "inventory/production/hosts.yml"
    hosts.write_text(hosts.read_text().replace("203.0.113.10", "127.0.0.1\n      ansible_port: 9", 1))
    return copy


@pytest.fixture
def run(project: Path, tmp_path: Path) -> Run:
    """Run shell commands in the copy, as a user with an empty home."""
    home = tmp_path / "home"
    home.mkdir()

    def started(commands: str, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            cwd=project,
            env=kept
            | {"HOME": str(home), "PATH": f"{TOOLS}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1"}
            | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return started


@pytest.fixture
def password(tmp_path: Path) -> Path:
    """A file with a vault password."""
    file = tmp_path / "password"
    file.write_text("correct horse\n")
    return file


def documented(page: str, heading: str) -> list[str]:
    """The shell commands in a section of a page."""
    _, found, rest = (PROJECT / page).read_text().partition(f"\n## {heading}\n")
    assert found, f"{page} has no section {heading}"
    blocks = re.findall(r"```sh\n(.*?)```", rest.partition("\n## ")[0], re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line and not line.startswith("#")]


def encrypt(project: Path, password: Path, text: str, name: str = VAULT) -> None:
    """Write an encrypted file into the copy."""
    options = ["--vault-password-file", str(password), "--output", str(project / name)]
    command = [str(TOOLS / "ansible-vault"), "encrypt", *options]
    subprocess.run(command, input=text, text=True, check=True, capture_output=True)


def set_secret(project: Path, value: str) -> None:
    """Give the app of the inventory a secret, in YAML."""
    file = project / SETTINGS
    text, changes = re.subn(r"(?m)^( +)# secrets: .*$", lambda m: f"{m[1]}secrets: {value}", file.read_text())
    assert changes == 1
    file.write_text(text)


# --- the commands of the guide --------------------------------------------------------------------------------------


def test_six_documented_commands_deploy_a_first_secret(run: Run, tmp_path: Path) -> None:
    commands = documented("docs/secrets.md", "From no vault to a deployed secret")[:6]
    assert commands == documented("docs/ru/README.md", "8. Секреты")[:6]
    assert len(commands) == 6
    assert commands[-1] == DEPLOY
    done = run("\n".join([*commands[:-1], PRINT_SECRETS]))
    assert done.returncode == 0, done.stdout
    assert re.search(r"SECRET_KEY: '?[0-9a-f]{64}'?\n", done.stdout), done.stdout
    (file,) = (path for path in (tmp_path / "home/.config").rglob("*") if path.is_file())
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o600, 0o700]
    # The deploy itself ends where the host is reached; everything before that works with the encrypted file.
    deploy = run(commands[-1], ANSIBLE_VAULT_PASSWORD_FILE=str(file))
    assert "web1 (127.0.0.1) can't be reached: " in deploy.stdout, deploy.stdout
    assert "The inventory has" not in deploy.stdout


def test_documented_commands_leave_only_encrypted_secrets_in_the_project(run: Run, project: Path) -> None:
    commands = documented("docs/secrets.md", "From no vault to a deployed secret")[:5]
    done = run("\n".join(["git init -q .", "git add .", *commands, "git add --all", "git diff --cached --name-only"]))
    assert done.returncode == 0, done.stdout
    assert (project / VAULT).read_text().startswith("$ANSIBLE_VAULT;")
    decrypted = run(
        f"ansible-vault view {VAULT}", ANSIBLE_VAULT_PASSWORD_FILE="~/.config/blueoctopus/vault-password"
    ).stdout
    secret = decrypted.partition("vault_secret_key: ")[2].strip()
    assert len(secret) == 64
    assert not [path for path in project.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_the_vault_file_is_committed_and_password_files_in_the_root_of_the_project_are_not(
    run: Run, project: Path, password: Path
) -> None:
    names = ["vault-password", ".vault_pass", ".vault_pass.txt", "vault_password", ".vault-pw"]
    for name in names:
        (project / name).write_text("correct horse\n")
    encrypt(project, password, "vault_secret_key: x\n")
    committed = run("git init -q . && git add . && git ls-files").stdout.splitlines()
    assert VAULT in committed
    assert not {*names} & {*committed}


# --- errors ---------------------------------------------------------------------------------------------------------


def test_a_vault_file_without_its_password_is_named_before_the_first_play(
    run: Run, project: Path, password: Path
) -> None:
    encrypt(project, password, "vault_secret_key: x\n")
    done = run(SITE)
    assert done.returncode != 0
    assert done.stdout.startswith(f"[ERROR]: {VAULT} can't be decrypted: this run has no vault password."), done.stdout
    assert "Set ANSIBLE_VAULT_PASSWORD_FILE to the path of the password file, or add --ask-vault-pass" in done.stdout
    assert "PLAY [" not in done.stdout


def test_settings_that_ansible_would_ignore_are_refused_before_the_first_play(run: Run, project: Path) -> None:
    (project / "inventory/production/group_vars/webservers.yml").write_text("ssh_port: 2222\n")
    done = run(SITE)
    assert done.returncode != 0
    assert done.stdout.startswith(
        "[ERROR]: Ansible reads inventory/production/group_vars/webservers/ and would ignore "
    )
    assert "Keep only the folder" in done.stdout
    assert "PLAY [" not in done.stdout


def test_each_secret_that_cannot_be_evaluated_is_named_with_host_app_and_key_and_not_shown(
    run: Run, project: Path
) -> None:
    set_secret(project, '{GOOD: fine, ONE: "{{ vault_one }}", TWO: "x{{ vault_two }}", BAD: "pa{{ss w0rd"}')
    (project / SETTINGS).open("a").write('certificate_dns_credentials: "{{ vault_dns_token }}"\n')
    done = run(SITE)
    assert done.returncode != 0
    assert "The inventory has 4 problems. No host was changed.\n" in done.stdout, done.stdout
    for place, variable in {
        "app blueoctopus, key secrets.ONE": "vault_one",
        "app blueoctopus, key secrets.TWO": "vault_two",
        "key certificate_dns_credentials": "vault_dns_token",
    }.items():
        assert f"host web1, {place}\n    found:    '{variable}' is undefined\n" in done.stdout
    assert "see docs/secrets.md" in done.stdout
    assert "host web1, app blueoctopus, key secrets.BAD\n" in done.stdout
    assert "the tag !unsafe" in done.stdout
    assert "w0rd" not in done.stdout
    assert "Connect to every host" not in done.stdout


@pytest.mark.parametrize("playbook", ["site", "status"])
def test_an_encrypted_value_without_its_password_is_named(
    run: Run, project: Path, password: Path, playbook: str
) -> None:
    command = [str(TOOLS / "ansible-vault"), "encrypt_string", "--vault-password-file", str(password), "hello"]
    encrypted = subprocess.check_output(command, text=True)
    set_secret(project, "\n      SECRET_KEY: " + encrypted)
    played = SITE.replace("site.yml", f"{playbook}.yml")
    done = run(played)
    assert done.returncode != 0
    assert "The inventory has a problem. No host was changed.\n" in done.stdout, done.stdout
    assert "host web1, app blueoctopus, key secrets.SECRET_KEY\n" in done.stdout
    assert "found:    an encrypted value that can't be decrypted: this run has no vault password\n" in done.stdout
    assert "export ANSIBLE_VAULT_PASSWORD_FILE=" in done.stdout
    assert "Connect to every host" not in done.stdout
    if playbook == "site":
        done = run(played, ANSIBLE_VAULT_PASSWORD_FILE=str(password))
        assert "web1 (127.0.0.1) can't be reached: " in done.stdout
        assert "hello" not in done.stdout


def test_a_value_that_uses_hostvars_is_refused_with_another_way(run: Run, project: Path) -> None:
    set_secret(project, "{HOST: \"{{ hostvars['web1'].ansible_host }}\"}")
    done = run(SITE)
    assert done.returncode != 0
    assert (
        "app blueoctopus, key secrets.HOST\n    found:    hostvars, which Ansible does not provide here" in done.stdout
    )
    assert "a value without hostvars, such as a variable in group_vars/all.yml" in done.stdout
