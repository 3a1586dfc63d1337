"""The guide docs/your-app.md: its settings and commands, in order, on a test machine."""

from __future__ import annotations

import shutil
import ssl
from pathlib import Path

import pytest
import yaml
from apps.reading import Reader, copy_project, sections
from testing import PROJECT, Door, Machine, Web

testinfra_hosts = ["ansible://apps13"]
SETTINGS = "inventory/production/group_vars/webservers/main.yml"


@pytest.fixture
def site(machine: Machine) -> Web:
    """The site of the guide; its self-signed certificate is not verified."""
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    return Web(machine.web.address, 443, "notes.example", tls)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """The project of the guide, as its author has it: with a requirements.txt alone, without gunicorn."""
    folder = tmp_path / "notes"
    shutil.copytree(PROJECT / "molecule/apps/apps/notes", folder)
    requirements = (folder / "requirements.in").rename(folder / "requirements.txt")
    requirements.write_text(requirements.read_text().replace("gunicorn\n", ""))
    return folder


@pytest.fixture
def reader(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, machine: Machine, door: Door, example: Path
) -> Reader:
    """A reader who has a copy of the project beside the example, and a machine in its inventory."""
    project = example.parent / "project"
    copy_project(project)
    (project / ".venv").symlink_to(PROJECT / ".venv")
    reader = Reader(tmp_path, tmp_path_factory.mktemp("home"), project, machine, door)
    reader.write_hosts({"webservers": {"hosts": {"web1": {}}}})
    reader.configure_ssh()
    return reader


def write(project: Path, block: str) -> None:
    """Replace the part of a file that a block shows; its first line names the file."""
    path = project / block.splitlines()[0].removeprefix("# ")
    settings = yaml.safe_load(path.read_text()) | yaml.safe_load(block)
    path.write_text(yaml.safe_dump(settings))


def add_note(site: Web) -> None:
    """Write a note with a picture, and read both."""
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


def open_shells(reader: Reader, block: str) -> None:
    """Open both shells of a block in a terminal on the machine."""
    shell, python = block.splitlines()
    assert "\n42\n" in reader.converse(shell, "$ ", "echo $((6 * 7))", "exit")
    assert "\n42\n" in reader.converse(python, ">>> ", "print(6 * 7)", "exit()")


def share_paths(reader: Reader, example: Path, block: str) -> None:
    """Add the key of a block to the app and deploy it. Then the author finds a database on their own computer."""
    path = reader.project / SETTINGS
    settings = yaml.safe_load(path.read_text())
    settings["apps"][0] |= yaml.safe_load(block)
    path.write_text(yaml.safe_dump(settings))
    reader.follow("ansible-playbook playbooks/deploy.yml -i inventory/production -e app=notes")
    (example / "instance").mkdir()
    (example / "instance/app.db").write_text("existing data")


def make_package(example: Path, project: Path) -> None:
    """Turn the single module of the example into a package with its own templates and static files."""
    package = example / "notes"
    package.mkdir()
    (example / "notes.py").rename(package / "__init__.py")
    for name in ("static", "templates"):
        (example / name).rename(package / name)
    path = project / SETTINGS
    settings = yaml.safe_load(path.read_text())
    settings["apps"][0]["static"] = [{"url": "/static/", "path": "notes/static"}]
    path.write_text(yaml.safe_dump(settings))


def test_a_reader_of_the_guide_gets_an_app_live_and_removes_it_again(
    reader: Reader, example: Path, machine: Machine, site: Web
) -> None:
    outputs: dict[str, str] = {}
    for title, kind, block in sections((PROJECT / "docs/your-app.md").read_text()):
        if kind == "yaml" and block.startswith("# "):
            write(reader.project, block)
        if kind == "yaml" and title == "Data":
            share_paths(reader, example, block)
        if kind == "yaml":
            continue
        if block.startswith("sudo app "):
            open_shells(reader, block)
            continue
        if title == "The next version":
            page = next(path for path in example.rglob("*.html"))
            page.write_text(page.read_text() + "<!-- the next version -->\n")
            make_package(example, reader.project)
            deploy, block = block.splitlines()
            reader.follow(deploy)
            assert "the next version" in site.ask("/").text
            style = site.ask("/static/notes.css")
            assert (style.status, style.headers["Cache-Control"]) == (
                200,
                "max-age=300",
            )  # from nginx, not from the app
        if title == "Removal":
            assert site.ask("/").status == 200
        outputs[title] = outputs.get(title, "") + reader.follow(reader.as_typed(block))
        if title == "The first deploy":
            add_note(site)
        if title == "Data":
            with machine.host.sudo():
                moved = machine.host.file("/srv/notes/data/instance/app.db")
                assert (moved.content_string, moved.user, moved.mode) == ("existing data", "notes", 0o640)
        if title == "Backup":
            reader.follow(block)  # it replaces the first copy
    assert "https://notes.example" in outputs["The first deploy"]
    assert "A note was added" in " ".join(outputs["Logs"].split())
    assert "0001 (head)" in outputs["Commands and a shell"]
    with machine.host.sudo():
        assert not machine.host.file("/srv/notes").exists
