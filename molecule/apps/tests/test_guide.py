"""The guide docs/your-app.md: its settings and commands, in order, on a test machine."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
import yaml
from testing import PROJECT, Machine, Web

testinfra_hosts = ["ansible://webservers"]
FENCE = re.compile(r"^```(sh|yaml)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Reader:
    """Someone who follows the guide: in a copy of the project, with the example beside it and a home of its own."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self.project, self.example = folder / "project", folder / "notes"
        files = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=PROJECT,
            check=True,
            capture_output=True,
            text=True,
        )
        for name in filter(None, files.stdout.split("\0")):
            if os.path.lexists(PROJECT / name) and name != ".venv":
                (self.project / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(PROJECT / name, self.project / name, follow_symlinks=False)
        (self.project / ".venv").symlink_to(PROJECT / ".venv")
        shutil.copytree(PROJECT / "molecule/apps/apps/notes", self.example)
        (self.example / "requirements.txt").unlink()
        requirements = self.example / "requirements.in"
        requirements.write_text(requirements.read_text().replace("gunicorn\n", ""))
        keys = ("ansible_host", "ansible_user", "ansible_ssh_private_key_file", "ansible_ssh_common_args")
        connection = {key: machine.variables[key] for key in keys}
        hosts = {"webservers": {"hosts": {"web1": connection}}}
        (self.project / "inventory/production/hosts.yml").write_text(yaml.safe_dump(hosts))
        (folder / "home").mkdir()
        self.environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "PY_COLORS"))
        } | {"HOME": str(folder / "home"), "ANSIBLE_NOCOLOR": "1"}

    def follow(self, block: str) -> str:
        """Run the commands of a block in the shell of the reader, and return the output."""
        script = f"set -e\n{block}\nexport -p > {self.project.parent}/exported\n"
        exported = self.project.parent / "exported"
        start = f". {exported}\n" if exported.exists() else ""
        done = subprocess.run(
            ["bash", "-c", start + script],
            cwd=self.project,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}"
        return done.stdout

    def write(self, block: str) -> None:
        """Replace the part of a file that a block shows; its first line names the file."""
        name = block.splitlines()[0].removeprefix("# ")
        path = self.project / name
        settings = yaml.safe_load(path.read_text()) | yaml.safe_load(block)
        path.write_text(yaml.safe_dump(settings))


@pytest.fixture
def site(machine: Machine) -> Web:
    """The site of the guide; its self-signed certificate is not verified."""
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    return Web(machine.web.address, 443, "notes.example", tls)


def sections(text: str) -> list[tuple[str, str, str]]:
    """The blocks of a guide: title of the section, language and content."""
    found = []
    for section in text.split("\n## ")[1:]:
        title = section.splitlines()[0]
        found += [(title, kind, block) for kind, block in FENCE.findall(section)]
    return found


def test_a_reader_of_the_guide_gets_an_app_live_and_removes_it_again(
    tmp_path: Path, machine: Machine, site: Web
) -> None:
    reader = Reader(tmp_path, machine)
    outputs: dict[str, str] = {}
    for title, kind, block in sections((PROJECT / "docs/your-app.md").read_text()):
        if kind == "yaml" and block.startswith("# "):
            reader.write(block)
        if kind == "yaml":
            continue
        if title == "The next version":
            page = next(path for path in reader.example.rglob("*.html"))
            page.write_text(page.read_text() + "<!-- the next version -->\n")
        if title == "Removal":
            assert site.ask("/").status == 200
        outputs[title] = outputs.get(title, "") + reader.follow(block)
        if title == "The first deploy":
            boundary = "b"
            body = (
                f'--{boundary}\r\nContent-Disposition: form-data; name="text"\r\n\r\nfirst note\r\n'
                f'--{boundary}\r\nContent-Disposition: form-data; name="picture"; filename="a.png"\r\n\r\nPNG\r\n'
                f"--{boundary}--\r\n"
            )
            headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
            assert site.ask("/notes", "POST", headers, body=body.encode()).status == 302
            assert "first note" in site.ask("/").text
            assert site.ask("/media/a.png").text == "PNG"
            assert "sans-serif" in site.ask("/static/notes.css").text
    assert "https://notes.example" in outputs["The first deploy"]
    assert "A note was added" in " ".join(outputs["Logs"].split())
    assert "0001 (head)" in outputs["Commands and a shell"]
    with machine.host.sudo():
        assert not machine.host.file("/srv/notes").exists
