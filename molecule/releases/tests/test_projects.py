"""Apps that are projects of uv, with secrets for their builds and Debian packages."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from testing import Machine, Run

testinfra_hosts = ["ansible://debian13"]
Deploy = Callable[..., Run]
PROJECT = """
[project]
name = "octolib"
version = "1.0"
requires-python = ">=3.11"
dependencies = ["flask", "gunicorn"]
[project.optional-dependencies]
config = ["iniconfig"]
[dependency-groups]
prod = ["python-dotenv"]
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[tool.setuptools.packages.find]
where = ["src"]
"""
UV = Path(sys.executable).parent / "uv"
# The build script of a project that writes to the dependencies of all releases.
ATTACK = """
import glob, setuptools
for path in glob.glob('/srv/shop/releases/*/venv/lib/*/site-packages/flask/__init__.py'):
    try:
        open(path, 'a').write('raise SystemExit')
    except OSError:
        pass
setuptools.setup()
"""
# A module in C without functions.
IN_C = """
#include <Python.h>
static struct PyModuleDef fast = {PyModuleDef_HEAD_INIT, "fast"};
PyMODINIT_FUNC PyInit_fast(void) { return PyModule_Create(&fast); }
"""


@pytest.fixture
def project(shop: Path) -> Path:
    """The app as a project with a folder src and a lock."""
    (shop / "requirements.txt").unlink()
    (shop / "src/octolib").mkdir(parents=True)
    (shop / "src/octolib/__init__.py").write_text("NAME = 'first'\n")
    (shop / "pyproject.toml").write_text(PROJECT)
    text = (shop / "shop.py").read_text()
    (shop / "shop.py").write_text(text.replace("app = Flask", "import octolib\n\napp = Flask", 1))
    subprocess.run([UV, "lock", "--quiet", "--system-certs"], cwd=shop, check=True)
    return shop


def packages(machine: Machine, release: str, name: str) -> str:
    """The path of a package in a release's venv."""
    with machine.host.sudo():
        return machine.host.check_output(f"ls -d /srv/shop/releases/{release}/venv/lib/python3*/site-packages/{name}")


def test_the_next_release_of_a_project_has_its_new_code_and_its_build_cannot_change_the_live_release(
    machine: Machine, deploy: Deploy, project: Path
) -> None:
    # The project is in a folder of its source, and its optional dependencies are installed.
    keys: dict[str, Any] = {
        "source": str(project.parent),
        "subfolder": project.name,
        "requirements": "uv.lock",
        "extras": ["config"],
        "groups": ["prod"],
    }
    run = deploy("as a project", **keys)
    assert run.code == 0, run.output
    first = machine.live("shop")
    assert machine.web.ask().json["version"] == "as a project"
    (project / "src/octolib/__init__.py").write_text("NAME = 'again'\n")
    (project / "setup.py").write_text(ATTACK)
    run = deploy("as a project again", **keys)
    assert run.code == 0, run.output
    second = machine.live("shop")
    for package in ("iniconfig", "dotenv"):
        assert packages(machine, second, package)
    with machine.host.sudo():
        code = machine.host.file(f"{packages(machine, second, 'octolib')}/__init__.py")
        assert code.content_string == "NAME = 'again'\n"
        assert code.user == "root"
        old = machine.host.file(f"{packages(machine, first, 'octolib')}/__init__.py")
        assert old.content_string == "NAME = 'first'\n"
        # The releases share the files of their dependencies.
        shared = [f"{packages(machine, release, 'flask')}/__init__.py" for release in (first, second)]
        assert len({machine.host.check_output(f"stat -c %i {path}") for path in shared}) == 1
        assert "raise SystemExit" not in machine.host.file(shared[0]).content_string


def test_no_other_user_can_see_a_build_secret(machine: Machine, deploy: Deploy, project: Path) -> None:
    (project / "setup.py").write_text(
        "import os, time, setuptools\nassert os.environ['BUILD_TOKEN'] == ''.join(['s3', 'cret'])\n"
        "time.sleep(5)\nsetuptools.setup()\n"
    )
    seen: list[str] = []
    ended = threading.Event()

    def watch() -> None:
        """What another user can see of the units and processes of a build."""
        look = (
            "systemctl show --all 'release-build-shop.*'; cat /run/systemd/transient/release-build-shop.*; "
            "cat /run/release-build-shop.environment; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' ' '"
        )
        while not ended.wait(0.3):
            seen.append(machine.host.run(f'runuser -u nobody -- sh -c "{look}"').stdout)

    with machine.host.sudo():
        watcher = threading.Thread(target=watch)
        watcher.start()
        run = deploy("with a build secret", requirements="uv.lock", build_secrets={"BUILD_TOKEN": "s3cret"})
        ended.set()
        watcher.join()
        assert run.code == 0, run.output
        assert any("EnvironmentFiles=/run/release-build-shop.environment" in output for output in seen)
        assert not [output for output in seen if "s3cret" in output]
        # Commands of this test are in the journal, too.
        assert machine.host.run("grep -rqs 's3cre[t]' /srv/shop/releases /run/systemd").rc == 1
        assert machine.host.run("journalctl --quiet --grep='s3cre[t]'").stdout == ""
        assert not machine.host.file("/run/release-build-shop.environment").exists
    assert "s3cret" not in run.output


def test_code_in_c_is_compiled_with_debian_packages_and_a_rebuild_is_a_new_release_that_the_next_deploy_keeps(
    machine: Machine, deploy: Deploy, project: Path
) -> None:
    with machine.host.sudo():  # the compiler of an earlier run of this test
        machine.host.run_expect([0], "apt-get remove --yes libgcc-14-dev")
    (project / "src/octolib/fast.c").write_text(IN_C)
    (project / "setup.py").write_text(
        "import setuptools\nfast = setuptools.Extension('octolib.fast', ['src/octolib/fast.c'])\n"
        "setuptools.setup(ext_modules=[fast])\n"
    )
    text = (project / "shop.py").read_text()
    (project / "shop.py").write_text(text.replace("import octolib\n", "import octolib.fast\n", 1))
    keys: dict[str, Any] = {"packages": ["libpango-1.0-0"], "requirements": "pyproject.toml"}
    without = deploy("with Debian packages", **keys)
    assert without.code != 0
    keys["build_packages"] = ["build-essential", "python3-dev"]
    assert f"such as build_packages: [{', '.join(keys['build_packages'])}]" in without.output, without.output
    run = deploy("with Debian packages", **keys)
    assert run.code == 0, run.output
    assert machine.web.ask().json["version"] == "with Debian packages"
    assert machine.host.package("libpango-1.0-0").is_installed
    with machine.host.sudo("shop"):
        assert machine.host.run("/usr/bin/gcc --version").rc == 126
    before = machine.live("shop")
    assert deploy("with Debian packages", "-e", "rebuild=true", **keys).code == 0
    rebuilt = machine.live("shop")
    assert rebuilt != before
    assert packages(machine, rebuilt, "octolib")
    run = deploy("with Debian packages", "-e", "rebuild=false", **keys)
    assert run.recap(machine.name)["changed"] == 0, run.output
    assert machine.live("shop") == rebuilt


def test_an_app_can_have_an_interpreter_of_its_own(machine: Machine, deploy: Deploy, shop: Path) -> None:
    with machine.host.sudo():
        machine.host.run_expect([0], "mkdir -p /opt/python/bin && cp /usr/bin/python3.13 /opt/python/bin/")
    text = (shop / "shop.py").read_text().replace("import os\n", "import os\nimport sys\n", 1)
    (shop / "shop.py").write_text(text.replace("jsonify(", "jsonify(python=sys._base_executable, ", 1))
    run = deploy("with its own Python", python="/opt/python/bin/python3.13")
    assert run.code == 0, run.output
    assert machine.web.ask().json["python"] == "/opt/python/bin/python3.13"


def test_a_missing_interpreter_is_named_before_the_build(machine: Machine, deploy: Deploy) -> None:
    live = machine.live("shop")
    run = deploy("with another Python", python="python3.99")
    assert run.code != 0
    assert "The interpreter python3.99 does not exist on this host, which has" in run.output, run.output
    assert machine.live("shop") == live
