"""The program that runs a release command while no other host does, with a real PostgreSQL server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import find

PROGRAM = Path(__file__).resolve().parent.parent / "roles/app/files/command_lock.py"
PROGRAMS = Path(find("initdb")).parent
PORT = 30000 + os.getpid() % 10000
pytestmark = [pytest.mark.slow, pytest.mark.needs("root", "initdb", "runuser", "psql", "setsid")]
NOBODY = "import os\ntry:\n    os.wait()\nexcept ChildProcessError:\n    print('no child')"


def as_superuser(*argv: object) -> list[str]:
    return ["runuser", "-u", "postgres", "--", *map(str, argv)]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The URL of a database, in which the user postgres may log in with a password."""
    root = Path(f"/tmp/command-lock-test-{os.getpid()}")  # short, as the path of a socket is limited
    root.mkdir()
    (root / "password").write_text("p@ss word")
    for path in (root, root / "password"):
        shutil.chown(path, "postgres")
    new = ["--auth=scram-sha-256", f"--pwfile={root}/password", "--encoding=SQL_ASCII", "--locale=C"]
    subprocess.run(as_superuser(PROGRAMS / "initdb", "-D", root / "data", *new), check=True, cwd="/")
    options = f"-k {root} -p {PORT} -c listen_addresses=127.0.0.1"
    control = as_superuser(PROGRAMS / "pg_ctl", "-D", root / "data", "-w", "-m", "fast", "-l", root / "log")
    subprocess.run([*control, "-o", options, "start"], check=True, cwd="/")
    try:
        yield f"postgresql://postgres:p%40ss%20word@127.0.0.1:{PORT}/postgres"
    finally:
        subprocess.run([*control, "stop"], check=True, cwd="/")
        shutil.rmtree(root)


def start(url: str, *command: str) -> subprocess.Popen[str]:
    """Run a release command, as a host does."""
    environment = {"PATH": os.environ["PATH"], "DATABASE_URL": url}
    argv = [sys.executable, "-I", str(PROGRAM), *command]
    return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def output(process: subprocess.Popen[str]) -> list[str]:
    return process.communicate(timeout=60)[0].splitlines()


def wait_for_line(file: Path) -> None:
    deadline = time.monotonic() + 30
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_two_hosts_run_the_command_one_after_the_other(url: str, tmp_path: Path) -> None:
    log, may_end = tmp_path / "log", tmp_path / "may-end"
    script = f'echo "$0 begins" >> {log}; while [ ! -e {may_end} ]; do sleep 0.1; done; echo "$0 ends" >> {log}'
    first = start(url, "sh", "-c", script, "first")
    wait_for_line(log)
    second = start(url, "sh", "-c", script, "second")
    assert second.stdout
    assert second.stdout.readline() == "The release command waits for the one of another host.\n"
    may_end.touch()
    assert (output(first), first.returncode, output(second), second.returncode) == ([], 0, [], 0)
    assert log.read_text().splitlines() == ["first begins", "first ends", "second begins", "second ends"]


def test_the_command_keeps_its_exit_status_and_has_no_unknown_child(url: str) -> None:
    failing = start(url, "sh", "-c", "exit 7")
    output(failing)
    assert failing.returncode == 7
    waiting = start(url, sys.executable, "-c", NOBODY)
    assert output(waiting) == ["no child"]


def test_a_killed_command_gives_its_lock_back(url: str, tmp_path: Path) -> None:
    killed = start(url, "sh", "-c", f"echo runs > {tmp_path}/log; exec sleep 60")
    wait_for_line(tmp_path / "log")
    killed.send_signal(signal.SIGKILL)
    output(killed)
    assert output(start(url, "echo", "done"))[-1] == "done"


def test_no_process_list_shows_the_password(url: str, tmp_path: Path) -> None:
    held = start(url, "sh", "-c", f"echo runs > {tmp_path}/log; exec sleep 60")
    wait_for_line(tmp_path / "log")
    shown = subprocess.run(["ps", "-wweo", "args"], capture_output=True, text=True, check=True).stdout
    held.kill()
    output(held)
    assert f"postgresql://postgres@127.0.0.1:{PORT}/postgres" in shown
    assert "ss%20word" not in shown
    assert "p@ss" not in shown


def test_without_the_database_the_command_is_not_run(tmp_path: Path) -> None:
    process = start(f"postgresql://postgres@/postgres?host={tmp_path}", "touch", str(tmp_path / "ran"))
    assert "could not take the lock in the app's database" in output(process)[-1]
    assert process.returncode != 0
    assert not (tmp_path / "ran").exists()
