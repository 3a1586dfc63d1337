"""Readers of a guide: they type its commands on a control node and on a test machine, and edit its files."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import textwrap
import threading
from pathlib import Path
from typing import Any

import yaml
from testing import PROJECT, Door, Machine

FENCE = re.compile(r"^ *```(sh|yaml)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
TERMINAL = re.compile(r"\x1b\[[?\d;]*[A-Za-z]|\r")  # what programs send to a terminal beside text
PATIENCE = 60  # seconds that a conversation with a shell may take
CONNECTION = (
    "ansible_host",
    "ansible_user",
    "ansible_ssh_private_key_file",
    "ansible_ssh_common_args",
    "admin_addresses",
)


def sections(text: str) -> list[tuple[str, str, str]]:
    """The blocks of a guide: title of the section, language and content."""
    found = []
    for section in text.split("\n## ")[1:]:
        title = section.splitlines()[0]
        found += [(title, kind, textwrap.dedent(block)) for kind, block in FENCE.findall(section)]
    return found


def copy_project(to: Path) -> None:
    """Copy the files of the project that git has or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if os.path.lexists(PROJECT / name) and name != ".venv":
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, to / name, follow_symlinks=False)


class Reader:
    """Someone who follows a guide, with a home folder of its own.

    Args:
        folder: folder for everything that the reader writes.
        home: home folder. Its path is short: a socket of ssh in it may have 107 characters.
        project: the reader's copy of this project, which need not exist yet.
        machine: the machine that the reader sets up.
        door: the login to it.
    """

    def __init__(self, folder: Path, home: Path, project: Path, machine: Machine, door: Door) -> None:
        self.top, self.project, self.machine, self.door = folder, project, machine, door
        self.folder = project  # where the reader types commands
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PY_COLORS"))}
        # Package indexes and caches are those of the user who runs the tests; certificates, those of the system.
        own = {f"XDG_{kind.upper()}_HOME": str(Path.home() / f".{kind}") for kind in ("config", "cache")}
        own["UV_SYSTEM_CERTS"] = "1"
        self.environment = own | kept | {"HOME": str(home), "ANSIBLE_NOCOLOR": "1"}

    def follow(self, block: str) -> str:
        """Run the commands of a block in the shell of the reader, and return the output."""
        exported = self.top / "exported"
        start = f". {exported}\n" if exported.exists() else ""
        done = subprocess.run(
            ["bash", "-c", f"{start}set -e\n{block}\nexport -p > {exported}\n"],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}"
        return done.stdout

    def configure_ssh(self) -> None:
        """Write the configuration of ssh with the login to the machine, which `as_typed` uses."""
        door = self.door
        (self.top / "ssh_config").write_text(
            f"Host {door.address}\n"
            f"    Port {door.port}\n"
            f"    IdentityFile {door.key}\n"
            "    IdentitiesOnly yes\n"
            f"    UserKnownHostsFile {self.top}/known_hosts\n"
            "    StrictHostKeyChecking accept-new\n"
            "    BatchMode yes\n"
        )

    def as_typed(self, block: str) -> str:
        """A block with the address of the machine, and the login to it, in place of the guide's."""
        block = block.replace("198.51.100.7", self.door.address)
        block = re.sub(r"\b(root|admin|ПОЛЬЗОВАТЕЛЬ)@", f"{self.door.user}@", block)
        return re.sub(r"^(ssh|scp) ", rf"\1 -F {self.top}/ssh_config ", block, flags=re.MULTILINE)

    def follow_on_host(self, block: str) -> str:
        """Run the commands of a block on the machine, and return the output."""
        done = self.door.ssh(f"bash -ec {shlex.quote(block)}")
        assert done.returncode == 0, f"{block}\n{done.stdout}{done.stderr}"
        return done.stdout

    def converse(self, command: str, prompt: str, line: str, end: str) -> str:
        """Start a shell on the machine in a terminal, type a line and then the end, and return the output.

        Args:
            command: the command that starts the shell.
            prompt: its prompt, or the end of it.
            line: what to type at the first prompt.
            end: what to type at the second prompt; it ends the shell.
        """
        login = ["-tt", "-i", self.door.key, "-p", str(self.door.port), f"{self.door.user}@{self.door.address}"]
        ssh = subprocess.Popen(
            ["ssh", *self.door.options, *login, command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert ssh.stdin
        assert ssh.stdout
        shown = ""
        timer = threading.Timer(PATIENCE, ssh.kill)
        timer.start()
        try:
            for typed in (line, end):
                answer = b""
                while not (text := TERMINAL.sub("", answer.decode(errors="replace"))).endswith(prompt):
                    read = os.read(ssh.stdout.fileno(), 4096)
                    assert read, f"{command} ended before its prompt:\n{shown}{text}"
                    answer += read
                shown += text
                ssh.stdin.write(f"{typed}\n".encode())
                ssh.stdin.flush()
            shown += TERMINAL.sub("", ssh.stdout.read().decode(errors="replace"))
            assert ssh.wait() == 0, shown
        finally:
            timer.cancel()
            ssh.kill()
            ssh.wait()
        return shown

    def write_hosts(self, hosts: dict[str, Any]) -> None:
        """Write hosts.yml, with the connection of the machine in place of the guide's."""
        for host in hosts["webservers"]["hosts"]:
            hosts["webservers"]["hosts"][host] = {key: self.machine.variables[key] for key in CONNECTION}
        (self.project / "inventory/production/hosts.yml").write_text(yaml.safe_dump(hosts))
