"""The competitors of script/bench: their files, their second runs, and the state that all must reach."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from ansible_collections.blueoctopus.site.plugins.plugin_utils.inventory import check_app_keys

from benchmarks.hosts import BENCHMARKS, BenchError, Done, Lab
from benchmarks.state import facts_in
from benchmarks.ways import ANSIBLE, OURS, SHELL, WITH_PYINFRA, Way, packages, prepare

TOOLS = Path(sys.executable).parent


@pytest.mark.parametrize(
    ("way", "unchanged", "changed"),
    [
        (OURS, "web : ok=41 changed=0 unreachable=0 failed=0", "web : ok=41 changed=2 unreachable=0 failed=0"),
        (ANSIBLE, "a : ok=4 changed=0 failed=0\nb : ok=4 changed=0", "a : ok=4 changed=0\nb : ok=4 changed=1"),
        (SHELL, "changes: 0\n", "changed: code\nchanges: 1\n"),
        (WITH_PYINFRA, "    Grand total   40   -   -   40   \n", "    Grand total   40   1   -   39   \n"),
    ],
    ids=lambda value: value.name if isinstance(value, Way) else "",
)
def test_a_second_run_that_changes_something_is_not_measured(way: Way, unchanged: str, changed: str) -> None:
    way.check_unchanged(Done(unchanged, 1.0))
    with pytest.raises(BenchError, match=rf"second run of {way.title} changed something"):
        way.check_unchanged(Done(changed, 1.0))


@pytest.mark.parametrize("competitor", ["shell/provision.sh", "pyinfra/deploy.py", "ansible/site.yml"])
def test_each_competitor_installs_every_configuration_file(competitor: str) -> None:
    text = (BENCHMARKS / competitor).read_text()
    paths = [path for path in (BENCHMARKS / "files").rglob("*") if path.is_file()]
    assert len(paths) > 10
    assert [path for path in paths if f"/{path.relative_to(BENCHMARKS / 'files')}" not in text] == []


def test_each_competitor_opens_the_same_ports() -> None:
    wanted = ("limit 22/tcp", "allow 80/tcp", "allow 443/tcp", "allow 443/udp")
    for competitor in ("shell/provision.sh", "pyinfra/deploy.py"):
        assert all(f'"{rule}"' in (BENCHMARKS / competitor).read_text() for rule in wanted)
    (play,) = yaml.safe_load((BENCHMARKS / "ansible/site.yml").read_text())
    rules = [task["community.general.ufw"] for task in play["tasks"] if "community.general.ufw" in task]
    assert [f"{r['rule']} {r['port']}/{r['proto']}" for r in rules if "port" in r] == list(wanted)


def test_the_same_packages_are_those_of_the_playbook() -> None:
    assert {"nginx", "ufw", "fail2ban", "python3-venv", "unattended-upgrades"} <= set(packages())


def test_the_inventory_of_this_project_is_valid_and_the_files_are_complete(tmp_path: Path) -> None:
    dry = Lab(tmp_path, dry=True)
    site = prepare(dry, dry.up("bench-ours"))
    found = yaml.safe_load((site.folder / "hosts/hosts.yml").read_text())["webservers"]
    (app,) = found["vars"]["apps"]
    assert list(check_app_keys(app, set(app), "bench-ours")) == []
    assert Path(app["source"], "bench.py").exists()
    assert Path(app["source"], "requirements.txt").exists()
    texts = {path: path.read_text() for path in (site.folder / "files").rglob("*") if path.is_file()}
    assert [path for path, text in texts.items() if "@" in text and "@system-service" not in text] == []
    assert f"server_name {site.machine.address};" in texts[site.folder / "files/etc/nginx/sites-available/blueoctopus"]


SCRIPTS = sorted(str(path.relative_to(BENCHMARKS)) for path in BENCHMARKS.rglob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_shell_scripts_pass_shellcheck(script: str) -> None:
    done = subprocess.run([TOOLS / "shellcheck", BENCHMARKS / script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("source", ["pyinfra/deploy.py", "pyinfra/inventory.py", "pyinfra/config.py", "app/bench.py"])
def test_python_files_of_other_programs_compile(source: str) -> None:
    compile((BENCHMARKS / source).read_text(), source, "exec")


@pytest.mark.slow
def test_ansible_reads_the_playbook_of_the_tutorials() -> None:
    done = subprocess.run(
        [TOOLS / "ansible-playbook", "--syntax-check", "-i", "host,", "site.yml"],
        cwd=BENCHMARKS / "ansible",
        env={name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def capistrano(tmp_path: Path) -> Callable[[str], None]:
    """Run a script of the Capistrano way on a host that is a folder."""
    root, programs = tmp_path / "root", tmp_path / "bin"
    (root / "releases/0-first").mkdir(parents=True)
    (root / "current").symlink_to("releases/0-first")
    (tmp_path / "source").mkdir()
    (tmp_path / "source/requirements.txt").write_text("flask\n")
    for path, text in {
        root / "shared/venv/bin/pip": "exit 0",
        programs / "sudo": 'exec "$@"',
        programs / "systemctl": f'echo "$* $(readlink {root}/current)" >>{tmp_path}/restarts',
        programs / "ssh": 'case " $* " in *" -N "*|*" -O "*) exit 0 ;; esac\nexec bash -c "${@: -1}"',
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)

    def run(script: str) -> None:
        text = (BENCHMARKS / "capistrano" / script).read_text().replace("/srv/blueoctopus", str(root))
        copy = tmp_path / "scripts"
        shutil.copytree(BENCHMARKS / "capistrano", copy, dirs_exist_ok=True)
        (copy / script).write_text(text)
        names = dict.fromkeys(("ADDRESS", "KEY", "KNOWN_HOSTS", "LOGIN_USER"), "x") | {"FOLDER": str(tmp_path)}
        environment = os.environ | names | {"PATH": f"{programs}:{os.environ['PATH']}"}
        subprocess.run(["bash", copy / script], check=True, env=environment, capture_output=True)

    return run


def test_the_capistrano_way_keeps_five_releases_and_restarts_the_chosen_one(
    capistrano: Callable[[str], None], tmp_path: Path
) -> None:
    for _ in range(6):
        capistrano("deploy.sh")
    releases = sorted(path.name for path in (tmp_path / "root/releases").iterdir())
    assert len(releases) == 5
    assert "0-first" not in releases
    capistrano("rollback.sh")
    capistrano("rollback.sh")
    restarts = (tmp_path / "restarts").read_text().splitlines()
    wanted = [*releases, releases[-2], releases[-3]]
    assert restarts[-7:] == [f"restart blueoctopus releases/{name}" for name in wanted]


# --- the state --------------------------------------------------------------------------------------------------------


def test_a_computer_that_is_not_the_site_has_not_reached_the_state() -> None:
    done = subprocess.run(
        ["bash", BENCHMARKS / "state.sh", "192.0.2.1", "no-such-package"], capture_output=True, text=True
    )
    facts = facts_in(done.stdout)
    assert len(facts) > 20
    assert not facts["the packages are installed"]
    assert not facts["nginx has the site"]
    assert not facts["the app runs as an unprivileged user"]
    assert not facts["the firewall allows SSH and the web only"]


def test_a_fact_is_found_at_the_start_of_a_long_output(tmp_path: Path) -> None:
    """grep that ended at the first match would end `ufw` with SIGPIPE, and the fact would be false."""
    ufw = tmp_path / "ufw"
    ufw.write_text("#!/bin/bash\necho 'Default: deny (incoming)'\nfor i in {1..100000}; do echo $i || exit 1; done\n")
    ufw.chmod(0o755)
    done = subprocess.run(
        ["bash", BENCHMARKS / "state.sh", "192.0.2.1"],
        capture_output=True, text=True, env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert facts_in(done.stdout)["the firewall denies other connections"]


@pytest.mark.parametrize("output", ["", "yes\n", "bash: line 3: syntax error\n"])
def test_output_that_is_no_state_is_an_error(output: str) -> None:
    with pytest.raises(BenchError):
        facts_in(output)
