"""The guide docs/ru/README.md: every command in it, in order, on a test machine and its control node."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml
from apps.reading import Reader, copy_project, sections
from testing import PROJECT, Door, Machine, commit_all

testinfra_hosts = ["ansible://apps13"]
GUIDE = PROJECT / "docs/ru/README.md"
TUTORIAL = PROJECT / "molecule/apps/tutorial"
SETTINGS = "inventory/production/group_vars/webservers/main.yml"
PORT = 5731  # of the development server
# Commands that are not run here, each with the reason.
NOT_RUN = {
    "script/demo": "`script/prove` runs it on a fresh Debian",
    "script/demo --remove": "`script/prove` runs it on a fresh Debian",
    "ssh-keygen -t ed25519": "the test machine has accepted a key already",
    "getent ahosts example.org": "the test machine has no name in the DNS",
    "getent ahosts www.example.org": "the test machine has no name in the DNS",
    "ansible-playbook playbooks/site.yml -i inventory/production --check --diff": "docs/your-app.md has it, too",
}
# What the reader of the guide types into each file that it opens. The inventory's own files are edited by `edit`.
EDITOR = """#!/bin/sh -e
case "$1" in
*/.ansible/*) echo 'vault_mail_password: cuttlefish-7' >> "$1" ;;
*) cat "TYPED/$(basename "$1")" > "$1" ;;
esac
echo '<!-- the next version -->' >> TYPED/index.html
"""
# What the end of the guide assumes on a VM that was set up by hand.
BY_HAND = """
mkdir -p ~/blueoctopus
echo 'a database' > ~/blueoctopus/octopus.db
printf '[Service]\\nExecStart=sleep infinity\\n[Install]\\nWantedBy=multi-user.target\\n' |
    sudo tee /etc/systemd/system/old-site.service >/dev/null
printf '[Timer]\\nOnCalendar=daily\\nUnit=old-site.service\\n[Install]\\nWantedBy=timers.target\\n' |
    sudo tee /etc/systemd/system/certbot.timer >/dev/null
sudo systemctl daemon-reload
sudo systemctl enable --now old-site.service certbot.timer
"""


@pytest.fixture
def reader(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, machine: Machine, door: Door) -> Reader:
    """A reader who has nothing yet; the project is in a Git repository."""
    copy_project(tmp_path / "repository")
    commit_all(tmp_path / "repository")
    typed = tmp_path / "typed"
    typed.mkdir()
    for path in (TUTORIAL / "main.py", TUTORIAL / "templates/index.html"):
        shutil.copy(path, typed)
    editor = tmp_path / "editor"
    editor.write_text(EDITOR.replace("TYPED", str(typed)))
    editor.chmod(0o755)
    names = "".join(f"resolve = example.org:{port}:{door.address}\n" for port in (80, 443))
    (tmp_path / ".curlrc").write_text(f"silent\nshow-error\ninsecure\n{names}")
    home = tmp_path_factory.mktemp("home")
    (home / ".ssh").mkdir()
    reader = Reader(tmp_path, home, tmp_path / "blueoctopus", machine, door)
    reader.configure_ssh()
    reader.folder = tmp_path
    reader.environment |= {"CURL_HOME": str(tmp_path), "FLASK_RUN_PORT": str(PORT)}
    return reader


def as_typed(reader: Reader, block: str) -> str:
    """A block with the values that a reader replaces, and with what differs on a test machine."""
    door, top = reader.door, reader.top
    apt = "apt-get -o APT::Get::Assume-Yes=true -o APT::Get::Upgrade=false -o DPkg::Lock::Timeout=300"
    server = (
        f"{{ timeout 60 .venv/bin/python main.py & curl -sSf --retry 30 --retry-delay 1 --retry-connrefused "
        f"http://127.0.0.1:{PORT}/ && kill $! && cd ..; }}"
    )
    for pattern, text in (
        ("СТАРЫЙ_АДРЕС", door.address),
        ("ИМЯ_СЛУЖБЫ", "old-site"),
        (
            "АДРЕС_РЕПОЗИТОРИЯ blueoctopus",
            f"{top}/repository blueoctopus && ln -s {PROJECT}/.venv blueoctopus/.venv",
        ),
        (r"^ssh-copy-id ", f"ssh-copy-id -F {top}/ssh_config -i {door.key}.pub "),
        (r"^nano |(?<=EDITOR=)nano ", f"{top}/editor "),
        (r"^sudo apt ", f"sudo {apt} " if shutil.which("sudo") else f"{apt} "),
        (r"^\.venv/bin/python main\.py", server),
    ):
        block = re.sub(pattern, text, block, flags=re.MULTILINE)
    return reader.as_typed(block)


def is_on_host(title: str, block: str) -> bool:
    """Whether the guide says that the commands of a block are typed on the host."""
    if title.startswith("4."):
        return not block.startswith(("ssh ", "cd app"))
    return block.startswith(("sudo journalctl", "cat /etc/os-release"))


def edit(reader: Reader, block: str) -> None:
    """Edit the file of the inventory that the first line of a block names, as its reader does."""
    name = block.splitlines()[0].removeprefix("# ")
    path = reader.project / name
    if name.endswith("hosts.yml"):
        reader.write_hosts(yaml.safe_load(block))
    elif "apps:\n" in block:  # the first entry, without the comments that follow it
        path.write_text(re.sub(r"^apps:\n(?:  .*\n)+", lambda _: block, path.read_text(), count=1, flags=re.MULTILINE))
    else:
        block = block.replace("tls: acme", "tls: selfsigned")  # the certificate authority can't reach the machine
        for line in block.splitlines()[1:]:
            found = re.findall(rf"^    {line.partition(':')[0]}: .*\n", path.read_text(), re.MULTILINE)
            assert len(found) == 1, line
            path.write_text(path.read_text().replace(found[0], f"    {line}\n"))


def commands(blocks: list[tuple[str, str, str]]) -> list[str]:
    """The blocks without the commands that are not run, and without a run that the same section repeats later."""
    kept = []
    for position, (title, _, block) in enumerate(blocks):
        later = [line for t, kind, b in blocks[position + 1 :] if (t, kind) == (title, "sh") for line in b.splitlines()]
        lines = [line for line in block.splitlines() if line.partition("  #")[0].strip() not in NOT_RUN]
        kept.append("\n".join(line for line in lines if not (line.startswith("ansible-playbook") and line in later)))
    return kept


def test_commands_that_are_not_run_are_in_the_guide() -> None:
    lines = [line.partition("  #")[0].strip() for _, _, b in sections(GUIDE.read_text()) for line in b.splitlines()]
    assert set(NOT_RUN) <= set(lines)
    shared = [command for command, reason in NOT_RUN.items() if reason.startswith("docs/your-app.md")]
    assert set(shared) <= set((PROJECT / "docs/your-app.md").read_text().splitlines())


def test_a_reader_of_the_guide_goes_from_the_tutorial_to_a_live_site(reader: Reader, machine: Machine) -> None:
    blocks = sections(GUIDE.read_text())
    outputs: dict[str, str] = {}
    for (title, kind, block), run in zip(blocks, commands(blocks), strict=True):
        number = title.partition(".")[0]
        if kind == "yaml":
            if block.startswith("# "):
                edit(reader, block)
            continue
        if number == "11" and "scp " in block:
            reader.follow_on_host(BY_HAND)
        follow = reader.follow_on_host if is_on_host(title, block) else reader.follow
        outputs[number] = outputs.get(number, "") + follow(as_typed(reader, run))
        if number == "1":
            reader.folder = reader.project
    assert "Hello from Flask server" in outputs["3"]
    assert re.search(r"HTTP/\S+ 201", outputs["3"])
    assert "Our Funky HTML Page" in outputs["5"]
    assert re.search(r"HTTP/\S+ 301", outputs["6"])
    assert re.search(r"HTTP/\S+ 200", outputs["6"])
    assert "web1 / blueoctopus" in outputs["7"]
    assert machine.web.ask(host="example.org").status == 301
    with machine.host.sudo():
        assert "SECRET_KEY=" in machine.host.file("/srv/blueoctopus/live/environment").content_string
        assert machine.host.file("/srv/blueoctopus/data/octopus.db").user == "blueoctopus"
    assert not machine.host.service("old-site").is_running
