"""The dependencies of a release, installed by the real uv from local packages; systemd-run is replaced."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils import release_build as sandbox
from ansible_collections.blueoctopus.site.plugins.module_utils.release_build import Build, BuildError
from ansible_collections.blueoctopus.site.plugins.modules import release_build
from packages import BACKEND, BUILD_SYSTEM, PROJECT, PYTHON, SYSTEMD_RUN, UV, sha256, wheel

pytestmark = pytest.mark.slow
Deploy = Callable[..., Path]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The calls of systemd-run, a line for each."""
    log, programs = tmp_path / "systemd-run.log", tmp_path / "programs"
    log.touch()
    programs.mkdir()
    (programs / "systemd-run").write_text(SYSTEMD_RUN.format(python=PYTHON, log=log))
    (programs / "systemd-run").chmod(0o755)
    for name in [name for name in os.environ if re.match(r"(UV_|VIRTUAL_ENV|\w+_proxy$)", name, re.IGNORECASE)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(sandbox, "RUN", tmp_path / "run")
    monkeypatch.setattr(sandbox, "CACHES", tmp_path / "cache")
    monkeypatch.setattr(sandbox, "CACHE", tmp_path / "cache/uv")
    monkeypatch.setattr(sandbox, "stop_builds", lambda _app: None)
    monkeypatch.setattr(sandbox, "prepare_cache", lambda: None)
    if os.geteuid() != 0:
        monkeypatch.setattr(os, "lchown", lambda *_: None)
    return log


def calls(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The source of an app that is a project with a folder src, and its dependencies as wheels."""
    folder = tmp_path / "app"
    (folder / "src/shop").mkdir(parents=True)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "src/shop/__init__.py").write_text("def main():\n    print('first')\n")
    (folder / "src/shop/old.py").write_text("")
    project = PROJECT
    for name in ("gunicorn", "driver", "monitor", "linter"):
        wheel(folder / "vendor", name)
        project += f'{name} = {{path = "vendor/{name}-1.0-py3-none-any.whl"}}\n'
    (folder / "pyproject.toml").write_text(project + BUILD_SYSTEM)
    return folder


def lock(source: Path) -> None:
    environment = os.environ | {"UV_CACHE_DIR": str(source.parent / "lock-cache")}
    command = [UV, "lock", "--quiet", "--offline", "--python", PYTHON]
    subprocess.run(command, cwd=source, check=True, env=environment)


@pytest.fixture
def deploy(log: Path, tmp_path: Path) -> Deploy:
    """Install the dependencies of a new release, which then is the live one."""
    live = tmp_path / "none"

    def deployed(source: Path, requirements: str, secrets: dict[str, str] | None = None, **options: Any) -> Path:
        nonlocal live
        log.write_text("")
        number = len(list(tmp_path.glob("releases/*"))) + 1
        final = tmp_path / f"releases/{number}"
        building = final.with_name(f".building-{number}")
        building.mkdir(parents=True)
        try:
            shutil.copytree(source, building / "source")
            build = Build("shop", building, final, PYTHON, UV, secrets or {})
            params = {
                "requirements": requirements,
                "extras": [],
                "groups": [],
                "reuse": True,
                "shared_paths": [],
            } | options
            about = {"dependencies": release_build.install(build, live, params), "shared_paths": []}
            (building / "release.json").write_text(json.dumps(about))
            building.rename(final)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        live = final
        return final

    return deployed


def packages(release: Path) -> set[str]:
    """The names of the packages in a release's venv."""
    return {path.name.split("-")[0] for path in release.glob("venv/lib/*/site-packages/*.dist-info")}


def module(release: Path, name: str) -> Path:
    return next(release.glob("venv/lib/*/site-packages")) / name


def output(release: Path, program: str) -> str:
    command = [str(release / "venv/bin" / program)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


# --- projects ---------------------------------------------------------------------------------------------------------


def test_a_locked_project_is_installed_with_its_dependencies_and_without_editable_links(
    deploy: Deploy, source: Path
) -> None:
    lock(source)
    release = deploy(source, "uv.lock")
    assert packages(release) == {"gunicorn", "shop"}
    assert module(release, "shop/__init__.py").read_text() == (source / "src/shop/__init__.py").read_text()
    assert not list(module(release, ".").glob("*shop*.pth"))
    assert (output(release, "shop"), output(release, "gunicorn")) == ("first", "hello")
    assert not (release / "work").exists()
    assert not (release / "source/shop.egg-info").exists()  # the build writes to a copy of the source


def test_the_scripts_of_a_venv_run_from_any_place(deploy: Deploy, source: Path, tmp_path: Path) -> None:
    lock(source)
    deploy(source, "uv.lock").rename(tmp_path / "elsewhere")
    assert output(tmp_path / "elsewhere", "shop") == "first"


def test_extras_and_groups_are_installed_on_request(deploy: Deploy, source: Path) -> None:
    lock(source)
    assert packages(deploy(source, "uv.lock", extras=["postgres"])) == {"gunicorn", "shop", "driver"}
    assert packages(deploy(source, "uv.lock", groups=["prod"])) == {"gunicorn", "shop", "monitor"}
    both = deploy(source, "pyproject.toml", extras=["postgres"], groups=["prod"])
    assert packages(both) == {"gunicorn", "shop", "driver", "monitor"}


@pytest.mark.parametrize("requirements", ["uv.lock", "pyproject.toml"])
@pytest.mark.parametrize("virtual", ["no build system", "package = false"])
def test_a_project_that_is_no_package_gets_only_its_dependencies(
    deploy: Deploy, source: Path, requirements: str, virtual: str
) -> None:
    text = (source / "pyproject.toml").read_text()
    changed = text.replace("[tool.uv]\n", "[tool.uv]\npackage = false\n")
    (source / "pyproject.toml").write_text(text.replace(BUILD_SYSTEM, "") if "system" in virtual else changed)
    lock(source)
    assert packages(deploy(source, requirements)) == {"gunicorn"}


def test_a_project_in_a_folder_of_the_source_is_installed(deploy: Deploy, source: Path, tmp_path: Path) -> None:
    lock(source)
    shutil.copytree(source, tmp_path / "repository/backend")
    assert packages(deploy(tmp_path / "repository", "backend/uv.lock")) == {"gunicorn", "shop"}


def test_a_dependency_with_another_hash_than_in_the_lock_is_refused(deploy: Deploy, source: Path) -> None:
    lock(source)
    wheel(source / "vendor", "gunicorn", content="print('malware')\n")
    with pytest.raises(BuildError, match=r"uv sync failed:[\s\S]*Hash mismatch"):
        deploy(source, "uv.lock")


def test_the_build_of_a_project_is_never_done_by_the_user_of_the_shared_cache(
    deploy: Deploy, source: Path, log: Path
) -> None:
    lock(source)
    deploy(source, "uv.lock")
    assert [call["user"] for call in calls(log)] == ["uv", "own"]


def test_another_required_python_is_named_with_its_key(deploy: Deploy, source: Path) -> None:
    lock(source)
    for name in ("pyproject.toml", "uv.lock"):
        (source / name).write_text((source / name).read_text().replace(">=3.11", ">=3.99"))
    with pytest.raises(BuildError, match="Set the key python of shop to an interpreter"):
        deploy(source, "uv.lock")
    with pytest.raises(BuildError, match="Set the key python of shop to an interpreter"):
        deploy(source, "pyproject.toml")


@pytest.mark.parametrize("requirements", ["uv.lock", "pyproject.toml", "requirements.txt", "found.txt"])
def test_a_package_with_wheels_of_another_python_names_the_key(deploy: Deploy, source: Path, requirements: str) -> None:
    (source / "vendor/gunicorn-1.0-py3-none-any.whl").unlink()
    found = wheel(source / "vendor", "gunicorn", tag="cp399-cp399-manylinux_2_17_x86_64")
    (source / "requirements.txt").write_text(f"./vendor/{found.name}\n")
    (source / "found.txt").write_text("--no-index\n--find-links vendor\ngunicorn\n")
    text = (source / "pyproject.toml").read_text().replace("gunicorn-1.0-py3-none-any.whl", found.name)
    (source / "pyproject.toml").write_text(text)
    lock(source)
    with pytest.raises(BuildError, match="Set the key python of shop to an interpreter"):
        deploy(source, requirements)


@pytest.mark.parametrize(
    ("requirements", "advice"),
    [
        ("uv.lock", r"Run: uv add gunicorn\. It adds gunicorn to pyproject\.toml and uv\.lock\."),
        ("pyproject.toml", r"Run: uv add gunicorn\. It adds gunicorn to pyproject\.toml\."),
        ("requirements.txt", r"Add it to requirements\.txt\."),
    ],
)
def test_missing_gunicorn_is_named_with_the_file_to_change(
    deploy: Deploy, source: Path, requirements: str, advice: str
) -> None:
    text = (source / "pyproject.toml").read_text().replace('dependencies = ["gunicorn"]', 'dependencies = ["driver"]')
    (source / "pyproject.toml").write_text(text)
    (source / "requirements.txt").write_text("./vendor/driver-1.0-py3-none-any.whl\n")
    lock(source)
    with pytest.raises(BuildError, match=f"gunicorn is not among the dependencies. {advice}"):
        deploy(source, requirements)


# --- the next release -------------------------------------------------------------------------------------------------


def test_with_an_unchanged_lock_the_dependencies_are_hard_links_and_the_project_is_new(
    deploy: Deploy, source: Path
) -> None:
    lock(source)
    first = deploy(source, "uv.lock")
    before = {path.name: path.stat().st_mtime_ns for path in source.iterdir()}
    (source / "src/shop/__init__.py").write_text("def main():\n    print('again')\n")  # as long as before
    (source / "src/shop/old.py").unlink()
    (source / "src/shop/new.py").touch()
    second = deploy(source, "uv.lock")
    assert {path.name: path.stat().st_mtime_ns for path in source.iterdir()} == before
    assert output(second, "shop") == "again"
    assert {path.name for path in module(second, "shop").glob("*.py")} == {"__init__.py", "new.py"}
    assert not list(module(second, "shop").rglob("old.*"))
    assert not list((second / "dependencies").rglob("*shop*"))  # the next release uses these
    assert module(second, "gunicorn.py").stat().st_ino == module(first, "gunicorn.py").stat().st_ino
    assert output(first, "shop") == "first"
    third = deploy(source, "uv.lock")
    assert module(third, "gunicorn.py").stat().st_ino == module(first, "gunicorn.py").stat().st_ino
    assert module(third, "shop/__init__.py").stat().st_ino != module(second, "shop/__init__.py").stat().st_ino


def test_a_library_in_the_source_is_installed_anew_and_not_editable(deploy: Deploy, source: Path) -> None:
    library = BACKEND.replace("shop", "lib")
    (source / "lib/src/lib").mkdir(parents=True)
    (source / "lib/backend.py").write_text(library)
    (source / "lib/src/lib/__init__.py").write_text("def main():\n    print('first')\n")
    (source / "lib/pyproject.toml").write_text(
        PROJECT.partition("dependencies")[0].replace("shop", "lib") + BUILD_SYSTEM
    )
    text = (source / "pyproject.toml").read_text().replace('["gunicorn"]', '["gunicorn", "lib"]')
    (source / "pyproject.toml").write_text(
        text.replace("[tool.uv.sources]\n", '[tool.uv.sources]\nlib = {path = "lib", editable = true}\n')
    )
    lock(source)
    assert output(deploy(source, "uv.lock"), "lib") == "first"
    (source / "lib/src/lib/__init__.py").write_text("def main():\n    print('again')\n")
    release = deploy(source, "uv.lock")
    assert output(release, "lib") == "again"
    assert not list(module(release, ".").glob("*lib*.pth"))


@pytest.mark.parametrize(
    ("options", "requirements"),
    [({"reuse": False}, "uv.lock"), ({"extras": ["postgres"]}, "uv.lock"), ({}, "pyproject.toml")],
    ids=["rebuild", "other extras", "not locked"],
)
def test_dependencies_are_installed_anew(
    deploy: Deploy, source: Path, options: dict[str, Any], requirements: str
) -> None:
    lock(source)
    first = deploy(source, requirements)
    second = deploy(source, requirements, **options)
    assert module(second, "gunicorn.py").stat().st_ino != module(first, "gunicorn.py").stat().st_ino


def test_a_changed_lock_gets_its_own_dependencies(deploy: Deploy, source: Path) -> None:
    lock(source)
    deploy(source, "uv.lock")
    wheel(source / "vendor", "gunicorn", content="def run():\n    print('newer')\n")
    (source / "uv.lock").unlink()
    lock(source)
    assert output(deploy(source, "uv.lock"), "gunicorn") == "newer"


def test_an_unchanged_requirements_file_with_hashes_is_hard_linked_until_an_included_file_changes(
    deploy: Deploy, source: Path
) -> None:
    hashes = {name: sha256(source / f"vendor/{name}-1.0-py3-none-any.whl") for name in ("gunicorn", "driver")}
    (source / "requirements.txt").write_text("-r base.txt\n")
    (source / "base.txt").write_text(f"gunicorn==1.0 \\\n    --hash={hashes['gunicorn']}\n")
    secrets = {"UV_FIND_LINKS": str(source / "vendor"), "UV_NO_INDEX": "1"}
    first = deploy(source, "requirements.txt", secrets)
    second = deploy(source, "requirements.txt", secrets)
    assert module(second, "gunicorn.py").stat().st_ino == module(first, "gunicorn.py").stat().st_ino
    with (source / "base.txt").open("a") as file:
        file.write(f"driver==1.0 \\\n    --hash={hashes['driver']}\n")
    assert packages(deploy(source, "requirements.txt", secrets)) == {"gunicorn", "driver"}


# --- requirements files -----------------------------------------------------------------------------------------------


def test_relative_paths_in_a_requirements_file_mean_the_source_folder(deploy: Deploy, source: Path) -> None:
    (source / "requirements").mkdir()
    (source / "requirements/prod.txt").write_text("-r base.txt\n.\n")
    (source / "requirements/base.txt").write_text("./vendor/gunicorn-1.0-py3-none-any.whl\n")
    release = deploy(source, "requirements/prod.txt")
    assert packages(release) == {"gunicorn", "shop"}
    assert output(release, "shop") == "first"
    (source / "src/shop/__init__.py").write_text("def main():\n    print('again')\n")
    again = deploy(source, "requirements/prod.txt")
    assert output(again, "shop") == "again"
    assert not (again / "source/shop.egg-info").exists()


def test_hashes_are_enforced_in_included_files_too(deploy: Deploy, source: Path) -> None:
    found = sha256(source / "vendor/gunicorn-1.0-py3-none-any.whl")
    (source / "requirements.txt").write_text(f"gunicorn==1.0 \\\n    --hash={found}\n-r more.txt\n")
    (source / "more.txt").write_text("driver==1.0\n")
    with pytest.raises(BuildError, match="uv pip failed"):
        deploy(source, "requirements.txt", {"UV_FIND_LINKS": str(source / "vendor"), "UV_NO_INDEX": "1"})


def test_packages_without_hashes_use_a_cache_for_this_app_alone(deploy: Deploy, source: Path, log: Path) -> None:
    (source / "requirements.txt").write_text("./vendor/gunicorn-1.0-py3-none-any.whl\n")
    deploy(source, "requirements.txt")
    assert [call["user"] for call in calls(log)] == ["own"]


# --- build secrets ----------------------------------------------------------------------------------------------------


def test_build_secrets_reach_uv_and_nothing_else(deploy: Deploy, source: Path, log: Path, tmp_path: Path) -> None:
    place = tmp_path / "s3cret-folder"
    wheel(place, "gunicorn")
    (source / "requirements.txt").write_text("gunicorn\n")
    release = deploy(source, "requirements.txt", {"UV_FIND_LINKS": str(place), "UV_NO_INDEX": "1"})
    assert packages(release) == {"gunicorn"}
    assert calls(log)
    for call in calls(log):
        assert call["mode"] == "0o100600"
        assert "s3cret" not in json.dumps(call["argv"])
        assert call["user"] == "own"  # packages of a private index stay out of the shared cache
    assert not list((tmp_path / "run").iterdir())
    assert not [p for p in release.rglob("*") if p.is_file() and not p.is_symlink() and b"s3cret" in p.read_bytes()]
    assert not (tmp_path / "cache/uv").exists()


def test_the_output_of_a_failed_build_has_no_build_secrets(deploy: Deploy, source: Path) -> None:
    (source / "pyproject.toml").unlink()
    (source / "requirements.txt").write_text("gunicorn\n")
    url = "http://reader:s3cret%21token@127.0.0.1:9/simple/"
    with pytest.raises(BuildError, match="uv pip failed") as caught:
        deploy(source, "requirements.txt", {"UV_DEFAULT_INDEX": url, "UV_HTTP_RETRIES": "0"})
    assert "s3cret" not in str(caught.value)
    assert "http://127.0.0.1:9/simple/gunicorn/" in str(caught.value)


def test_a_build_that_prints_a_secret_does_not_reveal_it(deploy: Deploy, source: Path) -> None:
    (source / "backend.py").write_text("import os\nraise SystemExit('got ' + os.environ['INDEX_TOKEN'])\n")
    lock(source)
    with pytest.raises(BuildError, match="got …"):
        deploy(source, "uv.lock", {"INDEX_TOKEN": "s3cret"})


def test_a_password_in_the_hosts_environment_is_not_an_argument(
    deploy: Deploy, source: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_INDEX_PRIVATE_PASSWORD", "s3cret")
    (source / "requirements.txt").write_text("./vendor/gunicorn-1.0-py3-none-any.whl\n")
    deploy(source, "requirements.txt")
    assert "s3cret" not in log.read_text()


# --- source distributions ---------------------------------------------------------------------------------------------


def test_a_source_distribution_is_built_by_a_user_of_its_own(
    deploy: Deploy, source: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"pyproject.toml": textwrap.dedent(PROJECT.partition("dependencies")[0]) + BUILD_SYSTEM}
    files |= {"backend.py": BACKEND, "src/shop/__init__.py": "def main():\n    print('built')\n"}
    with zipfile.ZipFile(source / "vendor/shop-1.0.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"shop-1.0/{name}", content)
    monkeypatch.setenv("UV_FIND_LINKS", str(source / "vendor"))
    files = {"gunicorn": "gunicorn-1.0-py3-none-any.whl", "shop": "shop-1.0.zip"}
    hashed = [f"{name}==1.0 \\\n    --hash={sha256(source / 'vendor' / file)}\n" for name, file in files.items()]
    (source / "requirements.txt").write_text("".join(hashed))
    release = deploy(source, "requirements.txt")
    assert output(release, "shop") == "built"
    assert [call["user"] for call in calls(log)] == ["uv", "own"]
