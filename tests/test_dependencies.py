"""The file that lists an app's dependencies: the arguments of uv, what counts as locked, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.blueoctopus.site.plugins.module_utils.dependencies import (
    Dependencies,
    DependencyError,
    read_dependencies,
)

HASHED = "flask==3.1.3 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\n    # via -r requirements.in\n"
PROJECT = '[project]\nname = "shop"\nversion = "1.0"\ndependencies = ["Flask_Login>=1", "gunicorn"]\n'
SYSTEM = '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
OPTIONS = '[project.optional-dependencies]\npostgres = ["psycopg"]\n[dependency-groups]\nprod = ["sentry-sdk"]\n'
HASH = 'wheels = [{ url = "x.whl", hash = "sha256:00" }]'
LOCK = f"""version = 1
[[package]]
name = "flask-login"
version = "1.0"
source = {{ registry = "i" }}
{HASH}
[[package]]
name = "gunicorn"
version = "1.0"
source = {{ registry = "i" }}
{HASH}
[[package]]
name = "shop"
version = "1.0"
source = {{ editable = "." }}
"""


def read(folder: Path, requirements: str, files: dict[str, str], **options: list[str]) -> Dependencies:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return read_dependencies(folder, requirements, options.get("extras", []), options.get("groups", []))


def is_locked(folder: Path, text: str, **more: str) -> bool:
    files = {"requirements.txt": text} | {f"{name}.txt": content for name, content in more.items()}
    return bool(read(folder, "requirements.txt", files).lock)


# --- requirements files -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requirements", "locked"),
    [
        (HASHED, True),
        ("# made by uv\n\n" + HASHED + HASHED.replace("flask", "gunicorn[setproctitle]"), True),
        (HASHED.replace("==3.1.3", '==3.1.3 ; python_version >= "3.11"'), True),
        ("flask==3.1.3\n", False),
        (HASHED + "./wheels/own.whl \\\n    --hash=sha256:00\n", False),
        (HASHED + "-r https://example.org/other.txt\n", False),
        ("", False),
    ],
)
def test_only_pinned_dependencies_with_hashes_are_locked(tmp_path: Path, requirements: str, locked: bool) -> None:
    assert is_locked(tmp_path, requirements) is locked


def test_included_files_must_be_locked_too(tmp_path: Path) -> None:
    assert is_locked(tmp_path, "-r base.txt\n", base=HASHED)
    assert is_locked(tmp_path, HASHED + "--requirement=base.txt\n", base=HASHED.replace("flask", "gunicorn"))
    assert not is_locked(tmp_path, HASHED + "-r base.txt\n", base="gunicorn\n")
    assert not is_locked(tmp_path, "-r base.txt\n", base="-r more.txt\n" + HASHED, more="gunicorn==1.0\n")


def test_constraints_need_no_hashes(tmp_path: Path) -> None:
    assert is_locked(tmp_path, HASHED + "-c limits.txt\n", limits="werkzeug<4\n")


def test_a_change_of_any_included_file_changes_the_lock(tmp_path: Path) -> None:
    files = {
        "requirements.txt": "-r base.txt\n" + HASHED + "-c limits.txt\n",
        "base.txt": HASHED,
        "limits.txt": "a<1\n",
    }
    locks = {read(tmp_path, "requirements.txt", files).lock}
    for name in files:
        locks.add(read(tmp_path, "requirements.txt", files | {name: files[name] + "# more\n"}).lock)
    assert len(locks) == 4
    assert "" not in locks


def test_settings_of_uv_beside_a_requirements_file_change_the_lock(tmp_path: Path) -> None:
    locks = [read(tmp_path, "requirements.txt", {"requirements.txt": HASHED}).lock]
    for name, text in {"pyproject.toml": "[tool.uv]\nno-binary = true\n", "uv.toml": "no-binary = true\n"}.items():
        locks.append(read(tmp_path, "requirements.txt", {"requirements.txt": HASHED, name: text}).lock)
    assert len(set(locks)) == 3


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"requirements.txt": HASHED + "-r base.txt\n-c limits.txt\n", "base.txt": HASHED, "limits.txt": "a<1\n"},
        {"pyproject.toml": '[project]\nname = "a"\n[tool.uv]\nexclude-newer = "2026-01-01"\n'},
    ],
)
def test_packages_with_hashes_are_verified(tmp_path: Path, more: dict[str, str]) -> None:
    assert read(tmp_path, "requirements.txt", {"requirements.txt": HASHED} | more).verified


# Without hashes, or with something that lets uv build a package, write to another folder, or fetch from another server.
@pytest.mark.parametrize(
    "more",
    [
        {"requirements.txt": "flask\n"},
        {"requirements.txt": HASHED + "--no-binary flask\n"},
        {"requirements.txt": HASHED + "-r base.txt\n", "base.txt": "--trusted-host pypi.org\n" + HASHED},
        {"requirements.txt": HASHED + "-c limits.txt\n", "limits.txt": "--no-binary flask\n"},
        {"uv.toml": "no-cache = true\n"},
        {"uv.toml": '[pip]\ntarget = "/var/cache/uv/simple"\n'},
        {"uv.toml": 'https-proxy = "http://127.0.0.1:1"\nallow-insecure-host = ["pypi.org"]\n'},
        {"pyproject.toml": "[tool.uv]\nno-cache = true\n"},
        {"pyproject.toml": '[[tool.uv.index]]\nurl = "https://example.org/simple"\n'},
    ],
)
def test_packages_without_hashes_or_with_settings_of_uv_are_not_verified(tmp_path: Path, more: dict[str, str]) -> None:
    assert not read(tmp_path, "requirements.txt", {"requirements.txt": HASHED} | more).verified


def test_files_that_include_each_other_are_read_once(tmp_path: Path) -> None:
    files = {"requirements.txt": "-r base.txt\n", "base.txt": "-r requirements.txt\n" + HASHED}
    assert read(tmp_path, "requirements.txt", files).files == {"requirements.txt", "base.txt"}


def test_hashes_are_required_when_any_file_has_one(tmp_path: Path) -> None:
    assert "--require-hashes" in read(tmp_path, "requirements.txt", {"requirements.txt": HASHED}).command
    included = {"requirements.txt": "flask\n-r base.txt\n", "base.txt": HASHED}
    assert "--require-hashes" in read(tmp_path, "requirements.txt", included).command
    assert "--require-hashes" not in read(tmp_path, "requirements.txt", {"requirements.txt": "flask\n"}).command
    spaced = {"requirements.txt": "flask==3.1.3 --hash sha256:00\n"}
    assert "--require-hashes" in read(tmp_path, "requirements.txt", spaced).command


def test_an_included_file_is_relative_to_the_file_that_includes_it(tmp_path: Path) -> None:
    files = {
        "requirements/prod.txt": "-rbase.txt\n-c ../limits.txt\n",
        "requirements/base.txt": "a\n",
        "limits.txt": "",
    }
    assert read(tmp_path, "requirements/prod.txt", files).files == set(files)


@pytest.mark.parametrize("name", ["none.txt", "../outside.txt", "/etc/hostname"])
def test_a_file_that_is_not_in_the_source_cannot_be_included(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside.txt").touch()
    with pytest.raises(DependencyError, match=r"requirements.txt, line 2: '-r \S+' includes a file that is not in the"):
        read(tmp_path / "app", "requirements.txt", {"requirements.txt": f"flask\n-r {name}\n"})


@pytest.mark.parametrize("line", ["-e .", "--editable=./lib", "-e git+https://example.org/a.git#egg=a"])
def test_an_editable_install_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    files = {"requirements.txt": "-r base.txt\n", "base.txt": f"# comment\n\n{line}\n"}
    with pytest.raises(DependencyError, match=r"base\.txt, line 3: '.*' is an editable install.* Write it without -"):
        read(tmp_path, "requirements.txt", files)


@pytest.mark.parametrize(
    ("line", "copied"),
    [
        (".", True),
        ("./lib[extra]", True),
        ("vendor/own-1.0.whl", True),
        ("own @ file:lib", True),
        ("own @ ./lib ; python_version > '3'", True),
        ("flask", False),
        ("own @ https://example.org/own-1.0.zip", False),
        ("lib/own", True),
        ("-r ./base.txt", False),
        ("--index-url https://example.org/simple", False),
    ],
)
def test_uv_builds_what_is_in_the_source_in_a_copy_of_it(tmp_path: Path, line: str, copied: bool) -> None:
    files = {"requirements.txt": f"{line}\n", "base.txt": "", "lib/own/pyproject.toml": ""}
    assert read(tmp_path, "requirements.txt", files).copied is copied


# --- projects ---------------------------------------------------------------------------------------------------------


def project(folder: Path, requirements: str = "uv.lock", text: str = PROJECT, lock: str = LOCK, **options: Any) -> Any:
    return read(folder, requirements, {"pyproject.toml": text, "uv.lock": lock}, **options)


def test_a_lock_is_installed_as_it_is(tmp_path: Path) -> None:
    found = project(tmp_path, text=PROJECT + SYSTEM + OPTIONS, extras=["Postgres"], groups=["prod"])
    assert found.command[0] == "sync"
    assert {"--frozen", "--no-editable", "--no-dev", "--extra=Postgres", "--group=prod"} <= set(found.command)
    assert found.project
    assert found.lock


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (HASH, 'wheels = [{ path = "x.whl" }]'),
        (f'source = {{ registry = "i" }}\n{HASH}', 'source = { directory = "lib" }'),
        (f'source = {{ registry = "i" }}\n{HASH}', 'source = { editable = "packages/lib" }'),
    ],
    ids=["no hash", "folder", "member of a workspace"],
)
def test_a_lock_with_content_that_may_change_is_not_a_fixed_one(tmp_path: Path, old: str, new: str) -> None:
    assert LOCK.count(old) == 2
    assert not project(tmp_path, lock=LOCK.replace(old, new, 1)).lock


def test_a_lock_with_a_commit_is_fixed(tmp_path: Path) -> None:
    git = 'source = { git = "https://example.org/a.git#c0ffee" }'
    assert project(tmp_path, lock=LOCK.replace(f'source = {{ registry = "i" }}\n{HASH}', git, 1)).lock


def test_everything_that_changes_the_packages_changes_the_lock(tmp_path: Path) -> None:
    text = PROJECT + OPTIONS
    locks = [
        project(tmp_path, text=text).lock,
        project(tmp_path, text=text, extras=["postgres"]).lock,
        project(tmp_path, text=text, groups=["prod"]).lock,
        project(tmp_path, text=text, lock=LOCK + "# more\n").lock,
        project(tmp_path, text=text + "[tool.uv]\nno-binary = true\n").lock,
    ]
    (tmp_path / "uv.toml").write_text("no-binary = true\n")
    locks.append(project(tmp_path, text=text).lock)
    assert len(set(locks)) == len(locks)
    (tmp_path / "uv.toml").unlink()
    assert project(tmp_path, text=text + "[tool.ruff]\nline-length = 120\n").lock == locks[0]


def test_settings_of_uv_above_a_project_change_its_lock(tmp_path: Path) -> None:
    files = {"backend/pyproject.toml": PROJECT, "backend/uv.lock": LOCK}
    locks = {read(tmp_path, "backend/uv.lock", files).lock}
    for name, text in {"pyproject.toml": "[tool.uv]\nno-binary = true\n", "uv.toml": "no-binary = true\n"}.items():
        found = read(tmp_path, "backend/uv.lock", files | {name: text})
        locks.add(found.lock)
        assert not found.verified
    assert len(locks) == 3


def test_a_lock_is_verified_without_commits_and_without_settings_of_uv(tmp_path: Path) -> None:
    assert project(tmp_path, text=PROJECT + SYSTEM).verified
    assert not project(tmp_path, text=PROJECT + "[tool.uv]\nno-cache = true\n").verified
    assert not project(tmp_path, lock=LOCK.replace(HASH, 'wheels = [{ path = "x.whl" }]', 1)).verified
    git = 'source = { git = "https://example.org/a.git#c0ffee" }'
    assert not project(tmp_path, lock=LOCK.replace(f'source = {{ registry = "i" }}\n{HASH}', git, 1)).verified


def test_a_project_without_a_lock_is_never_locked_or_verified(tmp_path: Path) -> None:
    found = project(tmp_path, "pyproject.toml")
    assert (found.lock, found.verified) == ("", False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PROJECT, False),
        (PROJECT + SYSTEM, True),
        (PROJECT + SYSTEM + "[tool.uv]\npackage = false\n", False),
        (PROJECT + "[tool.uv]\npackage = true\n", True),
    ],
)
def test_the_settings_of_uv_decide_whether_a_project_is_a_package(tmp_path: Path, text: str, expected: bool) -> None:
    assert project(tmp_path, text=text).project is expected


def test_a_dependency_that_the_lock_does_not_have_is_named(tmp_path: Path) -> None:
    text = PROJECT.replace('"gunicorn"', '"gunicorn", "redis>=5"')
    with pytest.raises(DependencyError, match=r"uv\.lock is out of date: it does not have redis\. Run: uv lock"):
        project(tmp_path, text=text)
    project(tmp_path, text=text.replace("redis>=5", "pywin32; sys_platform == 'win32'"))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (
            {"extras": ["mysql"]},
            r"The key 'extras' has mysql, which is not in .* of pyproject\.toml\. It has postgres\.",
        ),
        ({"groups": ["test"]}, r"The key 'groups' has test, which is not in .* of pyproject\.toml\. It has prod\."),
    ],
)
def test_an_unknown_extra_or_group_is_named_with_the_known_ones(tmp_path: Path, options: Any, error: str) -> None:
    with pytest.raises(DependencyError, match=error):
        project(tmp_path, text=PROJECT + OPTIONS, **options)


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"uv.lock": LOCK}, "There is no pyproject.toml beside uv.lock"),
        ({"uv.lock": LOCK, "pyproject.toml": "[project\n"}, "pyproject.toml is not valid TOML"),
        ({"uv.lock": "= 1", "pyproject.toml": PROJECT}, "uv.lock is not valid TOML"),
        ({"uv.lock": LOCK, "pyproject.toml": SYSTEM}, r"pyproject.toml has no table \[project\]"),
        ({"uv.lock": LOCK, "pyproject.toml": "[tool.poetry.dependencies]\n"}, "Run: poetry export"),
    ],
)
def test_an_incomplete_project_is_refused(tmp_path: Path, files: dict[str, str], error: str) -> None:
    with pytest.raises(DependencyError, match=error):
        read(tmp_path, "uv.lock", files)


@pytest.mark.parametrize(
    ("requirements", "export"),
    [("poetry.lock", "Run: poetry export"), ("back/Pipfile.lock", "Run: pipenv requirements")],
)
def test_the_lock_of_another_tool_is_refused_with_the_command_to_export_it(
    tmp_path: Path, requirements: str, export: str
) -> None:
    with pytest.raises(DependencyError, match=export):
        read(tmp_path, requirements, {requirements: "[[package]]\n"})
